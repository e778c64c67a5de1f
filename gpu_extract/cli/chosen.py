"""Which options are in force for a command, from wherever they come."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gpu_extract.errors import UsageError
from gpu_extract.options import options

if TYPE_CHECKING:
    from gpu_extract.jobs.config import Value


def flags(arguments: argparse.Namespace, command: str) -> dict[str, Any]:
    """The options that are named on the command line."""
    return {row.name: getattr(arguments, row.name) for row in options(command) if hasattr(arguments, row.name)}


def in_force(arguments: argparse.Namespace, command: str, unneeded: Sequence[str] = ()) -> dict[str, Value]:
    """The value of every option of a command, from wherever it comes.

    Args:
        unneeded: options that the command can do without this time.

    Raises:
        UsageError: if one that the command needs is missing, or the environment or a file has what is not allowed.
    """
    from gpu_extract.jobs.config import FLAG, USUAL, Value, config_file, missing, values_in_force, why_none

    named = flags(arguments, command)
    found = values_in_force(command, named, file=config_file(arguments.config, named, command))
    if lacking := [row for row in missing(command, found) if row.name not in unneeded]:
        words = ", ".join("/".join(row.flags) for row in lacking)
        more = why_none(command, found) or f"see gpu-extract {command} --help"
        raise UsageError(f"the following arguments are required: {words}; {more}.")
    if arguments.quiet and "progress" in found:
        found["progress"] = Value("none", FLAG)
    if "alignments" in found and found["alignments"].origin == USUAL and not arguments.quiet:
        from gpu_extract.run.progress import Note, listener_for

        listener = listener_for(found["progress"].value if "progress" in found else "plain")
        listener(Note(f"the alignments file is {found['alignments'].value}, found beside the frames."))
    return found


def values_of(found: dict[str, Value]) -> dict[str, Any]:
    """The values alone, as a job takes them."""
    return {name: value for name, (value, _) in found.items()}
