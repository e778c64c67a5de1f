"""PNG files back to pixels: the C against the standard's own words and zlib, files against OpenCV."""

from __future__ import annotations

import ctypes
import mmap
import zlib
from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from gpu_extract.errors import FrameError
from gpu_extract.frames.base import clip_region
from gpu_extract.frames.images.decode import Image, decode_image
from gpu_extract.kernels import scanlines
from gpu_extract.patch import Region
from tests.helpers import image_bytes, opencv_pixels, png_chunk, png_of
from tests.test_kernels_inflate import compressed, first_bytes

pytestmark = pytest.mark.skipif(not scanlines.is_available(), reason="the C PNG decoder was not built here")


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


def png_file(height: int, width: int, channels: int, *streams: bytes, between: bytes = b"") -> bytes:
    """A PNG whose zlib stream is spread over the chunks as given."""
    pixels = between.join(png_chunk(b"IDAT", stream) for stream in streams)
    return png_of(width, height, 8, {3: 2, 4: 6}[channels], pixels)


def part_of(rows: np.ndarray, channels: int, box: tuple[int, int, int, int], portable: bool = False) -> np.ndarray:
    height, width = rows.shape[0], rows.shape[1] // channels
    file = png_file(height, width, channels, zlib.compress(rows.tobytes(), 1))
    pixels = scanlines.decoded(file, width, height, channels, *box, portable=portable)
    assert pixels is not None
    return pixels


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("filters", [[0], [1], [2], [3], [4], [0, 1, 2, 3, 4], [2, 3, 4]])
@pytest.mark.parametrize(
    "size", [(1, 1), (1, 9), (9, 1), (13, 2), (17, 23), (6, 40), *((9, width) for width in range(3, 9))]
)
def test_equals_the_standard(size: tuple[int, int], filters: list[int], channels: int, portable: bool) -> None:
    height, width = size
    rows = random_rows(height, width, channels, filters)
    expected = restored(rows, channels)[..., 2::-1]
    boxes = (
        *((0, 0, width, height), (0, height // 2, width, height), (width // 2, 0, width, 1)),
        *((width // 3, 0, width // 3 + 1, 1), (width // 3, height // 3, width - width // 3, height - height // 3)),
    )
    for x0, y0, x1, y1 in boxes:
        part = part_of(rows, channels, (x0, y0, x1, y1), portable)
        assert np.array_equal(part, expected[y0:y1, x0:x1]), (x0, y0, x1, y1)


@pytest.mark.parametrize("channels", [3, 4])
def test_extreme_samples_equal_the_standard(channels: int) -> None:
    """Few values, far apart: ties between PNG's three neighbours, sums that wrap."""
    random = np.random.default_rng(5)
    for filters in ([3], [4], [1, 2, 3, 4]):
        rows = random_rows(40, 31, channels, filters)
        rows[:, 1:] = random.choice([0, 1, 127, 128, 254, 255], (40, 31 * channels))
        expected = restored(rows, channels)[..., 2::-1]
        assert np.array_equal(part_of(rows, channels, (0, 0, 31, 40)), expected)
        assert np.array_equal(part_of(rows, channels, (2, 9, 30, 33)), expected[9:33, 2:30])


@pytest.mark.parametrize("portable", [False, True])
def test_guesses_of_paeth_equal_the_standard_for_all_orders_and_ties(portable: bool) -> None:
    """Corner, above and left of the same few values near each other and far apart, in every combination."""
    values = np.array([0, 1, 2, 3, 63, 64, 126, 127, 128, 129, 191, 192, 253, 254, 255], np.uint8)
    corners, uppers, lefts = (grid.ravel() for grid in np.meshgrid(values, values, values, indexing="ij"))
    rows = np.zeros((2, 1 + 6 * corners.size), np.uint8)
    first, second = (row[1:].reshape(-1, 2, 3) for row in rows)
    first[:, 0], first[:, 1] = corners[:, None], uppers[:, None]
    rows[1, 0] = 4
    second[:, 0] = lefts[:, None]
    rows = np.repeat(rows[None], 3, 0).reshape(6, -1)
    expected = restored(rows, 3)
    assert np.array_equal(part_of(rows, 3, (0, 0, 2 * corners.size, 6), portable), expected[..., ::-1])


@pytest.mark.parametrize(
    ("channels", "box"),
    [
        *((3, (0, 0, 8, 6)), (3, (-1, 0, 3, 3)), (3, (0, -1, 3, 3)), (3, (0, 0, 3, 9))),
        *((3, (2, 2, 2, 3)), (3, (2, 3, 4, 2)), (5, (0, 0, 1, 1)), (2, (0, 0, 7, 1))),
    ],
)
def test_rectangles_that_are_empty_or_outside_are_refused(channels: int, box: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"rectangle|channels"):
        scanlines.decoded(b"", 7, 6, channels, *box)


@pytest.mark.parametrize("size", [(0, 6), (7, 0), (2**62, 6), (2**62, 2**62)])
def test_images_without_pixels_or_beyond_memory_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="image must have pixels"):
        scanlines.decoded(b"", *size, 3, 0, 0, 1, 1)


@pytest.mark.skipif(not hasattr(cv2, "IMWRITE_PNG_FILTER"), reason="OpenCV writes chosen filters from 4.12 on")
@pytest.mark.parametrize("filters", [0x08, 0x10, 0x20, 0x40, 0x80, 0xF8])
def test_without_the_fast_way_opencv_gives_the_same(filters: int, monkeypatch: pytest.MonkeyPatch) -> None:
    smooth = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, (60, 90, 3), dtype=np.uint8), (0, 0), 2)
    data = image_bytes(".png", smooth, cv2.IMWRITE_PNG_FILTER, filters)
    with monkeypatch.context() as patched:
        patched.setattr(cv2, "imdecode", None)
        fast = decode_image(data, Region(11, 20, 40, 50)).pixels
    assert np.array_equal(fast, smooth[20:50, 11:40])
    with monkeypatch.context() as patched:
        patched.setattr(scanlines, "_scanlines", None)
        assert np.array_equal(decode_image(data).pixels, smooth)
        with pytest.raises(RuntimeError, match="not built"):
            scanlines.decoded(data, 90, 60, 3, 0, 0, 1, 1)


def stream_by_the_standard(data: bytes) -> bytes | None:
    """Chunk by chunk, as `scanlines.decoded` says."""
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
def test_only_what_sound_chunks_in_a_row_hold_is_decoded(portable: bool) -> None:
    random = np.random.default_rng(4)
    kinds = [b"IHDR", b"IDAT", b"IDAT", b"IDAT", b"tEXt", b"IEND"]
    rows = random_rows(2, 40, 3, [0, 1])
    stream = zlib.compress(rows.tobytes(), 0)
    pixels = restored(rows, 3)[..., ::-1]
    outcomes = {True: 0, False: 0}
    for n in range(3000):
        file, cuts = bytearray(b"\x89PNG\r\n\x1a\n"), sorted(random.integers(0, len(stream) + 1, 8))
        parts = iter([stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)])
        for _ in range(random.integers(9)):
            kind = kinds[random.integers(6)]
            file += png_chunk(kind, next(parts) if kind == b"IDAT" else random.bytes(int(random.integers(60))))
        for part in parts if n % 3 else ():
            file += png_chunk(b"IDAT", part)
        if n % 8 == 1:
            del file[random.integers(8, len(file) + 1) :]
        elif n % 8 == 2 and len(file) > 8:
            file[random.integers(8, len(file))] ^= 1 << int(random.integers(8))
        elif n % 8 == 3:
            file += random.bytes(int(random.integers(20)))
        expected = stream_by_the_standard(bytes(file)) == stream
        outcomes[expected] += 1
        found = scanlines.decoded(bytes(file), 40, 2, 3, 0, 0, 40, 2, portable=portable)
        assert (found is not None) == expected
        assert found is None or np.array_equal(found, pixels)
    assert min(outcomes.values()) > 300


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
    """But for damage below what is wanted, of which only the chunks' checksums are looked at."""
    data = odd_files()[name]
    expected = opencv_pixels(data)
    ordinary = opencv_pixels(odd_files()["ordinary"])
    assert ordinary is not None
    for region in (Region(0, 0, 50, 40), Region(20, 30, 21, 40), Region(3, 0, 44, 1)):
        pixels = decoded(data, region)
        if region.y1 == 40:
            assert (pixels is None) == (expected is None)
        if pixels is not None:
            whole = ordinary if expected is None else expected
            assert np.array_equal(pixels, whole[region.y0 : region.y1, region.x0 : region.x1])


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


