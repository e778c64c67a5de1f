"""`gpu-extract migrate`."""

from __future__ import annotations

import argparse

from gpu_extract.cli.command import MATCH_KEYS, Command, word
from gpu_extract.cli.output import say
from gpu_extract.errors import EXIT_OK, EXIT_PARTIAL


def run(arguments: argparse.Namespace) -> int:
    from gpu_extract.jobs.migrate import migrate

    report = migrate(
        arguments.old, arguments.new, to=arguments.to, frames=arguments.frames, match_keys=arguments.match_keys
    )
    if not arguments.quiet:
        say(report.table())
    return EXIT_PARTIAL if report.faces_dropped else EXIT_OK


COMMAND = Command(
    "migrate",
    run,
    "Write an alignments file of any generation as a new file of a newer one.",
    "gpu-extract migrate old.json alignments.fsa --to 2.4",
    words=(
        word("old", metavar="OLD", help="alignments file of any generation; it is not changed"),
        word("new", metavar="NEW", help="a .fsa file that does not exist yet"),
        word("--to", metavar="VERSION", default="2.4", help="g6, g7a, g7b or 2.0 to 2.4 (default 2.4)"),
        word(
            "-fr",
            "--frames",
            metavar="PATH",
            help="the frames: needed for turned faces of 2018, and names a video's keys",
        ),
        MATCH_KEYS,
    ),
)
