"""A server's archive of faces, read strictly: a tar of ordinary files as ours writes them, and of nothing else.

Whoever answers may be hostile: a name is only looked at, what is read of a header is bounded, and links, devices,
folders, and everything else that a tar may hold are refused.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from gpu_extract.errors import InputError
from gpu_extract.storage import pax

BLOCK = tarfile.BLOCKSIZE
READ_BYTES = 1 << 18
LONGEST_HEADER = 1 << 16
"""Of what stands before a member whose name does not fit into one block."""
SHA256 = "GPU_EXTRACT.sha256"
"""The header that tells what a member's bytes are."""
_SIZE = re.compile(r"[0-9]{1,18}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Source(Protocol):
    """Where an archive is read from."""

    def read(self, count: int) -> bytes: ...


class EndedError(Exception):
    """The archive ends before its end."""


@dataclass
class Member:
    """A file of an archive; its bytes are read before the next one comes.

    Attributes:
        sha256: of its bytes, where the server says it.
    """

    name: str
    size: int
    sha256: str | None
    _source: Source

    def blocks(self) -> Iterator[bytes]:
        """
        Raises:
            EndedError: if the archive ends in it.
        """
        left = self.size
        while left:
            block = self._source.read(min(READ_BYTES, left))
            if not block:
                raise EndedError
            left -= len(block)
            yield block
        _exactly(self._source, -self.size % BLOCK)


def members(source: Source) -> Iterator[Member]:
    """
    Raises:
        EndedError: if the archive ends before its end.
        InputError: if it is none, or holds anything but ordinary files.
    """
    while True:
        entry = _header(source)
        if entry is None:
            return
        told: dict[str, str] = {}
        if entry.type == tarfile.XHDTYPE:
            if not 0 < entry.size <= LONGEST_HEADER:
                raise _strange("a header of it is too long")
            told = _records(_exactly(source, entry.size))
            _exactly(source, -entry.size % BLOCK)
            entry = _header(source)
        if entry is None or entry.type != tarfile.REGTYPE:
            raise _strange("it holds something else than files")
        digest, size = told.get(SHA256), told.get("size", str(entry.size))
        if not _SIZE.fullmatch(size) or (digest is not None and not _DIGEST.fullmatch(digest)):
            raise _strange("a header of it is not understood")
        yield Member(told.get("path", entry.name), int(size), digest, source)


def _header(source: Source) -> tarfile.TarInfo | None:
    """The next header; None at the archive's end."""
    block = _exactly(source, BLOCK)
    if not block.strip(b"\0"):
        return None
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise _strange("a header of it is not understood") from error


def _records(data: bytes) -> dict[str, str]:
    found = pax.records(data)
    if found is None:
        raise _strange("a header of it is not understood")
    return found


def _exactly(source: Source, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        block = source.read(count - len(data))
        if not block:
            raise EndedError
        data += block
    return bytes(data)


def _strange(why: str) -> InputError:
    return InputError(f"the server's archive of faces is refused: {why}.")
