"""Whole runs whose frames go the native way, against the same runs that go the long one."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_extract.alignments import Alignments
from gpu_extract.jobs.extract import extract
from gpu_extract.jobs.runs import extraction
from gpu_extract.jobs.runs.extraction import Extraction
from gpu_extract.kernels.cutter import Cutter, is_available
from gpu_extract.run.crew import Crew
from gpu_extract.run.journal import Finished, Journal, frame_entry, line
from gpu_extract.tasks import FaceResult
from tests.helpers import Instructions, Job, by_the_long_way, face_entry, image_bytes, noise, write_clip, write_pickled

pytestmark = pytest.mark.skipif(not is_available(), reason="the C extension was not built here")

FRAMES, SIZE = 48, (76, 90)


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many frames went each way: "whole", "cut", "finished" natively, and how often the long one was taken."""
    taken = {"whole": 0, "cut": 0, "finished": 0, "refused": 0}

    def counted(name: str, way: str) -> None:
        real = getattr(Crew, name)

        def call(self: Crew, *given: Any) -> Any:
            found = real(self, *given)
            taken[way if found not in (None, False) else "refused"] += 1
            return found

        monkeypatch.setattr(Crew, name, call)

    counted("order", "whole")
    counted("cut", "cut")
    counted("finish", "finished")
    return taken


@pytest.fixture
def job(tmp_path: Path, landmarks: np.ndarray) -> Callable[..., Job]:
    """`job(name, *options)`: two faces a frame of a clip, or of a folder of images if that is asked for."""
    clip = write_clip(tmp_path / "clip.mp4", FRAMES, SIZE, options={"g": "6", "bf": "2"})
    small = ((landmarks - landmarks.mean(axis=0)) * 0.25).astype(np.float32)

    def at(x: float, y: float) -> dict[str, Any]:
        return face_entry(small + np.array((x, y), np.float32))

    entries = {f"clip_{n + 1:06d}.png": [at(30 + n / 3, 36), at(70, 20 + n)] for n in range(FRAMES)}

    def make(name: str, *options: str, frames: Path = clip, **changes: Any) -> Job:
        (tmp_path / name).mkdir()
        return Job(write_pickled(tmp_path / name / "a.fsa", entries | changes), frames, "-sz", "48", *options)

    return make


def cutting_threads() -> int:
    return sum(path.read_text() == "gpu-extract-cut\n" for path in Path("/proc/self/task").glob("*/comm"))


def long_way(job: Job, monkeypatch: pytest.MonkeyPatch) -> int:
    with monkeypatch.context() as patch:
        by_the_long_way(patch)
        return job.run()


