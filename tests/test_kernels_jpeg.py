"""Rectangles of JPEGs from C: every pixel is the one that OpenCV gives, or the file is left to it."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np
import pytest

from gpu_extract.kernels import jpeg
from tests.helpers import exif, image_bytes, jpeg_with_segment, noise, opencv_pixels, whole_by_opencv

EXTENSION: Any = vars(jpeg)["_jpeg"]  # None where it was not built
pytestmark = pytest.mark.skipif(not jpeg.is_available(), reason="the C extension was not built here")

SAMPLINGS = {name: getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{name}") for name in ("420", "422", "440", "444")}
CONTENTS = ("noise", "blurred", "black and white", "text", "one colour", "squares", "grey")

Rectangle = tuple[int, int, int, int]


def picture_of(content: str, height: int, width: int, seed: int = 0) -> np.ndarray:
    """[H, W, 3] uint8, or [H, W]."""
    rng = np.random.default_rng([seed, height, width])
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if content == "blurred":
        return cv2.GaussianBlur(pixels, (0, 0), 1.5)
    if content == "black and white":
        return (pixels & 1) * np.uint8(255)
    if content == "one colour":
        return np.broadcast_to((pixels[:1, :1] & 1) * np.uint8(255), pixels.shape).copy()
    if content == "squares":
        return np.kron((pixels[: height // 8 + 1, : width // 8 + 1] & 1) * 255, np.ones((8, 8, 1)))[
            :height, :width
        ].astype(np.uint8)
    if content == "text":
        pixels[:] = 235
        cv2.putText(pixels, "AbgQ", (0, height // 2 + 6), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (200, 30, 20), 2)
    return pixels[..., 0] if content == "grey" else pixels


def file_of(content: str, height: int, width: int, sampling: str = "420", seed: int = 0, **options: int) -> bytes:
    """OpenCV's JPEG; options are its flags without their prefix."""
    flags = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLINGS[sampling]]
    for name, value in options.items():
        flags += [getattr(cv2, f"IMWRITE_JPEG_{name}"), value]
    return image_bytes(".jpg", picture_of(content, height, width, seed), *flags)


def some_rectangles(height: int, width: int, seed: int, count: int = 4) -> list[Rectangle]:
    """All of the image, its last pixel, and others anywhere, which overlap."""
    rng = np.random.default_rng(seed)
    found = [(0, 0, width, height), (width - 1, height - 1, width, height)]
    for _ in range(count):
        x0, y0 = int(rng.integers(0, width)), int(rng.integers(0, height))
        found.append((x0, y0, int(rng.integers(x0 + 1, width + 1)), int(rng.integers(y0 + 1, height + 1))))
    return found


def both(data: bytes, wanted: Sequence[Rectangle], *, turned: bool = True) -> list[np.ndarray] | None:
    """What AVX2 and the portable version give, which is the same."""
    fast = jpeg.rectangles(data, wanted, turned=turned)
    portable = jpeg.rectangles(data, wanted, turned=turned, portable=True)
    assert (fast is None) == (portable is None)
    if fast is not None and portable is not None:
        assert all(np.array_equal(a, b) for a, b in zip(fast, portable, strict=True))
    return fast


def check(data: bytes, wanted: Sequence[Rectangle], *, refused: bool = False) -> bool:
    """Whether pixels are given; if so, they are OpenCV's."""
    given = both(data, wanted)
    assert refused or given is not None
    if given is None:
        return False
    expected = whole_by_opencv(data)
    for pixels, (x0, y0, x1, y1) in zip(given, wanted, strict=True):
        assert np.array_equal(pixels, expected[y0:y1, x0:x1]), (x0, y0, x1, y1)
    return True


# ---- files of OpenCV and FFmpeg


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_every_small_size(sampling: str) -> None:
    for height in range(1, 71):
        widths = range(1, 71) if height < 4 else range(1 + height % 7, 71, 7)
        for width in widths:
            content = CONTENTS[(height + width) % len(CONTENTS)]
            options = {"RST_INTERVAL": 1 + height % 3} if width % 3 == 0 else {}
            check(file_of(content, height, width, sampling, **options), some_rectangles(height, width, width, 2))


