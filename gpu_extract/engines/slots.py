"""Batches on their way through a torch device: what the engines that work in batches have in common.

Batches travel through slots, memory that is allocated once: page-locked on the host, plain on the device, an upload in
front and its crops behind. Upload, computation and download have a stream each; events, never a wait for the device,
hand a slot from one to the next, so that one batch uploads while another computes and a third is read by the encoders.

On a CPU the same code runs without streams and copies, the host's memory being the device's.

Of patches that are parts of surfaces, which are on the device already, only where they lie is uploaded: they become BGR
in the slab before an engine reads it. So an engine knows nothing of surfaces.
"""

from __future__ import annotations

import mmap
import queue
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpu_extract.engines.base import Crops, Engine, MemoryLimits, Ready, Ticket
from gpu_extract.engines.installed import first_line, triton_fault
from gpu_extract.errors import DeviceError
from gpu_extract.kernels.slab import fill, slab_layout
from gpu_extract.kernels.yuv import Coefficients, Layout
from gpu_extract.patch import Patch, Surface

if TYPE_CHECKING:
    import torch

SLOTS = 4  # one more than the pipeline keeps in flight, so that a submit does not wait for the encoders
ALIGNMENT = 256  # of the arrays inside a slot
SMALLEST_BATCH = 1 << 20
HEADROOM = 8  # one part in so many of a slot is for what a batch holds besides pixels: tables, padded rows


@dataclass(frozen=True)
class _Conversion:
    """Parts of surfaces that one formula makes BGR of, one launch, and where its tables lie in an upload."""

    formula: tuple[Coefficients, Layout]
    sources: np.ndarray  # [N, 5] int64, of the slab
    table: np.ndarray  # [N, 6] int64, of the surfaces
    starts: tuple[int, int]


