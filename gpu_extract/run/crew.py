"""The native way of a frame: its faces become files without the interpreter, by `kernels.cutter`.

The pipeline asks for each frame whether it can go that way, and takes the long one – `Frame.load`, `Engine.warp`, a
writer that is called for each face – where it cannot: the files are the same. Where a frame cannot go it from the
beginning, for its picture is another one or the engine is, its crops may still be finished natively.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol, Self

import numpy as np

from gpu_extract.engines.base import Engine
from gpu_extract.errors import InputError, OutputError
from gpu_extract.frames import Frame
from gpu_extract.kernels.cpu import in_rows
from gpu_extract.kernels.cutter import STAGES, Cutter, Planes, Seconds, is_available
from gpu_extract.run.batches import Loaded
from gpu_extract.run.plan import Plan
from gpu_extract.run.queues import DECODED_FRAMES_PER_WORKER, StoppedError
from gpu_extract.run.threads import refused
from gpu_extract.tasks import FaceResult, Failure, FrameResult, FrameTask, Place

EXTENSION = ".png"
FRAMES_OF_ONE = 8  # that wait for the only thread of a crew, which is then woken for some at a time
FRAMES_AT_ONCE = 32  # that are collected, so that a call costs each of them little
COLLECT_SECONDS = 0.05  # after which fewer are, and a signal is seen

FaceRecord = tuple[bytes, int, int, int, float]
"""Of `kernels.cutter.FACE`."""


class Writer(Protocol):
    """What knows where face files go and what is inside them; see `faces.writer.FaceWriter`."""

    measures: bool

    def place(self, task: FrameTask) -> Place | None: ...
    def texts(self, result: FrameResult, start: int, stop: int) -> Sequence[bytes | None] | None: ...
    def refused(self, task: FrameTask, k: int, error: OSError) -> Failure: ...


class Order(NamedTuple):
    """A frame for the crew's threads."""

    number: int
    planes: Planes
    place: Place
    texts: Sequence[bytes | None] | None


