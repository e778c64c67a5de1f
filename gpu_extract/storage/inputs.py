"""Files that are read: opened without a wait, and refused where they are no files."""

from __future__ import annotations

import io
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from gpu_extract.errors import InputError
from gpu_extract.storage.descriptors import close_quietly
from gpu_extract.storage.placeholders import why_not_there

KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class Opened(io.FileIO):
    """A descriptor to read from. What was read is read: what the system says when it is closed changes nothing."""

    def close(self) -> None:
        with suppress(OSError):
            super().close()


def open_input(path: str | os.PathLike[str], what: str) -> BinaryIO:
    """Open a regular file for reading.

    Args:
        what: the file is, for a sentence: "the journal".

    Raises:
        InputError: if it is missing, unreadable, or no regular file: a pipe would keep a reader waiting for ever.
    """
    try:
        _check_kind(os.stat(path), path, what)  # noqa: PTH116 (before it is opened: to open a device may do something)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _check_kind(os.fstat(descriptor), path, what)
            return io.BufferedReader(Opened(descriptor))
        except BaseException:
            close_quietly(descriptor)
            raise
    except FileNotFoundError as error:
        missing = f"{what} {os.fspath(path)}"
        if why := why_not_there(path):
            raise InputError(f"{missing} is there, but {why}.") from error
        raise InputError(f"{missing} does not exist; check its name and folder.") from error
    except OSError as error:
        raise unreadable(path, what, error) from error


def unreadable(path: str | os.PathLike[str], what: str, error: OSError) -> InputError:
    """The error for a file or folder that the system does not let us read."""
    reason = (error.strerror or str(error)).lower()
    return InputError(f"{what} {os.fspath(path)} could not be read ({reason}).")


def is_folder(path: Path, what: str) -> bool:
    """Whether a folder has that name.

    Raises:
        InputError: if the system cannot tell.
    """
    try:
        return path.is_dir()
    except OSError as error:
        raise unreadable(path, what, error) from error


def _check_kind(status: os.stat_result, path: str | os.PathLike[str], what: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for test, name in KINDS if test(status.st_mode)), "no file")
        raise InputError(f"{what} {os.fspath(path)} is {kind}; an ordinary file is wanted.")
