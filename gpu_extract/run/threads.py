"""Cores, and threads that the system may refuse."""

from __future__ import annotations

import os
import threading

from gpu_extract.errors import DeviceError


def usable_cores() -> set[int]:
    """The cores that this process may run on; all of the machine's where the system has no say in it, as macOS."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def use_cores(cores: set[int]) -> None:
    """Have this thread, and what it starts, run on these alone, where the system lets itself be told."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def available_cores() -> int:
    """How many cores this process may run on."""
    return len(usable_cores())


def start_thread(thread: threading.Thread, granted: str) -> None:
    """Start a thread.

    Args:
        granted: what the system has granted so far, for a sentence.

    Raises:
        DeviceError: if it refuses, as under a limit of processes or of memory.
    """
    try:
        thread.start()
    except RuntimeError as error:
        raise refused(granted, error) from error


def refused(granted: str, error: Exception) -> DeviceError:
    """What is said where the system has granted some threads and refuses another."""
    return DeviceError(
        f"the system grants {granted} and then no more ({error}); try fewer --workers, or raise its limits "
        "(ulimit -u, ulimit -v)."
    )
