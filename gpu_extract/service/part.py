"""The bytes of one upload, while one request writes to them."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpu_extract.service.problems import Problem
from gpu_extract.storage.descriptors import close_quietly, open_beyond_standard


class Part:
    """A file that grows at its end, which only one request has at a time.

    A request that is cancelled ends before its thread does. So writing and closing exclude each other: the thread finds
    the file closed, not another file under its number.
    """

    def __init__(self, path: Path, length: int) -> None:
        self._path, self._length = path, length
        self._lock = threading.Lock()
        self._handle: int | None = None
        self.offset = 0

    def __enter__(self) -> Part:
        self._handle = _open_locked(self._path)
        self.offset = os.fstat(self._handle).st_size
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:
            assert self._handle is not None
            close_quietly(self._handle)
            self._handle = None

    def write(self, data: bytes) -> None:
        """
        Raises:
            Problem: 413 if some of it is beyond the length, 507 if the disk refuses; what could be written is.
        """
        with self._lock:
            room = self._length - self.offset
            view = memoryview(data)[:room]
            try:
                while view and self._handle is not None:
                    written = os.pwrite(self._handle, view, self.offset)
                    self.offset += written
                    view = view[written:]
            except OSError as error:
                raise _refused(error) from error
            if len(data) > room:
                self._sync()
                raise Problem(
                    413,
                    f"More came than the {self._length:,} bytes that were announced; they are kept, the rest is not.",
                )

    def sync(self) -> None:
        with self._lock:
            self._sync()

    def _sync(self) -> None:
        if self._handle is not None:
            try:
                os.fsync(self._handle)
            except OSError as error:
                raise _refused(error) from error


@contextmanager
def held(path: Path) -> Iterator[None]:
    """While no request writes to it."""
    handle = _open_locked(path)
    try:
        yield
    finally:
        close_quietly(handle)


def _open_locked(path: Path) -> int:
    """A descriptor to write to. The lock belongs to it, so nothing that was killed holds one."""
    try:
        handle = open_beyond_standard(path, os.O_WRONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise missing() from None
    except OSError as error:
        raise _refused(error) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(handle).st_nlink == 0:
            raise missing()
    except BlockingIOError:
        close_quietly(handle)
        raise Problem(423, "Another request writes to this upload; wait until it has ended, and try again.") from None
    except BaseException:
        close_quietly(handle)
        raise
    return handle


def missing() -> Problem:
    return Problem(404, "There is no such upload; it may have expired. Send the file again.")


def _refused(error: OSError) -> Problem:
    return Problem(507, f"The server could not write ({error.strerror}); what came is kept, so go on later.")
