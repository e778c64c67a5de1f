"""`gpu-extract serve`."""

from __future__ import annotations

import argparse
import sys

from gpu_extract.cli.chosen import in_force, values_of
from gpu_extract.cli.command import Command
from gpu_extract.cli.output import say
from gpu_extract.errors import UsageError
from gpu_extract.options import ServiceSettings


def run(arguments: argparse.Namespace) -> int:
    settings = ServiceSettings(**values_of(in_force(arguments, "serve")))
    try:
        from gpu_extract.service.serve import serve
    except ImportError as error:
        raise UsageError(f"serve needs {error.name}; install gpu-extract[serve].") from error
    return serve(settings, lambda text: say(text, sys.stderr))


COMMAND = Command(
    "serve",
    run,
    "Serve this machine: take alignments files and footage over HTTP, and cut their faces.\n\n"
    "The page at its address is for people, /v1 for programs; docs/service.md tells of both.",
    "gpu-extract serve --data /data --root footage=/footage",
    options="serve",
)
