"""Head pose from landmarks: how far the head's and the face's centre lie from the core's, in normalized space."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gpu_extract.geometry.mean_faces import Centering, table
from gpu_extract.geometry.rounding import USUAL, Rounding

POSE_POINTS = [6, 7, 8, 9, 10, 17, 21, 22, 26, 31, 32, 33, 34, 35, 36, 39, 42, 45, 48, 50, 51, 52, 54, 56, 57, 58]
CAMERA = np.array([[4.0, 0.0, 0.5], [0.0, 4.0, 0.5], [0.0, 0.0, 1.0]])
CENTRES = {"head": (0.0, 0.0, -2.3), "face": (0.0, -1.5, 4.2)}
SURE_REACH = 1000.0
SURE_LEAN = 1e-5


def offsets(points: np.ndarray, normalized: np.ndarray, centering: Centering, rounding: Rounding = USUAL) -> np.ndarray:
    """What to subtract from a normalized matrix's translation so that the crop is centred on the face or the head.

    The solver takes a tenth of a millisecond a face, without the GIL.

    Args:
        points: [K, 68, 2] landmarks in frame pixels.
        normalized: [K, 2, 3] float64 from `geometry.umeyama`.
        centering: "legacy" gives 0.
        rounding: of the last step.

    Returns:
        [K, 2] float64; NaN where no pose was found.
    """
    if centering == "legacy":
        return np.zeros((len(points), 2))
    import cv2

    centre = np.array(CENTRES[centering], np.float32)[None]
    found = np.full((len(points), 2), np.nan)
    for k, rotation, translation in _solved(points, normalized):
        projected, _ = cv2.projectPoints(centre, rotation, translation, CAMERA, None)
        found[k] = rounding.less_half(projected.reshape(2))
    return found


def angles(points: np.ndarray, normalized: np.ndarray) -> np.ndarray:
    """How each head is turned in its frame: yaw, pitch, roll in degrees, [K, 3] float64; NaN where no pose was found.

    A head that looks at the camera has 0, 0, 0. It is turned by its pitch first (positive: the nose goes up in the
    picture), then by its yaw (positive: the nose goes to the right of the picture), then by its roll (positive:
    clockwise in the picture). Yaw is within 90 degrees of 0, pitch and roll within 180. Landmarks of a mirrored face
    are those of no head before a camera, and have none.

    Args:
        points: [K, 68, 2] landmarks in frame pixels.
        normalized: [K, 2, 3] float64 from `geometry.umeyama`.
    """
    import cv2

    found = np.full((len(points), 3), np.nan)
    for k, rotation, translation in _solved(points, normalized):
        if translation[2, 0] >= 0:
            continue
        # The model's x goes left, its y up and its z to the camera: it is the head's mirror image, point by point, and
        # found behind the camera, which sees the same of both. Its rotation is the head's with axes as the camera has.
        turn, _ = cv2.Rodrigues(rotation)
        yaw = np.arctan2(turn[2, 0], np.hypot(turn[0, 0], turn[1, 0]))
        pitch = np.arctan2(-turn[2, 1], turn[2, 2])
        roll = np.arctan2(turn[1, 0], turn[0, 0]) - np.arctan2(normalized[k, 1, 0], normalized[k, 0, 0])
        found[k] = yaw, pitch, np.arctan2(np.sin(roll), np.cos(roll))
    found *= 180 / np.pi
    return found


def _solved(points: np.ndarray, normalized: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """The faces that have a pose: number, rotation and translation of the model, [3, 1] float64 each."""
    import cv2

    model = _model()
    frame_points = points.astype(np.float32, copy=False)
    for k in np.flatnonzero(np.isfinite(normalized).all(axis=(1, 2))).tolist():
        # OpenCV's own float32 transform: its order of operations is part of the result.
        flat = cv2.transform(frame_points[k : k + 1], normalized[k])[0][POSE_POINTS]
        flat[~np.isfinite(flat)] = 0.0
        try:
            solved, rotation, translation = cv2.solvePnP(model, flat, CAMERA, None, flags=cv2.SOLVEPNP_ITERATIVE)
        except cv2.error:
            continue
        if solved:
            yield k, rotation, translation


def surely_found(points: np.ndarray, normalized: np.ndarray) -> np.ndarray:
    """Faces [K] bool whose pose the solver is sure to find, without solving; of the others some have one, too.

    The solver starts from the camera (R | t) that comes closest to its linear equations, and gives up if that has
    R = 0. For a point X of the model seen at (u, v), the equations are those of u and v times X and 1, so R = 0 can
    only come closest if the sum of X (u - cx), and that of X (v - cy), is parallel to the sum of X. Here is asked that
    one of them leans away from it by far more than rounding could have made. Normalized points are float32 sums of
    numbers as large as `reach`, so rounding makes about 1e-7 of that.

    Args:
        points: [K, 68, 2] landmarks in frame pixels.
        normalized: [K, 2, 3] float64 from `geometry.umeyama`.
    """
    seen = points[:, POSE_POINTS].astype(np.float64)
    with np.errstate(all="ignore"):
        linear = normalized[:, :, :2]
        moments = np.matmul(linear, np.matmul(seen.transpose(0, 2, 1), across()))
        reach = np.abs(linear).max(axis=(1, 2)) * np.abs(seen.reshape(-1, 2 * len(POSE_POINTS))).max(axis=1)
        reach += np.abs(normalized[:, :, 2]).max(axis=1)
        return is_sure(np.linalg.norm(moments, axis=2).max(axis=1), reach)


def across() -> np.ndarray:
    """The model's points [26, 3] without what is parallel to their sum, in all 1 long: a constant u adds nothing."""
    model = _model()
    along = model.sum(axis=0) / np.linalg.norm(model.sum(axis=0))
    found: np.ndarray = (model - np.outer(model @ along, along)) / np.linalg.norm(model, axis=1).sum()
    return found


def is_sure(lean: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """See `surely_found`.

    Args:
        lean: [K] the length of the sum of `across` times u, or of that times v, whichever is longer. Neither the
            translation nor the camera's centre matters for them.
        reach: [K] how large the numbers were that normalized points are sums of.

    Returns:
        [K] bool.
    """
    return np.asarray((reach < SURE_REACH) & (lean > SURE_LEAN * reach))


def _model() -> np.ndarray:
    """The head's points [26, 3] float64 that `POSE_POINTS` are the images of."""
    return table("mean_face_head_3d26").astype(np.float64)
