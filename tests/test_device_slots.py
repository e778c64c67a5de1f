"""Batches in flight on a device that is faked: its streams run late, interleaved at random, and wait only for events.

So a slot that is used too early, or an order that no event enforces, gives wrong crops here, without a GPU.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import random
import re
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_extract.engines import slots
from gpu_extract.engines.base import Crops, MemoryLimits
from gpu_extract.engines.slots import SLOTS, SlotEngine, Upload, Work
from gpu_extract.errors import DeviceError
from gpu_extract.kernels import yuv
from gpu_extract.patch import Patch, Region, Surface, whole_frame

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from gpu_extract.kernels import surfaces  # noqa: E402  # needs both


class FakeDevice:
    """Streams of pending work. Whatever is waited for makes the device run steps, of a random stream each time."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.streams: list[FakeStream] = []
        self.current: FakeStream | None = None
        self.locked: dict[int, int] = {}
        self.memory_limit = 1 << 40
        self.lock_error = 0
        self.failure: str | None = None
        self.waits_count = True
        self.is_current = False

    @contextmanager
    def made_current(self) -> Iterator[None]:
        before, self.is_current = self.is_current, True
        yield
        self.is_current = before

    def called(self) -> None:
        """What CUDA does at every call: it acts on the device that is current."""
        assert self.is_current, "a call of CUDA that takes memory on device 0 of a thread that never chose one"
        if self.failure:
            raise RuntimeError(self.failure)

    def step(self) -> bool:
        ready = [stream for stream in self.streams if stream.queue and stream.queue[0][0]()]
        if not ready:
            return False
        self.random.choice(ready).queue.popleft()[1]()
        return True

    def run_until(self, done: Callable[[], bool]) -> None:
        self.called()
        while not done():
            assert self.step(), "the device waits for what was never enqueued"

    def enqueue(self, run: Callable[[], Any], when: Callable[[], bool] = lambda: True) -> None:
        self.called()
        assert self.current is not None, "work on the default stream"
        self.current.queue.append((when, run))

    @contextmanager
    def on(self, stream: FakeStream) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    def empty(self, size: int, dtype: Any, device: Any = None, pin_memory: bool = False) -> Any:
        if pin_memory:
            raise RuntimeError("CUDA error: operation not supported")
        if size > self.memory_limit:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate more than there is.")
        return torch.full((size,), 0xA5, dtype=torch.uint8).as_subclass(deferred_by(self))

    def cudaHostRegister(self, address: int, nbytes: int, flags: int) -> int:  # noqa: N802
        self.called()
        self.locked[address] = nbytes
        return self.lock_error

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802
        assert self.is_current
        if self.failure:
            return 710
        del self.locked[address]
        return 0


class FakeStream:
    def __init__(self, device: FakeDevice) -> None:
        self.device = device
        self.queue: deque[tuple[Callable[[], bool], Callable[[], Any]]] = deque()
        device.streams.append(self)

    def synchronize(self) -> None:
        self.device.run_until(lambda: not self.queue)

    def wait_stream(self, other: FakeStream) -> None:
        event = FakeEvent(self.device)
        with self.device.on(other):
            event.record()
        with self.device.on(self):
            event.wait()


class FakeEvent:
    def __init__(self, device: FakeDevice) -> None:
        self.device, self.recorded, self.reached = device, 0, 0

    def record(self) -> None:
        self.recorded += 1
        number = self.recorded

        def reach() -> None:
            self.reached = number

        self.device.enqueue(reach)

    def wait(self) -> None:
        if self.device.waits_count:
            number = self.recorded
            self.device.enqueue(lambda: None, when=lambda: self.reached >= number)

    def synchronize(self) -> None:
        number = self.recorded
        self.device.run_until(lambda: self.reached >= number)


def deferred_by(device: FakeDevice) -> Any:
    """A tensor class whose copies, from and to it, happen when the stream gets to them."""

    from torch import Tensor

    class Deferred(Tensor):
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.Tensor.copy_:
                assert kwargs == {"non_blocking": True}
                target, source = (plain(tensor) for tensor in args)
                device.enqueue(lambda: target.copy_(source))
                return args[0]
            otherwise: Any = super().__torch_function__
            return otherwise(func, types, args, kwargs or {})

    return Deferred


