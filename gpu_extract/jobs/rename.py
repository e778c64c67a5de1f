"""`rename`: faces that were sorted or renamed get the names back that their run gave them.

The name stands in a face's header; of older faces the folder's journal knows it by the hash of their pixels, or the
alignments file does. Of several files of one face one gets the name, that which is nearest to it; files that differ and
say they are one face get none. What was done is written down before, see `renamed`; whatever stops it, the next rename
does the rest, for each file still tells its name.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from gpu_extract.errors import EXIT_PARTIAL, InputError, OutputError, UsageError
from gpu_extract.face_files.stored import stored_files
from gpu_extract.jobs.changes.claims import Claim, Claims
from gpu_extract.jobs.changes.record import DONE, RENAME, UNDOING
from gpu_extract.jobs.changes.renamed import Renamed, steps_of, take
from gpu_extract.jobs.changes.stopped import check_completed
from gpu_extract.naming import base_of, of_this_machine
from gpu_extract.options import check_report_place, check_switches, typed
from gpu_extract.reports.base import check_target, write_report
from gpu_extract.reports.renaming import RenameReport
from gpu_extract.run import journal
from gpu_extract.run.folder import held
from gpu_extract.storage.inputs import is_folder
from gpu_extract.storage.parts import remove_unfinished


def rename(
    faces: str | os.PathLike[str],
    *,
    alignments: str | os.PathLike[str] | None = None,
    flat: bool = False,
    undo: bool = False,
    dry_run: bool = False,
    json: str | os.PathLike[str] | None = None,
) -> RenameReport:
    """Give the faces in a folder the names back that their run gave them.

    Args:
        faces: the folder.
        alignments: the alignments file that they were made from. Faces of before version 2.1 need it where the folder
            has no journal; others get the names that they have by it today.
        flat: faces leave the sub-folders that they were sorted into, too; else they only get their names there.
        undo: take the last rename back instead.
        dry_run: only tell what would be done; write nothing but the report.
        json: where to write the report; "-" is standard output.

    Returns:
        The report; `exit_code` is 0, or 4 if faces could not get their names, as where a name is taken.

    Raises:
        GpuExtractError: one of its kinds, see `gpu_extract.errors`.
    """
    check_switches(flat=flat, undo=undo, dry_run=dry_run)
    if undo and dry_run:
        raise UsageError("undo and dry-run exclude each other.")
    folder = of_this_machine(faces, "rename")
    file = None if alignments is None else of_this_machine(alignments, "rename")
    if json is not None:
        check_report_place(json, {} if file is None else {"alignments": file})
        check_target(RenameReport, json)
    if not is_folder(folder, "the faces folder"):
        raise InputError(f"there is no faces folder {folder}; name the one that the faces are in.")
    began = time.perf_counter()
    job = _Rename(folder, file, flat=flat)
    if dry_run:
        job.look()
    else:
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(f"{folder} is read-only; nothing was renamed.")
        with held(folder), journal.locked(folder):
            remove_unfinished(folder)
            job.undo() if undo else job.run()
    job.report.seconds = round(time.perf_counter() - began, 3)
    if json is not None:
        write_report(job.report, json)
    return job.report


class _Rename:
    """One rename of a folder."""

    def __init__(self, folder: Path, file: Path | None, *, flat: bool) -> None:
        self._folder, self._file, self._flat = folder, file, flat
        self.report = RenameReport(faces_folder=os.fspath(folder), alignments=None if file is None else os.fspath(file))

    def look(self) -> None:
        """Find out what would be done."""
        self.report.dry_run = True
        check_completed(self._folder, but=RENAME)
        self._moves()

    def run(self) -> None:
        check_completed(self._folder, but=RENAME)
        record = Renamed.load(self._folder)
        if record is not None and record.state == UNDOING:
            raise UsageError(
                f"the undoing of an earlier rename of {self._folder} was stopped; --undo completes it, or remove "
                f"{self._folder / journal.RENAMED} to leave all as it is."
            )
        goes_on = record is not None and record.state != DONE
        moves = self._moves()
        if not moves and not goes_on:
            return
        earlier = record if record is not None and goes_on else Renamed()
        if goes_on:
            self.report.notes.append("an earlier rename was stopped before it was done; it was completed.")
        self._take(earlier.followed_by(self._folder, moves), moves, DONE)
        self.report.undo = typed("rename", self._folder, "--undo")

    def undo(self) -> None:
        """Take the last rename back."""
        check_completed(self._folder, but=RENAME)
        record = Renamed.load(self._folder)
        if record is None:
            raise InputError(f"there is nothing to undo: no rename is recorded in {self._folder}.")
        moves = record.backwards(self._folder)
        lost = [one for one in record.files if one.old not in moves.values() and not one.is_at(self._folder, one.old)]
        self._left([(one.new, "it was changed or taken away meanwhile") for one in lost])
        self._leave_taken(moves, self._names())
        self._left([(one["file"], f"{one['name']} is taken") for one in self.report.in_the_way])
        record.state = UNDOING
        self._take(record, moves, None)
        self.report.undone = True

    def _take(self, record: Renamed, moves: Mapping[str, str], state: str | None) -> None:
        """Do what is recorded.

        Args:
            state: of the record then; None removes it.
        """
        steps = steps_of(moves, self._names())
        record.note_asides(self._folder, steps)
        record.save(self._folder)
        left = take(self._folder, steps)
        self._left([(source, f"{target} was taken meanwhile, or the file itself") for source, target in left])
        undone = {source for source, _ in left}
        self.report.renamed = [{"from": old, "to": new} for old, new in moves.items() if old not in undone]
        if state is None:
            Renamed.remove(self._folder)
        else:
            record.state = state
            record.save(self._folder)

    def _left(self, left: list[tuple[str, str]]) -> None:
        self.report.notes += [f"{name} is left as it is: {why}." for name, why in left]
        if left:
            self.report.exit_code = EXIT_PARTIAL

    def _names(self) -> set[str]:
        return set(stored_files(self._folder))

    # ---- who gets which name

    def _moves(self) -> dict[str, str]:
        """By its name, each file that is to have another one, and that."""
        report = self.report
        moves = self._each_once(Claims(self._folder, self._file, report).known)
        self._leave_taken(moves, self._names())
        report.renamed = [{"from": old, "to": new} for old, new in moves.items()]
        if report.unreadable or report.contradictions or report.in_the_way or report.duplicates:
            report.exit_code = EXIT_PARTIAL
        return moves

    def _each_once(self, told: list[Claim]) -> dict[str, str]:
        """The moves by which each face's name is that of one file."""
        owner: dict[str, Claim] = {}
        alike: dict[tuple[str, ...], list[Claim]] = defaultdict(list)
        for one in told:
            alike[one.places].append(one)
        for places, files in sorted(alike.items(), key=lambda item: (len(item[0]), item[0])):
            if len(places) == 1:
                self._give_one(places[0], files, owner)
            else:
                self._give_several(places, files, owner)
        moves = {}
        for place, one in owner.items():
            target = place if self._flat else one.file.removesuffix(base_of(one.file)) + base_of(place)
            if target == one.file:
                self.report.files_right += 1
            else:
                moves[one.file] = target
        return dict(sorted(moves.items()))

    def _give_one(self, place: str, files: list[Claim], owner: dict[str, Claim]) -> None:
        """A name to the nearest of the files that want it; to none where several are as near and differ."""
        nearest = min(one.rank(place) for one in files)
        first, *others = sorted(files, key=lambda one: (one.rank(place), one.file))
        if len({one.digest for one in files if one.rank(place) == nearest}) > 1:
            self.report.contradictions += [{"file": one.file, "name": place} for one in (first, *others)]
            return
        owner[place] = first
        self.report.duplicates += [{"file": one.file, "of": first.file} for one in others]

    def _give_several(self, places: tuple[str, ...], files: list[Claim], owner: dict[str, Claim]) -> None:
        """Names to files that show the same: each may have any of them."""
        left = sorted(files, key=lambda one: one.file)
        for most in (0, 1, 2):
            for one in list(left):
                place = next((place for place in places if place not in owner and one.rank(place) <= most), None)
                if place is not None:
                    owner[place] = one
                    left.remove(one)
        self.report.duplicates += [{"file": one.file, "of": owner[places[0]].file} for one in left]

    def _leave_taken(self, moves: dict[str, str], names: set[str]) -> None:
        """Take out moves to names that others keep, and those that then stay in others' way."""
        while True:
            taken = names - moves.keys()
            blocked = []
            for old, new in moves.items():
                if new in taken:
                    blocked.append(old)
                taken.add(new)
            if not blocked:
                return
            self.report.in_the_way += [{"file": old, "name": moves.pop(old)} for old in blocked]
