"""The journals of a job's faces folder, read as a list of events that goes on: which faces are whole, in what order.

A place in it is a text that a client keeps, `Last-Event-ID` of an event stream: for each journal its inode and how far
it was read. When shards are merged there is another journal, and whoever followed the old ones begins anew.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu_extract.errors import InputError
from gpu_extract.run import journal
from gpu_extract.run.shard import Shard
from gpu_extract.storage.inputs import open_input

READ_BYTES = 1 << 18
LONGEST_PLACE = 100_000
COUNTED_AT_ONCE = 10_000
BYTES_A_FACE = 256
"""Of a journal, with its part of its frame's line, unless names are long."""
_PLACE = re.compile(r"(?:[0-9a-f]{1,16}:[0-9]{1,18}(?:,(?!$)|$))+")


@dataclass
class Read:
    """What one look at the journals found.

    Attributes:
        faces: each with `file`, `frame` (position in the source, from 0), `index`, `sha1`, `bytes`.
        frames: how many are among them.
        place: behind them.
        anew: whether what was told before is to be forgotten: other journals have taken its place.
        more: whether there is more at once.
    """

    faces: list[dict[str, Any]] = field(default_factory=list)
    frames: int = 0
    place: str = ""
    anew: bool = False
    more: bool = False


def is_place(text: str) -> bool:
    return len(text) <= LONGEST_PLACE and (text == "" or _PLACE.fullmatch(text) is not None)


def read(folder: Path, shards: int, place: str, most: int) -> Read:
    """What stands behind a place ("" is the beginning); about `most` faces, whole frames only.

    A place in journals that were replaced, or in the middle of a line, is the beginning.

    Args:
        folder: of the faces.
        shards: in how many the run is cut.

    Raises:
        InputError: if a journal cannot be read.
    """
    known = {int(inode, 16): int(at) for inode, _, at in (part.partition(":") for part in place.split(",") if part)}
    found = Read()
    opened = list(_journals(folder, shards))
    paths = dict(opened)
    if any(inode not in paths or not _is_begin_of_line(paths[inode], at) for inode, at in known.items()):
        known, found.anew = {}, True
    reached = {}
    for inode, path in opened:
        at = known.get(inode, 0)
        if len(found.faces) < most:
            at = _read_one(path, inode, at, most, found)
        elif path.stat().st_size > at:
            found.more = True
        reached[inode] = at
    found.place = ",".join(f"{inode:x}:{at}" for inode, at in reached.items())
    return found


def near_end(folder: Path, shards: int, faces: int) -> str:
    """A place from which about so many faces follow of each journal, seldom fewer: they are measured by bytes."""
    reached = []
    for inode, path in _journals(folder, shards):
        with suppress(InputError, FileNotFoundError), open_input(path, "a journal") as file:
            at = max(0, os.fstat(file.fileno()).st_size - faces * BYTES_A_FACE)
            if at:
                file.seek(at - 1)
                line = file.readline()
                at = at - 1 + len(line) if line.endswith(b"\n") else 0
            reached.append(f"{inode:x}:{at}")
    return ",".join(reached)


def _journals(folder: Path, shards: int) -> Iterator[tuple[int, Path]]:
    parts = [Shard(number, shards) for number in range(shards)] if shards > 1 else []
    for name in map(journal.name_of, [None, *parts]):  # a folder of a million faces is not listed four times a second
        with suppress(OSError):
            yield (folder / name).stat().st_ino, folder / name


def _is_begin_of_line(path: Path, at: int) -> bool:
    """Or of none: from the middle of a line nothing could be read, now or ever."""
    if at == 0:
        return True
    try:
        with open_input(path, "a journal") as file:
            file.seek(at - 1)
            return file.read(1) in (b"\n", b"")
    except (InputError, FileNotFoundError):
        return False


def _read_one(path: Path, inode: int, at: int, most: int, found: Read) -> int:
    """Add what one journal has; returns how far it was read."""
    try:
        with open_input(path, "a journal") as file:
            if os.fstat(file.fileno()).st_ino != inode:  # replaced just now: the next look begins anew
                return at
            file.seek(at)
            data = file.read(READ_BYTES)
            if b"\n" not in data:  # a frame with thousands of faces
                data += file.readline()
    except (InputError, FileNotFoundError):
        return at
    for line in data.splitlines(keepends=True):
        if len(found.faces) >= most:
            found.more = True
            break
        entry = journal.parse(line)
        if entry is None:  # torn by the end of the block, or not written yet
            found.more |= len(data) == READ_BYTES
            break
        at += len(line)
        if "faces" in entry:
            found.frames += 1
            found.faces += [_face(entry["frame"], row) for row in entry["faces"]]
    else:
        found.more |= len(data) >= READ_BYTES
    return at


def _face(frame: int, row: list[Any]) -> dict[str, Any]:
    _, index, file, sha1, nbytes = row
    return {"file": file, "frame": frame, "index": index, "sha1": sha1, "bytes": nbytes}


def count(folder: Path, shard: Shard | None) -> tuple[int, int]:
    """Frames and faces that one journal names, of a shard or of a run that is not divided."""
    path = folder / journal.name_of(shard)
    found = Read(more=True)
    try:
        inode, at = path.stat().st_ino, 0
    except OSError:
        return 0, 0
    faces = 0
    while found.more:
        found.more, found.faces = False, []
        at = _read_one(path, inode, at, COUNTED_AT_ONCE, found)
        faces += len(found.faces)
    return found.frames, faces


def shards_begun(folder: Path) -> int:
    """In how many shards a faces folder's run was divided, as its receipts tell; 0 where there are none."""
    return max((shard.count for shard in journal.receipts(folder)), default=0)
