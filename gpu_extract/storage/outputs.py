"""Files that a job makes beside faces and alignments: reports and sheets. None replaces what is not its own kind."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO, TextIO

from gpu_extract.errors import OutputError
from gpu_extract.storage.atomic import write_whole
from gpu_extract.storage.inputs import open_input

Recognised = Callable[[BinaryIO], bool]
"""Whether a file, from its beginning, is what this job writes, so that it may be replaced."""

FilePath = str | os.PathLike[str]


def check_output(target: FilePath, what: str, recognised: Recognised, reads: Iterable[FilePath] = ()) -> None:
    """Find out before the work that its result could not be written, or would replace what somebody needs.

    A file that exists is replaced if it is empty or `recognised`, and is none that the job reads, under any name.

    Args:
        what: it is, for a sentence: "the report".
        reads: files that the job reads.

    Raises:
        OutputError: if it could not be written there, or must not.
    """
    path = Path(target)
    status = _status(path, what)
    if status is not None and stat.S_ISDIR(status.st_mode):
        raise OutputError(f"{what} cannot be written to {path}: it is a folder.")
    if status is not None and any(_is_same(status, other) for other in reads):
        raise OutputError(f"{what} would replace {path}, which is read here; give it another name.")
    if status is not None and (stream_of(target) is not None or not stat.S_ISREG(status.st_mode)):
        return
    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK) or not _is_writable(path, status):
        raise OutputError(f"{what} cannot be written to {path}: its folder is missing or read-only.")
    if status is None:
        return
    if status.st_size and not _is_recognised(path, what, recognised):
        raise OutputError(f"{what} would replace {path}, which is none; remove that first, or give another name.")


def write_output(
    target: FilePath, data: bytes, what: str, recognised: Recognised, reads: Iterable[FilePath] = ()
) -> None:
    """Write a file whole, so that its name holds the old one or the new one at every instant; see `check_output`.

    What is no regular file, a pipe or a terminal, is written into.

    Raises:
        OutputError: if it cannot be written, or must not.
    """
    check_output(target, what, recognised, reads)  # again: what was free before the work may be a face by now
    path = Path(target)
    try:
        if (stream := stream_of(target)) is not None:
            stream.flush()
            stream.buffer.write(data)
            stream.flush()
        elif path.exists() and not path.is_file():
            path.write_bytes(data)
        else:
            write_whole(path, [data])
    except OSError as error:
        raise OutputError(f"{what} cannot be written to {path}: {error.strerror}.") from error


def stream_of(target: FilePath) -> TextIO | None:
    """Standard output or error, where a name such as /dev/stdout means one: a file that it leads to is not replaced."""
    if not os.fspath(target).startswith(("/dev/", "/proc/")):
        return None
    for descriptor, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            if os.path.samestat(os.stat(target), os.fstat(descriptor)):  # noqa: PTH116
                return stream
        except OSError:
            continue
    return None


def _status(path: Path, what: str) -> os.stat_result | None:
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise OutputError(f"{what} cannot be written to {path}: {error.strerror}.") from error


def _is_writable(path: Path, status: os.stat_result | None) -> bool:
    return status is None or os.access(path, os.W_OK)


def _is_same(status: os.stat_result, other: FilePath) -> bool:
    try:
        return os.path.samestat(status, os.stat(other))  # noqa: PTH116
    except OSError:
        return False


def _is_recognised(path: Path, what: str, recognised: Recognised) -> bool:
    try:
        with open_input(path, f"the file that {what} would replace,") as file:
            return recognised(file)
    except OSError as error:
        raise OutputError(f"{what} cannot replace {path}: {error.strerror}.") from error
