"""`gpu-extract reindex`."""

from __future__ import annotations

import argparse

from gpu_extract.cli.chosen import in_force, values_of
from gpu_extract.cli.command import Command, word
from gpu_extract.cli.output import told


def run(arguments: argparse.Namespace) -> int:
    values = values_of(in_force(arguments, "reindex"))
    from gpu_extract.jobs.reindex import reindex

    return told(reindex(**values, new=arguments.new, by=arguments.by, faces=arguments.faces), arguments, values["json"])


COMMAND = Command(
    "reindex",
    run,
    "Number the faces of each frame of an alignments file from left to right, top to bottom, or by size.\n\n"
    "All that a face has goes with it. A copy of the file is kept, or NEW is written and FILE stays as it is.\n"
    "Of faces that were cut before, those in the folder -fc follow; others have the old numbers.",
    "gpu-extract reindex -a alignments.fsa --by left-to-right",
    options="reindex",
    words=(
        word("new", metavar="NEW", nargs="?", help="a new file (default: FILE itself, after a copy)"),
        word("-fc", "--faces", metavar="DIR", help="faces that a run of this file made: they get the new numbers, too"),
        word(
            "--by",
            choices=("left-to-right", "top-to-bottom", "size"),
            default="left-to-right",
            help="edges of the faces' boxes, or their area, the largest first (default left-to-right)",
        ),
    ),
    pixels=True,
)
