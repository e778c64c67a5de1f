"""Read → load → warp → encode → write in threads, with a bound on everything that waits.

    reader (1 thread)      takes frames from the source, in order
    crew                   threads of C that do all about the frames that can go the native way (`crew`)
    workers                load a frame's regions; with an inline engine also warp and finish its faces
                           (on a single core the reader does that itself: threads would only wait for each other)
    device, finishers      take over from the workers where the engine works in batches (`batches`)
    caller                 receives one FrameResult a frame, in the order of completion

The only module that starts threads. An error in any of them reaches the caller as itself; leaving the loop early, by
error or by choice, stops and joins all of them.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from functools import partial
from typing import Any, Protocol

import numpy as np

from gpu_extract.engines.base import Engine
from gpu_extract.errors import FrameError
from gpu_extract.frames import Frame, FrameFailure, FrameSource
from gpu_extract.patch import Patch, group_regions
from gpu_extract.run.batches import BatchStage, Loaded, Waits
from gpu_extract.run.plan import Plan
from gpu_extract.run.queues import DECODED_FRAMES_PER_WORKER, POLL_SECONDS, Backlog, StoppedError
from gpu_extract.run.threads import available_cores, start_thread
from gpu_extract.tasks import FaceResult, Failure, FrameResult, FrameTask

CROPS_AT_ONCE_BYTES = 16 << 20  # a frame's faces are warped in groups of this size: 10,000 faces need no more memory
NEVER_CAME = "the source ended before this frame"
_STOPPING = object()  # wakes the caller's loop

Finish = Callable[[FrameTask, int, np.ndarray, FrameResult], FaceResult | Failure]
"""finish(task, k, crop [S, S, 3] uint8 BGR, result): encode, hash and write face k; adds its stages' seconds."""


class Crew(Protocol):
    """Those who cut frames natively; see `crew.Crew`, which makes files."""

    seconds: dict[str, float]

    def order(self, i: int, frame: Frame) -> Any: ...
    def submit(self, order: Any, wait: float) -> bool: ...
    def collect(self) -> list[FrameResult] | None: ...
    def cut(self, loaded: Loaded) -> bool: ...
    def finish(self, i: int, start: int, crops: np.ndarray, result: FrameResult) -> bool: ...
    def wake(self) -> None: ...
    def close(self) -> None: ...
    def abandon(self) -> None: ...
    def waits(self) -> tuple[float, float]: ...


