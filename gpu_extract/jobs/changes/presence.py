"""Which faces of an alignments file a faces folder holds, and which somebody deleted from it.

A face is gone if its run made it and no file shows it any more. So a folder's journal is asked first: what a run never
cut – other frames, faces that were too small, or that failed – was not deleted. Nothing is asked of a file's name or
sub-folder, see `faces.identity`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu_extract.alignments import Alignments
from gpu_extract.errors import InputError, UsageError, counted
from gpu_extract.face_files.beside import lies_beside
from gpu_extract.face_files.identity import Identities, Identity, stored_hash
from gpu_extract.face_files.metadata import STEM, kinds
from gpu_extract.face_files.stored import InShard, stored_files
from gpu_extract.naming import FACE_EXTENSIONS, base_of, has_extension
from gpu_extract.reports.pruning import PruneReport
from gpu_extract.run import journal
from gpu_extract.run.fingerprint import FACES
from gpu_extract.run.fingerprint import digest as faces_digest
from gpu_extract.run.pool import Pool
from gpu_extract.storage.parts import TEMPORARY_PREFIX
from gpu_extract.tasks import FaceResult

UNDELETED, PRESENT = "undeleted", "present"
NAMED = 5


@dataclass(frozen=True)
class Wish:
    """What is asked of a prune; see `jobs.prune`."""

    keep: str
    frames_too: bool
    deletes_unreadable: bool
    sure: bool


@dataclass
class Recorded:
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

    @classmethod
    def read(cls, folder: Path, alignments: Alignments) -> Recorded:
        found = journal.read(folder)
        if found is None:
            return cls()
        settings, frames = found
        recorded = cls(settings, settings.get(FACES) == faces_digest(alignments))
        names = None if recorded.is_of_file else Identities(alignments, {}, {})
        for frame in frames:
            for face in frame.faces:
                row = face.row if names is None else names.named(face.file_name)
                if row is not None:
                    recorded.faces[row] = face
                    recorded.frame_of[row] = frame.key
                    recorded.position_of[row] = frame.position
        return recorded


class Presence:
    """What there is and what is gone.

    Attributes:
        recorded: what the journals say.
        files: all names in the folder, relative to it.
        files_of: by row, names of the files that show that face.
        named: by name, rows of files that do not show their face but are called so; it is not gone.
        damaged: by name, rows of files that cannot be read.
        gone: rows of the faces that leave the alignments file, ascending.
        tellable: rows of the faces that the folder would hold if nobody had deleted any.
        foreign: how many images show no face of the file.
        readable: of how many that can be read.
    """

    def __init__(self, alignments: Alignments, folder: Path, wish: Wish, report: PruneReport) -> None:
        """
        Args:
            report: is told what there is.

        Raises:
            InputError: if nothing tells which faces are there, or the folder is another one's.
            UsageError: if its faces are members of archives.
        """
        self._alignments, self._folder, self._wish, self._report = alignments, folder, wish, report
        self._file = alignments.path
        self.files = stored_files(folder, journal.own_names(folder))
        self.recorded = Recorded.read(folder, alignments)
        self._made = {face.file_name for face in self.recorded.faces.values()}
        layout = (self.recorded.settings or {}).get("output_layout")
        if layout == "webdataset" or any(isinstance(place, InShard) for place in self.files.values()):
            raise UsageError(
                f"the faces in {folder} are members of tar shards, from which none can be deleted by hand; prune "
                "takes folders of face files."
            )
        self._find()

    def _find(self) -> None:
        """Which faces of the file the folder holds, and which are gone."""
        alignments, recorded, report = self._alignments, self.recorded, self._report
        self._images = {name: place for name, place in self.files.items() if self._may_be_face(name)}
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
        with Pool() as pool:
            read = dict(
                zip(to_read, pool.map(lambda name: identities.of(name, self._images[name]), to_read), strict=True)
            )
        self._assign(known, read)
        self._tell_files(read)
        self.tellable = self._tellable()
        present = set(self.files_of) | self._untold
        gone = (self._known_rows() if self._wish.keep == PRESENT else self.tellable) - present
        self.gone = sorted(gone)
        report.faces_present = len(set(self.files_of))
        report.faces_never_cut = report.faces_before - len(present | gone)
        faces = alignments.faces
        report.deleted = [
            {"frame": alignments.frame_names[faces.frame[row]], "index": int(faces.index[row])} for row in self.gone
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
        if self.recorded.is_of_file:
            self._report.known_by = "the folder's journal"
        else:
            self._report.known_by = "the headers of the files" if traits.has_headers else "the hashes of the files"

    def _unread(self) -> dict[str, int]:
        """Files that need not be read, and their rows: of frames all of whose faces are where the run wrote them."""
        recorded = self.recorded
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
        self.files_of: dict[int, list[str]] = defaultdict(list)
        self._untold: set[int] = set()
        for name, row in known.items():
            self.files_of[row].append(name)
        proven = {name: found for name, found in read.items() if found.proven}
        for name, found in proven.items():
            if found.said is not None or len(found.rows) == 1:
                self.files_of[found.rows[0] if found.said is None else found.said].append(name)
        for found in proven.values():
            if found.said is None and len(found.rows) > 1:
                self._untold |= {row for row in found.rows if row not in self.files_of}
        self.named = {
            name: found.rows[0]
            for name, found in read.items()
            if not found.proven and found.rows and (found.fault is None or not self._wish.deletes_unreadable)
        }
        self.damaged = {name: found.rows[0] for name, found in read.items() if found.fault is not None and found.rows}
        self._untold |= set(self.named.values()) - self.files_of.keys()

    def _tell_files(self, read: Mapping[str, Identity]) -> None:
        report = self._report
        for name, found in read.items():
            if found.fault is not None:
                report.unreadable.append({"file": name, "reason": found.fault})
            elif not found.rows:
                report.extra.append(name)
            elif not found.proven:
                report.unproven.append(name)
        lists = {f"{STEM}.{kind}" for kind in kinds()}
        others = self.files.keys() - self._images.keys() - lists
        report.extra += sorted(
            name
            for name in others
            if not lies_beside(name, self._file) and not base_of(name).startswith(TEMPORARY_PREFIX)
        )
        readable = len(self._images) - len(report.unreadable)
        foreign = sum(not found.proven and found.fault is None for found in read.values())
        self.foreign, self.readable = foreign, readable
        if readable and foreign == readable:
            raise InputError(
                f"of {counted(readable, 'image')} in {self._folder} none is one of the "
                f"{counted(report.faces_before, 'face')} of {self._file.name}: it is the folder of "
                "another run, or the file was changed since."
            )
        nameless = [name for name, found in read.items() if found.fault is not None and not found.rows]
        if nameless and not self._wish.deletes_unreadable:
            whose = (
                "its name does not tell whose face it is"
                if len(nameless) == 1
                else "their names do not tell whose faces they are"
            )
            them = "it" if len(nameless) == 1 else "them"
            raise InputError(
                f"{counted(len(nameless), 'file')} in {self._folder} cannot be read, and {whose} ({_some(nameless)}); "
                f"restore or remove {them}, or add --unreadable delete."
            )

    def _tellable(self) -> set[int]:
        """Rows of faces that the folder would hold if nobody had deleted any."""
        if self.recorded.settings is not None:
            return set(self.recorded.faces)
        alignments = self._alignments
        rows = range(len(alignments.faces))
        if alignments.traits.has_headers:
            return set(rows) - alignments.faces.invalid.keys()
        return {row for row in rows if stored_hash(alignments, row) is not None}

    def _known_rows(self) -> set[int]:
        """Rows of faces whose files would be known, whoever made them."""
        alignments, recorded = self._alignments, self.recorded
        rows = range(len(alignments.faces))
        if alignments.traits.has_headers or recorded.is_of_file:
            return set(rows)
        return {row for row in rows if stored_hash(alignments, row) is not None}


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
