"""What a folder's run was and what failed in it: from its journal, the receipts of shards, and the run's report."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu_extract.alignments import Alignments
from gpu_extract.errors import InputError
from gpu_extract.reports.base import MAX_REPORT_BYTES
from gpu_extract.reports.extraction import Report
from gpu_extract.run import journal
from gpu_extract.run.failures import kept
from gpu_extract.run.fingerprint import FACES, Fingerprint, digest
from gpu_extract.run.journal import Finished, Told
from gpu_extract.run.signals import EXIT_CODES
from gpu_extract.storage.inputs import open_input

BEGINNING_BYTES = 256  # of a report, within which its first key stands
MOST_CANDIDATES = 100  # JSON files beside the faces that are looked at, the newest first
WHAT = "the report of the run"
EARLY = tuple(EXIT_CODES.values())
"""Exit codes of runs that were interrupted."""


@dataclass(frozen=True)
class Failed:
    """A face, or a whole frame, that a run could not cut."""

    frame: str
    index: int | None
    """None for the whole frame."""
    reason: str


@dataclass
class Outcome:
    """What is known of the run that a folder holds."""

    settings: Fingerprint | None = None
    """None where the folder has no journal: another program wrote it, or its journal was lost."""
    frames: list[Finished] = field(default_factory=list)
    report: dict[str, Any] | None = None
    """Of `extract`, as JSON; the only record of times and versions."""
    told_in: Path | None = None
    """The report's file."""
    is_latest: bool = True
    """Whether nothing has written into the journal since the report, as a later run without one does."""
    failed: list[Failed] = field(default_factory=list)
    is_outdated: bool = False
    """Whether faces have left the alignments file since, or changed places, by which the indices of `failed` went."""
    ended: float | None = None
    """When the journal was last written, seconds since 1970."""

    @property
    def ended_early(self) -> bool:
        """Whether the report says that errors, or somebody, ended the run before it had gone over all frames."""
        report = self.report if self.report is not None and self.is_latest else {}
        return report.get("stopped") is True or report.get("exit_code") in EARLY

    @property
    def knows_failures(self) -> bool:
        """A run of ours leaves a list of what failed, where something did."""
        return self.report is not None or self.settings is not None


def outcome_of(folder: Path, report: Path | None = None, alignments: Alignments | None = None) -> Outcome:
    """What is known of the run of a faces folder.

    Args:
        report: that `extract --json` wrote; None looks for it in the folder and beside it.
        alignments: that the faces were cut from, as they are now, if they are at hand.

    Raises:
        InputError: if the journal, or a report that was named, cannot be read, or is none.
    """
    found = Outcome()
    if (run := journal.read(folder)) is not None:
        found.settings, found.frames = run
        found.ended = max(_changed(folder / name) for name in journal.names(folder))
    found.told_in = report or _beside(folder)
    list_here = kept(folder)
    was = list_here.faces
    if found.told_in is not None:
        found.report = _read(found.told_in)
        found.is_latest = found.ended is None or _changed(found.told_in) >= found.ended
    if found.report is not None and (found.is_latest or report is not None):
        found.failed = list(_failed(found.report.get("errors")))
        was = was if list_here.errors == found.report.get("errors") else None
    else:
        found.failed = list(_failed(list_here.errors))
        for shard in journal.receipts(folder):
            with open_input(folder / journal.name_of(shard), journal.WHAT) as file:
                told = Told.by(file.read())
            if told is not None and told.report is not None:
                found.failed += _failed(told.report.get("errors"))
    now = [] if found.settings is None else [found.settings.get(FACES)]
    now += [] if alignments is None else [digest(alignments)]
    found.is_outdated = was is not None and any(state != was for state in now)
    return found


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _beside(folder: Path) -> Path | None:
    """The newest report of `extract` in a folder, or beside it, that says to be of that folder."""
    candidates: list[tuple[float, Path]] = []
    for place in (folder, Path(os.path.realpath(folder)).parent):
        try:
            with os.scandir(place) as entries:
                names = [entry.name for entry in entries if entry.name.endswith(".json")]
        except OSError:
            continue
        candidates += [(_changed(place / name), place / name) for name in names]
    for _, path in sorted(candidates, reverse=True)[:MOST_CANDIDATES]:
        try:
            if _begins_like_one(path) and _is_of(_read(path), folder):
                return path
        except InputError:
            continue
    return None


def _begins_like_one(path: Path) -> bool:
    try:
        with open_input(path, WHAT) as file:
            return b'"frames_expected"' in file.read(BEGINNING_BYTES)
    except OSError:
        return False


def _is_of(report: dict[str, Any], folder: Path) -> bool:
    """Whether a report names the folder: as it stands, or from a place that nobody knows any more."""
    said = report.get("faces_folder")
    if not isinstance(said, str) or not said or report.get("dry_run"):
        return False
    parts = [part for part in Path(said).parts if part not in ("..", ".")]
    return bool(parts) and Path(os.path.realpath(folder)).parts[-len(parts) :] == tuple(parts)


def _read(path: Path) -> dict[str, Any]:
    """A report of `extract`. Raises InputError where the file holds none."""
    try:
        with open_input(path, WHAT) as file:
            data = file.read(MAX_REPORT_BYTES)
        report = json.loads(data)
    except (ValueError, RecursionError, OSError):
        report = None
    if not Report.is_one(report):
        raise InputError(f"{path} is no report of a run; name the file that extract --json wrote.")
    return dict(report)


def _failed(errors: Any) -> Iterable[Failed]:
    for error in errors if isinstance(errors, list) else ():
        if not isinstance(error, dict):
            continue
        frame, index, reason = (error.get(key) for key in ("frame", "index", "reason"))
        if isinstance(frame, str) and isinstance(reason, str):
            yield Failed(frame, index if isinstance(index, int) and index >= 0 else None, reason)
