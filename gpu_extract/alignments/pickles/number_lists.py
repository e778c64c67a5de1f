"""Long lists of numbers in a pickle, recognised whole and decoded together.

Picklers write a list of landmarks as hundreds of instructions that always come in the same order. `find` matches that
order at once, by every n-th byte where all instructions have one length and by a pattern elsewhere, so that a list
costs a few steps instead of hundreds, and `decode` turns the matched bytes of many lists into numbers with NumPy. What
does not match is left to the machine, instruction by instruction.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from gpu_extract.alignments.packed import DTYPES, PackedList

MIN_NUMBERS = 16  # flat lists of fewer are not worth it
MIN_POINTS = 4
INT_POINTS = 68  # the landmark set of the files whose landmarks are integers
BATCH = 1000  # picklers append so many items at a time

# The memo instruction behind every list and tuple: of protocols 4 and 5, of 2 and 3, and none.
PUTS = (rb"\x94", rb"(?:q.|r.{4})", rb"")
_INT = rb"(?:K.|M..|J.{4})"


def _compiled(pattern: bytes, put: bytes) -> re.Pattern[bytes]:
    return re.compile(pattern.replace(rb"P", put), re.DOTALL)


_TUPLES = [_compiled(rb"(P)\((?:%b{2}\x86(P)){%d}+e" % (_INT, INT_POINTS), put) for put in PUTS]
_LISTS = [_compiled(rb"(P)\((?:\](P)\(%b{2}e){%d}+e" % (_INT, INT_POINTS), put) for put in PUTS]


class Found(NamedTuple):
    """A list that ends before `end`; behind it the memo has `inner` more entries, where the list has one at all."""

    end: int
    value: PackedList
    form: str  # what `decode` has to do: "" nothing, "floats", "points 21", "points 22", "ints"
    memoized: bool
    inner: int


def find(buffer: bytes, i: int, memo_size: int) -> Found | None:
    """The number list whose EMPTY_LIST stands before `i`, if that is all in `buffer`."""
    first = buffer[i]
    if first == 0x94:
        put, at = PUTS[0], i + 1
    elif first == 0x28:
        put, at = PUTS[2], i
    elif first == 0x71 or first == 0x72:
        put, at = PUTS[1], i + (2 if first == 0x71 else 5)
    else:
        return None
    if at + 12 > len(buffer) or buffer[at] != 0x28:
        return None
    kind = buffer[at + 1]
    found: Found | None = None
    if kind == 0x5D and put is not PUTS[1]:
        found = _points(buffer, at + 1, put)
    elif kind == 0x47 and put is not PUTS[1]:
        found = _floats(buffer, at + 1, put)
    elif kind == 0x4B and put is not PUTS[1]:
        found = _small_ints(buffer, at, put)
    if found is None and (kind == 0x5D or kind == 0x4B or kind == 0x4D or kind == 0x4A):
        found = _int_points(buffer, i, at + 1, put, memo_size)
    return found


def _repeated(buffer: bytes, at: int, unit: int, op: bytes) -> int:
    """How often the instruction `op` stands at `at` and behind it, each time `unit` bytes on; counts up to `BATCH`."""
    codes = buffer[at : at + BATCH * unit : unit]
    return len(codes) - len(codes.lstrip(op))


def _points(buffer: bytes, start: int, put: bytes) -> Found | None:
    opening = b"]\x94(" if put else b"]("
    first = len(opening)
    unit = first + 19
    if buffer[start + unit - 1 : start + unit] != b"e":  # such as the rows of a matrix
        return None
    columns = (*enumerate(opening), (first, 0x47), (first + 9, 0x47), (first + 18, 0x65))
    end, more = start, BATCH
    while more == BATCH:
        at = end
        more = _repeated(buffer, at, unit, b"]")
        end = at + more * unit
        if any(buffer[at + place : end : unit].count(op) != more for place, op in columns):
            return None
    count = (end - start) // unit
    if count < MIN_POINTS or not _ends(buffer, end):
        return None
    value = PackedList(buffer[start:end], DTYPES["f8"], (count, 2))
    return Found(end + 1, value, f"points {unit}", bool(put), count)


def _floats(buffer: bytes, start: int, put: bytes) -> Found | None:
    end, more = start, BATCH
    while more == BATCH:
        more = _repeated(buffer, end, 9, b"G")
        end += more * 9
    count = (end - start) // 9
    if count < MIN_NUMBERS or not _ends(buffer, end):
        return None
    return Found(end + 1, PackedList(buffer[start:end], DTYPES["f8"], (count,)), "floats", bool(put), 0)


def _ends(buffer: bytes, end: int) -> bool:
    """Whether a list's items are appended there, and were all."""
    return buffer[end : end + 1] == b"e" and buffer[end + 1 : end + 2] != b"("


