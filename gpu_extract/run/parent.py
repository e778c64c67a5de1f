"""What a child process owes its parent: to end with it. Loaded at every start, so nothing heavy is imported here."""

from __future__ import annotations

import os
import signal
import sys

PARENT = "_GPU_EXTRACT_PARENT"
"""Environment variable of a child: its parent's process id."""
_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux


def follow_parent() -> None:
    """In a child: be told to end when the parent dies, however it does; end at once if it is gone already."""
    parent = os.environ.pop(PARENT, None)
    if parent is None:
        return
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(_SET_DEATH_SIGNAL, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(parent):
        os._exit(128 + signal.SIGTERM)
