"""A piece of a frame: the value that travels from a frame source to an engine."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Region(NamedTuple):
    """A rectangle of frame pixels, half-open: x0 <= x < x1, y0 <= y < y1."""

    x0: int
    y0: int
    x1: int
    y1: int


class Patch(NamedTuple):
    """Pixels of a frame, whole or in part.

    `pixels[0, 0]` is frame pixel (`x0`, `y0`) of a frame of `height` x `width` pixels. An engine reads only the pixels
    that a patch holds and takes everything outside the *frame* as 0, so a patch must hold every frame pixel that its
    faces touch.
    """

    pixels: np.ndarray  # [h, w, 3] uint8 BGR, rows may be strided
    x0: int
    y0: int
    height: int
    width: int


def whole_frame(pixels: np.ndarray) -> Patch:
    """The patch that holds all of a frame; pixels [H, W, 3] uint8 BGR."""
    return Patch(pixels, 0, 0, pixels.shape[0], pixels.shape[1])
