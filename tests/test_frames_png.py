"""PNG rows back to pixels: the C loop against the standard's own words, files against OpenCV."""

from __future__ import annotations

import zlib

import cv2
import numpy as np
import pytest

from gpu_extract.errors import FrameError
from gpu_extract.frames.base import clip_region
from gpu_extract.frames.images import plain_png
from gpu_extract.frames.images.decode import Image, decode_image
from gpu_extract.kernels import unfilter
from gpu_extract.patch import Region
from tests.helpers import image_bytes, opencv_pixels, png_chunk, png_of

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
    boxes = (
        *((0, 0, width, height), (0, height // 2, width, height), (width // 2, 0, width, 1)),
        *((width // 3, 0, width // 3, 1), (width // 3, height // 3, width - width // 3, height - height // 3)),
    )
    for x0, y0, x1, y1 in boxes:
        part = unfilter.unfiltered(rows, channels, x0, y0, x1, y1, portable=portable)
        assert np.array_equal(part, expected[y0:y1, x0:x1]), (x0, y0, x1, y1)


@pytest.mark.parametrize("channels", [3, 4])
def test_extreme_samples_equal_the_standard(channels: int) -> None:
    """Few values, far apart: ties between PNG's three neighbours, sums that wrap."""
    random = np.random.default_rng(5)
    for filters in ([3], [4], [1, 2, 3, 4]):
        rows = random_rows(40, 31, channels, filters)
        rows[:, 1:] = random.choice([0, 1, 127, 128, 254, 255], (40, 31 * channels))
        expected = restored(rows, channels)[..., 2::-1]
        assert np.array_equal(unfilter.unfiltered(rows, channels, 0, 0, 31, 40), expected)
        assert np.array_equal(unfilter.unfiltered(rows, channels, 2, 9, 30, 33), expected[9:33, 2:30])


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


@pytest.mark.skipif(not hasattr(cv2, "IMWRITE_PNG_FILTER"), reason="OpenCV writes chosen filters from 4.12 on")
@pytest.mark.parametrize("filters", [0x08, 0x10, 0x20, 0x40, 0x80, 0xF8])
def test_without_the_fast_way_opencv_gives_the_same(filters: int, monkeypatch: pytest.MonkeyPatch) -> None:
    smooth = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, (60, 90, 3), dtype=np.uint8), (0, 0), 2)
    data = image_bytes(".png", smooth, cv2.IMWRITE_PNG_FILTER, filters)
    with monkeypatch.context() as patched:
        patched.setattr(cv2, "imdecode", None)
        fast = decode_image(data, Region(11, 20, 40, 50)).pixels
    assert np.array_equal(fast, smooth[20:50, 11:40])
    for module, name in ((plain_png, "deflate"), (unfilter, "_unfilter")):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, None)
            assert np.array_equal(decode_image(data).pixels, smooth)
    with monkeypatch.context() as patched:
        patched.setattr(unfilter, "_unfilter", None)
        with pytest.raises(RuntimeError, match="not built"):
            unfilter.unfiltered(random_rows(4, 4, 3, [0]), 3, 0, 0, 4, 4)
        with pytest.raises(RuntimeError, match="not built"):
            unfilter.stream(data)


def png_file(height: int, width: int, channels: int, *streams: bytes, between: bytes = b"") -> bytes:
    """A PNG whose zlib stream is spread over the chunks as given."""
    pixels = between.join(png_chunk(b"IDAT", stream) for stream in streams)
    return png_of(width, height, 8, {3: 2, 4: 6}[channels], pixels)


def stream_by_the_standard(data: bytes) -> bytes | None:
    """Chunk by chunk, as `unfilter.stream` says."""
    at, ended = 8, False
    parts: list[bytes] = []
    while at + 8 <= len(data):
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        stop = at + 8 + size
        if data[stop : stop + 4] != zlib.crc32(data[at + 4 : stop]).to_bytes(4, "big"):
            return None
        if kind != b"IDAT":
            ended = bool(parts)
        elif ended:
            return None
        else:
            parts.append(data[at + 8 : stop])
        if kind == b"IEND":
            break
        at = stop + 4
    return b"".join(parts)


@pytest.mark.parametrize("portable", [False, True])
def test_the_stream_is_what_sound_chunks_in_a_row_hold(portable: bool) -> None:
    random = np.random.default_rng(4)
    kinds = [b"IHDR", b"IDAT", b"IDAT", b"IDAT", b"tEXt", b"IEND"]
    refused = 0
    for n in range(3000):
        file = bytearray(b"\x89PNG\r\n\x1a\n")
        for _ in range(random.integers(9)):
            file += png_chunk(kinds[random.integers(6)], random.bytes(int(random.choice([0, 1, 3, 50, 300]))))
        if n % 4 == 1:
            del file[random.integers(8, len(file) + 1) :]
        elif n % 4 == 2 and len(file) > 8:
            file[random.integers(8, len(file))] ^= 1 << int(random.integers(8))
        elif n % 4 == 3:
            file += random.bytes(int(random.integers(20)))
        expected = stream_by_the_standard(bytes(file))
        refused += expected is None
        assert unfilter.stream(bytes(file), portable=portable) == expected
    assert 500 < refused < 2500


def decoded(data: bytes, region: Region) -> np.ndarray | None:
    try:
        return decode_image(data, region).pixels
    except FrameError:
        return None


@pytest.mark.parametrize("channels", [3, 4])
def test_any_regions_equal_the_whole(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(channels)
    height, width = 47, 61
    data = png_file(
        height, width, channels, zlib.compress(random_rows(height, width, channels, [0, 1, 2, 3, 4]).tobytes(), 1)
    )
    whole = opencv_pixels(data)
    assert whole is not None
    monkeypatch.setattr(cv2, "imdecode", None)
    for count in (1, 2, 5):
        image = Image(data)
        for _ in range(4):
            xs = np.sort(random.integers(-5, width + 6, (count, 2)), axis=1)
            ys = np.sort(random.integers(-5, height + 6, (count, 2)), axis=1)
            regions = [Region(*map(int, (x[0], y[0], x[1], y[1]))) for x, y in zip(xs, ys, strict=True)]
            for region, patch in zip(regions, image.patches(regions), strict=True):
                h, w = patch.pixels.shape[:2]
                assert np.array_equal(patch.pixels, whole[patch.y0 : patch.y0 + h, patch.x0 : patch.x0 + w])
                assert patch[1:] == (*clip_region(region, height, width)[:2], height, width)
                assert (patch.x0 + w, patch.y0 + h) == clip_region(region, height, width)[2:]
        assert np.array_equal(image.patch().pixels, whole)


def odd_files() -> dict[str, bytes]:
    """PNGs whose CRCs are right."""
    size = (40, 50, 3)
    rows = random_rows(*size, [0, 1, 2, 3, 4])
    stream = zlib.compress(rows.tobytes(), 6)
    strange = rows.copy()
    strange[35, 0] = 7
    text = png_chunk(b"tEXt", b"a\0b")
    return {
        "ordinary": png_file(*size, stream),
        "wrong Adler": png_file(*size, stream[:-4] + b"abcd"),
        "no Adler": png_file(*size, stream[:-4]),
        "half an Adler": png_file(*size, stream[:-2]),
        "stream ends early": png_file(*size, stream[:-100]),
        "too many rows": png_file(*size, zlib.compress(2 * rows.tobytes())),
        "a byte too many": png_file(*size, zlib.compress(rows.tobytes() + b"\0")),
        "too few rows": png_file(*size, zlib.compress(rows[:30].tobytes())),
        "bytes after the stream": png_file(*size, stream + b"xyz"),
        "many chunks, some empty": png_file(*size, b"", stream[:1], stream[1:9], b"", stream[9:99], stream[99:]),
        "an empty chunk last": png_file(*size, stream, b""),
        "all chunks empty": png_file(*size, b"", b""),
        "no chunk": png_file(*size),
        "text between": png_file(*size, stream[:99], stream[99:], between=text),
        "text after an empty chunk": png_file(*size, b"", stream, between=text),
        "unknown filter": png_file(*size, zlib.compress(strange.tobytes())),
        "damaged": png_file(*size, stream[:500] + bytes(byte ^ 0x55 for byte in stream[500:600]) + stream[600:]),
        "small window": png_file(*size, b"\x08\x1d" + stream[2:]),
        "too large a window": png_file(*size, b"\x88\x1c" + stream[2:]),
        "preset dictionary": png_file(*size, b"\x78\xbb" + stream[2:]),
        "wrong check of the header": png_file(*size, b"\x78\x9d" + stream[2:]),
        "bytes after the end": png_file(*size, stream) + b"more",
    }


@pytest.mark.parametrize("name", odd_files())
def test_odd_files_are_decoded_or_refused_as_opencv_does(name: str) -> None:
    data = odd_files()[name]
    expected = opencv_pixels(data)
    for region in (Region(0, 0, 50, 40), Region(20, 30, 21, 40), Region(3, 0, 44, 1)):
        pixels = decoded(data, region)
        assert (pixels is None) == (expected is None)
        if pixels is not None and expected is not None:
            assert np.array_equal(pixels, expected[region.y0 : region.y1, region.x0 : region.x1])


def test_a_file_cut_off_or_damaged_anywhere_is_refused_whatever_is_wanted() -> None:
    data = odd_files()["many chunks, some empty"]
    above = Region(0, 0, 50, 1)
    assert decoded(data, above) is not None
    for length in range(40, len(data), 97):
        assert decoded(data[:length], above) is None
    for position in range(60, len(data) - 12, 97):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        assert decoded(bytes(damaged), above) is None
        assert opencv_pixels(bytes(damaged)) is None
