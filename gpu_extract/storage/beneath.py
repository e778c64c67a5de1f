"""Files below a folder, opened by one name after another, so that no link leads out of it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from gpu_extract.storage.descriptors import close_quietly

_INTO = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def open_beneath(folder: Path, path: str) -> int:
    """A handle to read a regular file.

    Args:
        folder: may be reached by links.
        path: names with `/` between, none of which may be a link, or lead upwards.

    Raises:
        OSError: if there is no such file.
    """
    parts = path.split("/")
    if "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise FileNotFoundError(path)
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts[:-1]:
            inner = os.open(part, _INTO, dir_fd=at)
            close_quietly(at)
            at = inner
        # What it is before it is opened: to open a device may do something.
        if not stat.S_ISREG(os.stat(parts[-1], dir_fd=at, follow_symlinks=False).st_mode):
            raise FileNotFoundError(path)
        handle = os.open(parts[-1], _FILE, dir_fd=at)
    finally:
        close_quietly(at)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        close_quietly(handle)
        raise FileNotFoundError(path)
    return handle
