"""Every error that a user can meet, and the exit code of each.

    GpuExtractError                1   unexpected
    ├── UsageError                 2   an option, or options that do not go together
    ├── InputError                 3   an input is missing or cannot be read
    │   └── FrameError             3   one frame cannot be read (inside a run: an entry in the report)
    ├── DeviceError                5   the asked-for device or engine is not available here
    ├── OutputError                6   the output cannot be written, or the disk is full
    ├── AlignmentsError            7   the alignments file is rejected
    │   ├── UnsafePickleError      7   it holds something other than data
    │   └── AlignmentsChangedError 7   it changed on disk since it was loaded
    └── InterruptedRunError    130/143/129 Ctrl-C, SIGTERM or SIGHUP, after the work in flight was finished

Exit code 0 means all done; 4 means that the run finished but some frames or faces failed (no exception: the Report
names each). A message is one sentence: what came, what is allowed, what to try.
"""

from __future__ import annotations

EXIT_OK = 0
EXIT_PARTIAL = 4


def printable(text: str) -> str:
    """Text for a terminal: names from files may hold escape sequences, line breaks or bytes that are no text."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def counted(number: int, what: str, several: str | None = None) -> str:
    """ "1 face", "2,000 faces"; `several` is the plural where that takes more than an s, as of "face lies"."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {several or what + 's'}"


class GpuExtractError(Exception):
    """Base of all errors of this package; `exit_code` is what the command line exits with."""

    exit_code = 1


class UsageError(GpuExtractError):
    exit_code = 2


class InputError(GpuExtractError):
    exit_code = 3


class FrameError(InputError):
    """One frame cannot be read."""


class DeviceError(GpuExtractError):
    exit_code = 5


class OutputError(GpuExtractError):
    exit_code = 6


class AlignmentsError(GpuExtractError):
    exit_code = 7


class UnsafePickleError(AlignmentsError):
    """A pickle asks for something other than plain data; nothing of it was executed."""


class AlignmentsChangedError(AlignmentsError):
    """The alignments file changed on disk between load and save; it was not overwritten."""


class InterruptedRunError(GpuExtractError):
    """The run was asked to stop; `exit_code` is 130 (Ctrl-C), 143 (SIGTERM) or 129 (SIGHUP)."""

    def __init__(self, message: str, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code
