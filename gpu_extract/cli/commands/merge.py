"""`gpu-extract merge`."""

from __future__ import annotations

import argparse
import sys

from gpu_extract.cli.chosen import in_force, values_of
from gpu_extract.cli.command import Command
from gpu_extract.cli.output import say, told


def run(arguments: argparse.Namespace) -> int:
    values = values_of(in_force(arguments, "merge"))
    from gpu_extract.jobs.merge import merge

    report = merge(**values)
    if report.shards_missing and arguments.quiet:
        say(f"gpu-extract: {report.notes[-1]}", sys.stderr)
    return told(report, arguments, values["json"])


COMMAND = Command(
    "merge",
    run,
    "Make one run of all the shards in a faces folder, and save the hashes in the alignments file.\n\n"
    "Nothing is changed unless every planned frame is there, whole, or known to have failed.",
    "gpu-extract merge -a alignments.fsa -fr clip.mp4 -fc faces/",
    options="merge",
    pixels=True,
)