# ---- the stream


def mutations(stream: bytes, count: int, seed: int) -> Iterator[bytes]:
    random = np.random.default_rng(seed)
    for _ in range(count):
        mutant = bytearray(stream)
        for at in random.integers(2, len(stream), random.integers(1, 4)):
            mutant[at] = random.integers(256) if random.random() < 0.5 else mutant[at] ^ 1 << int(random.integers(8))
        yield bytes(mutant)


@pytest.mark.parametrize(
    "kind", [(6, zlib.Z_DEFAULT_STRATEGY), (1, zlib.Z_RLE), (9, zlib.Z_HUFFMAN_ONLY), (6, zlib.Z_FIXED)]
)
def test_mutated_streams_give_what_zlib_gives_or_nothing(kind: tuple[int, int]) -> None:
    rows = random_rows(23, 19, 3, [0, 1, 2, 3, 4], seed=9)
    rows[:, 1:] //= 32
    given = refused = early = 0
    for mutant in mutations(compressed(rows.tobytes(), *kind), 600, sum(kind)):
        file = png_file(23, 19, 3, mutant[:90], b"", mutant[90:91], mutant[91:])
        for y1 in (3, 14, 23):
            inflated = first_bytes(mutant, y1 * rows.shape[1])
            found = [
                scanlines.decoded(file, 19, 23, 3, 2, y1 // 2, 17, y1, portable=portable) for portable in (True, False)
            ]
            refused += found[0] is None
            if found[0] is None or found[1] is None:
                assert found[0] is found[1]
                continue
            if inflated is None:  # zlib met the damage behind the last wanted byte
                early += 1
                continue
            given += 1
            expected = restored(np.frombuffer(inflated, np.uint8).reshape(y1, -1), 3)[y1 // 2 :, 2:17, ::-1]
            assert np.array_equal(found[0], expected)
            assert np.array_equal(found[1], expected)
    assert given > 50
    assert refused > 50
    assert early < 3


@pytest.mark.parametrize("portable", [False, True])
def test_nothing_is_read_behind_a_file_that_ends_with_its_page(portable: bool) -> None:
    """What follows the page cannot be read at all."""
    rows = random_rows(9, 30, 3, [0, 1, 2, 3, 4])
    stream = zlib.compress(rows.tobytes(), 1)
    file = png_file(9, 30, 3, stream)
    libc = ctypes.CDLL(None, use_errno=True)
    pages = mmap.mmap(-1, 2 * mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    assert libc.mprotect(ctypes.c_void_p(start + mmap.PAGESIZE), mmap.PAGESIZE, 0) == 0
    try:
        for length in (*range(len(file) - 40, len(file) + 1), 8, 0):
            at = mmap.PAGESIZE - length
            pages[at : mmap.PAGESIZE] = file[:length]
            view = memoryview(pages)[at : mmap.PAGESIZE]
            found = scanlines.decoded(view, 30, 9, 3, 0, 0, 30, 9, portable=portable)  # type: ignore[arg-type]
            assert (found is not None) == (stream_by_the_standard(file[:length]) == stream), length
            view.release()
    finally:
        libc.mprotect(ctypes.c_void_p(start + mmap.PAGESIZE), mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE)


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize(("height", "width", "channels"), [(300, 700, 3), (40, 9000, 4), (9, 40_000, 3), (2000, 31, 4)])
def test_images_larger_than_what_is_inflated_at_once(height: int, width: int, channels: int, portable: bool) -> None:
    random = np.random.default_rng(width)
    rows = random.choice([0, 0, 0, 1, 255], (height, 1 + width * channels)).astype(np.uint8)
    rows[:, 0] = np.where(np.arange(height) % 50 < 40, 4, random.integers(0, 5, height))
    stream = zlib.compress(rows.tobytes(), 6)
    file = png_file(height, width, channels, *(stream[at : at + 4096] for at in range(0, len(stream), 4096)))
    whole = opencv_pixels(file)
    assert whole is not None
    boxes = [(0, 0, width, height), (width // 3, height // 2, width // 2, height - 1), (0, height - 1, 1, height)]
    for x0, y0, x1, y1 in boxes:
        found = scanlines.decoded(file, width, height, channels, x0, y0, x1, y1, portable=portable)
        assert found is not None
        assert np.array_equal(found, whole[y0:y1, x0:x1])
