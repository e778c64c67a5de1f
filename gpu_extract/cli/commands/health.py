"""`gpu-extract health`."""

from __future__ import annotations

import argparse
import os
import sys

from gpu_extract.cli.command import Command, word
from gpu_extract.cli.output import say
from gpu_extract.errors import EXIT_OK
from gpu_extract.options import option


def run(arguments: argparse.Namespace) -> int:
    from gpu_extract.client.health import health

    port = option("port")
    url = arguments.url or f"http://127.0.0.1:{port.parse(os.environ.get(port.variable) or str(port.default))}"
    found = health(url)
    if not found.ready or not arguments.quiet:
        say(found.line, sys.stdout if found.ready else sys.stderr)
    return EXIT_OK if found.ready else 1


COMMAND = Command(
    "health",
    run,
    "Ask a server whether it is ready: exits with 0 where it is, with 1 and the reasons where not.",
    "gpu-extract health http://gpu-box:8080",
    words=(
        word(
            "url",
            metavar="URL",
            nargs="?",
            help="of the server (default http://127.0.0.1, with the port of GPU_EXTRACT_PORT or 8080)",
        ),
    ),
)
