"""How a faces folder follows when faces leave its alignments file: planned before anything is changed.

`following` is its counterpart for faces that change places.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gpu_extract.alignments import Alignments
from gpu_extract.alignments.face_table import FaceTable
from gpu_extract.errors import InputError
from gpu_extract.face_files.header import header_text
from gpu_extract.face_files.layout import layout_for
from gpu_extract.face_files.metadata import STEM, rows_of
from gpu_extract.jobs.changes.contents import digest, numbered, raw
from gpu_extract.jobs.changes.presence import Presence
from gpu_extract.jobs.changes.pruned import Numbered, Pruned
from gpu_extract.jobs.changes.record import NO_LIST
from gpu_extract.naming import base_of, split_name, stem_of
from gpu_extract.run import journal
from gpu_extract.run.fingerprint import FACES
from gpu_extract.run.fingerprint import digest as faces_digest
from gpu_extract.tasks import FaceResult, FrameTask

ASIDE = ".damaged"
"""Behind the name of a file that cannot be read and whose face leaves the alignments file."""


class Leaving:
    """The changes in one folder.

    Attributes:
        record: of them; `take_out` completes it.
        notes: sentences for a report.
    """

    def __init__(self, alignments: Alignments, folder: Path, found: Presence) -> None:
        """
        Args:
            alignments: as it is now.
            found: in the folder, and gone from it.

        Raises:
            InputError: if a file in the folder is in the way of another one's new name.
        """
        self._alignments, self._folder, self._found = alignments, folder, found
        self.notes: list[str] = []
        self.record = Pruned(before=alignments.digest, nbytes=alignments.path.stat().st_size)
        self._faces, self._keys = alignments.faces, alignments.frame_names
        self._gone = set(found.gone)
        self._new_index = _indices(self._faces, self._gone)
        self._numbers: dict[tuple[int, str], Numbered] = {}
        self._number()

    def take_out(self, *, frames_too: bool) -> list[str]:
        """Take the faces out of the file in memory.

        Args:
            frames_too: frames that lose their last face leave the file, too.

        Returns:
            The keys of these frames.
        """
        before = faces_digest(self._alignments)
        emptied = self._alignments.remove_faces(self._gone, frames_too=frames_too)
        self.record.note_after(self._alignments, before)
        self._revise_journals(set(emptied) if frames_too else set())
        self._revise_list()
        return emptied

    def _number(self) -> None:
        """Which files get other names or headers."""
        found, record, new_index = self._found, self.record, self._new_index
        shown = {row: list(files) for row, files in found.files_of.items()}
        for name, row in found.named.items():
            shown.setdefault(row, []).append(name)
        occupied = set(found.files)
        record.files += self._set_aside(occupied)
        inside = self._folders()
        for row in sorted(shown.keys() & new_index.keys()):
            old, new = int(self._faces.index[row]), new_index[row]
            key = self._keys[self._faces.frame[row]]
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
        for name, row in self._found.damaged.items():
            target = f"{name}{ASIDE}"
            data = raw(self._folder / name)
            if row in self._gone and target not in occupied and data is not None:
                occupied.remove(name)
                occupied.add(target)
                self.notes.append(f"{name} cannot be read and is set aside as {target}.")
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

    def _folders(self) -> Callable[[int, str, str], str]:
        """Where the run's layout puts a face of a new name, now that there are fewer.

        Returns:
            place(row, old name, new name): relative to the folder. A file that is not where the run put it stays in the
            folder that it is in.
        """
        recorded = self._found.recorded
        if not recorded.is_of_file or recorded.settings is None:
            return lambda row, old, new: new
        layout = layout_for(recorded.settings["output_layout"])
        nowhere, count = np.zeros(0, np.int64), len(recorded.faces)
        before, after = (layout(self._folder, nowhere, left) for left in (count, count - len(self._gone)))

        def place(row: int, old: str, new: str) -> str:
            face = recorded.faces.get(row)
            if face is None or face.file_name != old:
                return new
            index, empty = np.array([face.index]), np.zeros(0)
            key = base_of(self._keys[self._faces.frame[row]])
            task = FrameTask(recorded.position_of[row], key, np.array([row]), index, empty, empty, empty, "")
            if before.place(task, 0, old.rpartition("/")[2]) != old:
                return new
            return after.place(task, 0, new.rpartition("/")[2])

        return place

    def _revise_journals(self, removed: set[str]) -> None:
        """What the journals say of the faces that are left.

        Args:
            removed: frames that left the file.
        """
        recorded, new_index, gone = self._found.recorded, self._new_index, np.array(self._found.gone, np.int64)
        if recorded.settings is None:
            return
        row_of = {face.file_name: row for row, face in recorded.faces.items()}
        settings = recorded.settings | ({FACES: self.record.faces[1]} if recorded.is_of_file else {})

        def result_of(face: FaceResult) -> FaceResult | None:
            row = face.row if recorded.is_of_file else row_of.get(face.file_name)
            if row is None:
                return face
            if row not in new_index:
                return None
            new_row = row - int(np.searchsorted(gone, row)) if recorded.is_of_file else face.row
            return self._renumbered(row, face, new_row, new_index[row])

        places = zip(self._faces.frame.tolist(), self._faces.index.tolist(), strict=True)
        old_rows = {(base_of(self._keys[frame]), index): row for row, (frame, index) in enumerate(places)}
        error_of = _errors(old_rows, new_index, removed)
        self.record.note_journals(self._folder, lambda data: journal.revised(data, settings, result_of, error_of))

    def _renumbered(self, row: int, face: FaceResult, new_row: int, index: int) -> FaceResult:
        """What a run would record of a face that is left."""
        name, nbytes = face.file_name, face.nbytes
        if (one := self._numbers.get((row, name))) is not None:
            name, nbytes = one.new, one.nbytes
        elif index != face.index:
            # Its file is somewhere else, or somebody numbered it already.
            name = _renamed(name, self._keys[self._faces.frame[row]], face.index, index)
            if name in self._found.files_of.get(row, ()):
                one = self._numbers.get((row, name))
                nbytes = (self._folder / name).stat().st_size if one is None else one.nbytes
        return replace(face, row=new_row, index=index, file_name=name, nbytes=nbytes)

    def _revise_list(self) -> None:
        """The list of faces that the run was asked for, without those that are gone."""
        recorded, record = self._found.recorded, self.record
        kind = None if recorded.settings is None or not recorded.is_of_file else recorded.settings.get("metadata")
        if kind is None or not (self._folder / f"{STEM}.{kind}").exists():
            return
        gone = set()
        for row, face in recorded.faces.items():
            if row not in self._new_index:
                gone.add(face.file_name)
                continue
            now = self._renumbered(row, face, row, self._new_index[row])
            if (now.file_name, now.index) != (face.file_name, face.index):
                record.renamed[face.file_name] = (now.file_name, face.index, now.index)

        try:
            rows = enumerate(rows_of(self._folder, kind))
            record.left_out = [(at, row) for at, row in rows if row.get("file") in gone]
            record.note_list(self._folder, kind)
        except NO_LIST as error:
            self.notes.append(f"{STEM}.{kind} cannot be read and is left as it is ({error}).")


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
