"""`submit`, `health` and `gpu_extract.client` against a real server, and against what a hostile or broken one says."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tarfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_extract.cli import main
from gpu_extract.client import Client, archive, fetch, inbox, inputs, memory, saving, server
from gpu_extract.client import uploads as uploading
from gpu_extract.client.archive import EndedError, members
from gpu_extract.client.arrived import Arrived
from gpu_extract.client.events import Event, tell
from gpu_extract.client.fetch import Fetching
from gpu_extract.client.listing import check_inside
from gpu_extract.client.packing import Packed
from gpu_extract.client.server import Address, CutError, Server
from gpu_extract.client.wish import place as place_of
from gpu_extract.errors import DeviceError, GpuExtractError, InputError, OutputError, UsageError
from gpu_extract.run import journal
from gpu_extract.run.failures import Kept, kept
from gpu_extract.run.progress import FrameDone, Note, Planned
from gpu_extract.storage.parts import TEMPORARY_PREFIX
from tests.helpers import extract_command, files_in, write_clip

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

FRAMES, LONG = 14, 300
SIZE = (120, 160)


# ---- a server, and what it is asked


class Service:
    """`gpu-extract serve` in a process of its own, which may be killed and started again at the same address."""

    def __init__(self, folder: Path, root: Path, *options: str) -> None:
        self.folder, self._root, self._options = folder, root, options
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self.said = folder.with_name(f"{folder.name}.log")

    def start(self, *, wait: bool = True) -> None:
        words = ["serve", "--data", self.folder, "--root", f"foot={self._root}", "--port", self.port, "--reserve-mb", 0]
        with self.said.open("ab") as said:
            command = [sys.executable, "-m", "gpu_extract", *map(str, words), *self._options]
            self._process = subprocess.Popen(command, stdout=said, stderr=said)
        until = time.monotonic() + 30
        while wait and main(["health", self.url, "-q"]) != 0:
            assert time.monotonic() < until, self.said.read_text()
            assert self._process.poll() is None, self.said.read_text()
            time.sleep(0.05)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(20)


class Place:
    """A folder with a copy of an alignments file, where a run is made."""

    def __init__(self, folder: Path, alignments: Path, frames: Path) -> None:
        folder.mkdir()
        self.folder, self.frames = folder, frames
        self.alignments = Path(shutil.copyfile(alignments, folder / "a.fsa"))
        self.before = self.alignments.read_bytes()
        self.faces = folder / "faces"

    def submit(self, url: str, *options: object) -> int:
        return main(self.words(url, *options))

    def words(self, url: str, *options: object) -> list[str]:
        given = ("-a", self.alignments, "-fr", self.frames, "-fc", self.faces, "-sz", 64, "--progress", "none")
        return ["submit", url, *map(str, (*given, *options))]

    def extract(self, *options: object) -> int:
        return main(extract_command(self.alignments, self.frames, self.faces, "-sz", 64, *options))

    def left(self) -> dict[str, Any]:
        """All that a run left, but for the time of the back-up copy and the order of the journal's frames."""
        found: dict[str, Any] = dict(files_in(self.faces)) if self.faces.exists() else {}
        found["alignments"] = self.alignments.read_bytes()
        found["copies"] = [path.read_bytes() for path in self.folder.glob("a_*.fsa")]
        if (self.faces / journal.NAME).exists():
            lines = (self.faces / journal.NAME).read_bytes().splitlines()
            found["journal"] = [lines[0], *sorted(line for line in lines[1:] if b"settled" not in line)]
        return found


class Material:
    """Two clips, a folder of images and alignments files of all; what a run here leaves of the longer clip."""

    def __init__(self, folder: Path, landmarks: np.ndarray) -> None:
        from gpu_extract.demo.clip import face_record, write_alignments

        self.folder = folder
        points = (landmarks - landmarks.min(0)) / np.ptp(landmarks, 0).max() * 60 + 20
        self.clip = write_clip(folder / "clip.mp4", FRAMES, SIZE)
        self.long = write_clip(folder / "long.mp4", LONG, SIZE)
        self.of_long = folder / "long.fsa"
        write_alignments(
            self.of_long, {f"long_{number:06d}.png": [face_record(points + 10)] for number in range(1, LONG + 1)}
        )
        self.images = folder / "pictures"
        self.images.mkdir()
        import cv2

        for number in range(1, 4):
            cv2.imwrite(str(self.images / f"p_{number:03d}.png"), np.full((*SIZE, 3), 40 * number, np.uint8))
        self.of_clip, self.of_images = folder / "clip.fsa", folder / "pictures.fsa"
        faces = {number: [face_record(points + number + k) for k in range(2)] for number in range(1, FRAMES + 1)}
        write_alignments(self.of_clip, {f"clip_{number:06d}.png": faces[number] for number in faces})
        write_alignments(self.of_images, {f"p_{number:03d}.png": faces[number] for number in range(1, 4)})
        self.long_here = Place(folder / "long here", self.of_long, self.long)
        assert self.long_here.extract() == 0


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory, landmarks: np.ndarray) -> Material:
    return Material(tmp_path_factory.mktemp("material"), landmarks)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, material: Material) -> Iterator[Service]:
    made = Service(tmp_path_factory.mktemp("service") / "data", material.folder)
    made.start()
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("GPU_EXTRACT_TOKEN", raising=False)
    monkeypatch.setattr(server, "PAUSES_SECONDS", (0.05, 0.1, 0.2))


@pytest.fixture
def place(tmp_path: Path, material: Material) -> Place:
    return Place(tmp_path / "there", material.of_clip, material.clip)


@pytest.fixture
def here(tmp_path: Path, material: Material) -> Place:
    return Place(tmp_path / "here", material.of_clip, material.clip)


def assert_as_if_it_ran_here(place: Place, here: Place, *, killed: bool = False) -> None:
    """After a kill between a copy and what is remembered of it there is one more of these, as after a run here."""
    left = place.left()
    if killed:
        left["copies"] = [*dict.fromkeys(left["copies"])]
    assert left == here.left()
    assert main(["verify", *map(str, ("-a", place.alignments, "-fr", place.frames, "-fc", place.faces))]) == 0


