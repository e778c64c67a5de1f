"""PNG files of crops in plain NumPy: slow, and to the byte what `png` writes in C, for which it stands in.

`deflate.h` has the rules: a row gets the filter (Up, Average or Paeth) that leaves the smallest differences, rows fill
blocks of up to 65,535 bytes, and a block has a Huffman code of its own, runs of one byte, and no other repetitions.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from itertools import pairwise

import numpy as np

PIXEL = 3  # bytes
UP = 2  # the number of the first filter in PNG; the others follow it
BLOCK = 0xFFFF
LEAST_RUN, MOST_RUN = 5, 258
END_OF_BLOCK, FIRST_LENGTH, SYMBOLS = 256, 257, 286
LONGEST_CODE, LONGEST_ITEM_CODE = 14, 7
REPEAT, ZEROS, MANY_ZEROS, ITEMS = 16, 17, 18, 19
ITEM_BITS = {REPEAT: 2, ZEROS: 3, MANY_ZEROS: 7}
ITEM_ORDER = (REPEAT, ZEROS, MANY_ZEROS, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)
LENGTH_BITS = (*[0] * 8, *(symbol // 4 - 1 for symbol in range(8, 28)), 0)
LENGTH_BASE = (*np.cumsum([3, *(1 << bits for bits in LENGTH_BITS[:-2])]).tolist(), MOST_RUN)
"""The shortest run of each symbol from `FIRST_LENGTH` on."""


def encoded(crop: np.ndarray, text: bytes | None = None) -> bytes:
    """The file of a crop [H, W, 3] uint8 BGR, at least 1 x 1; `text` is data of an iTXt chunk before the pixels."""
    height, width = crop.shape[:2]
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))]
    if text is not None:
        chunks.append((b"iTXt", text))
    chunks += [(b"IDAT", _stream(_filtered(crop))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _filtered(crop: np.ndarray) -> np.ndarray:
    """[H, 1 + 3 W] uint8: each row after the number of its filter."""
    height, width = crop.shape[:2]
    padded = np.zeros((1 + height, PIXEL + PIXEL * width), np.int16)
    padded[1:, PIXEL:] = crop[:, :, ::-1].reshape(height, -1)
    row, left = padded[1:, PIXEL:], padded[1:, :-PIXEL]
    above, corner = padded[:-1, PIXEL:], padded[:-1, :-PIXEL]
    to_left, to_above, to_corner = abs(above - corner), abs(left - corner), abs(left + above - 2 * corner)
    nearer = np.where(to_above <= to_corner, above, corner)
    paeth = np.where((to_left <= to_above) & (to_left <= to_corner), left, nearer)
    ways = np.stack([row - above, row - (left + above >> 1), row - paeth]).astype(np.uint8)
    costs = abs(ways.view(np.int8).astype(np.int16)).sum(axis=2, dtype=np.int64)
    best = costs.argmin(axis=0)  # the first of equals
    chosen = ways[best, np.arange(height)]
    return np.concatenate([(UP + best).astype(np.uint8)[:, None], chosen], axis=1)


def _stream(rows: np.ndarray) -> bytes:
    """The zlib stream of filtered rows."""
    parts = list(_blocks(rows))
    bits = [_bits([(0x0178, 16)])]  # a window of 32 KB, no dictionary, the fastest level
    for number, block in enumerate(parts, start=1):
        is_last = number == len(parts)
        coded = _dynamic(block, is_last)
        bits += _stored(block, is_last, sum(map(len, bits))) if coded is None else [coded]
    return np.packbits(np.concatenate(bits), bitorder="little").tobytes() + struct.pack(
        ">I", zlib.adler32(rows.tobytes())
    )


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    """As many rows at a time as `BLOCK` bytes hold, or pieces of a longer row."""
    height, n = rows.shape
    together = max(BLOCK // n, 1)
    for first in range(0, height, together):
        data = rows[first : first + together].ravel()
        for start in range(0, len(data), BLOCK):
            yield data[start : start + BLOCK]


def _bits(fields: list[tuple[int, int]]) -> np.ndarray:
    """Values and how many bits each takes → uint8 [n] of 0 and 1, the lowest of each first."""
    values, counts = np.array(fields, np.int64).reshape(-1, 2).T
    return _spread(values, counts)


def _spread(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    bits = np.unpackbits(values.astype("<u4").view(np.uint8).reshape(-1, 4), axis=1, bitorder="little")
    return bits[np.arange(32) < counts[:, None]]


def _stored(block: np.ndarray, is_last: bool, before: int) -> list[np.ndarray]:
    n = len(block)
    head = _bits([(int(is_last), 3), (0, -(before + 3) % 8), (n, 16), (~n & 0xFFFF, 16)])
    return [head, np.unpackbits(block, bitorder="little")]


def _dynamic(block: np.ndarray, is_last: bool) -> np.ndarray | None:
    """The bits of a block with a code of its own; None where storing it takes no more."""
    plain, runs = _tokens(block)
    symbols = [END_OF_BLOCK, *(FIRST_LENGTH + symbol for _, symbol, _ in runs)]
    counts = np.bincount(block[plain], minlength=SYMBOLS) + np.bincount(symbols, minlength=SYMBOLS)
    lengths, codes = _codes(counts, LONGEST_CODE)
    header = _header(lengths, is_last)
    extra = sum(LENGTH_BITS[symbol] + 1 for _, symbol, _ in runs)
    if len(header) + int(counts @ lengths) + extra >= 8 * (len(block) + 4):
        return None
    values, widths = codes[block], np.where(plain, lengths[block], 0)
    for at, symbol, more in runs:
        width = lengths[FIRST_LENGTH + symbol]
        values[at] = codes[FIRST_LENGTH + symbol] | more << width
        widths[at] = width + LENGTH_BITS[symbol] + 1  # and distance 1, whose code is a zero bit
    end = _bits([(int(codes[END_OF_BLOCK]), int(lengths[END_OF_BLOCK]))])
    return np.concatenate([header, _spread(values, widths), end])


def _tokens(block: np.ndarray) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """Which bytes are written as they are, bool [n]; runs: a place of its own, its symbol, how much longer it is."""
    repeats = np.zeros(len(block) + 2, np.int8)
    repeats[2:-1] = block[1:] == block[:-1]  # with a zero at either end; the first byte repeats nothing
    edges = np.diff(repeats)
    plain, runs = np.ones(len(block), np.bool_), []
    for start, end in zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1), strict=True):
        if end - start < LEAST_RUN:
            continue
        at, left = int(start), int(end - start)
        while left > MOST_RUN:
            runs.append((at, len(LENGTH_BASE) - 1, 0))
            at, left = at + 1, left - MOST_RUN
        if left >= LENGTH_BASE[0]:
            symbol = int(np.searchsorted(LENGTH_BASE, left, side="right")) - 1
            runs.append((at, symbol, left - LENGTH_BASE[symbol]))
            left = 0
        plain[start : end - left] = False
    return plain, runs


def _header(lengths: np.ndarray, is_last: bool) -> np.ndarray:
    """The bits before a block's symbols: the lengths of their codes, themselves coded."""
    used = int(np.flatnonzero(lengths)[-1]) + 1
    # Distance 1 is all that is used, but not every decoder takes a code of one symbol.
    items = _items([*lengths[:used].tolist(), 1, 1])
    item_lengths, item_codes = _codes(np.bincount([item for item, _ in items], minlength=ITEMS), LONGEST_ITEM_CODE)
    given = max(place for place, item in enumerate(ITEM_ORDER, start=1) if item_lengths[item])
    fields = [(int(is_last) | 2 << 1, 3), (used - 257, 5), (1, 5), (given - 4, 4)]
    fields += [(int(item_lengths[item]), 3) for item in ITEM_ORDER[:given]]
    for item, more in items:
        fields += [(int(item_codes[item]), int(item_lengths[item])), (more, ITEM_BITS.get(item, 0))]
    return _bits(fields)


