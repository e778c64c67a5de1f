"""A pickle reader that knows data and nothing else.

It is a small machine of its own, not `pickle` with a filter: opcodes that build dicts, lists, tuples, text, bytes and
numbers are carried out here; the few named functions of NumPy that array pickles call are exact (module, name) pairs
with stand-ins of this module, so nothing is ever imported or called on behalf of a file. Everything else is refused
by name. The stream is read in pieces; neither it nor the lists of landmarks in it are ever held in memory as objects.

Long number lists and arrays are recognised whole by regular expressions and become `PackedList` / `PackedArray`. Where
a file uses the parts of such a list elsewhere too, it is read again without that shortcut (`_NeedsUnpackedError`).
"""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from gpu_extract.alignments.limits import Limits, check_tree, reason
from gpu_extract.alignments.packed import DTYPES, PackedArray, PackedList
from gpu_extract.alignments.pickles.number_lists import PUTS, decode, find
from gpu_extract.alignments.pickles.stand_ins import (
    HOLE,
    NDARRAY,
    NUMPY_2,
    RECONSTRUCT,
    Dtype,
    call,
    checked_array,
    set_state,
    stand_in,
)
from gpu_extract.errors import AlignmentsError, UnsafePickleError
from gpu_extract.kernels import opcodes

LOOKAHEAD = 1 << 16  # bytes that are buffered at the start of every instruction, where the stream has them
FILLED = 8  # as often as that is buffered at a time: number lists are decoded together, by the buffer
MAX_MEMO_GAP = 1000  # picklers number their memo entries one after the other
PACKED_COST = 4  # values that a packed list or array counts as, by the memory it takes beside its numbers
MAX_STACK = 100_000  # picklers work in batches of 1000


class _NeedsUnpackedError(Exception):
    """A packed list's inner parts are needed; read the file again without packing."""


FIELD_TYPES = (int, float, str, bytes, bool, type(None), PackedArray, PackedList)
SCALAR_TYPES = tuple({dtype.type for dtype in DTYPES.values()})
KINDS = (HOLE, RECONSTRUCT, NDARRAY, Dtype, PackedArray, PackedList)
LIST_DTYPES = (DTYPES["f4"], DTYPES["f8"], DTYPES["u1"])


class Pickle(NamedTuple):
    """What was pickled, and how."""

    root: Any
    protocol: int
    numpy_2: bool
    """Whether its arrays have the names of NumPy 2."""


def load(open_stream: Callable[[], Iterator[bytes]], stored: int, limits: Limits, label: str) -> Pickle:
    """Read one pickle.

    Args:
        open_stream: starts the stream of bytes again from its beginning.
        stored: bytes that the file has on disk, which bounds what it may expand to.
        label: the file's name for error sentences.

    Raises UnsafePickleError for anything that is not data, AlignmentsError for damage.
    """
    for packing in (True, False):
        machine = _Machine(open_stream(), limits, limits.values(stored), label, packing)
        try:
            root = machine.run()
        except _NeedsUnpackedError:
            continue
        except (IndexError, KeyError, TypeError, ValueError, OverflowError, UnicodeError, struct.error) as error:
            raise AlignmentsError(f"{label} is damaged: its pickle makes no sense ({reason(error)}).") from error
        # Unpickled containers may share parts, which multiplies what later walks see.
        check_tree(root, FIELD_TYPES + SCALAR_TYPES, limits.values(stored), label)
        return Pickle(root, machine.protocol, machine.numpy_2)
    raise AlignmentsError(f"{label} is damaged: its pickle refers to parts that it does not have.")


# How picklers write an array behind the name of `_reconstruct`, with each way of filling the memo.
_GET = rb"(h.|j.{4})"
_ARRAY = (
    _GET
    + rb"K\x00\x85(P)"
    + _GET
    + rb"\x87PRP\(K\x01((?:K.|M..|J.{4}){1,3}[\x85-\x87])P"
    + _GET
    + rb"([\x88\x89])(?:C(.)|B(.{4}))"
)
ARRAYS = [re.compile(_ARRAY.replace(rb"P", put), re.DOTALL) for put in PUTS]
ARRAY_ENDS = [re.compile(put + rb"t(" + put + rb")b", re.DOTALL) for put in PUTS]


