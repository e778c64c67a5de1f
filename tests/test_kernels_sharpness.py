"""How sharp an image is: against the definition written out, the same in C and in NumPy, of every size."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from gpu_extract.kernels import cutter, sharpness
from gpu_extract.kernels.sharpness import reference
from tests.helpers import noise, photograph

SHAPES = [(3, 3), (3, 90), (5, 7), (127, 40), (128, 128), (129, 131), (200, 56), (257, 128), (300, 190)]
NEEDS_C = pytest.mark.skipif(not cutter.is_available(), reason="the C extension was not built here")


def written_out(pixels: np.ndarray) -> float:
    """The definition: every pixel's share in every cell, in whole numbers."""
    grey = pixels.astype(np.int64) @ np.array([29, 150, 77])  # in 256ths of a level
    shares = []
    for side in grey.shape:
        count = min(side, 128)
        cell, pixel = np.arange(count)[:, None], np.arange(side)[None]
        share = np.minimum((cell + 1) * side, (pixel + 1) * count) - np.maximum(cell * side, pixel * count)
        shares.append(np.maximum(share, 0))
    sums, area = shares[0] @ grey @ shares[1].T, grey.size
    cells = [[(2 * int(value) + area) // (2 * area) for value in row] for row in sums]
    values = [
        cells[i - 1][j] + cells[i + 1][j] + cells[i][j - 1] + cells[i][j + 1] - 4 * cells[i][j]
        for i in range(1, len(cells) - 1)
        for j in range(1, len(cells[0]) - 1)
    ]
    mean = Fraction(sum(values), len(values))
    return float(sum((value - mean) ** 2 for value in values) / len(values) / 256**2)


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_definition(shape: tuple[int, int]) -> None:
    for pixels in (noise(*shape, seed=1), (noise(*shape, seed=2) > 127).astype(np.uint8) * 255):
        assert reference(pixels) == pytest.approx(written_out(pixels), rel=2e-16)


@NEEDS_C
def test_c_and_numpy_agree_to_the_last_bit() -> None:
    rng = np.random.default_rng(3)
    sizes = [(int(h), int(w)) for h, w in rng.integers(1, 300, (60, 2))] + [(s, s) for s in (1, 2, 64, 384, 511, 512)]
    for seed, shape in enumerate([*SHAPES, *sizes]):
        pixels = noise(*shape, 3, seed=seed).reshape(*shape, 3)
        if seed % 3 == 0:
            pixels = (pixels > 127).astype(np.uint8) * 255
        wanted = reference(pixels)
        for portable in (False, True):
            assert sharpness.sharpness(pixels, portable=portable) == wanted, (shape, portable)
        assert sharpness.sharpness(pixels[::-1]) == reference(pixels[::-1]), "rows that are not in order"


def test_the_largest_sums_do_not_overflow() -> None:
    board = (np.indices((130, 130)).sum(axis=0) % 2 * 255).astype(np.uint8)
    for side in (128, 130):
        pixels = np.repeat(board[:side, :side, None], 3, axis=2)
        assert sharpness.sharpness(pixels) == reference(pixels)
    assert sharpness.sharpness(np.repeat(board[:128, :128, None], 3, axis=2)) == (4 * 255) ** 2


def test_the_size_of_a_crop_makes_no_difference() -> None:
    """An image whose pixels are squares of pixels is the same at 128."""
    small = photograph(128, 128, 5)
    for times in (2, 3, 4):
        assert sharpness.sharpness(small.repeat(times, 0).repeat(times, 1)) == sharpness.sharpness(small)


def test_a_blurred_image_is_less_sharp_and_a_plain_one_not_at_all() -> None:
    import cv2

    pixels = photograph(256, 256, 6)
    found = [sharpness.sharpness(cv2.GaussianBlur(pixels, (0, 0), sigma)) for sigma in (0.1, 1, 2, 4, 8)]
    assert found == sorted(found, reverse=True)
    assert sharpness.sharpness(np.full((256, 256, 3), 77, np.uint8)) == 0
    for shape in ((2, 300), (300, 2), (1, 1)):
        assert sharpness.sharpness(noise(*shape, 3).reshape(*shape, 3)) == 0


@NEEDS_C
def test_what_is_no_image_is_refused() -> None:
    from gpu_extract.kernels._cutter import sharpness as measure

    for arguments in ((b"x" * 26, 3, 3), (b"", 0, 3), (b"", 3, -1), (b"x" * 27, 3, 4), (b"", 1 << 16, 1 << 16)):
        with pytest.raises(ValueError, match="pixels must be"):
            measure(*arguments)
    with pytest.raises(TypeError):
        measure("text", 1, 1)


@NEEDS_C
@pytest.mark.parametrize("size", [1, 48, 150])
def test_the_cutter_measures_what_it_is_asked_to(size: int, tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    crops = np.stack([noise(size, size, 3, seed=k).reshape(size, size, 3) for k in range(3)])
    plan = (
        np.tile(np.array([[1.0, 0, 0], [0, 1, 0]]), (3, 1, 1)),
        np.zeros(3, bool),
        np.tile(np.array([0, 0, size, size]), (3, 1)),
        np.arange(3, dtype=np.int32),
        np.array([0, 3]),
    )
    try:
        for measures in (False, True):
            wanted = [reference(crop) if measures else 0.0 for crop in crops]
            made = cutter.Cutter(1, 1, size, folder, ".png", *plan, measures=measures)
            finished, _ = made.finish(0, 0, crops, b"", b"f", None)
            assert finished["sharpness"].tolist() == wanted
            patches = [(crop, 0, 0) for crop in crops]
            cut, _ = made.cut(0, 0, 3, patches, np.arange(3), b"", b"f", None)
            assert cut["sharpness"].tolist() == wanted
    finally:
        os.close(folder)
