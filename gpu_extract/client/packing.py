"""A folder of images as one tar, which is nowhere written: its bytes are made from any place on, as they are sent.

They depend on nothing but the names, sizes and bytes of the images, so an upload that was cut goes on in the same tar.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from gpu_extract.errors import InputError, printable
from gpu_extract.naming import ADMITTED_EXTENSIONS, IMAGE_EXTENSIONS, has_extension
from gpu_extract.storage.inputs import open_input, unreadable

NAMELESS = "frames"
READ_BYTES = 1 << 18
WHAT = "the image"
_BLOCK = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK)


class _Member(NamedTuple):
    path: Path
    size: int
    changed: int
    """Nanoseconds since 1970."""


class Packed:
    """The tar of a folder as it is now.

    Attributes:
        name: of the tar, that of the folder.
        size: bytes of the tar.

    Raises:
        InputError: if the folder holds no images, or cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._members = _members(folder)
        self.name = f"{Path(os.path.realpath(folder)).name or NAMELESS}.tar"
        sizes = (len(_header(one)) + one.size + _padding(one) for one in self._members)
        self._begins = list(accumulate(sizes, initial=0))
        self.size = self._begins[-1] + len(_END)

    @property
    def identity(self) -> list[Any]:
        """By what the folder is known again: its name, and a digest of the names, sizes and times of its images."""
        digest = hashlib.blake2b(digest_size=16)
        for one in self._members:
            digest.update(json.dumps([one.path.name, one.size, one.changed]).encode())
        return [self._folder.name, digest.hexdigest()]

    def blocks(self, offset: int, count: int) -> Iterator[bytes]:
        """A part of the tar.

        Raises:
            InputError: if an image is not what it was, or cannot be read.
        """
        gathered = bytearray()
        for data in self._from(offset):
            gathered += data[: count - len(gathered)]
            if len(gathered) >= min(count, READ_BYTES):
                yield bytes(gathered)
                count -= len(gathered)
                gathered.clear()
            if not count:
                return
        yield bytes(gathered)

    def check(self) -> None:
        """
        Raises:
            InputError: if the folder is not what it was.
        """
        if _members(self._folder) != self._members:
            raise InputError(
                f"{self._folder} changed while it was uploaded; run the command again when it is complete."
            )

    def _from(self, offset: int) -> Iterator[bytes]:
        first = bisect_right(self._begins, offset) - 1
        for begin, one in zip(self._begins[first:], self._members[first:], strict=False):
            yield from _rest(one, max(0, offset - begin))
        yield _END[max(0, offset - self._begins[-1]) :]


def images(folder: Path) -> list[Path]:
    """The files of a folder that may be frames, by name; without hidden ones.

    Raises:
        InputError: if there is none, or the folder cannot be read.
    """
    try:
        found = sorted(
            path
            for path in folder.iterdir()
            if has_extension(path.name, (*IMAGE_EXTENSIONS, *ADMITTED_EXTENSIONS)) and not path.name.startswith(".")
        )
    except OSError as error:
        raise InputError(f"the frames folder {folder} cannot be read: {error.strerror}.") from error
    found = [path for path in found if path.is_file()]
    if not found:
        raise InputError(f"the frames folder {folder} holds no images.")
    return found


def _members(folder: Path) -> list[_Member]:
    found = []
    for path in images(folder):
        try:
            path.name.encode()
            status = path.stat()
        except UnicodeEncodeError:
            raise InputError(
                f"{printable(str(path))} has a name that is no text, and cannot be sent; rename it."
            ) from None
        except OSError as error:
            raise unreadable(path, WHAT, error) from error
        found.append(_Member(path, status.st_size, status.st_mtime_ns))
    return found


def _header(one: _Member) -> bytes:
    entry = tarfile.TarInfo(one.path.name)
    entry.size = one.size
    return entry.tobuf(tarfile.PAX_FORMAT)


def _padding(one: _Member) -> int:
    return -one.size % _BLOCK


def _rest(one: _Member, skipped: int) -> Iterator[bytes]:
    """A member without its first bytes."""
    header = _header(one)
    yield header[skipped:]
    begin = max(0, skipped - len(header))
    if begin < one.size:
        with open_input(one.path, WHAT) as file:
            _check(one, file)
            file.seek(begin)
            left = one.size - begin
            while left:
                data = _read(one, file, min(READ_BYTES, left))
                left -= len(data)
                # Before the last of it is out: what changed under the reader's hands is not to be whole elsewhere.
                if not left:
                    _check(one, file)
                yield data
    yield bytes(max(0, _padding(one) - max(0, begin - one.size)))


def _read(one: _Member, file: BinaryIO, count: int) -> bytes:
    try:
        data = file.read(count)
    except OSError as error:
        raise unreadable(one.path, WHAT, error) from error
    if not data:
        raise _changed(one)
    return data


def _check(one: _Member, file: BinaryIO) -> None:
    status = os.fstat(file.fileno())
    if (status.st_size, status.st_mtime_ns) != (one.size, one.changed):
        raise _changed(one)


def _changed(one: _Member) -> InputError:
    return InputError(f"{one.path} changed while its folder was uploaded; run the command again when it is complete.")
