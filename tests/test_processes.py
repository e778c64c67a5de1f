"""`--processes`: the same run by several processes; children that die, parents that die, and nobody left behind."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gpu_extract.cli import main
from gpu_extract.cli.chosen import in_force, values_of
from gpu_extract.cli.parser import build_parser
from gpu_extract.frames import open_frames
from gpu_extract.jobs.extract import extract
from gpu_extract.jobs.runs import processes
from gpu_extract.options import Settings, as_words
from gpu_extract.run import children, journal
from gpu_extract.run.folder import held
from gpu_extract.run.progress import Event, Finished, FrameDone, Note, Planned
from gpu_extract.storage.atomic import locked
from tests.helpers import (
    Job,
    extract_command,
    face_entry,
    files_in,
    image_bytes,
    noise,
    write_clip,
    write_pickled,
)

FRAMES, SIZE = 60, (76, 90)


@pytest.fixture
def job(tmp_path: Path, landmarks: np.ndarray) -> Callable[..., Job]:
    """A job over a clip of 60 frames in groups of 6; `job(name)` in a folder of that name."""
    clip = write_clip(tmp_path / "clip.mp4", FRAMES, SIZE, options={"g": "6", "bf": "0"})
    small = ((landmarks - landmarks.mean(axis=0)) * 0.25 + (40, 36)).astype(np.float32)
    entries = {f"clip_{number + 1:06d}.png": [face_entry(small)] for number in range(FRAMES)}

    def make(name: str, *options: str) -> Job:
        (tmp_path / name).mkdir()
        return Job(write_pickled(tmp_path / name / "a.fsa", entries), clip, "-sz", "48", *options)

    return make


@pytest.fixture
def many_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two shards for each process, however short the run."""
    monkeypatch.setattr(processes, "SHARD_SECONDS", 1e-9)
    monkeypatch.setattr(processes, "MOST_SHARDS_EACH", 2)


