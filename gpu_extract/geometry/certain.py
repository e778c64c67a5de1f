"""Which faces are sure to have a crop: told by sums over their points, at a fraction of the price of a fit.

What is asked for is stricter than what a fit needs, by more than all rounding could make of the difference. Most of the
faces that are not sure have a crop, too.
"""

from __future__ import annotations

import numpy as np

from gpu_extract.geometry import pose

LARGEST = 1e6
"""Pixels; as far as a point may lie from the frame's corner."""
LEAST_SPREAD = 3e-5
"""Of the largest coordinate: the smaller singular value of the covariance of a core and its target. A float32 mean of
51 points is off by a tenth of that at most."""
LEAST_RATIO = 1e-6
"""Of the two singular values; a core that is a line has 1e-16."""
SLACK = 2.0
"""Between a pose that is sure by the sums here and one that is by the fitted matrix."""


class Certainty:
    """What is asked of faces that have the same number of landmarks.

    With the covariance C of target and core, the similarity that fits best has the linear part [[a, -b], [b, a]] / v,
    where a = C00 + C11, b = C10 - C01 and v is the variance of the core, if det C > 0; the singular values of C add up
    to the length of (a, b) then (Umeyama 1991).

    Args:
        n: landmarks of a face.
        core: [m] which of them are fitted.
        target: [m, 2] float64, what they are fitted to, in the unit square.
        posed: [26] which of them a pose is found from; None where none is needed.
    """

    def __init__(self, n: int, core: np.ndarray, target: np.ndarray, posed: np.ndarray | None) -> None:
        self._anchor = int(core[0])
        self._targets = _columns(n, core, (target - target.mean(axis=0)) / len(core))
        self._mean = _columns(n, core, np.full((len(core), 1), 1 / len(core)))
        self._across = None if posed is None else _columns(n, posed, pose.across())

    def have_crops(self, points: np.ndarray) -> np.ndarray:
        """Faces [K] bool that are sure to have a finite, invertible matrix, and a pose if they need one.

        Args:
            points: [K, n, 2] float32 or float64 landmarks in frame pixels, finite.
        """
        reach = np.abs(points.reshape(len(points), -1)).max(axis=1).astype(np.float64)
        with np.errstate(all="ignore"):
            moved = (points - points[:, self._anchor, None]).astype(np.float32, copy=False).reshape(len(points), -1)
            (c00, c10), (c01, c11) = _sums(moved, self._targets)
            determinant = c00 * c11 - c01 * c10
            a, b = c00 + c11, c10 - c01
            length = np.hypot(a, b)
            sure = (reach >= 1) & (reach <= LARGEST)
            sure &= (determinant > LEAST_RATIO * length**2) & (determinant > LEAST_SPREAD * reach * length)
            if self._across is None:
                return np.asarray(sure)
            mean = _sums(moved, self._mean)[:, 0]
            squared = _sums(np.square(moved), self._mean)[:, 0]
            variance = (squared - mean**2).sum(axis=0)
            x, y = _sums(moved, self._across)
            moments = np.stack([a * x - b * y, b * x + a * y]) / variance  # [2, 3, K]
            # A translation is at most 1, within the unit square, and what brings the mean there.
            largest = 3 * reach * length / variance + 1
            return np.asarray(sure & pose.is_sure(moments.transpose(2, 0, 1) / SLACK, largest * SLACK))


def _columns(n: int, of: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """What sums over some points [m], weighted [m, c], multiply the x and y of all n points with: [2, c, 2 n] float32,
    for sums of x and of y."""
    columns = np.zeros((2, weights.shape[1], n, 2), np.float32)
    for axis in range(2):
        for k in range(weights.shape[1]):
            np.add.at(columns[axis, k, :, axis], of, weights[:, k])
    return columns.reshape(2, -1, 2 * n)


def _sums(moved: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """[2, c, K] float64 of moved points [K, 2 n]. Not by matrix products, whose threads cost more than they save."""
    return np.array([[np.einsum("kn,n->k", moved, column) for column in of] for of in columns], np.float64)
