"""One SQLite file for all threads of the process, and memory in its place while the disk is full."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gpu_extract.errors import OutputError

ROOM_BYTES = 1 << 20
"""Of the disk, with less of which nothing is written any more: some changes, and the file's own log, need less."""
OF_THE_DISK = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
RETRY_SECONDS = 1.0
"""Before the file is tried again."""
log = logging.getLogger("gpu_extract.service")


class Database:
    """One connection, and whose turn it is on it.

    While the disk has no room, changes are kept in memory, and go to the file as soon as there is some. A process that
    is killed before has not made them.

    Raises:
        OutputError: if the file cannot be opened, and the disk is not full; from a change that the disk refuses, which
            is undone then; from what cannot be read.
        sqlite3.DatabaseError: on opening, if it is no such file, or damaged.
    """

    def __init__(self, path: Path, schema: str) -> None:
        self._path, self._schema = path, schema
        self._lock = threading.RLock()
        self._file: sqlite3.Connection | None = None
        self._memory: sqlite3.Connection | None = None
        self._tried = 0.0
        try:
            self._file = _opened(path, schema)
        except sqlite3.OperationalError as error:
            if _has_room(path):
                raise OutputError(f"the table of jobs {path} cannot be opened: {error}.") from error
            self._memory = _read(path, schema)
            log.warning("the disk is full: the table of jobs is kept in memory until there is room")

    def close(self) -> None:
        with self._lock:
            if self._memory is not None and not self._go_back():
                log.warning("the disk is full: the table of jobs is what it was before; the folders of jobs are right")
            for connection in (self._memory, self._file):
                if connection is not None:
                    connection.close()

    @property
    def is_in_memory(self) -> bool:
        """Whether the disk is full."""
        return self._memory is not None

    @property
    def _open(self) -> sqlite3.Connection:
        found = self._memory or self._file
        assert found is not None
        return found

    def execute(self, query: str, values: Sequence[Any] | dict[str, Any] = ()) -> list[sqlite3.Row]:
        """The rows of a statement; one that changes something stands inside `change`."""
        with self._lock:
            try:
                return self._open.execute(query, values).fetchall()
            except sqlite3.DatabaseError as error:
                if self._open.in_transaction or _code(error) not in (*OF_THE_DISK, *DAMAGED):
                    raise
                raise OutputError(f"the table of jobs cannot be read: {error}.") from error

    def executemany(self, query: str, values: Iterable[Sequence[Any]]) -> None:
        with self._lock:
            self._open.executemany(query, values)

    @contextmanager
    def change(self, *, at_once: bool = True) -> Iterator[None]:
        """Several changes as one; inside another one it is part of that.

        Args:
            at_once: it survives a power cut from its end on; else from the end of the next one that does. A kill takes
                neither.
        """
        with self._lock:
            if self._open.in_transaction:
                yield
                return
            try:
                self._choose()
                self._open.execute(f"PRAGMA synchronous = {'FULL' if at_once else 'NORMAL'}")
                self._open.execute("BEGIN IMMEDIATE")
                try:
                    yield
                except BaseException:
                    self._undo()
                    raise
                self._open.execute("COMMIT")
            except sqlite3.DatabaseError as error:
                self._undo()
                if not isinstance(error, sqlite3.OperationalError) and _code(error) not in DAMAGED:
                    raise
                if _code(error) in OF_THE_DISK:
                    with suppress(sqlite3.DatabaseError):
                        self._go_to_memory()
                raise OutputError(f"the table of jobs cannot be written: {error}.") from error

    def _undo(self) -> None:
        with suppress(sqlite3.DatabaseError):
            self._open.execute("ROLLBACK")

    def _choose(self) -> None:
        if self._memory is None:
            if not _has_room(self._path):
                self._go_to_memory()
        elif time.monotonic() - self._tried > RETRY_SECONDS:
            self._go_back()

    def _go_to_memory(self) -> None:
        if self._memory is None and self._file is not None:
            self._memory = _in_memory(self._file)
            self._tried = time.monotonic()
            log.warning("the disk is full: changes of the table of jobs are kept in memory until there is room")

    def _go_back(self) -> bool:
        assert self._memory is not None
        self._tried = time.monotonic()
        if not _has_room(self._path, 2 * ROOM_BYTES):
            return False
        try:
            if self._file is None:
                self._file = _opened(self._path, self._schema)
            self._file.execute("PRAGMA synchronous = FULL")
            self._memory.backup(self._file)
        except sqlite3.Error as error:
            log.warning("the table of jobs cannot be written: %s", error)
            return False
        self._memory.close()
        self._memory = None
        log.warning("there is room again: the table of jobs is on the disk")
        return True


def _code(error: sqlite3.Error) -> int:
    """Of SQLite, without what it says more exactly."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _opened(path: Path, schema: str) -> sqlite3.Connection:
    found = _connected(path.resolve().as_uri())
    try:
        found.execute("PRAGMA journal_mode = WAL")
        if (fault := found.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(fault)
        found.executescript(schema)
    except BaseException:
        found.close()
        raise
    return found


def _read(path: Path, schema: str) -> sqlite3.Connection:
    """What a file has, without a byte written beside it, in memory; the schema alone where it cannot be read."""
    with suppress(sqlite3.OperationalError):
        file = _connected(f"{path.resolve().as_uri()}?mode=rw")
        try:
            file.execute("PRAGMA locking_mode = EXCLUSIVE")  # what is shared with other processes needs a file
            found = _in_memory(file)
            found.executescript(schema)
            return found
        finally:
            file.close()
    found = _connected("file::memory:")
    found.executescript(schema)
    return found


def _in_memory(source: sqlite3.Connection) -> sqlite3.Connection:
    found = _connected("file::memory:")
    try:
        source.backup(found)
    except BaseException:
        found.close()
        raise
    return found


def _connected(address: str) -> sqlite3.Connection:
    found = sqlite3.connect(address, uri=True, check_same_thread=False, isolation_level=None, timeout=10)
    found.row_factory = sqlite3.Row
    found.execute("PRAGMA foreign_keys = ON")
    return found


def _has_room(path: Path, nbytes: int = ROOM_BYTES) -> bool:
    try:
        status = os.statvfs(path.parent)
    except OSError:  # whoever opens or writes the file is told why
        return True
    return status.f_bavail * status.f_frsize >= nbytes
