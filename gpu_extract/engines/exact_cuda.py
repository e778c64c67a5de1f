"""Exact sampling on CUDA by our own Triton kernel.

Batches travel through slots that are allocated once: the host side page-locked, the device side plain. Upload, kernel
and download have a stream each; events, never a device-wide wait, hand a slot from one to the next, so that one batch
uploads while another computes and a third is read by the encoders. Only the regions that faces touch are uploaded, with
the coordinate tables, in one copy a batch.

Under `TRITON_INTERPRET=1` the same code runs on CPU tensors, without streams: that is how it is tested without a GPU.
"""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from gpu_extract.engines import Crops, Engine, Limits, Ready, Ticket
from gpu_extract.errors import DeviceError
from gpu_extract.kernels import tables
from gpu_extract.patch import Patch

if TYPE_CHECKING:
    import torch

KIND = "exact"
RANK = 0
SLOTS = 4  # one more than the pipeline keeps in flight, so that a submit does not wait for the encoders
ALIGNMENT = 256  # of the arrays inside an upload
SMALLEST_BATCH = 1 << 20


def obstacle(device: str) -> str | None:
    """Runs on a CUDA device with Triton installed (or interpreted, for tests)."""
    from importlib.util import find_spec

    if device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        return "the CUDA kernel needs a CUDA device"
    return None if find_spec("triton") is not None else "Triton is not installed"


class _Slot:
    """Memory of one batch in flight: an upload, crops on the device, and their download."""

    def __init__(self, torch_module: Any, device: torch.device, nbytes: int) -> None:
        self._torch, self._device = torch_module, device
        self.pinned = device.type == "cuda"
        self.allocate(nbytes, nbytes)
        if self.pinned:
            self.uploaded = torch_module.cuda.Event()
            self.computed = torch_module.cuda.Event()
            self.downloaded = torch_module.cuda.Event()

    def allocate(self, upload: int, crops: int) -> None:
        """Hold room for that many bytes each way."""
        torch = self._torch
        self.host = torch.empty(upload, dtype=torch.uint8, pin_memory=self.pinned)
        self.device = torch.empty(upload, dtype=torch.uint8, device=self._device)
        self.device_crops = torch.empty(crops, dtype=torch.uint8, device=self._device)
        self.host_crops = torch.empty(crops, dtype=torch.uint8, pin_memory=self.pinned)

    def fit(self, upload: int, crops: int) -> None:
        """Grow for a batch that is larger than any slot: one face that alone exceeds the batch size."""
        if upload > self.host.numel() or crops > self.device_crops.numel():
            self.allocate(max(upload, self.host.numel()), max(crops, self.device_crops.numel()))


class _SlotTicket(Ticket):
    def __init__(self, engine: CudaEngine, slot: _Slot, crops: Crops) -> None:
        self._engine, self._slot, self._crops = engine, slot, crops

    def result(self) -> np.ndarray:
        with self._engine.failures():
            if self._slot.pinned:
                self._slot.downloaded.synchronize()
            S = self._crops.size
            flat: np.ndarray = self._slot.host_crops[: self._crops.nbytes].numpy()
            return flat.reshape(len(self._crops), S, S, 3)

    def release(self) -> None:
        self._engine.take_back(self._slot)


class _Failures:
    """Turns torch's errors into DeviceError."""

    def __init__(self, device: str) -> None:
        self._device = device

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, RuntimeError):
            line = (str(error).splitlines() or [type(error).__name__])[0]
            raise DeviceError(f"{self._device} failed: {line}; the faces written so far are whole.") from error


