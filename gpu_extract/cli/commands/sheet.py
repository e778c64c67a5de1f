"""`gpu-extract sheet`."""

from __future__ import annotations

import argparse
import sys

from gpu_extract.cli.command import Command, word
from gpu_extract.cli.output import say


def run(arguments: argparse.Namespace) -> int:
    from gpu_extract.jobs.sheet import contact_sheet

    sheet = contact_sheet(
        arguments.faces,
        arguments.out_png,
        columns=arguments.columns,
        cell=arguments.cell,
        sort=arguments.sort,
        reverse=arguments.reverse,
        where=arguments.where,
        landmarks=arguments.landmarks,
    )
    if not arguments.quiet or sheet.unreadable:
        say(sheet.table(), sys.stderr if arguments.quiet else sys.stdout)
    return sheet.exit_code


COMMAND = Command(
    "sheet",
    run,
    "Put the faces of a folder on one picture to look through.\n\n"
    "A condition is made of sharpness, size (side of the face's box in its frame, in pixels), yaw, pitch, roll (in "
    "degrees), position, frame, index, name and hash_state (new, same, changed, none), of numbers and texts in quotes, "
    "< <= > >= == !=, and, or, not, and parentheses. extract --metadata writes these values down; without it sharpness "
    "is measured, and the others come from the headers of faces that have them.",
    "gpu-extract sheet faces/ sheet.png --sort sharpness --where 'size < 128'",
    words=(
        word("faces", metavar="DIR", help="a folder of faces"),
        word("out_png", metavar="PNG", help="the picture; further pages get _2, _3, …"),
        word("--columns", metavar="N", type=int, help="faces in a row"),
        word("--cell", metavar="PX", type=int, help="side of a face on the sheet"),
        word(
            "--sort",
            choices=("sharpness", "size", "yaw", "pitch", "roll", "name", "frame"),
            help="lowest first; by default by frame",
        ),
        word("--reverse", action="store_true", help="last first"),
        word("--where", metavar="CONDITION", help="only faces of which it holds: 'size < 128 and sharpness > 20'"),
        word("--landmarks", action="store_true", help="draw them"),
    ),
    pixels=True,
)
