"""Antialiased crops: true means over areas, the same bytes from every sampler, plain crops where nothing shrinks."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from gpu_extract.kernels import antialias, cpu, reference, tables
from tests.helpers import turned


@pytest.fixture(scope="module")
def frame() -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (90, 140, 3), dtype=np.uint8)


def test_points_follow_the_reduction() -> None:
    matrices = np.stack([turned(scale, 0.3, (9, 9), 16) for scale in (2.0, 1.0, 0.99, 0.5, 0.49, 0.28, 0.001)])
    assert antialias.points_per_side(matrices, 16).tolist() == [1, 1, 2, 2, 3, 4, 16]
    assert antialias.points_per_side(matrices, 2000).tolist() == [1, 1, 2, 2, 2, 2, 2]
    broken = np.stack([np.zeros((2, 3)), np.full((2, 3), np.nan), np.full((2, 3), np.inf)])
    assert antialias.points_per_side(broken, 16).tolist() == [1, 1, 1]


@pytest.mark.parametrize("n", [2, 3, 5])
def test_whole_reductions_are_opencv_area_means(frame: np.ndarray, n: int) -> None:
    size = 12
    centre_of_first = (n - 1) / 2 + 4 * n  # crop pixel (0, 0) covers frame pixels 4n … 5n − 1
    matrix = np.array([[[1 / n, 0, -centre_of_first / n], [0, 1 / n, -centre_of_first / n]]])
    crop = antialias.warp_affine(reference.warp_affine, [frame], [0], matrix, [False], size)[0]
    region = frame[4 * n : (4 + size) * n, 4 * n : (4 + size) * n]
    area = cv2.resize(region, (size, size), interpolation=cv2.INTER_AREA)
    assert np.abs(crop.astype(int) - area).max() <= 1
    plain = reference.warp_affine([frame], [0], matrix, [False], size)[0]
    assert (np.abs(plain.astype(int) - area).max() > 20) == (n > 2), "halving alone needs no more than plain linear"


def test_fine_stripes_become_their_mean(frame: np.ndarray) -> None:
    stripes = np.zeros_like(frame)
    stripes[:, ::2] = 200
    matrix = turned(0.23, 0.4, (70, 45), 12)[None]
    crop = antialias.warp_affine(reference.warp_affine, [stripes], [0], matrix, [False], 12)[0]
    plain = reference.warp_affine([stripes], [0], matrix, [False], 12)[0]
    assert np.abs(crop.astype(int) - 100).max() <= 20
    assert np.abs(plain.astype(int) - 100).max() > 80


def test_a_flat_frame_stays_flat() -> None:
    flat = np.full((80, 80, 3), 77, np.uint8)
    crop = antialias.warp_affine(reference.warp_affine, [flat], [0], turned(0.3, 1.0, (40, 40), 9)[None], [False], 9)
    assert (crop == 77).all()


def test_crops_that_are_not_reduced_are_the_plain_ones(frame: np.ndarray) -> None:
    matrices = np.stack([turned(scale, 0.7, (60, 40), 20) for scale in (1.0, 1.7)])
    arguments = ([frame], [0, 0], matrices, [True, False], 20)
    np.testing.assert_array_equal(
        antialias.warp_affine(reference.warp_affine, *arguments), reference.warp_affine(*arguments)
    )


@pytest.mark.skipif(not cpu.is_available(), reason="the C sampler was not built here")
def test_every_sampler_gives_the_same_bytes_from_pieces(frame: np.ndarray) -> None:
    rng = np.random.default_rng(3)
    K, size = 30, 17
    matrices = np.stack(
        [turned(rng.uniform(0.1, 1.2), rng.uniform(0, 6), rng.uniform((-9, -9), (150, 99)), size) for _ in range(K)]
    )
    cubic = np.zeros(K, bool)
    regions = antialias.source_region(matrices, cubic, size)
    height, width = frame.shape[:2]
    low = np.clip(regions[:, :2], 0, [width - 1, height - 1])
    high = np.clip(regions[:, 2:], low + 1, [width, height])
    pieces = [frame[y0:y1, x0:x1] for (x0, y0), (x1, y1) in zip(low, high, strict=True)]
    expected = antialias.warp_affine(reference.warp_affine, [frame], [0] * K, matrices, cubic, size)
    from_pieces = antialias.warp_affine(
        cpu.warp_affine, pieces, np.arange(K), matrices, cubic, size, [(int(x), int(y)) for x, y in low]
    )
    np.testing.assert_array_equal(from_pieces, expected)
    plain = tables.source_region(matrices, cubic, size)
    assert (regions[:, :2] <= plain[:, :2]).all()
    assert (regions[:, 2:] >= plain[:, 2:]).all()


@pytest.mark.parametrize("n", [1, 2, 3, 16])
def test_means_are_rounded_half_up(n: int) -> None:
    fine = np.random.default_rng(n).integers(0, 256, (2, 5 * n, 5 * n, 3), dtype=np.uint8)
    fine[0, :n, :n] = 255
    means = antialias.mean(fine, n)
    assert (means[0, 0, 0] == 255).all()
    exact = fine.reshape(2, 5, n, 5, n, 3).mean(axis=(2, 4))
    np.testing.assert_array_equal(means, np.floor(exact + 0.5))