class CudaEngine(Engine):
    name = "exact"
    inline = False

    def __init__(self, device: str, limits: Limits, say: Callable[[str], None]) -> None:
        import torch
        import triton

        from gpu_extract.kernels import warp_affine

        self._torch, self._kernel = torch, warp_affine
        self.device = device
        self._device = torch.device(device)
        self._on_cuda = self._device.type == "cuda"
        self._out_of_memory = torch.cuda.OutOfMemoryError
        where = torch.cuda.get_device_name(self._device) if self._on_cuda else "interpreted"
        self.implementation = f"own Triton kernel, triton {triton.__version__}, {where}"
        say(f"preparing the CUDA kernel for {where} (compiled on first use, then cached)")
        with self.failures():
            if not warp_affine.self_check(self._device):
                raise DeviceError(f"the CUDA kernel's self-check on {where} did not give the reference's bytes")
            self._streams = [torch.cuda.Stream(self._device) for _ in range(3)] if self._on_cuda else []
        self.batch_bytes = min(limits.batch_mb << 20, (limits.pinned_mb << 20) // (2 * SLOTS))
        self._free: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        self._slots = self._allocate()
        for slot in self._slots:
            self._free.put(slot)

    def failures(self) -> _Failures:
        return _Failures(self.device)

    def take_back(self, slot: _Slot) -> None:
        self._free.put(slot)

    def _allocate(self) -> list[_Slot]:
        """All slots; with less memory than asked for, smaller ones."""
        while True:
            try:
                return [_Slot(self._torch, self._device, self.batch_bytes) for _ in range(SLOTS)]
            except self._out_of_memory as error:
                if self.batch_bytes <= SMALLEST_BATCH:
                    raise DeviceError(f"{self.device} has no memory left for a batch of 1 MiB.") from error
                self.batch_bytes //= 2
                self._torch.cuda.empty_cache()
            except RuntimeError as error:
                raise DeviceError(f"{self.device} failed: {str(error).splitlines()[0]}.") from error

    def warp(self, patches: Sequence[Patch], crops: Crops) -> np.ndarray:
        ticket = self.submit(patches, crops)
        result = ticket.result().copy()
        ticket.release()
        return result

    def submit(self, patches: Sequence[Patch], crops: Crops) -> Ticket:
        slot = self._free.get()
        try:
            with self.failures():
                self._start(slot, patches, crops)
        except DeviceError as error:
            self._free.put(slot)
            if isinstance(error.__cause__, self._out_of_memory) and len(crops) > 1:
                return self._submit_halves(patches, crops)
            raise
        return _SlotTicket(self, slot, crops)

    def _submit_halves(self, patches: Sequence[Patch], crops: Crops) -> Ticket:
        """A batch that did not fit, as two; later batches are half as large as well."""
        self._torch.cuda.empty_cache()
        self.batch_bytes = max(SMALLEST_BATCH, self.batch_bytes // 2)
        middle = len(crops) // 2
        parts = []
        for half in (slice(0, middle), slice(middle, None)):
            used, patch = np.unique(crops.patch[half], return_inverse=True)
            part = Crops(patch, crops.crop_from_frame[half], crops.cubic[half], crops.size)
            parts.append(self.warp([patches[i] for i in used], part))
        return Ready(np.concatenate(parts))

    def _start(self, slot: _Slot, patches: Sequence[Patch], crops: Crops) -> None:
        kernel, S = self._kernel, crops.size
        origins = [(patch.x0, patch.y0) for patch in patches]
        layout, slab_bytes = kernel.slab_layout([patch.pixels.shape[:2] for patch in patches], origins)
        by_filter = [np.flatnonzero(crops.cubic == cubic).astype(np.int32) for cubic in (True, False)]
        arrays = [
            layout,
            crops.patch.astype(np.int32),
            tables.coordinate_tables(crops.crop_from_frame, S),
            *by_filter,
        ]
        starts = _aligned_starts([slab_bytes, *(array.nbytes for array in arrays)])
        slot.fit(starts[-1], crops.nbytes)
        host = slot.host.numpy()
        for place, patch in zip(layout, patches, strict=True):
            kernel.fill(host[:slab_bytes], place, patch.pixels)
        for start, array in zip(starts[1:], arrays, strict=False):
            host[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)

        upload, compute, download = (
            [self._torch.cuda.stream(stream) for stream in self._streams] if self._on_cuda else [nullcontext()] * 3
        )
        with upload:
            slot.device[: starts[-1]].copy_(slot.host[: starts[-1]], non_blocking=True)
            if self._on_cuda:
                slot.uploaded.record()
        sources, source_of, positions, cubic_rows, linear_rows = (
            self._view(slot.device, start, array) for start, array in zip(starts[1:], arrays, strict=False)
        )
        cut = slot.device_crops[: crops.nbytes].view(len(crops), S, S, 3)
        with compute:
            if self._on_cuda:
                slot.uploaded.wait()
            for cubic, rows in ((True, cubic_rows), (False, linear_rows)):
                kernel.launch(slot.device[:slab_bytes], sources, source_of, positions, rows, cubic, cut)
            if self._on_cuda:
                slot.computed.record()
        with download:
            if self._on_cuda:
                slot.computed.wait()
            slot.host_crops[: crops.nbytes].copy_(slot.device_crops[: crops.nbytes], non_blocking=True)
            if self._on_cuda:
                slot.downloaded.record()

    def _view(self, memory: torch.Tensor, start: int, array: np.ndarray) -> torch.Tensor:
        """Where an array of the upload lies on the device."""
        dtype = {np.dtype(np.int64): self._torch.int64, np.dtype(np.int32): self._torch.int32}[array.dtype]
        return memory[start : start + array.nbytes].view(dtype).view(array.shape)

    def close(self) -> None:
        """Wait for what is in flight, then drop all memory."""
        if self._on_cuda:
            for stream in self._streams:
                stream.synchronize()
        self._slots.clear()
        while not self._free.empty():
            self._free.get()


def _aligned_starts(sizes: Sequence[int]) -> list[int]:
    """Where arrays of these sizes begin when each is aligned; the last entry is the total."""
    starts = [0]
    for size in sizes:
        starts.append(-(-(starts[-1] + size) // ALIGNMENT) * ALIGNMENT)
    return starts


def create(device: str, limits: Limits, say: Callable[[str], None]) -> Engine:
    """The engine, after its self-check; `obstacle(device)` must be None.

    Raises:
        DeviceError: if the kernel does not give the reference's bytes here, or the device fails.
    """
    return CudaEngine(device, limits, say)
