"""Pixels of plain PNG files, in one call of C without the GIL: of the rows, no more is inflated than is wanted."""

from __future__ import annotations

import numpy as np

try:
    import gpu_extract.kernels._scanlines as _scanlines
except ImportError:  # built only where a C compiler was at hand
    _scanlines = None


def is_available() -> bool:
    """Whether the C extension was built."""
    return _scanlines is not None


def decoded(
    file: bytes,
    width: int,
    height: int,
    channels: int,  # 3 RGB or 4 RGBA, 8 bits each
    x0: int,
    y0: int,
    x1: int,
    y1: int,
    *,
    portable: bool = False,
) -> np.ndarray | None:
    """The rectangle x0 <= x < x1, y0 <= y < y1 of a PNG without interlacing: [y1 - y0, x1 - x0, 3] uint8 BGR, no alpha.

    None if any chunk is not what its CRC says, if the file ends inside one, if another one stands between those of the
    pixels, or if the pixels are damaged down to row y1. Rows below it are not looked at; where there are none, the zlib
    stream must end, and be what its Adler-32 says.

    portable leaves out what is particular to this processor. Raises RuntimeError where the extension was not built,
    ValueError for a rectangle that is empty or reaches outside the image.
    """
    if _scanlines is None:
        raise RuntimeError("the C PNG decoder was not built here; install with a C compiler, or decode with OpenCV")
    pixels = np.empty((max(y1 - y0, 0), max(x1 - x0, 0), 3), np.uint8)
    arguments = (file, width, height, channels, x0, y0, pixels)
    done: bool = _scanlines.decode(*arguments, 0) if portable else _scanlines.decode(*arguments)
    return pixels if done else None
