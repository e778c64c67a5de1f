"""What a run tells while it goes on, to whom, and how a host program ends it."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpu_extract
from gpu_extract.demo.clip import make_clip
from gpu_extract.errors import FrameError, UsageError
from gpu_extract.jobs.verify import verify
from gpu_extract.run.progress import Bar, Event, Finished, FrameDone, Note, Plain, Planned, Silent, listener_for
from gpu_extract.tasks import FaceResult, Failure
from tests.helpers import by_the_long_way


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_clip(tmp_path_factory.mktemp("clip"))


def extract(clip: Any, faces: Path, **options: Any) -> gpu_extract.Report:
    return gpu_extract.extract(clip.alignments, clip.video, faces, size=32, device="cpu", no_update=True, **options)


def test_a_callable_gets_every_event_of_a_run(clip: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    events: list[Event] = []
    threads = set()

    def listen(event: Event) -> None:
        events.append(event)
        threads.add(threading.current_thread())

    report = extract(clip, tmp_path / "faces", progress=listen)
    planned, *done, finished = events
    assert planned == Planned(72, 118)
    assert finished == Finished(0)
    frames = [event for event in done if isinstance(event, FrameDone)]
    assert frames == done
    assert len({event.frame for event in frames}) == 72
    names = {face.file_name for event in frames for face in event.faces}
    assert len(names) == report.faces_written == 118
    assert all((tmp_path / "faces" / name).is_file() for name in names)
    assert threads == {threading.current_thread()}
    assert capfd.readouterr() == ("", "")
    with pytest.raises(FrozenInstanceError):
        frames[0].frame = "another"  # type: ignore[misc]


def test_a_resumed_run_plans_what_is_left_and_verify_tells_the_same_way(clip: Any, tmp_path: Path) -> None:
    extract(clip, tmp_path / "faces", progress="none")
    next((tmp_path / "faces").glob("*.png")).unlink()
    events: list[Event] = []
    extract(clip, tmp_path / "faces", progress=events.append, resume=True, deleted="restore")
    assert isinstance(events[0], Planned)
    assert events[0].frames == 1
    checked: list[Event] = []
    report = verify(clip.alignments, clip.video, tmp_path / "faces", progress=checked.append)
    assert report.exit_code == 0
    assert checked[0] == Planned(72, 118)
    assert checked[-1] == Finished(0)


def test_failures_come_with_their_frame(tmp_path: Path, vectors: Path) -> None:
    events: list[Event] = []
    frames = tmp_path / "frames"
    frames.mkdir()
    for path in (vectors / "frames").glob("f_*.png"):
        (frames / path.name).write_bytes(b"" if path.name == "f_000002.png" else path.read_bytes())
    alignments = vectors / "alignments" / "g6_2019-12.fsa"
    report = gpu_extract.extract(
        alignments, frames, tmp_path / "faces", size=32, no_update=True, progress=events.append
    )
    failed = [event for event in events if isinstance(event, FrameDone) and event.failures]
    assert [event.frame for event in failed] == ["f_000002.png"]
    assert isinstance(failed[0].failures[0], Failure)
    assert events[-1] == Finished(report.exit_code) == Finished(4)


def test_the_end_is_told_also_when_an_error_ends_the_run(
    clip: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpu_extract.face_files.encoders import png

    def fails(*_: object) -> bytes:
        raise OSError(28, "No space left on device")

    by_the_long_way(monkeypatch)
    monkeypatch.setattr(png.PngEncoder, "encode", fails)
    events: list[Event] = []
    with pytest.raises(OSError, match="No space left"):
        extract(clip, tmp_path / "faces", progress=events.append)
    assert events[-1] == Finished(None)


def test_what_a_listener_raises_ends_the_run(clip: Any, tmp_path: Path) -> None:
    def listen(event: Event) -> None:
        if isinstance(event, FrameDone):
            raise FrameError("enough")

    with pytest.raises(FrameError, match="enough"):
        extract(clip, tmp_path / "faces", progress=listen)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("gpu-extract")]


def test_an_event_ends_a_run_in_good_order_and_resume_goes_on(clip: Any, tmp_path: Path) -> None:
    cancel = threading.Event()
    done: list[FrameDone] = []

    def listen(event: Event) -> None:
        if isinstance(event, FrameDone):
            done.append(event)
            if len(done) == 5:
                cancel.set()
                cancelled.wait(0.3)  # the watcher's turn

    cancelled = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    report = extract(clip, tmp_path / "faces", progress=listen, cancel=cancel)
    assert report.exit_code == 130
    assert not report.complete
    assert 5 <= report.frames_decoded < 72
    assert "interrupted after" in report.notes[-1]
    assert "--resume" in report.notes[-1]
    assert signal.getsignal(signal.SIGINT) is before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("gpu-extract")]
    whole = extract(clip, tmp_path / "faces", progress="none", resume=True)
    assert whole.exit_code == 0
    assert whole.faces_written == 118


def test_an_event_that_is_set_already_ends_the_run_before_the_folder_is_made(clip: Any, tmp_path: Path) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(gpu_extract.InterruptedRunError, match="cancelled") as caught:
        extract(clip, tmp_path / "faces", cancel=cancel, progress="none")
    assert caught.value.exit_code == 130
    assert not (tmp_path / "faces").exists()
    extract(clip, tmp_path / "faces", progress="none")
    with pytest.raises(gpu_extract.InterruptedRunError):
        verify(clip.alignments, clip.video, tmp_path / "faces", cancel=cancel, progress="none")


def test_with_an_event_signals_are_left_alone(clip: Any, tmp_path: Path) -> None:
    taken: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: taken.append(number))
    try:

        def listen(event: Event) -> None:
            if isinstance(event, Planned):
                os.kill(os.getpid(), signal.SIGTERM)

        report = extract(clip, tmp_path / "faces", progress=listen, cancel=threading.Event())
    finally:
        signal.signal(signal.SIGTERM, before)
    assert taken == [signal.SIGTERM]
    assert report.exit_code == 0


def test_a_run_in_a_thread_of_a_host_needs_neither_signals_nor_standard_error(clip: Any, tmp_path: Path) -> None:
    code = (
        "import sys, threading, gpu_extract\n"
        "sys.stderr = sys.stdout = None\n"
        "events, found = [], []\n"
        f"given = ({str(clip.alignments)!r}, {str(clip.video)!r}, {str(tmp_path / 'faces')!r})\n"
        "def work():\n"
        "    found.append(gpu_extract.extract(*given, size=32, no_update=True, progress=events.append))\n"
        "thread = threading.Thread(target=work); thread.start(); thread.join()\n"
        "assert found[0].faces_written == 118 and len(events) == 74, (found, len(events))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def frame_done(faces: int) -> FrameDone:
    return FrameDone("f.png", 0, (FaceResult(0, 0, "f_0.png", "0" * 40, 1),) * faces, ())


def test_the_bar_is_not_torn_by_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    bar = Bar()
    bar(Note("preparing"))
    bar(Planned(3, 5))
    bar(frame_done(2))
    bar(Note("half way"))
    for _ in range(2):
        bar(frame_done(1))
    bar(Finished(0))
    said = stderr.getvalue()
    assert said.startswith("preparing\n")
    line = next(line for line in said.replace("\r", "\n").splitlines() if "half way" in line)
    assert line.strip() == "half way"
    assert "3/3" in said
    assert said.endswith("\n")


def test_plain_lines_come_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    plain = Plain()
    plain(Planned(30, 60))
    for seconds in np.full(20, 1.0):
        now[0] += seconds
        plain(frame_done(2))
    plain(Note("a note"))
    plain(Finished(0))
    assert capsys.readouterr().err.splitlines() == [
        "10/30 frames, 20 faces, 1.0 frames/s, 20 s left",
        "20/30 frames, 40 faces, 1.0 frames/s, 10 s left",
        "a note",
    ]


def test_words_and_callables() -> None:
    assert isinstance(listener_for("bar"), Bar)
    assert isinstance(listener_for("plain"), Plain)
    assert isinstance(listener_for("auto"), Plain)
    assert isinstance(listener_for("none"), Silent)
    assert listener_for(print) is print
    with pytest.raises(UsageError, match="progress 'loud' is not understood"):
        listener_for("loud")
