"""zlib streams that cannot exhaust memory on the way in and are written fast on the way out."""

from __future__ import annotations

import itertools
import math
import sys
import threading
import zlib
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, suppress
from queue import Empty, Queue
from typing import Any, BinaryIO

from gpu_extract.alignments.limits import Limits
from gpu_extract.errors import AlignmentsError
from gpu_extract.kernels.inflate import Inflater

fast: Any  # several times faster than zlib
try:
    from isal import isal_zlib as fast
except ImportError:
    fast = None

READ_BLOCK = 1 << 16  # of larger ones what a piece leaves would be copied again and again
INFLATE_BLOCK = 1 << 20
LARGE_FILE = 8 << 20  # bytes from which on another thread inflates
FIRST_READ_BLOCK = 1 << 20  # of that thread; the next are larger, for it waits for the interpreter's lock between calls
LARGEST_READ_BLOCK = 4 << 20
LARGE_INFLATE_BLOCK = 2 << 20
HANDOVER_SECONDS = 1e-4  # after which the lock is handed over meanwhile; in the usual 5 ms a MiB could be inflated
AHEAD = 2  # pieces
POLL_SECONDS = 0.01
THREAD = "inflate"
HEADER = b"\x78\x9c"  # what zlib writes at its default level
FAST_LEVEL = 2  # of isal
SMALL_STREAM = 8 << 20  # bytes up to which zlib's default level takes no noticeable time


def inflated(file: BinaryIO, stored: int, limits: Limits, label: str) -> Generator[bytes, None, None]:
    """The content of a zlib stream in pieces of at most 2 MiB; `stored` is the file's size in bytes.

    A large file is read by a thread of its own until the generator is closed.

    Raises AlignmentsError for damaged, truncated or followed-by-garbage streams, and when the content outgrows what
    `limits` grants a file of that size.
    """
    if stored < LARGE_FILE:
        yield from _inflated(file, stored, limits, label, itertools.repeat(READ_BLOCK), INFLATE_BLOCK)
        return
    large = _inflated(file, stored, limits, label, _growing(), LARGE_INFLATE_BLOCK)
    with closing(_ahead(large)) as pieces:
        yield from pieces


def _growing() -> Iterator[int]:
    block = FIRST_READ_BLOCK
    while True:
        yield block
        block = min(2 * block, LARGEST_READ_BLOCK)


def _inflated(
    file: BinaryIO, stored: int, limits: Limits, label: str, read_blocks: Iterator[int], inflate_block: int
) -> Iterator[bytes]:
    allowed = limits.inflated(stored)
    inflater = Inflater(lambda: file.read(next(read_blocks)))
    total = 0
    while True:
        try:
            piece = inflater.inflated(inflate_block)
        except ValueError as error:
            raise AlignmentsError(f"{label} is damaged: its compressed content cannot be read ({error}).") from error
        except EOFError:
            raise AlignmentsError(f"{label} is truncated: its compressed content ends too early.") from None
        if not piece:
            break
        total += len(piece)
        if total > allowed:
            raise AlignmentsError(
                f"{label} has {stored} bytes and inflates to more than {allowed}; that is no alignments file."
            )
        yield piece
    if inflater.left() or file.read(1):
        raise AlignmentsError(f"{label} has bytes after its end; it was damaged or put together from several files.")


def _ahead(pieces: Iterator[bytes]) -> Generator[bytes, None, None]:
    """`pieces`, made by a thread while those before are looked at."""
    made: Queue[bytes | BaseException | None] = Queue(AHEAD)
    stopped = threading.Event()

    def make() -> None:
        try:
            for piece in pieces:
                made.put(piece)
                if stopped.is_set():
                    return
            made.put(None)
        except BaseException as error:  # whoever takes the pieces has it
            made.put(error)

    thread = threading.Thread(target=make, name=THREAD, daemon=True)
    try:
        thread.start()
    except RuntimeError:  # no more threads are allowed
        yield from pieces
        return
    try:
        with _handover:
            while (piece := made.get()) is not None:
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
    finally:
        stopped.set()
        while thread.is_alive():
            with suppress(Empty):
                made.get(timeout=POLL_SECONDS)


class _Handover:
    """While any thread is in it, the interpreter's lock is handed over sooner; what a host program sets stays."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = 0.0

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = sys.getswitchinterval()
                sys.setswitchinterval(min(self._before, HANDOVER_SECONDS))
            self._inside += 1

    def __exit__(self, *raised: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside and math.isclose(sys.getswitchinterval(), HANDOVER_SECONDS):
                sys.setswitchinterval(self._before)


_handover = _Handover()


def deflated(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """`chunks` as one zlib stream with the header of zlib's default level; large streams are packed less tightly."""
    source = iter(chunks)
    begun: list[bytes] = []
    size = 0
    for chunk in source:
        begun.append(chunk)
        size += len(chunk)
        if size > SMALL_STREAM:
            break
    deflater: Any
    if size <= SMALL_STREAM:
        deflater, adler32 = zlib.compressobj(wbits=-15), zlib.adler32
    elif fast:
        deflater, adler32 = fast.compressobj(FAST_LEVEL, fast.DEFLATED, -15), fast.adler32
    else:
        deflater, adler32 = zlib.compressobj(1, zlib.DEFLATED, -15), zlib.adler32
    checksum = 1
    yield HEADER
    for chunk in itertools.chain(begun, source):
        checksum = adler32(chunk, checksum)
        yield deflater.compress(chunk)
    yield deflater.flush() + checksum.to_bytes(4, "big")