class Pipeline:
    """One run over a plan. Iterate it once, or its `batches`; `stop()` ends it after the frames in flight.

    Args:
        crew: cuts what it can in the workers' stead, for the same plan; what comes of it is that of `finish`.
        admit: admit(i, stopped) is called by the reader before it hands over the i-th frame, and may wait, but not once
            `stopped` is set.
    """

    def __init__(
        self,
        plan: Plan,
        source: FrameSource,
        engine: Engine,
        finish: Finish,
        workers: int,
        crew: Crew | None = None,
        admit: Callable[[int, threading.Event], None] | None = None,
    ) -> None:
        self._plan, self._source, self._engine, self._finish = plan, source, engine, finish
        self._workers, self._crew, self._admit = workers, crew, admit
        self.waits = Waits()
        self._read_seconds = 0.0
        self._stop_reading = threading.Event()
        self._abandon = threading.Event()
        self._decoded = threading.Semaphore(workers * DECODED_FRAMES_PER_WORKER)
        self._work = Backlog(workers)
        self._results: queue.SimpleQueue[FrameResult | BaseException | object | None] = queue.SimpleQueue()
        self._deadline: float | None = None
        self._workers_lock = threading.Lock()
        self._workers_left = workers
        self._crew_cuts = False  # whole frames; the workers are then idle, which says nothing of the reader
        self._batches = None if engine.inline else self._batch_stage()
        self._in_one_thread = engine.inline and workers == 1 and available_cores() == 1

    def stop(self, within: float | None = None) -> None:
        """Take no further frames; those in flight are finished and reported. May be called from a signal handler.

        Args:
            within: seconds after which frames that are still in flight are given up.
        """
        self._deadline = None if within is None else time.monotonic() + within
        self._stop_reading.set()
        self._tell(_STOPPING)

    def own_seconds(self) -> dict[str, float]:
        """Busy seconds that are not in the results: of the reader, the crew, and a device that works in batches."""
        seconds = {"read": self._read_seconds} | (self._crew.seconds if self._crew is not None else {})
        if self._batches is not None:
            seconds["warp"] = self._batches.seconds
        return seconds

    def limiting_stage(self, stage_seconds: dict[str, float]) -> str:
        """The stage that the others waited for: "read", "load", "warp", "encode", "hash" or "write".

        Args:
            stage_seconds: busy seconds of a whole run by stage.
        """
        work = {name: stage_seconds.get(name, 0.0) for name in ("load", "warp", "encode", "hash", "write")}
        reader_limits = self.waits.workers_for_reader > self.waits.reader_for_workers
        if self._in_one_thread:
            reader_limits = self._read_seconds > max(work.values())
        if self._batches is None:
            return "read" if reader_limits else max(work, key=work.__getitem__)
        if self.waits.regions_for_device > self.waits.device_for_regions:
            return "warp"
        return "read" if reader_limits else "encode"

    def __iter__(self) -> Generator[FrameResult, None, None]:
        with closing(self.batches()) as batches:
            for batch in batches:
                yield from batch

    def batches(self) -> Generator[list[FrameResult], None, None]:
        """The results in the order of completion, as many at a time as there are."""
        threads: list[threading.Thread] = []
        running, crew_works = 0, self._crew is not None
        is_whole = False
        try:
            self._start(threads)
            running = len(threads)
            while running or crew_works:
                batch: list[FrameResult] = []
                error: BaseException | None = None
                if self._crew is not None and crew_works:
                    done = self._crew.collect()
                    crew_works = done is not None
                    batch += done or ()
                for item in self._told(wait=running > 0 and not crew_works):
                    if item is None:
                        running -= 1
                    elif isinstance(item, BaseException):
                        error = error or item
                    elif isinstance(item, FrameResult):
                        batch.append(item)
                    else:
                        # A reader may be far away between two wanted frames; a closed source ends its iteration.
                        self._source.close()
                if batch:
                    yield batch
                if error is not None:
                    raise error
            is_whole = True
        finally:
            self._stop_reading.set()
            if not is_whole:
                self._abandon_all()
                self._source.close()
            for thread in threads:
                thread.join()
            self._note_waits_of_crew()

    def _told(self, wait: bool) -> Iterator[FrameResult | BaseException | object | None]:
        """What the threads have told so far; with `wait` the next of it, whenever it comes."""
        if self._deadline is not None and not self._abandon.is_set():
            left = self._deadline - time.monotonic()
            if wait:
                with suppress(queue.Empty):
                    yield self._results.get(timeout=max(0.0, left))
                    return
            if wait or left <= 0:
                self._abandon_all()
        if wait:
            yield self._results.get()
            return
        with suppress(queue.Empty):
            while True:
                yield self._results.get_nowait()

    def _tell(self, item: FrameResult | BaseException | object | None) -> None:
        """Have the caller's loop see something."""
        self._results.put(item)
        if self._crew is not None:
            self._crew.wake()

    def _abandon_all(self) -> None:
        """Make every thread end early."""
        self._abandon.set()
        if self._crew is not None:
            self._crew.abandon()

    def _note_waits_of_crew(self) -> None:
        if self._crew is not None:
            reader_waited, crew_waited = self._crew.waits()
            self.waits.reader_for_workers += reader_waited
            self.waits.workers_for_reader += crew_waited

    def _batch_stage(self) -> BatchStage:
        return BatchStage(
            self._engine,
            self._plan.size,
            finish_crops=self._finish_crops,
            hand_on=self._tell,
            give_up=self._give_up,
            abandon=self._abandon,
            finishers=self._workers,
            waits=self.waits,
        )

    def _start(self, started: list[threading.Thread]) -> None:
        """Start all threads; `started` grows by each, so that those before one that cannot start are ended too."""
        crew: list[tuple[str, Callable[[], None]]]
        if self._in_one_thread:
            crew = [("reader", partial(self._read, self._work_on))]
        else:
            crew = [("reader", partial(self._read, self._hand_over))]
            crew += [(f"worker-{i}", partial(self._work_loop, i)) for i in range(self._workers)]
        if self._batches is not None:
            crew += self._batches.crew()
        for name, run in crew:
            thread = threading.Thread(target=self._guarded, args=(run,), name=f"gpu-extract-{name}")
            start_thread(thread, f"{len(started)} of the {len(crew)} threads that this run needs")
            started.append(thread)

    def _guarded(self, run: Callable[[], None]) -> None:
        """Run a thread's body; its error goes to the caller, and its end is always announced."""
        try:
            run()
        except StoppedError:
            pass
        except BaseException as error:
            self._give_up(error)
        finally:
            self._tell(None)

    def _give_up(self, error: BaseException) -> None:
        """Hand an error to the caller and make every thread end early."""
        self._abandon_all()
        self._tell(error)

    def _read(self, take: Callable[[int, Frame | FrameFailure], None]) -> None:
        """Walk over the source.

        Args:
            take: take(i, frame) is given each frame of the plan that came.
        """
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
                if self._admit is not None:
                    self._admit(next_task, self._abandon)
                take(next_task, item)
                del item  # or it would be kept while the next one is decoded
                next_task += 1
            else:
                return
            while next_task < plan.frame_count:
                self._never_came(next_task)
                next_task += 1
        finally:
            self._work.close()
            if self._crew is not None:
                self._crew.close()

    def _hand_over(self, i: int, frame: Frame | FrameFailure) -> None:
        if self._order(i, frame):
            return
        began = time.perf_counter()
        while not self._decoded.acquire(timeout=POLL_SECONDS):
            if self._abandon.is_set():
                raise StoppedError
        self.waits.reader_for_workers += time.perf_counter() - began
        self._work.put((i, frame))

    def _order(self, i: int, frame: Frame | FrameFailure) -> bool:
        """Whether the crew took a frame; waits until it has room for it."""
        order = self._crew.order(i, frame) if self._crew is not None and isinstance(frame, Frame) else None
        if self._crew is None or order is None:
            return False
        self._crew_cuts = True
        while not self._crew.submit(order, POLL_SECONDS):
            if self._abandon.is_set():
                raise StoppedError
        return True

    def _never_came(self, i: int) -> None:
        result = FrameResult(self._plan.task(i))
        result.failures.append(Failure(result.task.name, None, NEVER_CAME))
        self._tell(result)

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
                    loaded = self._load(i, frame, result)
                finally:
                    del item, frame
                    self._decoded.release()
                self._go_on(result, loaded)
        finally:
            with self._workers_lock:
                if not self._crew_cuts:
                    self.waits.workers_for_reader += waited
                self._workers_left -= 1
                last = self._workers_left == 0
            if last and self._batches is not None:
                self._batches.close()

    def _work_on(self, i: int, frame: Frame | FrameFailure) -> None:
        """All that is to be done about a frame, on this thread, unless the crew does it."""
        if self._order(i, frame):
            return
        if self._abandon.is_set():
            raise StoppedError
        result = FrameResult(self._plan.task(i))
        self._go_on(result, self._load(i, frame, result))

    def _go_on(self, result: FrameResult, loaded: Loaded | None) -> None:
        """What follows when a frame was loaded, or could not be."""
        if loaded is not None and self._batches is not None:
            self._batches.put(loaded)
            return
        if loaded is not None:
            self._cut(loaded)
        self._tell(result)

    def _load(self, i: int, frame: Frame | FrameFailure, result: FrameResult) -> Loaded | None:
        """The regions of a frame that its faces touch; None, with a failure in the result, if it cannot be read."""
        task = result.task
        began = time.perf_counter()
        if isinstance(frame, FrameFailure):
            result.failures.append(Failure(task.name, None, frame.reason))
            return None
        try:
            patches, patch_of = load_regions(frame, task.region, surfaces=self._engine.takes_surfaces)
        except FrameError as error:
            result.failures.append(Failure(task.name, None, str(error)))
            return None
        result.decoded = True
        result.frame_size = (frame.height, frame.width)
        result.add_seconds("load", time.perf_counter() - began)
        if self._batches is not None:
            patches = [_detached(patch) for patch in patches]
        nbytes = sum(patch.pixels.nbytes for patch in patches)
        return Loaded(i, result, patches, patch_of, nbytes, len(task))

    def _cut(self, loaded: Loaded) -> None:
        """Warp and finish all faces of a frame on this thread."""
        result = loaded.result
        if self._crew is not None and self._crew.cut(loaded):
            return
        step = max(1, CROPS_AT_ONCE_BYTES // (3 * self._plan.size**2))
        for start in range(0, len(result.task), step):
            if self._abandon.is_set():
                raise StoppedError
            stop = min(start + step, len(result.task))
            began = time.perf_counter()
            crops = self._engine.warp(loaded.patches, loaded.crops(start, stop, self._plan.size))
            result.add_seconds("warp", time.perf_counter() - began)
            self._finish_crops(result, loaded.number, start, crops)

    def _finish_crops(self, result: FrameResult, number: int, start: int, crops: np.ndarray) -> None:
        if self._crew is not None and self._crew.finish(number, start, crops, result):
            return
        for k, crop in enumerate(crops, start):
            self._finish_one(result, k, crop)

    def _finish_one(self, result: FrameResult, k: int, crop: np.ndarray) -> None:
        done = result.task.failed.get(k) or self._finish(result.task, k, crop, result)
        if isinstance(done, Failure):
            result.failures.append(done)
        else:
            result.faces.append(done)


def _detached(patch: Patch) -> Patch:
    """The patch without the rest of its frame, where that is most of what it keeps in memory while it waits."""
    base = patch.pixels.base if patch.on_device is None else None
    if isinstance(base, np.ndarray) and base.nbytes > 2 * patch.pixels.nbytes:
        return patch._replace(pixels=patch.pixels.copy())
    return patch


def load_regions(frame: Frame, region: np.ndarray, *, surfaces: bool = False) -> tuple[list[Patch], np.ndarray]:
    """The patches that a frame's faces need, and for each face [K] which of them it reads.

    Args:
        region: [K, 4] int64, what each face may touch, not clipped.
        surfaces: of a frame that was decoded to one, patches may be parts of it.
    """
    regions, region_of = group_regions(region, frame.height, frame.width)
    surface = frame.surface() if surfaces else None
    if surface is not None:
        return [surface.patch(one) for one in regions], region_of
    return frame.load_each(regions), region_of
