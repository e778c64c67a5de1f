"""Exact sampling by OpenCV 4's fixed-point remap, for machines where our own sampler was not built."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gpu_extract.engines.base import Crops, Engine, MemoryLimits
from gpu_extract.kernels import tables
from gpu_extract.patch import Patch

KIND = "exact"
RANK = 20


def obstacle(device: str) -> str | None:
    """Runs on a CPU with OpenCV 4; OpenCV 5 computes other pixels."""
    if device != "cpu":
        return "OpenCV samples on the CPU only"
    import cv2

    if int(cv2.__version__.split(".")[0]) != 4:
        return f"OpenCV {cv2.__version__} samples differently from OpenCV 4, which the stored hashes were made with"
    return None


class OpenCvEngine(Engine):
    """`cv2.remap` with the integer positions of the exact sampling, so a patch gives the same bytes as its frame."""

    name = "exact"
    device = "cpu"
    inline = True

    def __init__(self) -> None:
        import cv2

        self.implementation = f"OpenCV {cv2.__version__}"
        self._remap = cv2.remap
        self._cubic, self._linear = cv2.INTER_CUBIC, cv2.INTER_LINEAR

    def warp(self, patches: Sequence[Patch], crops: Crops) -> np.ndarray:
        S = crops.size
        out = np.empty((len(crops), S, S, 3), np.uint8)
        coordinates = tables.coordinate_tables(crops.crop_from_frame, S)
        for k, (dx, dy, x0, y0) in enumerate(coordinates):
            patch = patches[crops.patch[k]]
            x = (x0[:, None] + dx[None, :]) >> 5
            y = (y0[:, None] + dy[None, :]) >> 5
            whole = np.empty((S, S, 2), np.int64)
            whole[:, :, 0] = np.clip(x >> 5, -32768, 32767) - patch.x0
            whole[:, :, 1] = np.clip(y >> 5, -32768, 32767) - patch.y0
            fraction = ((y & 31) * 32 + (x & 31)).astype(np.uint16)
            positions = np.clip(whole, -32768, 32767).astype(np.int16)
            interpolation = self._cubic if crops.cubic[k] else self._linear
            self._remap(patch.pixels, positions, fraction, interpolation, dst=out[k])
        return out


def create(device: str, limits: MemoryLimits, say: Callable[[str], None]) -> Engine:
    """The engine; `obstacle(device)` must be None."""
    return OpenCvEngine()
