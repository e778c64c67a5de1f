"""How sharp an image is: one number, the same to the last digit on every machine and for every size from 128 px on.

The image becomes 128 x 128 cells – as many as it has pixels along a side that has fewer – each the mean of its area in
grey, (29 B + 150 G + 77 R) / 256, rounded to a 256th of a level, half up. The number is the variance of
up + down + left + right - 4 * middle over all cells that have four neighbours, in squared levels: sums of whole
numbers, and one division in float64.
"""

from __future__ import annotations

import numpy as np

try:
    import gpu_extract.kernels._cutter as _cutter
except ImportError:  # built only where a C compiler was at hand
    _cutter = None

CELLS = 128
WEIGHTS = np.array([29, 150, 77])  # of blue, green, red
ONE = 256
MOST_SIDE = 1 << 15
"""Up to which the C sums exactly."""


def sharpness(pixels: np.ndarray, *, portable: bool = False) -> float:
    """Of [H, W, 3] uint8 BGR; 0 where a side has less than three pixels.

    It does without the interpreter's lock meanwhile.

    Args:
        portable: leaves out what is particular to this processor.
    """
    height, width = pixels.shape[:2]
    if _cutter is None or max(height, width) > MOST_SIDE or not height or not width:
        return reference(pixels)
    found: float = _cutter.sharpness(np.ascontiguousarray(pixels), height, width, portable)
    return found


def reference(pixels: np.ndarray) -> float:
    """The same in NumPy."""
    height, width = pixels.shape[:2]
    if min(height, width) < 3:
        return 0.0
    sums, area = pixels.astype(np.int64) @ WEIGHTS, 1
    for _ in range(2):
        sums, units = _reduced(sums)
        sums, area = sums.T, area * units
    cells = (sums + area // 2) // area
    laplacian = cells[:-2, 1:-1] + cells[2:, 1:-1] + cells[1:-1, :-2] + cells[1:-1, 2:] - 4 * cells[1:-1, 1:-1]
    count = laplacian.size
    total, squares = int(laplacian.sum()), int((laplacian * laplacian).sum())
    return float(count * squares - total * total) / float(count * count * ONE * ONE)


def _reduced(values: np.ndarray) -> tuple[np.ndarray, int]:
    """Sums of cells along the first axis of [n, m] int64, and how many units one has.

    A unit is the largest that divides a cell and a pixel.
    """
    pixels = len(values)
    cells = min(pixels, CELLS)
    shared = np.gcd(pixels, cells)
    of_pixel, of_cell = int(cells // shared), int(pixels // shared)
    whole, rest = np.divmod(np.arange(cells + 1) * of_cell, of_pixel)
    before = np.concatenate([np.zeros_like(values[:1]), np.cumsum(values, axis=0)])
    begun = np.concatenate([values, np.zeros_like(values[:1])])
    until = of_pixel * before[whole] + rest[:, None] * begun[whole]
    return np.diff(until, axis=0), of_cell
