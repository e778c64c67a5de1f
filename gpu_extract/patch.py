"""A piece of a frame: the value that travels from a frame source to an engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from gpu_extract.kernels.yuv import Coefficients, Layout

if TYPE_CHECKING:
    from torch import Tensor


class Region(NamedTuple):
    """A rectangle of frame pixels, half-open: x0 <= x < x1, y0 <= y < y1."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def area(self) -> int:
        return (self.x1 - self.x0) * (self.y1 - self.y0)


@dataclass(frozen=True, eq=False)
class Surface:
    """A picture of even sides as a hardware decoder left it on its device, and the formula that makes BGR of it.

    The decoder has its memory back when nobody keeps this any more.
    """

    luma: Tensor  # [H, W] uint8, rows as far apart as they like
    chroma: Tensor  # [H / 2, W / 2, 2] of the same: U, V
    coefficients: Coefficients
    layout: Layout

    def patch(self, region: Region) -> Patch:
        """The part that covers a region, which must lie inside and have a pixel at least; its pixels stay there."""
        height, width = self.luma.shape
        x0, y0 = region.x0 & ~1, region.y0 & ~1
        h, w = region.y1 + region.y1 % 2 - y0, region.x1 + region.x1 % 2 - x0
        return Patch(cast("np.ndarray", SurfaceRegion(self, (h, w, 3))), x0, y0, height, width)


@dataclass(frozen=True, eq=False)
class SurfaceRegion:
    """What stands for the pixels of a patch that are a rectangle of a surface, with even corners; keeps it."""

    surface: Surface
    shape: tuple[int, int, int]
    """Of the BGR that is to be made of it: [h, w, 3] uint8."""

    @property
    def nbytes(self) -> int:
        """Of that BGR."""
        h, w, channels = self.shape
        return h * w * channels


class Patch(NamedTuple):
    """Pixels of a frame, whole or in part.

    `pixels[0, 0]` is frame pixel (`x0`, `y0`) of a frame of `height` x `width` pixels. An engine reads only the pixels
    that a patch holds and takes everything outside the *frame* as 0, so a patch must hold every frame pixel that its
    faces touch.
    """

    pixels: np.ndarray  # [h, w, 3] uint8 BGR, rows may be strided; or a SurfaceRegion, for engines that take surfaces
    x0: int
    y0: int
    height: int
    width: int

    @property
    def on_device(self) -> SurfaceRegion | None:
        """Where the pixels are to be had, if they are not in this process's memory."""
        pixels: object = self.pixels
        return pixels if isinstance(pixels, SurfaceRegion) else None


def whole_frame(pixels: np.ndarray) -> Patch:
    """The patch that holds all of a frame; pixels [H, W, 3] uint8 BGR."""
    return Patch(pixels, 0, 0, pixels.shape[0], pixels.shape[1])


def group_regions(region: np.ndarray, height: int, width: int) -> tuple[list[Region], np.ndarray]:
    """Which rectangles of a frame to load for its faces.

    Faces whose regions overlap so much that one rectangle around all is no larger than the sum share that rectangle.

    Args:
        region: [K, 4] int64, what each face may touch, not clipped.

    Returns:
        The regions, inside the frame, at least 1 x 1 pixel, and for each face [K] which of them it reads.
    """
    each = []
    total = 0
    for x0, y0, x1, y1 in region.tolist():  # a few faces: plain integers are faster than arrays
        x0, y0 = min(max(x0, 0), width - 1), min(max(y0, 0), height - 1)
        inside = Region(x0, y0, min(max(x1, x0 + 1), width), min(max(y1, y0 + 1), height))
        each.append(inside)
        total += inside.area
    around = Region(
        min(one.x0 for one in each),
        min(one.y0 for one in each),
        max(one.x1 for one in each),
        max(one.y1 for one in each),
    )
    if around.area <= total:
        return [around], np.zeros(len(each), np.int64)
    return each, np.arange(len(each))
