"""`reindex`: the faces of each frame of an alignments file in another order, so that their numbers mean something.

A face is where its box is, or where that is missing, the smallest box around its landmarks. Left to right goes by left
edges and top to bottom by upper edges, as the programs' own job has it; by size the largest area comes first. Equal
faces keep their order, and those that are nowhere come last. Everything that a face has goes with it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from gpu_extract.alignments import Alignments
from gpu_extract.alignments.face_table import FaceTable
from gpu_extract.errors import EXIT_PARTIAL, UsageError
from gpu_extract.naming import of_this_machine
from gpu_extract.options import check_report_place, option
from gpu_extract.reports.base import check_target, write_report
from gpu_extract.reports.reindexing import ReindexReport
from gpu_extract.storage.atomic import locked, write_free

LEFT_TO_RIGHT, TOP_TO_BOTTOM, SIZE = "left-to-right", "top-to-bottom", "size"
ORDERS = (LEFT_TO_RIGHT, TOP_TO_BOTTOM, SIZE)
TURNED = "a face was found in a turned frame, where its box still is; migrate with -fr turns it back"
CUT_BEFORE = "faces that were cut before have the old numbers; extract them again, into a new folder."


def reindex(
    alignments: str | os.PathLike[str],
    new: str | os.PathLike[str] | None = None,
    *,
    by: str = LEFT_TO_RIGHT,
    dry_run: bool = False,
    json: str | os.PathLike[str] | None = None,
) -> ReindexReport:
    """Put the faces of each frame into another order. Frames, and all that faces and frames hold, stay as they are.

    Args:
        alignments: alignments file of any generation.
        new: a file that does not exist yet, of the same extension; without it the file itself is saved, and a
            time-stamped copy of the old one is left beside it.
        by: "left-to-right", "top-to-bottom", or "size", the largest first.
        dry_run: only tell what would be done; write nothing but the report.
        json: where to write the report; "-" is standard output.

    Returns:
        The report; `exit_code` is 0, or 4 if frames had to be left as they are.

    Raises:
        GpuExtractError: one of its kinds, see `gpu_extract.errors`.
    """
    began = time.perf_counter()
    if by not in ORDERS:
        raise UsageError(f"by {by!r} is not understood; {', '.join(ORDERS)} are.")
    if fault := option("dry_run").fault(dry_run):
        raise UsageError(fault)
    file = of_this_machine(alignments, "reindex")
    target = None if new is None else of_this_machine(new, "reindex")
    if target is not None:
        _check_free(target, file)
    if json is not None:
        check_report_place(json, {"alignments": file} | ({} if target is None else {"new file": target}))
        check_target(ReindexReport, json)
    if dry_run or target is not None:
        loaded = Alignments.load(file)
        report = _reordered(loaded, by)
        if target is not None and not dry_run:
            _write(loaded, target)
    else:
        with locked(file):
            loaded = Alignments.load(file)
            report = _reordered(loaded, by)
            backup = loaded.save()
            report.backup = None if backup is None else os.fspath(backup)
    report.new, report.dry_run = None if target is None else os.fspath(target), dry_run
    report.seconds = round(time.perf_counter() - began, 3)
    if json is not None:
        write_report(report, json)
    return report


def _check_free(target: Path, file: Path) -> None:
    if target.suffix.lower() != file.suffix.lower():
        raise UsageError(f"{target.name} is not a name for a file of the same kind; such files end in {file.suffix}.")
    if os.path.lexists(target):
        raise UsageError(f"{target} exists; choose a new name.")


def _write(alignments: Alignments, target: Path) -> None:
    try:
        write_free(target, alignments.content())
    except FileExistsError:
        raise UsageError(f"{target} exists; choose a new name.") from None


def _reordered(alignments: Alignments, by: str) -> ReindexReport:
    """Put the faces into their order in memory; what came of it."""
    faces, names = alignments.faces, alignments.frame_names
    counts = np.bincount(faces.frame, minlength=len(names))
    report = ReindexReport(os.fspath(alignments.path), by=by, frames=len(names), faces=len(faces))
    report.frames_several = int((counts > 1).sum())
    report.notes += alignments.notes
    box = _boxes(faces)
    rank = -(box[:, 2] * box[:, 3]) if by == SIZE else box[:, 0 if by == LEFT_TO_RIGHT else 1]
    turned = np.unique(faces.frame[faces.rotation != 0])
    turned = turned[counts[turned] > 1]
    rank[np.isin(faces.frame, turned)] = 0.0
    rows = np.lexsort((np.arange(len(faces)), rank, faces.frame))  # NaN comes last
    report.left_as_they_are = [{"frame": names[frame], "reason": TURNED} for frame in turned.tolist()]
    report.faces_nowhere = [
        {"frame": names[faces.frame[row]], "index": int(faces.index[row])} for row in np.flatnonzero(np.isnan(rank))
    ]
    moved = np.flatnonzero(rows != np.arange(len(rows)))
    report.faces_moved = [
        {"frame": names[faces.frame[row]], "index": int(faces.index[rows[row]]), "new_index": int(faces.index[row])}
        for row in moved.tolist()
    ]
    report.frames_reordered = len(np.unique(faces.frame[moved]))
    if len(moved):
        alignments.reorder_faces(rows.tolist())
        report.notes.append(CUT_BEFORE)
    if report.left_as_they_are:
        report.exit_code = EXIT_PARTIAL
    return report


def _boxes(faces: FaceTable) -> np.ndarray:
    """[F, 4] float64: x, y, w, h of each face in the frame, by its landmarks where it has no box; NaN where neither."""
    box = np.where(np.isfinite(faces.box).all(axis=1)[:, None], faces.box, np.nan)
    for group in faces.groups:
        boxless = np.isnan(box[group.rows, 0])
        points = group.points[boxless].astype(np.float64)
        low, high = points.min(axis=1), points.max(axis=1)
        box[group.rows[boxless]] = np.concatenate([low, high - low], axis=1)
    return box
