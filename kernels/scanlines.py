"""PNG scanlines of a crop, channels swapped and rows filtered in one pass of C without the GIL."""

from __future__ import annotations

import numpy as np

try:
    import gpu_extract.kernels._scanlines as _scanlines
except ImportError:  # built only where a C compiler was at hand
    _scanlines = None

UP, AVERAGE, PAETH = 2, 3, 4  # PNG's filter types


def is_available() -> bool:
    """Whether the C extension was built."""
    return _scanlines is not None


def filtered_rows(crop: np.ndarray, filter_type: int = UP) -> np.ndarray:
    """The scanlines that PNG deflates: [H, 1 + 3 W] uint8, each a filter byte and filtered RGB bytes.

    Args:
        crop: [H, W, 3] uint8 BGR.
        filter_type: UP, AVERAGE or PAETH, used for every row.

    Raises RuntimeError where the extension was not built, ValueError for another shape, dtype or filter.
    """
    if _scanlines is None:
        raise RuntimeError("the C scanline filter was not built here; install with a C compiler, or filter with NumPy")
    if crop.ndim == 3 and crop.strides[1:] != (3, 1):
        crop = np.ascontiguousarray(crop)
    rows = np.empty((crop.shape[0], 1 + 3 * crop.shape[1]), dtype=np.uint8)
    _scanlines.fill_rows(crop, rows, filter_type)
    return rows
