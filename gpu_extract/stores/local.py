"""Folders as a store, for file systems that several machines share. Keys are paths from the root on."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpu_extract.errors import OutputError
from gpu_extract.storage.atomic import write_free, write_whole
from gpu_extract.storage.descriptors import close_quietly, open_beyond_standard
from gpu_extract.storage.inputs import open_input, unreadable
from gpu_extract.stores.base import ChangedError, Entry, Version

WHAT = "the object"
BLOCK = 1 << 20


class Folder:
    """All files of this machine."""

    def head(self, key: str) -> Entry | None:
        path = _path(key)
        try:
            return _entry(key, path.stat()) if path.is_file() else None
        except FileNotFoundError:
            return None
        except OSError as error:
            raise unreadable(path, WHAT, error) from error

    def read(self, key: str) -> tuple[bytes, Entry] | None:
        if self.head(key) is None:
            return None
        with open_input(_path(key), WHAT) as file:
            entry = _entry(key, os.fstat(file.fileno()))
            return file.read(), entry

    def read_range(self, entry: Entry, start: int, end: int) -> bytes:
        with open_input(_path(entry.key), WHAT) as file:
            if _entry(entry.key, os.fstat(file.fileno())).version != entry.version:
                raise ChangedError(f"{_path(entry.key)} was changed while it was read; run the command again.")
            file.seek(start)
            return file.read(end - start)

    def entries(self, prefix: str, after: str = "") -> Iterator[list[Entry]]:
        found = []
        for path in sorted(_path(prefix).rglob("*")):
            key = os.fspath(path).removeprefix("/")
            if key > after and not path.name.endswith(".tmp") and (entry := self.head(key)) is not None:
                found.append(entry)
        yield found

    def put(self, key: str, content: bytes | os.PathLike[str]) -> None:
        path = _made(key)
        if isinstance(content, bytes):
            write_whole(path, [content])
            return
        with open_input(content, WHAT) as file:
            write_whole(path, iter(lambda: file.read(BLOCK), b""))

    def create(self, key: str, content: bytes) -> Version | None:
        try:
            write_free(_made(key), [content])
        except FileExistsError:
            return None
        return self._version(key)

    def replace(self, key: str, content: bytes, version: Version) -> Version | None:
        path = _made(key)
        with _alone(path.parent):
            entry = self.head(key)
            if entry is None or entry.version != version:
                return None
            write_whole(path, [content])
            return self._version(key)

    def remove(self, key: str) -> None:
        try:
            _path(key).unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{_path(key)} could not be removed ({error.strerror}).") from error

    def _version(self, key: str) -> Version:
        entry = self.head(key)
        return {} if entry is None else entry.version


def _path(key: str) -> Path:
    return Path("/") / key


def _made(key: str) -> Path:
    """The path, in a folder that is there."""
    path = _path(key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the folder {path.parent} cannot be made ({error.strerror}).") from error
    return path


def _entry(key: str, status: os.stat_result) -> Entry:
    tag = f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"
    return Entry(key, status.st_size, {"e_tag": tag, "version": None})


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While no other process replaces anything there."""
    descriptor = open_beyond_standard(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        close_quietly(descriptor)
