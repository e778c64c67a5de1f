"""zlib streams inflated in C, and by zlib in its place: against zlib, in pieces of any size, whole and damaged."""

from __future__ import annotations

import os
import sys
import threading
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from gpu_extract.kernels import inflate
from gpu_extract.kernels.inflate import Inflater

needs_c = pytest.mark.skipif(not inflate.is_available(), reason="the C inflater was not built here")
IN_C = [pytest.param(False, marks=needs_c, id="here"), pytest.param(True, marks=needs_c, id="portable")]
ALL = [*IN_C, pytest.param(None, id="zlib")]


def inflater(stream: bytes, piece: int, portable: bool | None) -> Inflater:
    """Of a stream that comes in pieces of a size; portable: None for zlib."""
    return by(reader(stream, piece), portable)


def by(read: Callable[[], bytes], portable: bool | None) -> Inflater:
    with pytest.MonkeyPatch.context() as patched:
        if portable is None:
            patched.setattr(inflate, "_inflate", None)
        return Inflater(read, portable=bool(portable))


def reader(stream: bytes, piece: int) -> Callable[[], bytes]:
    pieces = (stream[at : at + piece] for at in range(0, len(stream), piece))
    return lambda: next(pieces, b"")


def as_far_as_it_goes(whole: Inflater) -> tuple[bytes, Exception | None]:
    found = b""
    try:
        while more := whole.inflated(1 << 16):
            found += more
    except (EOFError, ValueError, OSError) as error:
        return found, error
    return found, None


def beginning(stream: bytes, size: int, piece: int, portable: bool | None) -> bytes | None:
    """The first bytes that it holds; None if it ends or fails before."""
    whole = inflater(stream, piece, portable)
    found = b""
    try:
        while len(found) < size and (more := whole.inflated(size - len(found))):
            found += more
    except (EOFError, ValueError):
        return None
    return found if len(found) == size else None


def first_bytes(stream: bytes, size: int) -> bytes | None:
    """By zlib, whose window is the largest whatever the header says; None if the stream ends or fails before."""
    if len(stream) < 2 or stream[0] & 15 != 8 or stream[0] > 0x78 or int.from_bytes(stream[:2], "big") % 31:
        return None
    if stream[1] & 0x20:
        return None
    try:
        found = zlib.decompressobj(-15).decompress(stream[2:], size)
    except zlib.error:
        return None
    return found if len(found) == size else None


def is_damaged(stream: bytes) -> bool:
    try:
        zlib.decompressobj(-15).decompress(stream[2:])
    except zlib.error:
        return True
    return False


def compressed(data: bytes, level: int, strategy: int, window: int = 15, memory: int = 8) -> bytes:
    deflater = zlib.compressobj(level, zlib.DEFLATED, window, memory, strategy)
    return deflater.compress(data) + deflater.flush()


def materials() -> dict[str, bytes]:
    random = np.random.default_rng(8)
    steps = random.choice([0, 0, 0, 1, 255, 2, 254, 9], 90_000).astype(np.uint8)
    skewed = np.minimum(random.geometric(0.01, 50_000), 255).astype(np.uint8)
    repeats = b"".join(random.bytes(int(n)) * int(k) for n, k in random.integers(1, 40, (400, 2)))
    return {
        "steps": steps.tobytes(),
        "noise": random.bytes(70_000),
        "zeros": bytes(120_000),
        "skewed": skewed.tobytes(),
        "repeats": repeats,
        "far repeats": (far := random.bytes(32_000)) + far[:20_000] + far,
        "a byte": b"x",
    }


@pytest.mark.parametrize("portable", IN_C)
@pytest.mark.parametrize("name", materials())
def test_inflated_equals_what_was_deflated(name: str, portable: bool) -> None:
    data = materials()[name]
    streams = [compressed(data, level, strategy) for level in (0, 1, 6, 9) for strategy in range(5)]
    streams += [compressed(data, 6, 0, window, memory) for window in range(9, 16) for memory in (1, 9)]
    streams.append(b"\x08\x1d" + streams[5][2:])
    for stream in streams:
        for piece in (len(stream), 1000, 37, 1):
            assert beginning(stream, len(data), piece, portable) == data
        assert beginning(stream, len(data) + 1, 999, portable) is None
        part = len(data) // 3
        assert beginning(stream, part, 999, portable) == data[:part]


