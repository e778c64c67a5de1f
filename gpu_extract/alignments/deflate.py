"""zlib streams that cannot exhaust memory on the way in and are written fast on the way out."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from gpu_extract.alignments.limits import Limits
from gpu_extract.errors import AlignmentsError

fast: Any  # several times faster than zlib in both directions
try:
    from isal import isal_zlib as fast
except ImportError:
    fast = None

READ_BLOCK = 1 << 16  # of larger ones what a piece leaves would be copied again and again
INFLATE_BLOCK = 1 << 20
HEADER = b"\x78\x9c"  # what zlib writes at its default level
FAST_LEVEL = 2  # of isal
SMALL_STREAM = 8 << 20  # bytes up to which zlib's default level takes no noticeable time


def inflated(file: BinaryIO, stored: int, limits: Limits, label: str) -> Iterator[bytes]:
    """The content of a zlib stream in pieces of at most 1 MiB; `stored` is the file's size in bytes.

    Raises AlignmentsError for damaged, truncated or followed-by-garbage streams, and when the content outgrows what
    `limits` grants a file of that size.
    """
    allowed = limits.inflated(stored)
    inflater = (fast or zlib).decompressobj()
    errors: tuple[type[Exception], ...] = (zlib.error, fast.error) if fast else (zlib.error,)
    total = 0
    while not inflater.eof:
        block = inflater.unconsumed_tail or file.read(READ_BLOCK)
        try:
            piece = inflater.decompress(block, INFLATE_BLOCK)
        except errors as error:
            raise AlignmentsError(f"{label} is damaged: its compressed content cannot be read ({error}).") from error
        if not block and not piece:
            raise AlignmentsError(f"{label} is truncated: its compressed content ends too early.")
        total += len(piece)
        if total > allowed:
            raise AlignmentsError(
                f"{label} has {stored} bytes and inflates to more than {allowed}; that is no alignments file."
            )
        yield piece
    if inflater.unused_data or file.read(1):
        raise AlignmentsError(f"{label} has bytes after its end; it was damaged or put together from several files.")


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