MAX_ARRAY_HEADS = 8  # kinds of arrays of a file, such as landmarks, matrices and masks


class _ArrayHead(NamedTuple):
    """How an array begins, and what it is then: all others that begin so are of its kind, while the memo stays so."""

    code: bytes  # from behind the name of `_reconstruct` up to the numbers
    tail: bytes  # behind the numbers
    nbytes: int
    class_at: int  # in the memo
    dtype_at: int
    dtype: Dtype
    shape: tuple[int, ...]
    fortran: bool
    memoizes: bool


class _Machine:
    def __init__(self, stream: Iterator[bytes], limits: Limits, max_values: int, label: str, packing: bool) -> None:
        self.stream = _without_frames(stream)
        self.limits = limits
        self.max_values = max_values
        self.label = label
        self.packing = packing
        self.protocol = 0
        self.numpy_2 = False
        self.values = 0
        self.buffer = b""
        self.position = 0
        self.ended = False
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: list[Any] = []
        self.shapes: dict[bytes | tuple[int, ...], tuple[int, ...]] = {}
        self.array_heads: list[_ArrayHead] = []
        self.pending: dict[str, list[PackedList]] = {}  # lists that still hold pickle code, by its form

    # ---- the stream

    def fill(self, needed: int) -> None:
        """Drop what was read and buffer at least `needed` bytes, or all that is left."""
        if self.values > self.max_values or len(self.memo) > self.max_values + 80 * self.values:
            raise AlignmentsError(f"{self.label} holds too many values for its size; it looks built to exhaust memory.")
        if len(self.stack) > MAX_STACK or len(self.marks) > MAX_STACK:
            raise AlignmentsError(f"{self.label} is damaged: its pickle never closes what it opens.")
        self.decode_pending()
        pieces: list[bytes | memoryview] = [self.buffer[self.position :]]
        size = len(pieces[0])
        while size < needed:
            piece = next(self.stream, None)
            if piece is None:
                self.ended = True
                break
            pieces.append(piece)
            size += len(piece)
        self.buffer = b"".join(pieces)
        self.position = 0

    def take(self, count: int) -> bytes:
        if count > self.limits.max_string:
            raise AlignmentsError(
                f"{self.label} holds a value of {count} bytes; at most {self.limits.max_string} are read."
            )
        if self.position + count > len(self.buffer):
            self.fill(count)
            if count > len(self.buffer):
                raise AlignmentsError(f"{self.label} is truncated: its pickle ends in the middle.")
        start = self.position
        self.position += count
        return self.buffer[start : self.position]

    def line(self) -> bytes:
        size = LOOKAHEAD
        while (end := self.buffer.find(b"\n", self.position)) < 0:
            if self.ended or size > self.limits.max_string:
                raise AlignmentsError(f"{self.label} is truncated: its pickle ends in the middle.")
            self.fill(size)
            size *= 2
        start, self.position = self.position, end + 1
        return self.buffer[start:end]

    # ---- the machine

    def run(self) -> Any:
        """Carry out the whole stream; the frequent instructions here or in C, the others in `RARE`."""
        stack, marks, memo = self.stack, self.marks, self.memo
        in_c = self.packing and opcodes.is_available()
        push, mark, remember = stack.append, marks.append, memo.append
        buffer, i, safe = b"", 0, -1
        while True:
            if i > safe:
                if not self.ended:
                    self.position = i
                    self.fill(FILLED * LOOKAHEAD)
                    buffer, i = self.buffer, 0
                    safe = len(buffer) - (1 if self.ended else LOOKAHEAD)
                if i >= len(buffer):
                    raise AlignmentsError(f"{self.label} is truncated: its pickle ends in the middle.")
            if in_c:
                i, made = opcodes.run(
                    buffer, i, safe, self.limits.max_string, stack, marks, memo, self.shapes, KINDS, LIST_DTYPES
                )
                self.values += made
                if i > safe:
                    continue
            op = buffer[i]
            i += 1
            if op == 0x68 or op == 0x6A:  # BINGET, LONG_BINGET
                if op == 0x68:
                    value = memo[buffer[i]]
                    i += 1
                else:
                    value = memo[int.from_bytes(buffer[i : i + 4], "little")]
                    i += 4
                if value is RECONSTRUCT:
                    i = self.array_at(i)
                elif value is HOLE:
                    raise _NeedsUnpackedError
                else:
                    push(value)
            elif op == 0x4B:  # BININT1
                push(buffer[i])
                i += 1
            elif op == 0x94:  # MEMOIZE
                remember(stack[-1])
            elif op == 0x4D:  # BININT2
                push(buffer[i] | buffer[i + 1] << 8)
                i += 2
            elif op == 0x8C:  # SHORT_BINUNICODE
                end = i + 1 + buffer[i]
                push(buffer[i + 1 : end].decode("utf-8", "surrogatepass"))
                i = end
            elif op == 0x28:  # MARK
                mark(len(stack))
            elif op == 0x75:  # SETITEMS
                start = marks.pop()
                self.update(stack[start - 1], stack[start:])
                del stack[start:]
            elif op == 0x7D:  # EMPTY_DICT
                push({})
            elif op == 0x5D:  # EMPTY_LIST
                i = self.list_at(i)
            elif op == 0x47:  # BINFLOAT
                push(_FLOAT(buffer, i)[0])
                i += 8
            elif op == 0x65:  # APPENDS
                start = marks.pop()
                self.extend(stack[start - 1], stack[start:])
                del stack[start:]
            elif op == 0x61:  # APPEND
                item = stack.pop()
                self.extend(stack[-1], (item,))
            elif op == 0x71:  # BINPUT
                self.put(buffer[i])
                i += 1
            elif op == 0x72:  # LONG_BINPUT
                self.put(int.from_bytes(buffer[i : i + 4], "little"))
                i += 4
            elif op == 0x4E:  # NONE
                push(None)
            elif op == 0x86:  # TUPLE2
                stack[-2:] = [(stack[-2], stack[-1])]
                self.values += 2
            elif op == 0x2E:  # STOP
                self.position = i
                return self.finish()
            else:
                self.position = i
                handler = RARE.get(op)
                if handler is None:
                    raise _unsafe(self.label, op)
                handler(self)
                buffer, i = self.buffer, self.position
                safe = len(buffer) - (1 if self.ended else LOOKAHEAD)

    def finish(self) -> Any:
        if len(self.stack) != 1 or self.marks:
            raise AlignmentsError(f"{self.label} is damaged: its pickle ends with loose ends.")
        if self.position < len(self.buffer) or any(self.stream):
            raise AlignmentsError(
                f"{self.label} has bytes after the end of its pickle; it was damaged or put together."
            )
        self.decode_pending()
        return self.stack[0]

    def pop_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def put(self, index: int) -> None:
        memo = self.memo
        if index == len(memo):
            memo.append(self.stack[-1])
        elif index < len(memo):
            memo[index] = self.stack[-1]
            self.values += 1
        elif index <= len(memo) + MAX_MEMO_GAP:
            memo.extend(itertools.repeat(HOLE, index - len(memo)))
            memo.append(self.stack[-1])
        else:
            raise UnsafePickleError(
                f"{self.label} uses memo number {index} out of order; it looks built to exhaust memory."
            )

    def get(self, index: int) -> None:
        value = self.memo[index]
        if value is HOLE:
            raise _NeedsUnpackedError
        self.stack.append(value)

    def update(self, target: Any, items: list[Any]) -> None:
        if type(target) is not dict:
            raise AlignmentsError(f"{self.label} is damaged: its pickle sets entries of something that is no dict.")
        keys = items[::2]
        for key in keys:
            # Text and small integers only: hashing a nested tuple can take for ever.
            if type(key) is not str and not (type(key) is int and -(1 << 31) <= key < 1 << 31):
                raise AlignmentsError(f"{self.label} has a dict key that is neither text nor a small integer.")
        target.update(zip(keys, items[1::2], strict=True))
        self.values += len(items)

    def extend(self, target: Any, items: list[Any] | tuple[Any]) -> None:
        if type(target) is PackedList:
            raise _NeedsUnpackedError
        if type(target) is not list:
            raise AlignmentsError(f"{self.label} is damaged: its pickle appends to something that is no list.")
        target.extend(items)
        self.values += len(items)

    # ---- shortcuts

    def list_at(self, i: int) -> int:
        """An EMPTY_LIST was read before `i`: push it, or all of it packed if it is a long list of numbers."""
        found = find(self.buffer, i, len(self.memo)) if self.packing else None
        if found is None:
            self.stack.append([])
            return i
        self.stack.append(found.value)
        self.values += PACKED_COST
        if found.form:
            self.pending.setdefault(found.form, []).append(found.value)
        if found.memoized:
            self.memo.append(found.value)
            self.memo.extend(itertools.repeat(HOLE, found.inner))
        return found.end

    def decode_pending(self) -> None:
        for form, values in self.pending.items():
            decode(form, values)
        self.pending.clear()

    def array_at(self, i: int) -> int:
        """`_reconstruct` was fetched before `i`: push the whole array that usually follows, else the marker."""
        memo, buffer = self.memo, self.buffer
        for known in self.array_heads:
            if buffer.startswith(known.code, i):
                start = i + len(known.code)
                end = start + known.nbytes
                if (
                    buffer.startswith(known.tail, end)
                    and memo[known.class_at] is NDARRAY
                    and memo[known.dtype_at] is known.dtype
                ):
                    array = PackedArray(buffer[start:end], known.dtype.dtype, known.shape, known.fortran)
                    self.push_array(array, memoizes=known.memoizes)
                    return end + len(known.tail)
        for variant, (head, tail) in enumerate(zip(ARRAYS, ARRAY_ENDS, strict=True)):
            found = head.match(buffer, i)
            if found is None:
                continue
            kind, first_put, _type_code, shape_code, dtype_get, fortran, short, long = found.groups()
            dtype = memo[_index(dtype_get)]
            start = found.end()
            end = start + (short[0] if short is not None else int.from_bytes(long, "little"))
            rest = tail.match(buffer, end)
            if rest is None or type(dtype) is not Dtype or memo[_index(kind)] is not NDARRAY:
                break
            if variant == 1 and (_index(first_put), _index(rest[1])) != (len(memo), len(memo) + 5):
                break
            shape = self.shapes.get(shape_code) or self.shape(shape_code)
            array = checked_array(buffer[start:end], dtype, shape, fortran == b"\x88", self.label)
            if variant != 1 and len(self.array_heads) < MAX_ARRAY_HEADS:
                self.array_heads.append(
                    _ArrayHead(
                        code=buffer[i:start],
                        tail=rest[0],
                        nbytes=end - start,
                        class_at=_index(kind),
                        dtype_at=_index(dtype_get),
                        dtype=dtype,
                        shape=shape,
                        fortran=array.fortran,
                        memoizes=variant == 0,
                    )
                )
            self.push_array(array, memoizes=variant < 2)
            return rest.end()
        self.stack.append(RECONSTRUCT)
        return i

    def push_array(self, array: PackedArray, *, memoizes: bool) -> None:
        self.stack.append(array)
        self.values += PACKED_COST
        if memoizes:
            # The memo entries of (0,), the three arguments, the array, its shape, its bytes, its state.
            self.memo.extend((HOLE, HOLE, array, HOLE, HOLE, HOLE))

    def shape(self, code: bytes) -> tuple[int, ...]:
        sizes = []
        at = 0
        while at < len(code) - 1:
            width = {0x4B: 1, 0x4D: 2, 0x4A: 4}[code[at]]
            sizes.append(int.from_bytes(code[at + 1 : at + 1 + width], "little"))
            at += 1 + width
        if len(sizes) != code[-1] - 0x84:
            raise AlignmentsError(f"{self.label} is damaged: the shape of an array makes no sense.")
        shape = tuple(sizes)
        if len(self.shapes) < 10_000:
            self.shapes[code] = shape
        return shape

    # ---- what pickles may name and call

    def find(self, module: Any, name: Any) -> None:
        self.stack.append(stand_in(module, name, self.label))
        self.numpy_2 |= module.startswith(NUMPY_2)

    def reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack.pop()
        self.stack.append(call(function, arguments, self.label))

    def build(self) -> None:
        state = self.stack.pop()
        set_state(self.stack[-1], state, self.label)

    # ---- rare instructions

    def text(self, count: int) -> None:
        self.stack.append(self.take(count).decode("utf-8", "surrogatepass"))

    def tuple_of(self, items: list[Any]) -> None:
        self.stack.append(tuple(items))
        self.values += len(items)

    def tuple_from_top(self, count: int) -> None:
        if len(self.stack) < count:
            raise AlignmentsError(f"{self.label} is damaged: its pickle takes more than it has.")
        items = self.stack[-count:]
        del self.stack[-count:]
        self.tuple_of(items)

    def dict_of(self, items: list[Any]) -> None:
        target: dict[Any, Any] = {}
        self.update(target, items)
        self.stack.append(target)

    def set_item(self) -> None:
        items = self.stack[-2:]
        del self.stack[-2:]
        self.update(self.stack[-1], items)

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "little")

    def small_number(self, count: int) -> int:
        if count > 1024:
            raise AlignmentsError(f"{self.label} holds an integer of {count} bytes; it looks built to waste time.")
        return int.from_bytes(self.take(count), "little", signed=True)

    def frame(self) -> None:
        self.take(8)
        self.values += 1

    def stack_global(self) -> None:
        name = self.stack.pop()
        self.find(self.stack.pop(), name)

    def set_protocol(self) -> None:
        self.values += 1
        self.protocol = self.take(1)[0]
        if self.protocol > 5:
            raise AlignmentsError(f"{self.label} is pickled with protocol {self.protocol}; protocols 0 to 5 are read.")

    def old_text(self, raw: bytes) -> None:
        self.stack.append(raw.decode("latin1"))

    def quoted(self) -> None:
        line = self.line().strip()
        if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"') or b"\\" in line:
            raise AlignmentsError(f"{self.label} is damaged: a text in its pickle is not quoted properly.")
        self.old_text(line[1:-1])

    def old_int(self, line: bytes) -> None:
        self.stack.append({b"00": False, b"01": True}[line] if line in (b"00", b"01") else int(line))


