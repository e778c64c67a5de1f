"""Columns of the faces of an alignments file, gathered from their dicts in one pass of C.

Where a file's faces are not all alike, or the extension was not built, a column is None, and whoever wants it looks at
the faces one by one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

try:
    import gpu_extract.kernels._columns as _columns
except ImportError:  # built only where a C compiler was at hand
    _columns = None


MOST_POINTS = 128


class Points(NamedTuple):
    """The landmarks of all faces, which are packed values of one type and shape."""

    kind: type
    dtype: np.dtype
    shape: tuple[int, ...]
    """Of a face's."""
    raw: bytes
    """Of all, one face after another; elements of arrays in C order."""
    finite: bool
    """Whether they surely are float32 or float64 and finite."""


class Columns(NamedTuple):
    """What a list of dicts, of which there is at least one, holds."""

    keys: set[Any]
    """All that any of them has."""
    box: np.ndarray | None
    """[F, 4] float64: x, y, w, h, where all are Python's own numbers."""
    points: Points | None
    """Of `landmarks_xy`."""


def is_available() -> bool:
    """Whether the C extension was built."""
    return _columns is not None


def survey(faces: list[Any], kinds: tuple[type, type], floats: tuple[np.dtype, np.dtype]) -> Columns | None:
    """The columns of some faces; None where one is no dict, or there is none.

    Args:
        kinds: the types of packed arrays and packed lists, see `alignments/packed.py`.
        floats: float32 and float64.
    """
    found = None if _columns is None else _columns.survey(faces, kinds, floats)
    if found is None:
        return None
    keys, box, points = found
    return Columns(
        keys,
        None if box is None else np.frombuffer(box, np.float64).reshape(-1, 4).copy(),
        None if points is None else Points(*points),
    )


def most_references(objects: list[Any]) -> int | None:
    """How often the object of a list that is referred to most often is, this list included; None where not built."""
    return None if _columns is None else _columns.most_references(objects)


class Sums(NamedTuple):
    """Over the landmarks of K faces, each taken from the face's own anchor."""

    weighted: np.ndarray
    """[c, 2, K] float64, of x and y."""
    squares: np.ndarray
    """[K] float64: of x and y squared, by the first weights."""
    reach: np.ndarray
    """[K] float64: the largest coordinate, as far as it is from 0."""


def sums(points: np.ndarray, anchor: int, weights: np.ndarray) -> Sums:
    """Weighted sums over landmarks; in which order numbers are added is not said.

    Args:
        points: [K, n, 2] float32 or float64, finite, n at most 128.
        anchor: which of the n points is the origin.
        weights: [c, n] float64, c kinds of sums.
    """
    count, n, kinds = len(points), points.shape[1], len(weights)
    if _columns is None:
        moved = (points - points[:, anchor, None]).astype(np.float64)
        squared = np.einsum("knd,n->k", moved * moved, weights[0])
        reach = np.abs(points).max(axis=(1, 2), initial=0).astype(np.float64)
        return Sums(np.einsum("knd,cn->cdk", moved, weights), squared, reach)
    padded = np.zeros((kinds, MOST_POINTS))
    padded[:, :n] = weights
    found = Sums(np.empty((kinds, 2, count)), np.empty(count), np.empty(count))
    whole = np.ascontiguousarray(points)
    _columns.sums(whole, whole.dtype == np.float64, n, anchor, padded, *found)
    return found
