"""The stream of a PNG to inflate, and its pixels from the scanlines, all of PNG's filters, in C without the GIL."""

from __future__ import annotations

import numpy as np

try:
    import gpu_extract.kernels._unfilter as _unfilter
except ImportError:  # built only where a C compiler was at hand
    _unfilter = None


def is_available() -> bool:
    """Whether the C extension was built."""
    return _unfilter is not None


def stream(data: bytes, *, portable: bool = False) -> bytes | None:
    """The zlib stream of a PNG file, as its IDAT chunks hold it, b"" if there is none.

    None if a chunk is not what its CRC says, if the file ends inside one, or if another one stands between those of the
    stream. portable and RuntimeError as for `unfiltered`.
    """
    if _unfilter is None:
        raise RuntimeError("the C unfilter was not built here; install with a C compiler, or decode with OpenCV")
    found: bytes | None = _unfilter.stream(data, portable)
    return found


def unfiltered(
    rows: np.ndarray,  # [H, 1 + W * channels] uint8: a filter byte and filtered samples
    channels: int,  # 3 RGB or 4 RGBA
    x0: int,
    y0: int,
    x1: int,
    y1: int,
    *,
    portable: bool = False,
) -> np.ndarray:
    """The rectangle x0 <= x < x1, y0 <= y < y1 of the image: [y1 - y0, x1 - x0, 3] uint8 BGR, alpha dropped.

    portable leaves out what is particular to this processor. Raises RuntimeError where the extension was not built,
    ValueError for a rectangle outside the image or an unknown filter.
    """
    if _unfilter is None:
        raise RuntimeError("the C unfilter was not built here; install with a C compiler, or decode with OpenCV")
    pixels = np.empty((y1 - y0, x1 - x0, 3), np.uint8)
    _unfilter.unfilter(rows, channels, x0, y0, pixels, portable)
    return pixels
