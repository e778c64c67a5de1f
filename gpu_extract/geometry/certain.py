"""Which faces are sure to have a crop: told by sums over their points, at a fraction of the price of a fit.

What is asked for is stricter than what a fit needs, by more than all rounding could make of the difference. Most of the
faces that are not sure have a crop, too.
"""

from __future__ import annotations

import numpy as np

from gpu_extract.geometry import pose
from gpu_extract.kernels import columns

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
        self._anchor, self._needs_pose = int(core[0]), posed is not None
        self._weights = np.zeros((3 if posed is None else 6, n))
        np.add.at(self._weights[0], core, 1 / len(core))
        np.add.at(self._weights[1:3].T, core, (target - target.mean(axis=0)) / len(core))
        if posed is not None:
            np.add.at(self._weights[3:].T, posed, pose.across())

    def have_crops(self, points: np.ndarray) -> np.ndarray:
        """Faces [K] bool that are sure to have a finite, invertible matrix, and a pose if they need one.

        Args:
            points: [K, n, 2] float32 or float64 landmarks in frame pixels, finite.
        """
        summed, squares, reach = columns.sums(points, self._anchor, self._weights)
        with np.errstate(all="ignore"):
            mean, (c00, c01), (c10, c11) = summed[:3]
            determinant = c00 * c11 - c01 * c10
            a, b = c00 + c11, c10 - c01
            length = np.sqrt(a * a + b * b)
            sure = (reach >= 1) & (reach <= LARGEST)
            sure &= (determinant > LEAST_RATIO * length**2) & (determinant > LEAST_SPREAD * reach * length)
            if not self._needs_pose:
                return np.asarray(sure)
            variance = squares - (mean * mean).sum(axis=0)
            x, y = summed[3:, 0], summed[3:, 1]
            moments = np.stack([a * x - b * y, b * x + a * y])  # [2, 3, K], times the variance
            lean = np.sqrt((moments * moments).sum(axis=1).max(axis=0)) / variance
            # A translation is at most 1, within the unit square, and what brings the mean there.
            largest = 3 * reach * length / variance + 1
            return np.asarray(sure & pose.is_sure(lean / SLACK, largest * SLACK))
