"""The stage of engines that work in batches: regions of many frames go to a device, its crops to the finishers.

device      1 thread: takes loaded frames, makes batches of them, submits these and waits for their crops
finishers   encode, hash and write what the device thread hands out; the last face of a frame completes it
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from gpu_extract.engines.base import Crops, Engine, Ticket
from gpu_extract.patch import Patch
from gpu_extract.run.queues import POLL_SECONDS, ByteBudget, StoppedError
from gpu_extract.tasks import FrameResult

TICKETS_IN_FLIGHT = 3  # batches on the device at once: one uploads, one computes, one downloads
TICKETS = TICKETS_IN_FLIGHT + 1  # batches that hold memory: those and one that the encoders read
GATHER_SECONDS = 0.01  # that a batch waits for further frames: it costs the interpreter the same however small it is

FinishCrops = Callable[[FrameResult, int, int, np.ndarray], None]
"""finish_crops(result, number, start, crops [k, S, S, 3] uint8 BGR): finish the faces from `start` on of the frame that
has this number in the plan, and put what became of them into the result."""


@dataclass
class Waits:
    """Seconds that threads spent waiting for each other."""

    reader_for_workers: float = 0.0
    workers_for_reader: float = 0.0
    device_for_regions: float = 0.0
    regions_for_device: float = 0.0


@dataclass
class Loaded:
    """A frame's regions on their way to the engine."""

    number: int
    """Of the frame in the plan."""
    result: FrameResult
    patches: list[Patch]
    patch_of: np.ndarray  # [K]
    nbytes: int
    remaining: int
    """Faces that are not finished yet."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def crops(self, start: int, stop: int, size: int, first_patch: int = 0) -> Crops:
        """What an engine needs of faces start..stop, whose patches begin at `first_patch` of a batch's."""
        task = self.result.task
        faces = slice(start, stop)
        return Crops(self.patch_of[faces] + first_patch, task.crop_from_frame[faces], task.cubic[faces], size)


@dataclass
class _Share:
    """Faces start..stop of one frame inside a batch."""

    loaded: Loaded
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


class BatchStage:
    """Takes loaded frames from many threads and hands finished ones on.

    Args:
        size: S, of the crops.
        finish_crops: called by the finishers.
        hand_on: takes each frame's result when its last face is finished.
        give_up: takes an error that ends the run.
        abandon: set when every thread has to end early.
        finishers: how many.
        waits: where the waiting times go.

    Attributes:
        seconds: that the device thread was busy.
    """

    def __init__(
        self,
        engine: Engine,
        size: int,
        finish_crops: FinishCrops,
        hand_on: Callable[[FrameResult], None],
        give_up: Callable[[BaseException], None],
        abandon: threading.Event,
        finishers: int,
        waits: Waits,
    ) -> None:
        self._engine, self._size, self._finish_crops = engine, size, finish_crops
        self._hand_on, self._give_up, self._abandon = hand_on, give_up, abandon
        self._finishers, self._waits = finishers, waits
        self._waits_lock = threading.Lock()
        self._loaded: queue.SimpleQueue[Loaded | None] = queue.SimpleQueue()
        self._budget = ByteBudget(engine.batch_bytes * TICKETS_IN_FLIGHT)
        self._tickets = threading.Semaphore(TICKETS)
        self._to_finish: queue.SimpleQueue[_Share | None] = queue.SimpleQueue()
        self.seconds = 0.0

    def crew(self) -> list[tuple[str, Callable[[], None]]]:
        """The bodies of this stage's threads, with their names."""
        return [("device", self._device), *((f"finisher-{i}", self._finish) for i in range(self._finishers))]

    def put(self, loaded: Loaded) -> None:
        """Take a frame; waits while too many bytes are on their way."""
        began = time.perf_counter()
        self._budget.acquire(loaded.nbytes, self._abandon)
        with self._waits_lock:
            self._waits.regions_for_device += time.perf_counter() - began
        self._loaded.put(loaded)

    def close(self) -> None:
        """No further frames will come."""
        self._loaded.put(None)

    def _device(self) -> None:
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
            for _ in range(self._finishers):
                self._to_finish.put(None)

    def _batches(self, pending: deque[_Batch]) -> Iterator[list[_Share]]:
        """Full batches; smaller ones where not enough is loaded in `GATHER_SECONDS`, and at the end."""
        S = self._size
        face_bytes = S * (3 * S + 16)  # a crop and its coordinate tables
        shares: list[_Share] = []
        nbytes = 0
        gathered_since = waited = 0.0
        while True:
            if self._abandon.is_set():
                raise StoppedError
            try:
                item = self._loaded.get_nowait()
            except queue.Empty:
                if pending:
                    self._hand_out(pending.popleft())
                    continue
                began = time.perf_counter()
                left = max(0.0, gathered_since + GATHER_SECONDS - began) if shares else None
                try:
                    item = self._loaded.get(timeout=left)
                except queue.Empty:
                    yield shares
                    shares, nbytes = [], 0
                    continue
                finally:
                    waited += time.perf_counter() - began
            if item is None:
                break
            if not shares:
                gathered_since = time.perf_counter()
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
        self._waits.device_for_regions = waited

    def _submit(self, shares: list[_Share]) -> _Batch:
        began = time.perf_counter()
        patches: list[Patch] = []
        parts = []
        for share in shares:
            parts.append(share.loaded.crops(share.start, share.stop, self._size, len(patches)))
            patches += share.loaded.patches
        crops = Crops(
            np.concatenate([part.patch for part in parts]),
            np.concatenate([part.crop_from_frame for part in parts]),
            np.concatenate([part.cubic for part in parts]),
            self._size,
        )
        batch = _Batch(self._engine.submit(patches, crops), shares, len(shares))
        self.seconds += time.perf_counter() - began
        return batch

    def _hand_out(self, batch: _Batch) -> None:
        """Wait for a batch and give its faces to the finishers."""
        began = time.perf_counter()
        crops = batch.ticket.result()
        self.seconds += time.perf_counter() - began
        ends = np.cumsum([0] + [share.stop - share.start for share in batch.shares])
        for share, (start, stop) in zip(batch.shares, pairwise(ends), strict=True):
            share.crops, share.batch = crops[start:stop], batch
            if share.stop == len(share.loaded.result.task):
                share.loaded.patches.clear()  # its last faces are cut; a surface is waited for
            self._to_finish.put(share)

    def _finish(self) -> None:
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
                self._hand_on(loaded.result)

    def _finish_share(self, share: _Share, part: FrameResult) -> None:
        assert share.crops is not None
        self._finish_crops(part, share.loaded.number, share.start, share.crops)
