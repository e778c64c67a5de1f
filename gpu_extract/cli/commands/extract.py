"""`gpu-extract extract`."""

from __future__ import annotations

import argparse

from gpu_extract.cli.chosen import in_force, values_of
from gpu_extract.cli.command import Command
from gpu_extract.cli.output import told_of_run
from gpu_extract.options import Settings


def run(arguments: argparse.Namespace) -> int:
    settings = Settings(**values_of(in_force(arguments, "extract")))
    from gpu_extract.jobs.extract import run

    return told_of_run(run(settings), arguments, settings.json)


COMMAND = Command(
    "extract",
    run,
    "Cut every face out again, aligned, and record its hash in the alignments file.",
    "gpu-extract extract -a alignments.fsa -fr clip.mp4 -fc faces/ -sz 256",
    options="extract",
    pixels=True,
)
