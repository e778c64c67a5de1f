"""Runs that were interrupted in every way, and resumed: they end as if nothing had happened."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gpu_extract.alignments import Alignments
from gpu_extract.cli import main
from gpu_extract.demo.clip import face_record, write_alignments, write_video
from gpu_extract.face_files.layouts import by_frame, webdataset
from gpu_extract.frames import open_frames
from gpu_extract.frames.video import index
from gpu_extract.geometry.crops import CropGeometry
from gpu_extract.run import journal
from gpu_extract.run.pipeline import Pipeline
from gpu_extract.run.plan import Plan
from gpu_extract.tasks import FaceResult
from tests.contracts.fakes import FakeSource, NoEngine
from tests.helpers import STOPS_ITSELF, read_image

FRAMES = 260
OF_THIS_RUN = {
    "seconds",
    "frames_per_second",
    "stage_seconds",
    "wait_seconds",
    "limiting_stage",
    "notes",
    "backup",
    "next",
}
OF_THIS_RUN |= {"faces_folder"}
PROGRAM = f"""
from gpu_extract.face_files.layouts import by_frame, webdataset

by_frame.MAX_ENTRIES, webdataset.MAX_SAMPLES = 50, 40
{STOPS_ITSELF}"""
"""The command line with small folders and shards; stops itself once STOP_AFTER frames are finished."""


@pytest.fixture(autouse=True)
def small_layouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nested folders and several shards with a few hundred faces; PROGRAM has the same."""
    monkeypatch.setattr(by_frame, "MAX_ENTRIES", 50)
    monkeypatch.setattr(webdataset, "MAX_SAMPLES", 40)


def landmarks_at(vector_faces: Any, number: int) -> np.ndarray:
    shift = np.array([number % 17, number % 13], np.float32)
    points: np.ndarray = vector_faces["f_000001.png"][0]["landmarks"] + shift
    return points


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, vectors: Path, vector_faces: Any) -> Path:
    """`frames`, of which one is unreadable, `clip.mp4`, and alignments for both: one or two faces a frame."""
    folder = tmp_path_factory.mktemp("job")
    (folder / "frames").mkdir()
    of_frames, of_clip = {}, {}
    for number in range(1, FRAMES + 1):
        name = f"f_{number:06d}.png"
        os.link(
            shutil.copy(vectors / "frames" / f"f_{1 + number % 4:06d}.png", folder / "one.png"),
            folder / "frames" / name,
        )
        (folder / "one.png").unlink()
        faces = [face_record(landmarks_at(vector_faces, number + k)) for k in range(1 + number % 2)]
        of_frames[name], of_clip[f"clip_{number:06d}.png"] = faces, faces
    (folder / "frames" / "f_000100.png").write_bytes(b"no picture")
    write_alignments(folder / "frames.fsa", of_frames)
    write_alignments(folder / "clip.fsa", of_clip)
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 255, (40, 60, 3), np.uint8)
    pictures = (cv2.resize(np.roll(noise, i, axis=1), (320, 240)) for i in range(FRAMES))
    write_video(folder / "clip.mp4", pictures, 25, {"preset": "ultrafast"})
    return folder


