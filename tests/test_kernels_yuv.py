"""4:2:0 planes → BGR: the C code against the formula in NumPy, vector and portable code, and FFmpeg's own converter."""

from __future__ import annotations

import av
import numpy as np
import pytest

from gpu_extract.kernels import yuv

needs_extension = pytest.mark.skipif(not yuv.is_available(), reason="the C extension was not built here")
Planes = tuple[np.ndarray, np.ndarray, np.ndarray]

pytestmark = needs_extension


def planes_of(height: int, width: int, slack: int = 0, seed: int = 0) -> Planes:
    """Noise, rows `slack` bytes longer than the picture."""
    random = np.random.default_rng(seed)
    y = random.integers(0, 256, (height, width + slack), np.uint8)
    u, v = random.integers(0, 256, (2, height // 2, width // 2 + slack), np.uint8)
    return y, u, v


def converted(planes: Planes, x0: int, y0: int, x1: int, y1: int, c: yuv.Coefficients, **how: bool) -> np.ndarray:
    strides = tuple(plane.shape[1] for plane in planes)
    return yuv.to_bgr(planes, strides, x0, y0, x1, y1, c, **how)


def by_the_formula(planes: Planes, width: int, c: yuv.Coefficients) -> np.ndarray:
    """[H, width, 3] of whole planes, in 16-bit integers that saturate."""

    def upper(a: np.ndarray, b: int) -> np.ndarray:
        return (a.astype(np.int64) * b >> 16).astype(np.int64)

    y, u, v = (plane.astype(np.int64) * 8 for plane in planes)
    u, v = (np.repeat(np.repeat(chroma, 2, axis=0), 2, axis=1)[:, :width] - 1024 for chroma in (u, v))
    luma = upper(y[:, :width] - c.luma_zero, c.luma_factor)
    green = np.clip(upper(u, c.green_u) + upper(v, c.green_v), -32768, 32767)
    bgr = np.stack([luma + upper(u, c.blue_u), luma + green, luma + upper(v, c.red_v)], axis=-1)
    clipped: np.ndarray = np.clip(bgr, 0, 255)
    return clipped.astype(np.uint8)


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("size", [(2, 2), (2, 30), (6, 32), (4, 34), (8, 62), (10, 64), (34, 98), (2, 1000)], ids=str)
@pytest.mark.parametrize("slack", [0, 7])
def test_equals_the_formula(size: tuple[int, int], slack: int, portable: bool) -> None:
    height, width = size
    planes = planes_of(height, width, slack)
    for coefficients in yuv.COEFFICIENTS:
        expected = by_the_formula(planes, width, coefficients)
        assert np.array_equal(converted(planes, 0, 0, width, height, coefficients, portable=portable), expected)


@pytest.mark.parametrize("portable", [False, True])
def test_every_luma_with_every_chroma(portable: bool) -> None:
    """All pairs of Y and U, and of Y and V, with the extremes of the third."""
    y = np.repeat(np.repeat(np.arange(256, dtype=np.uint8)[:, None], 2, axis=0), 512, axis=1)
    ramp = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    for other in (0, 127, 255):
        for planes in ((y, ramp, np.full_like(ramp, other)), (y, np.full_like(ramp, other), ramp)):
            for coefficients in yuv.COEFFICIENTS:
                expected = by_the_formula(planes, 512, coefficients)
                assert np.array_equal(converted(planes, 0, 0, 512, 512, coefficients, portable=portable), expected)


def test_a_rectangle_is_that_part_of_the_whole() -> None:
    planes = planes_of(60, 150, 10)
    coefficients = yuv.COEFFICIENTS[1]
    whole = converted(planes, 0, 0, 150, 60, coefficients)
    for x0, y0, x1, y1 in ((0, 0, 2, 2), (4, 6, 150, 60), (10, 2, 44, 8), (116, 58, 150, 60), (148, 0, 150, 60)):
        assert np.array_equal(converted(planes, x0, y0, x1, y1, coefficients), whole[y0:y1, x0:x1])


def test_ffmpeg_gives_the_same_bytes() -> None:
    """Where FFmpeg has other code for this processor, its pixels may differ; then frames are left to it."""
    planes = planes_of(96, 130)
    frame = av.VideoFrame(130, 96, "yuv420p")
    for plane, samples in zip(frame.planes, planes, strict=True):
        np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width] = samples
    expected = frame.to_ndarray(format="bgr24")
    if not np.array_equal(converted(planes, 0, 0, 130, 96, yuv.COEFFICIENTS[0]), expected):
        pytest.skip("this build of FFmpeg converts otherwise")


@pytest.mark.parametrize(
    ("x0", "y0", "x1", "y1"),
    [
        *((1, 0, 9, 8), (0, 1, 8, 9), (0, 0, 7, 8), (0, 0, 8, 7), (-2, 0, 8, 8), (0, -2, 8, 8)),
        *((0, 0, 0, 8), (8, 8, 6, 6), (0, 0, 42, 8), (30, 0, 42, 8), (0, 0, 8, 34), (0, 32, 8, 34)),
        (2**40, 0, 2**40 + 2, 2),
    ],
)
def test_refuses_what_is_odd_empty_or_outside(x0: int, y0: int, x1: int, y1: int) -> None:
    with pytest.raises(ValueError, match="rectangle"):
        converted(planes_of(32, 40), x0, y0, x1, y1, yuv.COEFFICIENTS[0])


def test_refuses_planes_that_are_too_small() -> None:
    y, u, v = planes_of(32, 40)
    for planes in ((y[:-1], u, v), (y, u[:-1], v), (y, u, v[:-1])):
        with pytest.raises(ValueError, match="outside a plane"):
            converted(planes, 0, 0, 40, 32, yuv.COEFFICIENTS[0])
    with pytest.raises(ValueError, match="outside a plane"):
        yuv.to_bgr((y, u, v), (40, -20, 20), 0, 0, 40, 32, yuv.COEFFICIENTS[0])
    with pytest.raises(OverflowError):
        converted((y, u, v), 0, 0, 40, 32, yuv.COEFFICIENTS[0]._replace(red_v=1 << 15))


def test_without_the_extension_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yuv, "_yuv", None)
    assert not yuv.is_available()
    with pytest.raises(RuntimeError, match="compiler"):
        converted(planes_of(2, 2), 0, 0, 2, 2, yuv.COEFFICIENTS[0])