class Bits:
    """A stream written bit by bit, as RFC 1951 wants it."""

    def __init__(self) -> None:
        self.value, self.size = 0, 0

    def add(self, value: int, size: int) -> Bits:
        self.value |= value << self.size
        self.size += size
        return self

    def code(self, code: int, size: int) -> Bits:
        """Of a Huffman code, whose first bit is the highest."""
        return self.add(int(f"{code:0{size}b}"[::-1], 2), size)

    def stream(self, rest: bytes = b"") -> bytes:
        return b"\x78\x01" + self.value.to_bytes(-(-self.size // 8), "little") + rest


def dynamic(litlens: list[int], distances: list[int], lengths: dict[int, int] | None = None) -> Bits:
    """A dynamic block's header, the lengths of whose codes are written one by one; lengths: of their own codes."""
    given = lengths or dict.fromkeys(range(16), 4)
    bits = Bits().add(1, 1).add(2, 2).add(len(litlens) - 257, 5).add(len(distances) - 1, 5).add(15, 4)
    for symbol in (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15):
        bits.add(given.get(symbol, 0), 3)
    for length in (*litlens, *distances):
        bits.code(length, 4)
    return bits


def litlens(**lengths: int) -> list[int]:
    """257 or more lengths: names are s97 for symbol 97."""
    size = max(257, *(int(name[1:]) + 1 for name in lengths))
    return [lengths.get(f"s{symbol}", 0) for symbol in range(size)]


def repeated(distances: int) -> Bits:
    """A dynamic block's header for literal 97 and the end of the block, whose last three lengths are zeros at once."""
    bits = Bits().add(1, 1).add(2, 2).add(0, 5).add(distances - 1, 5).add(14, 4)
    for symbol in (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1):
        bits.add({17: 2, 18: 1, 1: 2}.get(symbol, 0), 3)
    one, three, many = (2, 2), (3, 2), (0, 1)
    bits.code(*many).add(97 - 11, 7).code(*one).code(*many).add(138 - 11, 7).code(*many).add(20 - 11, 7)
    return bits.code(*one).code(*three).add(0, 3)


def crafted() -> dict[str, bytes]:
    end = litlens(s97=1, s256=1)
    match = litlens(s97=2, s256=2, s257=1)
    deep = litlens(**{f"s{n}": min(n + 1, 15) for n in range(15)}, s256=15)
    fixed = Bits().add(1, 1).add(1, 2)
    tail = bytes(8)
    return {
        "a literal": dynamic(end, [0]).code(0, 1).code(1, 1).stream(tail),
        "only the end": dynamic(litlens(s256=1), [0]).code(0, 1).stream(tail),
        "only the end, its other code": dynamic(litlens(s256=1), [0]).code(1, 1).stream(tail),
        "a code of two bits alone": dynamic(litlens(s256=2), [0]).code(0, 2).stream(tail),
        "too many codes": dynamic(litlens(s97=1, s98=1, s256=1), [0]).stream(tail),
        "too few codes": dynamic(litlens(s97=2, s256=2), [0]).code(0, 2).code(1, 2).stream(tail),
        "too many distances": dynamic(end, [1, 1, 1]).stream(tail),
        "too few distances": dynamic(end, [2, 2]).code(0, 1).code(1, 1).stream(tail),
        "no end": dynamic(litlens(s97=1, s98=1), [0]).stream(tail),
        "codes of 15 bits": dynamic(deep, [0]).code(0x7FFE, 15).code(0x3FFE, 14).code(0x7FFF, 15).stream(tail),
        "a match": dynamic(match, [1]).code(2, 2).code(0, 1).code(0, 1).code(3, 2).stream(tail),
        "a match, the unused distance": dynamic(match, [1]).code(2, 2).code(0, 1).code(1, 1).stream(tail),
        "a match without distances": dynamic(match, [0]).code(2, 2).code(0, 1).code(0, 1).stream(tail),
        "a match before the beginning": dynamic(match, [1]).code(0, 1).code(0, 1).stream(tail),
        "a match too far back": dynamic(match, [0, 1]).code(2, 2).code(0, 1).code(0, 1).stream(tail),
        "287 literals and lengths": dynamic([1, *[0] * 255, 1, *[0] * 30], [0]).code(0, 1).code(1, 1).stream(tail),
        "31 distances": dynamic(end, [1, *[0] * 30]).code(0, 1).code(1, 1).stream(tail),
        "no lengths of lengths": dynamic(end, [0], {0: 0}).stream(tail),
        "too many lengths of lengths": dynamic(end, [0], dict.fromkeys(range(17), 4)).stream(tail),
        "one length of lengths": dynamic(end, [0], {0: 1}).stream(tail),
        "fixed": fixed.code(0x30 + 97, 8).code(1, 7).code(0, 5).code(0, 7).stream(tail),
        "a reserved kind": Bits().add(1, 1).add(3, 2).stream(tail),
        "stored": Bits().add(1, 1).add(0, 7).stream(b"\3\0\xfc\xffabc" + tail),
        "stored, wrong complement": Bits().add(1, 1).add(0, 7).stream(b"\3\0\xfc\xfeabc" + tail),
        "stored, cut off": Bits().add(1, 1).add(0, 7).stream(b"\3\0\xfc\xffab"),
        "stored after coded": Bits()
        .add(0, 1)
        .add(1, 2)
        .code(0x30 + 97, 8)
        .code(0, 7)
        .add(1, 1)
        .add(0, 5)
        .stream(b"\2\0\xfd\xffbc" + tail),
        "a repeat of no length": Bits()
        .add(1, 1)
        .add(2, 2)
        .add(0, 5)
        .add(0, 5)
        .add(0, 4)
        .add(1, 3)
        .add(1, 3)
        .stream(tail),
        "a repeat beyond the last length": repeated(2).code(0, 1).code(1, 1).stream(tail),
        "a repeat up to the last length": repeated(3).code(0, 1).code(1, 1).stream(tail),
        "fixed length 286": Bits().add(1, 1).add(1, 2).code(0x30 + 97, 8).code(0xC6, 8).stream(tail),
        "fixed distance 30": Bits().add(1, 1).add(1, 2).code(0x30 + 97, 8).code(1, 7).code(30, 5).stream(tail),
    }


@pytest.mark.parametrize("portable", IN_C)
@pytest.mark.parametrize("name", crafted())
def test_crafted_streams_are_inflated_or_refused_as_zlib_does(name: str, portable: bool) -> None:
    stream = crafted()[name]
    for size in (1, 2, 3, 4, 5):
        expected = first_bytes(stream, size)
        for piece in (1, 3, len(stream)):
            found = beginning(stream, size, piece, portable)
            # Either may meet damage before it counts the bytes in front of it.
            assert found == expected or (None in (found, expected) and is_damaged(stream)), (size, piece)


@pytest.mark.parametrize("portable", IN_C)
@pytest.mark.parametrize("name", crafted())
def test_crafted_streams_with_a_right_checksum_are_refused_where_zlib_does(name: str, portable: bool) -> None:
    body = crafted()[name].removesuffix(bytes(8))
    given, _ = as_far_as_it_goes(inflater(body + bytes(8), 999, portable))
    stream = body + zlib.adler32(given).to_bytes(4, "big")
    (_, error), (_, expected) = (as_far_as_it_goes(inflater(stream, 999, kind)) for kind in (portable, None))
    assert type(error) is type(expected)


@pytest.mark.parametrize("portable", IN_C)
@pytest.mark.parametrize("seed", range(12))
def test_symbols_of_all_lengths_in_any_order(seed: int, portable: bool) -> None:
    random = np.random.default_rng(seed)
    literals = random.choice(256, 6, False).tolist()
    symbols = random.permutation([*literals, 256, 257, 258, 259, 264, 265, 270, 279, 284, 285]).tolist()
    farther = random.choice(range(1, 30), 15, False).tolist()
    places = [0, *farther] if seed % 2 else [*farther, 0]
    lengths, distances = [0] * 286, [0] * 30
    for k, (symbol, place) in enumerate(zip(symbols, places, strict=True)):
        lengths[symbol] = distances[place] = min(k + 1, 15)
    codes, far = canonical(lengths), canonical(distances)
    bits = dynamic(lengths, distances)
    extra = {265: 1, 270: 2, 279: 4, 284: 5}
    for symbol in random.choice([one for one in codes if one != 256], 3000):
        bits.code(*codes[symbol])
        if symbol > 256:
            bits.add(int(random.integers(1 << extra.get(symbol, 0))), extra.get(symbol, 0))
            place = int(random.choice(list(far)))
            more = max(place // 2 - 1, 0)
            bits.code(*far[place]).add(int(random.integers(1 << more)), more)
    bits.code(*codes[256])
    stream = behind_stored(random.bytes(40_000), bits)
    data = zlib.decompress(stream)
    assert len(data) > 50_000
    assert as_far_as_it_goes(inflater(stream, 60_000, portable)) == (data, None)


def canonical(lengths: list[int]) -> dict[int, tuple[int, int]]:
    """Code and length of each symbol that has one."""
    code, found = 0, {}
    for length in range(1, 16):
        for symbol in (one for one, given in enumerate(lengths) if given == length):
            found[symbol] = code, length
            code += 1
        code *= 2
    return found


def behind_stored(before: bytes, bits: Bits) -> bytes:
    """A whole stream: a block that is stored, and one that begins on a byte."""
    size = len(before)
    blocks = b"\0" + size.to_bytes(2, "little") + (size ^ 0xFFFF).to_bytes(2, "little") + before + bits.stream()[2:]
    data = zlib.decompressobj(-15).decompress(blocks)
    return b"\x78\x01" + blocks + zlib.adler32(data).to_bytes(4, "big")


@pytest.mark.parametrize("portable", IN_C)
def test_matches_reach_as_far_as_the_window_and_no_further(portable: bool) -> None:
    far = Bits().add(1, 1).add(1, 2)
    for _ in range(2400):  # of 258 bytes, 32768 back
        far.code(0xC5, 8).code(29, 5).add(8191, 13)
    stream = behind_stored(np.random.default_rng(1).bytes(32768), far.code(0, 7))
    found, error = as_far_as_it_goes(inflater(stream, 10_000, portable))
    assert error is None
    assert found == zlib.decompress(stream)
    for literals in (1, 2, 3):
        for back, good in ((literals, True), (literals + 1, False)):
            near = Bits().add(1, 1).add(1, 2)
            for _ in range(literals):
                near.code(0x30 + 97, 8)
            stream = near.code(1, 7).code(back - 1, 5).code(0, 7).stream(bytes(100))
            found, _ = as_far_as_it_goes(inflater(stream, len(stream), portable))
            assert found == b"a" * (literals + 3 * good)


@pytest.mark.parametrize("portable", IN_C)
def test_headers_are_taken_that_zlib_takes(portable: bool) -> None:
    rest = zlib.compress(b"abc")[2:]
    for first in range(256):
        whole = (first << 8) // 31 * 31
        for second in {(check - (first << 8)) & 255 for check in range(whole, whole + 300, 31)} | {1}:
            stream = bytes([first, second]) + rest
            expected = first_bytes(stream, 3)
            found, _ = as_far_as_it_goes(inflater(stream, 99, portable))
            assert found == (expected or b"")


@pytest.mark.parametrize("portable", IN_C)
@pytest.mark.parametrize("joined", [True, False])
def test_symbols_of_the_most_bits_stand_behind_any_number_of_literals(joined: bool, portable: bool) -> None:
    # Lengths of 15 + 5 bits and distances of 15 + 13, behind literals of the most bits that a table tells at once.
    shortest = {"s97": 1} if joined else {"s257": 1}
    longer = {f"s{97 + n}": n + 1 for n in range(1, 9)}
    lengths = litlens(**shortest, **longer, s65=10, s256=11, s281=12, s282=13, s66=14, s283=15, s284=15)
    distances = [1, 2, *range(3, 15), *[0] * 14, 15, 15]
    if not joined:
        distances[:2] = 2, 1
    random = np.random.default_rng(3)
    for _ in range(5):
        bits = dynamic(lengths, distances)
        for literals in random.integers(1, 9, 200):
            for is_long in random.random(literals) < 0.8:
                bits.code(0x3FE, 10) if is_long else bits.code(2, 2)
            bits.code(0x7FFE, 15).add(int(random.integers(32)), 5)
            bits.code(0x7FFF, 15).add(int(random.integers(8192)), 13)
        bits.code(0x7FE, 11)
        stream = behind_stored(random.bytes(40_000), bits)
        data = zlib.decompress(stream)
        assert len(data) > 70_000
        assert as_far_as_it_goes(inflater(stream, 60_000, portable)) == (data, None)


@pytest.mark.parametrize("portable", IN_C)
def test_a_stream_cut_off_anywhere_is_inflated_as_far_as_it_goes(portable: bool) -> None:
    data = materials()["steps"][:3000]
    for kind in ((6, 0), (1, zlib.Z_RLE), (6, zlib.Z_FIXED), (0, 0)):
        stream = compressed(data, *kind)
        for length in range(len(stream)):
            for size in (1, 500, 2999):
                found = beginning(stream[:length], size, 50, portable)
                assert found == first_bytes(stream[:length], size), (kind, length, size)


@pytest.mark.parametrize("portable", ALL)
@pytest.mark.parametrize("size", [0, 1, 70_000, 1_500_001])
def test_a_whole_stream_comes_in_pieces_of_the_size_that_is_asked_for(size: int, portable: bool | None) -> None:
    data = np.random.default_rng(size).integers(0, 60, size, np.uint8).tobytes()
    stream = zlib.compress(data, 1)
    for most in (1 << 10, 1 << 18, 1 << 22):
        whole = inflater(stream + b"behind", 9_999, portable)
        pieces = []
        while piece := whole.inflated(most):
            pieces.append(piece)
        assert b"".join(pieces) == data
        assert max(map(len, pieces), default=0) <= most
        assert whole.inflated(1) == b""
        assert whole.left() == min(len(b"behind"), 9_999 - len(stream) % 9_999)


@pytest.mark.parametrize("portable", ALL)
def test_what_is_wrong_is_told_behind_all_that_is_right(portable: bool | None) -> None:
    data = os.urandom(400_000) + bytes(400_000)
    stream = zlib.compress(data)
    wrong = {
        "damaged": stream[:-1] + bytes([stream[-1] ^ 1]),
        "cut": stream[:-1],
        "cut before its checksum": stream[:-4],
        "half of it": stream[: len(stream) // 2],
        "no header": b"x" + stream,
        "nothing": b"",
    }
    for name, bad in wrong.items():
        whole = inflater(bad, 65_536, portable)
        found, error = as_far_as_it_goes(whole)
        assert type(error) is (ValueError if name in ("damaged", "no header") else EOFError)
        assert found == data[: len(found)]
        if name.startswith("cut"):
            assert found == data
        again, error_again = as_far_as_it_goes(whole)
        assert again == b""
        assert type(error_again) is type(error)


@pytest.mark.parametrize("portable", ALL)
def test_what_a_reader_raises_comes_out(portable: bool | None) -> None:
    stream = zlib.compress(os.urandom(100_000))
    pieces = iter([stream[:1000], stream[1000:50_000]])

    def read() -> bytes:
        try:
            return next(pieces)
        except StopIteration:
            raise OSError(5, "no more of that") from None

    _, error = as_far_as_it_goes(by(read, portable))
    assert isinstance(error, OSError)
    assert str(error) == "[Errno 5] no more of that"


@pytest.mark.parametrize("portable", IN_C)
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_what_a_reader_raises_comes_out_behind_a_whole_stream_too(portable: bool, error: type) -> None:
    for data in (b"", b"x" * 1000, b"xy" * 150_000):  # which end in few bits, so that more is asked for before
        pieces = iter([zlib.compress(data)])

        def read(pieces: Iterator[bytes] = pieces) -> bytes:
            for piece in pieces:
                return piece
            raise error

        whole = by(read, portable)
        with pytest.raises(error):
            whole.inflated(1 << 20)
        with pytest.raises(ValueError, match="damaged"):
            whole.inflated(1)


@needs_c
def test_a_reader_that_gives_no_bytes_is_refused() -> None:
    with pytest.raises(TypeError):
        Inflater(lambda: "text").inflated(10)  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match="size must be positive"):
        inflater(zlib.compress(b"x"), 99, False).inflated(0)


@needs_c
def test_a_stream_belongs_to_one_thread_at_a_time() -> None:
    stream, inside, done = zlib.compress(bytes(1_000_000)), threading.Event(), threading.Event()
    pieces = reader(stream, len(stream))

    def read() -> bytes:
        inside.set()
        assert done.wait(30)
        return pieces()

    whole = Inflater(read)
    found: list[bytes] = []
    thread = threading.Thread(target=lambda: found.append(whole.inflated(1_000_000)))
    thread.start()
    assert inside.wait(30)
    with pytest.raises(ValueError, match="another thread inflates this stream"):
        whole.inflated(1)
    done.set()
    thread.join(30)
    assert found == [bytes(1_000_000)]


@needs_c
def test_a_reader_may_not_ask_for_what_it_is_asked_for() -> None:
    whole: Inflater
    whole = Inflater(lambda: whole.inflated(1))
    with pytest.raises(ValueError, match="another thread inflates this stream"):
        whole.inflated(1)


@needs_c
def test_a_piece_and_its_reader_are_let_go() -> None:
    piece = zlib.compress(os.urandom(5_000))
    before = sys.getrefcount(piece)
    kind = type(Inflater(bytes)._stream)
    streams = sys.getrefcount(kind)

    def read() -> bytes:
        return piece

    for _ in range(10):
        whole = Inflater(read)
        assert len(whole.inflated(100)) == 100
        del whole
    assert sys.getrefcount(piece) == before
    assert sys.getrefcount(kind) == streams
    assert sys.getrefcount(read) <= 3


@needs_c
def test_damaged_streams_are_refused_where_zlib_refuses_them() -> None:
    random = np.random.default_rng(5)
    refused = 0
    for name, data in materials().items():
        for level, strategy in ((0, 0), (1, zlib.Z_RLE), (6, 0), (6, zlib.Z_FIXED), (9, zlib.Z_HUFFMAN_ONLY)):
            whole = compressed(data[:20_000], level, strategy)
            for _ in range(12):
                bad = bytearray(whole)
                for at in random.integers(0, len(bad), random.integers(1, 4)):
                    bad[at] ^= 1 << int(random.integers(8))
                piece = int(random.integers(1, 5000))
                wholes = [inflater(bytes(bad), piece, portable) for portable in (False, True, None)]
                ends = [(*as_far_as_it_goes(whole), whole.left()) for whole in wholes]
                good = [(found, left) for found, error, left in ends if error is None]
                assert len(good) in (0, 3), name
                assert len(set(good)) < 2, name
                refused += not good
    assert refused > 300


@needs_c
def test_what_is_damaged_and_what_is_cut_off_are_told_apart_as_zlib_does() -> None:
    text = (b"the quick brown fox %d jumps, " * 12) % tuple(range(12))
    flushed = zlib.compressobj(9)
    streams = [compressed(text, 9, kind) for kind in (zlib.Z_FIXED, zlib.Z_HUFFMAN_ONLY)]
    streams += [compressed(bytes(600) + b"abc" * 60, 6, zlib.Z_RLE), compressed(text[:60], 0, 0), zlib.compress(b"")]
    streams.append(flushed.compress(text[:99]) + flushed.flush(zlib.Z_FULL_FLUSH) + flushed.flush(zlib.Z_PARTIAL_FLUSH))
    verdicts: list[type] = []
    for stream in streams:
        flips = [(at, 1 << bit) for at in range(len(stream)) for bit in range(8)]
        changed = [stream[:at] + bytes([stream[at] ^ flip]) + stream[at + 1 :] for at, flip in flips]
        for bad in changed + [stream[:size] for size in range(len(stream))]:
            wholes = [inflater(bad, piece, portable) for piece, portable in ((5, True), (5, False), (999, None))]
            kinds = {type(as_far_as_it_goes(whole)[1]) for whole in wholes}
            assert len(kinds) == 1, bad
            verdicts += kinds
    assert min(verdicts.count(ValueError), verdicts.count(EOFError)) > 300