def plain(tensor: Any) -> Any:
    return tensor.as_subclass(torch.Tensor)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> FakeDevice:
    fake = FakeDevice(getattr(request, "param", 0))
    empty = torch.empty
    monkeypatch.setattr(
        torch,
        "empty",
        lambda *size, **kw: (
            fake.empty(*size, **kw) if "cuda" in str(kw.get("device")) or "pin_memory" in kw else empty(*size, **kw)
        ),
    )
    monkeypatch.setattr(torch.cuda, "Event", lambda blocking=False: FakeEvent(fake))
    monkeypatch.setattr(torch.cuda, "Stream", lambda place: FakeStream(fake))
    monkeypatch.setattr(torch.cuda, "stream", fake.on)
    monkeypatch.setattr(torch.cuda, "device", lambda place: fake.made_current())
    monkeypatch.setattr(torch.cuda, "cudart", lambda: fake)
    monkeypatch.setattr(torch.cuda, "empty_cache", fake.called)
    return fake


class FakeEngine(SlotEngine):
    """Fills each crop with the first pixel of its patch, when the device gets to it."""

    name, implementation = "exact", "fake"

    def __init__(self, device: FakeDevice, batch_mb: float = 1, pinned_mb: int = 512) -> None:
        self.fake = device
        self.most_crops = 10**9
        super().__init__("cuda:0", MemoryLimits(pinned_mb=pinned_mb), batch_mb)

    def _work(self, patches: Sequence[Patch], crops: Crops) -> Work:
        upload = Upload(patches)
        upload.add(crops.patch.astype(np.int64))

        def compute(memory: Any, out: Any) -> None:
            if len(crops) > self.most_crops:
                raise RuntimeError("Triton Error [CUDA]: out of memory")

            slab, (layout, patch_of) = upload.views(plain(memory))  # a device keeps no more than these

            def run() -> None:
                for crop, patch in zip(plain(out), patch_of, strict=True):
                    first = 4 * int(layout[patch % len(layout), 0]) % len(slab)  # read too early, these are any numbers
                    crop[:] = slab[first : first + 3]

            self.fake.enqueue(run)

        return Work(upload, compute)


def batch(seed: int, faces: int = 5, size: int = 16) -> tuple[list[Patch], Crops, np.ndarray]:
    """Patches of odd sizes, crops of them, and the first pixel of each crop's patch."""
    rng = np.random.default_rng(seed)
    patches = [
        whole_frame(rng.integers(0, 256, (rng.integers(1, 9), rng.integers(1, 9), 3), np.uint8)) for _ in range(4)
    ]
    patch = rng.integers(0, 4, faces)
    crops = Crops(patch, np.zeros((faces, 2, 3)), np.ones(faces, bool), size)
    return patches, crops, np.array([patches[i].pixels[0, 0] for i in patch])


def run_batches(engine: SlotEngine, count: int, rng: random.Random) -> int:
    """Batches in flight as the pipeline has them, results read late; returns how many came back wrong."""
    wrong = 0
    pending: deque[tuple[Any, np.ndarray]] = deque()
    for number in range(count):
        patches, crops, wanted = batch(number)
        pending.append((engine.submit(patches, crops), wanted))
        while len(pending) == SLOTS or (pending and rng.random() < 0.3):
            ticket, right = pending.popleft()
            wrong += not (ticket.result() == right[:, None, None, :]).all()
            ticket.release()
    for ticket, right in pending:
        wrong += not (ticket.result() == right[:, None, None, :]).all()
        ticket.release()
    return wrong


@pytest.mark.parametrize("device", range(20), indirect=True)
def test_no_order_of_the_streams_changes_a_crop(device: FakeDevice) -> None:
    with FakeEngine(device) as engine:
        assert run_batches(engine, 40, device.random) == 0
        assert len(device.locked) == SLOTS
    assert not device.locked