class Run:
    """Runs of one command, in this process or another, over one copy of the alignments file."""

    def __init__(self, job: Path, folder: Path, source: str = "frames", *options: str) -> None:
        folder.mkdir(exist_ok=True)
        self.alignments = folder / "a.fsa"
        if not self.alignments.exists():
            shutil.copy(job / f"{source.partition('.')[0]}.fsa", self.alignments)
        self.original = self.alignments.read_bytes()
        self.faces = folder / "faces"
        self.report_file = folder / "report.json"
        self.command = ["extract", "-a", str(self.alignments), "-fr", str(job / source), "-fc", str(self.faces)]
        self.command += ["--json", str(self.report_file), "--progress", "none", "--device", "cpu"]
        self.command += ["-sz", "64", *options]

    def here(self, *more: str) -> int:
        return main([*self.command, *more])

    def elsewhere(self, *more: str, stop_after: int = -1) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PROGRAM, *self.command, *more]
        environment = {**os.environ, "STOP_AFTER": str(stop_after)}
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    def finished_frames(self) -> int:
        with contextlib.suppress(OSError):
            return (self.faces / journal.NAME).read_bytes().count(b"\n") - 1
        return -1

    def interrupted(self, number: signal.Signals, *more: str, frames: int = 20) -> subprocess.Popen[str]:
        """Start it, and send a signal once so many frames are finished; returns the process, still to be waited for."""
        process = self.elsewhere(*more, stop_after=frames)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        assert process.poll() is None, process.communicate()
        if number != signal.SIGSTOP:
            process.send_signal(number)
            process.send_signal(signal.SIGCONT)
        return process

    def files(self) -> dict[str, bytes]:
        """Everything in the faces folder but the journal, hidden files too."""
        return {
            path.relative_to(self.faces).as_posix(): path.read_bytes()
            for path in self.faces.rglob("*")
            if path.is_file() and path.name not in (journal.NAME, journal.FAILURES)
        }

    def outcome(self) -> tuple[dict[str, bytes], bytes, dict[str, Any]]:
        report = json.loads(self.report_file.read_text())
        return self.files(), self.alignments.read_bytes(), {k: v for k, v in report.items() if k not in OF_THIS_RUN}

    def backups(self) -> list[bytes]:
        return [path.read_bytes() for path in self.alignments.parent.glob("a_*.fsa")]


