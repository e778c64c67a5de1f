"""Masks drawn from landmarks: the convex hulls of the parts of a face, joined.

The parts are those of the format's own `components` masks (`data/landmark_mask_parts.json`): jaws, cheeks, ridge of
the nose, eyes, nose. A pixel is 255 if its centre lies in one of the hulls or on its edge, else 0.
"""

from __future__ import annotations

import json
import pkgutil
from functools import cache

import numpy as np

INSIDE = 255


@cache
def _parts(count: int) -> list[np.ndarray]:
    """Of each part the numbers of its points, [m] int64; none for sets without jaws."""
    text = pkgutil.get_data("gpu_extract", "data/landmark_mask_parts.json")
    assert text is not None
    parts = json.loads(text).get(f"LM_2D_{count}", {})
    return [np.concatenate([np.arange(*span) for span in spans]) for spans in parts.values()]


def can_draw(count: int) -> bool:
    """Whether sets of that many landmarks have these parts: those of 68 and of 98."""
    return bool(_parts(count))


def drawn(points: np.ndarray, region: tuple[int, int, int, int]) -> np.ndarray:
    """The mask of a face.

    Args:
        points: [n, 2] float64 landmarks in pixels of the result, (0, 0) the centre of its top-left one; see `can_draw`.
        region: x0, y0, x1, y1 of the result's pixels, half-open.

    Returns:
        [y1 - y0, x1 - x0] uint8, 0 or 255.
    """
    x0, y0, x1, y1 = region
    columns, rows = np.arange(x0, x1, dtype=np.float64), np.arange(y0, y1, dtype=np.float64)
    inside = np.zeros((len(rows), len(columns)), bool)
    for numbers in _parts(len(points)):
        part = points[numbers]
        first, stop = np.searchsorted(rows, part[:, 1].min()), np.searchsorted(rows, part[:, 1].max(), "right")
        low, high = _spans(part, rows[first:stop])
        inside[first:stop] |= (columns >= low[:, None]) & (columns <= high[:, None])
    return inside * np.uint8(INSIDE)


def _spans(points: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each row [n] that meets the convex hull of points [m, 2] enters and leaves it.

    The hull's edges are among the lines between any two points, and no such line leaves it.
    """
    one, other = np.triu_indices(len(points), 1)
    first, last = points[one], points[other]
    above, below = np.minimum(first[:, 1], last[:, 1]), np.maximum(first[:, 1], last[:, 1])
    y = rows[:, None]
    meets = (above <= y) & (y <= below)
    rise = last[:, 1] - first[:, 1]
    share = (y - first[:, 1]) / np.where(rise == 0, 1.0, rise)
    x = first[:, 0] + share * (last[:, 0] - first[:, 0])
    level = rise == 0  # met along all of it; both its ends are met by lines to other points, or it is the hull
    low = np.where(level, np.minimum(first[:, 0], last[:, 0]), x)
    high = np.where(level, np.maximum(first[:, 0], last[:, 0]), x)
    return (
        np.where(meets, low, np.inf).min(axis=1),
        np.where(meets, high, -np.inf).max(axis=1),
    )
