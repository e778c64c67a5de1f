"""`gpu-extract rebuild`."""

from __future__ import annotations

import argparse

from gpu_extract.cli.chosen import in_force, values_of
from gpu_extract.cli.command import Command, word
from gpu_extract.cli.output import told

OWN = ("faces", "new", "frames", "source")
"""Arguments of `rebuild` beside its options."""


def run(arguments: argparse.Namespace) -> int:
    values = values_of(in_force(arguments, "rebuild"))
    from gpu_extract.jobs.rebuild import rebuild

    own = {name: getattr(arguments, name) for name in OWN}
    return told(rebuild(**own, **values), arguments, values["json"])


COMMAND = Command(
    "rebuild",
    run,
    "Make an alignments file from the faces of a folder, after the file was lost.\n\n"
    "A face of version 2.1 or later is known by its header, an older one by the list that extract --metadata wrote,\n"
    "whatever its file is called and whichever folder it was sorted into. What cannot be taken is named.",
    "gpu-extract rebuild faces/ alignments.fsa -fr clip.mp4",
    options="rebuild",
    words=(
        word("faces", metavar="DIR", help="the folder of faces; it is only read"),
        word("new", metavar="NEW", help="a .fsa file that does not exist yet"),
        word("-fr", "--frames", metavar="PATH", help="the frames: those without a face get an entry, too"),
        word("--source", metavar="NAME", help="the video whose faces are meant, or images, where there are several"),
    ),
    pixels=True,
)
