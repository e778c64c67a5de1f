"""Exact sampling by our own C sampler: the same integers as everywhere, whatever OpenCV is installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gpu_extract.engines.base import Crops, Engine, MemoryLimits
from gpu_extract.engines.samplers import exact_opencv
from gpu_extract.kernels import cpu
from gpu_extract.patch import Patch

KIND = "exact"
RANK = 10


def obstacle(device: str) -> str | None:
    """Runs on a CPU where a C compiler was at hand when this package was built."""
    if device != "cpu":
        return "the C sampler runs on the CPU only"
    if not cpu.is_available():
        return "the C sampler was not built here (no C compiler at install time)"
    if cpu.variant() == "scalar" and exact_opencv.obstacle(device) is None:
        return "this processor has no AVX2, and without it OpenCV 4 is the faster exact sampler"
    return None


class CpuEngine(Engine):
    name = "exact"
    device = "cpu"
    inline = True
    is_cutter = True

    def __init__(self) -> None:
        self.implementation = f"own C sampler, {cpu.variant()}"

    def warp(self, patches: Sequence[Patch], crops: Crops) -> np.ndarray:
        return cpu.warp_affine(
            [patch.pixels for patch in patches],
            crops.patch,
            crops.crop_from_frame,
            crops.cubic,
            crops.size,
            origins=[(patch.x0, patch.y0) for patch in patches],
        )


def create(device: str, limits: MemoryLimits, say: Callable[[str], None]) -> Engine:
    """The engine; `obstacle(device)` must be None."""
    return CpuEngine()
