"""`merge`: the shards of a run become one run, as if they had never been divided.

Nothing is changed before the receipts of the shards prove that every planned frame is there, whole, or known to have
failed. What follows is the end of any run: metadata, thumbnails, hashes, one atomic save.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from gpu_extract.errors import EXIT_PARTIAL, InputError
from gpu_extract.face_files.layout import layout_for
from gpu_extract.face_files.stored import is_as_written
from gpu_extract.jobs.changes.stopped import check_completed
from gpu_extract.jobs.runs.earlier import RESTORE, Earlier, look_over, named
from gpu_extract.jobs.runs.extraction import begin, introduce, on_this_disk, other_names, report_failures
from gpu_extract.jobs.runs.next_step import next_command
from gpu_extract.jobs.runs.prepare import Prepared, prepared
from gpu_extract.naming import located
from gpu_extract.options import Settings, options
from gpu_extract.reports.base import check_target, write_report
from gpu_extract.reports.extraction import Report
from gpu_extract.run import failures, journal
from gpu_extract.run.fingerprint import as_settings, fingerprint
from gpu_extract.run.plan import Plan
from gpu_extract.run.progress import Listener, Progress, listener_for
from gpu_extract.run.receipts import Receipts
from gpu_extract.run.shard import Shard
from gpu_extract.run.shards import cuts
from gpu_extract.run.signals import Interruption
from gpu_extract.storage.inputs import is_folder

NAMED = 20
"""Shards that a note names."""
NOT_DIVIDED = "the run in this folder is one that was not divided, and not whole: extract --resume continues it."


def merge(
    alignments: str | os.PathLike[str],
    frames: str | os.PathLike[str],
    faces: str | os.PathLike[str],
    *,
    device: str = "auto",
    json: str | os.PathLike[str] | None = None,
    no_update: bool = False,
    replace_hashes: bool = False,
    cache: str | os.PathLike[str] | None = None,
    partial_ok: bool = False,
    progress: str | Listener = "auto",
    cancel: threading.Event | None = None,
) -> Report:
    """Make one run of all shards in a faces folder: one journal, metadata, the hashes in the alignments file.

    Args:
        alignments, frames, faces: as the shards had them. What else they were asked for, their journals tell.
        device, json, no_update, replace_hashes, cache, partial_ok, progress, cancel: see `gpu_extract.extract`.

    Returns:
        The report of the whole run. Where shards are missing, unfinished or not whole, `shards_missing` names them,
        `exit_code` is 4, and nothing was changed; run these again, with `resume`, and merge again.

    Raises:
        GpuExtractError: one of its kinds, see `gpu_extract.errors`. UsageError if the journals are not those of this
            alignments file, or of one run.
    """
    asked = Settings(
        alignments=located(alignments),
        frames=located(frames),
        faces=located(faces),
        device=device,
        json=json,
        no_update=no_update,
        replace_hashes=replace_hashes,
        cache=cache,
        partial_ok=partial_ok,
        progress=progress,
        resume=True,
    )
    if asked.urls:
        from gpu_extract.jobs.runs.staging import run_staged

        return run_staged(asked, cancel, partial(_merge, cancel=cancel))
    return _merge(asked, cancel=cancel)


def _merge(asked: Settings, *, cancel: threading.Event | None) -> Report:
    folder = asked.faces
    if not is_folder(folder, "the faces folder"):
        raise InputError(f"there is no faces folder {folder}; name the one that the shards wrote.")
    stored = journal.begun(folder)
    if stored is None:
        raise InputError(f"the faces folder {folder} holds no run, whole or in shards.")
    mine = {option.name: getattr(asked, option.name) for option in options("extract") if not option.decides_bytes}
    settings = Settings(**as_settings(stored, "extract") | mine | {"deleted": RESTORE})
    return run(settings, cancel=cancel)


def run(settings: Settings, *, cancel: threading.Event | None = None) -> Report:
    """`merge` with its options as one value, of which those that decide bytes are the shards'."""
    if settings.json is not None:
        check_target(Report, settings.json)
    began = time.perf_counter()
    report = Report(size=settings.size, faces_folder=os.fspath(settings.faces))
    with (
        Interruption(cancel) as interruption,
        Progress(listener_for(settings.progress)) as told,
        prepared(settings, told.note) as made,
    ):
        introduce(made, settings.align_eyes, report)
        if note := other_names(settings, made.alignments):
            report.notes.append(note)
            told.note(note)
        is_divided = bool(journal.receipts(settings.faces))
        if missing := join(settings, made, report, interruption):
            report.shards_missing = [str(shard) for shard in missing] if is_divided else []
            report.notes.append(_what_to_do(missing) if is_divided else NOT_DIVIDED)
            report.exit_code = EXIT_PARTIAL
        report.finish(time.perf_counter() - began, partial_ok=settings.partial_ok)
        told.finish(report.exit_code)
    report.next = next_command(settings, report)
    if not settings.dry_run and settings.shard is None and not report.shards_missing:
        failures.keep(settings.faces, report)
    if settings.json is not None:
        write_report(report, settings.json)
    return report


