"""PNG files from C: every decoder gives back the crop; the stream is what RFC 1951 asks for, code by code."""

from __future__ import annotations

import heapq
import io
import itertools
import struct
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_extract.kernels import png, png_reference

EXTENSION: Any = vars(png)["_png"]  # None where it was not built
needs_extension = pytest.mark.skipif(not png.is_available(), reason="the C extension was not built here")

LEVELS = (0, 1, 2)  # portable, AVX2, AVX-512; as far as this processor has them
BLOCK, LONGEST_CODE, MIN_RUN = 65535, 14, 5  # of deflate.h
SIZES = [(1, 1), (1, 40), (40, 1), (7, 5), (7, 6), (13, 21), (16, 17), (31, 33), (64, 64), (3, 22000), (256, 256)]
CONTENTS = ("noise", "constant", "black and white", "gradient", "grain", "patches")


def crop_of(content: str, height: int, width: int) -> np.ndarray:
    """[H, W, 3] uint8."""
    rng = np.random.default_rng([height, width, CONTENTS.index(content)])
    shape = (height, width, 3)
    if content == "noise":
        return rng.integers(0, 256, shape, dtype=np.uint8)
    if content == "constant":
        return np.full(shape, rng.integers(0, 256, 3), np.uint8)
    if content == "black and white":
        return rng.integers(0, 2, shape, dtype=np.uint8) * np.uint8(255)
    y, x = np.mgrid[:height, :width]
    slope = (np.stack([x + y, 2 * x, y], axis=2) // 3).astype(np.int64)
    if content == "gradient":
        return (slope % 256).astype(np.uint8)
    if content == "grain":
        return np.clip(slope % 200 + rng.normal(0, 3, shape), 0, 255).astype(np.uint8)
    crop = np.full(shape, 90, np.uint8)  # patches
    for _ in range(12):
        top, left = rng.integers(0, height), rng.integers(0, width)
        patch = crop[top : top + int(rng.integers(1, 40)), left : left + int(rng.integers(1, 200))]
        patch[:] = rng.integers(0, 256, 3) if rng.integers(0, 2) else rng.integers(0, 256, patch.shape)
    return crop


# A PNG reader and an inflater: slow, plain and strict.


def chunks_of(file: bytes) -> list[tuple[bytes, bytes]]:
    assert file[:8] == b"\x89PNG\r\n\x1a\n"
    found, at = [], 8
    while at < len(file):
        length, kind = struct.unpack_from(">I4s", file, at)
        data = file[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", file, at + 8 + length)[0] == zlib.crc32(kind + data)
        found.append((kind, data))
        at += 12 + length
    assert at == len(file)
    return found


def stream_of(file: bytes) -> bytes:
    return dict(chunks_of(file))[b"IDAT"]


def paeth(left: int, above: int, corner: int) -> int:
    guess = left + above - corner
    return min((left, above, corner), key=lambda value: abs(guess - value))


def guesses(left: int, above: int, corner: int) -> dict[int, int]:
    """By filter type."""
    return {2: above, 3: (left + above) // 2, 4: paeth(left, above, corner)}


def unfiltered(rows: bytes, height: int, width: int) -> np.ndarray:
    """[H, W, 3] uint8 BGR."""
    n = 3 * width
    above, lines = [0] * n, []
    for y in range(height):
        kind, *row = rows[y * (1 + n) : (y + 1) * (1 + n)]
        line: list[int] = []
        for i, value in enumerate(row):
            left, corner = (line[i - 3], above[i - 3]) if i >= 3 else (0, 0)
            line.append((value + guesses(left, above[i], corner)[kind]) % 256)
        lines.append(line)
        above = line
    return np.array(lines, np.uint8).reshape(height, width, 3)[:, :, ::-1]


class Bits:
    def __init__(self, data: bytes) -> None:
        self._data, self.at = data, 0

    def take(self, count: int) -> int:
        assert self.at + count <= 8 * len(self._data), "the stream ends early"
        four = int.from_bytes(self._data[self.at // 8 : self.at // 8 + 4], "little")
        value = four >> self.at % 8 & ((1 << count) - 1)
        self.at += count
        return value


@dataclass
class Block:
    stored: bool
    symbols: Counter[int] = field(default_factory=Counter)  # literals, 256, lengths
    lengths: dict[int, int] = field(default_factory=dict)  # of their codes
    runs: list[int] = field(default_factory=list)


Code = dict[tuple[int, int], int]  # (length, code): symbol


def complete_code(lengths: list[int]) -> Code:
    """No pattern of bits may be left without a meaning, or have two."""
    assert sum(2.0**-length for length in lengths if length) == 1
    code, found = 0, {}
    for length in range(1, 16):
        code <<= 1
        for symbol, other in enumerate(lengths):
            if other == length:
                found[length, code] = symbol
                code += 1
    return found


def next_symbol(bits: Bits, code: Code) -> int:
    length = value = 0
    while (length, value) not in code:
        length, value = length + 1, value << 1 | bits.take(1)
        assert length <= 15
    return code[length, value]


def read_codes(bits: Bits) -> tuple[list[int], list[int]]:
    """Lengths of the codes of literals and lengths, and of distances."""
    literals, distances, items = 257 + bits.take(5), 1 + bits.take(5), 4 + bits.take(4)
    assert literals <= 286
    item_lengths = [0] * 19
    for item in (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)[:items]:
        item_lengths[item] = bits.take(3)
    code = complete_code(item_lengths)
    lengths: list[int] = []
    while len(lengths) < literals + distances:
        match next_symbol(bits, code):
            case 16:
                lengths += lengths[-1:] * (3 + bits.take(2))
            case 17:
                lengths += [0] * (3 + bits.take(3))
            case 18:
                lengths += [0] * (11 + bits.take(7))
            case length:
                lengths.append(length)
    assert len(lengths) == literals + distances
    return lengths[:literals], lengths[literals:]


def length_of(symbol: int, bits: Bits) -> int:
    base, starts = 3, []
    for i in range(28):
        extra = 0 if i < 8 else i // 4 - 1
        starts.append((base, extra))
        base += 1 << extra
    start, extra = [*starts, (258, 0)][symbol - 257]
    return start + bits.take(extra)


def inflated(stream: bytes) -> tuple[bytes, list[Block]]:
    """A zlib stream of stored and dynamic blocks whose only distance is 1."""
    assert stream[:2] == b"\x78\x01"
    bits, out, blocks, last = Bits(stream), bytearray(), [], 0
    bits.take(16)
    while not last:
        last, kind = bits.take(1), bits.take(2)
        assert kind in (0, 2)
        block = Block(stored=kind == 0)
        blocks.append(block)
        if block.stored:
            assert bits.take(-bits.at % 8) == 0
            size, complement = bits.take(16), bits.take(16)
            assert size ^ complement == 0xFFFF
            out += stream[bits.at // 8 : bits.at // 8 + size]
            bits.at += 8 * size
            continue
        literals, distances = read_codes(bits)
        block.lengths = {symbol: length for symbol, length in enumerate(literals) if length}
        code, distance_code = complete_code(literals), complete_code(distances)
        while (symbol := next_symbol(bits, code)) != 256:
            block.symbols[symbol] += 1
            if symbol < 256:
                out.append(symbol)
            else:
                length = length_of(symbol, bits)
                assert next_symbol(bits, distance_code) == 0
                block.runs.append(length)
                out += out[-1:] * length
        block.symbols[256] += 1
    assert bits.take(-bits.at % 8) == 0
    assert stream[bits.at // 8 :] == struct.pack(">I", zlib.adler32(out))
    return bytes(out), blocks


def huffman(counts: Counter[int]) -> tuple[int, int]:
    """Bits that the best code without a limit takes, and its longest length."""
    ticket = itertools.count()
    heap = [(count, next(ticket), 0) for count in counts.values()]
    heapq.heapify(heap)
    total = 0
    while len(heap) > 1:
        a, _, a_depth = heapq.heappop(heap)
        b, _, b_depth = heapq.heappop(heap)
        total += a + b
        heapq.heappush(heap, (a + b, next(ticket), max(a_depth, b_depth) + 1))
    return total, heap[0][2]


def check_stream(data: bytes) -> bytes:
    """The stream of data, after everybody has read it."""
    stream: bytes = EXTENSION.deflated(data)
    assert [EXTENSION.deflated(data, level) == stream for level in LEVELS] == [True] * len(LEVELS)
    inflater = zlib.decompressobj()
    assert inflater.decompress(stream) == data
    assert inflater.eof
    assert not inflater.unused_data
    pieces = -(-len(data) // BLOCK)
    assert len(stream) <= 2 + len(data) + 6 * pieces + 4
    return stream


# Files.


@needs_extension
@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_decoders_give_back_the_crop(size: tuple[int, int], content: str) -> None:
    crop = crop_of(content, *size)
    file = png.encoded(crop)
    assert file == png.encoded(crop, portable=True)
    assert [EXTENSION.encode(crop, None, level) == file for level in LEVELS] == [True] * len(LEVELS)
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED), crop)
    raw = crop.size + len(crop)
    assert len(stream_of(file)) <= 2 + raw + 6 * (2 * raw // BLOCK + 1) + 4
    pillow = pytest.importorskip("PIL.Image")
    pillow.open(io.BytesIO(file)).verify()
    with pillow.open(io.BytesIO(file)) as image:
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image)[:, :, ::-1], crop)


@needs_extension
@settings(max_examples=150, deadline=None)
@given(
    height=st.integers(1, 24),
    width=st.integers(1, 24),
    values=st.lists(st.integers(0, 255), min_size=1, max_size=6),
    repeats=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
)
def test_plain_decoder_gives_back_the_crop(height: int, width: int, values: list[int], repeats: int, seed: int) -> None:
    picks = np.random.default_rng(seed).choice(np.array(values, np.uint8), -(-height * width * 3 // repeats))
    crop = np.repeat(picks, repeats)[: height * width * 3].reshape(height, width, 3)
    file = png.encoded(crop)
    assert file == png.encoded(crop, portable=True)
    assert [EXTENSION.encode(crop, None, level) == file for level in LEVELS] == [True] * len(LEVELS)
    rows, _ = inflated(stream_of(file))
    np.testing.assert_array_equal(unfiltered(rows, height, width), crop)


@needs_extension
@pytest.mark.parametrize("content", CONTENTS)
def test_each_row_has_the_filter_that_leaves_least(content: str) -> None:
    crop = crop_of(content, 23, 41)
    rows = np.frombuffer(zlib.decompress(stream_of(png.encoded(crop))), np.uint8).reshape(23, -1)
    lines = np.zeros((24, 3 + 41 * 3), np.int64)
    lines[1:, 3:] = crop[:, :, ::-1].reshape(23, -1)
    for row, line, above in zip(rows, lines[1:], lines, strict=False):
        around = zip(line, above[3:], above, strict=False)
        guessed = [guesses(*map(int, triple)) for triple in around]
        rests = {
            kind: [(int(x) - guess[kind]) % 256 for x, guess in zip(line[3:], guessed, strict=True)]
            for kind in (2, 3, 4)
        }
        costs = {kind: sum(min(rest, 256 - rest) for rest in rests[kind]) for kind in rests}
        best = min(costs, key=lambda kind: (costs[kind], kind))
        assert row.tolist() == [best, *rests[best]]


@needs_extension
def test_chunks_and_their_order() -> None:
    crop = crop_of("grain", 5, 9)
    chunks = chunks_of(png.encoded(crop, b"faceswap\0\0\0\0\0text"))
    assert [kind for kind, _ in chunks] == [b"IHDR", b"iTXt", b"IDAT", b"IEND"]
    assert chunks[0][1] == struct.pack(">IIBBBBB", 9, 5, 8, 2, 0, 0, 0)
    assert chunks[1][1] == b"faceswap\0\0\0\0\0text"
    assert [kind for kind, _ in chunks_of(png.encoded(crop))] == [b"IHDR", b"IDAT", b"IEND"]
    assert chunks_of(png.encoded(crop, b""))[1] == (b"iTXt", b"")


@needs_extension
def test_crops_may_be_views() -> None:
    image = crop_of("grain", 30, 40)
    views = [image[3:20, 5:33], image[::-1], image[::-3, 2:], image[:, ::-1], image[:, :, ::-1], image[:, 4:5][:, ::-1]]
    views += [image.transpose(1, 0, 2), np.broadcast_to(image[:1], image.shape), np.asfortranarray(image)]
    for view in views:
        assert png.encoded(view) == png.encoded(np.array(view, order="C"))
    image.flags.writeable = False
    assert png.encoded(image) == png.encoded(image.copy())


@needs_extension
def test_a_large_crop() -> None:
    crop = np.add.outer(np.arange(4096), np.arange(3 * 4096)).astype(np.uint8).reshape(4096, 4096, 3)
    crop[1000:1500] = np.random.default_rng(1).integers(0, 256, (500, 4096, 3), dtype=np.uint8)
    file = png.encoded(crop)
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED), crop)
    assert len(file) < 500 * 4096 * 3 * 1.02 + (1 << 18)


@needs_extension
def test_threads_do_not_disturb_each_other() -> None:
    crops = [crop_of(content, 120, 130 + i) for i, content in enumerate(CONTENTS * 4)]
    alone = [png.encoded(crop) for crop in crops]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            assert list(pool.map(png.encoded, crops)) == alone


# Streams.


@needs_extension
@pytest.mark.parametrize(
    "size", [1, 2, 3, 6, 63, 64, 65, 127, 128, 129, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 150_000]
)
def test_sizes_around_words_and_blocks(size: int) -> None:
    rng = np.random.default_rng(size)
    for data in (
        np.zeros(size),
        rng.integers(0, 256, size),
        np.minimum(rng.geometric(0.3, size), 255),
        np.repeat(rng.integers(0, 4, size), rng.integers(1, 90, size))[:size],
        np.where(np.arange(size) < size - 70, 3, 4),
    ):
        check_stream(data.astype(np.uint8).tobytes())


@needs_extension
def test_literals_between_runs() -> None:
    """Stretches of every length around those that are written 64 at a time, from every bit of a byte on."""
    rng = np.random.default_rng(3)
    for length in [*range(120, 136), *range(184, 200), *range(248, 264), 1000]:
        rare = np.minimum(rng.geometric(0.4, length), 60)  # codes of 1 to 14 bits
        literals = np.cumsum(np.where(rng.integers(0, 2, length) > 0, rare, -rare)).astype(np.uint8)
        for alphabet in (literals, rare.astype(np.uint8), rng.integers(0, 256, length).astype(np.uint8) | 1):
            data = (b"\0" * 300 + alphabet.tobytes()) * 3 + b"\0" * 9
            out, _ = inflated(check_stream(data))
            assert out == data


@needs_extension
def test_runs_of_every_length() -> None:
    for length in [*range(1, 64), *range(250, 270), *range(510, 525), 774, 775, 776, 777, 5000]:
        for before in (b"", b"\1", b"\1\2\3" * 21, b"\1\2" * 32):
            data = before + b"\0" * length + b"\5"
            out, (block,) = inflated(check_stream(data))
            assert out == data
            if not block.stored and length > 1:
                repeats = length - 1
                expected = [258] * ((repeats - 1) // 258) + [(repeats - 1) % 258 + 1] if repeats >= MIN_RUN else []
                assert block.runs == [run for run in expected if run >= 3]


@needs_extension
@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 255), st.integers(1, 300)), min_size=1, max_size=60))
def test_strict_inflater_agrees(stretches: list[tuple[int, int]]) -> None:
    data = b"".join(bytes([value]) * count for value, count in stretches)
    out, _ = inflated(check_stream(data))
    assert out == data


@needs_extension
@pytest.mark.parametrize(
    "counts",
    [
        [300] * 256,
        [1] * 256,
        [60000],
        [30000, 1],
        [1 << i for i in range(13)],
        [7 * i + 1 for i in range(130)],
    ],
    ids=["equal", "once each", "one", "two", "halves", "slope"],
)
def test_codes_are_huffmans(counts: list[int]) -> None:
    values = np.repeat(np.arange(len(counts), dtype=np.uint8), counts)[:BLOCK]
    data = np.random.default_rng(1).permutation(values).tobytes()
    out, (block,) = inflated(check_stream(data))
    assert out == data
    if block.stored:
        assert len(set(counts)) == 1
        return
    bits, longest = huffman(block.symbols)
    assert longest <= LONGEST_CODE
    assert sum(count * block.lengths[symbol] for symbol, count in block.symbols.items()) == bits
    assert set(block.lengths) == set(block.symbols)


@needs_extension
@pytest.mark.parametrize("terms", range(13, 22))
def test_codes_that_want_to_be_too_long(terms: int) -> None:
    counts = [1, 2]  # Fibonacci's numbers with the end of the block, another 1: each joins the tree of all before it
    while len(counts) < terms:
        counts.append(counts[-1] + counts[-2])
    symbols = np.repeat(np.arange(terms, dtype=np.uint8) * 11, counts)
    apart = np.empty_like(symbols)  # no two neighbours equal, so that there are no runs to take away from the counts
    apart[::2], apart[1::2] = np.split(symbols[::-1], [-(-len(symbols) // 2)])
    data = apart.tobytes()
    out, (block,) = inflated(check_stream(data))
    assert out == data
    bits, longest = huffman(block.symbols)
    assert longest == terms
    assert max(block.lengths.values()) == min(terms, LONGEST_CODE)
    assert sum(count * block.lengths[symbol] for symbol, count in block.symbols.items()) <= bits * 1.01


@needs_extension
def test_noise_is_stored_and_a_quiet_block_beside_it_is_not() -> None:
    noise = np.random.default_rng(1).integers(0, 256, 2 * BLOCK, dtype=np.uint8).tobytes()
    quiet = np.random.default_rng(2).integers(0, 4, BLOCK, dtype=np.uint8).tobytes()
    out, blocks = inflated(check_stream(noise + quiet + noise[:BLOCK]))
    assert out == noise + quiet + noise[:BLOCK]
    assert [block.stored for block in blocks] == [True, True, False, True]


@needs_extension
def test_isal_reads_them() -> None:
    isal_zlib = pytest.importorskip("isal.isal_zlib")
    for content in CONTENTS:
        stream = stream_of(png.encoded(crop_of(content, 90, 300)))
        inflater = isal_zlib.decompressobj()
        assert inflater.decompress(stream) == zlib.decompress(stream)
        assert inflater.eof


# Refusals.


@needs_extension
@pytest.mark.parametrize(
    ("crop", "message"),
    [
        (np.zeros((4, 4, 4), np.uint8), "crop must be"),
        (np.zeros((4, 4), np.uint8), "crop must be"),
        (np.zeros((4, 4, 3), np.int8), "crop must be"),
        (np.zeros((4, 4, 3), np.float32), "crop must be"),
        (np.zeros((0, 4, 3), np.uint8), "crop must be"),
        (np.zeros((4, 0, 3), np.uint8), "crop must be"),
        (np.broadcast_to(np.zeros((1, 2, 3), np.uint8), (1 << 30, 2, 3)), "2 x 1073741824 pixels is too large"),
        (np.broadcast_to(np.zeros((1, 40000, 3), np.uint8), (40000, 40000, 3)), "40000 x 40000 pixels is too large"),
    ],
)
def test_refuses_other_arrays(crop: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        png.encoded(crop)


@needs_extension
def test_refuses_other_text_and_no_data() -> None:
    with pytest.raises(TypeError):
        png.encoded(np.zeros((2, 2, 3), np.uint8), "text")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="empty"):
        EXTENSION.deflated(b"")


@needs_extension
@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize(("height", "width"), [*SIZES, (1, 21844), (2, 21845), (3, 65536), (86, 85)])
def test_numpy_writes_the_same_file(height: int, width: int, content: str) -> None:
    crop = crop_of(content, height, width)
    for text in (None, b"keyword\0\0\0\0\0text"):
        assert png_reference.encoded(crop, text) == png.encoded(crop, text)
    assert png_reference.encoded(crop[::-1, ::-1]) == png.encoded(crop[::-1, ::-1])


@needs_extension
@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(1, 70),
    columns=st.integers(1, 70),
    step=st.floats(1.05, 4),
    sums=st.booleans(),
)
def test_numpy_writes_the_same_file_of_bytes_of_any_rarity(
    seed: int, rows: int, columns: int, step: float, sums: bool
) -> None:
    rng = np.random.default_rng(seed)
    rarity = step ** -np.arange(64.0)  # as of Fibonacci's numbers, the deepest trees, where codes must be cut
    crop = rng.choice(64, size=(rows, columns, 3), p=rarity / rarity.sum())
    crop = (crop.cumsum(axis=0) if sums else crop).astype(np.uint8)
    assert png_reference.encoded(crop) == png.encoded(crop)


def test_a_missing_extension_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(png, "_png", None)
    assert not png.is_available()
    with pytest.raises(RuntimeError, match="C compiler"):
        png.encoded(np.zeros((2, 2, 3), np.uint8))
