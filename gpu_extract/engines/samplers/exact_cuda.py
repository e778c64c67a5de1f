"""Exact sampling on CUDA by our own Triton kernel.

Under `TRITON_INTERPRET=1` the same code runs on CPU tensors: that is how it is tested without a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gpu_extract.engines.base import Crops, Engine, MemoryLimits
from gpu_extract.engines.installed import first_line, triton_fault
from gpu_extract.engines.slots import SlotEngine, Upload, Work
from gpu_extract.errors import DeviceError
from gpu_extract.kernels import tables
from gpu_extract.kernels.slab import lies_inside
from gpu_extract.patch import Patch

if TYPE_CHECKING:
    import torch

KIND = "exact"
RANK = 0


def obstacle(device: str) -> str | None:
    """Runs on a CUDA device with Triton installed (or interpreted, for tests)."""
    if device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        return "the CUDA kernel needs a CUDA device"
    return triton_fault()


class CudaEngine(SlotEngine):
    name = "exact"

    def __init__(self, device: str, limits: MemoryLimits, say: Callable[[str], None]) -> None:
        self.implementation = self._prepare(device, say)
        super().__init__(device, limits, limits.batch_mb)

    def _prepare(self, device: str, say: Callable[[str], None]) -> str:
        """Compile and check the kernel; returns what it is."""
        try:
            import torch
            import triton

            from gpu_extract.kernels import warp_affine

            self._kernel = warp_affine
            where = torch.cuda.get_device_name(device) if device != "cpu" else "interpreted"
            say(f"preparing the CUDA kernel for {where} (compiled on first use, then cached)")
            right = warp_affine.self_check(device)
        except Exception as error:  # compiling runs a C compiler and ptxas and writes a cache: much can be missing
            raise DeviceError(f"the CUDA kernel cannot be made: {type(error).__name__}: {first_line(error)}") from error
        if not right:
            raise DeviceError(f"the CUDA kernel's self-check on {where} did not give the reference's bytes")
        return f"own Triton kernel, triton {triton.__version__}, {where}"

    def _work(self, patches: Sequence[Patch], crops: Crops) -> Work:
        positions = tables.coordinate_tables(crops.crop_from_frame, crops.size)
        upload = Upload(patches)
        inside = lies_inside(positions, crops.cubic, crops.patch, upload.layout)
        kinds = self._kernel.rows_of_kinds(crops.cubic, inside)
        upload.add(crops.patch.astype(np.int32), positions, *kinds.values())

        def compute(memory: torch.Tensor, out: torch.Tensor) -> None:
            slab, (layout, source_of, tables_there, *rows_there) = upload.views(memory)
            for kind, rows in zip(kinds, rows_there, strict=True):
                self._kernel.launch(slab, layout, source_of, tables_there, rows, *kind, out)

        return Work(upload, compute)


def create(device: str, limits: MemoryLimits, say: Callable[[str], None]) -> Engine:
    """The engine, after its self-check; `obstacle(device)` must be None.

    Raises:
        DeviceError: if the kernel does not give the reference's bytes here, or the device fails.
    """
    return CudaEngine(device, limits, say)
