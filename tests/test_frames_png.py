"""PNG rows back to pixels: the C loop against the standard's own words."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from gpu_extract.frames import png
from gpu_extract.frames.images import decode_image
from gpu_extract.kernels import unfilter
from gpu_extract.patch import Region

pytestmark = pytest.mark.skipif(not unfilter.is_available(), reason="the C unfilter was not built here")


def restored(rows: np.ndarray, channels: int) -> np.ndarray:
    """Part 9 of the PNG standard, byte by byte: [H, W, channels]."""
    height, size = rows.shape[0], rows.shape[1] - 1
    out = np.zeros((height, size), np.uint8)
    for y in range(height):
        for i in range(size):
            a = int(out[y, i - channels]) if i >= channels else 0
            b = int(out[y - 1, i]) if y else 0
            c = int(out[y - 1, i - channels]) if y and i >= channels else 0
            p = a + b - c
            closest = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
            out[y, i] = (int(rows[y, 1 + i]) + (0, a, b, (a + b) // 2, closest)[rows[y, 0]]) % 256
    return out.reshape(height, -1, channels)


def random_rows(height: int, width: int, channels: int, filters: list[int], seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    rows = random.integers(0, 256, (height, 1 + width * channels), dtype=np.uint8)
    rows[:, 0] = random.choice(filters, height)
    return rows


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("filters", [[0], [1], [2], [3], [4], [0, 1, 2, 3, 4], [2, 3, 4]])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (13, 2), (17, 23)])
def test_equals_the_standard(size: tuple[int, int], filters: list[int], channels: int, portable: bool) -> None:
    height, width = size
    rows = random_rows(height, width, channels, filters)
    expected = restored(rows, channels)[..., 2::-1]
    assert np.array_equal(unfilter.unfiltered(rows, channels, 0, 0, width, height, portable=portable), expected)
    for x0, y0, x1, y1 in ((0, height // 2, width, height), (width // 2, 0, width, 1), (width // 3, 0, width // 3, 1)):
        part = unfilter.unfiltered(rows, channels, x0, y0, x1, y1, portable=portable)
        assert np.array_equal(part, expected[y0:y1, x0:x1])


@pytest.mark.parametrize(
    ("channels", "box"),
    [
        *((3, (0, 0, 8, 6)), (3, (-1, 0, 3, 3)), (3, (0, -1, 3, 3)), (3, (0, 0, 3, 9))),
        *((5, (0, 0, 1, 1)), (4, (0, 0, 7, 1))),
    ],
)
def test_rectangles_outside_are_refused(channels: int, box: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"rectangle|channels"):
        unfilter.unfiltered(random_rows(6, 7, 3, [0]), channels, *box)


def test_unknown_filters_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown filter 5"):
        unfilter.unfiltered(random_rows(4, 4, 3, [5]), 3, 0, 0, 4, 4)


@pytest.mark.parametrize("filters", [0x08, 0x10, 0x20, 0x40, 0x80, 0xF8])
def test_without_the_fast_way_opencv_gives_the_same(filters: int, monkeypatch: pytest.MonkeyPatch) -> None:
    smooth = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, (60, 90, 3), dtype=np.uint8), (0, 0), 2)
    data = cv2.imencode(".png", smooth, [cv2.IMWRITE_PNG_FILTER, filters])[1].tobytes()
    fast = decode_image(data, Region(11, 20, 40, 50)).pixels
    assert fast.shape == (30, 29, 3)
    assert np.array_equal(fast, smooth[20:50, 11:40])
    for target, value in ((png, "isal_zlib"), (unfilter, "_unfilter")):
        with monkeypatch.context() as patched:
            patched.setattr(target, value, None)
            assert np.array_equal(decode_image(data).pixels, smooth)
    with monkeypatch.context() as patched:
        patched.setattr(unfilter, "_unfilter", None)
        with pytest.raises(RuntimeError, match="not built"):
            unfilter.unfiltered(random_rows(4, 4, 3, [0]), 3, 0, 0, 4, 4)
