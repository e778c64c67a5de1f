"""`gpu-extract import`."""

from __future__ import annotations

import argparse
import sys

from gpu_extract.cli.command import Command, word
from gpu_extract.cli.output import say
from gpu_extract.errors import EXIT_OK, EXIT_PARTIAL, printable


def run(arguments: argparse.Namespace) -> int:
    from gpu_extract.jobs.exchange import first_left_out, import_landmarks, import_table

    made = import_landmarks(arguments.landmarks, arguments.new, strict=arguments.strict)
    if not arguments.quiet:
        say(import_table(made))
    elif made.left_out:
        say(f"gpu-extract: {printable(first_left_out(made, arguments.landmarks))}", sys.stderr)
    return EXIT_PARTIAL if made.left_out else EXIT_OK


COMMAND = Command(
    "import",
    run,
    "Make an alignments file from landmarks: the JSON exchange form, or plain lists of points a frame.",
    "gpu-extract import landmarks.json alignments.fsa",
    words=(
        word("landmarks", metavar="LANDMARKS", help="{frame: [{landmarks_2d: …}]} or {frame: [[[x, y], …]]}"),
        word("new", metavar="NEW", help="a .fsa file that does not exist yet"),
        word("--strict", action="store_true", help="make no file if a face would be left out"),
    ),
)
