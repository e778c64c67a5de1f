"""Folders of frames that come to the service as one tar."""

from __future__ import annotations

import base64
import errno
import io
import json
import os
import shutil
import subprocess
import tarfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_extract.errors import InputError, InterruptedRunError, OutputError
from gpu_extract.jobs.extract import extract
from gpu_extract.storage.atomic import sync_folder
from tests.helpers import face_entry, files_in, image_bytes, noise, write_pickled
from tests.serving import Service

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from gpu_extract.service import unpacking
from gpu_extract.service.unpacking import Unpacking, is_packed

TUS = {"Tus-Resumable": "1.0.0"}
FILES = {"b_2.png": b"two" * 400, "a_1.png": b"", "ü 3.jpg": b"3" * 512}


def entry(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, **fields: Any) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.size, made.type = size, kind
    for field, value in fields.items():
        setattr(made, field, value)
    return made


def packed(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=form) as archive:
        for member, content in members:
            archive.addfile(member, io.BytesIO(content))
    return data.getvalue()


def plain(files: dict[str, bytes], before: str = "", form: int = tarfile.PAX_FORMAT) -> bytes:
    return packed(*((entry(before + name, len(data)), data) for name, data in files.items()), form=form)


class Place:
    """A job's folder as the door leaves it."""

    def __init__(self, folder: Path) -> None:
        self.inputs, self.frames = folder / "in", folder / "in" / "frames"
        self.archive = folder / "packed" / "frames.tar"
        self.inputs.mkdir()
        self.archive.parent.mkdir()

    def unpack(self, data: bytes | None = None, stopped: Callable[[], bool] = lambda: False) -> dict[str, bytes]:
        if data is not None:
            self.archive.write_bytes(data)
        Unpacking().frames(self.archive, self.frames, stopped)
        return files_in(self.frames)

    def assert_untouched(self) -> None:
        assert self.archive.is_file()
        assert list(self.inputs.iterdir()) == []


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("before", ["", "./", "pictures/", "home/me/pictures/", "/home/me/"])
def test_files_of_one_folder_are_unpacked_and_the_tar_goes(place: Place, form: int, before: str) -> None:
    assert place.unpack(plain(FILES, before, form)) == FILES
    assert list(place.inputs.iterdir()) == [place.frames]
    assert not place.archive.parent.exists()
    assert place.unpack() == FILES, "done again it is done"


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_of_either_form_are_taken(place: Place, form: int) -> None:
    files = {"x" * 196 + ".png": b"long", "ä" * 98 + ".png": b"wide"}
    assert place.unpack(plain(files, "pictures/", form)) == files


@pytest.mark.skipif(shutil.which("tar") is None, reason="there is no tar")
@pytest.mark.parametrize("form", ["gnu", "pax", "ustar"])
def test_what_tar_makes_of_a_folder_is_taken(place: Place, tmp_path: Path, form: str) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    files = {**FILES, "y" * 90 + ".png": b"long"}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / ".DS_Store").write_bytes(b"hidden")
    subprocess.run(["tar", "c", f"--format={form}", "-C", folder, "-f", place.archive, "."], check=True)
    assert place.unpack() == files


def test_hidden_files_and_those_that_macos_puts_beside_others_are_left_out(place: Place) -> None:
    extra = {"._a_1.png": b"resource", ".hidden.png": b"", "a_1.png": b"one"}
    assert place.unpack(plain(extra, "pictures/")) == {"a_1.png": b"one"}


HOLES = entry("a.png", 512)
HOLES.pax_headers = {"GNU.sparse.realsize": "999999999999"}


def raw(kind: bytes, size: int, data: bytes = b"") -> bytes:
    return entry("././@LongLink", size, kind).tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