@pytest.fixture(scope="module")
def uninterrupted(job: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """What a plain run with some options gives."""
    found: dict[Any, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(by_frame, "MAX_ENTRIES", 50)
        patch.setattr(webdataset, "MAX_SAMPLES", 40)

        def outcome(source: str = "frames", *options: str) -> Any:
            key = (source, options)
            if key not in found:
                run = Run(job, tmp_path_factory.mktemp("plain"), source, *options)
                assert run.here() == (4 if source == "frames" else 0)
                found[key] = run.outcome()
            return found[key]

        yield outcome


def same(found: Any, wanted: Any) -> None:
    assert sorted(found[0]) == sorted(wanted[0])
    assert [name for name in wanted[0] if found[0][name] != wanted[0][name]] == []
    assert found[1] == wanted[1]
    assert found[2] == wanted[2]


@pytest.mark.parametrize(
    ("layout", "number"),
    [
        ("flat", signal.SIGINT),
        ("flat", signal.SIGKILL),
        ("by-frame", signal.SIGTERM),
        ("by-frame", signal.SIGKILL),
        ("webdataset", signal.SIGINT),
        ("webdataset", signal.SIGKILL),
    ],
)
def test_interrupted_and_resumed(
    layout: str, number: signal.Signals, job: Path, tmp_path: Path, uninterrupted: Any
) -> None:
    options = ("--output-layout", layout, "--metadata", "jsonl")
    run = Run(job, tmp_path, "frames", *options)
    process = run.interrupted(number)
    sent = time.monotonic()
    out, err = process.communicate(timeout=20)
    assert time.monotonic() - sent < 5
    assert "Traceback" not in err
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
        assert "run the same command with --resume to continue" in out
        assert "interrupted after" in out
        assert json.loads(run.report_file.read_text())["exit_code"] == process.returncode
        assert not [name for name in run.files() if Path(name).name.startswith(".")]
    assert run.alignments.read_bytes() == run.original
    done = run.finished_frames()
    assert 20 <= done < FRAMES - 1
    whole = {name: data for name, data in run.files().items() if Path(name).match("[!.]*.png")}
    wanted = uninterrupted("frames", *options)
    assert all(wanted[0][name] == data for name, data in whole.items()), "a half-written image under its final name"

    assert run.here("--resume") == 4  # one frame is unreadable
    same(run.outcome(), wanted)
    assert run.backups() == [run.original]


def test_a_resumed_run_knows_what_an_uninterrupted_one_knows_of_a_video(job: Path, tmp_path: Path) -> None:
    """How many frames it has shows at its end, or in its index, which only a run that may skip reads."""
    known = []
    for name, faces in (("dense", range(1, 151)), ("sparse", range(3, FRAMES, 80)), ("all", range(1, FRAMES + 1))):
        plain, finished, cut = (Run(job, tmp_path / f"{name}-{i}", "clip.mp4", "-sz", "64") for i in range(3))
        for run in (plain, finished, cut):
            whole = Alignments.load(job / "clip.fsa").root()
            write_alignments(run.alignments, {key: whole[key] for key in map("clip_{:06d}.png".format, faces)})
        assert plain.here() == 0
        wanted = plain.outcome()
        known.append(wanted[2]["frames_without_alignments"])
        assert finished.here() == finished.here("--resume") == 0
        again = finished.outcome()
        same((*again[:2], again[2] | {"hashes_changed": wanted[2]["hashes_changed"]}), wanted)
        assert cut.here("--no-update") == 0
        record = cut.faces / journal.NAME
        record.write_bytes(b"".join(record.read_bytes().splitlines(keepends=True)[: len(faces) // 2]))
        assert cut.here("--resume") == 0
        same(cut.outcome(), wanted)
    assert known == [None, FRAMES - 4, 0]


def test_a_video_interrupted_and_resumed(job: Path, tmp_path: Path, uninterrupted: Any) -> None:
    run = Run(job, tmp_path, "clip.mp4")
    process = run.interrupted(signal.SIGTERM, frames=60)
    process.communicate(timeout=20)
    assert process.returncode == 143
    assert run.here("--resume") == 0
    same(run.outcome(), uninterrupted("clip.mp4"))


def test_interrupted_again_and_again(job: Path, tmp_path: Path, uninterrupted: Any) -> None:
    run = Run(job, tmp_path)
    run.interrupted(signal.SIGKILL, frames=5).communicate()
    for frames in (40, 1, 80):
        run.interrupted(signal.SIGKILL, "--resume", frames=frames).communicate()
    assert run.here("--resume") == 4
    same(run.outcome(), uninterrupted())


def test_a_finished_run_has_nothing_left_to_do(job: Path, tmp_path: Path) -> None:
    run = Run(job, tmp_path, "clip.mp4")
    assert run.here() == 0
    files, alignments, report = run.outcome()
    times = {path: path.stat().st_mtime_ns for path in run.faces.iterdir() if path.name != journal.NAME}
    assert run.here("--resume") == 0
    again = run.outcome()
    assert again[:2] == (files, alignments)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert again[2] == report | {"hashes_changed": 0}
    assert len(run.backups()) == 1


@pytest.mark.parametrize("folder", ["missing", "empty"])
def test_nothing_to_resume_is_a_plain_run(folder: str, job: Path, tmp_path: Path, uninterrupted: Any) -> None:
    run = Run(job, tmp_path, "clip.mp4")
    if folder == "empty":
        run.faces.mkdir()
    assert run.here("--resume") == 0
    same(run.outcome(), uninterrupted("clip.mp4"))


def test_a_folder_with_a_journal_gets_the_hint(job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(job, tmp_path, "clip.mp4", "-een", "20")
    assert run.here() == 0
    before = run.outcome()
    assert run.here() == 6
    assert "holds an earlier run; add --resume to continue it" in capsys.readouterr().err
    assert run.outcome() == before


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (["-sz", "128"], "size was 64 and is now 128"),
        (["-ae"], "align_eyes was False and is now True"),
        (["-een", "3"], "extract_every_n was 20 and is now 3"),
        (["--format", "jpg"], "format was 'as the frames' and is now '.jpg'"),
        (["--centering", "face"], "centering was 'legacy' and is now 'face'"),
        (["--engine", "kornia"], "engine was 'exact' and is now 'kornia'"),
        (["--output-layout", "by-frame"], "output_layout was 'flat' and is now 'by-frame'"),
        (["--antialias"], "antialias was False and is now True"),
    ],
)
def test_other_settings_are_refused_by_name(
    changed: list[str], named: str, job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(job, tmp_path, "clip.mp4", "-een", "20")
    assert run.here() == 0
    before = run.outcome()
    assert run.here("--resume", *changed) == 2
    assert named in capsys.readouterr().err
    assert run.outcome() == before


def test_other_faces_are_refused(job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(job, tmp_path, "clip.mp4", "-een", "20")
    assert run.here() == 0
    loaded = Alignments.load(run.alignments)
    moved = loaded.record(0)["landmarks_xy"] + 1
    loaded.set_field(0, "landmarks_xy", moved)
    loaded.save()
    assert run.here("--resume") == 2
    assert "faces in the alignments file was" in capsys.readouterr().err


def test_what_may_change_between_two_runs(job: Path, tmp_path: Path, uninterrupted: Any) -> None:
    run = Run(job, tmp_path, "clip.mp4")
    run.interrupted(signal.SIGKILL).communicate()
    assert run.here("--resume", "--workers", "1", "--batch-mb", "8", "--max-errors", "7") == 0
    same(run.outcome(), uninterrupted("clip.mp4"))


def _torn(data: bytes) -> bytes:
    return data[: data.rindex(b'{"frame":') + 11]


def _flipped(data: bytes) -> bytes:
    middle = data.index(b"\n", len(data) // 2) + 30
    return data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]


@pytest.mark.parametrize("layout", ["flat", "by-frame", "webdataset"])
@pytest.mark.parametrize(
    "damage",
    [
        _torn,
        _flipped,
        lambda data: data + b"\0" * 700,
        lambda data: data[: data.index(b"\n") + 1],
        lambda data: data[:30],
        lambda data: b"",
    ],
    ids=["last line torn", "a bit flipped", "zeros at the end", "only settings", "settings torn", "empty"],
)
def test_a_damaged_journal(layout: str, damage: Any, job: Path, tmp_path: Path, uninterrupted: Any) -> None:
    options = ("--output-layout", layout, "-een", "5", "-sz", "64")
    run = Run(job, tmp_path, "frames", *options)
    assert run.here() == 0
    path = run.faces / journal.NAME
    path.write_bytes(damage(path.read_bytes()))
    assert run.here("--resume") == 0
    wanted = Run(job, tmp_path / "plain", "frames", *options)
    assert wanted.here() == 0
    found = run.outcome()
    same((*found[:2], found[2] | {"hashes_changed": found[2]["hashes_updated"]}), wanted.outcome())
    assert path.read_bytes().count(b'{"frame":') == 52


def test_a_journal_whose_settings_are_damaged_is_not_taken_for_empty(
    job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(job, tmp_path, "clip.mp4", "-een", "20")
    assert run.here() == 0
    path = run.faces / journal.NAME
    path.write_bytes(b"x" + path.read_bytes()[1:])
    before = path.read_bytes()
    assert run.here("--resume") == 6
    assert "is damaged from its first line on" in capsys.readouterr().err
    assert path.read_bytes() == before


@pytest.mark.parametrize("holds", [b"{}", b"12345678 x", b"\x78\x9c\0\0", b"0123456789" * 100])
def test_another_file_under_the_name_of_the_journal_is_not_emptied(holds: bytes, job: Path, tmp_path: Path) -> None:
    """Another name of the alignments file, say."""
    run = Run(job, tmp_path, "clip.mp4", "-een", "20")
    run.faces.mkdir()
    (tmp_path / "other").write_bytes(holds)
    (run.faces / journal.NAME).symlink_to(tmp_path / "other")
    assert run.here("--resume") == 6
    assert (tmp_path / "other").read_bytes() == holds


@pytest.mark.parametrize("layout", ["flat", "by-frame", "webdataset"])
def test_deleted_and_truncated_files_are_written_again(
    layout: str, job: Path, tmp_path: Path, uninterrupted: Any
) -> None:
    options = ("--output-layout", layout, "--metadata", "jsonl")
    run = Run(job, tmp_path, "frames", *options)
    run.interrupted(signal.SIGKILL, frames=60).communicate()
    images = sorted(path for path in run.faces.rglob("*.*") if path.suffix in (".png", ".tar") and path.name[0] != ".")
    if layout != "webdataset":
        images[3].unlink()
        images[7].write_bytes(images[7].read_bytes()[:-30])
        images[9].write_bytes(b"")
        (images[9].parent / ".part-f_000001_0.png").write_bytes(b"half")
    else:
        images[0].write_bytes(images[0].read_bytes()[:-2000])
        (run.faces / ".part-00009.tar").write_bytes(b"half")
    (run.faces / ".part-of-something").write_bytes(b"half")
    (run.faces / ".faces.jsonl.4711-0123abcd.tmp").write_bytes(b"half")
    assert run.here("--resume", "--deleted", "restore") == 4
    same(run.outcome(), uninterrupted("frames", *options))


def finished(job: Path, folder: Path, *options: str) -> tuple[Run, list[Path]]:
    """A finished run over the clip's every 20th frame, some with two faces, and its files."""
    run = Run(job, folder, "clip.mp4", "-een", "20", "-sz", "64", *options)
    assert run.here() == 0
    return run, sorted(path for path in run.faces.rglob("*.*") if path.suffix == ".png")


def notes_of(run: Run) -> list[str]:
    notes: list[str] = json.loads(run.report_file.read_text())["notes"]
    return notes


@pytest.mark.parametrize("layout", ["flat", "by-frame"])
@pytest.mark.parametrize("interrupted", [False, True])
def test_faces_that_were_deleted_stay_out_and_are_named(
    interrupted: bool, layout: str, job: Path, tmp_path: Path, uninterrupted: Any
) -> None:
    options = ("--output-layout", layout, "--metadata", "jsonl")
    run = Run(job, tmp_path, "frames", *options)
    if interrupted:
        run.interrupted(signal.SIGTERM, frames=60).communicate()
    else:
        assert run.here() == 4
    files, alignments, report = uninterrupted("frames", *options)
    deleted = sorted(path for path in run.faces.rglob("f_00000[2-5]*.png"))
    for path in deleted:
        path.unlink()
    names = {path.relative_to(run.faces).as_posix() for path in deleted}
    for _ in range(2):
        assert run.here("--resume") == 4
        found = run.outcome()
        assert {name for name in files if name not in found[0]} == names
        assert found[1] == alignments, "the hashes of faces that were deleted are still true"
        assert found[2]["faces_left_out"] == len(names) == 6
        assert found[2]["faces_written"] == report["faces_written"] - len(names)
        rows = [json.loads(line)["file"] for line in (run.faces / "faces.jsonl").read_text().splitlines()]
        assert len(rows) == found[2]["faces_written"]
        assert not names & set(rows)
        note = next(note for note in notes_of(run) if "gone from the folder" in note)
        assert note.startswith("6 faces of the earlier run are gone from the folder (")
        assert all(name in note for name in sorted(names)[:3])
        assert "--deleted restore makes them again" in note
    assert run.here("--resume", "--deleted", "restore") == 4
    found = run.outcome()
    changed = {"hashes_changed": report["hashes_changed"]}
    same((*found[:2], found[2] | changed), (files, alignments, report))
    assert "made again" in next(note for note in notes_of(run) if "gone from the folder" in note)


def test_a_deleted_face_of_a_frame_that_is_made_again_stays_out_and_can_be_restored(job: Path, tmp_path: Path) -> None:
    run, images = finished(job, tmp_path)
    assert len(images) > 13
    before = run.files()
    first, second = (run.faces / f"clip_000001_{index}.png" for index in (0, 1))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-40])
    assert run.here("--resume") == 0
    assert run.files() == {name: data for name, data in before.items() if name != first.name}
    assert [f"({path.name})" in note for path, note in zip((first, second), notes_of(run), strict=False)] == [
        True,
        True,
    ]
    assert run.here("--resume", "--deleted", "restore") == 0
    assert run.files() == before


def test_a_folder_that_was_emptied_is_filled_again(job: Path, tmp_path: Path) -> None:
    run, images = finished(job, tmp_path)
    before = run.files()
    for path in images:
        path.unlink()
    assert run.here("--resume") == 0
    assert run.files() == before
    assert notes_of(run)[0] == (
        f"{len(images)} faces of the earlier run are gone, and no other is in the folder: all are made again."
    )


def test_faces_that_were_sorted_into_folders_do_not_come_back(job: Path, tmp_path: Path) -> None:
    run, images = finished(job, tmp_path)
    (run.faces / "good").mkdir()
    for path in images:
        path.rename(path.parent / "good" / path.name)
    before = run.files()
    assert run.here("--resume") == 0
    assert run.files() == before
    assert notes_of(run)[0].startswith(f"{len(images)} faces of the earlier run are gone from the folder (")


def test_faces_that_other_programs_wrote_anew_are_not_overwritten(job: Path, tmp_path: Path) -> None:
    """With the same pixels, as tools do that add masks to headers; their work would be lost."""
    run, images = finished(job, tmp_path)
    cv2.imwrite(str(images[3]), read_image(images[3]), [cv2.IMWRITE_PNG_COMPRESSION, 9])
    before = run.files()
    assert run.here("--resume") == 0
    assert run.files() == before
    assert notes_of(run) == []


def test_a_frame_that_comes_late_is_the_only_one_that_is_cut(job: Path, tmp_path: Path) -> None:
    """Whoever reads that a frame is missing adds it; all frames after it then have other positions."""
    frames = tmp_path / "frames"
    frames.mkdir()
    late, *others = sorted((job / "frames").iterdir())[:6]
    for path in others:
        shutil.copy(path, frames)
    run = Run(job, tmp_path, "frames", "-sz", "64", "--no-update")
    loaded = Alignments.load(run.alignments).root()
    write_alignments(run.alignments, {path.name: loaded[path.name] for path in (late, *others)})
    run.command[run.command.index("-fr") + 1] = str(frames)
    assert run.here() == 4
    before = run.files()
    shutil.copy(late, frames)
    assert run.here("--resume") == 0
    after = run.files()
    made = sorted(after.keys() - before.keys())
    assert made == [f"{late.stem}_{index}.png" for index in range(len(loaded[late.name]))]
    assert {name: after[name] for name in before} == before
    assert json.loads(run.report_file.read_text())["faces_written"] == len(after)
    (run.faces / f"{others[0].stem}_0.png").unlink()
    del after[f"{others[0].stem}_0.png"]
    assert run.here("--resume") == 0
    assert run.files() == after, "the frame that had the late one's position before is still known"


def test_shards_that_are_gone_are_made_again_and_said_so(job: Path, tmp_path: Path) -> None:
    run, _ = finished(job, tmp_path, "--output-layout", "webdataset")
    before = run.files()
    (run.faces / "00000.tar").unlink()
    assert run.here("--resume") == 0
    assert run.files() == before
    assert "made again" in notes_of(run)[0]


@pytest.mark.parametrize("layout", ["flat", "webdataset"])
def test_two_runs_do_not_share_a_folder(
    layout: str, job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(job, tmp_path, "frames", "--output-layout", layout)
    process = run.interrupted(signal.SIGSTOP)
    try:
        other = Run(job, tmp_path / "other", "frames", "--output-layout", layout)
        other.command[other.command.index("-fc") + 1] = str(run.faces)
        assert other.here("--resume") == 6
        assert "another run is writing into" in capsys.readouterr().err
    finally:
        process.kill()
        process.communicate()


def crowded_frame(job: Path, folder: Path, vector_faces: Any) -> Run:
    """One frame with faces for a minute."""
    run = Run(job, folder, "frames", "-sz", "512", "--workers", "2")
    face = face_record(landmarks_at(vector_faces, 0))
    write_alignments(run.alignments, {"f_000001.png": [dict(face) for _ in range(6000)]})
    return run


def when_cutting(run: Run) -> subprocess.Popen[str]:
    process = run.elsewhere()
    while not list(run.faces.glob("*.png")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    return process


def test_a_signal_does_not_wait_for_a_crowded_frame(job: Path, tmp_path: Path, vector_faces: Any) -> None:
    process = when_cutting(crowded_frame(job, tmp_path, vector_faces))
    process.send_signal(signal.SIGTERM)
    sent = time.monotonic()
    out, _ = process.communicate(timeout=20)
    assert time.monotonic() - sent < 5
    assert process.returncode == 143
    assert "--resume" in out


def test_the_second_signal_ends_it_at_once(job: Path, tmp_path: Path, vector_faces: Any) -> None:
    process = when_cutting(crowded_frame(job, tmp_path, vector_faces))
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    sent = time.monotonic()
    process.communicate(timeout=20)
    assert time.monotonic() - sent < 1
    assert process.returncode == 130


@pytest.mark.parametrize("quiet", [False, True])
def test_a_quiet_run_says_how_to_resume_too(quiet: bool, job: Path, tmp_path: Path) -> None:
    run = Run(job, tmp_path, "frames", *(["-q"] if quiet else []))
    process = run.interrupted(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert "--resume to continue" in (err if quiet else out)
    assert not (out if quiet else err)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_loading(
    number: signal.Signals,
    code: int,
    job: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    load = Alignments.load

    def interrupted_load(path: Path, **options: Any) -> Alignments:
        signal.raise_signal(number)
        return load(path, **options)

    monkeypatch.setattr(Alignments, "load", interrupted_load)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    run = Run(job, tmp_path)
    assert run.here() == code
    assert capsys.readouterr().err == "gpu-extract: interrupted.\n"
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert not run.faces.exists()


@pytest.mark.parametrize("at", range(4))
def test_a_signal_while_saving(
    at: int, job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGTERM at each flush: the alignments file is whole, and resuming finishes the work."""
    run = Run(job, tmp_path, "clip.mp4", "-een", "20", "-sz", "64")
    real, left = os.fsync, [at]

    def fsync(descriptor: int) -> None:
        real(descriptor)
        if run.finished_frames() >= 13 and "journal" not in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            left[0] -= 1
            if left[0] == -1:
                signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        assert run.here() == 143
    assert "interrupted; run the same command with --resume to continue" in capsys.readouterr().err
    assert not [path for path in tmp_path.iterdir() if path.name.endswith((".tmp", ".lock"))]
    saved = Alignments.load(run.alignments)
    assert (run.alignments.read_bytes() == run.original) == (saved.stored_hash(0) is None) == (at < 3)
    assert run.here("--resume") == 0
    assert Alignments.load(run.alignments).stored_hash(0)
    assert run.original in run.backups()


@pytest.mark.parametrize(
    "when_closed", [None, ValueError("the video is closed.")], ids=["endless", "closed underneath"]
)
def test_stopping_does_not_wait_for_a_frame_far_away(when_closed: Exception | None) -> None:
    """`closed underneath` is as a video is whose index was being read."""
    source = FakeSource(torn=[0], waits_at=10**9, when_closed=when_closed)
    plan = Plan(
        size=16,
        frame_names=["a", "b"],
        positions=np.array([0, 10**9]),
        rows=np.arange(2),
        starts=np.arange(3),
        index=np.zeros(2, np.int32),
        frame_of=np.arange(2, dtype=np.int32),
        geometry=CropGeometry(np.zeros((2, 2, 3)), np.zeros(2, bool), np.ones(2, bool)),
        region=np.zeros((2, 4), np.int64),
        extension=".png",
    )

    def finish(*_: Any) -> FaceResult:
        raise AssertionError

    pipeline = Pipeline(plan, source, NoEngine(), finish, 2)
    began = time.monotonic()
    results = []
    for result in pipeline:
        results.append(result)
        pipeline.stop()
    assert time.monotonic() - began < 2
    assert [result.task.position for result in results] == [0]


def test_closing_a_video_ends_the_reading_of_its_index(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading = threading.Event()

    def slow(*given: Any) -> Any:
        reading.set()
        time.sleep(0.05)
        return row(*given)

    row = index._row
    monkeypatch.setattr(index, "_row", slow)
    with open_frames(job / "clip.mp4") as source:
        found: list[Any] = []
        walker = threading.Thread(target=lambda: found.extend(source.frames(np.array([FRAMES - 1]))))
        walker.start()
        assert reading.wait(5)
        source.close()
        walker.join(2)
        assert not walker.is_alive()
        assert found == []
