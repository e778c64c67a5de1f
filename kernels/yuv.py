"""Planar YUV, 4:2:0 or 4:2:2 → BGR, as FFmpeg's converters for x86 do it, in integers.

With h(a, b) the upper 16 bits of the 32-bit product, and Y, U, V in eighths of a level of 8 bits:

    luma = h(Y - luma_zero, luma_factor)
    B = luma + h(U - 1024, blue_u)
    G = luma + h(U - 1024, green_u) + h(V - 1024, green_v)
    R = luma + h(V - 1024, red_v)                             each clipped to 0 … 255

**8 bits.** Each sample of U and V is used for its 2 × 2 or 2 × 1 pixels. A rectangle with even corners depends on no
sample outside it.

**9 to 12 bits.** Samples are brought to 15 bits, which hold what lies between two levels, and cut to eighths at the
end. Chroma that lies on the left pixel of two is (3 a + b) / 4 of its sample and the next one. Where two rows of pixels
share a row of chroma, each takes the nearer one, or the mean of the two around it where the lower one counts for half
or more.

The last two rows of a picture, and all of them where `Layout.cubic`, go by whole levels of Y, U and V, rounded half up
after the weighted mean of all rows, with s(a, b) = (a b >> 16) - (b >> 9):

    B = (scale (Y + s(U, step_blue_u)) - zero + 32768) >> 16
    G = (scale (Y + s(U, step_green_u) + s(V, step_green_v)) - zero + 32768) >> 16
    R = (scale (Y + s(V, step_red_v)) - zero + 32768) >> 16   each clipped to 0 … 255

AVX2 or portable C, without the GIL.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

try:
    import gpu_extract.kernels._yuv as _yuv
except ImportError:  # built only where a C compiler was at hand
    _yuv = None


class Coefficients(NamedTuple):
    """Of the formulas above: int16, and int32 from `scale` on."""

    luma_factor: int
    luma_zero: int
    blue_u: int
    green_u: int
    green_v: int
    red_v: int
    scale: int
    zero: int
    step_blue_u: int
    step_green_u: int
    step_green_v: int
    step_red_v: int


class Layout(NamedTuple):
    """How samples lie in planes and in the picture."""

    bits: int = 8
    """Of a sample, 8 to 12; more than 8 take two bytes, little-endian."""
    halved: bool = True
    """Whether chroma has half the rows (4:2:0) or all (4:2:2)."""
    left: bool = False
    """Of more than 8 bits, whether chroma lies on the left one of its two pixels, or between them."""
    down: int = 1
    """Of more than 8 bits and half the rows: whether chroma lies on the upper one of its two rows (0), between them (1)
    or on the lower one (2)."""
    cubic: bool = False
    """Of more than 8 bits: whether chroma between its two rows is interpolated from the four around."""


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
    # What chroma adds is counted in levels of luma; black of limited range comes out 1.5 levels too dark.
    steps = [int(((factor << 16) + (1 << 15)) / luma) for factor in factors]
    step_red_v, step_blue_u, step_green_u, step_green_v = steps
    darkest = 0 if full_range else (400 << 16) - 326 * luma
    return Coefficients(
        *((luma + 4) >> 3, zero << 3, blue_u, green_u, green_v, red_v),
        *(luma, darkest, step_blue_u, step_green_u, step_green_v, step_red_v),
    )


COEFFICIENTS = [_coefficients(matrix, full) for full in (False, True) for matrix in MATRICES.values()]
"""Of all matrices, for limited range first."""


def coefficients_of(matrix: str, full_range: bool) -> Coefficients:
    """Those of a matrix of `MATRICES`."""
    return COEFFICIENTS[list(MATRICES).index(matrix) + full_range * len(MATRICES)]


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
    layout: Layout = Layout(),  # noqa: B008  an immutable value
    size: tuple[int, int] | None = None,
    *,
    portable: bool = False,
) -> np.ndarray:
    """The rectangle x0 <= x < x1, y0 <= y < y1, all even: [y1 - y0, x1 - x0, 3] uint8 BGR.

    size is the picture's (height, width), even; without it, the picture ends where the rectangle does. portable leaves
    out what is particular to this processor. Raises RuntimeError where the extension was not built, ValueError for an
    odd or empty rectangle, for one that lies outside the planes, and for a layout without a formula.
    """
    if _yuv is None:
        raise RuntimeError("the C converter was not built here; install with a C compiler, or convert with FFmpeg")
    bgr = np.empty((max(y1 - y0, 0), max(x1 - x0, 0), 3), np.uint8)
    (y, u, v), (y_stride, u_stride, v_stride) = planes, strides
    height, width = size or (y1, x1)
    _yuv.convert(y, y_stride, u, u_stride, v, v_stride, height, width, x0, y0, bgr, coefficients, layout, portable)
    return bgr
