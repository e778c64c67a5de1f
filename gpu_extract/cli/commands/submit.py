"""`gpu-extract submit`."""

from __future__ import annotations

import argparse

from gpu_extract.cli.chosen import flags, in_force, values_of
from gpu_extract.cli.command import Command, seconds, word
from gpu_extract.cli.output import say, told_of_run
from gpu_extract.errors import EXIT_OK

OWN = ("job", "detach", "token_file", "patience", "cancel_on_interrupt", "alignments_out", "priority")
"""Arguments of `submit` beside those of the run."""


def run(arguments: argparse.Namespace) -> int:
    values = values_of(
        in_force(arguments, "submit", unneeded=() if arguments.job is None else ("alignments", "frames"))
    )
    from gpu_extract.client.submission import submit
    from gpu_extract.client.wish import Wish, check_decides_itself

    check_decides_itself(flags(arguments, "extract"))
    wish = Wish(url=arguments.url, values=values, **{name: getattr(arguments, name) for name in OWN})
    found = submit(wish)
    if isinstance(found, str):
        say(found)
        return EXIT_OK
    return told_of_run(found, arguments, values["json"])


COMMAND = Command(
    "submit",
    run,
    "Have a server cut the faces: upload, fetch them as they come, save the alignments file, as if it ran here.\n\n"
    "FILE and PATH are of this machine, or ROOT:path of the server: what is here by that name goes first.\n"
    "Whatever cuts it, the same command goes on where it was; how far it is stands in the user's state folder\n"
    "(XDG_STATE_HOME). Ctrl-C leaves the job running at the server, a second one ends this at once.\n"
    "The token is that of GPU_EXTRACT_TOKEN or --token-file, or stands behind the URL as the server prints it.",
    "gpu-extract submit http://gpu-box:8080 -a alignments.fsa -fr clip.mp4 -fc faces/ -sz 256",
    options="submit",
    words=(
        word("url", metavar="URL", help="of the server"),
        word("--job", metavar="ID", help="of a job that is there already: wait for it and fetch its faces into -fc"),
        word("--detach", action="store_true", help="print the job's id when the server has it, and do not wait"),
        word("--token-file", metavar="FILE", help="that holds the token, and nothing else"),
        word(
            "--patience",
            metavar="S",
            type=seconds,
            default=900.0,
            help="seconds that the server may be away before this ends (default 900)",
        ),
        word("--cancel-on-interrupt", action="store_true", help="have Ctrl-C cancel the job at the server"),
        word("--alignments-out", metavar="FILE", help="where to put the updated file, where that is the server's"),
        word("--priority", metavar="N", type=int, default=0, help="-100 to 100, higher goes first (default 0)"),
    ),
)
