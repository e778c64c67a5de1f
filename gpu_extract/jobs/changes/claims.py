"""Which names the files of a faces folder are to have: what each tells of the name that its run gave it.

The name stands in a face's header; of older faces the folder's journal knows it by the hash of their pixels, or the
alignments file does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gpu_extract.alignments import Alignments
from gpu_extract.errors import InputError, UsageError, counted
from gpu_extract.face_files.beside import lies_beside
from gpu_extract.face_files.identity import Identities
from gpu_extract.face_files.recorded import Recorded
from gpu_extract.face_files.stored import InShard, content, stored_files
from gpu_extract.jobs.changes.contents import digest
from gpu_extract.naming import FACE_EXTENSIONS, VIDEO_FACE_EXTENSION, base_of, has_extension, split_name, stem_of
from gpu_extract.reports.renaming import RenameReport
from gpu_extract.run import journal
from gpu_extract.run.fingerprint import FACES
from gpu_extract.run.fingerprint import digest as faces_digest
from gpu_extract.run.pool import Pool
from gpu_extract.storage.parts import check_name
from gpu_extract.tasks import FaceResult


@dataclass(frozen=True)
class Claim:
    """What a file tells of its name."""

    file: str
    digest: str
    """Of its content."""
    places: tuple[str, ...]
    """Where the run put its face, relative to the folder; several where faces cannot be told apart."""

    def rank(self, place: str) -> int:
        """How near it is to a place: 0 there, 1 elsewhere under that name, 2 under another."""
        return 0 if self.file == place else 1 if base_of(self.file) == base_of(place) else 2


class Claims:
    """Those of one folder.

    Attributes:
        known: of the files that tell it, by their names today.
    """

    def __init__(self, folder: Path, file: Path | None, report: RenameReport) -> None:
        """
        Args:
            file: the alignments file that its faces were made from, if they are to be known by that.
            report: is told what the files are.

        Raises:
            InputError: if no file tells its name.
            UsageError: if the faces are members of archives.
        """
        self._folder, self._file, self._report = folder, file, report
        files = stored_files(folder, journal.own_names(folder))
        if any(isinstance(place, InShard) for place in files.values()):
            raise UsageError(
                f"the faces in {folder} are members of tar shards, which have their names; rename takes folders "
                "of face files."
            )
        found = journal.read(self._folder)
        settings, frames = found or ({}, [])
        self._recorded = {face.file_name: face for frame in frames for face in frame.faces}
        self._known_again = Recorded(self._recorded.values())
        self._identities = None
        if self._file is not None:
            self._identities = self._identities_of(Alignments.load(self._file), settings)
        else:
            self._report.known_by = "the headers of the files" + ("" if found is None else ", and the folder's journal")
        names = sorted(name for name in files if self._may_be_face(name))
        report.files = len(names)
        if not names:
            raise InputError(f"{self._folder} holds no face.")
        with Pool() as pool:
            read = list(pool.map(self._told, names))
        self.known = [one for one in read if isinstance(one, Claim) and one.places]
        report.unreadable = [one for one in read if isinstance(one, dict)]
        if not self.known:
            self._refuse(len(names))
        unknown = [one.file for one in read if isinstance(one, Claim) and not one.places]
        (report.extra if self._identities is None else report.unproven).extend(unknown)

    def _may_be_face(self, name: str) -> bool:
        if not has_extension(name, FACE_EXTENSIONS) or lies_beside(name, self._file or self._folder):
            return False
        hidden = any(part[:1] in (".", "~") for part in name.split("/"))
        return not hidden or name in self._recorded

    def _identities_of(self, alignments: Alignments, settings: Mapping[str, object]) -> Identities:
        """What knows the faces of the alignments file."""
        self._alignments = alignments
        self._report.notes += alignments.notes
        is_of_file = settings.get(FACES) == faces_digest(alignments)
        self._of_row: dict[int, FaceResult] = {face.row: face for face in self._recorded.values()} if is_of_file else {}
        identities = Identities(
            alignments,
            {row: face.sha1 for row, face in self._of_row.items()},
            {face.file_name: row for row, face in self._of_row.items()},
        )
        self._report.known_by = "the alignments file"
        if not alignments.traits.has_headers and not identities.has_hashes and len(alignments.faces):
            raise InputError(
                f"no face of {alignments.path.name} has a hash, and {self._folder} has no journal of a run of this "
                "file, so nothing tells what its faces were called."
            )
        return identities

    def _refuse(self, count: int) -> None:
        where = f"of {counted(count, 'image')} in {self._folder} none"
        if self._identities is not None and len(self._report.unreadable) < count:
            raise InputError(
                f"{where} is one of the {counted(len(self._alignments.faces), 'face')} of "
                f"{self._alignments.path.name}: it is the folder of another run, or the file was changed since."
            )
        if self._report.unreadable:
            first = self._report.unreadable[0]
            raise InputError(f"{where} tells what it was called; {first['file']}: {first['reason']}")
        raise InputError(
            f"{where} tells what it was called: faces of files before version 2.1 carry no header, and no journal in "
            "the folder knows their hashes; name their alignments file with -a."
        )

    def _told(self, name: str) -> Claim | dict[str, str]:
        """What a file tells, or why it cannot be read; called from many threads."""
        try:
            data = content(self._folder / name)
            places = self._places_by_file(name) if self._identities is not None else self._known_again.places(data)
            return Claim(name, digest(data), tuple(_with_extension(place, name) for place in places))
        except InputError as error:
            return {"file": name, "reason": str(error)}
        except OSError:
            return {"file": name, "reason": "its frame has a name that no file can have."}

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


def _with_extension(place: str, file: str) -> str:
    """A place with the extension of a file, unless that differs in letter case only."""
    stem, recorded = split_name(place)
    own = split_name(base_of(file))[1]
    return place if own.lower() == recorded.lower() else stem + own
