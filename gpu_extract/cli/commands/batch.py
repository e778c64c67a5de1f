"""`gpu-extract batch`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gpu_extract.cli.chosen import flags, values_of
from gpu_extract.cli.command import Command, word
from gpu_extract.cli.output import say, told
from gpu_extract.errors import EXIT_OK, UsageError, printable


def run(arguments: argparse.Namespace) -> int:
    from gpu_extract.jobs.config import config_file, missing, values_in_force

    places = [*arguments.places, *arguments.named]
    if not places:
        raise UsageError("the following arguments are required: PLACE; see gpu-extract batch --help.")
    named = flags(arguments, "batch")
    first = Path(arguments.alignments_dir or places[0])
    beside = {"alignments": first / "alignments.fsa" if first.is_dir() else first}
    found = values_in_force("batch", named, file=config_file(arguments.config, beside, "batch"))
    if missing("batch", found):
        raise UsageError("the following arguments are required: -fc/--faces; see gpu-extract batch --help.")
    values = values_of(found)
    if arguments.quiet:
        values["progress"] = "none"
    from gpu_extract.jobs.batch import batch

    report = batch(places, alignments_dir=arguments.alignments_dir, recursive=arguments.recursive, **values)
    if arguments.quiet and report.exit_code != EXIT_OK:
        say(f"gpu-extract: {printable(report.first_failure())}", sys.stderr)
    return told(report, arguments, values["json"])


COMMAND = Command(
    "batch",
    run,
    "Extract the faces of many videos and folders of images, each with the alignments file beside it.\n\n"
    "Faces go to a folder for each, by its name. What is wrong with one ends no other; the report has a row for\n"
    "each, and its last line is the command that does what is left. Patterns are understood where the shell does\n"
    "not. Options are those of extract, for every video; --on-error and --max-errors end the run of one.",
    "gpu-extract batch footage/ -fc faces/ -sz 256",
    options="batch",
    words=(
        word(
            "places",
            metavar="PLACE",
            nargs="*",
            help="a video, a folder of images, a folder of videos or of such folders, or a pattern of their names",
        ),
        word("-r", "-i", dest="named", metavar="PLACE", action="append", default=[], help=argparse.SUPPRESS),
        word("--alignments-dir", metavar="DIR", help="where the alignments files lie (default: beside the frames)"),
        word("--recursive", action="store_true", help="look into the folders inside those folders, too"),
    ),
    pixels=True,
)
