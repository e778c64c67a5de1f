"""`gpu-extract export`."""

from __future__ import annotations

import argparse

from gpu_extract.cli.command import MATCH_KEYS, Command, word
from gpu_extract.cli.output import say
from gpu_extract.errors import EXIT_OK, EXIT_PARTIAL


def run(arguments: argparse.Namespace) -> int:
    from gpu_extract.jobs.exchange import export

    report = export(
        arguments.file,
        arguments.new,
        frames=arguments.frames,
        keep_keys=arguments.keep_keys,
        match_keys=arguments.match_keys,
    )
    if not arguments.quiet:
        say(report.table())
    return EXIT_PARTIAL if report.faces_dropped else EXIT_OK


COMMAND = Command(
    "export",
    run,
    "Write the landmarks of an alignments file as JSON, in the form that other programs import.",
    "gpu-extract export alignments.fsa landmarks.json",
    words=(
        word("file", metavar="FILE", help="alignments file of any generation"),
        word("new", metavar="NEW", nargs="?", help="the JSON file (default: FILE's name with .json)"),
        word(
            "-fr",
            "--frames",
            metavar="PATH",
            help="the frames: needed for turned faces of 2018, and gives a video's keys its extension",
        ),
        word("--keep-keys", action="store_true", help="leave the keys of a video's frames as they are"),
        MATCH_KEYS,
    ),
)
