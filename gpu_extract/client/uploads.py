"""Files on their way to a server, by tus 1.0: in pieces, each from where the one before ended, whatever cut it."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import urlsplit

from gpu_extract.client.server import PIECE_MIB, CutError, Server, read_whole
from gpu_extract.errors import InputError
from gpu_extract.storage.inputs import open_input, unreadable

VERSION = "1.0.0"
PIECE_BYTES = PIECE_MIB << 20
BLOCK_BYTES = 1 << 18
ANSWER_SECONDS = 120.0
"""For the server to put the last piece on its disk."""
TELL_SECONDS = 10.0
WHAT = "the file to upload"
_HEADERS = {"Tus-Resumable": VERSION}
GONE, ELSEWHERE, HELD = (404, 410), 409, 423


class Source(Protocol):
    """What is sent.

    Attributes:
        name: as the server is told.
        size: bytes.
    """

    name: str
    size: int

    def blocks(self, offset: int, count: int) -> Iterator[bytes]:
        """A part of it; raises InputError if it is not what it was."""

    def check(self) -> None:
        """Raises InputError if it is not what it was."""


def upload(server: Server, path: Path, known: str | None = None) -> str:
    """Send a file, or what is missing of it; returns the upload's id.

    Args:
        known: id of an upload of the same file that was begun earlier.

    Raises:
        InputError: if the file cannot be read, or changes meanwhile.
        GpuExtractError: if the server refuses.
    """
    with open_input(path, WHAT) as file:
        return send(server, _File(path, file), known)


def send(server: Server, source: Source, known: str | None = None) -> str:
    """As `upload`, of what is no file."""
    name, size = source.name, source.size
    offset = None if known is None else _offset(server, known, size)
    found = known
    if found is None or offset is None:
        found, offset = begin(server, name, size), 0
    told = time.monotonic()
    while offset < size:
        offset = _piece(server, found, source, offset)
        if offset < size and time.monotonic() - told > TELL_SECONDS:
            told = time.monotonic()
            server.note(f"{name}: {offset / 1e6:,.0f} of {size / 1e6:,.0f} MB are there.")
    source.check()
    return found


def begin(server: Server, name: str, size: int) -> str:
    """Announce a file; returns the upload's id."""
    # A name that is no UTF-8 has none in base64 that the server could read either.
    word = base64.b64encode(name.encode("utf-8", "replace")).decode()
    headers = {**_HEADERS, "Upload-Length": str(size), "Upload-Metadata": f"filename {word}"}
    answer = server.ask("POST", "/v1/uploads", headers=headers)
    found = urlsplit(answer.headers.get("Location", "")).path.rpartition("/")[2]
    if not found.isalnum() or not found.isascii():
        raise InputError("the server's answer names no upload; is the address that of gpu-extract?")
    return found


def forget(server: Server, upload_id: str) -> None:
    """Have the server remove an upload; a job that took its bytes keeps them."""
    server.ask("DELETE", f"/v1/uploads/{upload_id}", headers=_HEADERS, allowed=(*GONE, HELD))


def _offset(server: Server, upload_id: str, size: int) -> int | None:
    """How far an upload is; None where it is gone, or another file's."""
    answer = server.ask("HEAD", f"/v1/uploads/{upload_id}", headers=_HEADERS, allowed=GONE)
    if answer.status in GONE or answer.headers.get("Upload-Length") != str(size):
        return None
    return _whole(answer.headers.get("Upload-Offset"), size)


def _piece(server: Server, upload_id: str, source: Source, offset: int) -> int:
    """Send the next piece; returns how far the upload is then, however that ended."""
    size = source.size
    count = min(PIECE_BYTES, size - offset)
    headers = {
        **_HEADERS,
        "Content-Type": "application/offset+octet-stream",
        "Upload-Offset": str(offset),
        "Content-Length": str(count),
    }
    path = f"/v1/uploads/{upload_id}"
    try:
        blocks = source.blocks(offset, count)
        with server.stream(
            "PATCH", path, body=blocks, headers=headers, allowed=(ELSEWHERE, HELD), timeout=ANSWER_SECONDS
        ) as answer:
            read_whole(answer, BLOCK_BYTES)
            if answer.status == HELD:  # the server has not noticed yet that the earlier connection is gone
                raise CutError("it waits for the end of a connection that was cut", 1.0)
            if answer.status != ELSEWHERE:
                return _whole(answer.headers.get("Upload-Offset"), size)
    except CutError as error:
        server.wait_out(error)
    found = _offset(server, upload_id, size)
    if found is None:
        raise InputError("the upload is gone from the server; run the same command again to begin it anew.")
    return found


class _File:
    """A file that is open."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self.name = path.name
        self.size, self._changed = self._state()

    def blocks(self, offset: int, count: int) -> Iterator[bytes]:
        self._file.seek(offset)
        while count:
            try:
                block = self._file.read(min(BLOCK_BYTES, count))
            except OSError as error:
                raise unreadable(self._file.name, WHAT, error) from error
            if not block:
                raise InputError("the file became shorter while it was uploaded; run the command again.")
            count -= len(block)
            yield block

    def check(self) -> None:
        if self._state() != (self.size, self._changed):
            raise InputError(f"{self._path} changed while it was uploaded; run the command again when it is complete.")

    def _state(self) -> tuple[int, int]:
        status = os.fstat(self._file.fileno())
        return status.st_size, status.st_mtime_ns


def _whole(said: str | None, most: int) -> int:
    if said is None or not said.isascii() or not said.isdecimal() or int(said) > most:
        raise InputError("the server does not say how far the upload is; is the address that of gpu-extract?")
    return int(said)
