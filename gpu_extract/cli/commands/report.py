"""`gpu-extract report`."""

from __future__ import annotations

import argparse

from gpu_extract.cli.command import Command, word
from gpu_extract.cli.output import told


def run(arguments: argparse.Namespace) -> int:
    from gpu_extract.jobs.report import face_report

    report = face_report(
        arguments.faces,
        arguments.out,
        run_report=arguments.run_report,
        alignments=arguments.alignments,
        thumbs=arguments.thumbs,
    )
    return told(report, arguments, None)


COMMAND = Command(
    "report",
    run,
    "Make a page for a browser of all faces of a folder: look through, sort, filter; what failed and why.\n\n"
    "It is opened from the disk, without a server or a network. The run's report is found where --json wrote it into\n"
    "the folder or beside it. Nothing is written but the page and its data; an earlier report is replaced.",
    "gpu-extract report faces/",
    words=(
        word("faces", metavar="DIR", help="a folder of faces"),
        word(
            "-o",
            "--out",
            metavar="PATH",
            help="a folder for index.html, or the page's own name (default: the faces folder's name and _report)",
        ),
        word(
            "--run-report", metavar="JSON", help="what extract --json wrote (default: found in the folder or beside it)"
        ),
        word("-a", "--alignments", metavar="FILE", help="what the faces were cut from, where they do not say how"),
        word(
            "--thumbs",
            choices=("auto", "always", "never"),
            default="auto",
            help="thumbnails: of faces over 256 px and those that browsers cannot show; of all, so that the page can "
            "go without the faces; of none (default auto)",
        ),
    ),
    pixels=True,
)
