"""`gpu-extract sheet`."""

from __future__ import annotations

import argparse
import sys

from gpu_extract.cli.command import Command, word
from gpu_extract.cli.output import say


def run(arguments: argparse.Namespace) -> int:
    from gpu_extract.jobs.sheet import contact_sheet

    sheet = contact_sheet(arguments.faces, arguments.out_png, columns=arguments.columns, cell=arguments.cell)
    if not arguments.quiet or sheet.unreadable:
        say(sheet.table(), sys.stderr if arguments.quiet else sys.stdout)
    return sheet.exit_code


COMMAND = Command(
    "sheet",
    run,
    "Put the faces of a folder on one picture to look through.",
    "gpu-extract sheet faces/ sheet.png",
    words=(
        word("faces", metavar="DIR", help="a folder of faces"),
        word("out_png", metavar="PNG", help="the picture; further pages get _2, _3, …"),
        word("--columns", metavar="N", type=int, help="faces in a row"),
        word("--cell", metavar="PX", type=int, help="side of a face on the sheet"),
    ),
    pixels=True,
)
