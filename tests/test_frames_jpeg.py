"""JPEGs of which only a part is decoded: the same pixels as all of it gives, or all of it is decoded."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest

from gpu_extract.errors import FrameError
from gpu_extract.frames.base import clip_region
from gpu_extract.frames.images import plain_jpeg
from gpu_extract.frames.images.decode import Image, decode_image
from gpu_extract.kernels import jpeg
from gpu_extract.patch import Region
from tests.helpers import exif, image_bytes, jpeg_with_segment, noise, opencv_pixels, whole_by_opencv

pytestmark = pytest.mark.usefixtures("way")

SAMPLINGS = {name: getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{name}") for name in ("411", "420", "422", "440", "444")}


@pytest.fixture(params=["regions", "upper part"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How a part is decoded: by the C extension, or by OpenCV as where there is none."""
    if request.param == "upper part":
        monkeypatch.setattr(jpeg, "is_available", lambda: False)
    elif not jpeg.is_available():
        pytest.skip("the C extension was not built here")
    name: str = request.param
    return name


def blurred(height: int, width: int) -> np.ndarray:
    return cv2.GaussianBlur(noise(height, width), (0, 0), 1)


def sampled(name: str, height: int = 75, width: int = 61, *options: int) -> bytes:
    return image_bytes(".jpg", blurred(height, width), cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLINGS[name], *options)


def by_pillow(pixels: np.ndarray, mode: str, **options: object) -> bytes:
    pillow = pytest.importorskip("PIL.Image")
    file = io.BytesIO()
    pillow.fromarray(np.ascontiguousarray(pixels)).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


@pytest.mark.parametrize("size", [(75, 61), (64, 48), (33, 17), (17, 130)])
@pytest.mark.parametrize("name", SAMPLINGS)
def test_every_number_of_rows_equals_the_whole(
    name: str, size: tuple[int, int], capfd: pytest.CaptureFixture[str]
) -> None:
    height, width = size
    data = sampled(name, height, width)
    expected = whole_by_opencv(data)
    shorter = 0
    for rows in range(1, height + 1):
        upper = plain_jpeg.upper_part(data, rows)
        if upper is not None:
            part = whole_by_opencv(upper)
            shorter += 1
            assert rows <= len(part) < height
            assert np.array_equal(part[:rows], expected[:rows])
        patch = decode_image(data, Region(3, rows - 1, 9, rows))
        assert np.array_equal(patch.pixels, expected[rows - 1 : rows, 3:9])
    unit = 16 if name in ("420", "440") else 8
    assert shorter == (height - 1) // unit * unit - 2
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("quality", [1, 20, 100])
def test_grey_and_any_quality_equal_the_whole(quality: int) -> None:
    for pixels in (blurred(75, 61)[..., 0], blurred(75, 61), np.full((75, 61, 3), 90, np.uint8)):
        data = image_bytes(".jpg", pixels, cv2.IMWRITE_JPEG_QUALITY, quality)
        assert plain_jpeg.upper_part(data, 30) is not None
        for rows in range(1, 76):
            assert np.array_equal(decode_image(data, Region(0, 0, 61, rows)).pixels, whole_by_opencv(data)[:rows])


def test_several_regions_of_one_image() -> None:
    data = sampled("420")
    expected = whole_by_opencv(data)
    image = Image(data)
    for regions in ([Region(0, 0, 9, 9)], [Region(5, 50, 61, 60), Region(-4, -4, 20, 7)], [Region(9, 9, 99, 99)]):
        for region, patch in zip(regions, image.patches(regions), strict=True):
            x0, y0, x1, y1 = clip_region(region, 75, 61)
            assert np.array_equal(patch.pixels, expected[y0:y1, x0:x1])
            assert patch[1:] == (x0, y0, 75, 61)
    assert np.array_equal(image.patch().pixels, expected)


