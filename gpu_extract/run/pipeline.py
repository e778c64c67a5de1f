"""Read → load → warp → encode → write in threads, with a bound on everything that waits.

    reader (1 thread)      takes frames from the source, in order
    workers                load a frame's regions; with an inline engine also warp and finish its faces
    device  (0 or 1)       batches regions across frames for an engine that is not inline
    finishers              encode, hash and write the crops that the device thread hands out
    caller                 receives one FrameResult a frame, in the order of completion

The only module with threads of its own. An error in any of them reaches the caller as itself; leaving the loop early,
by error or by choice, stops and joins all of them.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import numpy as np

from gpu_extract.engines.base import Crops, Engine, Ticket
from gpu_extract.errors import FrameError
from gpu_extract.frames import Frame, FrameFailure, FrameSource
from gpu_extract.patch import Patch, group_regions
from gpu_extract.run.plan import Failure, FrameTask, Plan
from gpu_extract.run.queues import DECODED_FRAMES_PER_WORKER, POLL_SECONDS, Backlog, ByteBudget, StoppedError

CROPS_AT_ONCE_BYTES = 16 << 20  # a frame's faces are warped in groups of this size: 10,000 faces need no more memory
TICKETS_IN_FLIGHT = 3  # batches on the device at once: one uploads, one computes, one downloads
TICKETS = TICKETS_IN_FLIGHT + 1  # batches that hold memory: those and one that the encoders read
_STOPPING = object()  # wakes the caller's loop


@dataclass(frozen=True)
class FaceResult:
    """One face, written."""

    row: int
    index: int
    file_name: str
    sha1: str
    nbytes: int


@dataclass
class FrameResult:
    """What became of one frame's faces."""

    task: FrameTask
    faces: list[FaceResult] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    decoded: bool = False
    frame_size: tuple[int, int] = (0, 0)
    """(height, width) of the frame, once it was loaded."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Busy seconds by stage."""

    def add_seconds(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds


Finish = Callable[[FrameTask, int, np.ndarray, FrameResult], FaceResult | Failure]
"""finish(task, k, crop [S, S, 3] uint8 BGR, result): encode, hash and write face k; adds its stages' seconds."""


@dataclass
class Waits:
    """Seconds that threads spent waiting for each other."""

    reader_for_workers: float = 0.0
    workers_for_reader: float = 0.0
    device_for_regions: float = 0.0
    regions_for_device: float = 0.0


@dataclass
class _Loaded:
    """A frame's regions on their way to the device."""

    result: FrameResult
    patches: list[Patch]
    patch_of: np.ndarray  # [K]
    nbytes: int
    remaining: int
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass
class _Share:
    """Faces start..stop of one frame inside a batch."""

    loaded: _Loaded
    start: int
    stop: int
    crops: np.ndarray | None = None
    batch: _Batch | None = None

    def release(self) -> bool:
        """This share's part of the batch's memory is no longer read; returns whether it was the last part."""
        self.crops = None
        assert self.batch is not None
        with self.batch.lock:
            self.batch.remaining -= 1
            spent = self.batch.remaining == 0
        if spent:
            self.batch.ticket.release()
        return spent


@dataclass
class _Batch:
    ticket: Ticket
    shares: list[_Share]
    remaining: int
    lock: threading.Lock = field(default_factory=threading.Lock)


class Pipeline:
    """One run over a plan. Iterate it once; `stop()` ends it after the frames in flight."""

    def __init__(self, plan: Plan, source: FrameSource, engine: Engine, finish: Finish, workers: int) -> None:
        self._plan, self._source, self._engine, self._finish = plan, source, engine, finish
        self._workers = workers
        self.waits = Waits()
        self._read_seconds = self._device_seconds = 0.0
        self._stop_reading = threading.Event()
        self._abandon = threading.Event()
        self._decoded = threading.Semaphore(workers * DECODED_FRAMES_PER_WORKER)
        self._work = Backlog(workers)
        self._results: queue.SimpleQueue[FrameResult | BaseException | object | None] = queue.SimpleQueue()
        self._deadline: float | None = None
        self._loaded: queue.SimpleQueue[_Loaded | None] = queue.SimpleQueue()
        self._budget = ByteBudget(engine.batch_bytes * TICKETS_IN_FLIGHT)
        self._tickets = threading.Semaphore(TICKETS)
        self._to_finish: queue.SimpleQueue[_Share | None] = queue.SimpleQueue()
        self._waits_lock = threading.Lock()

    def stop(self, within: float | None = None) -> None:
        """Take no further frames; those in flight are finished and reported. May be called from a signal handler.

        Args:
            within: seconds after which frames that are still in flight are given up.
        """
        self._deadline = None if within is None else time.monotonic() + within
        self._stop_reading.set()
        self._results.put(_STOPPING)

    def own_seconds(self) -> dict[str, float]:
        """Busy seconds of the stages that belong to no frame: the reader, and a device that works in batches."""
        seconds = {"read": self._read_seconds}
        if not self._engine.inline:
            seconds["warp"] = self._device_seconds
        return seconds

    def limiting_stage(self, stage_seconds: dict[str, float]) -> str:
        """The stage that the others waited for: "read", "load", "warp", "encode", "hash" or "write".

        Args:
            stage_seconds: busy seconds of a whole run by stage.
        """
        reader_limits = self.waits.workers_for_reader > self.waits.reader_for_workers
        if self._engine.inline:
            work = {name: stage_seconds.get(name, 0.0) for name in ("load", "warp", "encode", "hash", "write")}
            return "read" if reader_limits else max(work, key=work.__getitem__)
        if self.waits.regions_for_device > self.waits.device_for_regions:
            return "warp"
        return "read" if reader_limits else "encode"

    def __iter__(self) -> Iterator[FrameResult]:
        threads = self._start()
        ended, alive = 0, len(threads)
        try:
            while ended < alive:
                item = self._next_result()
                if item is None:
                    ended += 1
                elif isinstance(item, BaseException):
                    raise item
                elif isinstance(item, FrameResult):
                    yield item
                else:
                    # A reader may be far away between two wanted frames; a closed source ends its iteration.
                    self._source.close()
        finally:
            self._stop_reading.set()
            if ended < alive:
                self._abandon.set()
                self._source.close()
            for thread in threads:
                thread.join()

    def _next_result(self) -> FrameResult | BaseException | object | None:
        if self._deadline is not None and not self._abandon.is_set():
            try:
                return self._results.get(timeout=max(0.0, self._deadline - time.monotonic()))
            except queue.Empty:
                self._abandon.set()
        return self._results.get()

    def _start(self) -> list[threading.Thread]:
        crew: list[tuple[str, Callable[[], None]]] = [("reader", self._read)]
        crew += [(f"worker-{i}", partial(self._work_loop, i)) for i in range(self._workers)]
        self._workers_left = self._workers
        if not self._engine.inline:
            crew.append(("device", self._device_loop))
            crew += [(f"finisher-{i}", self._finish_loop) for i in range(self._workers)]
        threads = [
            threading.Thread(target=self._guarded, args=(run,), name=f"gpu-extract-{name}") for name, run in crew
        ]
        for thread in threads:
            thread.start()
        return threads

    def _guarded(self, run: Callable[[], None]) -> None:
        """Run a thread's body; its error goes to the caller, and its end is always announced."""
        try:
            run()
        except StoppedError:
            pass
        except BaseException as error:
            self._give_up(error)
        finally:
            self._results.put(None)

    def _give_up(self, error: BaseException) -> None:
        """Hand an error to the caller and make every thread end early."""
        self._abandon.set()
        self._results.put(error)

    def _read(self) -> None:
        plan = self._plan
        clock = time.perf_counter
        next_task = 0
        try:
            frames = iter(self._source.frames(plan.positions))
            while not self._stop_reading.is_set():
                began = clock()
                try:
                    item = next(frames, None)
                except Exception:
                    if self._stop_reading.is_set():  # the source was closed under it
                        return
                    raise
                self._read_seconds += clock() - began
                if item is None:
                    if self._stop_reading.is_set():
                        return
                    break
                while plan.positions[next_task] < item.index:
                    self._never_came(next_task)
                    next_task += 1
                began = clock()
                while not self._decoded.acquire(timeout=POLL_SECONDS):
                    if self._abandon.is_set():
                        raise StoppedError
                self.waits.reader_for_workers += clock() - began
                self._work.put((next_task, item))
                next_task += 1
            else:
                return
            while next_task < plan.frame_count:
                self._never_came(next_task)
                next_task += 1
        finally:
            self._work.close()

    def _never_came(self, i: int) -> None:
        result = FrameResult(self._plan.task(i))
        result.failures.append(Failure(result.task.name, None, "the source ended before this frame"))
        self._results.put(result)

    def _work_loop(self, worker: int) -> None:
        waited = 0.0
        try:
            while True:
                began = time.perf_counter()
                item = self._work.take(worker)
                waited += time.perf_counter() - began
                if item is None:
                    return
                if self._abandon.is_set():
                    raise StoppedError
                i, frame = item
                result = FrameResult(self._plan.task(i))
                try:
                    loaded = self._load(frame, result)
                finally:
                    del item, frame
                    self._decoded.release()
                if loaded is None:
                    self._results.put(result)
                elif self._engine.inline:
                    self._cut(loaded)
                    self._results.put(result)
                else:
                    began = time.perf_counter()
                    self._budget.acquire(loaded.nbytes, self._abandon)
                    with self._waits_lock:
                        self.waits.regions_for_device += time.perf_counter() - began
                    self._loaded.put(loaded)
        finally:
            with self._waits_lock:
                self.waits.workers_for_reader += waited
                self._workers_left -= 1
                last = self._workers_left == 0
            if last:
                self._loaded.put(None)

    def _load(self, frame: Frame | FrameFailure, result: FrameResult) -> _Loaded | None:
        """The regions of a frame that its faces touch; None, with a failure in the result, if it cannot be read."""
        task = result.task
        began = time.perf_counter()
        if isinstance(frame, FrameFailure):
            result.failures.append(Failure(task.name, None, frame.reason))
            return None
        try:
            patches, patch_of = load_regions(frame, task.region)
        except FrameError as error:
            result.failures.append(Failure(task.name, None, str(error)))
            return None
        result.decoded = True
        result.frame_size = (frame.height, frame.width)
        result.add_seconds("load", time.perf_counter() - began)
        if not self._engine.inline:
            patches = [_detached(patch) for patch in patches]
        nbytes = sum(patch.pixels.nbytes for patch in patches)
        return _Loaded(result, patches, patch_of, nbytes, len(task))

    def _crops(self, loaded: _Loaded, start: int, stop: int, first_patch: int = 0) -> Crops:
        task = loaded.result.task
        faces = slice(start, stop)
        patch_of = loaded.patch_of[faces] + first_patch
        return Crops(patch_of, task.crop_from_frame[faces], task.cubic[faces], self._plan.size)

    def _cut(self, loaded: _Loaded) -> None:
        """Warp and finish all faces of a frame on this thread."""
        result = loaded.result
        step = max(1, CROPS_AT_ONCE_BYTES // (3 * self._plan.size**2))
        for start in range(0, len(result.task), step):
            if self._abandon.is_set():
                raise StoppedError
            stop = min(start + step, len(result.task))
            began = time.perf_counter()
            crops = self._engine.warp(loaded.patches, self._crops(loaded, start, stop))
            result.add_seconds("warp", time.perf_counter() - began)
            for k, crop in enumerate(crops, start):
                self._finish_one(result, k, crop)

    def _finish_one(self, result: FrameResult, k: int, crop: np.ndarray) -> None:
        done = result.task.failed.get(k) or self._finish(result.task, k, crop, result)
        if isinstance(done, Failure):
            result.failures.append(done)
        else:
            result.faces.append(done)

    def _device_loop(self) -> None:
        pending: deque[_Batch] = deque()
        try:
            for shares in self._batches(pending):
                while len(pending) >= TICKETS_IN_FLIGHT:
                    self._hand_out(pending.popleft())
                while not self._tickets.acquire(timeout=POLL_SECONDS):
                    if self._abandon.is_set():
                        raise StoppedError
                pending.append(self._submit(shares))
            while pending:
                self._hand_out(pending.popleft())
        finally:
            for _ in range(self._workers):
                self._to_finish.put(None)

    def _batches(self, pending: deque[_Batch]) -> Iterator[list[_Share]]:
        """Full batches, or whatever there is when nothing more is loaded yet."""
        S = self._plan.size
        face_bytes = S * (3 * S + 16)  # a crop and its coordinate tables
        shares: list[_Share] = []
        nbytes = 0
        waited = 0.0
        while True:
            if self._abandon.is_set():
                raise StoppedError
            began = time.perf_counter()
            try:
                item = self._loaded.get_nowait()
            except queue.Empty:
                if shares:
                    yield shares
                    shares, nbytes = [], 0
                if pending:
                    self._hand_out(pending.popleft())
                    continue
                item = self._loaded.get()
                waited += time.perf_counter() - began
            if item is None:
                break
            if shares and nbytes + item.nbytes + face_bytes > self._engine.batch_bytes:
                yield shares
                shares, nbytes = [], 0
            nbytes += item.nbytes
            start, count = 0, len(item.result.task)
            while start < count:
                room = max(1, (self._engine.batch_bytes - nbytes) // face_bytes)
                stop = min(count, start + room)
                shares.append(_Share(item, start, stop))
                nbytes += (stop - start) * face_bytes
                start = stop
                if nbytes >= self._engine.batch_bytes:
                    yield shares
                    shares, nbytes = [], item.nbytes
        if shares:
            yield shares
        self.waits.device_for_regions = waited

    def _submit(self, shares: list[_Share]) -> _Batch:
        began = time.perf_counter()
        patches: list[Patch] = []
        parts = []
        for share in shares:
            parts.append(self._crops(share.loaded, share.start, share.stop, len(patches)))
            patches += share.loaded.patches
        crops = Crops(
            np.concatenate([part.patch for part in parts]),
            np.concatenate([part.crop_from_frame for part in parts]),
            np.concatenate([part.cubic for part in parts]),
            self._plan.size,
        )
        batch = _Batch(self._engine.submit(patches, crops), shares, len(shares))
        self._device_seconds += time.perf_counter() - began
        return batch

    def _hand_out(self, batch: _Batch) -> None:
        """Wait for a batch and give its faces to the finishers."""
        began = time.perf_counter()
        crops = batch.ticket.result()
        self._device_seconds += time.perf_counter() - began
        ends = np.cumsum([0] + [share.stop - share.start for share in batch.shares])
        for share, (start, stop) in zip(batch.shares, pairwise(ends), strict=True):
            share.crops, share.batch = crops[start:stop], batch
            self._to_finish.put(share)

    def _finish_loop(self) -> None:
        while (share := self._to_finish.get()) is not None:
            loaded = share.loaded
            part = FrameResult(loaded.result.task, frame_size=loaded.result.frame_size)
            try:
                if not self._abandon.is_set():
                    self._finish_share(share, part)
            except BaseException as error:
                self._give_up(error)
            # Also when the run was given up, and by a thread that stays: the device thread may wait for this memory.
            if share.release():
                self._tickets.release()
            with loaded.lock:
                loaded.result.faces += part.faces
                loaded.result.failures += part.failures
                for stage, seconds in part.seconds.items():
                    loaded.result.add_seconds(stage, seconds)
                loaded.remaining -= share.stop - share.start
                complete = loaded.remaining == 0
            if complete:
                self._budget.release(loaded.nbytes)
                self._results.put(loaded.result)

    def _finish_share(self, share: _Share, part: FrameResult) -> None:
        assert share.crops is not None
        for k, crop in enumerate(share.crops, share.start):
            self._finish_one(part, k, crop)


def _detached(patch: Patch) -> Patch:
    """The patch without the rest of its frame, where that is most of what it keeps in memory while it waits."""
    base = patch.pixels.base
    if isinstance(base, np.ndarray) and base.nbytes > 2 * patch.pixels.nbytes:
        return patch._replace(pixels=patch.pixels.copy())
    return patch


def load_regions(frame: Frame, region: np.ndarray) -> tuple[list[Patch], np.ndarray]:
    """The patches that a frame's faces need, and for each face [K] which of them it reads.

    Args:
        region: [K, 4] int64, what each face may touch, not clipped.
    """
    regions, region_of = group_regions(region, frame.height, frame.width)
    return frame.load_each(regions), region_of
