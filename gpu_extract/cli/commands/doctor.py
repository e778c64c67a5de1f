"""`gpu-extract doctor`."""

from __future__ import annotations

import argparse

from gpu_extract.cli.chosen import in_force, values_of
from gpu_extract.cli.command import Command
from gpu_extract.cli.output import say


def run(arguments: argparse.Namespace) -> int:
    values = values_of(in_force(arguments, "doctor"))
    from gpu_extract.jobs.doctor import Findings, examine
    from gpu_extract.reports.base import check_target, write_report

    if values["json"] is not None:
        check_target(Findings, values["json"])
    findings = examine(engine=values["engine"], device=values["device"], store=values["store"])
    if values["json"] is not None:
        write_report(findings, values["json"])
    if values["json"] != "-":
        say(findings.table())
    return findings.exit_code


COMMAND = Command(
    "doctor",
    run,
    "Tell what would be used on this machine, and why: versions, devices, engines, codecs.",
    "gpu-extract doctor",
    options="doctor",
    pixels=True,
)
