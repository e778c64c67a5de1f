"""What the terminal is told; a reader that is gone, and letters that it cannot show, change nothing."""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from gpu_extract.errors import OutputError, printable

if TYPE_CHECKING:
    from gpu_extract.reports.extraction import Report

NOBODY_READS = (errno.EPIPE, errno.EIO)
"""What writing to a pipe without a reader, or to a terminal that was lost, comes to."""


class Table(Protocol):
    """A report, as far as the terminal is concerned."""

    exit_code: int

    def table(self) -> str: ...


def say(text: str, stream: TextIO | None = None, end: str = "\n") -> None:
    """Print for a person. A terminal or a reader that is gone changes nothing, nor does standard error.

    Raises:
        OutputError: if standard output is a file that takes no more.
    """
    stream = stream or sys.stdout
    try:
        print(text, file=stream, end=end, flush=True)
    except OSError as error:
        silence(stream)
        if stream is not sys.stderr and error.errno not in NOBODY_READS:
            raise OutputError(f"standard output takes no more: {error.strerror}.") from error


def told(report: Table, arguments: argparse.Namespace, json: str | None) -> int:
    """Show a report, beside standard output if its JSON (`json` "-") goes there; returns its exit code."""
    if not arguments.quiet:
        say(report.table(), sys.stderr if json == "-" else sys.stdout)
    return report.exit_code


def told_of_run(report: Report, arguments: argparse.Namespace, json: Any) -> int:
    """The same for the report of a run, which says the worst even to those who want to hear nothing."""
    if not arguments.quiet:
        say(report.table(), sys.stderr if json == "-" else sys.stdout)
    else:
        if report.errors and (report.complete or report.stopped):
            say(f"gpu-extract: {report.first_errors()}", sys.stderr)
        if not report.complete:
            say(f"gpu-extract: {printable(report.notes[-1])}", sys.stderr)
    return report.exit_code


def let_go(stream: TextIO) -> None:
    """Forget what a stream did not take: the interpreter would try again at the end, and change the exit code."""
    try:
        stream.flush()
    except OSError:
        silence(stream)


def silence(stream: TextIO) -> None:
    """Lead a stream that takes no more to the null device, with what waits in it."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def escape_what_cannot_be_shown() -> None:
    """Letters that the encoding of a terminal, a log or a pipe does not have are no reason to end."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