class FakeDecoder:
    """Writes pictures of one value on a stream of its own, when that gets there, and junk where nobody keeps one."""

    def __init__(self, device: FakeDevice, patch: pytest.MonkeyPatch) -> None:
        self.device, self.stream = device, FakeStream(device)
        patch.setattr(torch.cuda, "default_stream", lambda place: self.stream)
        patch.setattr(surfaces, "convert", self._convert)

    def decode(self, value: int) -> Surface:
        luma, chroma = torch.zeros((4, 6), dtype=torch.uint8), torch.zeros((2, 3, 2), dtype=torch.uint8)
        self._write(luma, value)
        surface = Surface(luma, chroma, yuv.COEFFICIENTS[0], yuv.Layout())
        weakref.finalize(surface, self._write, luma, 0xEE).atexit = False
        return surface

    def _write(self, luma: Any, value: int) -> None:
        with self.device.made_current(), self.device.on(self.stream):
            self.device.enqueue(lambda: luma.fill_(value))

    def _convert(self, slab: Any, sources: Any, table: Any, tables: Any, *_: Any) -> None:
        """Each rectangle's first sample as its first pixel."""

        def run() -> None:
            for place, row in zip(*(plain(there) for there in tables), strict=True):
                plain(slab)[4 * int(place[0]) : 4 * int(place[0]) + 3] = ctypes.c_uint8.from_address(int(row[0])).value

        self.device.enqueue(run)


def run_surfaces(engine: SlotEngine, decoder: FakeDecoder, count: int) -> int:
    """As `run_batches`, of pictures that a decoder gives and wants back."""
    wrong = 0
    pending: deque[tuple[Any, list[int]]] = deque()
    for number in range(count):
        values = [(7 * number + i) % 200 + 1 for i in range(3)]
        patches = [decoder.decode(value).patch(Region(0, 0, 6, 4)) for value in values]
        crops = Crops(np.array([2, 0, 1, 2]), np.zeros((4, 2, 3)), np.ones(4, bool), 16)
        pending.append((engine.submit(patches, crops), [values[2], values[0], values[1], values[2]]))
        del patches
        while len(pending) == SLOTS or (pending and number == count - 1):
            ticket, right = pending.popleft()
            wrong += not (ticket.result() == np.array(right)[:, None, None, None]).all()
            ticket.release()
    return wrong