def test_what_decodes_a_part(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image(sampled("420"))
    for name in ("_upper_part", "_whole"):
        if way == "regions":
            monkeypatch.setattr(Image, name, lambda *_: pytest.fail("OpenCV is asked"))
    assert len(image.patches([Region(0, 0, 9, 9), Region(50, 60, 61, 75)])) == 2
    overlapping = image.patches([Region(0, 0, 50, 50), Region(1, 0, 51, 50), Region(2, 0, 52, 50)])
    assert len({id(patch.pixels.base) for patch in overlapping}) == 1, "pixels that all share are decoded once"


def unusual_files() -> dict[str, bytes]:
    plain = sampled("420")
    start = plain.index(b"\xff\xc0")
    return {
        "progressive": sampled("420", 75, 61, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        "restart markers": sampled("420", 75, 61, cv2.IMWRITE_JPEG_RST_INTERVAL, 4),
        "turned": jpeg_with_segment(plain, 0xE1, b"Exif\0\0" + exif(4)),
        "cut off": plain[:-300],
        "no end": plain[:-2],
        "arithmetic coding": plain[: start + 1] + b"\xc9" + plain[start + 2 :],
        "lossless": plain[: start + 1] + b"\xc3" + plain[start + 2 :],
        "12 bits": plain[: start + 4] + b"\x0c" + plain[start + 5 :],
        "two frames": plain[:start] + plain[start : start + 19] + plain[start:],
        "no scan": plain[: plain.index(b"\xff\xda")],
        "scan of one component": plain.replace(b"\xff\xda\0\x0c\x03", b"\xff\xda\0\x0c\x01"),
    }


@pytest.mark.parametrize("name", [*unusual_files(), "CMYK"])
def test_unusual_files_are_decoded_whole(name: str) -> None:
    data = by_pillow(blurred(75, 61), "CMYK") if name == "CMYK" else unusual_files()[name]
    assert plain_jpeg.upper_part(data, 8) is None
    expected = opencv_pixels(data)
    if expected is None:
        with pytest.raises(FrameError, match=r"damaged|decode"):
            decode_image(data, Region(0, 0, 61, 8))
    else:
        assert np.array_equal(decode_image(data, Region(0, 0, 61, 8)).pixels, expected[:8])


def test_ordinary_files_of_other_writers_are_cut() -> None:
    for options in ({}, {"optimize": True}, {"icc_profile": b"x" * 99}, {"comment": b"hello"}):
        data = by_pillow(blurred(75, 61)[..., ::-1], "RGB", **options)
        assert plain_jpeg.upper_part(data, 8) is not None
        assert np.array_equal(decode_image(data, Region(0, 0, 61, 8)).pixels, whole_by_opencv(data)[:8])


def test_what_follows_the_end_is_left_out() -> None:
    data = sampled("422")
    upper = plain_jpeg.upper_part(data + sampled("444"), 8)
    assert upper == plain_jpeg.upper_part(data, 8)
    assert upper is not None
    assert len(upper) == len(data) - 2


@pytest.mark.parametrize("name", SAMPLINGS)
def test_damaged_files_give_the_pixels_of_the_whole_or_are_refused(name: str) -> None:
    random = np.random.default_rng(1)
    good = sampled(name)
    used = 0
    for number in range(150):
        data = bytearray(good)
        at = int(random.integers(600, len(data) - 60))
        if number % 3 == 0:
            data[at] = random.integers(0, 256)
        elif number % 3 == 1:
            data[at : at + 2] = 0xFF, int(random.integers(0, 256))
        else:
            del data[at : at + int(random.integers(1, 40))]
        rows = int(random.integers(1, 76))
        used += plain_jpeg.upper_part(bytes(data), rows) is not None
        try:
            expected = Image(bytes(data)).patch().pixels
        except FrameError:
            with pytest.raises(FrameError):
                decode_image(bytes(data), Region(0, 0, 61, rows))
        else:
            assert np.array_equal(decode_image(bytes(data), Region(0, 0, 61, rows)).pixels, expected[:rows])
    assert used > 75
