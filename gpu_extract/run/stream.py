"""The faces of a plan as crops in memory, frame by frame in the plan's order, with a bound on those that wait.

The pipeline is that of a run that makes files, with its threads; whoever takes the frames is its caller. A reader waits
while the crops of frames that were not taken yet fill a room, so that a slow taker stops the decoder.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from gpu_extract.engines.base import Engine
from gpu_extract.frames import Frame, FrameSource
from gpu_extract.kernels.cutter import STAGES, Cutter, Planes, is_available
from gpu_extract.run.batches import Loaded
from gpu_extract.run.pipeline import Pipeline
from gpu_extract.run.plan import Plan, with_own_crops
from gpu_extract.run.queues import DECODED_FRAMES_PER_WORKER, POLL_SECONDS, StoppedError
from gpu_extract.run.threads import refused
from gpu_extract.tasks import FaceResult, Failure, FrameResult, FrameTask

ROOM_BYTES = 64 << 20  # of crops that were cut, or are being cut, and not taken
FRAMES_A_WORKER = 4  # that there is room for, however large their crops are
FRAMES_AT_ONCE = 8  # that are collected, where they are small and soon done: a call for each costs an eighth of all
COLLECT_SECONDS = 0.005  # after which fewer are
NO_MEMORY = "there is no memory for its crops"

inherited: list[object] = []
"""What a fork has of walks and decoders of its parent: their threads are not here, and whoever ended them would wait
for those for ever."""


class CutFrame(NamedTuple):
    """What became of a frame of the plan."""

    task: FrameTask
    crops: np.ndarray
    """[K, S, S, 3] uint8 BGR of the task's faces; those of faces that failed are not to be looked at."""
    failures: list[Failure]
    frame_size: tuple[int, int]
    """(height, width); (0, 0) where the frame could not be read."""

    def whole(self) -> list[int]:
        """The faces, by their place in the task, that did not fail."""
        if any(failure.index is None for failure in self.failures):
            return []
        failed = {failure.index for failure in self.failures}
        return [k for k, index in enumerate(self.task.index.tolist()) if index not in failed]


class CropStream:
    """One walk over a plan; iterate it once.

    Args:
        source: closed when the walk ends.
        workers: threads that cut.
    """

    def __init__(self, plan: Plan, source: FrameSource, engine: Engine, workers: int) -> None:
        self._plan = plan = with_own_crops(plan)
        self._source = source
        self._kept = _Kept(plan.size)
        self._crew = _Crew(plan, self._kept, workers) if engine.is_cutter and is_available() else None
        self._room = _Room(plan, workers, None if self._crew is None else self._crew.let_go)
        self._pipeline = Pipeline(plan, source, engine, self._kept, workers, self._crew, self._room.enter)
        self._process = os.getpid()
        self._frames = self._walk()

    def __iter__(self) -> Iterator[CutFrame]:
        return self._frames

    def close(self) -> None:
        """End the walk and its threads, from whichever thread."""
        if os.getpid() == self._process:
            self._pipeline.stop(within=0)
            self._room.close()
        with suppress(ValueError):  # another thread is in it, and finds it stopped
            self._frames.close()

    def _walk(self) -> Generator[CutFrame, None, None]:
        waiting: dict[int, FrameResult] = {}
        positions = self._plan.positions.tolist()
        due = 0
        batches = self._pipeline.batches()
        try:
            self._room.taken_by(threading.current_thread())
            for batch in batches:
                waiting.update((result.task.position, result) for result in batch)
                while due < len(positions) and (result := waiting.pop(positions[due], None)) is not None:
                    self._room.leave(due)
                    due += 1
                    yield self._kept.taken(result)
                    self._room.taken_by(threading.current_thread())
        finally:
            if os.getpid() == self._process:
                self._room.close()
                batches.close()
                if self._crew is not None:
                    self._crew.join()
                self._source.close()
            else:
                inherited.append(batches)


