"""Crops of large faces without aliasing: each crop pixel is the mean over its area of the frame, not a point of it.

The area is sampled by any of the exact samplers, n × n points a pixel no more than one frame pixel apart, and averaged
in integers, so the result is the same bytes on every device, turned faces included. Off by default: faces cut so are
not the faces that other programs cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gpu_extract.kernels import tables

if TYPE_CHECKING:
    pass

MAX_POINTS = 16  # a side; sums of 16 × 16 bytes fit uint16
MAX_SIDE = 4096  # of the sampled image: 50 MB

Sampler = Callable[..., np.ndarray]  # reference.warp_affine, cpu.warp_affine, or what takes the same arguments


def points_per_side(crop_from_frame: np.ndarray, size: int) -> np.ndarray:
    """How many points a side each crop needs, int64 [K]: 1 for a crop that is not reduced, at most 16.

    crop_from_frame: float64 [K, 2, 3]; size: S. A crop whose matrix is singular or not finite gets 1.
    """
    linear = np.asarray(crop_from_frame, dtype=np.float64)[:, :, :2]
    with np.errstate(all="ignore"):
        scale = np.sqrt(np.abs(linear[:, 0, 0] * linear[:, 1, 1] - linear[:, 0, 1] * linear[:, 1, 0]))
        points = np.ceil(1 / scale - 1e-9)
    points[~np.isfinite(points)] = 1
    return np.clip(points, 1, max(1, min(MAX_POINTS, MAX_SIDE // size))).astype(np.int64)


def finer(crop_from_frame: np.ndarray, points: int) -> np.ndarray:
    """fine_from_frame, float64 [K, 2, 3]: pixels (n·x … n·x + n − 1) of the fine image cover pixel x of the crop."""
    fine = np.asarray(crop_from_frame, dtype=np.float64) * points
    fine[:, :, 2] += (points - 1) / 2
    return fine


def mean(fine: np.ndarray, points: int) -> np.ndarray:
    """Means of points × points pixels, halves rounded up: [K, S·n, S·n, 3] uint8 -> [K, S, S, 3] uint8."""
    K, side = fine.shape[:2]
    size = side // points
    rows = fine.reshape(K, size, points, side * 3).sum(axis=2, dtype=np.uint16)
    sums = rows.reshape(K, size, size, points, 3).sum(axis=3, dtype=np.uint16)
    means: np.ndarray = ((sums.astype(np.uint32) + points * points // 2) // (points * points)).astype(np.uint8)
    return means


def source_region(crop_from_frame: np.ndarray, cubic: np.ndarray, size: int) -> np.ndarray:
    """`tables.source_region` of what `warp_affine` here touches, int64 [K, 4]: areas reach beyond pixel centres."""
    points = points_per_side(crop_from_frame, size)
    region = np.empty((len(points), 4), dtype=np.int64)
    for n in np.unique(points):
        rows = points == n
        region[rows] = tables.source_region(finer(crop_from_frame[rows], n), np.asarray(cubic)[rows], size * int(n))
    return region


def warp_affine(
    sampler: Sampler,
    sources: Sequence[np.ndarray],  # each [h, w, 3] uint8, a piece of a frame
    source_of: Sequence[int] | np.ndarray,  # [K], index into sources
    crop_from_frame: np.ndarray,  # [K, 2, 3] float64
    cubic: Sequence[bool] | np.ndarray,  # [K]; False is linear
    size: int,  # S
    origins: Sequence[tuple[int, int]] | None = None,  # frame pixel (x, y) of each source's [0, 0]; None: all (0, 0)
) -> np.ndarray:  # [K, S, S, 3] uint8
    """Cut each crop as `reference.warp_affine` does, but reduced ones as means over areas; one crop at a time."""
    crops = np.empty((len(crop_from_frame), size, size, 3), dtype=np.uint8)
    for i, n in enumerate(points_per_side(crop_from_frame, size).tolist()):
        fine = finer(crop_from_frame[i : i + 1], n)
        crops[i] = mean(sampler(sources, source_of[i : i + 1], fine, cubic[i : i + 1], size * n, origins), n)[0]
    return crops
