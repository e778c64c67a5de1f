"""`prune`: faces that somebody deleted from the faces folder leave the alignments file, too.

A face is gone if its run made it and no file shows it any more. So a folder's journal is asked first: what a run never
cut – other frames, faces that were too small, or that failed – was not deleted. Nothing is asked of a file's name or
sub-folder, see `faces.identity`. Where no journal tells, a folder that looks like a part of the file is refused.

What changes in the folder is written down before, see `pruned`; then the alignments file is saved, and then the folder
follows. Whatever stops that, the next prune completes it.
"""

from __future__ import annotations

import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from glob import escape as glob_escape
from pathlib import Path
from typing import Any

import numpy as np

from gpu_extract.alignments import Alignments
from gpu_extract.alignments.face_table import FaceTable
from gpu_extract.errors import EXIT_PARTIAL, AlignmentsError, InputError, OutputError, UsageError
from gpu_extract.face_files.beside import lies_beside
from gpu_extract.face_files.header import header_text
from gpu_extract.face_files.identity import Identities, Identity, stored_hash
from gpu_extract.face_files.layout import layout_for
from gpu_extract.face_files.metadata import STEM, kinds, rows_of
from gpu_extract.face_files.stored import InShard, stored_files
from gpu_extract.geometry import crops
from gpu_extract.jobs.changes.pruned import (
    BEGUN,
    DONE,
    UNDOING,
    Numbered,
    Pruned,
    digest,
    numbered,
    packed,
    raw,
    rows_digest,
)
from gpu_extract.jobs.changes.stopped import PRUNE, check_completed
from gpu_extract.naming import FACE_EXTENSIONS, base_of, has_extension, of_this_machine, split_name, stem_of
from gpu_extract.options import check_report_place, option, typed
from gpu_extract.reports.base import check_target, write_report
from gpu_extract.reports.pruning import PruneReport
from gpu_extract.run import journal
from gpu_extract.run.fingerprint import FACES
from gpu_extract.run.fingerprint import digest as faces_digest
from gpu_extract.run.plan import PlanOptions, crop_all
from gpu_extract.run.threads import available_cores
from gpu_extract.storage.atomic import digest_of, locked, new_digest, write_whole
from gpu_extract.storage.inputs import is_folder, open_input, unreadable
from gpu_extract.storage.parts import TEMPORARY_PREFIX, remove_unfinished
from gpu_extract.tasks import FaceResult, FrameTask

UNDELETED, PRESENT = "undeleted", "present"
KEEP, DELETE = "keep", "delete"
KEEPS, UNREADABLE = (UNDELETED, PRESENT), (KEEP, DELETE)
MOST_DELETED = MOST_FOREIGN = 0.5
"""Shares of the faces, and of the files, beyond which a folder may be the wrong one."""
TELLING_FRAMES = 8
"""Frames, or faces, that make a pattern of what is missing."""
TELLING_SHARE = 0.1
NAMED = 5
ASIDE = ".damaged"
"""Behind the name of a file that cannot be read and whose face leaves the alignments file."""
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
        yes: go on where so much is missing, or is not of this file, that the folder may be the wrong one.
        undo: take the last prune back instead.
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
    if fault := option("dry_run").fault(dry_run):
        raise UsageError(fault)
    if undo and dry_run:
        raise UsageError("undo and dry-run exclude each other.")
    file, folder = of_this_machine(alignments, "prune"), of_this_machine(faces, "prune")
    if json is not None:
        check_report_place(json, {"alignments": file})
        check_target(PruneReport, json)
    if not is_folder(folder, "the faces folder"):
        raise InputError(f"there is no faces folder {folder}; name the one that the faces were deleted from.")
    began = time.perf_counter()
    job = _Prune(file, folder, _Wish(keep, frames_too, unreadable == DELETE, yes))
    if dry_run:
        job.look()
    else:
        _check_places(file, folder)
        with locked(file), journal.locked(folder):
            remove_unfinished(folder)
            job.undo() if undo else job.run()
    job.report.seconds = round(time.perf_counter() - began, 3)
    if json is not None:
        write_report(job.report, json)
    return job.report