class Upload:
    """Patches and arrays, laid out in one piece of memory so that one copy takes them to the device."""

    def __init__(self, patches: Sequence[Patch]) -> None:
        self._patches = patches
        origins = [(patch.x0, patch.y0) for patch in patches]
        self.layout, self._slab_bytes = slab_layout([patch.pixels.shape[:2] for patch in patches], origins)
        """[N, 5] int64, as of `slab_layout`: the first of the arrays."""
        self._arrays: list[np.ndarray] = []
        self._starts: list[int] = []
        self.nbytes = _aligned(self._slab_bytes)
        self.surfaces = [region.surface for patch in patches if (region := patch.on_device) is not None]
        """Those that the patches are parts of; they must be kept until `convert` has been done."""
        self.first = self.nbytes if self.surfaces and len(self.surfaces) == len(patches) else 0
        """Where that begins which must be copied to the device: a slab of surfaces is made there."""
        self._conversions = self._tables_of_surfaces() if self.surfaces else []
        self.add(self.layout)

    def _tables_of_surfaces(self) -> list[_Conversion]:
        from gpu_extract.kernels import surfaces

        parts: dict[tuple[Coefficients, Layout], list[int]] = {}
        for i, patch in enumerate(self._patches):
            if (region := patch.on_device) is not None:
                parts.setdefault((region.surface.coefficients, region.surface.layout), []).append(i)
        conversions = []
        for formula, rows in parts.items():
            regions = [region for i in rows if (region := self._patches[i].on_device) is not None]
            pictures = [surfaces.Surface(region.surface.luma, region.surface.chroma) for region in regions]
            sources, table = self.layout[rows], surfaces.surface_table(pictures, formula[1])
            starts = self.nbytes, _aligned(self.nbytes + sources.nbytes)
            self.nbytes = _aligned(starts[1] + table.nbytes)
            conversions.append(_Conversion(formula, sources, table, starts))
        return conversions

    def add(self, *arrays: np.ndarray) -> None:
        """Arrays int32 or int64, of any shape."""
        for array in arrays:
            self._arrays.append(array)
            self._starts.append(self.nbytes)
            self.nbytes = _aligned(self.nbytes + array.nbytes)

    def fill(self, host: np.ndarray) -> None:
        """Put everything into host memory, [nbytes] uint8."""
        for place, patch in zip(self.layout, self._patches, strict=True):
            if patch.on_device is None:
                fill(host[: self._slab_bytes], place, patch.pixels)
        for conversion in self._conversions:
            for start, array in zip(conversion.starts, (conversion.sources, conversion.table), strict=True):
                host[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
        for start, array in zip(self._starts, self._arrays, strict=True):
            host[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)

    def convert(self, memory: torch.Tensor) -> None:
        """Make BGR of the parts of surfaces, in a copy of the memory on their device, on its current stream."""
        import torch

        from gpu_extract.kernels import surfaces

        slab = memory[: self._slab_bytes]
        for made in self._conversions:
            sources, table = (
                memory[start : start + array.nbytes].view(torch.int64).view(array.shape)
                for start, array in zip(made.starts, (made.sources, made.table), strict=True)
            )
            surfaces.convert(slab, made.sources, made.table, (sources, table), *made.formula)

    def views(self, memory: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The slab, [n] uint8, the layout, and the arrays as added, where they lie in a copy of the memory."""
        import torch

        dtypes = {np.dtype(np.int64): torch.int64, np.dtype(np.int32): torch.int32}
        views = [
            memory[start : start + array.nbytes].view(dtypes[array.dtype]).view(array.shape)
            for start, array in zip(self._starts, self._arrays, strict=True)
        ]
        return memory[: self._slab_bytes], views


@dataclass(frozen=True)
class Work:
    """What an engine does with a batch: an upload, and the computation that turns it into crops."""

    upload: Upload
    compute: Callable[[torch.Tensor, torch.Tensor], None]
    """compute(upload [n] uint8, crops [K, S, S, 3] uint8), on the device's current stream; must not wait for it."""


class _Slot:
    """Memory of one batch in flight, on the host and on the device, and the events that guard it."""

    def __init__(self, device: torch.device, nbytes: int) -> None:
        import torch

        self._device = device
        self.on_cuda = device.type == "cuda"
        # The device's memory first: it is what runs out, and page-locking takes its time.
        self.device = torch.empty(nbytes, dtype=torch.uint8, device=device)
        if self.on_cuda:
            self.uploaded, self.computed = torch.cuda.Event(), torch.cuda.Event()
            # A thread that waits for this one sleeps: the encoders need its core.
            self.downloaded = torch.cuda.Event(blocking=True)
        # Last, for what is locked must be unlocked, and nobody would if something failed after it.
        self._locked = _PageLocked(nbytes) if self.on_cuda else None
        self.host = torch.from_numpy(self._locked.memory) if self._locked else self.device
        self.surfaces: list[Surface] = []
        """Those that the batch reads, kept: a decoder writes its next pictures where nobody keeps the last ones."""

    @property
    def nbytes(self) -> int:
        return self.host.numel()

    def free(self) -> None:
        """Unlock the host's memory; nothing may be in flight."""
        if self._locked is not None:
            self._locked.free()


class _PageLocked:
    """Host memory that the device copies from and to by itself.

    Not torch's own where it can be helped: that comes in powers of two, up to twice the limit, and gives itself back
    with a CUDA call that ends the process if the device has failed.
    """

    def __init__(self, nbytes: int) -> None:
        import torch

        self.memory = self._pages(max(nbytes, 1))
        self._runtime: Any = torch.cuda.cudart()
        code = int(self._runtime.cudaHostRegister(self.memory.ctypes.data, self.memory.nbytes, 0))
        self._registered = not code
        if self._registered:
            _locked[self.memory.ctypes.data] = self.memory
        else:  # some sandboxes lock only memory that the driver gives out
            self.memory = self._of_torch(nbytes, code)

    @staticmethod
    def _pages(nbytes: int) -> np.ndarray:
        """Whole pages of this process alone, [nbytes] uint8.

        A child that a host program forks does not get them: else the next write here would be to a copy of the page,
        and the device would go on reading the old one.
        """
        try:
            pages = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise DeviceError(
                f"{nbytes >> 20} MiB of host memory cannot be had ({error.strerror}); try a smaller --pinned-mb."
            ) from error
        if hasattr(mmap, "MADV_DONTFORK"):
            pages.madvise(mmap.MADV_DONTFORK)
        return np.frombuffer(pages, dtype=np.uint8)

    @staticmethod
    def _of_torch(nbytes: int, code: int) -> np.ndarray:
        import torch

        with suppress(RuntimeError, AssertionError):
            torch.ones(1, device="cuda")  # CUDA keeps the error and would blame the next kernel for it: this one
        try:
            memory: np.ndarray = torch.empty(max(nbytes, 1), dtype=torch.uint8, pin_memory=True).numpy()
        except RuntimeError as error:
            raise DeviceError(
                f"{nbytes >> 20} MiB of host memory cannot be page-locked (CUDA error {code}); "
                "try a smaller --pinned-mb."
            ) from error
        return memory

    def free(self) -> None:
        address = self.memory.ctypes.data
        if self._registered and not int(self._runtime.cudaHostUnregister(address)):
            self._registered = False
            del _locked[address]


_locked: dict[int, np.ndarray] = {}
"""Page-locked memory by its address, kept while it is: a device that failed may never let go of it, and nothing else
must come to lie there."""


class _SlotTicket(Ticket):
    def __init__(self, engine: SlotEngine, slot: _Slot, host_crops: np.ndarray) -> None:
        self._engine, self._slot, self._host_crops = engine, slot, host_crops

    def result(self) -> np.ndarray:
        with self._engine.failures():
            self._engine.wait_for(self._slot)
        return self._host_crops

    def release(self) -> None:
        self._engine.take_back(self._slot)


class _Failures:
    """Turns errors of torch and Triton into DeviceError; others pass."""

    def __init__(self, device: str) -> None:
        self._device = device

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None and (isinstance(error, RuntimeError) or type(error).__module__.startswith("triton.")):
            raise DeviceError(
                f"{self._device} failed: {first_line(error)}; the faces written so far are whole."
            ) from error


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether the device ran out of memory; not only torch's allocator says so."""
    import torch

    return isinstance(error, torch.cuda.OutOfMemoryError) or "out of memory" in str(error).lower()


class SlotEngine(Engine):
    """An engine whose batches travel through slots; `_work` is what differs."""

    inline = False

    def __init__(self, device: str, limits: MemoryLimits, batch_mb: float) -> None:
        """Slots of `batch_mb` MiB, or as many as fit into the limits and the device's memory.

        Raises:
            DeviceError: if there is no memory for a batch of 1 MiB, or the device fails.
        """
        import torch

        self._torch = torch
        self.device = device
        self._device = torch.device(device)
        self._on_cuda = self._device.type == "cuda"
        self.takes_surfaces = triton_fault() is None  # whose kernel converts them
        self._free: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        self._slots: list[_Slot] = []
        self._streams: list[Any] = []
        with self.failures(), self._current_device():
            if self._on_cuda:
                self._streams = [torch.cuda.Stream(self._device) for _ in range(3)]
            self._allocate(int(min(batch_mb, limits.pinned_mb / SLOTS) * (1 << 20)))

    @abstractmethod
    def _work(self, patches: Sequence[Patch], crops: Crops) -> Work:
        """What to upload and to compute for a batch."""

    def failures(self) -> _Failures:
        return _Failures(self.device)

    def has_room(self) -> bool:
        return not self._free.empty()

    def take_back(self, slot: _Slot) -> None:
        self._free.put(slot)

    def wait_for(self, slot: _Slot) -> None:
        """Wait until a slot's crops are in the host's memory."""
        if self._on_cuda:
            with self._current_device():
                slot.downloaded.synchronize()
        slot.surfaces = []

    def _current_device(self) -> AbstractContextManager[Any]:
        """Around every call of CUDA: else a thread's first one would take memory on device 0 too."""
        return self._torch.cuda.device(self._device) if self._on_cuda else nullcontext()

    def _stream(self, i: int) -> AbstractContextManager[Any]:
        return self._torch.cuda.stream(self._streams[i]) if self._on_cuda else nullcontext()

    def _allocate(self, nbytes: int) -> None:
        """All slots; with less memory than asked for, smaller ones."""
        while not self._try_to_allocate(nbytes):
            if nbytes <= SMALLEST_BATCH:
                raise DeviceError(f"{self.device} has no memory left for batches of 1 MiB; other programs may hold it.")
            nbytes //= 2
        self.batch_bytes = nbytes - nbytes // HEADROOM
        for slot in self._slots:
            self._free.put(slot)

    def _try_to_allocate(self, nbytes: int) -> bool:
        try:
            for _ in range(SLOTS):
                self._slots.append(_Slot(self._device, nbytes))
        except Exception as error:
            self._drop_slots()
            if not (isinstance(error, RuntimeError) and is_out_of_memory(error)):
                raise
        else:
            return True
        self._empty_cache()
        return False

    def _empty_cache(self) -> None:
        """Give back what torch holds and nobody uses."""
        if self._on_cuda:
            self._torch.cuda.empty_cache()

    def _drop_slots(self) -> None:
        for slot in self._slots:
            slot.free()
        self._slots.clear()

    def warp(self, patches: Sequence[Patch], crops: Crops) -> np.ndarray:
        ticket = self.submit(patches, crops)
        result = ticket.result().copy()
        ticket.release()
        return result

    def submit(self, patches: Sequence[Patch], crops: Crops) -> Ticket:
        try:
            return self._submit(patches, crops)
        except DeviceError as error:
            if not is_out_of_memory(error.__cause__):
                raise
        # Out here, where the error no longer keeps what had been made of the batch.
        with self.failures(), self._current_device():
            self._empty_cache()
        if len(crops) < 2:  # nothing is in flight any more, and other programs come and go
            return self._submit(patches, crops)
        return self._submit_halves(patches, crops)

    def _submit(self, patches: Sequence[Patch], crops: Crops) -> Ticket:
        slot = self._free.get()
        started = False
        try:
            work = self._work(patches, crops)
            with self.failures(), self._current_device():
                slot = self._large_enough(slot, work.upload.nbytes + crops.nbytes)
                host_crops = self._start(slot, work, crops)
            started = True
            return _SlotTicket(self, slot, host_crops)
        finally:
            if not started:
                self._finish_in_flight()
                slot.surfaces = []
                self._free.put(slot)

    def _submit_halves(self, patches: Sequence[Patch], crops: Crops) -> Ticket:
        """A batch that did not fit, as two; later batches are half as large as well."""
        self.batch_bytes = max(SMALLEST_BATCH, self.batch_bytes // 2)
        middle = len(crops) // 2
        parts = []
        for half in (slice(0, middle), slice(middle, None)):
            used, patch = np.unique(crops.patch[half], return_inverse=True)
            part = Crops(patch, crops.crop_from_frame[half], crops.cubic[half], crops.size)
            parts.append(self.warp([patches[i] for i in used], part))
        return Ready(np.concatenate(parts))

    def _large_enough(self, slot: _Slot, nbytes: int) -> _Slot:
        """This slot, or a larger one in its place: one face alone may exceed the batch size."""
        if nbytes <= slot.nbytes:
            return slot
        larger = _Slot(self._device, nbytes)
        self._slots[self._slots.index(slot)] = larger
        slot.free()
        return larger

    def _start(self, slot: _Slot, work: Work, crops: Crops) -> np.ndarray:
        """Enqueue a batch; returns where its crops will be, [K, S, S, 3] uint8."""
        nbytes = work.upload.nbytes
        end = nbytes + crops.nbytes
        shape = (len(crops), crops.size, crops.size, 3)
        host: np.ndarray = slot.host.numpy()
        upload = work.upload
        slot.surfaces = upload.surfaces
        upload.fill(host)
        if self._on_cuda:
            with self._stream(0):
                slot.device[upload.first : nbytes].copy_(slot.host[upload.first : nbytes], non_blocking=True)
                slot.uploaded.record()
        with self._stream(1):
            if self._on_cuda:
                slot.uploaded.wait()
            if upload.surfaces:
                if self._on_cuda:  # where FFmpeg has its decoder's pictures copied to surfaces
                    self._streams[1].wait_stream(self._torch.cuda.default_stream(self._device))
                upload.convert(slot.device[:nbytes])
            work.compute(slot.device[:nbytes], slot.device[nbytes:end].view(shape))
            if self._on_cuda:
                slot.computed.record()
        if self._on_cuda:
            with self._stream(2):
                slot.computed.wait()
                slot.host[nbytes:end].copy_(slot.device[nbytes:end], non_blocking=True)
                slot.downloaded.record()
        return host[nbytes:end].reshape(shape)

    def _finish_in_flight(self) -> None:
        """Wait for all that was enqueued; a device that failed has nothing in flight."""
        with suppress(RuntimeError), self._current_device():
            for stream in self._streams:
                stream.synchronize()

    def close(self) -> None:
        """Wait for what is in flight, then drop all memory."""
        self._finish_in_flight()
        while not self._free.empty():
            self._free.get()
        with suppress(RuntimeError), self._current_device():
            self._drop_slots()


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
