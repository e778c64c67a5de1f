"""`gpu-extract verify`."""

from __future__ import annotations

import argparse

from gpu_extract.cli.chosen import in_force, values_of
from gpu_extract.cli.command import Command
from gpu_extract.cli.output import told
from gpu_extract.options import options


def run(arguments: argparse.Namespace) -> int:
    found = in_force(arguments, "verify")
    from gpu_extract.jobs.config import DEFAULT, FLAG
    from gpu_extract.jobs.verify import run
    from gpu_extract.naming import of_this_machine

    values = values_of(found)
    of_bytes = {row.name for row in options("verify") if row.decides_bytes}
    alignments, frames, faces = (
        of_this_machine(values.pop(name), "verify") for name in ("alignments", "frames", "faces")
    )
    report = run(
        alignments,
        frames,
        faces,
        asked={name: values[name] for name in of_bytes if found[name].origin == FLAG},
        otherwise={name: values[name] for name in of_bytes if found[name].origin not in (FLAG, DEFAULT)},
        running={name: value for name, value in values.items() if name not in of_bytes},
    )
    return told(report, arguments, values["json"])


COMMAND = Command(
    "verify",
    run,
    "Prove a folder of faces: cut every face again, in memory, and compare it with its file and stored hash.\n\n"
    "Options left out are those of the run that the folder's journal records. Nothing is written.",
    "gpu-extract verify -a alignments.fsa -fr clip.mp4 -fc faces/",
    options="verify",
    pixels=True,
)