GOOD = plain({"a.png": b"one"})
LONG_NAME = raw(tarfile.GNUTYPE_LONGNAME, 3, b"abc")
HOSTILE = {
    "a path upwards": (plain({"../a.png": b""}), "no name of a file"),
    "a path upwards inside": (plain({"x/../../a.png": b""}), "no name of a file"),
    "two folders": (plain({"a/1.png": b"", "b/2.png": b""}), "in two folders"),
    "a folder inside": (plain({"1.png": b"", "faces/2.png": b""}), "in two folders"),
    "the same name": (plain({"1.png": b"", "./1.png": b""}), "two files of it are named '1.png'"),
    "a backslash": (plain({"x\\1.png": b""}), "no name that a file has here"),
    "a control letter": (plain({"\x1b[2J.png": b""}), r"'\\x1b\[2J.png' is no name"),
    "a device of Windows": (plain({"con.png": b""}), "no name that a file has here"),
    "a name that is no text": (plain({"\udcff.png": b""}), r"'\\udcff.png' is no name"),
    "a name too long": (plain({"x" * 201: b""}), "no name that a file has here"),
    "a name far too long": (plain({"x" * 5000: b""}), "too long"),
    "a symbolic link": (packed((entry("a.png", kind=tarfile.SYMTYPE, linkname="/etc/passwd"), b"")), "is a link"),
    "a hard link": (packed((entry("a.png", kind=tarfile.LNKTYPE, linkname="../../request.json"), b"")), "is a link"),
    "a long link": (
        packed((entry("a.png", kind=tarfile.SYMTYPE, linkname="/" + "x" * 200), b""), form=tarfile.GNU_FORMAT),
        "is a link",
    ),
    "a device": (packed((entry("a.png", kind=tarfile.CHRTYPE), b"")), "is a device"),
    "a pipe": (packed((entry("a.png", kind=tarfile.FIFOTYPE), b"")), "is a named pipe"),
    "a sparse file": (packed((entry("a.png", 0, tarfile.GNUTYPE_SPARSE), b"")), "with holes"),
    "a sparse file of POSIX": (packed((HOLES, bytes(512))), "with holes"),
    "an unknown kind": (packed((entry("a.png", kind=b"Z"), b"")), "something else"),
    "a global header": (raw(tarfile.XGLTYPE, 512, bytes(512)) + GOOD, "something else"),
    "a folder with bytes": (raw(tarfile.DIRTYPE, 1 << 40) + GOOD, "something else"),
    "a bomb of a long name": (raw(tarfile.GNUTYPE_LONGNAME, 1 << 40) + GOOD, "not understood"),
    "long names without end": (LONG_NAME * 1000 + GOOD, "not understood"),
    "a bomb of a header": (raw(tarfile.XHDTYPE, 1 << 40) + GOOD, "not understood"),
    "a header of nothing": (raw(tarfile.XHDTYPE, 0) + GOOD, "not understood"),
    "records that are none": (raw(tarfile.XHDTYPE, 512, b"99 path=x\n" + bytes(502)) + GOOD, "not understood"),
    "a negative size": (raw(tarfile.XHDTYPE, 12, b"12 size=-10\n") + GOOD, "not understood"),
    "a file beyond the end": (entry("a.png", 1 << 40).tobuf(tarfile.GNU_FORMAT) + bytes(1024), "ends before its end"),
    "a size beyond all": (raw(tarfile.XHDTYPE, 28, b"28 size=999999999999999999\n\n") + GOOD, "not understood"),
    "cut in a file": (GOOD[:700], "ends before its end"),
    "cut behind a file": (GOOD[:1024], "ends before its end"),
    "cut in a header": (GOOD[:1024] + GOOD[:100], "ends before its end"),
    "a header and no file": (raw(tarfile.GNUTYPE_LONGNAME, 3, b"abc") + bytes(1024), "not understood"),
    "something behind the end": (GOOD + GOOD, "something follows its end"),
    "nothing": (b"", "ends before its end"),
    "no files": (bytes(10240), "holds no files"),
    "hidden files alone": (plain({".a.png": b""}), "holds no files"),
    "compressed": (b"\x1f\x8b\x08" + bytes(2000), "no tar, or a compressed one"),
    "noise": (noise(100, 100).tobytes(), "no tar, or a compressed one"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_no_plain_folder_is_refused_with_a_sentence_and_leaves_nothing(place: Place, what: str) -> None:
    data, why = HOSTILE[what]
    with pytest.raises(InputError, match=why) as caught:
        place.unpack(data)
    sentence = str(caught.value)
    assert sentence.isprintable()
    assert sentence.startswith("the archive of frames is refused: ")
    assert sentence.endswith(".")
    assert len(sentence) < 400
    place.assert_untouched()


def test_any_byte_changed_is_read_or_refused(place: Place) -> None:
    whole = plain({"ä.png": b"one", "b" * 120: b"two"}, form=tarfile.PAX_FORMAT)
    rng = np.random.default_rng(5)
    for at in rng.choice(len(whole) - 8192, 400, replace=False):
        changed = bytearray(whole)
        changed[at] ^= 1 << rng.integers(8)
        place.archive.parent.mkdir(exist_ok=True)
        try:
            place.unpack(bytes(changed))
        except InputError:
            place.assert_untouched()
        else:
            assert len(list(place.frames.iterdir())) <= 2
            shutil.rmtree(place.frames)


def test_too_many_files_are_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "MOST_MEMBERS", 2)
    with pytest.raises(InputError, match="more than 2 files"):
        place.unpack(plain(FILES))
    place.assert_untouched()


def test_a_long_name_of_the_folder_takes_its_room_once(tmp_path: Path) -> None:
    count, deep = 1000, "d/" * 2000
    archive = tmp_path / "deep.tar"
    archive.write_bytes(plain({f"{number}.png": b"" for number in range(count)}, deep))
    with archive.open("rb") as file:
        tracemalloc.start()
        try:
            files = unpacking._checked(unpacking._members(file, lambda: False))
            taken, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert len(files) == count
    assert taken < count * 1000


@pytest.mark.parametrize("looks", [0, 1, 3, 4, 5, 6])
def test_it_can_be_stopped_between_files_and_done_again(place: Place, looks: int) -> None:
    left = iter([False] * looks)
    with pytest.raises(InterruptedRunError):
        place.unpack(plain(FILES), stopped=lambda: next(left, True))
    place.assert_untouched()
    assert place.unpack() == FILES


def test_it_can_be_stopped_within_a_file(place: Place) -> None:
    def begun() -> bool:
        return any(path.stat().st_size for path in place.frames.parent.glob("frames.part-*/*"))

    with pytest.raises(InterruptedRunError):
        place.unpack(plain({"a.png": bytes(5 << 20)}), stopped=begun)
    assert not place.frames.exists()
    assert place.unpack().keys() == {"a.png"}


@pytest.mark.parametrize("at", ["write", "rename", "close"])
def test_a_full_disk_leaves_nothing_and_is_no_fault_of_the_tar(
    place: Place, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def refuse(*_: object) -> None:
        raise full

    with monkeypatch.context() as patch:
        if at == "write":
            patch.setattr(unpacking, "_copy", refuse)
        elif at == "rename":
            patch.setattr(Path, "rename", refuse)
        else:
            patch.setattr(os, "sync", refuse)
        with pytest.raises(OutputError, match="could not be unpacked: no space left"):
            place.unpack(plain(FILES))
    place.assert_untouched()
    assert place.unpack() == FILES


def test_what_has_no_room_is_not_begun(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 100

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage)
    with pytest.raises(OutputError, match="less is free"):
        place.unpack(plain(FILES))
    place.assert_untouched()


@pytest.mark.parametrize("moment", range(6))
def test_a_kill_at_any_moment_is_only_done_again(place: Place, monkeypatch: pytest.MonkeyPatch, moment: int) -> None:
    """A kill is an end behind which nothing is tidied up."""
    place.archive.write_bytes(plain(FILES))
    moments = iter(range(100))

    def die(real: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **named: Any) -> Any:
            if next(moments) == moment:
                os._exit(9)
            return real(*args, **named)

        return called

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(unpacking, "_copy", die(unpacking._copy))
        monkeypatch.setattr(Path, "rename", die(Path.rename))
        monkeypatch.setattr(unpacking, "sync_folder", die(sync_folder))
        monkeypatch.setattr(shutil, "rmtree", die(shutil.rmtree))
        place.unpack()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert place.archive.exists()
    assert not place.frames.exists() or files_in(place.frames) == FILES
    assert place.unpack() == FILES
    assert list(place.inputs.iterdir()) == [place.frames]
    assert not place.archive.parent.exists()


def test_shards_that_want_it_at_once_have_it_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.archive.write_bytes(plain(FILES))
    real, begun = unpacking._unpack, []

    def slow(*args: Any) -> None:
        begun.append(args)
        time.sleep(0.2)
        real(*args)

    monkeypatch.setattr(unpacking, "_unpack", slow)
    turns = Unpacking()
    threads = [threading.Thread(target=turns.frames, args=(place.archive, place.frames, bool)) for _ in range(4)]
    for thread in threads:
        thread.start()
    while not begun:
        time.sleep(0.01)
    with pytest.raises(InterruptedRunError):  # who waits for the others can be stopped, too
        turns.frames(place.archive, place.frames, lambda: True)
    for thread in threads:
        thread.join(10)
    assert len(begun) == 1
    assert files_in(place.frames) == FILES


def test_only_tars_are_folders() -> None:
    assert is_packed("frames.tar")
    assert is_packed("FRAMES.TAR")
    assert not any(is_packed(name) for name in ("tar", "clip.mp4", "frames.tar.gz", "a.tar.png"))


# ---- by the service


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, landmarks: np.ndarray) -> Path:
    """A folder of images, one of which is damaged, and `a.fsa` of them beside it."""
    root = tmp_path_factory.mktemp("pictures")
    folder = root / "pictures"
    folder.mkdir()
    small = ((landmarks - landmarks.mean(axis=0)) * 0.25 + (40, 36)).astype(np.float32)
    for number in range(7):
        (folder / f"p_{number}.png").write_bytes(image_bytes(".png", noise(76, 90, seed=number)))
    (folder / "p_3.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    write_pickled(root / "a.fsa", {f"p_{number}.png": [face_entry(small)] for number in range(7)})
    return root


@pytest.fixture
def service(tmp_path: Path, pictures: Path) -> Iterator[Callable[..., Service]]:
    made: list[Service] = []

    def start(*options: str) -> Service:
        made.append(Service(tmp_path / f"data{len(made)}", {"here": pictures}, ("--devices=cpu,cpu", *options)))
        return made[-1].start()

    yield start
    for one in made:
        with one:
            pass


def upload(service: Service, name: str, data: bytes) -> str:
    named = base64.b64encode(name.encode()).decode()
    said = {**TUS, "Upload-Length": str(len(data)), "Upload-Metadata": f"filename {named}"}
    where = service.ask("POST", "/v1/uploads", headers=said).headers["location"]
    more = {**TUS, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
    assert service.ask("PATCH", where, data, more, seconds=60).status == 204
    return where.rpartition("/")[2]


def put(service: Service, job: str, frames: str, alignments: Any = None, **rest: Any) -> Any:
    body = {"alignments": alignments or {"root": "here", "path": "a.fsa"}, "frames": {"upload": frames}, **rest}
    answer = service.ask("PUT", f"/v1/jobs/{job}", body)
    assert answer.status == 201, answer.body
    return answer.json


def folder_of(service: Service, job: str) -> Path:
    return service.data / "jobs" / job


def request_of(service: Service, job: str) -> Any:
    return json.loads((folder_of(service, job) / "request.json").read_text())


def tar_of(folder: Path) -> bytes:
    return plain({path.name: path.read_bytes() for path in sorted(folder.iterdir())}, "./", tarfile.GNU_FORMAT)


@pytest.mark.parametrize("shards", [1, 3])
def test_a_tar_makes_what_the_folder_makes(
    service: Callable[..., Service], pictures: Path, tmp_path: Path, shards: int
) -> None:
    here = service()
    frames = upload(here, "pictures.tar", tar_of(pictures / "pictures"))
    put(here, "one", frames, options={"size": 48}, shards=shards)
    assert request_of(here, "one")["shown"]["frames"] == "pictures"
    assert here.wait("one")["state"] == "partial"
    alignments = tmp_path / "a.fsa"
    shutil.copyfile(pictures / "a.fsa", alignments)
    report = extract(alignments, pictures / "pictures", tmp_path / "faces", size=48, device="cpu")
    assert files_in(folder_of(here, "one") / "faces") == files_in(tmp_path / "faces")
    assert here.ask("GET", "/v1/jobs/one/alignments").body == alignments.read_bytes()
    assert here.ask("GET", "/v1/jobs/one/report").json["errors"] == report.errors
    assert not (folder_of(here, "one") / "packed").exists()
    assert [path.name for path in (folder_of(here, "one") / "in").iterdir() if path.is_dir()] == ["frames"]


def test_a_hostile_tar_fails_its_job_with_the_sentence(service: Callable[..., Service]) -> None:
    here = service()
    put(here, "bad", upload(here, "frames.tar", HOSTILE["a symbolic link"][0]))
    found = here.wait("bad")
    assert (found["state"], found["exit_code"]) == ("failed", 3)
    assert found["error"] == "the archive of frames is refused: 'a.png' is a link; only ordinary files are taken."
    put(here, "worse", upload(here, "frames.tar", HOSTILE["a name that is no text"][0]))
    assert here.wait("worse")["exit_code"] == 3


def test_an_alignments_file_may_have_any_name_but_that_of_the_frames(
    service: Callable[..., Service], pictures: Path
) -> None:
    here = service()
    data = (pictures / "a.fsa").read_bytes()
    frames = upload(here, "x.tar", tar_of(pictures / "pictures"))
    put(here, "same", frames, {"upload": upload(here, "x.tar", data)})
    assert here.wait("same")["exit_code"] in (4, 7)
    body = {"alignments": {"upload": upload(here, "frames", data)}, "frames": {"upload": frames}}
    answer = here.ask("PUT", "/v1/jobs/other", body)
    assert answer.status == 422
    assert "rename it" in answer.json["detail"]


def big_tar(count: int = 3000) -> bytes:
    return plain({f"t_{number:05d}.png": image_bytes(".png", noise(8, 8, seed=number % 7)) for number in range(count)})


def test_a_service_that_is_killed_while_it_unpacks_goes_on(service: Callable[..., Service]) -> None:
    here = service()
    frames = upload(here, "many.tar", big_tar())
    put(here, "killed", frames)
    inputs = folder_of(here, "killed") / "in"
    until = time.monotonic() + 20
    while not list(inputs.glob("frames*")):
        assert time.monotonic() < until
    here.kill()
    here.start()
    found = here.wait("killed")  # none of its frames is in the alignments file
    assert "the archive" not in str(found["error"])
    assert len(list((inputs / "frames").iterdir())) == 3000
    assert {path.name for path in inputs.iterdir()} == {"a.fsa", "frames"}
    assert not (inputs.parent / "packed").exists()


def test_a_job_is_cancelled_while_it_unpacks_and_resumed(service: Callable[..., Service]) -> None:
    here = service()
    put(here, "many", upload(here, "many.tar", big_tar()))
    inputs = folder_of(here, "many") / "in"
    until = time.monotonic() + 20
    while not list(inputs.glob("frames*")):
        assert time.monotonic() < until
    assert here.ask("POST", "/v1/jobs/many/cancel").status == 202
    assert here.wait("many", seconds=10)["state"] == "cancelled"
    assert not list(inputs.glob("frames.part-*"))
    assert here.ask("POST", "/v1/jobs/many/resume").status == 202
    assert here.wait("many")["state"] in ("failed", "partial", "succeeded")
    assert len(list((inputs / "frames").iterdir())) == 3000
