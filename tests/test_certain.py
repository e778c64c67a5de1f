"""Crops that are sure to be there before they are worked out: against working them out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpu_extract.geometry.crops import POINT_COUNTS, CropGeometry, Fit, to_68
from gpu_extract.geometry.mean_faces import CENTERINGS, Centering, table
from tests.test_pose import all_faces, on_the_axis


def strange(faces: np.ndarray, random: np.random.Generator, count: int) -> np.ndarray:
    """[count, 68, 2] float64: faces that are tiny, huge, far away, flat, mirrored, a point, noise, and whole ones."""
    points = faces[random.integers(0, len(faces), count)].astype(np.float64)
    centre = points.mean(axis=1, keepdims=True)
    around = points - centre
    scale = 10.0 ** random.uniform(-8, 4, (count, 1, 1))
    noise = random.normal(0, 100, points.shape)
    made = [
        points,
        around * scale + centre,
        around * scale * 1e-3 + centre * 1e3,
        around * scale,
        around * [1, 0] + centre,
        around * [1, 1e-5] * scale + centre,
        around * [-1, 1] + centre,
        around * [1, -1e-3] * scale + centre,
        noise + centre,
        noise * scale * 1e-4 + centre,
        np.broadcast_to(centre, points.shape),
        np.zeros_like(points),
    ]
    return np.stack(made)[random.integers(0, len(made), count), np.arange(count)]


def of_count(points: np.ndarray, n: int, random: np.random.Generator) -> np.ndarray:
    """Landmarks [K, 68, 2] as sets of n points."""
    if n == 98:
        more = random.normal(0, 1000, (len(points), 98, 2))
        more[:, table("map_98_to_68")] = points
        return more
    return {68: points, 51: points[:, 17:], 4: points[:, [36, 45, 54, 48]]}[n]


def yet_unknown(cut: CropGeometry) -> np.ndarray:
    return np.asarray(cut.usable & np.isnan(cut.crop_from_frame[:, 0, 0]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", POINT_COUNTS)
@pytest.mark.parametrize("centering", CENTERINGS)
def test_no_face_is_sure_that_has_no_crop(vector_faces: Any, centering: Centering, n: int, dtype: type) -> None:
    if n == 51 and centering != "legacy":
        centering = "legacy"
    random = np.random.default_rng(n)
    points: np.ndarray = of_count(strange(all_faces(vector_faces), random, 600), n, random).astype(dtype)
    for size, seed in ((256, False), (256, True), (3, False), (2, False), (1, True)):
        options: Any = {"centering": centering, "seed": seed, "align_eyes": size == 256}
        ahead = Fit(points, size, **options).geometry_before_pose()
        later = Fit(points, size, **options)
        cut = later.geometry_before_fit()
        np.testing.assert_array_equal(cut.usable, ahead.usable)
        unknown = yet_unknown(cut)
        known = ~unknown
        np.testing.assert_array_equal(cut.cubic[known], ahead.cubic[known])
        assert not cut.cubic[unknown].any()
        some = np.flatnonzero(unknown)[::40]
        matrices = later.crop_from_frame(some)
        assert np.isfinite(matrices).all()
        np.testing.assert_array_equal(matrices, Fit(points[some], size, **options).crop_from_frame(slice(None)))
        if centering == "head" and size == 2:  # 2 pixels of which 2 are padding
            assert not cut.usable.any()
        else:
            assert 0.15 < unknown.mean() < 0.5


@pytest.mark.parametrize("centering", CENTERINGS)
def test_faces_of_people_are_sure_and_mirrored_ones_are_not(vector_faces: Any, centering: Centering) -> None:
    faces = all_faces(vector_faces)[:3]
    for points in (faces, faces + np.float32(3000), faces.astype(np.float64) * 9):
        assert yet_unknown(Fit(points, 256, centering, seed=False).geometry_before_fit()).all()
        assert not yet_unknown(Fit(points * [-1, 1], 256, centering, seed=False).geometry_before_fit()).any()


def test_a_face_whose_pose_is_in_doubt_is_fitted_at_once(vector_faces: Any) -> None:
    good = all_faces(vector_faces)[:2]
    points = np.concatenate([good[:1], on_the_axis(), good[1:]])
    assert to_68(points) is points
    cut = Fit(points, 64, "head", seed=False).geometry_before_fit()
    assert cut.usable.tolist() == [True, False, True]
    assert yet_unknown(cut).tolist() == [True, False, True]
    assert Fit(points, 64, "legacy", seed=False).geometry_before_fit().usable.all()


def test_blocks_are_fitted_when_one_of_their_faces_is_asked_for(
    vector_faces: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpu_extract.geometry import crops

    faces = all_faces(vector_faces)[:10]
    points = np.resize(faces, (3 * crops.BLOCK + 5, 68, 2))
    fitted: list[int] = []
    umeyama = crops.umeyama

    def counted(core: np.ndarray, *others: Any) -> np.ndarray:
        fitted.append(len(core))
        return umeyama(core, *others)

    monkeypatch.setattr(crops, "umeyama", counted)
    fit = Fit(points, 64, seed=True)
    fit.geometry_before_fit()
    assert fitted == []
    fit.crop_from_frame(np.array([crops.BLOCK, crops.BLOCK + 1]))
    fit.crop_from_frame(np.array([2 * crops.BLOCK - 1, 3 * crops.BLOCK]))
    assert fitted == [crops.BLOCK, 5]
    whole = fit.crop_from_frame(slice(None))
    assert fitted == [crops.BLOCK, 5, crops.BLOCK, crops.BLOCK]
    np.testing.assert_array_equal(whole[: len(faces)], Fit(faces, 64, seed=True).crop_from_frame(slice(None)))