def _small_ints(buffer: bytes, start: int, put: bytes) -> Found | None:
    values = []
    end = start
    count = BATCH
    while count == BATCH and buffer[end : end + 1] == b"(":
        count = _repeated(buffer, end + 1, 2, b"K")
        stop = end + 1 + 2 * count
        if not count or buffer[stop : stop + 1] != b"e":
            return None
        values.append(buffer[end + 2 : stop : 2])
        end = stop + 1
    if count == BATCH and _is_single(buffer, end):
        values.append(buffer[end + 1 : end + 2])
        end += 3
    if end - start < 2 * MIN_NUMBERS + 2 or buffer[end : end + 1] == b"(" or _is_single(buffer, end):
        return None
    raw = b"".join(values)
    return Found(end, PackedList(raw, DTYPES["u1"], (len(raw),)), "", bool(put), 0)


def _is_single(buffer: bytes, at: int) -> bool:
    """Whether a small integer stands there that is appended on its own, as the one left over by full batches is."""
    return buffer[at : at + 1] == b"K" and buffer[at + 2 : at + 3] == b"a"


def _int_points(buffer: bytes, i: int, start: int, put: bytes, memo_size: int) -> Found | None:
    is_list = buffer[start] == 0x5D
    match = (_LISTS if is_list else _TUPLES)[PUTS.index(put)].match(buffer, i)
    if match is None or buffer[match.end() : match.end() + 1] in (b"", b"("):
        return None
    if put is PUTS[1]:
        # The entries in between are taken to be numbered in order, as every pickler does.
        numbers = [int.from_bytes(entry[1:], "little") for entry in match.groups()]
        if numbers != [memo_size, memo_size + INT_POINTS]:
            return None
    raw = buffer[start : match.end() - 1]
    value = PackedList(raw, DTYPES["i4"], (INT_POINTS, 2), list if is_list else tuple)
    return Found(match.end(), value, "ints", bool(put), INT_POINTS)


def decode(form: str, values: list[PackedList]) -> None:
    """Replace the pickle code in `values`, all of one form, by the numbers in it.

    Floats become float32 where that holds all of a list exactly, else float64.
    """
    if form == "ints":
        _decode_ints(values)
        return
    unit = 9 if form == "floats" else int(form.removeprefix("points "))
    code = np.frombuffer(b"".join([value.raw for value in values]), np.uint8).reshape(-1, unit)
    ends = (9,) if form == "floats" else (unit - 10, unit - 1)
    wide = np.concatenate([code[:, end - 8 : end] for end in ends], axis=1).view(">f8").astype(np.float64)
    with np.errstate(all="ignore"):
        narrow = wide.astype(np.float32)
    stops = np.cumsum([value.shape[0] for value in values])
    starts = np.concatenate([[0], stops[:-1]])
    exact = np.logical_and.reduceat((narrow == wide).all(-1), starts)
    for value, start, stop, is_exact in zip(values, starts.tolist(), stops.tolist(), exact.tolist(), strict=True):
        numbers = narrow[start:stop] if is_exact else wide[start:stop]
        value.raw = numbers.tobytes()
        value.dtype = numbers.dtype


_WIDTH = np.zeros(256, np.int64)
_WIDTH[[0x4B, 0x4D, 0x4A]] = 1, 2, 4
_PUT = np.zeros(256, np.int64)
_PUT[[0x94, 0x71, 0x72]] = 1, 2, 5
_MASK = np.array([0, 0xFF, 0xFFFF, 0, 0xFFFFFFFF], np.uint32)
_BYTES = np.arange(1, 5)


def _decode_ints(values: list[PackedList]) -> None:
    """All lists at once, number by number: instructions have different lengths, so each list has its own position."""
    for pair in (list, tuple):
        members = [value for value in values if value.pair is pair]
        if not members:
            continue
        code = np.frombuffer(b"".join([value.raw for value in members]) + bytes(8), np.uint8)
        at = np.cumsum([0, *(len(value.raw) for value in members[:-1])])
        numbers = np.empty((len(members), INT_POINTS, 2), np.int32)
        for point in range(INT_POINTS):
            if pair is list:
                at = at + 2 + _PUT[code[at + 1]]
            for axis in range(2):
                width = _WIDTH[code[at]]
                word = code[at[:, None] + _BYTES].view("<u4")[:, 0] & _MASK[width]
                numbers[:, point, axis] = word.view("<i4")
                at = at + 1 + width
            at = at + 1 + (_PUT[code[at + 1]] if pair is tuple else 0)
        for value, own in zip(members, numbers, strict=True):
            value.raw = own.tobytes()
