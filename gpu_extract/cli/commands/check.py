"""`gpu-extract check`."""

from __future__ import annotations

import argparse

from gpu_extract.cli.chosen import in_force, values_of
from gpu_extract.cli.command import Command
from gpu_extract.cli.output import told


def run(arguments: argparse.Namespace) -> int:
    values = values_of(in_force(arguments, "check"))
    from gpu_extract.jobs.check import check

    return told(check(**values), arguments, values["json"])


COMMAND = Command(
    "check",
    run,
    "Compare an alignments file with its frames: what lacks the other, several or no faces, bad landmarks.",
    "gpu-extract check -a alignments.fsa -fr clip.mp4",
    options="check",
)
