"""`verify` proves a faces folder: it agrees with what extract wrote, and finds every way of differing from it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
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
from gpu_extract.faces.stored import png_fault
from gpu_extract.jobs.verify import verify
from gpu_extract.run import journal
from tests.helpers import read_image, write_pickled

FLAT = "g6_2019-12.fsa"
HEADERS = "v2_3.fsa"


class Folder:
    """Faces that extract wrote, and what verify says of them."""

    def __init__(self, root: Path, alignments: Path, frames: Path, *options: str) -> None:
        root.mkdir(exist_ok=True)
        self.root, self.frames = root, frames
        self.alignments, self.faces, self.json = root / alignments.name, root / "faces", root / "verify.json"
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
            if path != self.json
        }

    def verify(self, *options: str) -> tuple[int, dict[str, Any]]:
        self.json.touch()
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


@pytest.mark.parametrize("layout", ["flat", "by-frame"])
def test_nested_folders_and_parquet(layout: str, extracted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu_extract.faces.layouts import by_frame

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
    assert folder.found() == [("altered", "f_000002_0.png"), ("altered", "f_000002_1.png")]


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


def test_recompressed_pixels_agree_without_a_journal(extracted: Any) -> None:
    """Only the pixels are promised to be the same on every machine, not how they are compressed."""
    folder = extracted()
    (folder.faces / journal.NAME).unlink()
    path = folder.faces / "f_000001_0.png"
    before = path.read_bytes()
    cv2.imwrite(str(path), read_image(path), [cv2.IMWRITE_PNG_COMPRESSION, 9])
    assert path.read_bytes() != before
    assert folder.found() == []


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
    (folder.faces / journal.NAME).unlink()
    assert folder.found() == [("altered", "f_000001_0.png"), ("altered", "f_000002_1.png")]


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
