"""`prune`: faces that somebody deleted from the faces folder leave the alignments file, too.

A face is gone if its run made it and no file shows it any more. So a folder's journal is asked first: what a run never
cut – other frames, faces that were too small, or that failed – was not deleted. Nothing is asked of a file's name or
sub-folder, see `faces.identity`. Where no journal tells, a folder that looks like a part of the file is refused.

What changes in the folder is written down before, see `pruned`; then the alignments file is saved, and then the folder
follows. Whatever stops that, the next prune completes it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from gpu_extract.alignments import Alignments
from gpu_extract.errors import EXIT_PARTIAL, AlignmentsError, InputError, OutputError, UsageError, counted
from gpu_extract.jobs.changes.contents import digest
from gpu_extract.jobs.changes.copies import before_faces_left, copy_of
from gpu_extract.jobs.changes.doubts import doubts
from gpu_extract.jobs.changes.leaving import Leaving
from gpu_extract.jobs.changes.presence import PRESENT, UNDELETED, Presence, Wish
from gpu_extract.jobs.changes.pruned import Pruned
from gpu_extract.jobs.changes.record import BEGUN, DONE, PRUNE, UNDOING
from gpu_extract.jobs.changes.stopped import check_completed
from gpu_extract.naming import of_this_machine
from gpu_extract.options import check_report_place, check_switches, typed
from gpu_extract.reports.base import check_target, write_report
from gpu_extract.reports.pruning import PruneReport
from gpu_extract.run import journal
from gpu_extract.storage.atomic import digest_of, locked, write_whole
from gpu_extract.storage.inputs import is_folder, open_input, unreadable
from gpu_extract.storage.parts import remove_unfinished

KEEP, DELETE = "keep", "delete"
KEEPS, UNREADABLE = (UNDELETED, PRESENT), (KEEP, DELETE)
SURE = "if that is right, add --yes"


def prune(
    alignments: str | os.PathLike[str],
    faces: str | os.PathLike[str],
    *,
    keep: str = UNDELETED,
    frames_too: bool = False,
    unreadable: str = KEEP,
    yes: bool = False,
    undo: bool = False,
    dry_run: bool = False,
    json: str | os.PathLike[str] | None = None,
) -> PruneReport:
    """Take faces that were deleted from a faces folder out of the alignments file; list what is extra in the folder.

    Args:
        alignments: alignments file of any generation; a time-stamped copy is left beside it.
        faces: the folder that they were deleted from; its files get the numbers that their faces have then.
        keep: "undeleted" keeps all faces but those that the folder's run made and that are gone, "present" keeps only
            faces that are in the folder.
        frames_too: frames that lose their last face leave the file, too.
        unreadable: "keep" the faces of files that cannot be read, or "delete" them.
        yes: go on where so much is missing, or is not of this file, that the folder may be the wrong one; and
            with `undo`, where the folder is gone.
        undo: take the last prune back instead; where the folder is gone, in the alignments file alone.
        dry_run: only tell what would be done; write nothing but the report.
        json: where to write the report; "-" is standard output.

    Returns:
        The report; `exit_code` is 0, or 4 if files cannot be read, or could not be given their numbers.

    Raises:
        GpuExtractError: one of its kinds, see `gpu_extract.errors`. UsageError if `yes` is wanted.
    """
    for name, value, words in (("keep", keep, KEEPS), ("unreadable", unreadable, UNREADABLE)):
        if value not in words:
            raise UsageError(f"{name} {value!r} is not understood; {' and '.join(words)} are.")
    check_switches(frames_too=frames_too, yes=yes, undo=undo, dry_run=dry_run)
    if undo and dry_run:
        raise UsageError("undo and dry-run exclude each other.")
    file, folder = of_this_machine(alignments, "prune"), of_this_machine(faces, "prune")
    if json is not None:
        check_report_place(json, {"alignments": file})
        check_target(PruneReport, json)
    is_there = is_folder(folder, "the faces folder")
    if not is_there and not undo:
        raise InputError(f"there is no faces folder {folder}; name the one that the faces were deleted from.")
    began = time.perf_counter()
    job = _Prune(file, folder, Wish(keep, frames_too, unreadable == DELETE, yes))
    if dry_run:
        job.look()
    elif not is_there:
        with locked(file):
            job.undo_without_folder()
    else:
        _check_places(file, folder)
        with locked(file), journal.locked(folder):
            remove_unfinished(folder)
            job.undo() if undo else job.run()
    job.report.seconds = round(time.perf_counter() - began, 3)
    if json is not None:
        write_report(job.report, json)
    return job.report


class _Prune:
    """One prune, from the folder as it is to the folder as the file then says."""

    def __init__(self, file: Path, folder: Path, wish: Wish) -> None:
        self._file, self._folder, self._wish = file, folder, wish
        self.report = PruneReport(alignments=os.fspath(file), faces_folder=os.fspath(folder))

    def look(self) -> None:
        """Find out what would be done."""
        self.report.dry_run = True
        check_completed(self._folder, but=PRUNE)
        if self._pending() is not None:
            raise UsageError(
                f"an earlier prune of {self._folder} was stopped; the next one without --dry-run completes it."
            )
        self._find()
        if not self._wish.sure:
            self.report.notes += [f"{doubt}: without --dry-run this asks for --yes." for doubt in self._doubts()]
        if self._found.gone:
            self._take_out()

    def run(self) -> None:
        check_completed(self._folder, but=PRUNE)
        self._complete()
        self._find()
        for doubt in self._doubts() if not self._wish.sure else ():
            raise UsageError(f"{doubt}; {SURE}.")
        if self._found.gone:
            record = self._take_out()
            record.save(self._folder)
            try:
                backup = self._alignments.save()
            except (AlignmentsError, OutputError):
                record.remove(self._folder)
                raise
            self.report.backup = None if backup is None else os.fspath(backup)
            self.report.undo = undo_command(self._file, self._folder)
            self._bring_forward(record)
        if self.report.unreadable:
            self.report.exit_code = EXIT_PARTIAL

    def undo(self) -> None:
        """Take the last prune back."""
        check_completed(self._folder, but=PRUNE)
        record = Pruned.load(self._folder)
        if record is None:
            raise InputError(f"there is nothing to undo: no prune is recorded in {self._folder}.")
        now = digest_of(self._file).hex()
        if now not in (record.before, record.after):
            copy = self._backup(record)
            where = "" if copy is None else f"{copy} is the file as it was before."
            raise AlignmentsError(
                f"{self._file} is not the file that the last prune of {self._folder} left: it was changed since, or is "
                f"another one; nothing was undone. {where}"
            )
        if now == record.before and record.state == BEGUN:
            record.remove(self._folder)
            raise InputError(f"there is nothing to undo: the last prune of {self._folder} was stopped before it began.")
        if now == record.after:
            backup = self._backup(record)
            if backup is None:
                raise InputError(
                    f"the copy of {self._file} from before the prune is not beside it any more; nothing was undone."
                )
            record.state = UNDOING
            record.save(self._folder)
            self._put_back(backup, record.before, record.after)
        self._take_back(record)
        self._note_undone()

    def undo_without_folder(self) -> None:
        """Take the last prune of a folder back that is gone, and the record with it: the file alone."""
        earlier = before_faces_left(self._file)
        if earlier is None:
            raise InputError(
                f"there is no faces folder {self._folder}, and no copy of {self._file} from before a prune is beside "
                "it; nothing was undone."
            )
        if not self._wish.sure:
            more = counted(earlier.gone, "face")
            raise UsageError(
                f"there is no faces folder {self._folder}, but {earlier.path} is {self._file} with {more} more, as "
                "before its last prune, by whichever folder; if the folder is gone for good and these are to come "
                "back, add --yes."
            )
        self._put_back(earlier.path, earlier.digest, digest_of(self._file).hex())
        self.report.notes.append(f"the faces folder is gone; the file is again what its copy {earlier.path.name} is.")
        self._note_undone()

    def _note_undone(self) -> None:
        self.report.undone = True
        self.report.faces_after = self.report.faces_before = len(Alignments.load(self._file).faces)

    def _put_back(self, backup: Path, before: str, after: str) -> None:
        """Make the file what a copy is; both are checked once more by their digests."""
        with open_input(backup, "The alignments file") as source:
            data = source.read()

        def check() -> None:
            if digest(data) != before or digest_of(self._file).hex() != after:
                raise AlignmentsError(f"{self._file} or {backup.name} was changed meanwhile; nothing was undone.")

        write_whole(self._file, [data], before_replace=check)

    def _backup(self, record: Pruned) -> Path | None:
        """The copy that the prune made."""
        return copy_of(self._file, record.before, record.nbytes)

    def _pending(self) -> Pruned | None:
        record = Pruned.load(self._folder)
        return None if record is None or record.state == DONE else record

    def _complete(self) -> None:
        """Bring an earlier prune, or its undoing, to its end."""
        record = self._pending()
        if record is None:
            return
        is_before, is_after = record.is_of(Alignments.load(self._file))
        if is_after and record.state == BEGUN:
            self.report.notes.append("an earlier prune was stopped before it was done; it was completed first.")
            self._bring_forward(record)
        elif is_before and record.state == UNDOING:
            self.report.notes.append("the undoing of an earlier prune was stopped; it was completed first.")
            self._take_back(record)
        elif is_before:
            record.remove(self._folder)
        elif is_after:
            record.state = DONE
            record.save(self._folder)
        else:
            raise InputError(
                f"an earlier prune of {self._folder} was stopped, and {self._file} is not its alignments file, or was "
                f"changed since; name that file, or remove {self._folder / journal.PRUNED} to leave all as it is."
            )

    def _bring_forward(self, record: Pruned) -> None:
        self._left(record.bring_forward(self._folder))
        record.state = DONE
        record.save(self._folder)

    def _take_back(self, record: Pruned) -> None:
        self._left(record.take_back(self._folder))
        record.remove(self._folder)

    def _left(self, notes: list[str]) -> None:
        self.report.notes += notes
        if notes:
            self.report.exit_code = EXIT_PARTIAL

    # ---- what there is and what changes

    def _find(self) -> None:
        alignments = self._alignments = Alignments.load(self._file)
        self.report.notes += alignments.notes
        self.report.faces_before = self.report.faces_after = len(alignments.faces)
        self._found = Presence(alignments, self._folder, self._wish, self.report)

    def _doubts(self) -> Iterator[str]:
        return doubts(self._alignments, self._folder, self._wish.keep, self._found)

    def _take_out(self) -> Pruned:
        """Take the faces out of the file in memory; what has to change in the folder."""
        leaving = Leaving(self._alignments, self._folder, self._found)
        self.report.frames_emptied = leaving.take_out(frames_too=self._wish.frames_too)
        self.report.frames_removed = self._wish.frames_too
        self.report.notes += leaving.notes
        self.report.faces_after = len(self._alignments.faces)
        self.report.files_renumbered = len(leaving.record.files)
        return leaving.record


def _check_places(file: Path, folder: Path) -> None:
    """Find out before the work that the file cannot be read, or that it or the folder could not be changed.

    Raises:
        InputError: if so, of the file.
        OutputError: if so, of either's folder.
    """
    try:
        digest_of(file)
    except OSError as error:
        raise unreadable(file, "The alignments file", error) from error
    for place, what in (
        (Path(os.path.realpath(file)).parent, f"{file} cannot be updated, its folder"),
        (folder, str(folder)),
    ):
        if not os.access(place, os.W_OK | os.X_OK):
            raise OutputError(f"{what} is read-only; nothing was changed.")


def undo_command(file: Path, folder: Path) -> str:
    """What to type for an undoing."""
    return typed("prune", "-a", file, "-fc", folder, "--undo")
