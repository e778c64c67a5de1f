"""How a faces folder follows when the faces of its alignments file change places: planned before anything is changed.

The folder must be one that a run of the file as it is now has made, by its journal; each file that gets another number
must show what that run wrote, by its hash.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gpu_extract.alignments import Alignments
from gpu_extract.errors import InputError, UsageError, counted
from gpu_extract.face_files.metadata import STEM
from gpu_extract.face_files.stored import pixel_hash
from gpu_extract.jobs.changes.contents import digest, numbered, raw
from gpu_extract.jobs.changes.record import NO_LIST
from gpu_extract.jobs.changes.renumbered import Moved, Renumbered
from gpu_extract.naming import base_of, split_name, stem_of
from gpu_extract.run import journal
from gpu_extract.run.fingerprint import FACES
from gpu_extract.run.fingerprint import digest as faces_digest
from gpu_extract.tasks import FaceResult


class Following:
    """The changes in one folder.

    Attributes:
        record: of them; `reorder` completes it.
        notes: sentences for a report.
    """

    def __init__(self, alignments: Alignments, folder: Path, order: np.ndarray) -> None:
        """
        Args:
            alignments: as it is now.
            order: [F] its rows in their new order.

        Raises:
            InputError: if the folder is not of a run of this file, or a file in it is not as the run wrote it.
            UsageError: if its faces are members of archives.
        """
        self._alignments, self._folder, self._order = alignments, folder, order
        self.notes: list[str] = []
        faces, names = alignments.faces, alignments.frame_names
        self._new_row = np.empty(len(order), np.int64)
        self._new_row[order] = np.arange(len(order))
        self._new_index = faces.index[self._new_row]
        self._keys = [base_of(names[frame]) for frame in faces.frame.tolist()]
        places = zip(self._keys, faces.index.tolist(), strict=True)
        self._row_of = {place: row for row, place in enumerate(places)}
        self.record = Renumbered(before=alignments.digest)
        self._settings, recorded = self._read()
        self._nbytes: dict[str, int] = {}
        self._plan([face for frame in recorded for face in frame.faces])

    def reorder(self) -> None:
        """Put the faces of the file in memory into their order."""
        before = faces_digest(self._alignments)
        self._alignments.reorder_faces(self._order.tolist())
        self.record.note_after(self._alignments, before)
        settings = self._settings | {FACES: self.record.faces[1]}
        self.record.note_journals(self._folder, lambda data: journal.revised(data, settings, self._result, self._error))

    def _read(self) -> tuple[dict[str, Any], list[journal.Finished]]:
        """What the folder's journals say."""
        found = journal.read(self._folder)
        if found is None or found[0].get(FACES) != faces_digest(self._alignments):
            raise InputError(
                f"{self._folder} has no journal of a run of {self._alignments.path.name} as it is now, so its faces "
                "cannot follow; reindex without it, and extract them again, into a new folder."
            )
        if found[0].get("output_layout") == "webdataset":
            raise UsageError(
                f"the faces in {self._folder} are members of tar shards, which cannot be renumbered; reindex without "
                "it, and extract them again, into a new folder."
            )
        return found

    def _plan(self, recorded: list[FaceResult]) -> None:
        """Which files get which numbers."""
        record, missing = self.record, 0
        for face in recorded:
            index = int(self._new_index[face.row])
            if index == face.index:
                continue
            new = self._new_name(face)
            record.numbers[face.file_name] = (new, index)
            data = raw(self._folder / face.file_name)
            if data is None:
                missing += 1
                continue
            self._check(face, data)
            original = f"{stem_of(self._keys[face.row])}_{index}.png"
            changed = numbered(data, index, original)
            self._nbytes[face.file_name] = len(changed)
            record.files.append(Moved(face.file_name, new, digest(data), digest(changed), index, original))
        leaving = {one.old for one in record.files}
        for one in record.files:
            if one.new not in leaving and (self._folder / one.new).exists():
                raise InputError(
                    f"{self._folder / one.new} is in the way: {one.old} is to get that name; move it elsewhere first."
                )
        if missing:
            faces = counted(missing, "face that gets another number is", "faces that get another number are")
            self.notes.append(f"{faces} not in the folder where the run put {'it' if missing == 1 else 'them'}.")
        self._plan_list()

    def _check(self, face: FaceResult, data: bytes) -> None:
        try:
            shown = pixel_hash(data)
        except InputError:
            shown = ""
        if shown != face.sha1:
            raise InputError(
                f"{self._folder / face.file_name} does not show what the run wrote, so nothing was changed; "
                "gpu-extract verify tells more."
            )

    def _new_name(self, face: FaceResult) -> str:
        inside, slash, base = face.file_name.rpartition("/")
        stem, extension = split_name(base)
        return f"{inside}{slash}{stem.removesuffix(str(face.index))}{self._new_index[face.row]}{extension}"

    def _plan_list(self) -> None:
        """How the list of faces follows, where the run wrote one."""
        kind = self._settings.get("metadata")
        if kind is None or not (self._folder / f"{STEM}.{kind}").exists():
            return
        try:
            self.record.note_list(self._folder, kind)
        except NO_LIST as error:
            self.notes.append(f"{STEM}.{kind} cannot be read and is left as it is ({error}).")

    def _result(self, face: FaceResult) -> FaceResult:
        """What a run of the new order would record of a face."""
        name, index = self.record.numbers.get(face.file_name, (face.file_name, face.index))
        nbytes = self._nbytes.get(face.file_name, face.nbytes)
        return replace(face, row=int(self._new_row[face.row]), index=index, file_name=name, nbytes=nbytes)

    def _error(self, error: dict[str, Any]) -> dict[str, Any]:
        """The same of a failure in a shard's report."""
        row = self._row_of.get((error["frame"], error["index"]))
        return error if row is None else {**error, "index": int(self._new_index[row])}
