"""`verify` proves a faces folder: it agrees with what extract wrote, and finds every way of differing from it."""

from __future__ import annotations

import ast
import hashlib
import io
import itertools
import json
import os
import shutil
import signal
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gpu_extract.alignments import Alignments
from gpu_extract.cli import main
from gpu_extract.face_files.header import read_header
from gpu_extract.face_files.stored import png_fault
from gpu_extract.jobs.verify import _Verification, verify
from gpu_extract.run import journal
from tests.helpers import png_chunk, read_image, write_pickled

FLAT = "g6_2019-12.fsa"
HEADERS = "v2_3.fsa"


class Folder:
    """Faces that extract wrote, and what verify says of them."""

    def __init__(self, root: Path, alignments: Path, frames: Path, *options: str) -> None:
        root.mkdir(exist_ok=True)
        self.root, self.frames = root, frames
        self.alignments, self.faces, self.json = root / alignments.name, root / "faces", root / "told" / "verify.json"
        shutil.copy(alignments, self.alignments)
        self._without_frame_99()
        command = ["extract", "-a", str(self.alignments), "-fr", str(frames), "-fc", str(self.faces), "-q", *options]
        assert main(command) == 0

    def _without_frame_99(self) -> None:
        """The vectors' files have an entry without a frame, which no folder can prove."""
        loaded = Alignments.load(self.alignments)
        row = [i for i, frame in enumerate(loaded.faces.frame) if "000099" in loaded.frame_names[frame]]
        if row:
            root = loaded.root()
            entries = root.get("__data__", root)
            del entries["f_000099.png"]
            write_pickled(self.alignments, root)

    def state(self) -> dict[str, tuple[int, str]]:
        return {
            str(path): (path.stat().st_mtime_ns, hashlib.sha1(path.read_bytes()).hexdigest() if path.is_file() else "")
            for path in [self.root, *self.root.rglob("*")]
            if path not in (self.json, self.json.parent)
        }

    def verify(self, *options: str) -> tuple[int, dict[str, Any]]:
        self.json.parent.mkdir(exist_ok=True)  # a folder of its own: a report is written beside itself and renamed
        before = self.state()
        command = ["verify", "-a", str(self.alignments), "-fr", str(self.frames), "-fc", str(self.faces), "-q"]
        code = main([*command, "--json", str(self.json), *options])
        assert self.state() == before, "verify has written something"
        return code, json.loads(self.json.read_text())

    def found(self, *options: str) -> list[tuple[str, str]]:
        code, report = self.verify(*options)
        assert code == report["exit_code"] == (4 if report["differences"] else 0)
        return [(one["kind"], one["file"] or one["frame"]) for one in report["differences"]]


