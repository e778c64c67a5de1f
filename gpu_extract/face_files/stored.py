"""Reading a faces folder back: which files it holds, shards opened, and what is wrong with one of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpu_extract import png_file
from gpu_extract.errors import FrameError, InputError
from gpu_extract.storage.inputs import open_input, unreadable
from gpu_extract.tasks import FaceResult

SECTOR_BYTES = 512
PNG_CHUNKS = (b"IHDR", b"iTXt", b"IDAT", b"IEND")


@dataclass(frozen=True)
class InShard:
    """A file inside a tar shard."""

    shard: Path
    at: int
    nbytes: int


Place = Path | InShard


def stored_files(folder: Path, besides: Collection[str] = ()) -> dict[str, Place]:
    """All files of a folder by relative name; members of shards by their own name, the shards themselves not.

    Args:
        besides: names to leave out.
    """
    found: dict[str, Place] = {}
    for path in _all_below(folder):
        name = path.relative_to(folder).as_posix()
        if name in besides:
            continue
        found[name] = path
        if path.suffix == ".tar" and path.stem.replace("-", "").isdecimal() and path.parent == folder:
            import tarfile

            try:
                with (
                    open_input(path, "the shard") as file,
                    tarfile.open(fileobj=file, errors="surrogateescape") as tar,
                ):
                    members = {member.name: InShard(path, member.offset_data, member.size) for member in tar}
            except (tarfile.TarError, OSError, InputError):
                continue  # stays in the list as a file of its own, which nothing expects
            if not members.keys() & found.keys():
                found |= members
                del found[name]
    return found


def _all_below(folder: Path) -> list[Path]:
    """Everything in a folder that is no folder, sorted.

    Raises:
        InputError: if the folder, or one in it, cannot be listed: what is there would be called missing.
    """

    def refuse(error: OSError) -> None:
        raise unreadable(error.filename or folder, "the faces folder", error) from error

    return sorted(Path(below, name) for below, _, names in os.walk(folder, onerror=refuse) for name in names)


def content(place: Place) -> bytes:
    """The bytes of a file. Raises FrameError if it cannot be read."""
    from gpu_extract.frames.images.decode import read_file

    if isinstance(place, Path):
        return read_file(place)
    try:
        with open_input(place.shard, "the shard") as file:
            file.seek(place.at)
            return file.read(place.nbytes)
    except InputError as error:
        raise FrameError(str(error)) from error
    except OSError as error:
        raise FrameError(f"the shard {place.shard.name} cannot be read: {error.strerror}.") from error


def pixel_hash(data: bytes) -> str:
    """SHA-1 of an image's BGR pixels, 40 hex digits. Raises FrameError if it cannot be decoded."""
    from gpu_extract.frames.images.decode import decode_image

    return hashlib.sha1(np.ascontiguousarray(decode_image(data).pixels).data).hexdigest()


def is_as_written(folder: Path, face: FaceResult) -> bool:
    """Whether a power cut has left a face's file, not a member of an archive, as a run wrote it.

    What it takes of a file reads as zeros. The checksums of a PNG cover all of it. Of any other file the pixels must be
    right and no sector empty: zeros may stand where a decoder does not look.
    """
    try:
        data = content(folder / face.file_name)
        if len(data) != face.nbytes or pixel_hash(data) != face.sha1:
            return False
    except FrameError:
        return False
    if data.startswith(png_file.SIGNATURE):
        return png_fault(data) is None
    return all(data[at : at + SECTOR_BYTES].strip(b"\0") for at in range(0, len(data), SECTOR_BYTES))


def png_fault(data: bytes) -> str | None:
    """What no extraction writes: damaged or foreign chunks, or bytes after the end; None if there is nothing."""
    for chunk in png_file.chunks(data):
        if chunk.kind not in PNG_CHUNKS:
            return f"it holds a {chunk.name!r} chunk, which no extraction writes"
        if chunk.end > len(data):
            break
        if not png_file.is_intact(data, chunk):
            return f"its {chunk.name} chunk is damaged"
        if chunk.kind == b"IEND":
            return None if chunk.end == len(data) else f"it has {len(data) - chunk.end} bytes after its end"
    return "it is cut off"