class Crew:
    """Those who cut natively what a plan wants into a folder; a context manager.

    Args:
        engine: whose crops are wanted.
        workers: threads, which start when the first frame is submitted.
    """

    def __init__(self, plan: Plan, engine: Engine, writer: Writer, folder: Path, workers: int) -> None:
        self._plan, self._writer, self._workers = plan, writer, workers
        self._whole_frames = engine.is_cutter
        self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        geometry = plan.geometry
        self._cutter = Cutter(
            workers,
            DECODED_FRAMES_PER_WORKER if workers > 1 else FRAMES_OF_ONE,
            plan.size,
            self._descriptor,
            EXTENSION,
            geometry.crop_from_frame,
            geometry.cubic,
            plan.region,
            plan.index,
            plan.starts,
            measures=writer.measures,
        )
        self._fault: OutputError | None = None
        self._begun: dict[int, tuple[FrameResult, Place]] = {}
        self.seconds = dict.fromkeys(STAGES, 0.0)
        """Busy seconds of the threads."""

    @classmethod
    def of(cls, plan: Plan, engine: Engine, writer: Writer, folder: Path, workers: int) -> Crew | None:
        """None where no frame could go this way."""
        if not is_available() or not plan.frame_count or (plan.extension or EXTENSION) != EXTENSION:
            return None
        return cls(plan, engine, writer, folder, workers)

    def order(self, i: int, frame: Frame) -> Order | None:
        """What the threads need to cut the i-th frame; None where it has to go the long way."""
        planes = frame.planes() if self._whole_frames else None
        if planes is None:
            return None
        result = FrameResult(self._plan.task(i), decoded=True, frame_size=(planes.height, planes.width))
        ready = self._ready(result, 0, len(result.task))
        if ready is None:
            return None
        place, texts = ready
        self._begun[i] = result, place
        return Order(i, planes, place, texts)

    def submit(self, order: Order, wait: float) -> bool:
        """Have a frame cut by the threads; False if there was no room for it in that many seconds, or after `abandon`.

        Raises:
            DeviceError: if the system refuses the threads.
        """
        number, planes, place, texts = order
        try:
            return self._cutter.submit(number, planes, place.folder_bytes, place.stem_bytes, texts, wait)
        except OSError as error:
            raise refused(f"some of the {self._workers} threads that cut", error) from error

    def collect(self) -> list[FrameResult] | None:
        """Frames that were done since the last call; waits a moment for some. None when no more will come.

        Raises:
            OutputError: if the folder or its disk takes no more files; what was done before was returned.
        """
        if self._fault is not None:
            raise self._fault
        done = self._cutter.collect(FRAMES_AT_ONCE, COLLECT_SECONDS)
        if done is None:
            return None
        for stage, spent in zip(STAGES, done.seconds, strict=True):
            self.seconds[stage] += spent
        faces = done.faces.tolist()
        results = []
        at = 0
        for i in done.frames["frame"].tolist():
            result, place = self._begun.pop(i)
            of_frame = faces[at : at + len(result.task)]
            at += len(of_frame)
            try:
                self._record(result, place, 0, of_frame)
            except StoppedError:
                continue
            except OutputError as error:
                self._fault = self._fault or error
                continue
            results.append(result)
        return results

    def cut(self, loaded: Loaded) -> bool:
        """Cut and store all faces of a frame whose regions were loaded, on this thread; as `finish`."""
        result, count = loaded.result, len(loaded.result.task)
        ready = self._ready(result, 0, count) if self._whole_frames else None
        if ready is None:
            return False
        place, texts = ready
        patches = [(in_rows(patch.pixels), patch.x0, patch.y0) for patch in loaded.patches]
        faces, seconds = self._cutter.cut(
            loaded.number, 0, count, patches, loaded.patch_of, place.folder_bytes, place.stem_bytes, texts
        )
        _add(result, seconds)
        self._record(result, place, 0, faces.tolist())
        return True

    def finish(self, i: int, start: int, crops: np.ndarray, result: FrameResult) -> bool:
        """Hash, encode and store crops [k, S, S, 3] uint8 of faces of the i-th frame from `start` on, on this thread.

        Returns:
            Whether they went this way; what became of each is then in the result.

        Raises:
            OutputError: as `collect`.
            StoppedError: after `abandon`.
        """
        ready = self._ready(result, start, start + len(crops))
        if ready is None:
            return False
        place, texts = ready
        crops = np.ascontiguousarray(crops)
        faces, seconds = self._cutter.finish(i, start, crops, place.folder_bytes, place.stem_bytes, texts)
        _add(result, seconds)
        self._record(result, place, start, faces.tolist())
        return True

    def wake(self) -> None:
        """Have `collect` return, now or when it is next called."""
        self._cutter.wake()

    def close(self) -> None:
        """No more frames will be submitted."""
        self._cutter.close()

    def abandon(self) -> None:
        """As `close`, and faces that are not begun are left out."""
        self._cutter.abandon()

    def waits(self) -> tuple[float, float]:
        """Seconds that `submit` waited for threads, and that threads waited for frames."""
        return self._cutter.waits()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cutter.abandon()
        self._cutter.join()
        os.close(self._descriptor)

    def _ready(self, result: FrameResult, start: int, stop: int) -> tuple[Place, Sequence[bytes | None] | None] | None:
        """What has to be known of faces start .. stop; None where one of them has no crop, no place or no text."""
        if result.task.failed:
            return None
        place = self._writer.place(result.task)
        if place is None:
            return None
        try:
            return place, self._writer.texts(result, start, stop)
        except InputError:
            return None

    def _record(self, result: FrameResult, place: Place, start: int, faces: Sequence[FaceRecord]) -> None:
        """Put what became of faces from `start` on into a result; raises StoppedError if one was left out."""
        task = result.task
        rows, index = task.rows.tolist(), task.index.tolist()
        prefix, measures = f"{place.folder}{place.stem}_", self._writer.measures
        for k, (sha1, nbytes, error, one_colour, sharpness) in enumerate(faces, start):
            if error == errno.ECANCELED:
                raise StoppedError
            if error:
                result.failures.append(self._writer.refused(task, k, OSError(error, os.strerror(error))))
            else:
                stored = f"{prefix}{index[k]}{EXTENSION}"
                measured = sharpness if measures else None
                result.faces.append(FaceResult(rows[k], index[k], stored, sha1.hex(), nbytes, measured))
            if one_colour:
                result.of_one_colour.add(rows[k])


def _add(result: FrameResult, seconds: Seconds) -> None:
    for stage, spent in zip(STAGES, seconds, strict=True):
        if spent:
            result.add_seconds(stage, spent)
