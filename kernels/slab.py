"""The slab: pixels of many pieces of frames in one buffer, so that one copy takes them to a device.

    sources, n_bytes = slab_layout(sizes, origins)         where each piece goes
    fill(slab, sources[i], pixels)                         copy a piece there
    lies_inside(tables, cubic, source_of, sources)         which crops need no look at borders

Rows start on 32-bit words and end in zero bytes; after the last comes a word that may be read but counts for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

WORD = 4


def slab_layout(
    sizes: Sequence[tuple[int, int]],  # (height, width) of each source
    origins: Sequence[tuple[int, int]] | None = None,  # frame pixel (x, y) of each source's [0, 0]; None: all (0, 0)
) -> tuple[np.ndarray, int]:
    """Where each source lies in a slab: sources [N, 5] int64 (first word, height, words a row, x0, y0), and its bytes.

    The number of bytes is a multiple of 4.
    """
    sources = np.zeros((len(sizes), 5), dtype=np.int64)
    if len(sizes):
        height, width = np.asarray(sizes, dtype=np.int64).T
        sources[:, 1], sources[:, 2] = height, -(-3 * width // WORD)
        words = sources[:, 1] * sources[:, 2]
        sources[:, 0] = np.cumsum(words) - words
        if origins is not None:
            sources[:, 3:] = origins
    return sources, WORD * (int((sources[:, 1] * sources[:, 2]).sum()) + 1)


def fill(slab: np.ndarray, source: np.ndarray, pixels: np.ndarray) -> None:
    """Put a source where `slab_layout` placed it: slab [n_bytes] uint8, source [5] int64, pixels [h, w, 3] uint8."""
    first, height, stride = (int(v) for v in source[:3])
    width = pixels.shape[1] if pixels.ndim == 3 else 0
    if pixels.dtype != np.uint8 or pixels.shape != (height, width, 3) or -(-3 * width // WORD) != stride:
        raise ValueError(
            f"pixels must be the [h, w, 3] uint8 that slab_layout was asked for ({height} rows), "
            f"got {list(pixels.shape)} {pixels.dtype}"
        )
    lines = slab[WORD * first : WORD * (first + height * stride)].reshape(height, WORD * stride)
    lines[:, : 3 * width].reshape(height, width, 3)[:] = pixels
    lines[:, 3 * width :] = 0


def lies_inside(
    tables: np.ndarray,  # [K, 4, S] int32, of tables.coordinate_tables
    cubic: np.ndarray,  # [K] bool; False is linear
    source_of: np.ndarray,  # [K]
    sources: np.ndarray,  # [N, 5] int64, of slab_layout
) -> np.ndarray:  # [K] bool
    """Whether all taps of a crop lie in its source, no position having wrapped around or stuck at an end of int16."""
    if not tables.size:
        return np.zeros(len(tables), dtype=bool)
    ends = np.stack([tables.min(axis=2), tables.max(axis=2)], axis=-1).astype(np.int64)  # [K, 4, 2]
    position = (ends[:, :2] + ends[:, 2:]) >> 10  # [K, (x, y), (least, most)]
    fits_int16 = ((position >= -32768) & (position <= 32767)).all(axis=(1, 2))
    _, height, stride, x0, y0 = sources[source_of].T
    before = np.where(cubic, 1, 0)
    after = before + 1
    left, right = position[:, 0, 0] - before - x0, position[:, 0, 1] + after - x0
    top, bottom = position[:, 1, 0] - before - y0, position[:, 1, 1] + after - y0
    inside: np.ndarray = fits_int16 & (left >= 0) & (3 * (right + 1) <= WORD * stride) & (top >= 0) & (bottom < height)
    return inside