def _items(lengths: list[int]) -> list[tuple[int, int]]:
    """Code lengths as items: a length, or one of those that stand for some, and how many."""
    items: list[tuple[int, int]] = []
    edges = [0, *(i for i in range(1, len(lengths)) if lengths[i] != lengths[i - 1]), len(lengths)]
    for first, end in pairwise(edges):
        length, same = lengths[first], end - first
        if length != 0:
            items.append((length, 0))
            same -= 1
        while same >= 3:
            part = min(same, 138 if length == 0 else 6)
            if length != 0:
                items.append((REPEAT, part - 3))
            else:
                items.append((ZEROS, part - 3) if part <= 10 else (MANY_ZEROS, part - 11))
            same -= part
        items += [(length, 0)] * same
    return items


def _codes(counts: np.ndarray, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Lengths and bits, the first one lowest, of a Huffman code for two or more symbols that occur: int64 [symbols]."""
    order = [int(symbol) for symbol in np.argsort(counts, kind="stable") if counts[symbol]]
    of_length = _code_lengths([int(counts[symbol]) for symbol in order], longest)
    lengths = np.zeros(len(counts), np.int64)
    lengths[order] = np.repeat(np.arange(longest, 0, -1), of_length[:0:-1])
    following = [0, 0]
    for length in range(1, longest + 1):
        following.append((following[length] + of_length[length]) << 1)
    codes = np.zeros(len(counts), np.int64)
    for symbol, length in enumerate(lengths.tolist()):
        if length:
            codes[symbol] = int(f"{following[length]:0{length}b}"[::-1], 2)
            following[length] += 1
    return lengths, codes


def _code_lengths(weights: list[int], longest: int) -> list[int]:
    """How many codes have each length, from 0 on, for the rising weights of at least two symbols."""
    used = len(weights)
    weights = [*weights]
    parents: dict[int, int] = {}
    # Leaves lie in rising order and so do the nodes made of them: the lightest is at the front of either.
    leaf, inner = 0, used
    for node in range(used, 2 * used - 1):
        weights.append(0)
        for _ in range(2):
            if leaf < used and (inner == node or weights[leaf] <= weights[inner]):
                lightest, leaf = leaf, leaf + 1
            else:
                lightest, inner = inner, inner + 1
            weights[node] += weights[lightest]
            parents[lightest] = node
    depths = {2 * used - 2: 0}
    of_length = [0] * (longest + 1)
    for node in range(2 * used - 3, -1, -1):
        depths[node] = depths[parents[node]] + 1
        if node < used:
            of_length[min(depths[node], longest)] += 1
    # Codes that were cut claim too much. Each time, one of them joins a shorter one, which grows by a bit.
    claimed = sum(count << longest - length for length, count in enumerate(of_length))
    for _ in range(claimed - (1 << longest)):
        shorter = max(length for length in range(1, longest) if of_length[length])
        of_length[longest] -= 1
        of_length[shorter] -= 1
        of_length[shorter + 1] += 2
    return of_length
