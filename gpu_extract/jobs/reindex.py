"""`reindex`: the faces of each frame of an alignments file in another order, so that their numbers mean something.

A face is where its box is, or where that is missing, the smallest box around its landmarks. Left to right goes by left
edges and top to bottom by upper edges, as the programs' own job has it; by size the largest area comes first. Equal
faces keep their order, and those that are nowhere come last. Everything that a face has goes with it.
"""

from __future__ import annotations

import os
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from gpu_extract.alignments import Alignments
from gpu_extract.alignments.face_table import FaceTable
from gpu_extract.errors import EXIT_PARTIAL, AlignmentsError, InputError, OutputError, UsageError
from gpu_extract.jobs.changes.following import Following
from gpu_extract.jobs.changes.record import REINDEX
from gpu_extract.jobs.changes.renumbered import Renumbered
from gpu_extract.jobs.changes.stopped import check_completed
from gpu_extract.naming import of_this_machine
from gpu_extract.options import check_report_place, option
from gpu_extract.reports.base import check_target, write_report
from gpu_extract.reports.reindexing import ReindexReport
from gpu_extract.run import journal
from gpu_extract.storage.atomic import locked, write_free
from gpu_extract.storage.inputs import is_folder
from gpu_extract.storage.parts import remove_unfinished

LEFT_TO_RIGHT, TOP_TO_BOTTOM, SIZE = "left-to-right", "top-to-bottom", "size"
ORDERS = (LEFT_TO_RIGHT, TOP_TO_BOTTOM, SIZE)
TURNED = "a face was found in a turned frame, where its box still is; migrate with -fr turns it back"
CUT_BEFORE = "faces that were cut before have the old numbers; extract them again, into a new folder."


def reindex(
    alignments: str | os.PathLike[str],
    new: str | os.PathLike[str] | None = None,
    *,
    by: str = LEFT_TO_RIGHT,
    faces: str | os.PathLike[str] | None = None,
    dry_run: bool = False,
    json: str | os.PathLike[str] | None = None,
) -> ReindexReport:
    """Put the faces of each frame into another order. Frames, and all that faces and frames hold, stay as they are.

    Args:
        alignments: alignments file of any generation.
        new: a file that does not exist yet, of the same extension; without it the file itself is saved, and a
            time-stamped copy of the old one is left beside it.
        by: "left-to-right", "top-to-bottom", or "size", the largest first.
        faces: a folder of faces that a run of this file made, whose files, headers, journal and list follow. It cannot
            go with `new`.
        dry_run: only tell what would be done; write nothing but the report.
        json: where to write the report; "-" is standard output.

    Returns:
        The report; `exit_code` is 0, or 4 if frames or files had to be left as they are.

    Raises:
        GpuExtractError: one of its kinds, see `gpu_extract.errors`.
    """
    began = time.perf_counter()
    if by not in ORDERS:
        raise UsageError(f"by {by!r} is not understood; {', '.join(ORDERS)} are.")
    if fault := option("dry_run").fault(dry_run):
        raise UsageError(fault)
    file = of_this_machine(alignments, "reindex")
    target, folder = (None if place is None else of_this_machine(place, "reindex") for place in (new, faces))
    if target is not None:
        if folder is not None:
            raise UsageError("a folder of faces follows the file itself; it cannot go with a new file.")
        _check_free(target, file)
    if folder is not None and not is_folder(folder, "the faces folder"):
        raise InputError(f"there is no faces folder {folder}; name one that a run of {file.name} made.")
    if json is not None:
        check_report_place(json, {"alignments": file} | ({} if target is None else {"new file": target}))
        check_target(ReindexReport, json)
    job = _Reindex(file, target, folder, by)
    if dry_run:
        job.look()
    else:
        job.run()
    job.report.seconds = round(time.perf_counter() - began, 3)
    if json is not None:
        write_report(job.report, json)
    return job.report


def _check_free(target: Path, file: Path) -> None:
    if target.suffix.lower() != file.suffix.lower():
        raise UsageError(f"{target.name} is not a name for a file of the same kind; such files end in {file.suffix}.")
    if os.path.lexists(target):
        raise UsageError(f"{target} exists; choose a new name.")


