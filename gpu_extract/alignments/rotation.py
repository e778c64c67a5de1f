"""Faces of 2018 that were found in a turned frame: back into the coordinates of the frame as it is."""

from __future__ import annotations

import math

import numpy as np


def legacy_rotation(
    landmarks: np.ndarray, box: np.ndarray, rotation: int, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Undo the rotation `r` of a face.

    Args:
        landmarks: [n, 2] in pixels (x, y) of the turned frame.
        box: [4] x, y, w, h there.
        rotation: degrees that the frame was turned by.
        height, width: size of the frame as it is.

    Returns:
        landmarks [n, 2] of the same dtype and box [4] float64, whole numbers in pixels of the frame as it is.
    """
    turned_from_frame = _turn(-rotation, height, width)
    (a, b, c), (d, e, f) = turned_from_frame
    # invertAffineTransform, operation by operation.
    determinant = a * e - b * d
    determinant = 1.0 / determinant if determinant != 0 else 0.0
    ia, ib, id_, ie = e * determinant, -b * determinant, -d * determinant, a * determinant
    frame_from_turned = [(ia, ib, -ia * c - ib * f), (id_, ie, -id_ * c - ie * f)]
    x, y, w, h = (float(value) for value in box)
    corners = np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h]])
    across, down = np.rint(np.concatenate([corners, np.asarray(landmarks, np.float64)])).T
    # A matrix product would add in the order of the processor's BLAS, and decide ties otherwise.
    moved = np.rint(np.stack([across * m0 + down * m1 + m2 for m0, m1, m2 in frame_from_turned], axis=1))
    moved += 0.0  # integers know no -0.0
    low, high = moved[:4].min(0), moved[:4].max(0)
    return moved[4:].astype(landmarks.dtype), np.concatenate([low, high - low])


def _turn(degrees: float, height: int, width: int) -> np.ndarray:
    """getRotationMatrix2D about the centre, moved so that the whole turned frame is visible; [2, 3] float64."""
    angle = degrees * (math.pi / 180)
    alpha, beta = math.cos(angle), math.sin(angle)
    x, y = width / 2, height / 2
    matrix = np.array([[alpha, beta, (1 - alpha) * x - beta * y], [-beta, alpha, beta * x + (1 - alpha) * y]])
    new_width = int(height * abs(beta) + width * abs(alpha))
    new_height = int(height * abs(alpha) + width * abs(beta))
    matrix[:, 2] += (new_width / 2 - x, new_height / 2 - y)
    return matrix
