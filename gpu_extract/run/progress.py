"""What a run tells while it goes on: small events for whoever listens – a bar, plain lines, or a host program.

A listener is any callable that takes one event. It is called on the thread that called the job, never on two at once;
what it raises ends the run. Every run ends with a `Finished`, also by an error.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from gpu_extract.errors import UsageError, counted
from gpu_extract.options import option
from gpu_extract.run.pace import Pace, in_words

if TYPE_CHECKING:
    import numpy as np

    from gpu_extract.tasks import FaceResult, Failure, FrameResult

PLAIN_INTERVAL_SECONDS = 10.0
JSON_INTERVAL_SECONDS = 0.25
log = logging.getLogger("gpu_extract")


@dataclass(frozen=True, slots=True)
class Planned:
    """What this run is going to do; those that an earlier run finished are not in it."""

    frames: int
    faces: int
    positions: Sequence[int] | np.ndarray = field(default=(), compare=False, repr=False)
    """Of the frames in a video, ascending: those between them are decoded as well. Empty of a folder of images."""


@dataclass(frozen=True, slots=True)
class FrameDone:
    """A frame of the plan is done with, in the order of completion: each of its faces was written or has failed."""

    frame: str
    """Its key in the alignments file."""
    position: int
    """In its source, from 0."""
    faces: tuple[FaceResult, ...]
    failures: tuple[Failure, ...]


@dataclass(frozen=True, slots=True)
class Counted:
    """How far a batch is, whose frames are cut by other processes and not told one by one."""

    videos: int
    """That are done with, whatever became of them."""
    of_videos: int
    frames: int
    of_frames: int
    """Of the videos that were begun; of those to come, what they would have if they were like these."""
    faces: int


@dataclass(frozen=True, slots=True)
class Note:
    """A line for a person, such as that the kernel is being compiled."""

    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The end."""

    exit_code: int | None
    """Of the report; None where an error ends the run."""


Event = Planned | FrameDone | Counted | Note | Finished
Listener = Callable[[Event], None]


class Progress:
    """Tells a listener of one run; a context manager that says `Finished` at the end, whatever ends it."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._exit_code: int | None = None

    @property
    def is_silent(self) -> bool:
        """Whether nobody hears of single frames."""
        return isinstance(self._listener, Silent)

    def planned(self, frames: int, faces: int, positions: Sequence[int] | np.ndarray = ()) -> None:
        self._listener(Planned(frames, faces, positions))

    def frame_done(self, result: FrameResult) -> None:
        task = result.task
        self._listener(FrameDone(task.name, task.position, tuple(result.faces), tuple(result.failures)))

    def told(self, done: FrameDone) -> None:
        """What another process has done."""
        self._listener(done)

    def counted(self, counts: Counted) -> None:
        self._listener(counts)

    def note(self, text: str) -> None:
        self._listener(Note(text))

    def finish(self, exit_code: int) -> None:
        """Have the end say this exit code."""
        self._exit_code = exit_code

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener(Finished(self._exit_code if error is None else None))


def listener_for(progress: str | Callable[[Any], None]) -> Listener:
    """The listener that an option names, or the callable itself.

    Raises:
        UsageError: for a word that is not one of the option's.
    """
    if callable(progress):
        return progress
    if fault := option("progress").fault(progress):
        raise UsageError(fault)
    if progress == "auto":
        progress = "bar" if sys.stderr is not None and sys.stderr.isatty() else "plain"
    listeners: dict[str, Callable[[], Listener]] = {"bar": Bar, "plain": Plain, "jsonl": JsonLines, "none": Silent}
    return listeners[progress]()


class Silent:
    """Nothing but notes, and these to the log."""

    def __call__(self, event: Event) -> None:
        if isinstance(event, Note):
            log.info("%s", event.text)


class Bar:
    """tqdm's bar on standard error, if that takes it. A terminal that is lost does not end the run."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._faces = 0
        self._pace = Pace(0, 0)

    def __call__(self, event: Event) -> None:
        with suppress(OSError):
            self._show(event)

    def _show(self, event: Event) -> None:
        match event:
            case FrameDone() if self._bar is not None:
                self._faces += len(event.faces)
                self._pace.frame(event.position, len(event.faces))
                self._bar.set_postfix(faces=self._faces, refresh=False)
                self._bar.update()
            case Planned():
                self._pace = Pace(event.frames, event.faces, event.positions)
                self._bar = _tqdm(event.frames, self._pace)
            case Counted():
                self._bar = self._bar if self._bar is not None else _tqdm(event.of_frames, self._pace)
                self._bar.total = event.of_frames
                self._pace.expect(event.of_frames)
                self._pace.add(event.frames - self._bar.n, 0)
                self._bar.set_description(f"{event.videos}/{event.of_videos} videos", refresh=False)
                self._bar.set_postfix(faces=event.faces, refresh=False)
                self._bar.update(event.frames - self._bar.n)
            case Note() if self._bar is None:
                print(event.text, file=sys.stderr, flush=True)
            case Note():
                self._bar.write(event.text, file=sys.stderr)
            case Finished() if self._bar is not None:
                self._bar.close()


