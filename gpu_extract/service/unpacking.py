"""A folder of frames that came as one tar: read strictly, as whoever sent it may be hostile, and whole or not there.

All headers are looked at before the first file is made. Whatever ends it between two files, only the tar is left, from
which it is done again.
"""

from __future__ import annotations

import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from gpu_extract.errors import InputError, InterruptedRunError, OutputError, printable
from gpu_extract.service.names import safe_name
from gpu_extract.service.turns import Turns
from gpu_extract.storage import pax
from gpu_extract.storage.atomic import sync_folder
from gpu_extract.storage.inputs import open_input

ENDING = ".tar"
MOST_MEMBERS = 500_000
"""Of one tar: five hours of video as images."""
LONGEST_NAME = 4096
"""Bytes that GNU tar's member of a long name may have, and those after `path=` in that of POSIX."""
LONGEST_RECORDS = 1 << 20
"""Of a POSIX header, in which macOS keeps what it knows of a file."""
SHOWN = 100
"""Letters of a name in a sentence."""
COPY_BYTES = 1 << 20
_BLOCK = tarfile.BLOCKSIZE
_SIZE = re.compile(r"[0-9]{1,18}")
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_KINDS = {
    tarfile.LNKTYPE: "a link",
    tarfile.SYMTYPE: "a link",
    tarfile.GNUTYPE_LONGLINK: "a link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a named pipe",
    tarfile.GNUTYPE_SPARSE: "a file with holes",
}


def is_packed(name: str) -> bool:
    """Whether an upload of that name is a folder; a video's never ends so."""
    return name.lower().endswith(ENDING)


class Unpacking:
    """Turns: the shards of a job need the same frames, and one of them unpacks."""

    def __init__(self) -> None:
        self._turns = Turns()

    def frames(self, archive: Path, folder: Path, stopped: Callable[[], bool]) -> None:
        """Have a tar's files in a folder, and the folder that it lay in gone; at once where that was done before.

        Raises:
            InterruptedRunError: if it was stopped.
            InputError: if the tar is refused.
            OutputError: if the disk refuses.
        """
        with self._turns.at(folder, lambda: _go_on(stopped)):
            try:
                _remove_rest(folder)
                if not folder.is_dir():
                    _unpack(archive, folder, stopped)
                shutil.rmtree(archive.parent, ignore_errors=True)
            except OSError as error:
                raise OutputError(
                    f"the frames could not be unpacked: {(error.strerror or str(error)).lower()}."
                ) from error


class _Member(NamedTuple):
    """A file of a tar; `offset` of its bytes."""

    folder: tuple[str, ...]
    name: str
    offset: int
    size: int


def _unpack(archive: Path, folder: Path, stopped: Callable[[], bool]) -> None:
    with open_input(archive, "the archive of frames") as file:
        files = _checked(_members(file, stopped))
        needed = sum(member.size for member in files)
        if needed > shutil.disk_usage(folder.parent).free:
            raise OutputError(f"the frames could not be unpacked: they have {needed:,} bytes, and less is free.")
        part = Path(tempfile.mkdtemp(prefix=f"{folder.name}.part-", dir=folder.parent))
        try:
            for member in files:
                _go_on(stopped)
                _copy(file, member, part / member.name, stopped)
            # All at once: a wait for each of some thousand small files is one of minutes.
            os.sync()
            part.rename(folder)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    sync_folder(folder.parent)


def _remove_rest(folder: Path) -> None:
    """What a kill left."""
    for part in folder.parent.glob(f"{folder.name}.part-*"):
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)


def _copy(file: BinaryIO, member: _Member, target: Path, stopped: Callable[[], bool]) -> None:
    file.seek(member.offset)
    left = member.size
    try:
        with open(target, "xb") as copy:
            while left:
                _go_on(stopped)
                block = file.read(min(COPY_BYTES, left))
                if not block:
                    raise _cut()
                copy.write(block)
                left -= len(block)
    except FileExistsError:  # of two names that are one on this disk
        raise _refused(f"two files of it are named {_shown(member.name)}") from None


