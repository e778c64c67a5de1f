"""Head pose from landmarks: how far the head's and the face's centre lie from the core's, in normalized space."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from gpu_extract.constants import Centering, table

POSE_POINTS = [6, 7, 8, 9, 10, 17, 21, 22, 26, 31, 32, 33, 34, 35, 36, 39, 42, 45, 48, 50, 51, 52, 54, 56, 57, 58]
CAMERA = np.array([[4.0, 0.0, 0.5], [0.0, 4.0, 0.5], [0.0, 0.0, 1.0]])
CENTRES = {"head": (0.0, 0.0, -2.3), "face": (0.0, -1.5, 4.2)}
CHUNK = 4096  # faces a task; the solver releases the GIL


def offsets(points: np.ndarray, normalized: np.ndarray, centering: Centering) -> np.ndarray:
    """What to subtract from a normalized matrix's translation so that the crop is centred on the face or the head.

    Args:
        points: [K, 68, 2] landmarks in frame pixels.
        normalized: [K, 2, 3] float64 from `geometry.umeyama`.
        centering: "legacy" gives 0.

    Returns:
        [K, 2] float64 holding float32 values; NaN where no pose was found.
    """
    found = np.zeros((len(points), 2))
    if centering == "legacy":
        return found
    starts = range(0, len(points), CHUNK)
    if len(starts) <= 1:
        found[:] = _offsets(points, normalized, centering)
        return found
    with ThreadPoolExecutor() as pool:
        parts = pool.map(lambda i: _offsets(points[i : i + CHUNK], normalized[i : i + CHUNK], centering), starts)
        for start, part in zip(starts, parts, strict=True):
            found[start : start + CHUNK] = part
    return found


def _offsets(points: np.ndarray, normalized: np.ndarray, centering: Centering) -> np.ndarray:
    import cv2

    model = table("mean_face_head_3d26").astype(np.float64)
    centre = np.array(CENTRES[centering])[None]
    found = np.full((len(points), 2), np.nan)
    frame_points = points.astype(np.float32, copy=False)
    for face, matrix, out in zip(frame_points, normalized, found, strict=True):
        if not np.isfinite(matrix).all():
            continue
        # OpenCV's own float32 transform: its order of operations is part of the result.
        flat = cv2.transform(face[None], matrix)[0][POSE_POINTS]
        flat = np.nan_to_num(flat, nan=0.0, posinf=0.0, neginf=0.0)
        try:
            solved, rotation, translation = cv2.solvePnP(model, flat, CAMERA, None, flags=cv2.SOLVEPNP_ITERATIVE)
        except cv2.error:
            continue
        if solved:
            projected, _ = cv2.projectPoints(centre.astype(np.float32), rotation, translation, CAMERA, None)
            out[:] = projected.reshape(2) - np.float32(0.5)
    return found
