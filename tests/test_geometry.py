"""Geometry against the vectors, to the integers that sampling is made of, and against plain definitions."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gpu_extract.geometry import crops, mean_faces
from gpu_extract.geometry.rounding import USUAL
from gpu_extract.kernels import tables

ROOT = Path(__file__).parent.parent
HASWELL = os.environ.get("OPENBLAS_CORETYPE") == "Haswell"
EPSILON = np.finfo(np.float32).eps
CPU_FMA3 = 12  # of OpenCV, which has no name for it in Python
MIRRORED = ("f_000007.png", 0)
"""The one face whose landmarks are mirrored: there the reference uses a transposed factor (docs/formats.md#crops)."""
LEVEL = "f_000003.png"
"""Faces whose crop is axis-aligned: there the reference returns a size of 0 (docs/formats.md#crops)."""


def seed_cases(expected: dict[str, Any], eyes: int) -> list[tuple[int, str, int, dict[str, Any]]]:
    found = []
    for key, frames in expected["seed_folder"]["geometry"].items():
        size, with_eyes = key.removeprefix("size").split("_eyes")
        if int(with_eyes) == eyes:
            found += [(int(size), name, i, face) for name, faces in frames.items() for i, face in enumerate(faces)]
    assert len(found) == 3 * 17
    return found


def assert_same_cut(matrix: np.ndarray, given: Any, size: int) -> None:
    """Equal to the last bit with the BLAS kernels that the vectors were made with (`HASWELL`), and with any others in
    every integer that sampling takes from it: which order BLAS adds 68 products in depends on the processor."""
    given = np.asarray(given)
    np.testing.assert_array_equal(
        tables.coordinate_tables(matrix[None], size), tables.coordinate_tables(given[None], size)
    )
    np.testing.assert_allclose(matrix, given, rtol=1e-13, atol=1e-13)
    if HASWELL:
        np.testing.assert_array_equal(matrix, given)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the vectors were made with kernels for x86-64")
def test_with_the_blas_kernels_of_the_vectors_matrices_are_equal_to_the_last_bit() -> None:
    given = os.environ | {"OPENBLAS_CORETYPE": "Haswell"}
    chosen = f"{__file__}::{{}}"
    tests = ("test_seed_matrices_padding_roi_and_filter_equal_the_vectors", "test_later_releases_equal_the_vectors")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", *map(chosen.format, tests)]
    run = subprocess.run(command, env=given, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
    assert "4 passed" in run.stdout


def test_seed_matrices_padding_roi_and_filter_equal_the_vectors(vector_faces: Any, expected: Any) -> None:
    for size, name, i, face in seed_cases(expected, eyes=0):
        points = vector_faces[name][i]["landmarks"][None]
        normalized = crops.umeyama(crops.core(points), crops.mean_face(68, seed=True))
        cut = crops.crop_geometry(points, size, seed=True)
        assert crops.padding_px(size, "legacy", seed=True) == face["padding"]
        corners = crops.roi(cut.crop_from_frame, size)
        if (name, i) == MIRRORED:
            assert not np.array_equal(normalized[0], face["matrix_normalized"])
            continue
        np.testing.assert_allclose(normalized[0], face["matrix_normalized"], rtol=1e-13, atol=1e-13)
        assert_same_cut(cut.crop_from_frame[0], face["adjusted_matrix"], size)
        np.testing.assert_array_equal(corners[0], np.reshape(face["original_roi"], (4, 2)))
        if name == LEVEL:
            assert face["roi_size"] == 0
            assert crops.roi_size(corners)[0] == np.hypot(*(corners[0, 3] - corners[0, 0])).astype(int) > 0
        else:
            assert crops.roi_size(corners)[0] == face["roi_size"]


def test_interpolation_equals_the_vectors(vector_faces: Any, expected: Any) -> None:
    seen = set()
    for size, name, i, face in seed_cases(expected, eyes=0):
        if (name, i) == MIRRORED:
            continue
        cubic = crops.crop_geometry(vector_faces[name][i]["landmarks"][None], size, seed=True).cubic[0]
        assert cubic == (face["interpolation"] in (2, "cubic", "INTER_CUBIC")), (size, name, i)
        seen.add(bool(cubic))
    assert seen == {True, False}


def test_eye_alignment_equals_the_vectors_angle_included(vector_faces: Any, expected: Any) -> None:
    for size, name, i, face in seed_cases(expected, eyes=1):
        if (name, i) == MIRRORED:
            continue
        points = vector_faces[name][i]["landmarks"][None]
        normalized = crops.umeyama(crops.core(points), crops.mean_face(68, seed=True))
        theta = crops.eye_angle(points, crops.to_crop(normalized, size, face["padding"]))
        assert theta[0] == face["eyes_theta"], (size, name, i)
        used = crops.rotate(normalized, crops.rotation(theta), (0.0, 0.0))
        np.testing.assert_allclose(used[0], face["matrix_used"], rtol=1e-13, atol=1e-13)
        crop_from_frame = crops.crop_geometry(points, size, seed=True, align_eyes=True).crop_from_frame
        np.testing.assert_array_equal(
            tables.coordinate_tables(crop_from_frame, size),
            tables.coordinate_tables(np.array([face["adjusted_matrix"]]), size),
        )


@pytest.mark.skipif(not cv2.checkHardwareSupport(CPU_FMA3), reason="OpenCV rounds otherwise without fused operations")
@pytest.mark.parametrize("lean", [0, 1e-17, 1e-8, EPSILON, np.nextafter(EPSILON, np.float32(1)), 1e-3])
def test_the_angle_is_that_of_opencvs_transform_also_where_the_crop_is_level_already(lean: float) -> None:
    generator = np.random.default_rng(3)
    for _ in range(200):
        points = generator.uniform(0, 1000, (68, 2)).astype(np.float32)
        scale, *move = generator.uniform(0.1, 5), *generator.uniform(-500, 500, 2)
        matrix = np.array([[scale, -lean, move[0]], [lean, scale, move[1]]])
        in_crop = cv2.transform(points[None], matrix)[0]
        across, down = in_crop[36:42].mean(axis=0) - in_crop[42:48].mean(axis=0)
        theta = np.pi - float(USUAL.arctan2(down[None], across[None])[0])
        assert crops.eye_angle(points[None], matrix[None])[0] == theta


def test_the_eyes_of_float64_landmarks_are_levelled_in_float64() -> None:
    points = np.random.default_rng(4).uniform(0, 1000, (68, 2))
    matrix = np.array([[1.5, -0.2, 31.0], [0.2, 1.5, -7.0]])
    right, left = (sum(points[eye] @ matrix[:, :2].T + matrix[:, 2]) / 6 for eye in (crops.RIGHT_EYE, crops.LEFT_EYE))
    exact = math.pi - math.atan2(right[1] - left[1], right[0] - left[0])
    theta = crops.eye_angle(points[None], matrix[None])[0]
    assert abs(theta - exact) < 1e-14
    assert abs(crops.eye_angle(points[None].astype(np.float32), matrix[None])[0] - exact) > 1e-10


def test_a_turn_has_the_c_librarys_digits_whatever_the_processor_has() -> None:
    angles = np.random.default_rng(5).uniform(-7, 7, 5000)
    exact = [[[math.cos(t), -math.sin(t)], [math.sin(t), math.cos(t)]] for t in angles.tolist()]
    assert crops.rotation(angles).tolist() == exact


def test_eyes_are_level_after_alignment(vector_faces: Any) -> None:
    for centering in mean_faces.CENTERINGS:
        for name in ("f_000001.png", "f_000002.png", "f_000008.png"):
            points = np.stack([face["landmarks"] for face in vector_faces[name]])
            matrices = crops.crop_geometry(points, 300, centering, seed=True, align_eyes=True).crop_from_frame
            eyes = np.stack([points[:, 36:42].mean(axis=1), points[:, 42:48].mean(axis=1)], axis=1, dtype=np.float64)
            level = np.einsum("kij,kpj->kpi", matrices[:, :, :2], eyes) + matrices[:, None, :, 2]
            np.testing.assert_allclose(level[:, 0, 1], level[:, 1, 1], atol=1e-3)
            assert (level[:, 1, 0] > level[:, 0, 0]).all()


@pytest.mark.parametrize("centering", mean_faces.CENTERINGS)
def test_later_releases_equal_the_vectors(vector_faces: Any, expected: Any, centering: mean_faces.Centering) -> None:
    compared = 0
    for name, faces in expected["v2_numpy1_geometry"]["geometry"].items():
        points = np.stack([face["landmarks"] for face in vector_faces[name]])
        cut = crops.crop_geometry(points, 256, centering, seed=False)
        for matrix, face in zip(cut.crop_from_frame, faces, strict=True):
            given = np.array(face[centering]["matrix"]) * (256 - 2 * face[centering]["padding"])
            given[:, 2] += face[centering]["padding"]
            assert_same_cut(matrix, given, 256)
            corners = np.reshape(face[centering]["original_roi"], (4, 2))
            np.testing.assert_array_equal(crops.roi(matrix[None], 256)[0], corners)
            compared += 1
    assert compared == 17


@pytest.mark.parametrize(
    ("size", "seed_pad", "pads"), [(200, 37, (38, 50, 62)), (256, 48, (48, 64, 80)), (17, 3, (3, 4, 5))]
)
def test_padding(size: int, seed_pad: int, pads: tuple[int, int, int]) -> None:
    assert crops.padding_px(size, "legacy", seed=True) == seed_pad
    assert tuple(crops.padding_px(size, c, seed=False) for c in mean_faces.CENTERINGS) == pads


def similarity(scale: float, degrees: float, shift: tuple[float, float]) -> np.ndarray:
    """[2, 3] float64: turn, scale, then move."""
    t = np.deg2rad(degrees)
    turn = scale * np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
    return np.column_stack([turn, shift])


@pytest.mark.parametrize("degrees", [0, 35, 90, -118, 180])
def test_the_fit_recovers_a_known_similarity(degrees: float) -> None:
    placed = similarity(83.5, degrees, (410.25, -37.5))  # scale and shift differ in x and y: swapped axes fail
    mean = crops.mean_face(68, seed=False)
    points = mean @ placed[:, :2].T + placed[:, 2]
    fitted = crops.umeyama(points[None], mean)[0]
    back = np.vstack([fitted, [0, 0, 1]]) @ np.vstack([placed, [0, 0, 1]])
    np.testing.assert_allclose(back, np.eye(3), atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_face_alone_is_fitted_as_it_is_among_others_and_its_landmarks_stay(dtype: type) -> None:
    points: np.ndarray = np.random.default_rng(4).normal(200, 60, (9, 51, 2)).astype(dtype)
    before = points.copy()
    target = crops.mean_face(51, seed=True)
    together = crops.umeyama(points, target)
    alone = [crops.umeyama(points[k : k + 1], target)[0] for k in range(len(points))]
    assert np.array_equal(together, alone)
    assert np.array_equal(points, before)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_means_and_variances_are_summed_point_after_point(dtype: type) -> None:
    points: np.ndarray = np.random.default_rng(5).normal(2000, 3, (40, 51, 2)).astype(dtype)
    target = crops.mean_face(51, seed=False)
    mean: np.ndarray = np.zeros((40, 2), dtype)
    for k in range(51):
        mean += points[:, k]
    mean /= 51
    shift = crops.umeyama(points, target)
    linear, moved = shift[:, :, :2], shift[:, :, 2]
    exact = target.mean(axis=0) - (linear * mean.astype(np.float64)[:, None]).sum(axis=2)
    assert np.abs(moved - exact).max() < 1e-12


def test_landmark_sets_other_than_68() -> None:
    placed = similarity(60, 20, (100, 50))
    mean = crops.mean_face(51, seed=False)
    core = (mean @ placed[:, :2].T + placed[:, 2]).astype(np.float32)[None]
    jaw = np.zeros((1, 17, 2), np.float32)
    whole = np.concatenate([jaw, core], axis=1)
    as_98 = np.zeros((1, 98, 2), np.float32)
    as_98[:, mean_faces.table("map_98_to_68")] = whole
    of_68 = crops.crop_geometry(whole, 128, seed=False).crop_from_frame
    np.testing.assert_array_equal(crops.crop_geometry(core, 128, seed=False).crop_from_frame, of_68)
    np.testing.assert_array_equal(crops.crop_geometry(as_98, 128, seed=False).crop_from_frame, of_68)
    square = (np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) @ placed[:, :2].T + placed[:, 2])[None]
    cut = crops.crop_geometry(square, 128, "head", seed=False).crop_from_frame[0]
    np.testing.assert_allclose(cut[:, :2] @ square[0, 0] + cut[:, 2], (40, 40), atol=1e-9)
    with pytest.raises(ValueError, match="51 core landmarks"):
        crops.crop_geometry(core, 128, "head", seed=False)
    with pytest.raises(ValueError, match="67 landmarks"):
        crops.crop_geometry(whole[:, 1:], 128, seed=False)


def test_degenerate_landmarks_are_not_usable_and_harm_no_other_face(vector_faces: Any) -> None:
    good = vector_faces["f_000001.png"][0]["landmarks"]
    same = np.full_like(good, 7)
    far = np.full_like(good, 3e38)
    line = good.copy()
    line[:, 1] = line[:, 0]
    points = np.stack([same, good, far, line])
    for centering in mean_faces.CENTERINGS:
        cut = crops.crop_geometry(points, 64, centering, seed=True, align_eyes=True)
        alone = crops.crop_geometry(good[None], 64, centering, seed=True, align_eyes=True)
        np.testing.assert_array_equal(cut.usable[:3], [False, True, False])
        np.testing.assert_array_equal(cut.crop_from_frame[1], alone.crop_from_frame[0])


def test_box_is_the_crops_side_in_the_frame() -> None:
    matrix = similarity(0.5, 77, (3, 9))[None]
    np.testing.assert_allclose(crops.box_px(matrix, 256), 512)


def test_constants_are_what_the_conventions_say() -> None:
    assert crops.mean_face(68, seed=True).shape == (51, 2)
    shift = crops.mean_face(68, seed=False) - crops.mean_face(68, seed=True)
    np.testing.assert_allclose(shift[:, 0], 0.009873, atol=1e-6)
    np.testing.assert_allclose(shift[:, 1], 0, atol=1e-6)
    parts = json.loads(json.dumps(mean_faces.table("map_98_to_68").tolist()))
    assert len(parts) == 68
    assert max(parts) < 98
