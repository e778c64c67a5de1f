"""Planes → BGR: the C code against the formulas in NumPy, vector and portable code, and FFmpeg's own converter."""

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


def converted(
    planes: Planes, x0: int, y0: int, x1: int, y1: int, c: yuv.Coefficients, *, portable: bool = False
) -> np.ndarray:
    y, u, v = planes
    return yuv.to_bgr(planes, (y.shape[1], u.shape[1], v.shape[1]), x0, y0, x1, y1, c, portable=portable)


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


SITES = [yuv.Layout(10, True, left, down) for left in (False, True) for down in (0, 1, 2)]
DEEP = [
    *SITES,
    *(
        yuv.Layout(bits, halved, cubic=cubic)
        for bits in (9, 10, 12)
        for halved in (False, True)
        for cubic in (False, True)
    ),
    *(yuv.Layout(bits, False, True) for bits in (9, 10, 12)),
]


def deep_planes_of(height: int, width: int, layout: yuv.Layout, *, beyond: bool = False) -> Planes:
    """Noise; beyond: of all 16 bits, as damaged or raw video may have them."""
    random = np.random.default_rng(height + width)
    high = 1 << (16 if beyond else layout.bits)
    y = random.integers(0, high, (height, width), np.uint16)
    u, v = random.integers(0, high, (2, height // (2 if layout.halved else 1), width // 2), np.uint16)
    return y, u, v


def deep_by_the_formula(planes: Planes, c: yuv.Coefficients, layout: yuv.Layout) -> np.ndarray:
    """[H, W, 3] of whole planes."""
    y, u, v = (plane.astype(np.int16).astype(np.int64) for plane in planes)
    height = len(y)

    def fifteen_bits(plane: np.ndarray, to_the_right: bool = False) -> np.ndarray:
        words = plane << (15 - layout.bits)
        if to_the_right:
            following = np.concatenate([plane[:, 1:], plane[:, -1:]], axis=1)
            words = (3 * plane + following) << (13 - layout.bits)
        within: np.ndarray = np.clip(words, -32768, 32767)
        return within

    def weighted(plane: np.ndarray, row: int) -> list[tuple[np.ndarray, int]]:
        """Rows of chroma and their weights, of 4096."""
        if not layout.halved:
            return [(plane[row], 4096)]
        if layout.cubic:
            even = {0: [0, 0, 4432, -336], 2: [0, 959, 3473, -336]}.get(row, [-115, 985, 3572, -346])
            first = (row + 1) // 2 - 2
            weights = even if row % 2 == 0 else [-346, 3572, 985, -115]
            return [(plane[min(max(first + i, 0), len(plane) - 1)], weight) for i, weight in enumerate(weights)]
        upper, quarters = divmod(max(2 * row - layout.down, 0), 4)
        if upper + 1 >= len(plane):
            return [(plane[-1], 4096)]
        return [(plane[upper], 4096 - 1024 * quarters), (plane[upper + 1], 1024 * quarters)]

    def eighths(plane: np.ndarray, row: int) -> np.ndarray:
        (words, _), *others = weighted(plane, row)
        if others and others[0][1] >= 2048:
            words = (words + others[0][0] & 0xFFFF) >> 1
        cut_off: np.ndarray = words >> 4
        return cut_off

    def level(plane: np.ndarray, row: int) -> np.ndarray:
        total = np.sum([weight * samples for samples, weight in weighted(plane, row)], axis=0)
        within: np.ndarray = np.clip((total + (1 << 18)) >> 19, 0, 255)
        return within

    def steps(levels: np.ndarray, step: int) -> np.ndarray:
        shifts: np.ndarray = (levels * step >> 16) - (step >> 9)
        return shifts

    def upper_half(a: np.ndarray, b: int) -> np.ndarray:
        half: np.ndarray = (a * b) >> 16
        return half

    y, u, v = fifteen_bits(y), fifteen_bits(u, layout.left), fifteen_bits(v, layout.left)
    rows = []
    for row in range(height):
        if layout.cubic or row >= height - 2:
            of_u, of_v = (np.repeat(level(plane, row), 2) for plane in (u, v))
            green = steps(of_u, c.step_green_u) + steps(of_v, c.step_green_v)
            luma = (y[row] + 64) >> 7
            added = (steps(of_u, c.step_blue_u), green, steps(of_v, c.step_red_v))
            channels = [(c.scale * (luma + one) - c.zero + 32768) >> 16 for one in added]
        else:
            of_u, of_v = (np.repeat(eighths(plane, row), 2) - 1024 for plane in (u, v))
            luma = upper_half((y[row] >> 4) - c.luma_zero, c.luma_factor)
            green = upper_half(of_u, c.green_u) + upper_half(of_v, c.green_v)
            channels = [luma + one for one in (upper_half(of_u, c.blue_u), green, upper_half(of_v, c.red_v))]
        rows.append(np.clip(np.stack(channels, axis=-1), 0, 255))
    return np.stack(rows).astype(np.uint8)


def deep_converted(
    planes: Planes,
    region: tuple[int, int, int, int],
    c: yuv.Coefficients,
    layout: yuv.Layout,
    *,
    portable: bool = False,
) -> np.ndarray:
    y, u, v = planes
    strides = (y.strides[0], u.strides[0], v.strides[0])
    height, width = y.shape
    return yuv.to_bgr(planes, strides, *region, c, layout, (height, width), portable=portable)


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("layout", DEEP, ids=lambda layout: "-".join(map(str, map(int, layout))))
def test_deep_samples_equal_the_formula(layout: yuv.Layout, portable: bool) -> None:
    for height, width in ((8, 32), (10, 34), (14, 64), (34, 98), (8, 6)):
        for beyond in (False, True):
            planes = deep_planes_of(height, width, layout, beyond=beyond)
            for coefficients in yuv.COEFFICIENTS:
                expected = deep_by_the_formula(planes, coefficients, layout)
                whole = deep_converted(planes, (0, 0, width, height), coefficients, layout, portable=portable)
                assert np.array_equal(whole, expected)


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("layout", DEEP, ids=lambda layout: "-".join(map(str, map(int, layout))))
def test_a_rectangle_of_deep_samples_is_that_part_of_the_whole(layout: yuv.Layout, portable: bool) -> None:
    planes = deep_planes_of(30, 150, layout)
    coefficients = yuv.COEFFICIENTS[1]
    expected = deep_by_the_formula(planes, coefficients, layout)
    for region in (
        (0, 0, 2, 2),
        (4, 6, 150, 30),
        (10, 2, 44, 8),
        (116, 28, 150, 30),
        (148, 0, 150, 30),
        (2, 4, 36, 26),
    ):
        x0, y0, x1, y1 = region
        part = deep_converted(planes, region, coefficients, layout, portable=portable)
        assert np.array_equal(part, expected[y0:y1, x0:x1])


def test_each_row_of_4_2_2_has_its_own_chroma() -> None:
    planes = planes_of(40, 98)
    u, v = (np.repeat(plane, 2, axis=0) for plane in planes[1:])
    for coefficients in yuv.COEFFICIENTS:
        expected = by_the_formula(planes, 98, coefficients)
        strides = tuple(plane.shape[1] for plane in planes)
        for portable in (False, True):
            layout = yuv.Layout(halved=False)
            same = yuv.to_bgr((planes[0], u, v), strides, 0, 0, 98, 40, coefficients, layout, portable=portable)
            assert np.array_equal(same, expected)


def test_refuses_layouts_without_a_formula_and_pictures_that_are_too_small() -> None:
    planes = deep_planes_of(32, 40, yuv.Layout(12))
    region = (0, 0, 40, 32)
    for layout in (yuv.Layout(7), yuv.Layout(13), yuv.Layout(8, cubic=True), yuv.Layout(10, down=3), yuv.Layout(-10)):
        with pytest.raises(ValueError, match="no formula"):
            deep_converted(planes, region, yuv.COEFFICIENTS[0], layout)
    y, u, v = planes
    for fewer in ((y[:-1], u, v), (y, u[:-1], v), (y, u, v[:-1])):
        with pytest.raises(ValueError, match="outside"):
            deep_converted(fewer, region, yuv.COEFFICIENTS[0], yuv.Layout(12))
    with pytest.raises(ValueError, match="outside a plane"):
        deep_converted(planes, region, yuv.COEFFICIENTS[0], yuv.Layout(12, False))
    with pytest.raises(ValueError, match="outside a plane"):
        yuv.to_bgr((y, u, v), (40, 20, 20), *region, yuv.COEFFICIENTS[0], yuv.Layout(12))
    for size in ((32, 38), (30, 40), (31, 40), (32, 41)):
        with pytest.raises(ValueError, match="outside a picture"):
            yuv.to_bgr((y, u, v), (80, 40, 40), *region, yuv.COEFFICIENTS[0], yuv.Layout(12), size)


def test_without_the_extension_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yuv, "_yuv", None)
    assert not yuv.is_available()
    with pytest.raises(RuntimeError, match="compiler"):
        converted(planes_of(2, 2), 0, 0, 2, 2, yuv.COEFFICIENTS[0])
