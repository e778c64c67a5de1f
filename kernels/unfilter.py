"""Pixels from the inflated scanlines of a PNG, all of PNG's filters, in C without the GIL."""

from __future__ import annotations

import numpy as np

try:
    import gpu_extract.kernels._unfilter as _unfilter
except ImportError:  # built only where a C compiler was at hand
    _unfilter = None


def is_available() -> bool:
    """Whether the C extension was built."""
    return _unfilter is not None


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