def _unsafe(label: str, op: int) -> AlignmentsError:
    name = FORBIDDEN.get(op)
    if name:
        return UnsafePickleError(
            f"{label} uses the pickle instruction {name}, which data never needs; nothing was run."
        )
    return AlignmentsError(f"{label} is damaged: its pickle has the unknown instruction 0x{op:02x}.")


def _index(get: bytes) -> int:
    return int.from_bytes(get[1:], "little")


def _without_frames(stream: Iterator[bytes]) -> Iterator[bytes | memoryview]:
    """Take out the frame headers of protocols 4 and 5, which else interrupt every 64 KiB what belongs together."""
    buffer, start = b"", 0

    def buffered(count: int) -> bool:
        nonlocal buffer, start
        while len(buffer) - start < count:
            piece = next(stream, None)
            if piece is None:
                return False
            buffer, start = buffer[start:] + piece, 0
        return True

    if buffered(2) and buffer[0] == 0x80:
        yield buffer[:2]
        start = 2
        while buffered(9):
            width = UNFRAMED.get(buffer[start])
            if width is None:
                break
            left = int.from_bytes(buffer[start + 1 : start + 1 + width], "little")
            if buffer[start] == FRAME:
                start += 9
            else:
                left += 1 + width
            while left and buffered(1):
                piece = memoryview(buffer)[start : start + left]  # copied once only, by whoever joins it with others
                start += len(piece)
                left -= len(piece)
                yield piece
    yield buffer[start:]
    yield from stream


