"""kornia: all faces of a batch warped at once on a torch device, in float32.

Close to exact, not equal: no channel value more than 3 levels away, under 0.01 % more than 1 on natural images. The
sample positions are the exact sampler's, on its 1/32 px grid; what differs is float32 weights against int16 ones. A
crop does not depend on those beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gpu_extract.engines.base import Crops, Engine, MemoryLimits
from gpu_extract.engines.installed import kornia_fault
from gpu_extract.engines.slots import SlotEngine, Upload, Work
from gpu_extract.kernels import tables
from gpu_extract.kernels.slab import WORD
from gpu_extract.patch import Patch

if TYPE_CHECKING:
    import torch
    from torch import Tensor

KIND = "kornia"
RANK = 30
LAST = (1 << 15) - 1  # column or row of a frame that a position can tell
MARGIN = 4  # columns and rows of zeros behind a patch: as many as a position one behind it reads
BEYOND = 1  # crops that the memory behind the last picture counts for
FLOATS_PER_PIXEL = 3 + 3 + 2 + 2  # source, result, the map and kornia's copy of it, in units of the larger side


def obstacle(device: str) -> str | None:
    """Runs wherever kornia is installed."""
    return kornia_fault()


class KorniaEngine(SlotEngine):
    """`kornia.geometry.remap` over regions padded with zeros to a common size, a bounded number at a time.

    kornia takes positions as fractions of a picture's sides, in float32, whose last bits would depend on the common
    size, and so on what shares a batch. With sides that are powers of two they are exact. Pictures are only said to be
    that large: beyond what is there they go on in the memory of the next row and the next picture, where no position
    leads.
    """

    name = "kornia"

    def __init__(self, device: str, limits: MemoryLimits) -> None:
        import kornia
        import torch

        self.implementation = f"kornia {kornia.__version__}, torch {torch.__version__}"
        self._remap = kornia.geometry.transform.remap
        self._float_bytes = limits.batch_mb << 20
        super().__init__(device, limits, limits.batch_mb / 4)

    def _work(self, patches: Sequence[Patch], crops: Crops) -> Work:
        order = self._order(patches, crops)
        patch = crops.patch[order]
        upload = Upload(patches)
        upload.add(order, patch, tables.coordinate_tables(crops.crop_from_frame[order], crops.size))
        sizes = [patch.pixels.shape[:2] for patch in patches]

        def compute(memory: torch.Tensor, out: torch.Tensor) -> None:
            slab, (layout, rows, patch_there, positions) = upload.views(memory)
            origins = layout[patch_there, 3:].float()
            for start, stop in self._parts(order, sizes, crops):
                part = slice(start, stop)
                places = [(upload.layout[i], sizes[i]) for i in patch[part]]
                mode = "bicubic" if crops.cubic[order[start]] else "bilinear"
                # A name would keep the pictures until those of the next part are there.
                out[rows[part]] = self._warped(self._padded(slab, places), positions[part], origins[part], mode)

        return Work(upload, compute)

    def _order(self, patches: Sequence[Patch], crops: Crops) -> np.ndarray:
        """Crops by filter and size of their patch, [K] int64, so that padding to the largest costs little."""
        area = np.array([patch.pixels.shape[0] * patch.pixels.shape[1] for patch in patches], np.int64)
        return np.lexsort((area[crops.patch], crops.cubic))

    def _parts(self, order: np.ndarray, sizes: Sequence[tuple[int, ...]], crops: Crops) -> Iterator[tuple[int, int]]:
        """Runs of one filter, each as long as its floats fit into the budget, but of one crop at least."""
        start = 0
        while start < len(order):
            height = width = 0
            stop = start
            while stop < len(order) and crops.cubic[order[stop]] == crops.cubic[order[start]]:
                h, w = sizes[crops.patch[order[stop]]]
                height, width = max(height, h), max(width, w)
                pixels = max((MARGIN + height) * (MARGIN + width), crops.size**2)
                if stop > start and (stop - start + 1 + BEYOND) * pixels * FLOATS_PER_PIXEL * 4 > self._float_bytes:
                    break
                stop += 1
            yield start, stop
            start = stop

    def _padded(self, slab: torch.Tensor, places: list[tuple[np.ndarray, tuple[int, ...]]]) -> torch.Tensor:
        """The patches of a part, [n, height, width, 3] float32, zeros where the largest is larger and in a margin."""
        height = MARGIN + max(h for _, (h, _) in places)
        width = MARGIN + max(w for _, (_, w) in places)
        shape = len(places), height, width, 3
        room = ((len(places) - 1) * height + _power_of_two(height) - 1) * width + _power_of_two(width)
        memory = self._torch.zeros(3 * room, dtype=self._torch.float32, device=slab.device)
        frames: Tensor = memory[: math.prod(shape)].view(shape)
        for frame, ((first, _, stride, _, _), (h, w)) in zip(frames, places, strict=True):
            lines = slab[WORD * first : WORD * (first + h * stride)].view(h, WORD * stride)
            frame[:h, :w] = lines[:, : 3 * w].unflatten(1, (w, 3))
        return frames

    def _warped(
        self,
        frames: torch.Tensor,
        positions: torch.Tensor,  # [n, 4, S] int32
        origins: torch.Tensor,  # [n, 2] float32: frame pixel (x, y) of each patch's [0, 0]
        mode: str,
    ) -> torch.Tensor:
        """Crops [n, S, S, 3] uint8; frames as of `_padded`."""
        n, height, width, _ = frames.shape
        dx, dy, x0, y0 = (positions[:, i] for i in range(4))
        x, y = _pixels(x0, dx, origins[:, 0]), _pixels(y0, dy, origins[:, 1])
        sides = _power_of_two(height), _power_of_two(width)
        pictures = frames.as_strided((n, 3, *sides), (3 * height * width, 1, 3 * width, 3))
        # Normalised here: kornia would do the same with two constants that it uploads, and wait for each.
        maps = (_normalised(x, width, sides[1]), _normalised(y, height, sides[0]))
        warped = self._remap(
            pictures, *maps, mode=mode, padding_mode="zeros", align_corners=False, normalized_coordinates=True
        )
        done: Tensor = warped.add_(0.5).floor_().clamp_(0, 255).to(self._torch.uint8).permute(0, 2, 3, 1)
        return done


def _power_of_two(length: int) -> int:
    """The smallest one that is not less."""
    return 1 << (length - 1).bit_length()


def _pixels(starts: torch.Tensor, steps: torch.Tensor, origin: torch.Tensor) -> torch.Tensor:
    """Positions of [n, S] starts and [n, S] steps in a patch that begins at [n] origin: [n, S, S] float32, in pixels.

    Whole pixels of a frame end where int16 does, as for the exact sampler. Below its beginning there are none anyway.
    """
    position = (starts[:, :, None] + steps[:, None, :]) >> 5
    position -= ((position >> 5) - LAST).clamp_(min=0) << 5
    return position.float().div_(32).sub_(origin[:, None, None])


def _normalised(position: torch.Tensor, length: int, side: int) -> torch.Tensor:
    """Positions, in place: a side's edges, half a pixel outside, as -1 and 1; those beyond a length in the margin."""
    return position.clamp_(max=length - MARGIN + 1).add_(0.5).mul_(2.0 / side).sub_(1.0)


def create(device: str, limits: MemoryLimits, say: Callable[[str], None]) -> Engine:
    """The engine; `obstacle(device)` must be None."""
    return KorniaEngine(device, limits)