def _tqdm(frames: int, pace: Pace) -> Any:
    from tqdm import tqdm

    class Timed(tqdm):  # type: ignore[type-arg]
        monitor_interval = 0  # no thread beside the first bar, which the system might refuse

        @property
        def format_dict(self) -> dict[str, Any]:
            left = pace.seconds_left()
            return {**super().format_dict, "left": "" if left is None else f"{in_words(left)} left, "}

    return Timed(
        total=frames,
        unit="frame",
        dynamic_ncols=True,
        file=sys.stderr,
        mininterval=0.2,
        miniters=1,
        bar_format="{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}, {left}{rate_fmt}{postfix}]",
    )


class Plain:
    """A line on standard error every ten seconds, as logs like it."""

    def __init__(self) -> None:
        self._total = self._frames = self._faces = 0
        self._began = self._last = time.monotonic()
        self._pace = Pace(0, 0)

    def __call__(self, event: Event) -> None:
        match event:
            case FrameDone():
                self._frames += 1
                self._faces += len(event.faces)
                self._pace.frame(event.position, len(event.faces))
                now = time.monotonic()
                if now - self._last >= PLAIN_INTERVAL_SECONDS:
                    self._last = now
                    self._say(self._line(now))
            case Planned():
                self._total = event.frames
                self._began = self._last = time.monotonic()
                self._pace = Pace(event.frames, event.faces, event.positions)
            case Counted():
                self._pace.expect(event.of_frames)
                self._pace.add(event.frames - self._frames, 0)
                self._total, self._frames, self._faces = event.of_frames, event.frames, event.faces
                now = time.monotonic()
                if now - self._last >= PLAIN_INTERVAL_SECONDS and event.frames:
                    self._last = now
                    self._say(f"{event.videos}/{event.of_videos} videos, {self._line(now)}")
            case Note():
                self._say(event.text)

    def _line(self, now: float) -> str:
        rate = self._frames / (now - self._began)
        left = self._pace.seconds_left()
        done = f"{self._frames:,}/{self._total:,} frames, {counted(self._faces, 'face')}"
        return f"{done}, {rate:.1f} frames/s{'' if left is None else f', {in_words(left)} left'}"

    def _say(self, line: str) -> None:
        with suppress(OSError):
            print(line, file=sys.stderr, flush=True)


class JsonLines:
    """JSON on standard error, a line a piece, for programs: `{"frames": 420, "of": 9000, "faces": 611, "left": 21.4}`
    and notes; docs/reports.md tells of them.
    """

    def __init__(self) -> None:
        self._total = self._frames = self._faces = 0
        self._last = 0.0
        self._pace = Pace(0, 0)
        self._videos: dict[str, int] = {}

    def __call__(self, event: Event) -> None:
        match event:
            case FrameDone():
                self._frames += 1
                self._faces += len(event.faces)
                self._pace.frame(event.position, len(event.faces))
                if time.monotonic() - self._last >= JSON_INTERVAL_SECONDS:
                    self._say_counts()
            case Planned():
                self._total = event.frames
                self._pace = Pace(event.frames, event.faces, event.positions)
                self._say_counts()
            case Counted():
                self._pace.expect(event.of_frames)
                self._pace.add(event.frames - self._frames, 0)
                self._total, self._frames, self._faces = event.of_frames, event.frames, event.faces
                self._videos = {"videos": event.videos, "of_videos": event.of_videos}
                if time.monotonic() - self._last >= JSON_INTERVAL_SECONDS:
                    self._say_counts()
            case Note():
                self._say({"note": event.text})
            case Finished():
                if self._total:
                    self._say_counts()

    def _say_counts(self) -> None:
        self._last = time.monotonic()
        left = self._pace.seconds_left()
        told = {"frames": self._frames, "of": self._total, "faces": self._faces}
        self._say(told | {"left": None if left is None else round(left, 1)} | self._videos)

    def _say(self, told: dict[str, Any]) -> None:
        with suppress(OSError):
            print(json.dumps(told), file=sys.stderr, flush=True)
