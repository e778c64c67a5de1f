"""Descriptors 0 to 2, which libraries write their warnings to whatever file they belong to.

A process may be started with some of them closed. The next file that it opens gets the lowest free one, and what
libjpeg, OpenCV or FFmpeg say on "standard error" is then written into a face or into the journal.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

STANDARD = (0, 1, 2)


def hold_standard_streams() -> None:
    """Open the null device on each of descriptors 0 to 2 that is closed, and give Python a stream where it has none."""
    hold_standard()
    # Python found a closed descriptor and has None there, which print() takes for standard output.
    sys.stdout = sys.stdout or _null_stream(1)
    sys.stderr = sys.stderr or _null_stream(2)


def open_beyond_standard(path: str | os.PathLike[str], flags: int, mode: int = 0o666) -> int:
    """`os.open`, closed in child processes, whose descriptor is never one of 0 to 2.

    A program that calls this package may have closed these; the null device then takes their place.
    """
    descriptor = os.open(path, flags | os.O_CLOEXEC, mode)
    if descriptor not in STANDARD:
        return descriptor
    moved = _moved(descriptor)
    hold_standard()
    return moved


@contextmanager
def closing(descriptor: int) -> Iterator[None]:
    """Close a descriptor that is written to. Some file systems tell only then what they could not write.

    An error of the closing is raised, but takes no other one's place.
    """
    try:
        yield
    except BaseException:
        close_quietly(descriptor)
        raise
    os.close(descriptor)


def close_quietly(descriptor: int) -> None:
    """Close what was only read, or flushed, or is given up: the descriptor is gone whatever the system answers."""
    with suppress(OSError):
        os.close(descriptor)


def _moved(descriptor: int) -> int:
    import fcntl

    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, len(STANDARD))
    finally:
        close_quietly(descriptor)


def hold_standard() -> None:
    """Open the null device on each of descriptors 0 to 2 that is closed."""
    # The lowest free number is what an open gets, so nothing that another thread opens meanwhile is ever replaced.
    with suppress(OSError):
        while (descriptor := os.open(os.devnull, os.O_RDWR)) in STANDARD:
            os.set_inheritable(descriptor, True)
        os.close(descriptor)


def _null_stream(descriptor: int) -> TextIO:
    return open(descriptor, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
