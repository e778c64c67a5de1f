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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from gpu_extract import png_file
from gpu_extract.alignments import Alignments
from gpu_extract.errors import EXIT_PARTIAL, InputError, OutputError, UsageError
from gpu_extract.face_files.beside import lies_beside
from gpu_extract.face_files.identity import Identities
from gpu_extract.face_files.origin import origin_of
from gpu_extract.face_files.stored import InShard, content, pixel_hash, stored_files
from gpu_extract.jobs.changes.contents import digest
from gpu_extract.jobs.changes.record import DONE, RENAME, UNDOING
from gpu_extract.jobs.changes.renamed import Renamed, steps_of, take
from gpu_extract.jobs.changes.stopped import check_completed
from gpu_extract.naming import (
    FACE_EXTENSIONS,
    VIDEO_FACE_EXTENSION,
    base_of,
    has_extension,
    of_this_machine,
    split_name,
    stem_of,
)
from gpu_extract.options import check_report_place, option, typed
from gpu_extract.reports.base import check_target, write_report
from gpu_extract.reports.renaming import RenameReport
from gpu_extract.run import journal
from gpu_extract.run.fingerprint import FACES
from gpu_extract.run.fingerprint import digest as faces_digest
from gpu_extract.run.folder import held
from gpu_extract.run.threads import available_cores
from gpu_extract.storage.inputs import is_folder
from gpu_extract.storage.parts import check_name, remove_unfinished
from gpu_extract.tasks import FaceResult


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
    if fault := option("dry_run").fault(dry_run):
        raise UsageError(fault)
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