def join(
    settings: Settings, made: Prepared, report: Report, interruption: Interruption, *, is_reserved: bool = False
) -> list[Shard]:
    """Prove that all is there, then finish the run; or return the shards that are missing, with nothing changed.

    Args:
        settings: of which `deleted` says whether faces that were taken away are missing.
        is_reserved: see `extraction.begin`.
    """
    check_completed(settings.faces)
    stored = fingerprint(settings, made.alignments, made.resolved, made.engine.name)
    with Receipts(settings.faces, stored) as receipts:
        made = on_this_disk(settings, made, receipts.journals)
        missing, earlier = _missing(settings, made, receipts)
        interruption.check()
        if missing:
            if earlier.gone:
                report.notes.append(
                    f"gone from the folder: {named(earlier.gone)}; beside --resume, --deleted {RESTORE} makes what was "
                    "deleted again."
                )
            return sorted(missing)
        failures = receipts.failures
        reports = receipts.reports_of_all
        report.damaged = sum(one["damaged"] for one in reports)
        report.faces_outside = sum(one["faces_outside"] for one in reports)
        for one in reports:
            for stage, seconds in one["seconds"].items():
                report.stage_seconds[stage] = report.stage_seconds.get(stage, 0.0) + seconds
        report.limiting_stage = max(report.stage_seconds, key=report.stage_seconds.__getitem__, default="")
        receipts.adopt(
            {
                "errors": [{"frame": one.frame, "index": one.index, "reason": one.reason} for one in failures],
                "damaged": report.damaged,
                "faces_outside": report.faces_outside,
                "seconds": report.stage_seconds,
            }
        )
    alone = replace(settings, resume=True, shard=None, processes=1, devices=None)
    with begin(alone, made, report, is_reserved=is_reserved) as extraction:
        extraction.todo(earlier)
        report_failures(made.plan, failures, report)
        extraction.account()
        extraction.finish(interruption)
    return []


def _missing(settings: Settings, made: Prepared, receipts: Receipts) -> tuple[set[Shard], Earlier]:
    """The shards with frames that are neither whole nor known to have failed; and what the others have made."""
    plan = made.plan
    count = receipts.count or 1
    bounds = cuts(plan, made.source, count)
    void = _void(made, receipts, bounds)
    layout = layout_for(settings.output_layout)
    for one in receipts.journals:
        if not layout.flushes:
            one.revoke([key for key in sorted(one.unsettled) if not _is_whole(settings.faces, one, key)])
    earlier = look_over(receipts, settings.faces, layout, settings.deleted)
    left = earlier.left(plan)
    open_frames = _without_failed(left, receipts)
    positions = left.positions[open_frames]
    shards = np.searchsorted(bounds, np.searchsorted(plan.positions, positions), side="right") - 1
    return void | {Shard(int(number), count) for number in np.unique(shards)}, earlier


def _is_whole(folder: Path, of: journal.Journal, key: int) -> bool:
    return all(is_as_written(folder, face) for face in of.finished[key].faces)


def _without_failed(left: Plan, receipts: Receipts) -> np.ndarray:
    """[N] bool: which frames of a plan have faces of which no shard says that they cannot be cut."""
    whole_frames = {one.frame for one in receipts.failures if one.index is None}
    faces = {(one.frame, one.index) for one in receipts.failures}
    open_frames = np.zeros(left.frame_count, bool)
    for i, frame in enumerate(left.frame_of.tolist()):
        name = left.frame_names[frame]
        if name not in whole_frames:
            indices = left.index[left.starts[i] : left.starts[i + 1]].tolist()
            open_frames[i] = not any((name, index) in faces for index in indices)
    return open_frames


def _void(made: Prepared, receipts: Receipts, bounds: np.ndarray) -> set[Shard]:
    """Take back shards after the first damage of a video, whose frames may have other numbers there.

    Whoever decodes the video from its beginning counts what is lost; a shard that begins behind it does not.
    """
    damaged = [shard for shard, report in receipts.reports.items() if report["damaged"]]
    if not damaged or not made.source.reading(made.plan.positions).skips:
        return set()
    found = set()
    for shard, one in receipts.of_shard.items():
        if shard.number > min(damaged).number and one.finished and not one.from_start:
            one.void()
            found.add(shard)
    return found


def _what_to_do(missing: list[Shard]) -> str:
    names = ", ".join(str(shard.number) for shard in missing[:NAMED]) + (", …" if len(missing) > NAMED else "")
    count = missing[0].count
    if len(missing) == 1:
        return f"shard {names} of {count} is missing or not whole: run it (again) with --resume, then merge again."
    return f"shards {names} of {count} are missing or not whole: run them (again) with --resume, then merge again."