@pytest.mark.parametrize("content", CONTENTS)
def test_every_quality(content: str) -> None:
    for quality in range(1, 101):
        sampling = list(SAMPLINGS)[quality % 4]
        height, width = 17 + quality % 23, 19 + quality % 31
        data = file_of(content, height, width, sampling, quality, QUALITY=quality, OPTIMIZE=quality // 4 % 2)
        check(data, some_rectangles(height, width, quality))


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_every_pixel_by_itself(sampling: str) -> None:
    data = file_of("blurred", 37, 41, sampling)
    check(data, [(x, y, x + 1, y + 1) for y in range(37) for x in range(41)])


@pytest.mark.parametrize("interval", [1, 2, 3, 7, 8, 9, 40])
def test_restarts(interval: int) -> None:
    for sampling in SAMPLINGS:
        data = file_of("blurred", 83, 99, sampling, RST_INTERVAL=interval)
        check(data, some_rectangles(83, 99, interval))
        check(data, [(20, 3, 40, 9)])


@pytest.mark.parametrize("pixel_format", ["yuvj420p", "yuvj422p", "yuvj444p"])
def test_frames_of_ffmpeg(pixel_format: str) -> None:
    codec = av.CodecContext.create("mjpeg", "w")
    codec.width, codec.height, codec.pix_fmt = 99, 83, pixel_format
    codec.time_base = Fraction(1, 25)
    codec.options = {"strict": "unofficial"}
    frame = av.VideoFrame.from_ndarray(picture_of("blurred", 83, 99), "bgr24").reformat(format=pixel_format)
    (packet, *_) = [*codec.encode(frame), *codec.encode(None)]
    check(bytes(packet), some_rectangles(83, 99, 1))


# ---- files that no encoder writes


class Bits:
    def __init__(self) -> None:
        self.bytes = bytearray()
        self._bits = ""

    def put(self, value: int, count: int) -> None:
        self._bits += format(value, f"0{count}b") if count else ""

    def end(self) -> bytes:
        """All of it, filled up with ones and stuffed."""
        bits = self._bits + "1" * (-len(self._bits) % 8)
        return int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0") if bits else b""


class Code:
    """A Huffman code in which a symbol's length has nothing to do with how frequent it is."""

    def __init__(self, symbols: Iterable[int], lengths: Iterable[int]) -> None:
        self.of: dict[int, tuple[int, int]] = {}
        counts, order, code, last = [0] * 16, [], 0, 0
        for length, symbol in sorted(zip(lengths, symbols, strict=True), key=lambda one: one[0]):
            code <<= length - last
            last = length
            self.of[symbol] = (code, length)
            code += 1
            counts[length - 1] += 1
            order.append(symbol)
        self.table = bytes(counts) + bytes(order)

    def put(self, symbol: int, bits: Bits) -> None:
        bits.put(*self.of[symbol])


def coded_block(values: np.ndarray, previous: int, dc: Code, ac: Code, bits: Bits) -> None:
    """values [64] int in the order of the scan."""

    def put(value: int, run: int, code: Code) -> None:
        size = abs(value).bit_length()
        code.put(run << 4 | size, bits)
        bits.put(value if value >= 0 else value + (1 << size) - 1, size)

    put(int(values[0]) - previous, 0, dc)
    run = 0
    for value in values[1:].tolist():
        if value == 0:
            run += 1
            continue
        while run > 15:
            ac.put(0xF0, bits)
            run -= 16
        put(value, run, ac)
        run = 0
    if run:
        ac.put(0, bits)


def segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


DC_SYMBOLS = list(range(12))
AC_SYMBOLS = [0, 0xF0, *(run << 4 | size for run in range(16) for size in range(1, 11))]


def assembled(
    width: int, height: int, factors: Sequence[tuple[int, int]], blocks: np.ndarray, quantiser: np.ndarray, seed: int
) -> bytes:
    """A JPEG of given blocks [n, 64], unit by unit, with codes of up to 16 bits; quantiser [64] of 8 or 16 bits."""
    rng = np.random.default_rng(seed)
    dc = Code(rng.permutation(DC_SYMBOLS).tolist(), [2, 3, 4, 5, 6, 8, 10, 12, 13, 14, 15, 16])
    lengths = [*range(2, 9), *([12] * 12), *([13] * 20)]
    ac = Code(rng.permutation(AC_SYMBOLS).tolist(), lengths + [16] * (len(AC_SYMBOLS) - len(lengths)))
    count = len(factors)
    frame = struct.pack(">BHHB", 8, height, width, count)
    scan = bytes((count,))
    for number, (across, down) in enumerate(factors, 1):
        frame += bytes((number, across << 4 | down, 0))
        scan += bytes((number, 0))
    bits, previous, at = Bits(), [0] * count, 0
    while at < len(blocks):
        for component, (across, down) in enumerate(factors if count > 1 else [(1, 1)]):
            for _ in range(across * down):
                coded_block(blocks[at], previous[component], dc, ac, bits)
                previous[component] = int(blocks[at][0])
                at += 1
    wide = quantiser.max() > 255
    return b"".join(
        (
            b"\xff\xd8",
            segment(0xDB, bytes((int(wide) << 4,)) + quantiser.astype(">u2" if wide else "u1").tobytes()),
            segment(0xC1 if wide else 0xC0, frame),
            segment(0xC4, b"\0" + dc.table + b"\x10" + ac.table),
            segment(0xDA, scan + b"\0\x3f\0"),
            bits.end(),
            b"\xff\xd9",
        )
    )


FACTORS = {
    "grey": [(1, 1)],
    "grey in twos": [(2, 2)],
    "444": [(1, 1)] * 3,
    "444 in rows of two": [(1, 2)] * 3,
    "422": [(2, 1), (1, 1), (1, 1)],
    "422 in fours": [(2, 2), (1, 2), (1, 2)],
    "440": [(1, 2), (1, 1), (1, 1)],
    "420": [(2, 2), (1, 1), (1, 1)],
}


def block_count(width: int, height: int, factors: Sequence[tuple[int, int]]) -> int:
    """Of a file."""
    if len(factors) == 1:
        return -(-width // 8) * -(-height // 8)
    across, down = factors[0]
    return -(-width // (8 * across)) * -(-height // (8 * down)) * sum(a * b for a, b in factors)


def random_blocks(count: int, rng: np.random.Generator, most: int, density: float) -> np.ndarray:
    blocks = rng.integers(-most, most + 1, (count, 64)) * (rng.random((count, 64)) < density)
    blocks[:, 0] = rng.integers(-500 // max(1, 1024 // most), 500 // max(1, 1024 // most) + 1, count)
    return blocks


@pytest.mark.parametrize("name", FACTORS)
def test_random_coefficients_and_long_codes(name: str) -> None:
    factors = FACTORS[name]
    for seed, (most, density, quantum) in enumerate(
        [(20, 0.3, 3), (1, 0.9, 30), (200, 0.02, 1), (1, 0.01, 600), (30, 1, 1), (600, 0.01, 1)]
    ):
        width, height = 45 + seed, 39 - seed
        rng = np.random.default_rng(seed)
        blocks = random_blocks(block_count(width, height, factors), rng, most, density)
        data = assembled(width, height, factors, blocks, np.full(64, quantum), seed)
        check(data, some_rectangles(width=width, height=height, seed=seed))


def test_one_coefficient_at_every_place() -> None:
    """With every run before it."""
    for at in range(1, 64):
        blocks = np.zeros((4, 64), int)
        blocks[:, at] = 100
        data = assembled(16, 16, FACTORS["grey"], blocks, np.ones(64, int), at)
        check(data, [(0, 0, 16, 16)])


@pytest.mark.parametrize("name", FACTORS)
def test_coefficients_that_no_picture_has_are_left_to_opencv(name: str) -> None:
    """But only where a rectangle needs them."""
    factors = FACTORS[name]
    count = block_count(48, 48, factors)
    for place, value in [(0, 1023), (1, 1023), (63, -1023), (9, 512)]:
        blocks = np.zeros((count, 64), int)
        blocks[0, place] = value
        data = assembled(48, 48, factors, blocks, np.full(64, 40), 3)
        assert both(data, [(0, 0, 1, 1)]) is None
        assert opencv_pixels(data) is not None
        check(data, [(40, 40, 48, 48)], refused=place == 0)


def test_samples_out_of_range_are_limited_or_left_to_opencv() -> None:
    given = 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        blocks = random_blocks(4, rng, 10 + 4 * seed, 0.7)
        given += check(
            assembled(16, 16, FACTORS["grey"], blocks, np.ones(64, int), seed), [(0, 0, 16, 16)], refused=True
        )
    assert 20 < given < 110


# ---- files that are left to OpenCV


def unusual_files() -> dict[str, bytes]:
    plain = file_of("blurred", 40, 40)
    frame, scan, tables = plain.index(b"\xff\xc0"), plain.index(b"\xff\xda"), plain.index(b"\xff\xc4")
    ids = bytearray(plain)
    for number, letter in enumerate(b"RGB"):
        ids[frame + 10 + 3 * number] = ids[scan + 5 + 2 * number] = letter
    without_jfif = plain[:2] + plain[20:]
    interval = segment(0xDD, b"\0\3")
    return {
        "progressive": file_of("blurred", 40, 40, PROGRESSIVE=1),
        "turned": jpeg_with_segment(plain, 0xE1, b"Exif\0\0" + exif(4)),
        "CMYK by Adobe": jpeg_with_segment(without_jfif, 0xEE, b"Adobe\0\x64\0\0\0\0\2"),
        "RGB by Adobe": jpeg_with_segment(without_jfif, 0xEE, b"Adobe\0\x64\0\0\0\0\0"),
        "RGB by name": bytes(ids)[:2] + bytes(ids)[20:],
        "arithmetic coding": plain[:frame] + b"\xff\xc9" + plain[frame + 2 :],
        "12 bits": plain[: frame + 4] + b"\x0c" + plain[frame + 5 :],
        "no height": plain[: frame + 5] + b"\0\0" + plain[frame + 7 :],
        "more width than libjpeg takes": plain[: frame + 7] + b"\xff\xf0" + plain[frame + 9 :],
        "two frames": plain[:frame] + plain[frame : frame + 19] + plain[frame:],
        "no frame": plain[:frame] + plain[frame + 19 :],
        "no tables": plain[:tables] + plain[scan:],
        "scan of one component": plain[:scan] + segment(0xDA, b"\1\1\0\0\x3f\0") + plain[scan + 14 :],
        "part of the coefficients": plain[: scan + 12] + b"\x3e" + plain[scan + 13 :],
        "no end": plain[:-2],
        "no restarts where they should be": plain[:frame] + interval + plain[frame:],
        "restarts where they should not be": file_of("blurred", 40, 40, RST_INTERVAL=2).replace(
            b"\xff\xdd", b"\xff\xfe"
        ),
        "marker in the scan": plain[: scan + 200] + b"\xff\xc4" + plain[scan + 202 :],
        "nothing": b"",
        "only a beginning": plain[:2],
        "another kind": image_bytes(".png", picture_of("noise", 4, 4)),
    }


@pytest.mark.parametrize("name", unusual_files())
def test_unusual_files_are_left_to_opencv(name: str) -> None:
    assert both(unusual_files()[name], [(0, 0, 20, 20)]) is None


def test_what_stands_in_front_does_not_matter() -> None:
    plain = file_of("blurred", 40, 40)
    wanted = some_rectangles(40, 40, 0)
    for marker, body in [
        (0xFE, b"hello"),
        (0xE2, b"ICC_PROFILE\0"),
        (0xEE, b"Adobe\0\x64\0\0\0\0\1"),
        (0xE1, b"http:"),
    ]:
        check(jpeg_with_segment(plain, marker, body), wanted)
        check(jpeg_with_segment(plain[:2] + plain[20:], marker, body), wanted)
    turned = jpeg_with_segment(plain, 0xE1, b"Exif\0\0" + exif(6))
    given = both(turned, wanted, turned=False)
    assert given is not None
    assert np.array_equal(given[0], whole_by_opencv(plain))


def test_rectangles_outside_the_image_and_arguments_of_another_kind() -> None:
    data = file_of("blurred", 40, 50)
    for outside in [(0, 0, 51, 1), (0, 0, 1, 41), (49, 39, 51, 40), (1 << 40, 0, (1 << 40) + 1, 1)]:
        assert both(data, [(0, 0, 1, 1), outside]) is None
    assert both(data, []) is None
    for empty in [(0, 0, 0, 1), (3, 3, 2, 4), (-1, 0, 1, 1), (0, -5, 1, 1)]:
        with pytest.raises(ValueError, match="must hold pixels"):
            jpeg.rectangles(data, [empty])
    one = np.array([[0, 0, 2, 2]], np.int64)
    for corners, out in [(one, np.empty(11, np.uint8)), (np.array([[0, 0, 1 << 62, 1 << 62]]), np.empty(12, np.uint8))]:
        with pytest.raises(ValueError, match="room"):
            EXTENSION.decode(data, corners, out, False)
    for corners, out in [(one[0], np.empty(12, np.uint8)), (one.astype(np.int32), np.empty(12, np.uint8))]:
        with pytest.raises(ValueError, match="int64"):
            EXTENSION.decode(data, corners, out, False)
    with pytest.raises(ValueError, match="int64"):
        EXTENSION.decode(data, one, np.empty((2, 6), np.uint8), False)


def test_an_absent_extension_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jpeg, "_jpeg", None)
    assert not jpeg.is_available()
    with pytest.raises(RuntimeError, match="C compiler"):
        jpeg.rectangles(b"", [])


# ---- damage


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_files_cut_off_anywhere_are_left_to_opencv(sampling: str) -> None:
    for options in ({}, {"RST_INTERVAL": 2}):
        data = file_of("blurred", 24, 40, sampling, **options)
        for size in range(len(data)):
            assert both(data[:size], [(0, 0, 1, 1)]) is None


@pytest.mark.parametrize("seed", range(40))
def test_damaged_files_give_opencv_s_pixels_or_none(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for number in range(12):
        height, width = (int(side) for side in rng.integers(9, 70, 2))
        options = {"RST_INTERVAL": int(rng.integers(1, 9))} if number % 3 == 0 else {}
        good = file_of(CONTENTS[number % 7], height, width, list(SAMPLINGS)[seed % 4], seed, **options)
        data = bytearray(good)
        start = 0 if number % 4 == 0 else good.index(b"\xff\xda")
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.integers(start, len(good)))
            kind = rng.integers(0, 4)
            if kind == 0:
                data[at : at + 1] = bytes((rng.integers(0, 256),))
            elif kind == 1:
                data[at : at + 2] = 0xFF, int(rng.integers(0, 256))
            elif kind == 2:
                del data[at : at + int(rng.integers(1, 40))]
            else:
                data[at:at] = rng.integers(0, 256, int(rng.integers(1, 9)), dtype=np.uint8).tobytes()
        for wanted in ([(0, 0, 1, 1)], some_rectangles(height, width, seed)):
            check(bytes(data), wanted, refused=True)


def test_bytes_of_no_meaning_are_refused() -> None:
    plain = file_of("blurred", 40, 40)
    scan = plain.index(b"\xff\xda") + 14
    for seed in range(30):
        check(plain[:scan] + noise(1, 3000, 1, seed=seed).tobytes() + b"\xff\xd9", [(3, 3, 30, 30)], refused=True)
        assert both(noise(1, 3000, 1, seed=seed).tobytes(), [(3, 3, 30, 30)]) is None


def test_many_threads_at_once() -> None:
    files = [file_of("blurred", 60, 80, seed=seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for data, given in zip(
            files * 4, pool.map(lambda one: jpeg.rectangles(one, [(5, 5, 70, 50)]), files * 4), strict=True
        ):
            assert given is not None
            assert np.array_equal(given[0], whole_by_opencv(data)[5:50, 5:70])