@dataclass(frozen=True)
class _Told:
    """What a file tells of its name."""

    file: str
    digest: str
    """Of its content."""
    places: tuple[str, ...]
    """Where the run put its face, relative to the folder; several where faces cannot be told apart."""

    def rank(self, place: str) -> int:
        """How near it is to a place: 0 there, 1 elsewhere under that name, 2 under another."""
        return 0 if self.file == place else 1 if base_of(self.file) == base_of(place) else 2


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

    # ---- what files tell

    def _moves(self) -> dict[str, str]:
        """By its name, each file that is to have another one, and that."""
        report = self.report
        files = stored_files(self._folder, journal.own_names(self._folder))
        if any(isinstance(place, InShard) for place in files.values()):
            raise UsageError(
                f"the faces in {self._folder} are members of tar shards, which have their names; rename takes folders "
                "of face files."
            )
        found = journal.read(self._folder)
        settings, frames = found or ({}, [])
        self._recorded = {face.file_name: face for frame in frames for face in frame.faces}
        self._by_base = {base_of(name): name for name in self._recorded}
        self._by_hash: dict[str, list[str]] = defaultdict(list)
        for face in self._recorded.values():
            self._by_hash[face.sha1].append(face.file_name)
        self._identities = None
        if self._file is not None:
            self._identities = self._identities_of(Alignments.load(self._file), settings)
        else:
            self.report.known_by = "the headers of the files" + ("" if found is None else ", and the folder's journal")
        names = sorted(name for name in files if self._may_be_face(name))
        report.files = len(names)
        if not names:
            raise InputError(f"{self._folder} holds no face.")
        with ThreadPoolExecutor(available_cores()) as pool:
            read = list(pool.map(self._told, names))
        told = [one for one in read if isinstance(one, _Told) and one.places]
        report.unreadable = [one for one in read if isinstance(one, dict)]
        unknown = [one.file for one in read if isinstance(one, _Told) and not one.places]
        if not told:
            self._refuse(len(names))
        (report.extra if self._identities is None else report.unproven).extend(unknown)
        moves = self._each_once(told)
        self._leave_taken(moves, self._names())
        report.renamed = [{"from": old, "to": new} for old, new in moves.items()]
        if report.unreadable or report.contradictions or report.in_the_way or report.duplicates:
            report.exit_code = EXIT_PARTIAL
        return moves

    def _may_be_face(self, name: str) -> bool:
        if not has_extension(name, FACE_EXTENSIONS) or lies_beside(name, self._file or self._folder):
            return False
        hidden = any(part[:1] in (".", "~") for part in name.split("/"))
        return not hidden or name in self._recorded

    def _identities_of(self, alignments: Alignments, settings: Mapping[str, object]) -> Identities:
        """What knows the faces of the alignments file."""
        self._alignments = alignments
        self.report.notes += alignments.notes
        is_of_file = settings.get(FACES) == faces_digest(alignments)
        self._of_row: dict[int, FaceResult] = {face.row: face for face in self._recorded.values()} if is_of_file else {}
        identities = Identities(
            alignments,
            {row: face.sha1 for row, face in self._of_row.items()},
            {face.file_name: row for row, face in self._of_row.items()},
        )
        self.report.known_by = "the alignments file"
        if not alignments.traits.has_headers and not identities.has_hashes and len(alignments.faces):
            raise InputError(
                f"no face of {alignments.path.name} has a hash, and {self._folder} has no journal of a run of this "
                "file, so nothing tells what its faces were called."
            )
        return identities

    def _refuse(self, count: int) -> None:
        where = f"none of the {count:,} images in {self._folder}"
        if self._identities is not None and len(self.report.unreadable) < count:
            raise InputError(
                f"{where} is one of the {len(self._alignments.faces):,} faces of {self._alignments.path.name}: it is "
                "the folder of another run, or the file was changed since."
            )
        if self.report.unreadable:
            first = self.report.unreadable[0]
            raise InputError(f"{where} tells what it was called; {first['file']}: {first['reason']}")
        raise InputError(
            f"{where} tells what it was called: faces of files before version 2.1 carry no header, and no journal in "
            "the folder knows their hashes; name their alignments file with -a."
        )

    def _told(self, name: str) -> _Told | dict[str, str]:
        """What a file tells, or why it cannot be read; called from many threads."""
        try:
            data = content(self._folder / name)
            places = self._places_by_file(name) if self._identities is not None else self._places_by_itself(data)
            return _Told(name, digest(data), tuple(_with_extension(place, name) for place in places))
        except InputError as error:
            return {"file": name, "reason": str(error)}
        except OSError:
            return {"file": name, "reason": "its frame has a name that no file can have."}

    def _places_by_itself(self, data: bytes) -> list[str]:
        """Where the run put the face of a file, by its header, or by its hash and the journal."""
        origin = origin_of(data) if data.startswith(png_file.SIGNATURE) else None
        if origin is None:
            return self._by_hash.get(pixel_hash(data), [])
        if not png_file.is_whole(data):
            raise InputError("it is damaged or cut off.")
        check_name(origin.name)
        return [self._by_base.get(origin.name, origin.name)]

    def _places_by_file(self, name: str) -> list[str]:
        """The same by the alignments file."""
        assert self._identities is not None
        found = self._identities.of(name, self._folder / name)
        if found.fault is not None:
            raise InputError(found.fault)
        if not found.proven:
            return []
        return [self._place_of(row) for row in (found.rows if found.said is None else (found.said,))]

    def _place_of(self, row: int) -> str:
        """Where a face of the alignments file is in the folder; without a folder where no journal tells."""
        if row in self._of_row:
            return self._of_row[row].file_name
        faces = self._alignments.faces
        key = base_of(self._alignments.frame_names[faces.frame[row]])
        name = f"{stem_of(key)}_{faces.index[row]}{VIDEO_FACE_EXTENSION}"
        check_name(name)
        return name

    # ---- who gets which name

    def _each_once(self, told: list[_Told]) -> dict[str, str]:
        """The moves by which each face's name is that of one file."""
        owner: dict[str, _Told] = {}
        alike: dict[tuple[str, ...], list[_Told]] = defaultdict(list)
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

    def _give_one(self, place: str, files: list[_Told], owner: dict[str, _Told]) -> None:
        """A name to the nearest of the files that want it; to none where several are as near and differ."""
        nearest = min(one.rank(place) for one in files)
        first, *others = sorted(files, key=lambda one: (one.rank(place), one.file))
        if len({one.digest for one in files if one.rank(place) == nearest}) > 1:
            self.report.contradictions += [{"file": one.file, "name": place} for one in (first, *others)]
            return
        owner[place] = first
        self.report.duplicates += [{"file": one.file, "of": first.file} for one in others]

    def _give_several(self, places: tuple[str, ...], files: list[_Told], owner: dict[str, _Told]) -> None:
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


def _with_extension(place: str, file: str) -> str:
    """A place with the extension of a file, unless that differs in letter case only."""
    stem, recorded = split_name(place)
    own = split_name(base_of(file))[1]
    return place if own.lower() == recorded.lower() else stem + own
