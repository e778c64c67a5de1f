"""What was written, on the disk: thousands of files at once, for a flush of each makes a run many times slower."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

from gpu_extract.storage.descriptors import close_quietly

UNAVAILABLE = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)
"""What systems and sandboxes without the call answer, not disks."""


def sync_file_system(folder: Path) -> bool:
    """Wait until everything written to the folder's file system, names included, survives a power cut.

    Returns:
        False where the system has no such call.

    Raises:
        OSError: if the disk takes it not.
    """
    call = _syncfs()
    if call is None:
        return False
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        while call(descriptor) != 0:
            code = ctypes.get_errno()
            if code in UNAVAILABLE:
                return False
            if code != errno.EINTR:
                raise OSError(code, os.strerror(code))
    finally:
        close_quietly(descriptor)
    return True


@cache
def _syncfs() -> Callable[[int], int] | None:
    function: Callable[[int], int] | None = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    return function