@pytest.fixture
def light_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Children ask a stand-in whether there is a CUDA device: each would import torch for seconds to hear of none."""
    pytest.importorskip("torch")  # this process keeps the real one
    (tmp_path / "light").mkdir()
    (tmp_path / "light" / "torch.py").write_text("class cuda:\n    is_available = staticmethod(lambda: False)\n")
    monkeypatch.syspath_prepend(tmp_path / "light")


def assert_equal(one: Job, other: Job) -> None:
    assert one.files() == other.files()
    assert one.alignments.read_bytes() == other.alignments.read_bytes()
    assert journal.names(one.faces) == [journal.NAME]


def children_of(faces: Path) -> list[int]:
    """Processes, of whoever, that name this folder on their command line and a shard."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            try:
                words = (path / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if os.fsencode(faces) in words and b"--shard" in words:
                found.append(int(path.name))
    return found


def elsewhere(job: Job, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "gpu_extract", *job.command(*options)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@pytest.mark.usefixtures("many_shards")
def test_the_same_as_one_process(job: Callable[..., Job]) -> None:
    whole, several = job("whole", "--metadata", "jsonl"), job("several", "--metadata", "jsonl")
    assert whole.run() == 0
    assert several.run("--processes", "2") == 0
    assert_equal(several, whole)
    report, alone = several.report, whole.report
    assert report["processes"] == 2
    same = ("faces_written", "frames_decoded", "frames_expected", "hashes_updated", "hashes_changed", "errors", "notes")
    assert {name: report[name] for name in same} == {name: alone[name] for name in same}


@pytest.mark.usefixtures("many_shards")
def test_a_listener_hears_of_every_frame_once(job: Callable[..., Job]) -> None:
    made = job("several")
    events: list[Event] = []
    extract(made.alignments, made.frames, made.faces, size=48, processes=2, device="cpu", progress=events.append)
    assert isinstance(events[0], Planned)
    assert events[0].frames == FRAMES
    assert isinstance(events[-1], Finished)
    done = [event for event in events if isinstance(event, FrameDone)]
    assert sorted(event.position for event in done) == list(range(FRAMES))
    assert {event.frame for event in done} == {f"clip_{number + 1:06d}.png" for number in range(FRAMES)}


@pytest.mark.usefixtures("many_shards")
def test_a_damaged_frame_of_a_folder(job: Callable[..., Job], tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    with open_frames(tmp_path / "clip.mp4") as source:
        for frame in source.frames(np.arange(FRAMES)):
            (frames / f"clip_{frame.index + 1:06d}.png").write_bytes(image_bytes(".png", frame.load().pixels))  # type: ignore[union-attr]
    (frames / "clip_000033.png").write_bytes(b"no picture")
    whole, several = job("whole"), job("several")
    whole.frames = several.frames = frames
    assert whole.run() == several.run("--processes", "3") == 4
    assert_equal(several, whole)
    assert several.report["errors"] == whole.report["errors"]


def hurt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str) -> None:
    """Have children run `body` first; `times(n)` in it tells whether it is one of the first n of them."""
    (tmp_path / "hurt").mkdir()
    (tmp_path / "hurt" / "sitecustomize.py").write_text(
        "import os, signal, sys, threading, time\n"
        "def times(n):\n"
        "    for i in range(n):\n"
        "        try:\n"
        f"            os.close(os.open({str(tmp_path / 'hurt')!r} + f'/{{i}}', os.O_CREAT | os.O_EXCL))\n"
        "            return True\n"
        "        except FileExistsError:\n"
        "            pass\n"
        "    return False\n"
        "if '--shard' in sys.argv or '_GPU_EXTRACT_PARENT' in os.environ:\n" + body
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'hurt'}:{os.environ.get('PYTHONPATH', '')}")


@pytest.mark.usefixtures("many_shards")
def test_a_child_that_dies_is_started_again(
    job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hurt(monkeypatch, tmp_path, "    if times(2): os.kill(os.getpid(), signal.SIGKILL)\n")
    whole, several = job("whole"), job("several")
    assert whole.run() == 0
    notes: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Note):
            notes.append(event.text)

    report = extract(
        several.alignments, several.frames, several.faces, size=48, processes=2, device="cpu", progress=listen
    )
    assert report.exit_code == 0
    assert_equal(several, whole)
    assert len([note for note in notes if "ended by signal 9; it is started again" in note]) == 2


def test_what_kills_a_child_three_times_is_named(
    job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The frames of its shard; those of the others are whole, and later runs can fill in."""
    hurt(monkeypatch, tmp_path, "    if '0/2' in sys.orig_argv: os.kill(os.getpid(), signal.SIGSEGV)\n")
    whole, several = job("whole"), job("several")
    assert whole.run() == 0
    assert several.run("--processes", "2") == 4
    report = several.report
    assert {error["reason"] for error in report["errors"]} == {
        "the process that was to cut it ended by signal 11, 3 times"
    }
    assert report["faces_written"] + report["faces_failed"] == FRAMES
    assert 0 < report["faces_failed"] < FRAMES
    monkeypatch.delenv("PYTHONPATH")
    assert several.run("--resume") == 0
    assert_equal(several, whole)


def test_bad_input_is_not_tried_again(job: Callable[..., Job], capsys: pytest.CaptureFixture[str]) -> None:
    made = job("several")
    made.frames.write_bytes(made.frames.read_bytes()[:5000])
    assert made.run() == 3
    sentence = capsys.readouterr().err
    assert made.run("--processes", "2") == 3
    assert capsys.readouterr().err == sentence


@pytest.mark.usefixtures("light_torch")
def test_a_device_that_is_not_there(job: Callable[..., Job], capsys: pytest.CaptureFixture[str]) -> None:
    """Another one takes its shard; where there is none, the run ends with the sentence that one process would say."""
    made, alone = job("several"), job("alone")
    assert alone.run("--device", "cuda:7") == 5
    sentence = capsys.readouterr().err
    assert made.run("--device", "auto", "--processes", "2", "--devices", "cuda:7,cuda:7") == 5
    assert capsys.readouterr().err.splitlines()[-1] == sentence.splitlines()[-1]
    assert made.alignments.read_bytes() == made.before
    assert made.run("--device", "auto", "--processes", "2", "--devices", "cpu,cuda:7", "--resume") == 0
    assert alone.run("--resume") == 0
    assert_equal(made, alone)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_within_seconds(number: signal.Signals, job: Callable[..., Job]) -> None:
    whole, made = job("whole", "-sz", "512"), job("several", "-sz", "512")
    assert whole.run() == 0
    run = elsewhere(made, "--processes", "2")
    deadline = time.monotonic() + 20
    while not list(made.faces.glob("*.png")) and time.monotonic() < deadline:
        time.sleep(0.02)
    began = time.monotonic()
    run.send_signal(number)
    _, err = run.communicate(timeout=20)
    assert time.monotonic() - began < 5
    assert run.returncode == 128 + number
    assert children_of(made.faces) == []
    assert b"Traceback" not in err
    assert made.run("--resume", "--processes", "2") == 0
    assert_equal(made, whole)


def test_children_end_with_their_parent(job: Callable[..., Job]) -> None:
    whole, made = job("whole", "-sz", "512"), job("several", "-sz", "512")
    assert whole.run() == 0
    run = elsewhere(made, "--processes", "2")
    deadline = time.monotonic() + 20
    while not children_of(made.faces) and time.monotonic() < deadline:
        time.sleep(0.02)
    run.kill()
    run.communicate()
    deadline = time.monotonic() + 10
    while children_of(made.faces) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert children_of(made.faces) == []
    assert made.run("--resume") == 0  # with fewer processes: one
    assert_equal(made, whole)


KILLS = int(os.environ.get("KILLS", "4"))


@pytest.mark.parametrize("seed", range(KILLS))
def test_killed_at_random(seed: int, job: Callable[..., Job]) -> None:
    """`make soak` does it a hundred times: a child, the parent or both."""
    whole, made = job("whole", "-sz", "256"), job("several", "-sz", "256")
    assert whole.run() == 0
    generator = random.Random(seed)
    for _ in range(2):
        run = elsewhere(made, "--processes", "2", "--resume")
        time.sleep(generator.uniform(0.2, 2.0))
        victims = generator.choice(["child", "parent", "both"])
        crew = children_of(made.faces)
        if victims != "parent" and crew:
            with contextlib.suppress(ProcessLookupError):
                os.kill(generator.choice(crew), signal.SIGKILL)
        if victims != "child":
            run.kill()
        run.communicate(timeout=60)
        deadline = time.monotonic() + 10
        while children_of(made.faces) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert children_of(made.faces) == []
    assert made.run("--processes", "2", "--resume") == 0
    assert_equal(made, whole)


def test_auto_takes_one_process_where_more_do_not_pay(job: Callable[..., Job]) -> None:
    made = job("several")
    assert made.run("--processes", "auto") == 0
    assert made.report["processes"] == 1
    assert any("one process: " in note for note in made.report["notes"])


def test_auto_takes_several_where_the_interpreter_limits(
    job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "WORTHWHILE_SECONDS", 1e-9)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    made = job("several")
    assert made.run("--processes", "auto") == 0
    assert made.report["processes"] == 2
    assert any("2 processes, as many as pay" in note for note in made.report["notes"])


def test_a_run_that_one_process_began_is_continued_by_one(job: Callable[..., Job]) -> None:
    whole, made = job("whole"), job("several")
    assert whole.run() == 0
    assert made.run("--max-errors", "1") == 0
    (made.faces / "clip_000007_0.png").unlink()
    assert made.run("--processes", "2", "--resume", "--deleted", "restore") == 0
    assert_equal(made, whole)
    assert any("begun by one process" in note for note in made.report["notes"])


def test_a_folder_with_shards_is_not_taken_by_accident(
    job: Callable[..., Job], capsys: pytest.CaptureFixture[str]
) -> None:
    made = job("several")
    assert made.run("--shard", "0/2") == 0
    capsys.readouterr()
    assert made.run("--processes", "2") == 6
    assert "holds shards of a run (1 of 2)" in capsys.readouterr().err
    assert made.run("--processes", "2", "--resume") == 0
    whole = job("whole")
    assert whole.run() == 0
    assert_equal(made, whole)


def test_a_run_that_stops_at_an_error_stops_them_all(job: Callable[..., Job], tmp_path: Path) -> None:
    made = job("several")
    made.frames = tmp_path / "frames"
    made.frames.mkdir()
    for number in range(FRAMES):
        data = b"no picture" if number == 20 else image_bytes(".png", noise(*SIZE, seed=number))
        (made.frames / f"clip_{number + 1:06d}.png").write_bytes(data)
    before = made.alignments.read_bytes()
    code = made.run("--processes", "2", "--on-error", "stop")
    assert code == 4
    assert made.report["stopped"]
    assert [error["frame"] for error in made.report["errors"]] == ["clip_000021.png"]
    assert made.alignments.read_bytes() == before
    assert any("--resume" in note for note in made.report["notes"])


def broken_folder(path: Path, *bad: int) -> Path:
    path.mkdir()
    for number in range(FRAMES):
        data = b"no picture" if number in bad else image_bytes(".png", noise(*SIZE, seed=number))
        (path / f"clip_{number + 1:06d}.png").write_bytes(data)
    return path


def test_errors_of_all_processes_count_together(job: Callable[..., Job], tmp_path: Path) -> None:
    made = job("several")
    made.frames = broken_folder(tmp_path / "frames", 3, 50)
    assert made.run("--processes", "2", "--max-errors", "2") == 4
    assert made.report["stopped"]
    assert len(made.report["errors"]) == 2
    assert made.alignments.read_bytes() == made.before


def test_what_the_plan_knows_to_fail_stops_a_run(job: Callable[..., Job], tmp_path: Path) -> None:
    """Before anything is cut, as in one process."""
    whole, several = job("whole", "--on-error", "stop"), job("several", "--on-error", "stop")
    whole.frames = several.frames = broken_folder(tmp_path / "frames")
    (whole.frames / "clip_000007.png").unlink()
    assert whole.run() == several.run("--processes", "2") == 4
    assert_equal(several, whole)
    assert several.alignments.read_bytes() == several.before
    assert several.report["errors"] == whole.report["errors"]


def test_a_listener_hears_of_frames_that_fail(job: Callable[..., Job], tmp_path: Path) -> None:
    made = job("several")
    made.frames = broken_folder(tmp_path / "frames", 3, 50)
    events: list[Event] = []
    extract(made.alignments, made.frames, made.faces, size=48, processes=2, device="cpu", progress=events.append)
    done = [event for event in events if isinstance(event, FrameDone)]
    assert sorted(event.position for event in done) == list(range(FRAMES))
    assert {event.position for event in done if event.failures} == {3, 50}


def test_faces_that_were_deleted_stay_out(job: Callable[..., Job]) -> None:
    whole, several = job("whole"), job("several")
    assert whole.run() == 0
    for number in range(2):
        assert several.run("--shard", f"{number}/2") == 0
    for made in (whole, several):
        (made.faces / "clip_000001_0.png").unlink()
    assert whole.run("--resume") == several.run("--resume", "--processes", "2") == 0
    assert_equal(several, whole)
    assert several.report["faces_left_out"] == 1


def test_an_emptied_folder_is_filled_again(job: Callable[..., Job]) -> None:
    whole, several = job("whole"), job("several")
    assert whole.run() == 0
    for number in range(5):
        assert several.run("--shard", f"{number}/5") == 0
    for path in several.faces.glob("*.png"):
        path.unlink()
    assert several.run("--resume", "--processes", "2") == 0
    assert_equal(several, whole)


def test_what_a_killed_merge_left(job: Callable[..., Job]) -> None:
    """The journal of all, and receipts that it did not come to remove."""
    whole, several = job("whole"), job("several")
    assert whole.run() == several.run("--shard", "0/2") == several.run("--shard", "1/2") == 0
    receipt = several.faces / f"{journal.NAME}.1-of-2"
    kept = receipt.read_bytes()
    assert several.run("--resume") == 0
    receipt.write_bytes(kept)
    assert several.run("--resume", "--processes", "2") == 0
    assert_equal(several, whole)


def test_who_holds_the_folder_or_the_file(job: Callable[..., Job], capsys: pytest.CaptureFixture[str]) -> None:
    made = job("several")
    with locked(made.alignments):
        assert made.run("--processes", "2") == 7
    assert "is in use by another run" in capsys.readouterr().err
    assert not made.faces.exists()
    made.faces.mkdir()
    with held(made.faces):
        assert made.run("--processes", "2") == 6
    assert "another run is writing into" in capsys.readouterr().err
    assert made.run("--shard", "1/2") == 0
    before = files_in(made.faces)
    assert made.run("--processes", "2") == 6
    assert "holds shards of a run (1 of 2)" in capsys.readouterr().err
    assert files_in(made.faces) == before


@pytest.mark.usefixtures("light_torch")
def test_a_device_of_several_is_not_there(job: Callable[..., Job]) -> None:
    """Whichever comes first."""
    whole, made = job("whole"), job("several")
    assert whole.run() == 0
    assert made.run("--device", "auto", "--processes", "2", "--devices", "cuda:7,cpu") == 0
    assert_equal(made, whole)
    assert made.report["device"] == "cpu"


def test_more_processes_than_cores(monkeypatch: pytest.MonkeyPatch, job: Callable[..., Job]) -> None:
    """Those that share a core and a device run beside each other all the same."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    started: list[children.Child] = []
    running: list[int] = []
    start = children.Child.start

    def counted(words: list[str], cores: set[int]) -> children.Child:
        started.append(start(words, cores))
        running.append(sum(child.process.returncode is None for child in started))  # as the parent knows it
        return started[-1]

    monkeypatch.setattr(children.Child, "start", counted)
    made = job("several")
    assert made.run("--processes", "3") == 0
    assert running == [1, 2, 3]


def test_modules_where_it_is_started(job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder of that name, or a file that is called as a module of Python's, is none of a child's."""
    (tmp_path / "here").mkdir()
    for name in ("queue.py", "gpu_extract.py", "cv2.py"):
        (tmp_path / "here" / name).write_text("raise SystemExit(9)\n")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    whole, made = job("whole"), job("several")
    assert whole.run() == made.run("--processes", "2") == 0
    assert_equal(made, whole)


def test_another_name_of_the_file_is_told(job: Callable[..., Job], tmp_path: Path) -> None:
    made = job("several")
    os.link(made.alignments, tmp_path / "other.fsa")
    assert made.run("--processes", "2") == 0
    assert any("hard links" in note for note in made.report["notes"])


def test_cores_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 4, 6, 7})
    assert children.shares(3) == [{0, 1}, {2, 3}, {4, 6, 7}]
    assert children.shares(1) == [{0, 1, 2, 3, 4, 6, 7}]
    assert [len(share) for share in children.shares(9)] == [1] * 9


def test_words_say_all_that_can_be_said(tmp_path: Path) -> None:
    settings = Settings(
        alignments=tmp_path / "a.fsa",
        frames=tmp_path / "f",
        faces=Path("-faces"),
        size=300,
        align_eyes=True,
        quality=70,
        format="jpg",
        shard="2/5",
        workers=3,
    )
    words = as_words(settings)
    os.environ["GPU_EXTRACT_SIZE"] = "64"
    try:
        arguments = build_parser().parse_args(["extract", "--config", "", *words])
        assert Settings(**values_of(in_force(arguments, "extract"))) == settings
    finally:
        del os.environ["GPU_EXTRACT_SIZE"]


def test_the_alignments_file_is_kept_while_they_cut(
    job: Callable[..., Job], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = job("several", "-sz", "512")
    run = elsewhere(made, "--processes", "2")
    deadline = time.monotonic() + 20
    while not list(made.faces.glob("*.png")) and time.monotonic() < deadline:
        time.sleep(0.02)
    other = extract_command(made.alignments, made.frames, tmp_path / "other", "-sz", "48")
    assert main(other) != 0
    assert "another run" in capsys.readouterr().err
    run.communicate(timeout=60)
    assert run.returncode == 0
    assert main(other) == 0
