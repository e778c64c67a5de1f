"""Writes pickles that the programs of the files' own time load: plain data, and arrays under NumPy 1's module names.

Those of files that came with NumPy 2's keep them, since they tell which program a file is of.

The stream is made in pieces, so that a large file never stands in memory twice.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpu_extract.alignments.packed import PackedArray, PackedList

DEFAULT_PROTOCOL = 4  # Python 3.4 and later read it
OLDEST_PROTOCOL = 2
PIECE = 1 << 14  # fragments that are joined into one piece
BATCH = 1000  # items a list or dict takes from the stack at a time, as in every pickler
MAX_KEYS = 200  # keys in the memo, which with the names of NumPy stays below 256 entries

_SMALL = [b"K%c" % value for value in range(256)]
_FLOAT = struct.Struct(">cd").pack
_LENGTH = struct.Struct("<cI").pack


def pickled(root: dict[Any, Any], protocol: int = DEFAULT_PROTOCOL, *, numpy_2: bool = False) -> Iterator[bytes]:
    """The pickle of `root` in pieces; protocols below 2 and above 4 become 2 and 4."""
    writer = _Writer(min(max(protocol, OLDEST_PROTOCOL), DEFAULT_PROTOCOL), "numpy._core" if numpy_2 else "numpy.core")
    yield b"\x80%c" % writer.protocol
    yield from writer.stream(root)
    writer.parts.append(b".")
    yield writer.joined()


class _Writer:
    def __init__(self, protocol: int, core: str) -> None:
        self.protocol = protocol
        self.multiarray = f"{core}.multiarray"
        self.parts: list[bytes] = []
        self.lists: list[tuple[int, PackedList]] = []  # number lists to be formatted together, and their places
        self.memo: dict[Any, bytes] = {}  # what to write instead of a value that stands in the stream already
        self.seen: set[str] = set()
        self.heads: dict[tuple[Any, ...], bytes] = {}

    def stream(self, mapping: dict[Any, Any]) -> Iterator[bytes]:
        """A dict of many entries, piece by piece; the frames' dict inside a versioned file likewise."""
        self.parts.append(b"}")
        entries = 0
        for key, value in mapping.items():
            if entries % BATCH == 0:
                self.parts.append(b"u(" if entries else b"(")
            entries += 1
            self.text(key) if type(key) is str else self.value(key)
            if key == "__data__" and type(value) is dict:
                yield from self.stream(value)
            else:
                self.value(value)
            if len(self.parts) >= PIECE:
                yield self.joined()
        if entries:
            self.parts.append(b"u")

    def joined(self) -> bytes:
        self.format_lists()
        piece = b"".join(self.parts)
        self.parts.clear()
        return piece

    def value(self, value: Any) -> None:
        kind = type(value)
        if kind is int:
            self.parts.append(_SMALL[value] if 0 <= value < 256 else _integer(value))
        elif kind is str:
            self.text(value)
        elif kind is dict:
            self.mapping(value)
        elif kind is PackedArray:
            self.array(value)
        elif kind is PackedList:
            self.lists.append((len(self.parts), value))
            self.parts.append(b"")
        elif value is None:
            self.parts.append(b"N")
        elif kind is bytes:
            self.bytes(value)
        elif kind is float:
            self.parts.append(_FLOAT(b"G", value))
        elif kind is list:
            self.sequence(value)
        elif kind is bool:
            self.parts.append(b"\x88" if value else b"\x89")
        elif kind is tuple:
            self.tuple(value)
        elif isinstance(value, np.ndarray):
            self.array(PackedArray.of(value))
        elif isinstance(value, np.generic):
            self.scalar(value)
        else:
            raise TypeError(f"a {kind.__name__} cannot stand in an alignments file")

    def mapping(self, mapping: dict[Any, Any]) -> None:
        parts = self.parts
        parts.append(b"}")
        memo, value_of = self.memo, self.value
        entries = 0
        for key, value in mapping.items():
            if entries % BATCH == 0:
                parts.append(b"u(" if entries else b"(")
            entries += 1
            known = memo.get(key)
            if known is not None:
                parts.append(known)
            elif type(key) is str:
                self.key(key)
            else:
                value_of(key)
            value_of(value)
        if entries:
            parts.append(b"u")

    def sequence(self, items: list[Any]) -> None:
        self.parts.append(b"]")
        for start in range(0, len(items), BATCH):
            self.parts.append(b"(")
            for item in items[start : start + BATCH]:
                self.value(item)
            self.parts.append(b"e")

    def tuple(self, items: tuple[Any, ...]) -> None:
        if len(items) > 3 or not items:
            self.parts.append(b"(" if items else b")")
        for item in items:
            self.value(item)
        if items:
            self.parts.append((b"t", b"\x85", b"\x86", b"\x87")[len(items) if len(items) <= 3 else 0])

    def key(self, key: str) -> None:
        """A dict key: one that comes a second time is remembered, later ones refer to it."""
        self.text(key)
        if key in self.seen and len(self.memo) < MAX_KEYS:
            self.remember(key)
        elif len(self.seen) < BATCH:
            self.seen.add(key)

    def remember(self, what: Any) -> None:
        number = len(self.memo)
        self.parts.append(b"\x94" if self.protocol >= 4 else b"q%c" % number)
        self.memo[what] = b"h%c" % number

    def text(self, text: str) -> None:
        raw = text.encode("utf-8", "surrogatepass")
        if self.protocol >= 4 and len(raw) < 256:
            self.parts.append(b"\x8c%c" % len(raw) + raw)
        else:
            self.parts.append(_LENGTH(b"X", len(raw)) + raw)

    def bytes(self, raw: bytes) -> None:
        if self.protocol < 3:
            self.name("_codecs", "encode")
            self.text(raw.decode("latin1"))
            self.text("latin1")
            self.parts.append(b"\x86R")
        else:
            self.parts.append(_bytes_head(len(raw)))
            self.parts.append(raw)

    def name(self, module: str, name: str) -> None:
        known = self.memo.get((module, name))
        if known is not None:
            self.parts.append(known)
            return
        if self.protocol >= 4:
            self.text(module)
            self.text(name)
            self.parts.append(b"\x93")
        else:
            self.parts.append(f"c{module}\n{name}\n".encode())
        self.remember((module, name))

    def dtype(self, dtype: np.dtype) -> None:
        sort = ("dtype", dtype.str)
        known = self.memo.get(sort)
        if known is not None:
            self.parts.append(known)
            return
        order = "|" if dtype.itemsize == 1 else ">" if dtype.byteorder == ">" else "<"
        self.name("numpy", "dtype")
        self.value((f"{dtype.kind}{dtype.itemsize}", False, True))
        self.parts.append(b"R")
        self.value((3, order, None, None, None, -1, -1, 0))
        self.parts.append(b"b")
        self.remember(sort)

    def array(self, array: PackedArray) -> None:
        raw = array.raw
        if self.protocol < 3:
            self.array_head(array)
            self.bytes(raw)
        else:
            # All arrays of one kind and length begin with the same instructions, once their names are in the memo.
            sort = (array.dtype, array.shape, array.fortran)
            head = self.heads.get(sort)
            if head is None:
                start, known = len(self.parts), len(self.memo)
                self.array_head(array)
                self.parts.append(_bytes_head(len(raw)))
                if len(self.memo) == known:
                    self.heads[sort] = b"".join(self.parts[start:])
            else:
                self.parts.append(head)
            self.parts.append(raw)
        self.parts.append(b"tb")

    def array_head(self, array: PackedArray) -> None:
        self.name(self.multiarray, "_reconstruct")
        self.name("numpy", "ndarray")
        self.parts.append(b"K\x00\x85")
        placeholder = self.memo.get(b"b")
        if placeholder is None:
            self.bytes(b"b")
            self.remember(b"b")
        else:
            self.parts.append(placeholder)
        self.parts.append(b"\x87R(K\x01")
        self.tuple(array.shape)
        self.dtype(array.dtype)
        self.parts.append(b"\x88" if array.fortran else b"\x89")

    def scalar(self, value: np.generic) -> None:
        self.name(self.multiarray, "scalar")
        self.dtype(value.dtype)
        self.bytes(value.tobytes())
        self.parts.append(b"\x86R")

    def format_lists(self) -> None:
        """Fill in the number lists that wait in `lists`, all of one sort in one go."""
        sorts: dict[tuple[Any, ...], list[tuple[int, PackedList]]] = {}
        for place, value in self.lists:
            sorts.setdefault((value.dtype, value.shape, value.pair), []).append((place, value))
        self.lists.clear()
        for (dtype, shape, pair), members in sorts.items():
            values = np.frombuffer(b"".join([value.raw for _, value in members]), dtype).reshape(-1, *shape)
            for (place, _), code in zip(members, _list_code(values, pair), strict=True):
                self.parts[place] = code


