"""One channel, such as a mask, sampled exactly: what the samplers of three channels make of three that are equal."""

from __future__ import annotations

from itertools import product

import numpy as np

from gpu_extract.kernels import cpu, reference, tables

TILE = 512  # pixels of the result at a time; where they lie in the channel does not depend on it


def warp(
    channel: np.ndarray,  # [h, w] uint8
    channel_from_out: np.ndarray,  # [2, 3] float64
    cubic: bool,  # False is linear
    region: tuple[int, int, int, int],  # x0, y0, x1, y1 of the result's pixels, half-open
) -> np.ndarray:  # [y1 - y0, x1 - x0] uint8
    """The channel as it looks from somewhere else; what lies outside of it counts as 0.

    The formula is that of `README.md`, whose matrix i is `channel_from_out` itself: nothing is inverted. A part of a
    result has the pixels of the whole.
    """
    x0, y0, x1, y1 = region
    out = np.empty((y1 - y0, x1 - x0), np.uint8)
    pixels = np.repeat(channel[:, :, None], 3, axis=2)
    for top, left in product(range(0, out.shape[0], TILE), range(0, out.shape[1], TILE)):
        part = out[top : top + TILE, left : left + TILE]
        steps = np.arange(max(part.shape), dtype=np.float64)
        (table,) = tables.positions(channel_from_out[None], x0 + left + steps, y0 + top + steps)
        part[:] = _square(pixels, table, cubic)[: part.shape[0], : part.shape[1], 0]
    return out


def _square(pixels: np.ndarray, table: np.ndarray, cubic: bool) -> np.ndarray:
    if cpu.is_available():
        return cpu.sampled(pixels, table, cubic)
    return reference.sampled(pixels, 0, 0, table, tables.weights(cubic))