class _Room:
    """A bound on the bytes of crops between a reader and the caller; a frame larger than it passes alone.

    Args:
        while_full: called by the reader now and then while it waits.
    """

    def __init__(self, plan: Plan, workers: int, while_full: Callable[[], None] | None) -> None:
        self._while_full = while_full
        self._nbytes: np.ndarray = np.diff(plan.starts) * (3 * plan.size**2)
        usual = int(self._nbytes.mean()) if plan.frame_count else 0
        self._capacity = max(ROOM_BYTES, FRAMES_A_WORKER * workers * usual)
        self._used = 0
        self._inside: set[int] = set()
        self._closed = False
        self._changed = threading.Condition()
        self._caller = threading.current_thread()

    def taken_by(self, thread: threading.Thread) -> None:
        self._caller = thread

    def enter(self, i: int, stopped: threading.Event) -> None:
        """Wait until there is room for the i-th frame.

        Raises:
            StoppedError: if the walk was given up meanwhile, or nobody is left who could go on with it.
        """
        nbytes = int(self._nbytes[i])
        while not self._entered(i, nbytes):
            if self._while_full is not None:
                self._while_full()
            # An interpreter that ends waits for this thread before it lets go of a walk that was left unfinished.
            if self._closed or stopped.is_set() or not (threading.main_thread().is_alive() or self._caller.is_alive()):
                raise StoppedError

    def _entered(self, i: int, nbytes: int) -> bool:
        with self._changed:
            if self._used and self._used + nbytes > self._capacity and not self._closed:
                self._changed.wait(POLL_SECONDS)
            if self._used and self._used + nbytes > self._capacity:
                return False
            self._used += nbytes
            self._inside.add(i)
            return True

    def close(self) -> None:
        """Nobody waits any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def leave(self, i: int) -> None:
        """The i-th frame was taken, or failed."""
        with self._changed:
            if i in self._inside:
                self._inside.remove(i)
                self._used -= int(self._nbytes[i])
                self._changed.notify_all()


class _Kept:
    """Crops by the position of their frame; called by workers as the last stage of a pipeline."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._crops: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def __call__(self, task: FrameTask, k: int, crop: np.ndarray, result: FrameResult) -> FaceResult:
        with self._lock:
            crops = self._crops.get(task.position)
            if crops is None:
                crops = self.keep(task)
        crops[k] = crop
        return FaceResult(int(task.rows[k]), int(task.index[k]), "", "", 0)

    def keep(self, task: FrameTask) -> np.ndarray:
        """Memory for the crops of a frame."""
        crops = np.empty((len(task), self._size, self._size, 3), np.uint8)
        self._crops[task.position] = crops
        return crops

    def taken(self, result: FrameResult) -> CutFrame:
        crops = self._crops.pop(result.task.position, None)
        if crops is None:
            crops = np.empty((0, self._size, self._size, 3), np.uint8)
        return CutFrame(result.task, crops, result.failures, result.frame_size)


class _Order(NamedTuple):
    number: int
    planes: Planes
    crops: np.ndarray


class _Crew:
    """Cuts into memory, in threads of C, the pictures that go the native way (`pipeline.Crew`)."""

    def __init__(self, plan: Plan, kept: _Kept, workers: int) -> None:
        self._plan, self._kept, self._workers = plan, kept, workers
        geometry = plan.geometry
        self._cutter = Cutter(
            workers,
            DECODED_FRAMES_PER_WORKER,
            plan.size,
            -1,
            "",
            geometry.crop_from_frame,
            geometry.cubic,
            plan.region,
            plan.index,
            plan.starts,
        )
        self._begun: dict[int, FrameResult] = {}
        self.seconds = dict.fromkeys(STAGES, 0.0)

    def order(self, i: int, frame: Frame) -> _Order | None:
        planes = frame.planes()
        if planes is None:
            return None
        task = self._plan.task(i)
        if task.failed:
            return None
        self._begun[i] = FrameResult(task, decoded=True, frame_size=(planes.height, planes.width))
        return _Order(i, planes, self._kept.keep(task))

    def submit(self, order: _Order, wait: float) -> bool:
        try:
            return self._cutter.submit(order.number, order.planes, b"", b"", None, wait, order.crops)
        except OSError as error:
            raise refused(f"some of the {self._workers} threads that cut", error) from error

    def collect(self) -> list[FrameResult] | None:
        """Frames that were cut since the last call; waits a moment for some. None when no more will come."""
        done = self._cutter.collect(FRAMES_AT_ONCE, COLLECT_SECONDS)
        if done is None:
            return None
        for stage, spent in zip(STAGES, done.seconds, strict=True):
            self.seconds[stage] += spent
        errors = done.faces["error"]
        at = 0
        results = []
        for i in done.frames["frame"].tolist():
            result = self._begun.pop(i)
            of_frame = errors[at : at + len(result.task)]
            at += len(of_frame)
            if (of_frame == errno.ENOMEM).any():
                raise MemoryError(f"{result.task.name}: {NO_MEMORY}")
            if not of_frame.any():
                results.append(result)
        return results

    def cut(self, loaded: Loaded) -> bool:
        return False

    def finish(self, i: int, start: int, crops: np.ndarray, result: FrameResult) -> bool:
        return False

    def let_go(self) -> None:
        self._cutter.let_go()

    def wake(self) -> None:
        self._cutter.wake()

    def close(self) -> None:
        self._cutter.close()

    def abandon(self) -> None:
        self._cutter.abandon()

    def join(self) -> None:
        self._cutter.abandon()
        self._cutter.join()

    def waits(self) -> tuple[float, float]:
        return self._cutter.waits()