@pytest.fixture
def extracted(tmp_path: Path, vectors: Path) -> Callable[..., Folder]:
    def make(*options: str, alignments: str = FLAT) -> Folder:
        return Folder(tmp_path / "made", vectors / "alignments" / alignments, vectors / "frames", *options)

    return make


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("-sz", "96", "-ae"),
        ("-l", "-sz", "128"),
        ("--format", "jpg", "--quality", "80"),
        ("--format", "webp"),
        ("--output-layout", "webdataset"),
        ("--output-layout", "by-frame", "--metadata", "jsonl"),
        ("--centering", "face", "--antialias", "-sz", "64"),
        ("-een", "3", "--min-size", "40"),
    ],
    ids=" ".join,
)
def test_what_extract_wrote_agrees(options: tuple[str, ...], extracted: Any) -> None:
    folder = extracted(*options)
    code, report = folder.verify()
    assert report["differences"] == []
    assert code == 0
    assert report["settings_from"] == "the folder's journal"
    assert report["faces_agree"] == report["faces_expected"] == report["hashes_compared"] > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_was_not_looked_at_when_a_signal_came_is_not_called_extra(
    number: signal.Signals, extracted: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip("this process was started with the signal ignored, which stays so")
    folder = extracted("-sz", "32")
    real = _Verification.compare

    def compare(*given: Any) -> Any:
        if number.name not in sent:
            sent.append(number.name)
            os.kill(os.getpid(), number)
        return real(*given)

    sent: list[str] = []
    monkeypatch.setattr(_Verification, "compare", compare)
    capsys.readouterr()
    words = [
        "verify",
        "-a",
        str(folder.alignments),
        "-fr",
        str(folder.frames),
        "-fc",
        str(folder.faces),
        "--workers",
        "1",
    ]
    assert main([*words, "--json", str(folder.root / "report.json")]) == 128 + number
    assert capsys.readouterr() == ("", "gpu-extract: interrupted.\n")
    assert not (folder.root / "report.json").exists()


@pytest.mark.parametrize("layout", ["flat", "by-frame"])
def test_nested_folders_and_parquet(layout: str, extracted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu_extract.face_files.layouts import by_frame

    pytest.importorskip("pyarrow")
    monkeypatch.setattr(by_frame, "MAX_ENTRIES", 4)
    folder = extracted("--output-layout", layout, "--metadata", "parquet")
    assert folder.found() == []
    (folder.faces / "faces.parquet").unlink()
    assert folder.found() == [("missing", "faces.parquet")]


@pytest.mark.parametrize("alignments", [HEADERS, "v2_4_list.fsa", "v2_1.fsa", "v2_0.fsa"])
def test_newer_generations_with_headers(alignments: str, extracted: Any) -> None:
    folder = extracted(alignments=alignments)
    code, report = folder.verify()
    assert (code, report["differences"]) == (0, [])
    assert report["hashes_compared"] == (17 if alignments == "v2_0.fsa" else 0)


def test_a_video(tmp_path: Path, vectors: Path) -> None:
    video = vectors / "video"
    folder = Folder(tmp_path / "made", video / "clip_alignments_v2_4.fsa", video / "clip.mp4")
    assert folder.found() == []


def test_without_a_journal_the_first_image_tells_the_size(extracted: Any) -> None:
    folder = extracted("-sz", "72")
    (folder.faces / journal.NAME).unlink()
    code, report = folder.verify()
    assert (code, report["settings_from"], report["settings"]["size"]) == (0, "the folder's first image", 72)
    assert folder.verify("-sz", "80")[0] == 4


def test_without_a_journal_and_in_shards(extracted: Any) -> None:
    folder = extracted("-sz", "72", "--output-layout", "webdataset")
    (folder.faces / journal.NAME).unlink()
    assert folder.found() == []


def test_an_empty_or_missing_folder_is_refused(extracted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder = extracted()
    shutil.rmtree(folder.faces)
    assert main(["verify", "-a", str(folder.alignments), "-fr", str(folder.frames), "-fc", str(folder.faces)]) == 3
    folder.faces.mkdir()
    assert main(["verify", "-a", str(folder.alignments), "-fr", str(folder.frames), "-fc", str(folder.faces)]) == 2
    assert "give the --size of its faces" in capsys.readouterr().err


def test_missing_extra_moved_renamed(extracted: Any) -> None:
    folder = extracted()
    (folder.faces / "f_000002_0.png").unlink()
    (folder.faces / "f_000002_1.png").rename(folder.faces / "best.png")
    (folder.faces / "sub").mkdir()
    (folder.faces / "f_000003_0.png").rename(folder.faces / "sub" / "f_000003_0.png")
    (folder.faces / "notes.txt").write_text("mine")
    (folder.faces / ".part-f_000001_0.png").write_bytes(b"half")
    assert folder.found() == [
        ("missing", "f_000002_0.png"),
        ("extra", ".part-f_000001_0.png"),
        ("extra", "notes.txt"),
        ("moved", "f_000002_1.png"),
        ("moved", "f_000003_0.png"),
    ]
    _, report = folder.verify()
    assert [one["reason"] for one in report["differences"] if one["kind"] == "moved"] == [
        "its pixels are in best.png",
        "its pixels are in sub/f_000003_0.png",
    ]
    assert report["faces_agree"] == report["faces_expected"] - 3


def test_two_faces_that_changed_places(extracted: Any) -> None:
    folder = extracted()
    one, other = folder.faces / "f_000002_0.png", folder.faces / "f_000002_1.png"
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    assert folder.found() == [("moved", "f_000002_0.png"), ("moved", "f_000002_1.png")]
    _, report = folder.verify()
    assert [one["reason"] for one in report["differences"]] == [
        "its pixels are in f_000002_1.png",
        "its pixels are in f_000002_0.png",
    ]


@pytest.mark.parametrize("keep_journal", [True, False])
def test_every_way_of_altering_a_png(keep_journal: bool, extracted: Any) -> None:
    folder = extracted()
    if not keep_journal:
        (folder.faces / journal.NAME).unlink()
    names = [f"f_00000{i}_0.png" for i in (1, 2, 3, 4, 7, 8)]
    paths = [folder.faces / name for name in names]
    pixels = read_image(paths[0])
    pixels[9, 9, 1] ^= 1
    cv2.imwrite(str(paths[0]), pixels)
    paths[1].write_bytes(paths[1].read_bytes()[:-40])
    paths[2].write_bytes(paths[2].read_bytes() + b"x")
    data = bytearray(paths[3].read_bytes())
    data[len(data) // 2] ^= 16
    paths[3].write_bytes(data)
    note = b"tEXtComment\0mine"
    text = struct.pack(">I", len(note) - 4) + note + struct.pack(">I", zlib.crc32(note))
    paths[4].write_bytes(paths[4].read_bytes()[:33] + text + paths[4].read_bytes()[33:])
    paths[5].write_bytes(b"")
    assert folder.found() == [("altered", name) for name in names]


@pytest.mark.parametrize("keep_journal", [True, False])
def test_recompressed_pixels_agree(keep_journal: bool, extracted: Any) -> None:
    """Only the pixels are promised to be the same on every machine, not how they are compressed."""
    folder = extracted()
    if not keep_journal:
        (folder.faces / journal.NAME).unlink()
    path = folder.faces / "f_000001_0.png"
    before = path.read_bytes()
    cv2.imwrite(str(path), read_image(path), [cv2.IMWRITE_PNG_COMPRESSION, 9])
    assert path.read_bytes() != before
    assert folder.found() == []
    said = "1 PNG file is compressed otherwise than the run did, pixel for pixel."
    assert folder.verify()[1]["notes"] == ([said] if keep_journal else [])


def test_an_altered_header(extracted: Any) -> None:
    folder = extracted(alignments=HEADERS)
    path = folder.faces / "f_000002_1.png"
    data = path.read_bytes()
    at = data.index(b"iTXt") - 4
    length = struct.unpack_from(">I", data, at)[0]
    body = data[at + 4 : at + 8 + length].replace(b"'face_index': 1", b"'face_index': 7")
    chunk = data[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
    path.write_bytes(data[:at] + chunk + data[at + 12 + length :])
    other = folder.faces / "f_000001_0.png"
    cv2.imwrite(str(other), read_image(other))
    wanted = [("header", "f_000001_0.png"), ("header", "f_000002_1.png")]
    assert folder.found() == wanted
    (folder.faces / journal.NAME).unlink()
    assert folder.found() == wanted
    _, report = folder.verify()
    assert [one["reason"] for one in report["differences"]] == [
        "its header is gone",
        "its header says face_index 7, not 1",
    ]


def rewrite_header(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Write what a face says of itself anew, as later programs do; the rest of the file stays byte for byte."""
    data = path.read_bytes()
    at = data.index(b"iTXt") - 4
    length = struct.unpack_from(">I", data, at)[0]
    content = ast.literal_eval(data[at + 8 + 13 : at + 8 + length].decode())
    change(content)
    chunk = png_chunk(b"iTXt", data[at + 8 : at + 8 + 13] + str(content).encode())
    path.write_bytes(data[:at] + chunk + data[at + 12 + length :])


def as_a_tuple(header: dict[str, Any]) -> None:
    header["source"]["source_frame_dims"] = tuple(header["source"]["source_frame_dims"])


def of_another_version(header: dict[str, Any]) -> None:
    header["source"] |= {"alignments_version": 2.2, "source_frame_dims": None, "source_is_video": True}


def in_another_order(header: dict[str, Any]) -> None:
    header["alignments"] = dict(reversed(header["alignments"].items()))


@pytest.mark.parametrize("alignments", [HEADERS, "v2_4_list.fsa", "v2_1.fsa"])
@pytest.mark.parametrize("change", [as_a_tuple, of_another_version, in_another_order])
def test_headers_in_the_form_of_another_release_agree(alignments: str, change: Any, extracted: Any) -> None:
    folder = extracted(alignments=alignments)
    if alignments == "v2_1.fsa" and change is as_a_tuple:
        return  # which has no frame size
    paths = sorted(folder.faces.glob("*.png"))
    before = [path.read_bytes() for path in paths]
    for path in paths:
        rewrite_header(path, change)
    changed = sum(path.read_bytes() != data for path, data in zip(paths, before, strict=True))
    code, report = folder.verify()
    assert (code, report["differences"], report["faces_agree"]) == (0, [], 17)
    form = f"{changed} headers have the form of another release; their values are the same."
    assert [note for note in report["notes"] if "header" in note] == ([form] if changed else [])


def test_what_other_programs_add_to_headers_is_told_and_no_fault(extracted: Any) -> None:
    folder = extracted(alignments=HEADERS)
    for path in folder.faces.glob("f_000002_*.png"):
        rewrite_header(path, lambda header: header["alignments"]["identity"].update(other=[0.5]))
    code, report = folder.verify()
    assert (code, report["differences"]) == (0, [])
    assert "3 headers also hold identity 'other'; a new extraction would not write it." in report["notes"]


def test_a_header_that_lacks_what_the_file_holds(extracted: Any) -> None:
    folder = extracted(alignments=HEADERS)
    rewrite_header(folder.faces / "f_000001_0.png", lambda header: header["alignments"]["mask"].clear())
    code, report = folder.verify()
    assert code == 4
    assert [(one["kind"], one["file"]) for one in report["differences"]] == [("header", "f_000001_0.png")]
    assert report["differences"][0]["reason"].startswith("its header lacks the mask ")


def without_face(path: Path, frame: str, index: int) -> None:
    """Take a face out of an alignments file."""
    root = Alignments.load(path).root()
    entry = root.get("__data__", root)[frame]
    del (entry if isinstance(entry, list) else entry["faces"])[index]
    write_pickled(path, root)


@pytest.mark.parametrize("alignments", [FLAT, HEADERS, "v2_4_list.fsa"])
def test_a_face_that_was_taken_out_and_the_files_renamed(alignments: str, extracted: Any) -> None:
    folder = extracted(alignments=alignments)
    without_face(folder.alignments, "f_000004.png", 0)
    (folder.faces / "f_000004_0.png").unlink()
    left = sorted(folder.faces.glob("f_000004_*.png"))
    for index, path in enumerate(left):
        new = f"f_000004_{index}.png"
        if alignments != FLAT:
            named = {"face_index": index, "original_filename": new}
            rewrite_header(path, lambda header, named=named: header["source"].update(named))  # type: ignore[misc]
        path.rename(folder.faces / new)
    code, report = folder.verify()
    assert (code, report["differences"], report["faces_agree"]) == (0, [], 16)
    assert "1 of the run's faces is no longer in the alignments file." in report["notes"]


@pytest.mark.parametrize("layout", ["flat", "by-frame"])
def test_a_face_that_was_taken_out_before_the_files_are_renamed(
    layout: str, extracted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file has the name of the face before its own: renamed, which is what verify says, and not altered."""
    from gpu_extract.face_files.layouts import by_frame

    monkeypatch.setattr(by_frame, "MAX_ENTRIES", 10)
    folder = extracted("--output-layout", layout, alignments=HEADERS)
    faces = {path.name: path.relative_to(folder.faces).as_posix() for path in folder.faces.rglob("f_000004_*.png")}
    assert len(faces) > 2
    without_face(folder.alignments, "f_000004.png", 0)
    (folder.faces / faces["f_000004_0.png"]).unlink()
    code, report = folder.verify()
    assert code == 4
    names = [faces[f"f_000004_{index}.png"] for index in range(len(faces))]
    assert [(one["kind"], one["file"], one["reason"]) for one in report["differences"]] == [
        ("moved", name, f"its pixels are in {after}") for name, after in itertools.pairwise(names)
    ]


def test_frames_in_another_order_and_under_other_rows(extracted: Any) -> None:
    """As in a file that was made anew from the faces' headers: without frames that have no faces, sorted by name."""
    folder = extracted(alignments=HEADERS)
    root = Alignments.load(folder.alignments).root()
    frames = {key: entry for key, entry in root["__data__"].items() if entry["faces"]}
    write_pickled(folder.alignments, root | {"__data__": dict(reversed(frames.items()))})
    code, report = folder.verify()
    assert (code, report["differences"], report["faces_agree"]) == (0, [], 17)


def test_an_alignments_file_made_of_the_headers_lies_among_the_faces(extracted: Any) -> None:
    """As the programs' job does after faces were deleted: fewer faces, others in their places, all in lists."""
    folder = extracted(alignments=HEADERS)
    for name in ("f_000001_0.png", "f_000004_1.png"):
        (folder.faces / name).unlink()
    frames: dict[str, Any] = {}
    for path in sorted(folder.faces.glob("*.png")):
        header = read_header(path)
        assert header is not None
        source = header["source"]
        faces = frames.setdefault(source["source_filename"], {"faces": [], "video_meta": {}})["faces"]
        new = f"{Path(source['source_filename']).stem}_{len(faces)}.png"
        named = {"face_index": len(faces), "original_filename": new}
        faces.append(header["alignments"] | {"thumb": None})
        rewrite_header(path, lambda header, named=named: header["source"].update(named))  # type: ignore[misc]
        path.rename(folder.faces / new)
    folder.alignments = folder.faces / "alignments.fsa"
    write_pickled(folder.alignments, {"__meta__": {"version": 2.3}, "__data__": frames})
    code, report = folder.verify()
    assert (code, report["differences"], report["faces_agree"]) == (0, [], 15)
    assert "2 of the run's faces are no longer in the alignments file." in report["notes"]
    assert "1 file beside the faces is no face: alignments.fsa" in report["notes"]


def test_an_alignments_file_that_the_current_program_rewrote(extracted: Any, vectors: Path, tmp_path: Path) -> None:
    folder = extracted(alignments=HEADERS)
    other = Folder(tmp_path / "rewritten", vectors / "alignments" / "v2_3_rewritten_by_head.fsa", vectors / "frames")
    folder.alignments = other.alignments
    code, report = folder.verify()
    assert (code, report["differences"], report["faces_agree"]) == (0, [], 17)


BESIDE = (
    "alignments.fsa",
    "clip_alignments.fsa",
    "alignments.json",
    "clip_alignments.p",
    "v2_3.fsa",
    "v2_3.fsa.lock",
    "v2_3_bk_2026-03-01_10.11.12.fsa",
    "v2_3_2026-03-01_10.11.12(1).fsa",
    "v2_3_unsaved_20260301_101112.fsa",
    "v2_3_20191201_101112.fsa",
    "gpu-extract.toml",
    "multiple_faces_20260301_101112.txt",
    "_duplicates/f_000001_0.png",
    ".DS_Store",
    "._f_000001_0.png",
    "Thumbs.db",
)
NOT_BESIDE = (
    "other.json",
    "notes.txt",
    "sub/alignments.fsa",
    "f_000001_0.png~",
    "f_000009_0.png",
    "alignments.fsa.png",
)


def test_files_of_programs_beside_the_faces_are_not_extra(extracted: Any) -> None:
    folder = extracted(alignments=HEADERS)
    for name in (*BESIDE, *NOT_BESIDE):
        (folder.faces / name).parent.mkdir(exist_ok=True)
        (folder.faces / name).write_bytes(b"something")
    assert folder.found() == [("extra", name) for name in sorted(NOT_BESIDE)]
    note = next(note for note in folder.verify()[1]["notes"] if "beside" in note)
    assert note.startswith(f"{len(BESIDE)} files beside the faces are no faces: ")
    for name in NOT_BESIDE:
        (folder.faces / name).unlink()
    assert folder.found() == []


def test_the_alignments_file_itself_may_lie_among_the_faces(extracted: Any) -> None:
    folder = extracted()
    folder.alignments = folder.alignments.rename(folder.faces / "mine.fsa")
    assert folder.found() == []


def test_an_altered_jpeg(extracted: Any) -> None:
    folder = extracted("--format", "jpg")
    path = folder.faces / "f_000001_0.jpg"
    cv2.imwrite(str(path), read_image(path), [cv2.IMWRITE_JPEG_QUALITY, 90])
    assert folder.found() == [("altered", "f_000001_0.jpg")]


def test_a_hash_that_is_not_of_this_folder(extracted: Any) -> None:
    folder = extracted()
    loaded = Alignments.load(folder.alignments)
    loaded.set_hashes([4], ["ab" * 20])
    loaded.save()
    frame, index = loaded.frame_names[loaded.faces.frame[4]], loaded.faces.index[4]
    assert folder.found() == [("hash", f"{frame[:-4]}_{index}.png")]


def test_landmarks_that_changed_since(extracted: Any) -> None:
    folder = extracted()
    loaded = Alignments.load(folder.alignments)
    loaded.set_field(0, "landmarks_xy", np.asarray(loaded.record(0)["landmarks_xy"]) + np.float32(3))
    loaded.save()
    code, report = folder.verify()
    assert code == 4
    assert [one["kind"] for one in report["differences"]] == ["altered", "hash", "hash"]
    assert "not those that the folder was made from" in report["notes"][0]


def test_a_frame_that_is_gone_proves_nothing(extracted: Any, tmp_path: Path) -> None:
    folder = extracted()
    frames = tmp_path / "frames"
    shutil.copytree(folder.frames, frames)
    (frames / "f_000002.png").write_bytes(b"")
    (frames / "f_000003.png").unlink()
    folder.frames = frames
    assert folder.found() == [("unproven", "f_000002.png"), ("unproven", "f_000003.png")]


def test_altered_metadata(extracted: Any) -> None:
    folder = extracted("--metadata", "jsonl")
    path = folder.faces / "faces.jsonl"
    path.write_text(path.read_text().replace('"index":1', '"index":2', 1))
    assert folder.found() == [("metadata", "faces.jsonl")]


def test_altered_shards(extracted: Any) -> None:
    folder = extracted("--output-layout", "webdataset")
    path = folder.faces / "00000.tar"
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]

    def write(changed: dict[str, bytes | None]) -> None:
        with tarfile.open(path, "w") as tar:
            for member, data in members:
                new = changed.get(member.name, data)
                if new is not None:
                    member.size = len(new)
                    tar.addfile(member, io.BytesIO(new))

    write({})
    assert folder.found() == []
    write({"f_000001_0.png": None, "f_000002_1.json": b"{}", "f_000003_0.json": None})
    assert folder.found() == [
        ("missing", "f_000001_0.png"),
        ("extra", "f_000001_0.json"),
        ("altered", "f_000002_1.png"),
        ("altered", "f_000003_0.png"),
    ]
    path.write_bytes(whole[: len(whole) // 2])
    kinds = {kind for kind, _ in folder.found()}
    assert "missing" in kinds or "altered" in kinds


def test_an_interrupted_folder_is_not_proven(extracted: Any) -> None:
    folder = extracted()
    record = folder.faces / journal.NAME
    record.write_bytes(b"".join(record.read_bytes().splitlines(keepends=True)[:3]))
    for path in folder.faces.glob("f_000008*"):
        path.unlink()
    assert folder.found() == [("missing", f"f_000008_{i}.png") for i in range(4)]


def test_hostile_files_in_the_folder(extracted: Any) -> None:
    folder = extracted()
    target = folder.faces / "f_000001_0.png"
    target.unlink()
    target.symlink_to("/dev/zero")
    os.mkfifo(folder.faces / "pipe.png")
    (folder.faces / "f_000002_0.png").unlink()
    (folder.faces / "f_000002_0.png").mkdir()
    (folder.faces / "x.tar").write_bytes(b"no archive")
    (folder.faces / "00007.tar").write_bytes(b"no archive")
    code, report = folder_report(folder)
    assert code == 4
    found = {(one["kind"], one["file"]) for one in report["differences"]}
    assert found == {
        ("altered", "f_000001_0.png"),
        ("missing", "f_000002_0.png"),
        ("extra", "pipe.png"),
        ("extra", "x.tar"),
        ("extra", "00007.tar"),
    }


def folder_report(folder: Folder) -> tuple[int, dict[str, Any]]:
    report = verify(folder.alignments, folder.frames, folder.faces, progress="none")
    return report.exit_code, json.loads(report.to_json())


def test_the_table_and_json_on_standard_output(extracted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder = extracted()
    (folder.faces / "f_000001_0.png").unlink()
    base = ["verify", "-a", str(folder.alignments), "-fr", str(folder.frames), "-fc", str(folder.faces)]
    capsys.readouterr()
    assert main([*base, "--progress", "none"]) == 4
    out = capsys.readouterr().out
    assert "faces   16 of 17 agree (exact on cpu)" in out
    assert "differ  1 missing" in out
    assert "missing f_000001_0.png: the file is not there" in out
    assert main([*base, "--json", "-", "--progress", "none"]) == 4
    assert json.loads(capsys.readouterr().out)["counts"]["missing"] == 1


def test_png_fault_on_what_is_no_png() -> None:
    assert png_fault(b"\x89PNG\r\n\x1a\n") == "it is cut off"