# ---- as if it ran here


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--output-layout", "by-frame", "--metadata", "jsonl"),
        pytest.param(("--output-layout", "webdataset"), marks=pytest.mark.slow),
        pytest.param(("-een", "3", "--format", "jpg", "--quality", "80"), marks=pytest.mark.slow),
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_what_is_left_is_what_a_run_here_leaves(
    options: tuple[str, ...], service: Service, place: Place, here: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here.extract(*options) == 0
    table = capsys.readouterr().out
    assert place.submit(service.url, *options) == 0
    told = capsys.readouterr().out
    assert [line[:30] for line in told.splitlines() if line.startswith(("faces", "frames", "hashes"))] == [
        line[:30].replace("/here", "/there")[:30]
        for line in table.splitlines()
        if line.startswith(("faces", "frames", "hashes"))
    ]
    assert "hard link" not in told
    assert_as_if_it_ran_here(place, here)
    assert main(extract_command(place.alignments, place.frames, place.faces, "-sz", 64, "--resume", *options)) == 0
    assert place.left() == here.left()


def test_a_folder_of_images_keeps_its_name_in_the_journal(service: Service, material: Material, tmp_path: Path) -> None:
    there = Place(tmp_path / "there", material.of_images, material.images)
    here = Place(tmp_path / "here", material.of_images, material.images)
    assert (here.extract(), there.submit(service.url)) == (0, 0)
    assert_as_if_it_ran_here(there, here)
    with Client(service.url) as client:
        uploads = client.server.ask("GET", "/v1/uploads").json()
    assert not [upload for upload in uploads if upload["name"].startswith("p_")], "they would fill the user's share"


def test_files_of_the_server_are_named_by_root(
    service: Service, place: Place, here: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here.extract() == 0
    words = ["-a", "foot:clip.fsa", "-fr", "foot:clip.mp4", "-fc", str(place.faces), "-sz", "64", "--progress", "none"]
    assert main(["submit", service.url, *words]) == 0
    assert "--alignments-out FILE brings it here" in capsys.readouterr().out
    assert files_in(place.faces) == files_in(here.faces)
    out = tmp_path / "out.fsa"
    words[5] = str(tmp_path / "faces")
    assert main(["submit", service.url, *words, "--alignments-out", str(out)]) == 0
    assert out.read_bytes() == here.alignments.read_bytes()
    words[5] = str(tmp_path / "more")
    out.write_bytes(b"something else")
    assert main(["submit", service.url, *words, "--alignments-out", str(out)]) == 6
    assert out.read_bytes() == b"something else"


def test_a_file_here_goes_before_a_root_of_its_name(
    service: Service, material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(material.of_images, "foot:clip.fsa")
    assert isinstance(place_of("foot:clip.fsa"), Path)
    assert str(place_of("foot:clip.mp4")) == "foot:clip.mp4"
    with pytest.raises(InputError, match="ROOT:path"):
        place_of("clip.mp4")
    with pytest.raises(UsageError, match="of this machine only"):
        place_of("s3://bucket/clip.mp4")


def test_no_update_leaves_the_file(service: Service, place: Place) -> None:
    assert place.submit(service.url, "--no-update") == 0
    assert place.alignments.read_bytes() == place.before
    assert list(place.folder.glob("a_*")) == []
    assert (place.faces / journal.NAME).exists()


def test_a_dry_run_writes_nothing(service: Service, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert place.submit(service.url, "--dry-run") == 0
    assert "nothing was written" in capsys.readouterr().out
    assert sorted(path.name for path in place.folder.iterdir()) == ["a.fsa"]
    assert place.submit(service.url) == 0


def test_frames_that_fail_are_told_with_the_exit_code_of_a_run(
    service: Service, material: Material, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = Path(shutil.copytree(material.images, tmp_path / "pictures"))
    (images / "p_002.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    there = Place(tmp_path / "there", material.of_images, images)
    here = Place(tmp_path / "here", material.of_images, images)
    assert (here.extract(), there.submit(service.url, "--json", there.folder / "r.json")) == (4, 4)
    assert there.left() == here.left()
    assert kept(there.faces) == kept(here.faces) != Kept()
    report = json.loads((there.folder / "r.json").read_text())
    assert [error["frame"] for error in report["errors"]] == ["p_002.png"]
    assert report["faces_folder"] == str(there.faces)
    assert "p_002.png" in capsys.readouterr().out
    assert there.submit(service.url, "--json", there.folder / "r.json", "--partial-ok") == 0


def test_what_the_server_refuses_has_the_exit_code_of_a_run(
    service: Service, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.alignments.write_bytes(b"no alignments file")
    assert place.submit(service.url) == 7
    assert "a.fsa" in capsys.readouterr().err
    assert not place.faces.exists() or not list(place.faces.iterdir())
    place.alignments.write_bytes(place.before)  # made good: the same command is another job
    assert place.submit(service.url) == 0


def test_what_the_server_decides_is_refused_by_name(
    service: Service, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (("--workers", "2"), ("--resume",), ("--device", "cpu"), ("--shard", "0/2"), ("--cache", "x")):
        assert place.submit(service.url, *words) == 2
        assert f"{words[0]}: the server decides that" in capsys.readouterr().err
    assert place.submit(service.url, "--size", "7") == 2
    assert place.submit("gopher://x") == 2


# ---- the same command again


def test_the_same_command_again_is_the_same_job(service: Service, place: Place) -> None:
    assert place.submit(service.url) == 0
    left = place.left()
    with Client(service.url) as client:
        jobs = [job.id for job in client.jobs()]
        assert place.submit(service.url) == 0
        assert [job.id for job in client.jobs()] == jobs
    assert place.left() == left
    assert place.submit(service.url, "-sz", 96) == 6, "the folder holds another run"
    assert place.left() == left


def test_detached_and_fetched_later(
    service: Service, place: Place, here: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here.extract() == 0
    capsys.readouterr()
    assert place.submit(service.url, "--detach") == 0
    job = capsys.readouterr().out.strip()
    assert main(["submit", service.url, "--job", job, "-fc", str(place.faces), "--progress", "none"]) == 0
    assert_as_if_it_ran_here(place, here)
    elsewhere = place.folder / "elsewhere"
    assert main(["submit", service.url, "--job", job, "-fc", str(elsewhere), "--progress", "none"]) == 0
    assert files_in(elsewhere) == files_in(place.faces)
    assert main(["submit", service.url, "--job", "nobody", "-fc", str(place.folder / "x")]) == 3


def test_a_folder_that_is_not_empty_is_refused_before_anything_is_sent(service: Service, place: Place) -> None:
    place.faces.mkdir()
    (place.faces / "mine.txt").write_text("keep")
    with Client(service.url) as client:
        before = len(list(client.jobs()))
        assert place.submit(service.url) == 6
        assert len(list(client.jobs())) == before
    assert files_in(place.faces) == {"mine.txt": b"keep"}


def in_a_process(work: Callable[[], int]) -> int:
    """The exit code of some work in a fork of this process, which may end as by a kill."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        child = os.fork()
    if child == 0:
        code = 70
        try:
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


DIED = 99


def dying(at: int, place: Place, url: str, came: Path) -> int:
    put = inbox.Inbox.put

    def counted(self: inbox.Inbox, member: archive.Member) -> None:
        with came.open("a") as log:
            log.write(f"{member.name}\n")
        put(self, member)

    inbox.Inbox.put = counted  # type: ignore[method-assign]
    Deaths(at).everywhere()
    return place.submit(url, "-q")


class Deaths:
    """Ends this process at the n-th of the moments between which something changes, here or at the server."""

    def __init__(self, at: int) -> None:
        self._left = at

    def __call__(self) -> None:
        self._left -= 1
        if self._left == 0:
            os._exit(DIED)

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def dying(*words: Any, **more: Any) -> Any:
            self()
            found = function(*words, **more)
            self()
            return found

        return dying

    def everywhere(self) -> None:
        server.Server._send = self.around(server.Server._send)  # type: ignore[method-assign]
        memory.Memory.keep = self.around(memory.Memory.keep)  # type: ignore[method-assign]
        inbox.Inbox.put = self.around(inbox.Inbox.put)  # type: ignore[method-assign]
        Arrived.add = self.around(Arrived.add)  # type: ignore[method-assign]
        Arrived.settle = self.around(Arrived.settle)  # type: ignore[method-assign]
        for module in (saving, fetch):
            module.write_whole = self.around(module.write_whole)  # type: ignore[attr-defined]
        saving.backup_copy = self.around(saving.backup_copy)  # type: ignore[attr-defined]


@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_every_moment_and_run_again(
    step: int, service: Service, place: Place, here: Place, tmp_path: Path
) -> None:
    assert here.extract() == 0
    code, died = DIED, 0
    while code == DIED:
        died += step
        code = in_a_process(partial(dying, died, place, service.url, tmp_path / "came"))
    assert code == 0
    assert died > 60, "each kill was a step later"
    times = Counter((tmp_path / "came").read_text().splitlines())
    assert len(times) == 2 * FRAMES
    assert max(times.values()) <= 2
    assert_as_if_it_ran_here(place, here, killed=True)


# ---- faces come while the job runs


class Walk:
    """A clip of some length, and one submission of it, which is looked at in the middle."""

    def __init__(self, folder: Path, material: Material, service: Service) -> None:
        self.place = Place(folder / "there", material.of_long, material.long)
        self.here = material.long_here
        self._service = service

    @contextlib.contextmanager
    def begun(self, *options: object) -> Iterator[subprocess.Popen[str]]:
        """The submission, when some faces are here, and their maker sleeps."""
        command = [sys.executable, "-m", "gpu_extract", *self.place.words(self._service.url, *options)]
        before = {path.name for path in (self._service.folder / "jobs").glob("*")}
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as run:
            try:
                with self._asleep(before):
                    self._wait(lambda: bool(self.faces))
                    time.sleep(0.2)
                    yield run
                    run.wait(60)
            finally:
                run.kill()

    @contextlib.contextmanager
    def _asleep(self, before: set[str]) -> Iterator[None]:
        jobs = self._service.folder / "jobs"

        def has_begun() -> bool:
            journals = [path for path in jobs.glob(f"*/faces/{journal.NAME}*") if path.parts[-3] not in before]
            return sum(path.read_bytes().count(b'"faces"') for path in journals) > 20

        self._wait(has_begun)
        self._send(signal.SIGSTOP)
        try:
            yield
        finally:
            self._send(signal.SIGCONT)

    def wake(self) -> None:
        self._send(signal.SIGCONT)

    def _send(self, number: signal.Signals) -> None:
        for path in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if (
                    path.name.isdecimal()
                    and os.fsencode(self._service.folder / "jobs") in (path / "cmdline").read_bytes()
                ):
                    os.kill(int(path.name), number)

    def _wait(self, done: Callable[[], bool]) -> None:
        until = time.monotonic() + 30
        while not done():
            assert time.monotonic() < until
            time.sleep(0.005)

    @property
    def job(self) -> str:
        record = memory.Memory().record(self.place.faces)
        assert record is not None
        return record.job

    @property
    def faces(self) -> list[Path]:
        """Those that are whole: another may be half written."""
        return sorted(path for path in self.place.faces.glob("*.png") if not path.name.startswith(TEMPORARY_PREFIX))

    def finish(self) -> None:
        """The same command again leaves what a run here leaves."""
        assert self.place.submit(self._service.url) == 0
        assert_as_if_it_ran_here(self.place, self.here)
        assert list((self.place.folder.parent / "state").rglob("*.log")) == []


@pytest.fixture
def walk(tmp_path: Path, material: Material, service: Service) -> Walk:
    return Walk(tmp_path, material, service)


def test_faces_come_while_the_job_runs(service: Service, walk: Walk) -> None:
    with walk.begun() as run, Client(service.url) as client:
        assert client.job(walk.job).state == "running"
        assert 0 < len(walk.faces) < LONG
        assert not (walk.place.faces / journal.NAME).exists()
        assert walk.place.alignments.read_bytes() == walk.place.before
        walk.wake()
        assert run.wait(60) == 0
    walk.finish()


def test_a_kill_while_the_job_runs(walk: Walk) -> None:
    with walk.begun() as run:
        run.kill()
    assert 0 < len(walk.faces) < LONG
    assert not (walk.place.faces / journal.NAME).exists()
    walk.finish()


def test_a_job_that_is_cancelled_leaves_its_faces_and_goes_on(service: Service, walk: Walk) -> None:
    with walk.begun() as run, Client(service.url) as client:
        client.job(walk.job).cancel()
        walk.wake()
        assert run.stderr is not None
        said = run.stderr.read()
    assert run.returncode == 130
    assert f"the job {walk.job} was cancelled; run the same command again" in said
    assert f"Of what it had made, {len(walk.faces):,} faces are in {walk.place.faces}." in said
    walk.finish()


def test_a_job_that_is_removed_meanwhile_is_told_and_made_again(service: Service, walk: Walk) -> None:
    with walk.begun() as run, Client(service.url) as client:
        run.send_signal(signal.SIGSTOP)
        job = client.job(walk.job)
        job.cancel()
        walk.wake()
        job.wait()
        client.server.ask("DELETE", f"/v1/jobs/{job.id}")
        run.send_signal(signal.SIGCONT)
        assert run.stderr is not None
        said = run.stderr.read()
    assert run.returncode == 3
    assert f"the job {job.id} was removed from {service.url}; the same command makes it again. Of what" in said
    walk.finish()


def test_faces_that_somebody_takes_away_meanwhile_stay_away(service: Service, walk: Walk) -> None:
    with walk.begun() as run:
        gone = walk.faces[:3]
        for path in gone:
            path.unlink()
        run.send_signal(signal.SIGINT)
        assert run.wait(30) == 130
    for _ in range(2):
        assert walk.place.submit(service.url) == 0
        assert files_in(walk.here.faces).keys() - files_in(walk.place.faces).keys() == {path.name for path in gone}
    assert walk.place.alignments.read_bytes() == walk.here.alignments.read_bytes()


def test_a_folder_that_was_emptied_is_filled_again(walk: Walk) -> None:
    with walk.begun() as run:
        run.kill()
    shutil.rmtree(walk.place.faces)
    walk.finish()


def test_another_command_for_a_folder_that_is_being_filled_is_refused(
    service: Service, walk: Walk, capsys: pytest.CaptureFixture[str]
) -> None:
    with walk.begun() as run:
        run.kill()
    assert walk.place.submit(service.url, "-sz", 96) == 6
    assert "which was asked for otherwise" in capsys.readouterr().err
    walk.finish()


def test_shards_that_are_merged_meanwhile_are_fetched_once(
    service: Service, walk: Walk, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = inbox.Inbox.put
    came: list[str] = []

    def counted(self: inbox.Inbox, member: archive.Member) -> None:
        came.append(member.name)
        put(self, member)

    monkeypatch.setattr(inbox.Inbox, "put", counted)
    with Client(service.url) as client:
        job = client.submit(walk.place.alignments, walk.place.frames, options={"size": 64}, shards=3)
    words = ["submit", service.url, "--job", job.id, "-fc", str(walk.place.faces), "--progress", "none"]
    assert main(words) == 0
    assert files_in(walk.place.faces) == files_in(walk.here.faces)
    assert max(Counter(came).values()) == 1
    assert (
        main(["verify", *map(str, ("-a", walk.here.alignments, "-fr", walk.place.frames, "-fc", walk.place.faces))])
        == 0
    )


def test_the_progress_is_that_of_a_run_here(service: Service, walk: Walk) -> None:
    command = [sys.executable, "-m", "gpu_extract", *walk.place.words(service.url, "--progress", "jsonl", "-sz", "512")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    counts = [json.loads(line) for line in said.splitlines() if line.startswith('{"frames"')]
    assert len(counts) > 2
    assert counts[-1] == {"frames": LONG, "of": LONG, "faces": LONG, "left": 0.0}
    assert [one["frames"] for one in counts] == sorted(one["frames"] for one in counts)


def test_a_tar_of_some_files_holds_these_and_nothing_else(service: Service, material: Material) -> None:
    with Client(service.url) as client:
        job = client.submit(material.of_clip, material.clip, options={"size": 16})
        job.wait()
        names = [
            face["file"] for face in map(json.loads, client.server.ask("GET", f"{job._path}/faces").body.splitlines())
        ]

        def sent(*asked: str) -> list[str]:
            answer = client.server.ask("POST", f"{job._path}/faces.tar", body=asked)
            with tarfile.open(fileobj=io.BytesIO(answer.body)) as found:
                return found.getnames()

        assert sent(*reversed(names)) == names[::-1]
        assert sent(names[0], journal.NAME) == [names[0], journal.NAME]
        strange = [
            "../request.json",
            "/etc/passwd.png",
            "nobody.png",
            "a\0.png",
            "\udcff.png",
            ".part-x.png",
            "",
            "x" * 5000,
        ]
        assert sent(*strange, f"../faces/{names[0]}", names[1]) == [names[1]]
        for refused in ([], ["x.png"] * 1001):
            with pytest.raises(GpuExtractError, match="list should have"):
                sent(*refused)


@pytest.mark.parametrize("place_of_images", ["root", "here"])
def test_frames_that_failed_are_tried_again_by_the_same_command(
    place_of_images: str, service: Service, material: Material, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = Path(shutil.copytree(material.images, material.folder / f"{tmp_path.name}"))
    good = (images / "p_002.png").read_bytes()
    (images / "p_002.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    there = Place(tmp_path / "there", material.of_images, images)
    here = Place(tmp_path / "here", material.of_images, images)
    words = there.words(service.url)
    if place_of_images == "root":
        words[words.index("-fr") + 1] = f"foot:{images.name}"
    assert (here.extract(), main(words)) == (4, 4)
    capsys.readouterr()
    if place_of_images == "root":
        (images / "p_002.png").write_bytes(good)
    assert here.extract("--resume") == main(words) == (0 if place_of_images == "root" else 4)
    assert "p_002.png" not in there.faces.name
    assert files_in(there.faces) == files_in(here.faces)
    assert [error["frame"] for error in kept(there.faces).errors] == (
        [] if place_of_images == "root" else ["p_002.png"]
    )
    assert there.alignments.read_bytes() == here.alignments.read_bytes()
    copies = len(list(here.folder.glob("a_*.fsa")))
    assert len(list(there.folder.glob("a_*.fsa"))) == copies
    assert main(words) == (0 if place_of_images == "root" else 4)
    with Client(service.url) as client:
        record = memory.Memory().record(there.faces)
        assert record is not None
        client.server.ask("DELETE", f"/v1/jobs/{record.job}")
    assert main(words) == (0 if place_of_images == "root" else 4), "what is here is here without the job"


def test_what_came_last_before_a_power_cut_is_proved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faces, log = tmp_path / "faces", tmp_path / "faces.log"
    faces.mkdir()
    arrived = Arrived(faces, log)
    for number in range(6):
        (faces / f"{number}.png").write_bytes(b"face%d" % number)
        arrived.add(f"{number}.png", hashlib.sha256(b"face%d" % number).hexdigest())
        if number == 2:
            arrived.settle()
    monkeypatch.setattr("gpu_extract.client.arrived.sync_file_system", lambda folder: False)
    arrived.close()
    (faces / "0.png").unlink()
    (faces / "3.png").write_bytes(bytes(5))
    (faces / "4.png").unlink()
    for torn in (b"", b"0000", b'00000000 {"came": "9.png"}\n'):
        whole = log.read_bytes()
        log.write_bytes(whole + torn)
        again = Arrived(faces, log)
        assert [name for name in (f"{number}.png" for number in range(10)) if name in again] == [
            *("0.png", "1.png", "2.png", "5.png")
        ]
        again.close()
        assert log.read_bytes() == whole


@pytest.mark.slow
def test_killed_from_outside_while_the_server_is_killed_too(
    material: Material, tmp_path: Path, place: Place, here: Place
) -> None:
    assert here.extract() == 0
    service = Service(tmp_path / "data", material.folder)
    service.start()
    try:
        random.seed(4)
        command = [sys.executable, "-m", "gpu_extract", *place.words(service.url, "-q", "--patience", 60)]
        for _ in range(2):
            with subprocess.Popen(command) as run:
                time.sleep(random.uniform(0.4, 1.5))
                service.kill()
                time.sleep(0.1)
                run.kill()
            service.start()
        with subprocess.Popen(command) as run:
            time.sleep(0.8)
            service.kill()
            service.start()
            assert run.wait(40) == 0
        assert_as_if_it_ran_here(place, here)
    finally:
        service.stop()


def test_ctrl_c_leaves_the_job_or_cancels_it(service: Service, place: Place, here: Place) -> None:
    assert here.extract() == 0
    for words, state in (
        ((), {"queued", "running", "finishing", "succeeded"}),
        (("--cancel-on-interrupt",), {"cancelled", "cancelling"}),
    ):
        command = [sys.executable, "-c", CTRL_C, *place.words(service.url, *words)]
        run = subprocess.run(command, capture_output=True, text=True)
        assert run.returncode == 130, run.stderr
        record = memory.Memory().record(place.faces)
        assert record is not None
        assert f"job {record.job}" in run.stderr
        with Client(service.url) as client:
            assert client.job(record.job).state in state
        if not words:
            memory.Memory().forget(place.faces)
            place.alignments.write_bytes(place.before)
    assert place.submit(service.url, "--cancel-on-interrupt") == 0
    assert_as_if_it_ran_here(place, here)


CTRL_C = """
import os, signal, sys
from gpu_extract.client import fetch
from gpu_extract.cli import main
def listed(*words):
    os.kill(os.getpid(), signal.SIGINT)
    raise AssertionError("it went on")
fetch.listed = listed
sys.exit(main(sys.argv[1:]))
"""


# ---- what is in the way


class CuttingProxy:
    """Hands on what comes, and ends every connection after a number of bytes, a little later each time."""

    def __init__(self, port: int, first: int, more: int) -> None:
        self._target, self._room, self._more = port, first, more
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.cuts = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                one, _ = self._listening.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), one, socket.create_connection(("127.0.0.1", self._target)) as other:
                self._hand_on(one, other)

    def _hand_on(self, one: socket.socket, other: socket.socket) -> None:
        import select

        left = self._room
        while left > 0:
            for ready in select.select([one, other], [], [])[0]:
                data = ready.recv(min(left, 4096))
                left -= len(data)
                if not data:
                    return
                (other if ready is one else one).sendall(data)
        self._room += self._more
        self.cuts += 1

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(10)


def test_a_way_that_is_cut_again_and_again(
    service: Service, place: Place, here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploading, "PIECE_BYTES", 5000)
    monkeypatch.setattr(server, "PAUSES_SECONDS", (0.01,))
    assert here.extract() == 0
    proxy = CuttingProxy(service.port, 3000, 400)
    try:
        assert place.submit(proxy.url) == 0
        assert proxy.cuts > 10
    finally:
        proxy.close()
    assert_as_if_it_ran_here(place, here)


def test_a_server_that_stays_away_ends_it_with_a_sentence(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    assert place.submit(url, "--patience", "0.5") == 5
    assert "run the same command again to go on" in capsys.readouterr().err


def test_a_token_is_needed_and_may_come_in_three_ways(
    material: Material,
    tmp_path: Path,
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from gpu_extract.service.access import Tokens

    data = tmp_path / "data"
    data.mkdir()
    secret = Tokens.make(data / "tokens.toml", "anna", ["read", "submit"])
    service = Service(data, material.folder)
    service.start()
    try:
        assert place.submit(service.url) == 2
        assert "GPU_EXTRACT_TOKEN" in capsys.readouterr().err
        monkeypatch.setenv("GPU_EXTRACT_TOKEN", "wrong")
        assert place.submit(service.url) == 2
        said = capsys.readouterr()
        assert "wrong" not in said.err + said.out
        assert place.submit(f"{service.url}/#token={secret}", "--detach") == 0
        monkeypatch.setenv("GPU_EXTRACT_TOKEN", secret)
        assert place.submit(service.url, "--detach") == 0
        monkeypatch.delenv("GPU_EXTRACT_TOKEN")
        (tmp_path / "token").write_text(f"{secret}\n")
        assert place.submit(service.url, "--token-file", tmp_path / "token") == 0
        said = capsys.readouterr()
        assert secret not in said.err + said.out
        assert all(secret.encode() not in path.read_bytes() for path in (tmp_path / "state").rglob("*.json"))
    finally:
        service.stop()


def test_a_file_that_changed_meanwhile_is_not_overwritten(
    service: Service, place: Place, here: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here.extract() == 0
    assert place.submit(service.url, "--detach") == 0
    changed = here.before + b"\0"
    place.alignments.write_bytes(changed)
    for _ in range(2):
        assert place.submit(service.url) == 7
        assert "was changed since it was sent" in capsys.readouterr().err
        assert place.alignments.read_bytes() == changed
        assert [path.read_bytes() for path in place.folder.glob("a_*")] == [here.alignments.read_bytes()]
    assert files_in(place.faces) == files_in(here.faces)


def test_a_full_disk_ends_it_and_the_same_command_goes_on(
    service: Service, place: Place, here: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here.extract() == 0
    written = 0

    def full(handle: int, data: bytes) -> None:
        nonlocal written
        written += len(data)
        if written > 40_000:
            raise OSError(28, "No space left on device")
        os.write(handle, data)

    with monkeypatch.context() as patched:
        patched.setattr(inbox, "write_all", full)
        assert place.submit(service.url) == 6
    assert "run the same command again to go on" in capsys.readouterr().err
    assert not list(place.faces.glob(".part-*"))
    assert not (place.faces / journal.NAME).exists()
    assert place.alignments.read_bytes() == place.before
    assert place.submit(service.url) == 0
    assert_as_if_it_ran_here(place, here)


def test_a_disk_that_is_too_small_is_told_before(
    service: Service, place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Full:
        f_bavail, f_frsize = 1, 4096

    monkeypatch.setattr(os, "statvfs", lambda path: Full)
    assert place.submit(service.url) == 6
    assert "the faces that come next need" in capsys.readouterr().err


# ---- folders of images, which are one tar


def pictures(folder: Path, sizes: Mapping[str, int]) -> Path:
    folder.mkdir()
    for name, size in sizes.items():
        (folder / name).write_bytes(random.Random(name).randbytes(size))
    return folder


NAMES = {
    "a.png": 1000,
    "b.PNG": 0,
    "c.jpg": 512,
    "Grüße aus Köln.png": 700,
    "x" * 196 + ".png": 513,
    "ü" * 98 + ".jpg": 100,
}


def test_a_tar_is_the_same_from_whatever_place_it_is_read(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "my pictures", NAMES)
    for other in (".hidden.png", "notes.txt"):
        (folder / other).write_bytes(b"other")
    packed = Packed(folder)
    whole = b"".join(packed.blocks(0, packed.size))
    assert (packed.name, len(whole)) == ("my pictures.tar", packed.size)
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        found = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    assert found == {name: (folder / name).read_bytes() for name in NAMES}
    assert list(found) == sorted(NAMES)
    again = Packed(Path(shutil.copytree(folder, tmp_path / "again" / "my pictures")))
    assert b"".join(again.blocks(0, again.size)) == whole
    assert again.identity == packed.identity
    for offset in [*range(0, len(whole), 97), len(whole) - 1, len(whole)]:
        assert b"".join(packed.blocks(offset, 600)) == whole[offset : offset + 600]


def test_a_tar_is_sent_in_blocks_however_small_its_files_are(tmp_path: Path) -> None:
    packed = Packed(pictures(tmp_path / "many", {f"{number:04d}.png": 10 for number in range(1000)}))
    blocks = list(packed.blocks(100, packed.size - 100))
    assert sum(map(len, blocks)) == packed.size - 100
    assert len(blocks) == 4


@pytest.mark.parametrize("change", ["longer", "shorter", "other bytes", "gone", "a folder", "one more"])
def test_a_folder_that_changes_is_a_sentence_and_no_tar(tmp_path: Path, change: str) -> None:
    folder = pictures(tmp_path / "pictures", {"a.png": 700, "b.png": 1 << 20})
    packed = Packed(folder)
    path = folder / "b.png"
    if change == "longer":
        path.write_bytes(path.read_bytes() + b"1")
    elif change == "shorter":
        os.truncate(path, 1000)
    elif change == "other bytes":
        path.write_bytes(bytes(1 << 20))
    elif change == "one more":
        (folder / "c.png").write_bytes(b"")
    else:
        path.unlink()
        if change == "a folder":
            path.mkdir()

    def send() -> None:
        for _ in packed.blocks(0, packed.size):
            pass
        packed.check()

    with pytest.raises(InputError) as caught:
        send()
    assert str(caught.value).endswith(".")
    assert str(folder) in str(caught.value)


def test_a_file_that_changes_under_the_readers_hands_is_not_whole(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pictures", {"a.png": 4 << 20})
    packed = Packed(folder)
    blocks = packed.blocks(0, packed.size)
    sent = [next(blocks)]
    with (folder / "a.png").open("r+b") as file:
        file.write(b"changed")
    with pytest.raises(InputError, match="changed while its folder was uploaded"):
        sent.extend(blocks)
    assert sum(map(len, sent)) < 4 << 20


def test_a_folder_without_images_and_names_that_are_no_text_are_told(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pictures", {"notes.txt": 3})
    with pytest.raises(InputError, match="holds no images"):
        Packed(folder)
    (folder / os.fsdecode(b"\xff.png")).write_bytes(b"")
    with pytest.raises(InputError, match=r"\\udcff.png has a name that is no text"):
        Packed(folder)


@pytest.mark.parametrize("piece", [700, 1536])
def test_a_folder_goes_on_inside_a_file_of_it(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(uploading, "PIECE_BYTES", piece)
    folder = pictures(tmp_path / "pictures", NAMES)
    real = uploading._piece
    sent: list[int] = []
    cuts = iter([3])

    def cut(*words: Any) -> int:
        if len(sent) == 3 and next(cuts, None):
            raise KeyboardInterrupt
        sent.append(words[3])
        return real(*words)

    with Client(service.url) as client:
        known = uploading.begin(client.server, "pictures.tar", Packed(folder).size)
        monkeypatch.setattr(uploading, "_piece", cut)
        with pytest.raises(KeyboardInterrupt):
            client.upload(folder, known)
        assert client.upload(folder, known) == known
    whole = b"".join(Packed(folder).blocks(0, 1 << 20))
    assert sent == list(range(0, len(whole), piece))
    assert (service.folder / "uploads" / known).read_bytes() == whole


def test_a_folder_is_one_upload_that_is_gone_once_the_job_has_it(
    service: Service, material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Place(tmp_path / "there", material.of_images, material.images)
    here = Place(tmp_path / "here", material.of_images, material.images)
    names = []
    real = uploading.begin

    def begin(asked: Server, name: str, size: int) -> str:
        names.append(name)
        return real(asked, name, size)

    monkeypatch.setattr(inputs, "begin", begin)
    with Client(service.url) as client:
        before = {one["id"] for one in client.server.ask("GET", "/v1/uploads").json()}
    assert (here.extract(), there.submit(service.url)) == (0, 0)
    assert_as_if_it_ran_here(there, here)
    assert sorted(names) == ["a.fsa", "pictures.tar"]
    with Client(service.url) as client:
        left = {one["id"] for one in client.server.ask("GET", "/v1/uploads").json()} - before
    assert len(left) == 1, "the alignments file"


def test_a_folder_that_changed_since_it_was_sent_in_part_is_sent_anew(
    service: Service, material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = Path(shutil.copytree(material.images, tmp_path / "pictures"))
    place = Place(tmp_path / "there", material.of_images, images)
    real = uploading._piece

    def change(*words: Any) -> int:
        if words[2].name == "pictures.tar":
            (images / "p_003.png").write_bytes((images / "p_001.png").read_bytes())
        return real(*words)

    with monkeypatch.context() as patch:
        patch.setattr(uploading, "_piece", change)
        assert place.submit(service.url) == 3
    assert place.submit(service.url) == 0
    with Client(service.url) as client:
        job = next(client.jobs())
        there = service.folder / "jobs" / job.id / "in" / "frames"
    assert files_in(there) == files_in(images)


def test_two_at_once_for_one_folder_exclude_each_other(
    service: Service, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    with memory.Memory().alone(place.faces):
        assert place.submit(service.url) == 6
        assert "another gpu-extract submit works on" in capsys.readouterr().err
    assert place.submit(service.url) == 0


def test_what_is_old_is_forgotten_and_what_is_torn_is_none(place: Place) -> None:
    known = memory.Memory()
    known.keep(place.faces, memory.Record({}, "j", brought=True))
    assert known.record(place.faces) == memory.Record({}, "j", brought=True)
    (record,) = (place.folder.parent / "state").rglob("submission-*.json")
    for torn in (b"", b"{", b"[]", b'{"job": "j"}', b'{"other": 1}', b"\xff"):
        record.write_bytes(torn)
        assert known.record(place.faces) is None
    os.utime(record, (1, 1))
    other = place.folder / "other"
    with known.alone(other):
        assert not record.exists()


# ---- Python


def test_python_has_the_same(service: Service, place: Place, here: Place) -> None:
    assert here.extract() == 0
    told: list[Any] = []
    with Client(service.url) as client:
        job = client.submit(place.alignments, place.frames, options={"size": 64}, job="of-python")
        assert client.submit(place.alignments, place.frames, options={"size": 65}, job="of-other-python").id != job.id
        job.wait(told.append)
        assert job.state == "succeeded"
        job.fetch(place.faces)
        assert files_in(place.faces) == files_in(here.faces)
        assert job.alignments() == here.alignments.read_bytes()
        assert job.report().faces_written == 2 * FRAMES
        job.cancel()
        assert client.job("of-python").state == "succeeded"
        assert client.find("of-nobody") is None
        with pytest.raises(InputError, match="no job"):
            client.job("of-nobody")
        with pytest.raises(OutputError, match="holds an earlier run"):
            job.fetch(place.faces)
    planned = [event for event in told if isinstance(event, Planned)]
    done = [event for event in told if isinstance(event, FrameDone)]
    assert planned == [Planned(FRAMES, 0)]
    assert sorted(event.position for event in done) == list(range(FRAMES))
    assert {event.frame for event in done} == {f"clip_{number:06d}" for number in range(1, FRAMES + 1)}


def test_an_upload_goes_on_where_it_was(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploading, "PIECE_BYTES", 1000)
    path = tmp_path / "some.bin"
    path.write_bytes(random.Random(1).randbytes(5500))
    sent: list[int] = []
    with Client(service.url) as client:
        real = uploading._piece

        def piece(*words: Any) -> int:
            sent.append(words[3])
            if len(sent) == 3:
                raise KeyboardInterrupt
            return real(*words)

        known = uploading.begin(client.server, path.name, 5500)
        monkeypatch.setattr(uploading, "_piece", piece)
        with pytest.raises(KeyboardInterrupt):
            client.upload(path, known)
        assert client.upload(path, known) == known
        assert sent == [0, 1000, 2000, 2000, 3000, 4000, 5000]
        assert client.upload(path, "0" * 32) != known, "one that is gone is begun anew"
        path.write_bytes(b"shorter")
        assert client.upload(path, known) != known, "another file's"


# ---- hostile answers


class Hostile:
    """A server that has one job, and answers with what a test gives it."""

    def __init__(self) -> None:
        self.faces: list[dict[str, Any]] = []
        self.tar = self.last = b""
        self.wanted = b""
        self.asked: list[tuple[str, str, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.asked.append((self.command, self.path, self.headers.get("Authorization")))
                path = self.path.partition("?")[0]
                outer.wanted = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                body, status, more = outer.answer(path)
                self.send_response(status)
                kind = "application/json" if status < 400 else "application/problem+json"
                for name, value in {"Content-Length": str(len(body)), "Content-Type": kind, **more}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_PUT = do_HEAD = do_PATCH = do_GET  # noqa: N815

            def log_message(self, format: str, *words: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *words: None  # type: ignore[method-assign]
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def answer(self, path: str) -> tuple[bytes, int, dict[str, str]]:
        if path == "/v1/jobs/j":
            return json.dumps({"id": "j", "state": "succeeded"}).encode(), 200, {}
        if path == "/v1/jobs/j/faces":
            return "".join(json.dumps(face) + "\n" for face in self.faces).encode(), 200, {}
        if path == "/v1/jobs/j/faces.tar":
            return self.last if journal.NAME.encode() in self.wanted else self.tar, 200, {}
        return b"{}", 404, {}

    def wrap(self, context: ssl.SSLContext) -> None:
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = self.url.replace("http:", "https:")

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


@pytest.fixture
def hostile() -> Iterator[Hostile]:
    made = Hostile()
    yield made
    made.close()


def face(name: str, data: bytes = b"face") -> dict[str, Any]:
    return {"file": name, "frame": 0, "index": 0, "sha1": "0" * 40, "bytes": len(data)}


def entry(name: str, data: bytes = b"face", kind: bytes = tarfile.REGTYPE, **how: Any) -> bytes:
    made = tarfile.TarInfo(name)
    made.type, made.size = kind, how.pop("size", len(data))
    for key, value in how.items():
        setattr(made, key, value)
    return made.tobuf(tarfile.PAX_FORMAT) + data + bytes(-len(data) % 512)


def journal_of(*faces: dict[str, Any]) -> bytes:
    rows = [[number, 0, one["file"], one["sha1"], one["bytes"]] for number, one in enumerate(faces)]
    lines = [journal.line({"journal": 1, "settings": {}})]
    lines += [journal.line({"frame": number, "faces": [row]}) for number, row in enumerate(rows)]
    return b"".join(lines)


END = bytes(1024)


@pytest.mark.parametrize(
    "name",
    [
        *("../x.png", "/etc/x.png", "a/../../x.png", "a//x.png", ".", "..", "", "a/..", ".hidden/x.png", "x\0.png"),
        *(journal.NAME, ".part-x.png", "a/.gpu-extract.journal", "/".join("abcdefghijk"), "y" * 256),
    ],
)
def test_names_that_lead_elsewhere_are_refused(name: str, hostile: Hostile, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="refused"):
        check_inside(name)
    hostile.faces = [face("good.png"), face(name)]
    hostile.tar = entry("good.png") + END
    faces = tmp_path / "outer" / "faces"
    with Client(hostile.url) as client, pytest.raises(InputError, match="refused"):
        client.job("j").fetch(faces)
    assert [path for path in (tmp_path / "outer").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("tar", "sentence"),
    [
        (entry("../x.png"), "not asked for"),
        (entry("other.png"), "not asked for"),
        (entry("good.png", b"longer than said"), "instead of 4"),
        (entry("good.png", b"", tarfile.SYMTYPE, linkname="/etc/passwd"), "something else than files"),
        (entry("good.png", b"", tarfile.LNKTYPE, linkname="x"), "something else than files"),
        (entry("good.png", b"", tarfile.CHRTYPE), "something else than files"),
        (entry("good.png", b"", tarfile.DIRTYPE), "something else than files"),
        (entry("good.png", b"", tarfile.FIFOTYPE), "something else than files"),
        (entry("good.png", b"face", tarfile.GNUTYPE_SPARSE), "something else than files"),
        (entry("g", b"x" * 100, tarfile.XGLTYPE), "something else than files"),
        (entry("good.png", pax_headers={archive.SHA256: "0" * 64}), "altered on its way"),
        (entry("good.png", pax_headers={archive.SHA256: "nonsense"}), "not understood"),
        (entry("x", b"y" * 70_000, tarfile.XHDTYPE) + entry("good.png"), "too long"),
        (entry("x", b"99 path=a\n", tarfile.XHDTYPE) + entry("good.png"), "not understood"),
        (entry("x", b"13 size=-100\n", tarfile.XHDTYPE) + entry("good.png"), "not understood"),
        (b"\x1f\x8b" + bytes(1022), "not understood"),
        (entry("good.png") + entry("good.png"), "not asked for"),
        (entry("good.png") + entry("faces.sh"), "not asked for"),
        (b"", "did not send"),
        (entry(journal.NAME, journal_of(face("good.png"))), "not asked for"),
    ],
)
def test_archives_that_are_not_what_was_asked_for_are_refused(
    tar: bytes, sentence: str, hostile: Hostile, tmp_path: Path
) -> None:
    hostile.faces, hostile.tar = [face("good.png")], tar + END
    with Client(hostile.url) as client, pytest.raises(InputError, match=sentence):
        client.job("j").fetch(tmp_path / "outer" / "faces")
    files = [path.relative_to(tmp_path / "outer").as_posix() for path in (tmp_path / "outer").rglob("*")]
    assert set(files) <= {"faces", "faces/good.png"}


@pytest.mark.parametrize(
    ("last", "sentence"),
    [
        (b"", "no journal"),
        (entry("more.png"), "not asked for"),
        (entry("faces.jsonl"), "no journal"),
        (entry(journal.NAME, b"nonsense"), "not whole"),
        (entry(journal.NAME, journal_of(face("good.png"))[:-1]), "not whole"),
        (entry(journal.NAME, journal_of(face("good.png"), face("more.png"))), "did not send"),
        (entry(journal.NAME, journal_of(face("../good.png"))), "refused"),
        (entry(journal.NAME, journal_of(face("good.png", b"longer"))), "did not send"),
        (entry(journal.NAME, b"", size=1 << 40), "refused"),
    ],
)
def test_journals_that_do_not_fit_the_faces_are_refused(
    last: bytes, sentence: str, hostile: Hostile, tmp_path: Path
) -> None:
    hostile.faces, hostile.tar, hostile.last = [face("good.png")], entry("good.png") + END, last + END
    with Client(hostile.url) as client, pytest.raises(InputError, match=sentence):
        client.job("j").fetch(tmp_path / "outer" / "faces")
    files = [path.relative_to(tmp_path / "outer").as_posix() for path in (tmp_path / "outer").rglob("*")]
    assert set(files) <= {"faces", "faces/good.png", "faces/faces.jsonl"}


def test_a_folder_that_is_a_link_is_not_followed(hostile: Hostile, tmp_path: Path) -> None:
    hostile.faces, hostile.tar = [face("a/x.png")], entry("a/x.png") + END
    faces, elsewhere = tmp_path / "faces", tmp_path / "elsewhere"
    faces.mkdir()
    elsewhere.mkdir()
    (faces / "a").symlink_to(elsewhere)
    with Client(hostile.url) as client, pytest.raises(OutputError, match="is a link"):
        Fetching(client.server, "j", faces, Arrived(faces)).catch_up()
    assert list(elsewhere.iterdir()) == []


def test_an_archive_that_is_whole_is_read_as_tar_reads_it(tmp_path: Path) -> None:
    names = ["a.png", "b/" + "long" * 60 + ".png", "ü/\udcff.png", "empty.png"]
    data = b"".join(entry(name, name.encode("utf-8", "surrogateescape")[:-3]) for name in names) + END
    found = [(member.name, b"".join(member.blocks())) for member in members(io.BytesIO(data))]
    with tarfile.open(fileobj=io.BytesIO(data)) as other:
        assert found == [(one.name, other.extractfile(one).read()) for one in other]  # type: ignore[union-attr]
    assert [name for name, _ in found] == names
    for cut in (100, 512, 513, 700, len(data) - 1025):
        with pytest.raises(EndedError):
            sum(len(block) for member in members(io.BytesIO(data[:cut])) for block in member.blocks())


def test_archives_with_any_byte_changed_are_read_or_refused() -> None:
    chance = random.Random(3)
    digest = {archive.SHA256: hashlib.sha256(b"face").hexdigest()}
    data = entry("a.png", pax_headers=digest) + entry("b" * 150) + entry("c.png") + END
    refused = 0
    for _ in range(3000):
        changed = bytearray(data)
        for _ in range(chance.randint(1, 3)):
            changed[chance.randrange(len(data))] = chance.randrange(256)
        try:
            for member in members(io.BytesIO(changed)):
                sum(map(len, member.blocks()))
        except (InputError, EndedError):
            refused += 1
    assert 500 < refused < 2900


def test_a_redirect_is_not_followed(hostile: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostile, "answer", lambda path: (b"", 307, {"Location": "http://elsewhere.invalid/"}))
    with Client(hostile.url, "secret") as client, pytest.raises(UsageError, match="sends elsewhere"):
        client.job("j")
    assert len(hostile.asked) == 1


def test_answers_of_something_else_are_a_sentence(
    hostile: Hostile, monkeypatch: pytest.MonkeyPatch, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    for body in (b"", b"<html>", b"[]", b"{}", b'{"id": 3, "state": "x"}', b"[" * 100_000):
        monkeypatch.setattr(hostile, "answer", lambda path, body=body: (body, 200, {}))
        assert place.submit(hostile.url) == 3
        assert "is the address that of gpu-extract?" in capsys.readouterr().err
        assert main(["health", hostile.url]) == 1
        assert capsys.readouterr().err.startswith("not ready: ")


def test_sentences_of_a_server_reach_no_terminal_raw(
    hostile: Hostile, monkeypatch: pytest.MonkeyPatch, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    said = json.dumps({"detail": "\x1b[2Jgone", "exit_code": 6}).encode()
    monkeypatch.setattr(hostile, "answer", lambda path: (said, 422, {}))
    assert place.submit(hostile.url) == 6
    assert "\x1b" not in capsys.readouterr().err


def test_https_needs_a_certificate_that_the_system_knows(
    tmp_path: Path, hostile: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    words = "req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=localhost"
    more = ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(["openssl", *words.split(), *more], cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    hostile.wrap(context)
    with Client(hostile.url, "secret") as client, pytest.raises(InputError, match="does not prove who it is"):
        client.job("j")
    assert hostile.asked == [], "the token stayed here"
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    with Client(hostile.url, "secret") as client:
        assert client.job("j").state == "succeeded"
    assert hostile.asked == [("GET", "/v1/jobs/j", "Bearer secret")]


# ---- small things


@pytest.mark.parametrize(
    ("text", "shown", "token"),
    [
        ("http://box:8080", "http://box:8080", None),
        ("http://box:8080/#token=abc", "http://box:8080", "abc"),
        ("https://box/below/it/", "https://box/below/it", None),
        ("http://[::1]:80", "http://[::1]:80", None),
    ],
)
def test_addresses_that_are_understood(text: str, shown: str, token: str | None) -> None:
    address, found = Address.parse(text)
    assert (str(address), found) == (shown, token)


@pytest.mark.parametrize(
    "text",
    [
        *("box:8080", "ftp://box", "http://", "http://box:none", "http://a:secret@box", "http://box/?x=secret"),
        *("http://box/#secret", "http://box/a\nb: c", "http://büro"),
    ],
)
def test_addresses_that_are_refused_are_not_repeated(text: str) -> None:
    with pytest.raises(UsageError) as error:
        Server(text)
    assert "secret" not in str(error.value)


HTML = {"Content-Type": "text/html"}


@pytest.mark.parametrize(
    ("status", "body", "kind", "sentence"),
    [
        (404, b"<html>", InputError, r"is not the address of a gpu-extract service \(HTTP 404 Not Found\)"),
        (405, b"<html>", InputError, "is not the address of a gpu-extract service"),
        (
            400,
            b"<html>The plain HTTP request was sent to HTTPS port",
            UsageError,
            "speaks TLS; its address begins with",
        ),
        (401, b"<html>", UsageError, "is behind a proxy that refuses who asks"),
        (403, b"<html>", UsageError, "is behind a proxy that refuses who asks"),
        (413, b"<html>", UsageError, "a proxy that takes no pieces of 32 MiB"),
        (500, b"oh", GpuExtractError, "is it that of gpu-extract?"),
        (502, b"<html>", DeviceError, r"cannot be reached for 0 s \(a proxy says HTTP 502 Bad Gateway\)"),
    ],
)
def test_what_is_not_the_services_own_answer_has_a_sentence_of_its_own(
    status: int,
    body: bytes,
    kind: type[GpuExtractError],
    sentence: str,
    hostile: Hostile,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hostile, "answer", lambda path: (body, status, HTML))
    with Client(hostile.url, patience=0.2) as client, pytest.raises(kind, match=sentence):
        client.job("j")
    with Client(hostile.url, patience=0.2) as client, pytest.raises(kind, match=sentence):
        client.find("j")


def test_a_proxy_that_has_lost_its_service_for_a_moment_is_no_answer_of_it(
    hostile: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = json.dumps({"id": "j", "state": "running"}).encode()
    answers: Iterator[tuple[bytes, int, dict[str, str]]]
    answers = iter([(job, 200, {}), (b"404 page not found", 404, HTML), (b"", 500, HTML), (job, 200, {})])
    monkeypatch.setattr(hostile, "answer", lambda path: next(answers))
    with Client(hostile.url) as client:
        assert client.find("j") == client.find("j")


def test_a_token_that_ran_out_is_told_as_that(hostile: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    job = json.dumps({"id": "j", "state": "running"}).encode()
    answers: Iterator[tuple[bytes, int, dict[str, str]]]
    answers = iter([(b"{}", 401, {}), (job, 200, {}), (b"{}", 401, {}), (b"{}", 401, {})])
    monkeypatch.setattr(hostile, "answer", lambda path: next(answers))
    with Client(hostile.url, "old") as client:
        with pytest.raises(UsageError, match="does not know this token; set GPU_EXTRACT_TOKEN"):
            client.job("j")
        assert client.job("j").state == "running"
        with pytest.raises(UsageError, match=r"any more; .* the same command goes on"):
            client.job("j")
    with Client(hostile.url) as client, pytest.raises(UsageError, match="asks for a token; set GPU_EXTRACT_TOKEN"):
        client.job("j")


def test_the_other_scheme_is_named(tmp_path: Path, hostile: Hostile) -> None:
    with (
        Client(hostile.url.replace("http:", "https:")) as client,
        pytest.raises(UsageError, match=r"does not speak TLS; .* begins with http://"),
    ):
        client.job("j")
    for said, sentence in (
        (b"\x15\x03\x03\x00\x02\x02\x46", "speaks TLS; its address begins with https://"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP; check the port"),
    ):
        with socket.create_server(("127.0.0.1", 0)) as listening:
            threading.Thread(target=answering, args=(listening, said), daemon=True).start()
            url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            with Client(url) as client, pytest.raises(UsageError, match=sentence):
                client.job("j")
    with Client(url, patience=0.1) as client, pytest.raises(DeviceError) as refused:
        client.job("j")
    assert "https" not in str(refused.value)


def answering(listening: socket.socket, said: bytes) -> None:
    with contextlib.suppress(OSError), listening.accept()[0] as one:
        one.recv(4096)
        one.sendall(said)


def test_a_token_with_line_breaks_is_refused() -> None:
    with pytest.raises(UsageError, match="the token is none"):
        Server("http://box", "a\r\nX-Other: b")


def test_a_server_that_answers_busy_is_asked_again(hostile: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([(b'{"detail": "full."}', 429, {"Retry-After": "0"}), (b"", 503, {}), (b"{}", 200, {})])
    monkeypatch.setattr(hostile, "answer", lambda path: next(answers))
    notes: list[str] = []
    asked = Server(hostile.url, note=notes.append)
    assert asked.ask("GET", "/").status == 200
    asked.close()
    assert "full" in notes[0]


def test_patience_counts_from_the_last_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Server("http://box", patience=0.2)
    asked.heard()

    def wait() -> None:
        while True:
            asked.wait_out(CutError("gone"))

    with pytest.raises(DeviceError, match="has not answered"):
        wait()


def test_frames_are_told_once_though_shards_are_merged() -> None:
    faces = [face(f"x_{frame:06d}_0.png") | {"frame": frame} for frame in (0, 1)]
    events = [Event("face", faces[0], "1:1"), Event("progress", {"of": 2}), Event("face", faces[1], "1:2")]
    events += [Event("anew"), Event("face", faces[0]), Event("face", faces[1], "2:9")]
    events += [Event("state", {"state": "queued", "position": 3}), Event("face", {"frame": "nonsense"}, "2:10")]
    told: list[Any] = []
    tell(iter(events), told.append)
    assert [type(event) for event in told] == [Planned, FrameDone, FrameDone, Note]


def test_health_is_quick_and_loads_nothing_heavy(service: Service) -> None:
    code = (
        "import sys\nfrom gpu_extract.cli import main\n"
        f"code = main(['health', {service.url!r}])\n"
        "print(code, *sorted({'numpy', 'cv2', 'av', 'asyncio', 'fastapi', 'tqdm'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["ready", "0"]


def test_health_asks_the_port_of_the_environment(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GPU_EXTRACT_PORT", str(service.port))
    assert main(["health"]) == 0
    monkeypatch.setenv("GPU_EXTRACT_PORT", "none")
    assert main(["health"]) == 2
    assert main(["health", "-q", service.url]) == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        assert main(["health", f"http://127.0.0.1:{free.getsockname()[1]}"]) == 1
    assert "connection refused" in capsys.readouterr().err


def test_reasons_of_a_server_that_is_not_ready_are_one_line(
    hostile: Hostile, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = json.dumps({"ready": False, "reasons": ["disk", "draining"]}).encode()
    monkeypatch.setattr(hostile, "answer", lambda path: (said, 503, {}))
    assert main(["health", hostile.url]) == 1
    assert capsys.readouterr().err == "not ready: disk, draining\n"


def test_the_door_knows_nothing_of_it() -> None:
    code = (
        "import sys\nfrom gpu_extract.cli import main\n"
        "try: main(['submit', '--help'])\nexcept SystemExit: pass\n"
        "ours = ('gpu_extract.client', 'http', 'ssl')\n"
        "print(*(name for name in sys.modules if name.startswith(ours)), file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "usage: gpu-extract submit" in run.stdout
    assert "--workers" not in run.stdout, "what the server decides is not offered"
    assert run.stderr.split() == []
