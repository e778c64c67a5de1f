"""What a person does after a run: the command in the last line of its report."""

from __future__ import annotations

from typing import Any

from gpu_extract.naming import Url
from gpu_extract.options import Settings, options, typed, words_of
from gpu_extract.reports.extraction import Report

ENDS_WITH_THE_RUN = ("resume", "dry_run", "deleted", "shard", "json", "progress")
"""Options that the next command does not take over."""


def next_command(settings: Settings, report: Report) -> str:
    """The command that goes on where a run ended, or that looks at what it made; empty where there is none.

    Args:
        settings: of the run, with the places that a person named.
    """
    if report.shards_missing:
        return "" if isinstance(settings.faces, Url) else _extract(settings, resume=True)
    if not (report.frames_expected or report.errors or not report.complete):
        return ""
    if report.dry_run:
        return _extract(settings)
    if report.errors or not report.complete:
        return _extract(settings, resume=True, shard=settings.shard)
    if settings.shard is not None:
        return typed("merge", *words_of(chosen(settings, "merge", but=(*ENDS_WITH_THE_RUN, "device"))))
    return "" if isinstance(settings.faces, Url) else typed("report", settings.faces)


def _extract(settings: Settings, **more: Any) -> str:
    return typed("extract", *words_of(chosen(settings, "extract", but=ENDS_WITH_THE_RUN) | more))


def chosen(settings: Settings, command: str, but: tuple[str, ...] = ()) -> dict[str, Any]:
    """The options of a command that are not what they are by default, and that words can say."""
    return {
        row.name: value
        for row in options(command)
        if (value := getattr(settings, row.name)) != row.default and not callable(value) and row.name not in but
    }
