"""kornia: all faces of a batch warped at once on a torch device, in float32.

Close to exact, not equal: no channel value more than 3 levels away, under 0.01 % more than 1 on natural images. The
sample positions are the exact sampler's, on its 1/32 px grid; what differs is float32 weights against int16 ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gpu_extract.engines import Crops, Engine, Limits
from gpu_extract.errors import DeviceError
from gpu_extract.kernels import tables
from gpu_extract.patch import Patch

if TYPE_CHECKING:
    import torch

KIND = "kornia"
RANK = 30
FLOATS_PER_PIXEL = 3 + 3 + 2 + 2  # source, result, kornia's map and its normalised copy, in units of the larger side


def obstacle(device: str) -> str | None:
    """Runs wherever kornia is installed."""
    from importlib.util import find_spec

    return None if find_spec("kornia") is not None else "kornia is not installed"


class KorniaEngine(Engine):
    """`kornia.geometry.remap` over regions padded with zeros to a common size, a bounded number at a time."""

    name = "kornia"
    inline = False

    def __init__(self, device: str, limits: Limits) -> None:
        import kornia
        import torch

        self.device = device
        self.batch_bytes = max(limits.batch_mb << 20, 1) // 4
        self.implementation = f"kornia {kornia.__version__}, torch {torch.__version__}"
        self._torch = torch
        self._remap = kornia.geometry.transform.remap
        self._device = torch.device(device)
        self._budget = limits.batch_mb << 20

    def warp(self, patches: Sequence[Patch], crops: Crops) -> np.ndarray:
        S = crops.size
        out = np.empty((len(crops), S, S, 3), np.uint8)
        area = np.array([patch.pixels.shape[0] * patch.pixels.shape[1] for patch in patches], np.int64)
        # Crops of like size share a batch, so that padding to the largest costs little.
        order = np.lexsort((area[crops.patch], crops.cubic))
        start = 0
        while start < len(order):
            stop = self._batch_end(order, start, patches, crops)
            chosen = order[start:stop]
            out[chosen] = self._warp_batch([patches[i] for i in crops.patch[chosen]], crops, chosen)
            start = stop
        return out

    def _batch_end(self, order: np.ndarray, start: int, patches: Sequence[Patch], crops: Crops) -> int:
        """How far a batch of one filter reaches before its floats outgrow the budget; at least one crop."""
        height = width = 0
        stop = start
        while stop < len(order) and crops.cubic[order[stop]] == crops.cubic[order[start]]:
            h, w = patches[crops.patch[order[stop]]].pixels.shape[:2]
            height, width = max(height, h), max(width, w)
            pixels = max(height * width, crops.size**2)
            if stop > start and (stop - start + 1) * pixels * FLOATS_PER_PIXEL * 4 > self._budget:
                break
            stop += 1
        return stop

    def _warp_batch(self, patches: Sequence[Patch], crops: Crops, chosen: np.ndarray) -> np.ndarray:
        torch = self._torch
        height = max(patch.pixels.shape[0] for patch in patches)
        width = max(patch.pixels.shape[1] for patch in patches)
        sources = np.zeros((len(patches), height, width, 3), np.uint8)
        for source, patch in zip(sources, patches, strict=True):
            source[: patch.pixels.shape[0], : patch.pixels.shape[1]] = patch.pixels
        origin = np.array([(patch.x0, patch.y0) for patch in patches], np.int64)
        position = tables.coordinate_tables(crops.crop_from_frame[chosen], crops.size)
        try:
            frames = torch.from_numpy(sources).to(self._device).permute(0, 3, 1, 2).float()
            x, y = self._maps(torch.from_numpy(position).to(self._device), torch.from_numpy(origin).to(self._device))
            mode = "bicubic" if crops.cubic[chosen[0]] else "bilinear"
            warped = self._remap(frames, x, y, mode=mode, padding_mode="zeros", align_corners=True)
            rounded = torch.floor(warped + 0.5).clamp_(0, 255).to(torch.uint8)
            crops_out: np.ndarray = rounded.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        except RuntimeError as error:
            raise DeviceError(f"kornia failed on {self.device}: {str(error).splitlines()[0]}") from error
        return crops_out

    def _maps(self, position: torch.Tensor, origin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions in the padded sources, [K, S, S] float32 each, from the integer tables int32 [K, 4, S]."""
        dx, dy, x0, y0 = (position[:, i] for i in range(4))
        x = ((x0[:, :, None] + dx[:, None, :]) >> 5).float() / 32 - origin[:, 0, None, None].float()
        y = ((y0[:, :, None] + dy[:, None, :]) >> 5).float() / 32 - origin[:, 1, None, None].float()
        return x, y


def create(device: str, limits: Limits, say: Callable[[str], None]) -> Engine:
    """The engine; `obstacle(device)` must be None."""
    return KorniaEngine(device, limits)
