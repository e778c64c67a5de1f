"""What an earlier service may have left: its hold on the data folder, its processes."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from gpu_extract.errors import OutputError
from gpu_extract.service.folders import Data
from gpu_extract.storage.descriptors import close_quietly, open_beyond_standard

LEFTOVER_SECONDS = 10.0
"""For a process to be gone after it was killed."""


def hold(data: Data) -> int:
    """Have a data folder alone; returns a handle that holds it.

    Raises:
        OutputError: if another service has it, or it cannot be written.
    """
    try:
        data.make()
        handle = open_beyond_standard(data.lock, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise OutputError(f"the data folder {data.path} cannot be written: {error.strerror}.") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        close_quietly(handle)
        raise OutputError(f"another service works in {data.path}; name another --data, or end that one.") from None
    return handle


def began(pid: int) -> int | None:
    """When a process began, in ticks since the machine did; None where it is gone."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    except OSError:
        return None
    return int(after_name.split()[19])


def end_leftover(pid: int, ticks: int) -> None:
    """Kill a process that outlived its service, if it is still the same one, and wait until it is gone."""
    until = time.monotonic() + LEFTOVER_SECONDS
    while began(pid) == ticks and time.monotonic() < until:
        with suppress(OSError):
            os.kill(pid, 9)
        time.sleep(0.05)
