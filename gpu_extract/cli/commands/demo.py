"""`gpu-extract demo`."""

from __future__ import annotations

import argparse

from gpu_extract.cli.command import Command, word
from gpu_extract.cli.output import say


def run(arguments: argparse.Namespace) -> int:
    from gpu_extract.demo import run_demo

    made = run_demo(arguments.folder)
    if not arguments.quiet:
        say(made.table())
    return made.report.exit_code


COMMAND = Command(
    "demo",
    run,
    "Draw a small clip with cartoon faces, extract them, and leave a contact sheet to look at.",
    "gpu-extract demo demo/",
    words=(word("folder", metavar="DIR", nargs="?", default="demo", help="where to leave it all (default demo)"),),
    pixels=True,
)