def _list_code(values: np.ndarray, pair: type) -> Iterator[bytes]:
    """For each of values [K, n], or of values [K, n, 2] with lists or tuples as pairs, the pickle of its list."""
    op, wire = _NUMBERS[values.dtype.str]
    number = [("op", "S1"), ("value", wire)]
    if values.ndim == 2:
        code = np.empty(values.shape, number)
        columns = {"": values}
    else:
        fields = [("x", number), ("y", number), ("close", "S1")]
        code = np.empty(values.shape[:2], [("open", "S2"), *fields] if pair is list else fields)
        if pair is list:
            code["open"] = b"]("
        code["close"] = b"e" if pair is list else b"\x86"
        columns = {"x": values[..., 0], "y": values[..., 1]}
    for name, column in columns.items():
        part = code[name] if name else code
        part["op"], part["value"] = op, column
    raw = code.tobytes()
    size = code.itemsize
    for start in range(0, len(raw), values.shape[1] * size):
        stop = start + values.shape[1] * size
        batches = [raw[at : min(at + BATCH * size, stop)] for at in range(start, stop, BATCH * size)]
        yield b"](" + b"e(".join(batches) + b"e"


# How the numbers of a packed list stand in a pickle: instruction and binary form.
_NUMBERS = {"<f4": (b"G", ">f8"), "<f8": (b"G", ">f8"), "<i4": (b"J", "<i4"), "|u1": (b"K", "u1")}


def _integer(value: int) -> bytes:
    if 0 <= value < 1 << 16:
        return b"M" + value.to_bytes(2, "little")
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + value.to_bytes(4, "little", signed=True)
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a%c" % len(raw) + raw if len(raw) < 256 else _LENGTH(b"\x8b", len(raw)) + raw


def _bytes_head(size: int) -> bytes:
    return b"C%c" % size if size < 256 else _LENGTH(b"B", size)
