"""Head pose: what the solver gives, and what is known of it without asking the solver."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from gpu_extract.geometry import crops, pose
from gpu_extract.geometry.mean_faces import Centering, table


def normalized(points: np.ndarray) -> np.ndarray:
    return crops.umeyama(crops.core(points), crops.mean_face(68, seed=False))


def all_faces(vector_faces: Any) -> np.ndarray:
    return np.stack([face["landmarks"] for faces in vector_faces.values() for face in faces])


def on_the_axis() -> np.ndarray:
    """Landmarks [1, 68, 2] whose pose points all fall on the camera's axis: a place, but nothing like a rotation."""
    points = np.zeros((68, 2))
    free = [i for i in range(17, 68) if i not in pose.POSE_POINTS]
    points[free] = crops.mean_face(68, seed=False)[np.array(free) - 17] - 0.5
    for _ in range(100):
        landmarks = points.astype(np.float32)[None]
        matrix = normalized(landmarks)[0]
        if (matrix[:, 2].astype(np.float32) == 0.5).all():
            return landmarks
        points[free] += np.linalg.solve(matrix[:, :2], matrix[:, 2] - 0.5)
    raise AssertionError("no such landmarks were found")


@pytest.mark.parametrize("centering", ["face", "head"])
def test_offsets_are_the_solvers_face_by_face(vector_faces: Any, centering: Centering) -> None:
    points = all_faces(vector_faces)
    matrices = normalized(points)
    found = pose.offsets(points, matrices, centering)
    for k in range(len(points)):
        image = cv2.transform(points[k : k + 1], matrices[k])[0][pose.POSE_POINTS]
        _, turn, place = cv2.solvePnP(table("mean_face_head_3d26"), image, pose.CAMERA, None)
        seen, _ = cv2.projectPoints(np.array([pose.CENTRES[centering]], np.float32), turn, place, pose.CAMERA, None)
        np.testing.assert_array_equal(found[k], seen.ravel() - np.float32(0.5))
        np.testing.assert_array_equal(found[k], pose.offsets(points[[k]], matrices[[k]], centering)[0])
    assert (np.abs(found) > 0.001).any(axis=1).all()
    assert not pose.offsets(points, matrices, "legacy").any()


def test_a_face_without_a_pose_is_nan_and_harms_no_other(vector_faces: Any) -> None:
    good = all_faces(vector_faces)[:2]
    points = np.concatenate([good[:1], on_the_axis(), np.full((1, 68, 2), 7, np.float32), good[1:]])
    matrices = normalized(points)
    np.testing.assert_array_equal(np.isfinite(matrices).all(axis=(1, 2)), [True, True, False, True])
    found = pose.offsets(points, matrices, "head")
    np.testing.assert_array_equal(np.isnan(found).all(axis=1), [False, True, True, False])
    np.testing.assert_array_equal(found[[0, 3]], pose.offsets(good, normalized(good), "head"))


def test_faces_are_known_to_have_a_pose(vector_faces: Any) -> None:
    points = all_faces(vector_faces)
    mirrored = points * np.array([-1, 1], np.float32)
    for faces in (points, mirrored, points * 10, points + 500, points.astype(np.float64)):
        assert pose.surely_found(faces, normalized(faces)).all()


def test_faces_that_may_have_none_are_not(vector_faces: Any) -> None:
    far = all_faces(vector_faces)[:1] + np.float32(1e7)  # rounded to whole pixels
    points = np.concatenate(
        [on_the_axis(), far, np.full((1, 68, 2), 7, np.float32), np.full((1, 68, 2), 3e38, np.float32)]
    )
    assert not pose.surely_found(points, normalized(points)).any()
    assert pose.surely_found(points[:0], normalized(points[:0])).shape == (0,)


def strange_landmarks(seed: int) -> np.ndarray:
    """[K, 68, 2] float32: noise, lattices, lines, clusters, points far away, tiny and huge faces."""
    random = np.random.default_rng(seed)
    K = 40
    mean = np.concatenate([random.random((17, 2)), crops.mean_face(68, seed=False)])
    face = mean + random.normal(0, 0.05, (K, 68, 2))
    flat, jaw_away, one_away, clustered = face.copy(), face.copy(), face.copy(), face.copy()
    flat[:, :, 1] = 0.3
    jaw_away[:, :17] = random.random((K, 17, 2)) * 10.0 ** random.integers(0, 30, (K, 1, 1))
    one_away[np.arange(K), random.integers(0, 68, K)] = 1e4
    clustered[:, pose.POSE_POINTS] = face[:, [30]] * (1 + random.normal(0, 1e-4, (K, 26, 2)))
    kinds = [
        face * 10.0 ** random.integers(-6, 16, (K, 1, 1)), face * 1e-3 + 1e6, flat, jaw_away, one_away, clustered,
        random.random((K, 68, 2)), np.rint(random.random((K, 68, 2))), face[:, random.permutation(68)],
        np.where(random.random((K, 68, 1)) < 0.02, face, 0.5), face @ np.array([[1, 1], [1, 1 + 1e-6]]),
    ]  # fmt: skip
    return np.concatenate(kinds).astype(np.float32)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_called_sure_is_found(seed: int) -> None:
    points = strange_landmarks(seed)
    matrices = normalized(points)
    sure = pose.surely_found(points, matrices)
    assert 0.4 < sure.mean() < 0.95
    for centering in ("face", "head"):
        assert np.isfinite(pose.offsets(points[sure], matrices[sure], centering)).all()
