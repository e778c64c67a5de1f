"""PNG files as a row of chunks: how one begins, how to walk it, how to write a chunk, and whether one is whole."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection, Iterator
from typing import NamedTuple

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_LENGTH_AND_KIND = struct.Struct(">I4s")


class Chunk(NamedTuple):
    """Where a chunk lies in a file. `stop` is past the file's end where the file is cut off inside the chunk."""

    kind: bytes
    start: int
    """First byte of the data."""
    stop: int
    """The byte after the data, where the checksum begins."""

    @property
    def end(self) -> int:
        """The byte after the checksum."""
        return self.stop + 4

    @property
    def name(self) -> str:
        """The kind, for a sentence."""
        return self.kind.decode("latin-1")


def chunks(data: bytes, passed_over: bytes | None = None) -> Iterator[Chunk]:
    """The chunks of a file as their own lengths tell them, up to one that the file's end cuts off.

    Nothing is checked, the signature included; ends where too few bytes for a further chunk's length and kind are left.

    Args:
        passed_over: a kind of which none are given; a file may consist of hundreds of the same.
    """
    at, last = len(SIGNATURE), len(data) - 8
    unpack = _LENGTH_AND_KIND.unpack_from
    while at <= last:
        length, kind = unpack(data, at)
        if kind != passed_over:
            yield Chunk(kind, at + 8, at + 8 + length)
        at += length + 12


def without(data: bytes, kinds: Collection[bytes]) -> bytes:
    """The file without the chunks of some kinds; what follows its last whole chunk is left out, too."""
    kept = (data[chunk.start - 8 : chunk.end] for chunk in chunks(data) if chunk.kind not in kinds)
    return b"".join([SIGNATURE, *kept])


def is_intact(data: bytes, chunk: Chunk) -> bool:
    """Whether a chunk lies whole in the file and its checksum, the CRC-32 of kind and data, is right."""
    if chunk.end > len(data):
        return False
    (stored,) = struct.unpack_from(">I", data, chunk.stop)
    intact: bool = zlib.crc32(memoryview(data)[chunk.start - 4 : chunk.stop]) == stored
    return intact


def is_whole(data: bytes) -> bool:
    """Whether all chunks of a file have their checksums, up to its end."""
    for chunk in chunks(data):
        if not is_intact(data, chunk):
            return False
        if chunk.kind == b"IEND":
            return True
    return False


def chunk_bytes(kind: bytes, data: bytes) -> bytes:
    """One chunk: length, kind, data, checksum."""
    return b"".join((struct.pack(">I", len(data)), kind, data, struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))))
