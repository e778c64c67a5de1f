"""The exact warp in plain NumPy integers: slow, short, and what every other sampler is compared with.

And the conversion of a decoder's surfaces, as slow, whose kernel is compared with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpu_extract.kernels.tables import FRACTION_BITS, POSITION_BITS, WEIGHT_BITS, coordinate_tables, weights
from gpu_extract.kernels.yuv import Coefficients, Layout


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
        crop[:] = sampled(sources[source], x0, y0, table, weights(bool(is_cubic)))
    return crops


def sampled(source: np.ndarray, x0: int, y0: int, table: np.ndarray, weight: np.ndarray) -> np.ndarray:
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


def surface_to_bgr(
    luma: np.ndarray,  # [H, W] uint8; of more than 8 bits uint16, a sample in the upper bits
    chroma: np.ndarray,  # [H / 2, W / 2, 2] of the same dtype: U, V
    coefficients: Coefficients,
    layout: Layout,
) -> np.ndarray:  # [H, W, 3] uint8
    """What `yuv.to_bgr` makes of the same samples in three planes; `yuv` has the formulas."""
    shift = 16 - layout.bits if layout.bits > 8 else 0
    luma, chroma = luma.astype(np.int64) >> shift, chroma.astype(np.int64) >> shift
    bgr = np.empty((*luma.shape, 3), np.uint8)
    for y, row in enumerate(luma):
        if layout.bits == 8:
            bgr[y] = _from_eighths(row << 3, chroma[y // 2] << 3, coefficients)
            continue
        row = row << (15 - layout.bits)
        rows, counts = _chroma_around(y, len(chroma), layout)
        words = [_fifteen_bits(chroma[i], layout) for i in rows]
        if layout.cubic or y >= len(luma) - 2:
            total = sum(count * word for count, word in zip(counts, words, strict=True)) + (1 << 18)
            bgr[y] = _from_levels((row + 64) >> 7, np.clip(total >> 19, 0, 255), coefficients)
        else:
            word = (words[0] + words[1]) >> 1 if counts[1] >= 2048 else words[0]
            bgr[y] = _from_eighths(row >> 4, word >> 4, coefficients)
    return bgr


def _chroma_around(y: int, n: int, layout: Layout) -> tuple[list[int], list[int]]:
    """Which of n rows of chroma row y of pixels is made from, and what each counts, of 4096."""
    if layout.cubic:
        counts = {0: [0, 0, 4432, -336], 2: [0, 959, 3473, -336]}.get(y, [-115, 985, 3572, -346])
        rows = [min(max((y + 1) // 2 - 2 + i, 0), n - 1) for i in range(4)]
        return rows, counts if y % 2 == 0 else [-346, 3572, 985, -115]
    upper, quarters = divmod(max(2 * y - layout.down, 0), 4)
    return [min(upper, n - 1), min(upper + 1, n - 1)], [4096 - 1024 * quarters, 1024 * quarters]


def _fifteen_bits(chroma: np.ndarray, layout: Layout) -> np.ndarray:
    """A row of chroma, int64 [w, 2], in 15 bits, where its pixels lie."""
    following = np.concatenate([chroma[1:], chroma[-1:]]) if layout.left else chroma
    words: np.ndarray = (3 * chroma + following) << (13 - layout.bits)
    return words


def _from_eighths(luma: np.ndarray, chroma: np.ndarray, c: Coefficients) -> np.ndarray:
    """A row, [W, 3] uint8, from int64 [W] and [W / 2, 2] in eighths of a level."""
    u, v = np.repeat(chroma - 1024, 2, axis=0).T
    luma = (luma - c.luma_zero) * c.luma_factor >> 16
    blue, green, red = u * c.blue_u >> 16, (u * c.green_u >> 16) + (v * c.green_v >> 16), v * c.red_v >> 16
    row: np.ndarray = np.clip(np.stack([luma + blue, luma + green, luma + red], axis=1), 0, 255).astype(np.uint8)
    return row


def _from_levels(luma: np.ndarray, chroma: np.ndarray, c: Coefficients) -> np.ndarray:
    """The same in whole levels."""
    u, v = np.repeat(chroma, 2, axis=0).T

    def added(levels: np.ndarray, step: int) -> np.ndarray:
        return (levels * step >> 16) - (step >> 9)

    channels = [
        luma + added(u, c.step_blue_u),
        luma + added(u, c.step_green_u) + added(v, c.step_green_v),
        luma + added(v, c.step_red_v),
    ]
    scaled = [(c.scale * channel - c.zero + (1 << 15)) >> 16 for channel in channels]
    row: np.ndarray = np.clip(np.stack(scaled, axis=1), 0, 255).astype(np.uint8)
    return row
