"""The exact warp in plain NumPy integers: slow, short, and what every other sampler is compared with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpu_extract.kernels.tables import FRACTION_BITS, POSITION_BITS, WEIGHT_BITS, coordinate_tables, weights


def warp_affine(
    sources: Sequence[np.ndarray],  # each [h, w, 3] uint8, a piece of a frame
    source_of: Sequence[int] | np.ndarray,  # [K], index into sources
    crop_from_frame: np.ndarray,  # [K, 2, 3] float64
    cubic: Sequence[bool] | np.ndarray,  # [K]; False is linear
    size: int,  # S
    origins: Sequence[tuple[int, int]] | None = None,  # frame pixel (x, y) of each source's [0, 0]; None: all (0, 0)
) -> np.ndarray:  # [K, S, S, 3] uint8
    """Cut each crop from its source; what lies outside the source counts as 0.

    A source that is only a piece of its frame must hold every frame pixel that its crops touch
    (`tables.source_region`); then the result equals that of the whole frame. Channel order is that of the sources.
    """
    crops = np.zeros((len(crop_from_frame), size, size, 3), dtype=np.uint8)
    tables = coordinate_tables(crop_from_frame, size)
    for crop, source, table, is_cubic in zip(crops, source_of, tables, cubic, strict=True):
        x0, y0 = origins[source] if origins is not None else (0, 0)
        crop[:] = _sample(sources[source], x0, y0, table, weights(bool(is_cubic)))
    return crops


def _sample(source: np.ndarray, x0: int, y0: int, table: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """One crop, uint8 [S, S, 3]: source [h, w, 3] uint8 at (x0, y0), table [4, S] int32, weight [1024, k, k] int16."""
    dx, dy, X0, Y0 = table
    shift = POSITION_BITS - FRACTION_BITS
    X, Y = (X0[:, None] + dx) >> shift, (Y0[:, None] + dy) >> shift  # [S, S] int32, 1/32 px
    sx, sy = (np.clip(v >> FRACTION_BITS, -(1 << 15), (1 << 15) - 1) for v in (X, Y))
    fraction = (1 << FRACTION_BITS) - 1
    weight = weight[((Y & fraction) << FRACTION_BITS) + (X & fraction)]  # [S, S, k, k]

    h, w = source.shape[:2]
    k = weight.shape[-1]
    total = np.zeros((*X.shape, 3), dtype=np.int64)
    for i, j in np.ndindex(k, k):
        column, row = sx - (k // 2 - 1) + j - x0, sy - (k // 2 - 1) + i - y0
        y, x = np.nonzero((column >= 0) & (column < w) & (row >= 0) & (row < h))
        total[y, x] += weight[y, x, i, j, None].astype(np.int64) * source[row[y, x], column[y, x]]
    pixels: np.ndarray = np.clip((total + (1 << (WEIGHT_BITS - 1))) >> WEIGHT_BITS, 0, 255).astype(np.uint8)
    return pixels