@pytest.mark.parametrize("device", range(20), indirect=True)
def test_surfaces_are_read_when_they_are_decoded_and_before_they_are_given_back(
    device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeEngine(device) as engine:
        assert run_surfaces(engine, FakeDecoder(device, monkeypatch), 40) == 0


@pytest.mark.parametrize("what", ["waits", "keeps"])
def test_the_fake_decoder_shows_a_surface_that_is_not_waited_for_or_not_kept(
    device: FakeDevice, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    decoder = FakeDecoder(device, monkeypatch)
    if what == "waits":
        monkeypatch.setattr(FakeStream, "wait_stream", lambda self, other: None)
    else:
        monkeypatch.setattr(slots._Slot, "surfaces", property(lambda self: [], lambda self, kept: None), raising=False)
        monkeypatch.setattr(Upload, "surfaces", property(surface_marks, lambda self, kept: None), raising=False)
    with FakeEngine(device) as engine:
        assert run_surfaces(engine, decoder, 40) > 0


def surface_marks(upload: Upload) -> list[None]:
    """That there are some, without keeping them."""
    return [None for patch in upload._patches if patch.on_device is not None]


def test_without_events_the_fake_device_shows_it(device: FakeDevice) -> None:
    device.waits_count = False
    with FakeEngine(device) as engine:
        assert run_batches(engine, 40, device.random) > 0


def test_a_larger_batch_gets_a_larger_slot(device: FakeDevice) -> None:
    with FakeEngine(device, batch_mb=1) as engine:
        for number in range(6):
            patches, crops, wanted = batch(number, faces=30, size=128)  # 1.4 MiB
            assert (engine.warp(patches, crops) == wanted[:, None, None, :]).all()
        assert run_batches(engine, 20, device.random) == 0
        assert len(device.locked) == SLOTS


def test_all_slots_stay_within_the_page_locked_limit(device: FakeDevice) -> None:
    with FakeEngine(device, batch_mb=64, pinned_mb=21) as engine:
        assert sum(device.locked.values()) == 21 << 20
        assert engine.batch_bytes < (21 << 20) // SLOTS


def test_with_less_memory_the_slots_are_smaller(device: FakeDevice) -> None:
    device.memory_limit = 5 << 20
    with FakeEngine(device, batch_mb=16) as engine:
        assert set(device.locked.values()) == {4 << 20}
        assert engine.batch_bytes < 4 << 20
        assert run_batches(engine, 10, device.random) == 0


def test_without_memory_it_is_a_sentence(device: FakeDevice) -> None:
    device.memory_limit = 1000
    with pytest.raises(DeviceError, match="cuda:0 has no memory left for batches of 1 MiB"):
        FakeEngine(device)
    assert not device.locked


def test_when_memory_runs_out_the_batch_halves_and_the_run_goes_on(device: FakeDevice) -> None:
    with FakeEngine(device, batch_mb=16) as engine:
        before = engine.batch_bytes
        engine.most_crops = 3
        patches, crops, wanted = batch(1, faces=11)
        ticket = engine.submit(patches, crops)
        assert (ticket.result() == wanted[:, None, None, :]).all()
        ticket.release()
        assert slots.SMALLEST_BATCH <= engine.batch_bytes < before / 2
        engine.most_crops = 10
        assert run_batches(engine, 10, device.random) == 0


@pytest.mark.parametrize("faces", [1, 2])
def test_a_crop_that_does_not_fit_alone_is_tried_once_more_when_nothing_is_in_flight(
    device: FakeDevice, monkeypatch: pytest.MonkeyPatch, faces: int
) -> None:
    with FakeEngine(device) as engine:
        waiting = [engine.submit(*batch(number)[:2]) for number in range(3)]
        patches, crops, wanted = batch(7, faces=faces)
        start, tried = engine._start, []

        def runs_out(slot: Any, work: Work, crops: Crops) -> np.ndarray:
            tried.append(len(crops))
            if len(tried) <= faces:  # a batch of two as a whole, then one of its halves
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.")
            assert tried[faces + 1 :] or not any(stream.queue for stream in device.streams)
            return start(slot, work, crops)

        monkeypatch.setattr(engine, "_start", runs_out)
        assert (engine.warp(patches, crops) == wanted[:, None, None, :]).all()
        assert tried == {1: [1, 1], 2: [2, 1, 1, 1]}[faces]
        for number, ticket in enumerate(waiting):
            assert (ticket.result() == batch(number)[2][:, None, None, :]).all()
            ticket.release()
        assert run_batches(engine, 10, device.random) == 0


def test_a_larger_slot_for_a_single_crop_is_asked_for_once_more(
    device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeEngine(device, batch_mb=1) as engine:
        device.memory_limit = 1 << 20
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: setattr(device, "memory_limit", 1 << 40))
        patches, crops, wanted = batch(2, faces=1, size=1024)
        assert (engine.warp(patches, crops) == wanted[:, None, None, :]).all()
        assert len(device.locked) == SLOTS


def test_what_had_been_made_of_a_batch_is_let_go_before_it_is_tried_again(
    device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error keeps the frames that it came through, and these their tensors."""
    with FakeEngine(device) as engine:
        patches, crops, wanted = batch(7, faces=1)
        start = engine._start
        made: list[weakref.ref[np.ndarray]] = []

        def runs_out(*arguments: Any) -> np.ndarray:
            if not made:
                kept = np.zeros(1)
                made.append(weakref.ref(kept))
                raise torch.cuda.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {len(kept)} GiB.")
            assert made[0]() is None
            return start(*arguments)

        monkeypatch.setattr(engine, "_start", runs_out)
        gc.disable()
        try:
            assert (engine.warp(patches, crops) == wanted[:, None, None, :]).all()
        finally:
            gc.enable()


def test_a_slot_that_cannot_grow_stays_as_it_was(device: FakeDevice) -> None:
    with FakeEngine(device, batch_mb=1) as engine:
        device.memory_limit = 1 << 20
        patches, crops, wanted = batch(1, faces=40, size=128)
        assert (engine.warp(patches, crops) == wanted[:, None, None, :]).all()  # in halves
        patches, crops, _ = batch(2, faces=1, size=1024)
        for _ in range(SLOTS + 1):
            with pytest.raises(DeviceError, match="out of memory"):
                engine.submit(patches, crops)
        assert run_batches(engine, 10, device.random) == 0


def test_a_failed_device_is_a_sentence_and_closing_adds_nothing(device: FakeDevice) -> None:
    with FakeEngine(device) as engine:
        patches, crops, _ = batch(1)
        waiting = engine.submit(patches, crops)
        device.failure = "CUDA error: an illegal memory access was encountered\nCompile with TORCH_USE_CUDA_DSA"
        for failing in (lambda: engine.submit(patches, crops), waiting.result):
            with pytest.raises(DeviceError) as caught:
                failing()
            assert str(caught.value) == (
                "cuda:0 failed: CUDA error: an illegal memory access was encountered; "
                "the faces written so far are whole."
            )
            assert caught.value.exit_code == 5


def test_memory_that_a_failed_device_holds_is_never_given_back(device: FakeDevice) -> None:
    with FakeEngine(device):
        device.failure = "CUDA error: device-side assert triggered"
    held = set(device.locked)
    assert len(held) == SLOTS
    assert held <= slots._locked.keys()
    for address in held:
        slots._locked[address][:] = 1
        del slots._locked[address]  # the device was none


def test_a_device_that_fails_after_it_ran_out_of_memory_is_a_sentence(
    device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeEngine(device) as engine:
        engine.most_crops = 3
        patches, crops, _ = batch(1)

        def out_of_memory_and_dead(*_: Any) -> Any:
            device.failure = "CUDA error: device-side assert triggered"
            raise RuntimeError("CUDA error: out of memory")

        monkeypatch.setattr(engine, "_start", out_of_memory_and_dead)
        with pytest.raises(DeviceError, match="cuda:0 failed: CUDA error: device-side assert triggered"):
            engine.submit(patches, crops)
        device.failure = None


def test_host_memory_is_of_this_process_alone(device: FakeDevice) -> None:
    """A child that is forked must not share its pages: the device would go on with the old ones after a write."""
    if not Path("/proc/self/smaps").exists():
        pytest.skip("memory is described in /proc on Linux only")
    with FakeEngine(device, batch_mb=3):
        flags: dict[int, set[str]] = {}
        for line in Path("/proc/self/smaps").read_text().splitlines():
            if span := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
                first, last = (int(end, 16) for end in span.groups())
            elif line.startswith("VmFlags:"):
                words = set(line.split()[1:])
                flags |= {address: words for address in device.locked if first <= address < last}
        assert len(flags) == SLOTS
        for words in flags.values():
            assert "dc" in words
            assert "sh" not in words


def test_host_memory_that_cannot_be_had_is_a_sentence(device: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr("mmap.mmap", refuses)
    with pytest.raises(DeviceError, match=r"^1 MiB of host memory cannot be had \(.*\); try a smaller --pinned-mb\.$"):
        FakeEngine(device)


def test_memory_that_cannot_be_locked_is_a_sentence(device: FakeDevice) -> None:
    device.lock_error = 304
    with pytest.raises(DeviceError, match=r"1 MiB of host memory cannot be page-locked \(CUDA error 304\)"):
        FakeEngine(device)


def test_where_our_memory_cannot_be_locked_torchs_serves(device: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    device.lock_error = 801
    empty = torch.empty
    taken: list[int] = []

    def pinned(*size: Any, pin_memory: bool = False, **kw: Any) -> Any:
        taken.extend(size if pin_memory else ())
        return empty(*size, **kw)

    monkeypatch.setattr(torch, "empty", pinned)
    with FakeEngine(device) as engine:
        assert taken == [1 << 20] * SLOTS
        assert run_batches(engine, 20, device.random) == 0
        device.locked.clear()
    # Closing unlocks what was locked, which is nothing: the fake device would not know it.


def test_memory_locked_before_a_failure_is_unlocked(device: FakeDevice) -> None:
    registered = device.cudaHostRegister

    def third_fails(address: int, nbytes: int, flags: int) -> int:
        if len(device.locked) == 2:
            return 2
        return registered(address, nbytes, flags)

    device.cudaHostRegister = third_fails  # type: ignore[method-assign]
    with pytest.raises(DeviceError, match="cannot be page-locked"):
        FakeEngine(device)
    assert not device.locked


def test_tensors_are_not_left_to_the_caller(device: FakeDevice) -> None:
    """A slot's memory may be overwritten after release, and is: nobody may keep a view of it."""
    with FakeEngine(device) as engine:
        patches, crops, wanted = batch(1)
        ticket = engine.submit(patches, crops)
        view = ticket.result()
        ticket.release()
        run_batches(engine, 2 * SLOTS, device.random)
        assert not (view == wanted[:, None, None, :]).all()
        assert engine.warp(patches, crops).base is None
