"""The exact warp on a CPU: one C call a crop, without the GIL, so threads that each cut crops run side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpu_extract.kernels.tables import coordinate_tables, weights

try:
    import gpu_extract.kernels._sampler as _sampler
except ImportError:  # built only where a C compiler was at hand
    _sampler = None

NOT_BUILT = "the C sampler was not built here; install with a C compiler, or sample with OpenCV"


def is_available() -> bool:
    """Whether the C extension was built."""
    return _sampler is not None


def variant() -> str:
    """The code that runs on this machine: "avx2", "scalar", or "none" where the extension was not built."""
    return _sampler.variant() if _sampler is not None else "none"


def warp_affine(
    sources: Sequence[np.ndarray],  # each [h, w, 3] uint8, a piece of a frame; rows may be strided
    source_of: Sequence[int] | np.ndarray,  # [K], index into sources
    crop_from_frame: np.ndarray,  # [K, 2, 3] float64
    cubic: Sequence[bool] | np.ndarray,  # [K]; False is linear
    size: int,  # S
    origins: Sequence[tuple[int, int]] | None = None,  # frame pixel (x, y) of each source's [0, 0]; None: all (0, 0)
    out: np.ndarray | None = None,  # [K, S, S, 3] uint8, C-contiguous; None makes one
) -> np.ndarray:  # out
    """Cut each crop from its source, as `reference.warp_affine` does, to the byte.

    Raises RuntimeError where the extension was not built, ValueError for arrays of another shape or dtype.
    """
    if _sampler is None:
        raise RuntimeError(NOT_BUILT)
    if out is None:
        out = np.empty((len(crop_from_frame), size, size, 3), dtype=np.uint8)
    tables = coordinate_tables(crop_from_frame, size)
    for crop, source, table, is_cubic in zip(out, source_of, tables, cubic, strict=True):
        x0, y0 = origins[source] if origins is not None else (0, 0)
        _sampler.warp(in_rows(sources[source]), x0, y0, table, weights(bool(is_cubic)), crop)
    return out


def sampled(source: np.ndarray, table: np.ndarray, cubic: bool) -> np.ndarray:
    """What lies at given positions of a source, [S, S, 3] uint8.

    Raises as `warp_affine` does.

    source: [h, w, 3] uint8; table: int32 [4, S], see `tables.positions`.
    """
    if _sampler is None:
        raise RuntimeError(NOT_BUILT)
    size = table.shape[1]
    out = np.empty((size, size, 3), np.uint8)
    _sampler.warp(in_rows(source), 0, 0, np.ascontiguousarray(table), weights(cubic), out)
    return out


def in_rows(source: np.ndarray) -> np.ndarray:
    """The source itself, or a copy if its pixels are not side by side or its rows not in rising order."""
    row, column, channel = source.strides if source.ndim == 3 else (0, 0, 0)
    if (column, channel) == (3, 1) and row >= 3 * source.shape[1]:
        return source
    return np.ascontiguousarray(source)