def _checked(found: Iterator[_Member]) -> list[_Member]:
    """Those that a folder of frames has."""
    files: list[_Member] = []
    names: set[str] = set()
    for member in found:
        if member.name.startswith("."):  # hidden, or what macOS puts beside a file
            continue
        if safe_name(member.name) != member.name:
            raise _refused(f"{_shown(member.name)} is no name that a file has here; rename it")
        if member.name in names:
            raise _refused(f"two files of it are named {_shown(member.name)}")
        if files and member.folder != files[0].folder:
            why = f"{_shown(files[0].name)} and {_shown(member.name)} lie in two folders of it"
            raise _refused(f"{why}; a folder of frames has no others inside")
        names.add(member.name)
        files.append(member._replace(folder=files[0].folder) if files else member)  # kept once, however long it is
    if not files:
        raise _refused("it holds no files")
    return files


def _members(file: BinaryIO, stopped: Callable[[], bool]) -> Iterator[_Member]:
    """The ordinary files of a tar, which ends where it says that it does; folders are only names before theirs."""
    length = os.fstat(file.fileno()).st_size
    count = 0
    while (entry := _header(file)) is not None:
        _go_on(stopped)
        if (count := count + 1) > MOST_MEMBERS:
            raise _refused(f"it holds more than {MOST_MEMBERS:,} files")
        told: dict[str, str] = {}
        long_name: str | None = None
        while entry.type in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
            if entry.type == tarfile.XHDTYPE and not told:
                told = _records(_data(file, entry, LONGEST_RECORDS))
            elif entry.type == tarfile.GNUTYPE_LONGNAME and long_name is None:
                long_name = _data(file, entry, LONGEST_NAME).partition(b"\0")[0].decode("utf-8", "surrogateescape")
            else:
                raise _strange()
            entry = _after(file)
        name = told.get("path", long_name or entry.name)
        if len(name) > LONGEST_NAME or "\0" in name:
            raise _refused("the name of a file in it is too long, or none")
        parts = tuple(part for part in name.split("/") if part not in ("", "."))
        if any(record.startswith("GNU.sparse.") for record in told):
            raise _refused(f"{_shown(name)} is a file with holes; only ordinary files are taken")
        if entry.type == tarfile.DIRTYPE and entry.size == 0:
            continue
        if entry.type not in _FILES:
            kind = _KINDS.get(entry.type, "something else")
            raise _refused(f"{_shown(name)} is {kind}; only ordinary files are taken")
        size = _size(told.get("size", str(entry.size)))
        if not parts or ".." in parts or name.endswith("/"):
            raise _refused(f"{_shown(name)} is no name of a file")
        offset = file.tell()
        padded = size + -size % _BLOCK
        if offset + padded > length:
            raise _cut()
        yield _Member(parts[:-1], parts[-1], offset, size)
        file.seek(offset + padded)
    while block := file.read(COPY_BYTES):
        _go_on(stopped)
        if block.strip(b"\0"):
            raise _refused("something follows its end")


def _header(file: BinaryIO) -> tarfile.TarInfo | None:
    """The next header; None at the tar's end, which is a block of zeros."""
    block = _exactly(file, _BLOCK)
    if not block.strip(b"\0"):
        return None
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError, OverflowError) as error:
        if file.tell() == _BLOCK:
            raise _refused("it is no tar, or a compressed one; tar c -C FOLDER . > frames.tar makes one") from error
        raise _strange() from error


def _after(file: BinaryIO) -> tarfile.TarInfo:
    entry = _header(file)
    if entry is None:
        raise _strange()
    return entry


def _data(file: BinaryIO, entry: tarfile.TarInfo, most: int) -> bytes:
    """What a header has instead of a file."""
    if not 0 < entry.size <= most:
        raise _strange()
    data = _exactly(file, entry.size)
    _exactly(file, -entry.size % _BLOCK)
    return data


def _records(data: bytes) -> dict[str, str]:
    found = pax.records(data)
    if found is None:
        raise _strange()
    return found


def _size(text: str) -> int:
    if not _SIZE.fullmatch(text):
        raise _strange()
    return int(text)


def _exactly(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise _cut()
    return data


def _go_on(stopped: Callable[[], bool]) -> None:
    if stopped():
        raise InterruptedRunError("stopped while the frames were unpacked.")


def _shown(name: str) -> str:
    return f"'{printable(name[:SHOWN])}{'…' if len(name) > SHOWN else ''}'"


def _strange() -> InputError:
    return _refused("a header of it is not understood")


def _cut() -> InputError:
    return _refused("it ends before its end; make it again")


def _refused(why: str) -> InputError:
    return InputError(f"the archive of frames is refused: {why}.")
