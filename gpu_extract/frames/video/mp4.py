"""What FFmpeg does not tell about an mp4 or mov file: whether it has fragments, and composition offsets."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from gpu_extract.errors import InputError
from gpu_extract.storage.inputs import open_input

_MAX_BOXES = 1 << 16  # on one level; a file with more was built to keep readers busy


class _Box(NamedTuple):
    kind: bytes
    start: int  # of its content, bytes from the beginning of the file
    end: int


def is_fragmented(path: Path) -> bool:
    """Whether samples are described beside them, piece by piece; False for what cannot be read."""
    try:
        with open_input(path, "the video") as file:
            return any(box.kind == b"moof" for box in _boxes(file, 0, os.fstat(file.fileno()).st_size))
    except (OSError, InputError, struct.error):
        return False


def has_composition_offsets(path: Path, track: int) -> bool:
    """Whether presentation times are stored apart from decoding times, as B-frames need it; track: its stream's id.

    So it is where the track has a `ctts` box, and always in a fragmented file. False for what cannot be read.
    """
    try:
        with open_input(path, "the video") as file:
            for box in _boxes(file, 0, os.fstat(file.fileno()).st_size):
                if box.kind == b"moof":
                    return True
                if box.kind == b"moov" and _has_offsets(file, box, track):
                    return True
    except (OSError, InputError, struct.error):
        return False
    return False


def _has_offsets(file: BinaryIO, movie: _Box, track: int) -> bool:
    for trak in _inside(file, movie, b"trak"):
        if any(_track_id(file, header) == track for header in _inside(file, trak, b"tkhd")):
            return any(
                _entry_count(file, offsets) > 0
                for media in _inside(file, trak, b"mdia")
                for information in _inside(file, media, b"minf")
                for table in _inside(file, information, b"stbl")
                for offsets in _inside(file, table, b"ctts")
            )
    return False


def _inside(file: BinaryIO, box: _Box, kind: bytes) -> Iterator[_Box]:
    return (inner for inner in _boxes(file, box.start, box.end) if inner.kind == kind)


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[_Box]:
    for _ in range(_MAX_BOXES):
        if start + 8 > end:
            return
        file.seek(start)
        size, kind = struct.unpack(">I4s", file.read(8))
        head = 8
        if size == 1:
            (size,) = struct.unpack(">Q", file.read(8))
            head = 16
        elif size == 0:
            size = end - start
        if size < head:
            return
        yield _Box(kind, start + head, min(start + size, end))
        start += size


def _track_id(file: BinaryIO, header: _Box) -> int:
    file.seek(header.start)
    version = file.read(1)
    file.seek(header.start + (20 if version == b"\1" else 12))
    return int(struct.unpack(">I", file.read(4))[0])


def _entry_count(file: BinaryIO, table: _Box) -> int:
    file.seek(table.start + 4)
    return int(struct.unpack(">I", file.read(4))[0])