class _Reindex:
    """One reindex, from the file as it is to the file, and perhaps the folder, in the other order."""

    def __init__(self, file: Path, target: Path | None, folder: Path | None, by: str) -> None:
        self._file, self._target, self._folder = file, target, folder
        self.report = ReindexReport(os.fspath(file), None if target is None else os.fspath(target), by)
        self.report.faces_folder = None if folder is None else os.fspath(folder)

    def look(self) -> None:
        """Find out what would be done."""
        self.report.dry_run = True
        if self._folder is not None:
            check_completed(self._folder, but=REINDEX)
        if self._folder is not None and Renumbered.load(self._folder) is not None:
            raise UsageError(
                f"an earlier reindex of {self._folder} was stopped; the next one without --dry-run completes it."
            )
        self._reorder()

    def run(self) -> None:
        if self._target is not None:
            self._reorder()
            try:
                write_free(self._target, self._alignments.content())
            except FileExistsError:
                raise UsageError(f"{self._target} exists; choose a new name.") from None
            return
        with locked(self._file), nullcontext() if self._folder is None else journal.locked(self._folder):
            if self._folder is not None:
                check_completed(self._folder, but=REINDEX)
                remove_unfinished(self._folder)
                self._complete(self._folder)
            record = self._reorder()
            self._save(record)

    def _save(self, record: Renumbered | None) -> None:
        folder = self._folder
        if folder is not None and record is not None:
            record.save(folder)
        try:
            backup = self._alignments.save()
        except (AlignmentsError, OutputError):
            if folder is not None and record is not None:
                record.remove(folder)
            raise
        self.report.backup = None if backup is None else os.fspath(backup)
        if folder is not None and record is not None:
            self._finish(record, folder)

    def _finish(self, record: Renumbered, folder: Path) -> None:
        notes = record.finish(folder)
        self.report.notes += notes
        if notes:
            self.report.exit_code = EXIT_PARTIAL

    def _complete(self, folder: Path) -> None:
        """Bring an earlier reindex to its end."""
        record = Renumbered.load(folder)
        if record is None:
            return
        is_before, is_after = record.is_of(Alignments.load(self._file))
        if is_after:
            self.report.notes.append("an earlier reindex was stopped before it was done; it was completed first.")
            self._finish(record, folder)
        elif is_before and not record.is_going_on(folder):
            record.remove(folder)
        else:
            raise InputError(
                f"an earlier reindex of {folder} was stopped, and {self._file} is not its alignments file, or was "
                "changed since; name that file, or extract the faces again, into a new folder."
            )

    def _reorder(self) -> Renumbered | None:
        """Put the faces into their order in memory; what has to change in the folder, None where nothing has."""
        alignments = self._alignments = Alignments.load(self._file)
        self.report.notes += alignments.notes
        order = _order(alignments, self.report)
        if self.report.left_as_they_are:
            self.report.exit_code = EXIT_PARTIAL
        following = None if self._folder is None else Following(alignments, self._folder, order)
        if not self.report.faces_moved:
            return None
        if following is None:
            alignments.reorder_faces(order.tolist())
            self.report.notes.append(CUT_BEFORE)
            return None
        following.reorder()
        self.report.files_renumbered = len(following.record.files)
        self.report.notes += following.notes
        return following.record


def _order(alignments: Alignments, report: ReindexReport) -> np.ndarray:
    """Today's rows [F] in their new order; the report is told what that means."""
    faces, names = alignments.faces, alignments.frame_names
    counts = np.bincount(faces.frame, minlength=len(names))
    report.frames, report.faces, report.frames_several = len(names), len(faces), int((counts > 1).sum())
    box = _boxes(faces)
    rank = -(box[:, 2] * box[:, 3]) if report.by == SIZE else box[:, 0 if report.by == LEFT_TO_RIGHT else 1]
    turned = np.unique(faces.frame[faces.rotation != 0])
    turned = turned[counts[turned] > 1]
    rank[np.isin(faces.frame, turned)] = 0.0
    order: np.ndarray = np.lexsort((np.arange(len(faces)), rank, faces.frame))  # NaN comes last
    report.left_as_they_are = [{"frame": names[frame], "reason": TURNED} for frame in turned.tolist()]
    report.faces_nowhere = [
        {"frame": names[faces.frame[row]], "index": int(faces.index[row])} for row in np.flatnonzero(np.isnan(rank))
    ]
    moved = np.flatnonzero(order != np.arange(len(order)))
    report.faces_moved = [
        {"frame": names[faces.frame[row]], "index": int(faces.index[order[row]]), "new_index": int(faces.index[row])}
        for row in moved.tolist()
    ]
    report.frames_reordered = len(np.unique(faces.frame[moved]))
    return order


def _boxes(faces: FaceTable) -> np.ndarray:
    """[F, 4] float64: x, y, w, h of each face in the frame, by its landmarks where it has no box; NaN where neither."""
    box = np.where(np.isfinite(faces.box).all(axis=1)[:, None], faces.box, np.nan)
    for group in faces.groups:
        boxless = np.isnan(box[group.rows, 0])
        points = group.points[boxless].astype(np.float64)
        low, high = points.min(axis=1), points.max(axis=1)
        box[group.rows[boxless]] = np.concatenate([low, high - low], axis=1)
    return box
