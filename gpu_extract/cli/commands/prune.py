"""`gpu-extract prune`."""

from __future__ import annotations

import argparse

from gpu_extract.cli.chosen import in_force, values_of
from gpu_extract.cli.command import Command, word
from gpu_extract.cli.output import told

OWN = ("keep", "frames_too", "unreadable", "yes", "undo")
"""Arguments of `prune` beside its options."""


def run(arguments: argparse.Namespace) -> int:
    values = values_of(in_force(arguments, "prune"))
    from gpu_extract.jobs.prune import prune

    own = {name: getattr(arguments, name) for name in OWN}
    return told(prune(**values, **own), arguments, values["json"])


COMMAND = Command(
    "prune",
    run,
    "Take faces that were deleted from the faces folder out of the alignments file; list what is extra there.\n\n"
    "A face is known by its header or hash, whatever its file is called and whichever folder it was sorted into.\n"
    "What the folder's run never cut stays in the file. A copy of the file is kept; --undo takes all of it back.",
    "gpu-extract prune -a alignments.fsa -fc faces/",
    options="prune",
    words=(
        word(
            "--keep",
            choices=("undeleted", "present"),
            default="undeleted",
            help="all faces but those that were deleted, or only faces that are in the folder (default undeleted)",
        ),
        word("--frames-too", action="store_true", help="frames that lose their last face leave the file, too"),
        word(
            "--unreadable",
            choices=("keep", "delete"),
            default="keep",
            help="what becomes of the faces of files that cannot be read (default keep)",
        ),
        word(
            "--yes",
            action="store_true",
            help="go on where so much is missing that the folder may be the wrong one, or undo where it is gone",
        ),
        word("--undo", action="store_true", help="take the last prune of this folder back"),
    ),
    pixels=True,
)
