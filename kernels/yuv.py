"""8-bit 4:2:0 planes → BGR, as FFmpeg's converter for x86 does it: in 16-bit integers, chroma not interpolated.

With h(a, b) the upper 16 bits of the 32-bit product, and each sample of U and V used for 2 × 2 pixels:

    luma = h(8 Y - luma_zero, luma_factor)
    B = luma + h(8 U - 1024, blue_u)
    G = luma + h(8 U - 1024, green_u) + h(8 V - 1024, green_v)
    R = luma + h(8 V - 1024, red_v)                             each clipped to 0 … 255

A rectangle with even corners depends on no sample outside it. AVX2 or portable C, without the GIL.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

try:
    import gpu_extract.kernels._yuv as _yuv
except ImportError:  # built only where a C compiler was at hand
    _yuv = None


class Coefficients(NamedTuple):
    """Of the formula above, int16."""

    luma_factor: int
    luma_zero: int
    blue_u: int
    green_u: int
    green_v: int
    red_v: int


MATRICES = {
    "BT.601": (104597, 132201, -25675, -53279),
    "BT.709": (117489, 138438, -13975, -34925),
    "FCC": (104448, 132798, -24759, -53109),
    "SMPTE 240M": (117579, 136230, -16907, -35559),
    "BT.2020": (110013, 140363, -12277, -42626),
}
"""Red from V, blue from U, green from U and V, in 1/65536 for limited range: what FFmpeg documents for its matrices."""


def _coefficients(matrix: tuple[int, int, int, int], full_range: bool) -> Coefficients:
    luma, zero = (1 << 16, 0) if full_range else ((1 << 16) * 255 // 219, 16)
    factors = [int(factor * 224 / 255) for factor in matrix] if full_range else matrix  # cut off towards 0
    # Samples are multiplied by 8 and products divided by 65536, so factors are of 8192; rounded half up.
    red_v, blue_u, green_u, green_v = ((factor + 4) >> 3 for factor in factors)
    return Coefficients((luma + 4) >> 3, zero << 3, blue_u, green_u, green_v, red_v)


COEFFICIENTS = [_coefficients(matrix, full) for full in (False, True) for matrix in MATRICES.values()]
"""Of all matrices, for limited range first."""


def is_available() -> bool:
    """Whether the C extension was built."""
    return _yuv is not None


def to_bgr(
    planes: tuple[Any, Any, Any],  # Y, U, V: buffers of bytes, rows from the top
    strides: tuple[int, int, int],  # bytes from one row to the next of each, positive
    x0: int,
    y0: int,
    x1: int,
    y1: int,
    coefficients: Coefficients,
    *,
    portable: bool = False,
) -> np.ndarray:
    """The rectangle x0 <= x < x1, y0 <= y < y1, all even: [y1 - y0, x1 - x0, 3] uint8 BGR.

    portable leaves out what is particular to this processor. Raises RuntimeError where the extension was not built,
    ValueError for an odd or empty rectangle or one that lies outside the planes.
    """
    if _yuv is None:
        raise RuntimeError("the C converter was not built here; install with a C compiler, or convert with FFmpeg")
    bgr = np.empty((max(y1 - y0, 0), max(x1 - x0, 0), 3), np.uint8)
    (y, u, v), (y_stride, u_stride, v_stride) = planes, strides
    _yuv.convert(y, y_stride, u, u_stride, v, v_stride, x0, y0, bgr, coefficients, portable)
    return bgr
