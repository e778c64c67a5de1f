"""Rectangles of plain JPEGs → BGR, in one call of C without the GIL, to the bytes that libjpeg-turbo gives by default.

Plain are files of 8 bits in one sequential, Huffman-coded scan: Y, Cb and Cr with chroma of whole or half width and
height, or grey; with restart markers or without. Blocks that no rectangle needs are only walked over, code by code, and
those below the last rectangle are not even read.

Of the samples of a block, dequantised coefficients c: rows of the accurate inverse DCT (13 bits of cosine) over columns
with two bits of fraction kept, rounded half up, then over rows. Chroma of half width, s[i] at pixels 2 i and 2 i + 1:

    (3 s[i] + s[i - 1] + 1) >> 2,  (3 s[i] + s[i + 1] + 2) >> 2

of half height t = (3 near + far + 1) >> 2 in upper rows and + 2 in lower ones, of both the former with 3 near + far for
s, + 8 and + 7, >> 4. At the picture's edges the outermost sample stands for the one beyond; columns are doubled, and
rows with them, where chroma of half width has no more than two. With cb and cr less 128:

    R = Y + ((91881 cr + 32768) >> 16)
    G = Y + ((32768 - 22554 cb - 46802 cr) >> 16)
    B = Y + ((116130 cb + 32768) >> 16)

SIMD versions of libjpeg differ from its C for coefficients that no picture has; a file with such is left to it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

try:
    import gpu_extract.kernels._jpeg as _jpeg
except ImportError:  # built only where a C compiler was at hand
    _jpeg = None

_CHANNELS = 3


def is_available() -> bool:
    """Whether the C extension was built."""
    return _jpeg is not None


def rectangles(
    data: bytes, wanted: Sequence[tuple[int, int, int, int]], *, turned: bool = True, portable: bool = False
) -> list[np.ndarray] | None:
    """The pixels of each rectangle of a JPEG file, [y1 - y0, x1 - x0, 3] uint8 BGR.

    None where another decoder should do the file, or judge it: it is not plain, it is damaged or cut off as far down as
    it is needed, it has no end marker, or a rectangle reaches outside the image.

    Args:
        wanted: x0, y0, x1, y1 of each, half-open; they may overlap.
        turned: whether an EXIF block would turn the image; a file with one is then not plain.
        portable: leaves out what is particular to this processor; the pixels are the same.

    Raises RuntimeError where the extension was not built, ValueError for a rectangle without pixels.
    """
    if _jpeg is None:
        raise RuntimeError("the C JPEG decoder was not built here; install with a C compiler, or decode with OpenCV")
    corners = np.array(wanted, np.int64).reshape(-1, 4)
    ends = [0]
    for x0, y0, x1, y1 in wanted:
        ends.append(ends[-1] + _CHANNELS * max(x1 - x0, 0) * max(y1 - y0, 0))
    pixels = np.empty(ends[-1], np.uint8)
    if not _jpeg.decode(data, corners, pixels, not turned, portable):
        return None
    return [
        pixels[start:end].reshape(y1 - y0, x1 - x0, _CHANNELS)
        for start, end, (x0, y0, x1, y1) in zip(ends, ends[1:], wanted, strict=False)
    ]