def assert_equal(one: Job, other: Job) -> None:
    """Files, the journal's lines in any order, the alignments file, and what the report counts."""
    assert {name: data for name, data in one.files().items() if not name.startswith(".")} == {
        name: data for name, data in other.files().items() if not name.startswith(".")
    }
    lines = [sorted((each.faces / ".gpu-extract.journal").read_bytes().splitlines()) for each in (one, other)]
    assert lines[0] == lines[1]
    assert one.alignments.read_bytes() == other.alignments.read_bytes()
    names = ("faces_written", "faces_failed", "frames_decoded", "bytes_written", "hashes_changed", "errors")
    counts = [{name: each.report[name] for name in names} for each in (one, other)]
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--workers", "1"),
        ("--workers", "5"),
        ("--output-layout", "by-frame"),
        ("--metadata", "jsonl"),
        ("-een", "5"),
        ("--align-eyes",),
        ("-sz", "17"),
    ],
    ids=" ".join,
)
def test_a_video_goes_it_whole(
    options: tuple[str, ...], job: Callable[..., Job], ways: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = job("native", *options), job("long", *options)
    assert one.run() == 0
    count = -(-FRAMES // 5) if "-een" in options else FRAMES
    assert ways == {"whole": count, "cut": 0, "finished": 0, "refused": 0}
    assert long_way(other, monkeypatch) == 0
    assert_equal(one, other)


def test_images_are_cut_where_they_are_decoded(
    tmp_path: Path, job: Callable[..., Job], ways: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "images").mkdir()
    for number in range(FRAMES):
        data = image_bytes(".jpg" if number % 2 else ".png", noise(76, 90, seed=number))
        (tmp_path / f"images/clip_{number + 1:06d}.png").write_bytes(data)
    one, other = job("native", frames=tmp_path / "images"), job("long", frames=tmp_path / "images")
    assert one.run() == 0
    assert ways["cut"] == FRAMES
    assert all(one.report["stage_seconds"][stage] > 0 for stage in ("load", "warp", "encode", "write"))
    assert long_way(other, monkeypatch) == 0
    assert_equal(one, other)


def test_crops_of_other_engines_are_finished(
    job: Callable[..., Job], ways: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = job("native", "--antialias"), job("long", "--antialias")
    assert one.run() == long_way(other, monkeypatch) == 0
    assert ways["finished"] == FRAMES
    assert ways["whole"] == ways["cut"] == 0
    assert_equal(one, other)


def test_crops_of_batches_are_finished(job: Callable[..., Job], ways: dict[str, int]) -> None:
    """Those of kornia, however its batches fall; hashes are those of the files."""
    pytest.importorskip("kornia")
    made = job("native", "--engine", "kornia")
    assert made.run() == 0
    assert ways["finished"] > 0
    assert ways["whole"] == ways["cut"] == 0
    stored = Alignments.load(made.alignments)
    names = [f"clip_{number + 1:06d}_{k}.png" for number in range(FRAMES) for k in range(2)]
    assert [stored.stored_hash(row) for row in range(2 * FRAMES)] == [made.hashes()[name] for name in names]


@pytest.mark.parametrize("options", [("--format", "jpg"), ("--output-layout", "webdataset")], ids=" ".join)
def test_other_formats_and_archives_go_the_long_way(
    options: tuple[str, ...], job: Callable[..., Job], ways: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = job("native", *options), job("long", *options)
    assert one.run() == 0
    assert ways["whole"] == ways["cut"] == ways["finished"] == 0
    assert long_way(other, monkeypatch) == 0
    assert one.files().keys() == other.files().keys()


def test_a_frame_that_cannot_go_it_goes_the_long_way(
    tmp_path: Path, job: Callable[..., Job], landmarks: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among others that do, and to the same end: here its name is refused, and a record lacks what its header needs."""
    (tmp_path / "images").mkdir()
    long_name = "x" * 250 + ".png"
    entry = face_entry(((landmarks - landmarks.mean(axis=0)) * 0.25 + (40, 36)).astype(np.float32))
    for name in ("clip_000001.png", "clip_000002.png", long_name):
        (tmp_path / "images" / name).write_bytes(image_bytes(".png", noise(76, 90)))
    one = job("native", frames=tmp_path / "images", **{long_name: [entry]})
    other = job("long", frames=tmp_path / "images", **{long_name: [entry]})
    assert one.run() == 4
    assert long_way(other, monkeypatch) == 4
    assert_equal(one, other)
    assert "is refused" in str(one.report["errors"])


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random(seed: int, job: Callable[..., Job]) -> None:
    whole, made = job("whole", "-sz", "512"), job("killed", "-sz", "512")
    assert whole.run() == 0
    delay = np.random.default_rng(seed)
    for _ in range(2):
        run = subprocess.Popen(
            [sys.executable, "-m", "gpu_extract", *made.command("--resume")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while run.poll() is None and not list(made.root.glob("faces/*.png")) and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(delay.uniform(0, 0.2))
        run.kill()
        run.wait()
        assert made.alignments.read_bytes() in (made.before, whole.alignments.read_bytes())
    assert made.run("--resume") == 0
    assert whole.hashes() == made.hashes()
    assert whole.alignments.read_bytes() == made.alignments.read_bytes()


@pytest.fixture(scope="session")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    library = tmp_path_factory.mktemp("faults") / "faults.so"
    source = Path(__file__).with_name("faults.c")
    built = subprocess.run([compiler, "-shared", "-fPIC", "-O1", source, "-o", library, "-ldl"], capture_output=True)
    if built.returncode != 0:
        pytest.skip("the C compiler cannot make a library")
    return library


ERRORS = pytest.mark.parametrize(
    "code", [errno.ENOSPC, errno.EDQUOT, errno.EIO], ids=lambda code: errno.errorcode[code]
)
LAYOUTS = pytest.mark.parametrize("layout", ["flat", "by-frame"])
CALLS = (0, 1, 2, 30, 31, 32, 77)


@ERRORS
@LAYOUTS
def test_calls_of_c_that_fail(layout: str, code: int, job: Callable[..., Job], faults: Path) -> None:
    """Each of the calls with one error; with the others, which differ in their words, one of each kind."""
    fail_in_c(CALLS if code == errno.ENOSPC else CALLS[3:6], layout, code, job, faults)


@pytest.mark.slow
@ERRORS
@LAYOUTS
def test_calls_of_c_that_fail_in_every_way(layout: str, code: int, job: Callable[..., Job], faults: Path) -> None:
    fail_in_c(CALLS, layout, code, job, faults)


def fail_in_c(calls_before: Sequence[int], layout: str, code: int, job: Callable[..., Job], faults: Path) -> None:
    """Writes, closes and renames, from some call on: a sentence, no file that is not whole, and a run that goes on."""
    whole = job("whole", "--output-layout", layout)
    assert whole.run() == 0
    wanted = {name for name in whole.files() if name.endswith(".png")}
    for calls in calls_before:
        made = job(f"after-{calls}", "--output-layout", layout)
        variables = {
            "LD_PRELOAD": str(faults),
            "FAULT_FOLDER": f"{made.faces}/.part-",
            "FAULT_CALLS": str(calls),
            "FAULT_ERRNO": str(code),
        }
        run = subprocess.run(
            [sys.executable, "-m", "gpu_extract", *made.command()],
            env=os.environ | variables,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert run.returncode == 6, (calls, run.stderr)
        said = [line for line in run.stderr.splitlines() if line.startswith("gpu-extract: ")]
        assert len(said) == 1
        assert "cannot be written to" in said[0]
        assert os.strerror(code) in said[0]
        assert "--resume" in said[0]
        assert "Traceback" not in run.stderr
        assert not list(made.faces.rglob(".part-*"))
        for path in made.faces.rglob("*.png"):
            assert path.read_bytes() == (whole.faces / path.relative_to(made.faces)).read_bytes()
        assert made.alignments.read_bytes() == made.before
        assert made.run("--resume") == 0
        assert {name for name in made.files() if name.endswith(".png")} == wanted
        assert made.alignments.read_bytes() == whole.alignments.read_bytes()


def test_a_run_that_is_asked_to_end(job: Callable[..., Job]) -> None:
    """Frames in flight are finished and recorded; no thread is left."""
    made = job("cancelled", "-sz", "1024")
    cancel = threading.Event()
    seen = []

    def listen(event: Any) -> None:
        seen.append(event)
        if len(seen) == 5:
            cancel.set()

    report = extract(
        made.alignments, made.frames, made.faces, size=1024, progress=listen, cancel=cancel, workers=2, device="cpu"
    )
    assert report.exit_code == 128 + signal.SIGINT or not report.complete
    written = len(list(made.faces.glob("*.png")))
    assert written == report.faces_written < 2 * FRAMES
    assert cutting_threads() == 0
    assert made.run("-sz", "1024", "--resume") == 0
    assert len(list(made.faces.glob("*.png"))) == 2 * FRAMES


@pytest.mark.parametrize("workers", [1, 2])
def test_frames_in_flight_are_given_up_when_their_time_is_over(
    workers: int, job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader then waits for room for one more."""
    monkeypatch.setattr(extraction, "GRACE_SECONDS", 0.0)
    made = job("given-up", "-sz", "1024")
    cancel = threading.Event()

    def listen(event: Any) -> None:
        if type(event).__name__ == "FrameDone":
            cancel.set()

    report = extract(
        made.alignments,
        made.frames,
        made.faces,
        size=1024,
        progress=listen,
        cancel=cancel,
        workers=workers,
        device="cpu",
    )
    assert report.exit_code == 128 + signal.SIGINT
    assert not report.complete
    assert report.errors == []
    assert report.faces_written < 2 * FRAMES
    assert cutting_threads() == 0
    assert made.run("--resume") == 0
    assert len(list(made.faces.glob("*.png"))) == 2 * FRAMES


def test_workers_that_are_idle_do_not_make_the_reader_the_limit(job: Callable[..., Job]) -> None:
    made = job("large", "-sz", "1024", "--workers", "1")
    assert made.run() == 0
    assert made.report["limiting_stage"] in ("warp", "hash", "encode", "write")


def test_an_error_of_a_listener_ends_the_crew(job: Callable[..., Job]) -> None:
    made = job("broken")

    def listen(event: Any) -> None:
        if type(event).__name__ == "FrameDone":
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        extract(made.alignments, made.frames, made.faces, size=48, progress=listen, workers=2, device="cpu")
    assert cutting_threads() == 0


def test_threads_that_the_system_refuses(
    job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = job("refused")

    def refuse(*_: Any) -> bool:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(Cutter, "submit", refuse)
    assert made.run("--workers", "3") == 5
    assert "the system grants some of the 3 threads that cut and then no more" in capsys.readouterr().err


def test_a_frame_costs_the_interpreter_few_instructions(tmp_path: Path, landmarks: np.ndarray) -> None:
    """Of Python's virtual machine, on all threads: by what a longer clip costs more than a shorter one."""
    small = ((landmarks - landmarks.mean(axis=0)) * 0.25).astype(np.float32)
    counts = []
    for frames in (20, 40, 160):  # what is done once for all runs is done in the first
        folder = tmp_path / str(frames)
        folder.mkdir()
        clip = write_clip(folder / "clip.mp4", frames, SIZE)
        faces = [face_entry(small + np.array(at, np.float32)) for at in ((30, 36), (60, 40))]
        entries = {f"clip_{n + 1:06d}.png": faces for n in range(frames)}
        job = Job(write_pickled(folder / "a.fsa", entries), clip)
        counts.append(instructions_of_cutting(job))
    assert (counts[2] - counts[1]) / 120 < 3000


def instructions_of_cutting(job: Job) -> int:
    """From the plan to the last frame in the journal."""
    counted = Instructions()
    run = Extraction._run_pipeline

    def traced(self: Extraction, *given: Any) -> None:
        with counted:
            run(self, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Extraction, "_run_pipeline", traced)
        assert extract(job.alignments, job.frames, job.faces, size=48, device="cpu", workers=2).exit_code == 0
    return counted.count


def test_lines_of_frames_are_those_of_any_entry(tmp_path: Path) -> None:
    names = ["a.png", 'with"mark\\.png', "new\nline\t\x00.png", "ä😀.png", os.fsdecode(b"\xff.png"), "\x7f\u2028.png"]
    frames = [
        Finished(7 * n, [FaceResult(n + k, k, name, "0123456789abcdef" * 2 + "01234567", 1 << 31) for k in range(n)])
        for n, name in enumerate(names)
    ]
    frames += [
        Finished(99, [FaceResult(k, k, "a.png", "0" * 40, 9, value)]) for k, value in enumerate((0.1, 7e-9, 0.0))
    ]
    frames.append(Finished(98, [FaceResult(k, k, "a.png", "0" * 40, 9, value) for k, value in ((7, 2 / 3), (8, None))]))
    frames.append(Finished(97, [FaceResult(k, k, "a.png", "0" * 40, 9, 1.5, "new") for k in (17, 18)]))
    journal = Journal.create(tmp_path, {})
    journal.add(*frames)
    journal.close()
    lines = (tmp_path / ".gpu-extract.journal").read_bytes().splitlines(keepends=True)[1:]
    assert lines == [line(frame_entry(frame)) for frame in frames]
    resumed = Journal.resume(tmp_path, {})
    resumed.close()
    assert resumed.finished == {frame.key: frame for frame in frames}