_FLOAT = struct.Struct(">d").unpack_from
_M = _Machine

RARE: dict[int, Callable[[_Machine], None]] = {
    0x80: _M.set_protocol,
    0x95: _M.frame,
    0x88: lambda m: m.stack.append(True),
    0x89: lambda m: m.stack.append(False),
    0x49: lambda m: m.old_int(m.line()),  # INT
    0x4C: lambda m: m.stack.append(int(m.line().rstrip(b"L"))),  # LONG
    0x46: lambda m: m.stack.append(float(m.line())),  # FLOAT
    0x4A: lambda m: m.stack.append(m.small_number(4)),  # BININT
    0x8A: lambda m: m.stack.append(m.small_number(m.number(1))),  # LONG1
    0x8B: lambda m: m.stack.append(m.small_number(m.number(4))),  # LONG4
    0x53: _M.quoted,  # STRING
    0x54: lambda m: m.old_text(m.take(m.number(4))),  # BINSTRING
    0x55: lambda m: m.old_text(m.take(m.number(1))),  # SHORT_BINSTRING
    0x56: lambda m: m.stack.append(m.line().decode("raw-unicode-escape")),  # UNICODE
    0x58: lambda m: m.text(m.number(4)),  # BINUNICODE
    0x8D: lambda m: m.text(m.number(8)),  # BINUNICODE8
    0x43: lambda m: m.stack.append(m.take(m.number(1))),  # SHORT_BINBYTES
    0x42: lambda m: m.stack.append(m.take(m.number(4))),  # BINBYTES
    0x8E: lambda m: m.stack.append(m.take(m.number(8))),  # BINBYTES8
    0x96: lambda m: m.stack.append(m.take(m.number(8))),  # BYTEARRAY8
    0x6C: lambda m: m.stack.append(m.pop_mark()),  # LIST
    0x64: lambda m: m.dict_of(m.pop_mark()),  # DICT
    0x74: lambda m: m.tuple_of(m.pop_mark()),  # TUPLE
    0x29: lambda m: m.stack.append(()),  # EMPTY_TUPLE
    0x85: lambda m: m.tuple_from_top(1),
    0x87: lambda m: m.tuple_from_top(3),
    0x73: _M.set_item,
    0x67: lambda m: m.get(int(m.line())),  # GET
    0x70: lambda m: m.put(int(m.line())),  # PUT
    0x63: lambda m: m.find(m.line().decode("utf-8"), m.line().decode("utf-8")),  # GLOBAL
    0x93: _M.stack_global,
    0x52: _M.reduce,
    0x62: _M.build,
}

FRAME = 0x95
# Width of the length behind FRAME and behind the instructions that stand outside frames because of their size.
UNFRAMED = {FRAME: 8, 0x42: 4, 0x58: 4, 0x8D: 8, 0x8E: 8, 0x96: 8}

# Instructions that create objects of classes, reach outside the file, or make sets: no alignments file has them.
FORBIDDEN = {
    0x30: "POP", 0x31: "POP_MARK", 0x32: "DUP", 0x50: "PERSID", 0x51: "BINPERSID", 0x69: "INST", 0x6F: "OBJ",
    0x81: "NEWOBJ", 0x82: "EXT1", 0x83: "EXT2", 0x84: "EXT4", 0x8F: "EMPTY_SET", 0x90: "ADDITEMS", 0x91: "FROZENSET",
    0x92: "NEWOBJ_EX", 0x97: "NEXT_BUFFER", 0x98: "READONLY_BUFFER",
}  # fmt: skip
