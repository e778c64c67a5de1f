"""`gpu-extract completion`."""

from __future__ import annotations

import argparse

from gpu_extract.cli.command import Command, word
from gpu_extract.cli.output import say
from gpu_extract.errors import EXIT_OK

SHELLS = ("bash", "zsh", "fish")


def run(arguments: argparse.Namespace) -> int:
    from gpu_extract.cli.parser import build_parser
    from gpu_extract.cli.shells import SCRIPTS, commands_of

    say(SCRIPTS[arguments.shell](commands_of(build_parser())), end="")
    return EXIT_OK


COMMAND = Command(
    "completion",
    run,
    "Print a script by which bash, zsh or fish complete commands, flags, their words, files and folders.",
    'eval "$(gpu-extract completion bash)"',
    words=(word("shell", metavar="SHELL", choices=SHELLS, help="bash, zsh or fish"),),
)
