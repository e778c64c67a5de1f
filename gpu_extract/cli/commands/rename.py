"""`gpu-extract rename`."""

from __future__ import annotations

import argparse

from gpu_extract.cli.chosen import in_force, values_of
from gpu_extract.cli.command import Command, word
from gpu_extract.cli.output import told

OWN = ("faces", "alignments", "flat", "undo")
"""Arguments of `rename` beside its options."""


def run(arguments: argparse.Namespace) -> int:
    values = values_of(in_force(arguments, "rename"))
    from gpu_extract.jobs.rename import rename

    own = {name: getattr(arguments, name) for name in OWN}
    return told(rename(**own, **values), arguments, values["json"])


COMMAND = Command(
    "rename",
    run,
    "Give faces that were sorted or renamed the names back that their run gave them.\n\n"
    "A face is known by its header, an older one by its hash, which the folder's journal or the alignments file has.\n"
    "No file is overwritten: duplicates, and files whose names are taken, stay and are named. --undo takes it back.",
    "gpu-extract rename faces/ --flat",
    options="rename",
    words=(
        word("faces", metavar="DIR", help="the folder of faces"),
        word(
            "-a",
            "--alignments",
            metavar="FILE",
            help="the alignments file: needed for faces of before version 2.1 in a folder without a journal",
        ),
        word("--flat", action="store_true", help="faces also leave the sub-folders that they were sorted into"),
        word("--undo", action="store_true", help="take the last rename of this folder back"),
    ),
    pixels=True,
)
