"""What files in a faces folder hold, and face files with other numbers in their headers."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable
from pathlib import Path

from gpu_extract.errors import InputError
from gpu_extract.face_files.header import header_text, parse_text, with_text
from gpu_extract.face_files.metadata import Row, json_line
from gpu_extract.storage.atomic import new_digest
from gpu_extract.storage.inputs import open_input


def raw(path: Path) -> bytes | None:
    """The bytes of a file, whatever they are; None where there are none to be read."""
    try:
        with open_input(path, "the file") as file:
            return file.read()
    except (InputError, OSError):
        return None


def digest_at(path: Path) -> str | None:
    """Digest of a file's bytes; None where there are none to be read."""
    data = raw(path)
    return None if data is None else digest(data)


def rows_digest(rows: Iterable[Row]) -> str:
    """Digest of a list of faces, whatever file holds it."""
    state = new_digest()
    for row in rows:
        state.update(json_line(row))
    return str(state.hexdigest())


def packed(data: bytes) -> str:
    return base64.b85encode(zlib.compress(data)).decode()


def unpacked(text: str) -> bytes:
    return zlib.decompress(base64.b85decode(text))


def digest(data: bytes) -> str:
    state = new_digest()
    state.update(data)
    return str(state.hexdigest())


def numbered(data: bytes, index: int, original: str) -> bytes:
    """A face PNG whose header says another number; the same bytes where it carries none, or says it already.

    Args:
        original: name that the header gives the file.
    """
    try:
        text = header_text(data)
        header = None if text is None else parse_text(text)
    except InputError:
        return data
    source = None if header is None else header.get("source")
    if not isinstance(source, dict) or "face_index" not in source:
        return data
    if source["face_index"] == index and source.get("original_filename", original) == original:
        return data
    source["face_index"] = index
    if "original_filename" in source:
        source["original_filename"] = original
    return with_text(data, str(header))
