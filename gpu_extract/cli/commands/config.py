"""`gpu-extract config`."""

from __future__ import annotations

import argparse

from gpu_extract.cli.chosen import flags
from gpu_extract.cli.command import Command
from gpu_extract.cli.output import say
from gpu_extract.errors import EXIT_OK


def run(arguments: argparse.Namespace) -> int:
    from gpu_extract.jobs.config import config
    from gpu_extract.reports.base import write_report

    named = flags(arguments, "extract")
    target = named.pop("json", None)
    found = config(named, file=arguments.config)
    if target is not None:
        write_report(found, target, reads=() if found.file is None else (found.file,))
    if target != "-":
        say(found.table())
    return EXIT_OK


COMMAND = Command(
    "config",
    run,
    "Tell which value of every option of extract is in force, and where it comes from.\n\n"
    "Flags go before the environment (GPU_EXTRACT_SIZE=512), that before the configuration file, and that before\n"
    "the defaults.",
    "gpu-extract config -a alignments.fsa",
    options="extract",
)
