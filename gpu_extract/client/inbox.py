"""A faces folder that the files of a job come into, each whole under its name or not there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gpu_extract.client.archive import Member
from gpu_extract.client.arrived import Arrived
from gpu_extract.errors import InputError, OutputError
from gpu_extract.storage.atomic import write_all
from gpu_extract.storage.descriptors import closing, open_beyond_standard
from gpu_extract.storage.parts import temporary_name

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
GO_ON = "when that is solved, run the same command again to go on"


class Inbox:
    """
    Args:
        folder: which is there, and empty or of an earlier try.
        arrived: what has come before.
    """

    def __init__(self, folder: Path, arrived: Arrived) -> None:
        self._folder, self._arrived = folder, arrived
        self._made: set[Path] = set()

    def lacks(self, file: str, size: int | None) -> bool:
        """Whether a file is still to come.

        Args:
            size: bytes; None where that is not known.
        """
        if file not in self._arrived:
            return True
        try:
            status = (self._folder / file).stat()
        except OSError:  # somebody took it away: who looks through faces must not have to do it twice
            return False
        return size not in (None, status.st_size)

    def check_room(self, sizes: Iterable[int | None]) -> None:
        """
        Raises:
            OutputError: if files of these sizes have no room on the disk.
        """
        wanted = sum(size or 0 for size in sizes)
        try:
            found = os.statvfs(self._folder)
        except OSError:
            return
        free = found.f_bavail * found.f_frsize
        if wanted > free:
            raise OutputError(
                f"the faces that come next need {wanted / 1e6:,.1f} MB, and the disk of {self._folder} has "
                f"{free / 1e6:,.1f}; {GO_ON}."
            )

    def put(self, member: Member) -> None:
        """Write a file of an archive.

        Raises:
            InputError: if it is not what the server says of it.
            OutputError: if the disk refuses.
            EndedError: if the archive ends in it.
        """
        *folders, name = member.name.split("/")
        folder = self._folder.joinpath(*folders)
        try:
            self._make(folder)
        except OSError as error:
            raise self._refused(error) from error
        with self._unfinished(member, folder / temporary_name(name)) as (path, sha256):
            try:
                path.rename(folder / name)
            except OSError as error:
                raise self._refused(error) from error
        self._arrived.add(member.name, sha256)

    @contextmanager
    def aside(self, member: Member) -> Iterator[Path]:
        """A file of an archive, under another name while it is looked at, and then no more; raises as `put` does."""
        with self._unfinished(member, self._folder / temporary_name(member.name)) as (path, _):
            yield path
            path.unlink()

    @contextmanager
    def _unfinished(self, member: Member, path: Path) -> Iterator[tuple[Path, str]]:
        """A whole file under a temporary name, and its SHA-256; removed where anything fails."""
        digest = hashlib.sha256()
        try:
            try:
                handle = open_beyond_standard(path, _NEW)
            except FileExistsError:  # of a try that was killed
                path.unlink()
                handle = open_beyond_standard(path, _NEW)
        except OSError as error:
            raise self._refused(error) from error
        try:
            with closing(handle):
                for block in member.blocks():
                    digest.update(block)
                    try:
                        write_all(handle, block)
                    except OSError as error:
                        raise self._refused(error) from error
            if member.sha256 not in (None, digest.hexdigest()):
                raise InputError(f"{member.name[:200]!r} was altered on its way; run the same command again.")
            yield path, digest.hexdigest()
        except BaseException:
            with suppress(OSError):
                path.unlink()
            raise

    def _make(self, folder: Path) -> None:
        if folder in self._made or folder == self._folder:
            return
        self._make(folder.parent)
        folder.mkdir(exist_ok=True)
        if folder.is_symlink():
            raise OutputError(f"{folder} is a link, which no run makes; name another faces folder.")
        self._made.add(folder)

    def _refused(self, error: OSError) -> OutputError:
        return OutputError(f"the faces folder {self._folder} takes no more ({error.strerror}); {GO_ON}.")