@dataclass(frozen=True)
class _Wish:
    keep: str
    frames_too: bool
    deletes_unreadable: bool
    sure: bool


@dataclass
class _Recorded:
    """What the folder's journals say of the alignments file's faces."""

    settings: dict[str, Any] | None = None
    """None where there is no journal."""
    is_of_file: bool = False
    """Whether the file's faces still are the run's; else they are known by name only, and rows are none of today's."""
    faces: dict[int, FaceResult] = field(default_factory=dict)
    """By row of today's file."""
    frame_of: dict[int, int] = field(default_factory=dict)
    """By row, the key of its frame's entry."""
    position_of: dict[int, int] = field(default_factory=dict)
    """By row, of its frame in the source."""


class _Prune:
    """One prune, from the folder as it is to the folder as the file then says."""

    def __init__(self, file: Path, folder: Path, wish: _Wish) -> None:
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
        self._load()
        self._find()
        self._note_doubts()
        if self._gone:
            self._take_out()

    def run(self) -> None:
        check_completed(self._folder, but=PRUNE)
        self._complete()
        self._load()
        self._find()
        for doubt in self._doubts() if not self._wish.sure else ():
            raise UsageError(f"{doubt}; {SURE}.")
        if self._gone:
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
            raise AlignmentsError(
                f"{self._file} is not the file that the last prune of {self._folder} left: it was changed since, or is "
                f"another one; nothing was undone. {self._where(record)}"
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
            self._put_back(backup, record)
        self._take_back(record)
        self.report.undone = True
        self.report.faces_after = self.report.faces_before = len(Alignments.load(self._file).faces)

    def _put_back(self, backup: Path, record: Pruned) -> None:
        with open_input(backup, "The alignments file") as source:
            data = source.read()

        def check() -> None:
            if digest(data) != record.before or digest_of(self._file).hex() != record.after:
                raise AlignmentsError(f"{self._file} or {backup.name} was changed meanwhile; nothing was undone.")

        write_whole(self._file, [data], before_replace=check)

    def _where(self, record: Pruned) -> str:
        backup = self._backup(record)
        return "" if backup is None else f"{backup} is the file as it was before."

    def _backup(self, record: Pruned) -> Path | None:
        """The copy that the prune made, proven by its content."""
        real = Path(os.path.realpath(self._file))
        for path in sorted(real.parent.glob(f"{glob_escape(real.stem)}_*{glob_escape(real.suffix)}")):
            if path.is_file() and path.stat().st_size == record.nbytes and digest_of(path).hex() == record.before:
                return path
        return None

    def _pending(self) -> Pruned | None:
        record = Pruned.load(self._folder)
        return None if record is None or record.state == DONE else record

    def _complete(self) -> None:
        """Bring an earlier prune, or its undoing, to its end."""
        record = self._pending()
        if record is None:
            return
        alignments = Alignments.load(self._file)
        is_before, is_after = (
            alignments.digest == of_file or faces_digest(alignments) == of_faces
            for of_file, of_faces in zip((record.before, record.after), record.faces, strict=True)
        )
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

    def _load(self) -> None:
        self._alignments = Alignments.load(self._file)
        self.report.notes += self._alignments.notes
        self.report.faces_before = self.report.faces_after = len(self._alignments.faces)
        self._files = stored_files(self._folder, journal.own_names(self._folder))
        self._recorded = self._read_journals()
        self._made = {face.file_name for face in self._recorded.faces.values()}
        layout = (self._recorded.settings or {}).get("output_layout")
        if layout == "webdataset" or any(isinstance(place, InShard) for place in self._files.values()):
            raise UsageError(
                f"the faces in {self._folder} are members of tar shards, from which none can be deleted by hand; prune "
                "takes folders of face files."
            )

    def _read_journals(self) -> _Recorded:
        found = journal.read(self._folder)
        if found is None:
            return _Recorded()
        settings, frames = found
        is_of_file = settings.get(FACES) == faces_digest(self._alignments)
        recorded = _Recorded(settings, is_of_file)
        names = None if is_of_file else Identities(self._alignments, {}, {})
        for frame in frames:
            for face in frame.faces:
                row = face.row if names is None else names.named(face.file_name)
                if row is not None:
                    recorded.faces[row] = face
                    recorded.frame_of[row] = frame.key
                    recorded.position_of[row] = frame.position
        return recorded

    # ---- which faces are there

    def _find(self) -> None:
        """Which faces of the file the folder holds, and which are gone."""
        alignments, recorded, report = self._alignments, self._recorded, self.report
        self._images = {name: place for name, place in self._files.items() if self._may_be_face(name)}
        if not self._images:
            raise InputError(
                f"{self._folder} holds no face; a folder that was emptied, or is the wrong one, takes no face out of "
                f"{self._file.name}."
            )
        sound = recorded.faces if recorded.is_of_file else {}
        identities = Identities(
            alignments,
            {row: face.sha1 for row, face in sound.items()},
            {face.file_name: row for row, face in sound.items()},
        )
        self._check_tellable(identities)
        known = self._unread()
        to_read = sorted(self._images.keys() - known.keys())
        with ThreadPoolExecutor(available_cores()) as pool:
            read = dict(
                zip(to_read, pool.map(lambda name: identities.of(name, self._images[name]), to_read), strict=True)
            )
        self._assign(known, read)
        self._tell_files(read)
        tellable = self._tellable()
        present = set(self._files_of) | self._untold
        gone = (self._known_rows() if self._wish.keep == PRESENT else tellable) - present
        self._gone = sorted(gone)
        self._tellable_count = len(tellable)
        report.faces_present = len(set(self._files_of))
        report.faces_never_cut = report.faces_before - len(present | gone)
        faces = alignments.faces
        report.deleted = [
            {"frame": alignments.frame_names[faces.frame[row]], "index": int(faces.index[row])} for row in self._gone
        ]

    def _may_be_face(self, name: str) -> bool:
        """Whether a file of the folder is to be looked at: hidden ones are not, but where a run made them."""
        if not has_extension(name, FACE_EXTENSIONS):
            return False
        hidden = any(part.startswith((".", "~")) for part in name.split("/"))
        return not hidden or name in self._made

    def _check_tellable(self, identities: Identities) -> None:
        traits = self._alignments.traits
        if not traits.has_headers and not identities.has_hashes and len(self._alignments.faces):
            raise InputError(
                f"no face of {self._file.name} has a hash, and {self._folder} has no journal of a run of this file, "
                "so nothing tells which faces are there; an extraction into a new folder, with the same options, "
                "stores the hashes by which these files are known."
            )
        if self._recorded.is_of_file:
            self.report.known_by = "the folder's journal"
        else:
            self.report.known_by = "the headers of the files" if traits.has_headers else "the hashes of the files"

    def _unread(self) -> dict[str, int]:
        """Files that need not be read, and their rows: of frames all of whose faces are where the run wrote them."""
        recorded = self._recorded
        if not recorded.is_of_file:
            return {}
        frames: dict[int, list[int]] = defaultdict(list)
        for row, key in recorded.frame_of.items():
            frames[key].append(row)
        known: dict[str, int] = {}
        for rows in frames.values():
            if all(self._has_size(recorded.faces[row]) for row in rows):
                known |= {recorded.faces[row].file_name: row for row in rows}
        return known

    def _has_size(self, face: FaceResult) -> bool:
        try:
            return (self._folder / face.file_name).stat().st_size == face.nbytes
        except OSError:
            return False

    def _assign(self, known: Mapping[str, int], read: Mapping[str, Identity]) -> None:
        """Which files show which face; of faces that cannot be told apart, none is gone while a file is left for it."""
        self._files_of: dict[int, list[str]] = defaultdict(list)
        self._untold: set[int] = set()
        for name, row in known.items():
            self._files_of[row].append(name)
        proven = {name: found for name, found in read.items() if found.proven}
        for name, found in proven.items():
            if found.said is not None or len(found.rows) == 1:
                self._files_of[found.rows[0] if found.said is None else found.said].append(name)
        for found in proven.values():
            if found.said is None and len(found.rows) > 1:
                self._untold |= {row for row in found.rows if row not in self._files_of}
        self._named = {
            name: found.rows[0]
            for name, found in read.items()
            if not found.proven and found.rows and (found.fault is None or not self._wish.deletes_unreadable)
        }
        self._damaged = {name: found.rows[0] for name, found in read.items() if found.fault is not None and found.rows}
        self._untold |= set(self._named.values()) - self._files_of.keys()

    def _tell_files(self, read: Mapping[str, Identity]) -> None:
        report = self.report
        for name, found in read.items():
            if found.fault is not None:
                report.unreadable.append({"file": name, "reason": found.fault})
            elif not found.rows:
                report.extra.append(name)
            elif not found.proven:
                report.unproven.append(name)
        lists = {f"{STEM}.{kind}" for kind in kinds()}
        others = self._files.keys() - self._images.keys() - lists
        report.extra += sorted(
            name
            for name in others
            if not lies_beside(name, self._file) and not base_of(name).startswith(TEMPORARY_PREFIX)
        )
        readable = len(self._images) - len(report.unreadable)
        foreign = sum(not found.proven and found.fault is None for found in read.values())
        self._foreign = (foreign, readable)
        if readable and foreign == readable:
            raise InputError(
                f"none of the {readable:,} images in {self._folder} is one of the {report.faces_before:,} faces of "
                f"{self._file.name}: it is the folder of another run, or the file was changed since."
            )
        nameless = [name for name, found in read.items() if found.fault is not None and not found.rows]
        if nameless and not self._wish.deletes_unreadable:
            raise InputError(
                f"{len(nameless):,} files in {self._folder} cannot be read, and their names do not tell whose faces "
                f"they are ({_some(nameless)}); restore or remove them, or add --unreadable delete."
            )

    def _tellable(self) -> set[int]:
        """Rows of faces that the folder would hold if nobody had deleted any."""
        if self._recorded.settings is not None:
            return set(self._recorded.faces)
        alignments = self._alignments
        rows = range(len(alignments.faces))
        if alignments.traits.has_headers:
            return set(rows) - alignments.faces.invalid.keys()
        return {row for row in rows if stored_hash(alignments, row) is not None}

    def _known_rows(self) -> set[int]:
        """Rows of faces whose files would be known, whoever made them."""
        alignments, recorded = self._alignments, self._recorded
        rows = range(len(alignments.faces))
        if alignments.traits.has_headers or recorded.is_of_file:
            return set(rows)
        return {row for row in rows if stored_hash(alignments, row) is not None}

    # ---- whether it is the right folder

    def _note_doubts(self) -> None:
        if not self._wish.sure:
            self.report.notes += [f"{doubt}: without --dry-run this asks for --yes." for doubt in self._doubts()]

    def _doubts(self) -> Iterator[str]:
        """Why it may be the wrong folder, or only a part of the right one, in phrases."""
        folder, name = self._folder, self._file.name
        foreign, readable = self._foreign
        if foreign > MOST_FOREIGN * readable:
            images = f"{foreign:,} of the {readable:,} images in {folder}"
            yield f"{images} are none of the {self.report.faces_before:,} faces in {name}"
        total = self._tellable_count if self._wish.keep == UNDELETED else self.report.faces_before
        if len(self._gone) > MOST_DELETED * total:
            yield f"{len(self._gone):,} of {total:,} faces are not in {folder}, and would leave {name}"
        elif self._gone and self._recorded.settings is None and (pattern := self._pattern()) is not None:
            yield f"no journal tells what the run of {folder} was to cut, and it looks as if it was not all: {pattern}"

    def _pattern(self) -> str | None:
        """What is missing follows a rule, as if a run had passed it over."""
        alignments = self._alignments
        faces = alignments.faces
        gone = np.zeros(len(faces), bool)
        gone[self._gone] = True
        held = np.unique(faces.frame[~gone])
        lost = np.setdiff1d(np.unique(faces.frame), held)
        numbers = _numbers(alignments.frame_names)
        step = _step(numbers[held])
        if len(held) >= TELLING_FRAMES and len(lost) and step > _step(numbers[np.unique(faces.frame)]):
            return f"only frames that are {step} apart have faces there"
        enough = max(TELLING_FRAMES, TELLING_SHARE * (len(held) + len(lost)))
        for side, outside in (
            ("last", numbers[lost] > numbers[held].max(initial=-1)),
            ("first", numbers[lost] < numbers[held].min(initial=np.iinfo(np.int64).max)),
        ):
            if len(held) and outside.sum() >= enough:
                return f"none of the {side} {outside.sum():,} frames has a face there"
        geometry = crop_all(alignments, PlanOptions(centering=alignments.traits.centering), {})
        box = crops.box_px(geometry.crop_from_frame, PlanOptions().size)
        usable = geometry.usable
        missing, there = box[gone & usable], box[~gone & usable]
        if len(missing) >= TELLING_FRAMES and len(there) and missing.max() < there.min():
            return f"all {len(missing):,} faces that are missing are smaller than any that is there"
        return None

    # ---- what changes

    def _take_out(self) -> Pruned:
        """Take the faces out of the file in memory; what has to change in the folder."""
        alignments, report = self._alignments, self.report
        gone = set(self._gone)
        record = Pruned(before=alignments.digest, nbytes=self._file.stat().st_size)
        self._faces, self._keys = faces, names = alignments.faces, alignments.frame_names
        new_index = _indices(faces, gone)
        self._number(record, new_index)
        before = faces_digest(alignments)
        places = zip(faces.frame.tolist(), faces.index.tolist(), strict=True)
        self._old_rows = {(base_of(names[frame]), index): row for row, (frame, index) in enumerate(places)}
        emptied = alignments.remove_faces(gone, frames_too=self._wish.frames_too)
        record.faces = (before, faces_digest(alignments))
        state = new_digest()
        for block in alignments.content():
            state.update(block)
        record.after = state.hexdigest()
        report.frames_emptied, report.frames_removed = emptied, self._wish.frames_too
        self._revise_journals(record, new_index)
        self._revise_list(record, new_index)
        report.faces_after = len(alignments.faces)
        report.files_renumbered = len(record.files)
        return record

    def _number(self, record: Pruned, new_index: Mapping[int, int]) -> None:
        """Which files get other names or headers."""
        faces, names = self._alignments.faces, self._alignments.frame_names
        self._numbers: dict[tuple[int, str], Numbered] = {}
        shown = {row: list(files) for row, files in self._files_of.items()}
        for name, row in self._named.items():
            shown.setdefault(row, []).append(name)
        occupied = set(self._files)
        record.files += self._set_aside(occupied)
        inside = self._folders(len(self._gone))
        for row in sorted(shown.keys() & new_index.keys()):
            old, new = int(faces.index[row]), new_index[row]
            key = names[faces.frame[row]]
            for name in shown[row]:
                target = inside(row, name, _renamed(name, key, old, new))
                if (old, name) == (new, target):
                    continue
                one = self._numbered(name, target, stem_of(base_of(key)), old, new)
                if one is None:
                    continue
                if target != name:
                    occupied.discard(name)
                    if target in occupied:
                        raise InputError(
                            f"{self._folder / target} is in the way: {name} is to get that name; move it elsewhere, "
                            "and prune again."
                        )
                    occupied.add(target)
                record.files.append(one)
                self._numbers[row, name] = one

    def _set_aside(self, occupied: set[str]) -> Iterator[Numbered]:
        """Files that cannot be read and whose faces leave all the same: others get their names."""
        for name, row in self._damaged.items():
            target = f"{name}{ASIDE}"
            data = raw(self._folder / name)
            if row in self._gone and target not in occupied and data is not None:
                occupied.remove(name)
                occupied.add(target)
                self.report.notes.append(f"{name} cannot be read and is set aside as {target}.")
                yield Numbered(name, target, digest(data), digest(data), len(data))

    def _numbered(self, name: str, target: str, stem: str, old: int, new: int) -> Numbered | None:
        """The record of a file's new number; None where it stays as it is."""
        data = raw(self._folder / name)
        if data is None:
            return None
        after = numbered(data, new, f"{stem}_{new}.png")
        if after == data:
            state = digest(data)
            return Numbered(name, target, state, state, len(data)) if target != name else None
        text = None if numbered(after, old, f"{stem}_{old}.png") == data else header_text(data)
        return Numbered(name, target, digest(data), digest(after), len(after), (old, new), stem, text)

    def _folders(self, fewer: int) -> Callable[[int, str, str], str]:
        """Where the run's layout puts a face of a new name, now that there are fewer.

        Returns:
            place(row, old name, new name): relative to the folder. A file that is not where the run put it stays in the
            folder that it is in.
        """
        recorded = self._recorded
        if not recorded.is_of_file or recorded.settings is None:
            return lambda row, old, new: new
        layout = layout_for(recorded.settings["output_layout"])
        nowhere, count = np.zeros(0, np.int64), len(recorded.faces)
        before, after = layout(self._folder, nowhere, count), layout(self._folder, nowhere, count - fewer)
        faces, names = self._alignments.faces, self._alignments.frame_names

        def place(row: int, old: str, new: str) -> str:
            face = recorded.faces.get(row)
            if face is None or face.file_name != old:
                return new
            index, empty = np.array([face.index]), np.zeros(0)
            key = base_of(names[faces.frame[row]])
            task = FrameTask(recorded.position_of[row], key, np.array([row]), index, empty, empty, empty, "")
            if before.place(task, 0, old.rpartition("/")[2]) != old:
                return new
            return after.place(task, 0, new.rpartition("/")[2])

        return place

    def _revise_journals(self, record: Pruned, new_index: Mapping[int, int]) -> None:
        """What the journals say of the faces that are left."""
        recorded, gone = self._recorded, np.array(self._gone, np.int64)
        if recorded.settings is None:
            return
        row_of = {face.file_name: row for row, face in recorded.faces.items()}
        settings = recorded.settings | ({FACES: record.faces[1]} if recorded.is_of_file else {})

        def result_of(face: FaceResult) -> FaceResult | None:
            row = face.row if recorded.is_of_file else row_of.get(face.file_name)
            if row is None:
                return face
            if row not in new_index:
                return None
            new_row = row - int(np.searchsorted(gone, row)) if recorded.is_of_file else face.row
            return self._renumbered(row, face, new_row, new_index[row])

        error_of = _errors(
            self._old_rows, new_index, set(self.report.frames_emptied) if self._wish.frames_too else set()
        )
        for name in journal.names(self._folder):
            if not os.path.lexists(self._folder / name):
                continue
            with open_input(self._folder / name, journal.WHAT) as file:
                before = file.read()
            after = journal.revised(before, settings, result_of, error_of)
            if after != before:
                record.journals[name] = (packed(before), packed(after))

    def _renumbered(self, row: int, face: FaceResult, new_row: int, index: int) -> FaceResult:
        """What a run would record of a face that is left."""
        name, nbytes = face.file_name, face.nbytes
        if (one := self._numbers.get((row, name))) is not None:
            name, nbytes = one.new, one.nbytes
        elif index != face.index:
            # Its file is somewhere else, or somebody numbered it already.
            name = _renamed(name, self._keys[self._faces.frame[row]], face.index, index)
            if name in self._files_of.get(row, ()):
                one = self._numbers.get((row, name))
                nbytes = (self._folder / name).stat().st_size if one is None else one.nbytes
        return replace(face, row=new_row, index=index, file_name=name, nbytes=nbytes)

    def _revise_list(self, record: Pruned, new_index: Mapping[int, int]) -> None:
        """The list of faces that the run was asked for, without those that are gone."""
        recorded = self._recorded
        kind = None if recorded.settings is None or not recorded.is_of_file else recorded.settings.get("metadata")
        if kind is None or not (self._folder / f"{STEM}.{kind}").exists():
            return
        gone = set()
        for row, face in recorded.faces.items():
            if row not in new_index:
                gone.add(face.file_name)
                continue
            now = self._renumbered(row, face, row, new_index[row])
            if (now.file_name, now.index) != (face.file_name, face.index):
                record.renamed[face.file_name] = (now.file_name, face.index, now.index)
        try:
            record.left_out = [
                (at, row) for at, row in enumerate(rows_of(self._folder, kind)) if row.get("file") in gone
            ]
            before = rows_digest(rows_of(self._folder, kind))
            record.lists = (before, rows_digest(record.revised(rows_of(self._folder, kind))))
        except (InputError, ValueError, KeyError, AttributeError) as error:
            self.report.notes.append(f"{STEM}.{kind} cannot be read and is left as it is ({error}).")
            return
        record.kind = kind


def _errors(
    rows: Mapping[tuple[str, int], int], new_index: Mapping[int, int], removed: set[str]
) -> Callable[[dict[str, Any]], dict[str, Any] | None]:
    """What becomes of a failure in a shard's report.

    Args:
        rows: by frame and index.
        removed: frames that leave the file.
    """

    def error_of(error: dict[str, Any]) -> dict[str, Any] | None:
        if error["index"] is None:
            return None if error["frame"] in removed else error
        row = rows.get((error["frame"], error["index"]))
        if row is None:
            return error
        return {**error, "index": new_index[row]} if row in new_index else None

    return error_of


def _indices(faces: FaceTable, gone: Collection[int]) -> dict[int, int]:
    """The index that each face has without some others, by its row today."""
    found: dict[int, int] = {}
    behind: dict[int, int] = defaultdict(int)
    for row, frame in enumerate(faces.frame.tolist()):
        if row not in gone:
            found[row] = behind[frame]
            behind[frame] += 1
    return found


def _renamed(name: str, key: str, old: int, new: int) -> str:
    """The name of a face's file with another number; as it is where it is none that a run gives."""
    inside, slash, base = name.rpartition("/")
    stem, extension = split_name(base)
    for of_frame in (stem_of(key), stem_of(base_of(key))):
        if stem == f"{of_frame}_{old}":
            return f"{inside}{slash}{of_frame}_{new}{extension}"
    return name


def _numbers(keys: Sequence[str]) -> np.ndarray:
    """[N] int64: where frames come in their source, as far as keys tell; else their order by name."""
    found = [re.search(r"([0-9]{1,15})$", stem_of(key)) for key in keys]
    if all(found):
        return np.array([int(one[1]) for one in found if one is not None], np.int64)
    order = {key: number for number, key in enumerate(sorted(keys))}
    return np.array([order[key] for key in keys], np.int64)


def _step(numbers: np.ndarray) -> int:
    """Of which number all distances are multiples."""
    return int(np.gcd.reduce(np.diff(np.sort(numbers)))) if len(numbers) > 1 else 0


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


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")


def undo_command(file: Path, folder: Path) -> str:
    """What to type for an undoing."""
    return typed("prune", "-a", file, "-fc", folder, "--undo")
