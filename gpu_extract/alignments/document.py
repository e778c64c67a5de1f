"""An alignments file in memory: what it says, what changes, and its way back to the disk."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import repeat
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from gpu_extract.alignments.container import Document, container_for
from gpu_extract.alignments.face_table import LANDMARK_KEYS, FaceTable, face_table, survey
from gpu_extract.alignments.generation import NEWEST, Traits, generation_of, holds_lists_only
from gpu_extract.alignments.limits import Limits, shown
from gpu_extract.alignments.packed import unpack
from gpu_extract.errors import AlignmentsChangedError, AlignmentsError, InputError, OutputError, UsageError
from gpu_extract.kernels import columns
from gpu_extract.naming import path_of
from gpu_extract.storage.atomic import Snapshot, backup_copy, digest_of, new_digest, write_new, write_whole
from gpu_extract.storage.contents import HEAD_BYTES, what_it_is
from gpu_extract.storage.inputs import open_input, unreadable
from gpu_extract.tasks import Failure


class Alignments:
    """One alignments file of any container and generation.

    Frames and faces keep the file's order. Everything that is not changed through this class, unknown keys included,
    is written back as it was read.

    Attributes:
        path: the file.
        container: its extension without the dot, in lower case: "fsa", "json", "p", "pickle", "yml", "yaml".
        version: 1.0 where the file does not say.
        generation: "g0" … "g7b", "2.0" … "2.4".
        traits: what files of this version have.
        frame_names: [N] frame keys.
        faces: the columns of all faces.
        notes: what was made of the file while reading it and a user should know, in sentences.
        imported: whether it was made of landmarks for exchange; it has no file then that could be saved.
        read_only: whether it was loaded to be read only; it has no `digest` then, and cannot be saved.
        left_out: faces of such landmarks that are none.
    """

    path: Path
    container: str
    version: float
    generation: str
    traits: Traits
    frame_names: list[str]
    faces: FaceTable
    notes: list[str]
    imported: bool
    read_only: bool
    left_out: list[Failure]

    def __init__(self, path: str | os.PathLike[str], document: Document) -> None:
        """Take the content of `document`, which belongs to this object from now on; `path` need not exist."""
        self.path = Path(path)
        self.container = self.path.suffix.lower().removeprefix(".")
        self._document = document
        self._snapshot: Snapshot | None = None
        self._changed = False
        frames, self.version = _frames_and_version(document.root, self.path.name)
        if holds_landmarks(document.root):
            raise LandmarksOnlyError(
                f"{self.path.name} holds landmarks for exchange, not an alignments file; turn it into one with "
                "gpu-extract import.",
                document,
            )
        self.imported, self.read_only, self.left_out = False, False, []
        self.notes = document.repeats.join(frames, self.path.name)
        document.repeats.refuse(document.root, self.path.name)
        self.frame_names = list(frames)
        self._frames = list(frames.values())
        lists = _face_lists(frames, self.path.name)
        self._records: list[Any] = [record for faces in lists for record in faces]
        self._separate(lists)
        found = survey(self._records)
        self.generation = generation_of(self.version, self._frames, self._records, found)
        self.traits = Traits(self.version, self.generation, holds_lists_only(self._records, found), document.numpy_2)
        self.faces = face_table(self._records, list(map(len, lists)), found)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, limits: Limits | None = None, read_only: bool = False) -> Self:
        """Read a file; the extension says how.

        Args:
            read_only: it will not be saved, so what it was before need not be known later, which a large file takes
                longer for.

        Raises InputError where it is missing or unreadable, AlignmentsError where it is no alignments file, damaged or
        of an unknown version, UnsafePickleError where it holds anything but data.
        """
        path = path_of(path)
        limits = limits or Limits()
        try:
            with _without_garbage_collection():
                document, snapshot = _read(path, limits, read_only)
                alignments = cls(path, document)
        except LandmarksOnlyError:
            raise
        except AlignmentsError as error:
            if (other := _what_it_is(path)) is None:
                raise
            raise type(error)(f"{path.name} is no alignments file; it is {other}.") from error
        alignments._snapshot, alignments.read_only = snapshot, read_only
        return alignments

    def record(self, row: int) -> dict[str, Any]:
        """A copy of the face's own dict, as stored: arrays where the file has arrays, lists where it has lists."""
        record = self._records[row]
        return unpack(record) if isinstance(record, dict) else {}

    def stored_hash(self, row: int) -> str | None:
        """The face's `hash`: 40 hexadecimal digits, or None where it has none."""
        record = self._records[row]
        value = record.get("hash") if isinstance(record, dict) else None
        return value if isinstance(value, str) else None

    def set_hashes(self, rows: Iterable[int], hashes: Iterable[str]) -> None:
        """Store a hash for each of `rows`; raises AlignmentsError where the file's version has none."""
        if not self.traits.stores_hashes:
            raise AlignmentsError(
                f"{self.path.name} has version {self.version}, whose faces hold no hashes; its own program would "
                "refuse the file with them."
            )
        records = self._records
        for row, value in zip(rows, hashes, strict=True):
            record = records[row]
            if "hash" in record or "mask" not in record:
                record["hash"] = value
            else:
                _insert_after_landmarks(record, "hash", value)
        self._changed = True

    def set_field(self, row: int, key: str, value: Any) -> None:
        """Set any field of a face, such as `thumb`; arrays and plain values are allowed."""
        self._records[row][key] = value
        self._changed = True

    def remove_faces(self, rows: Collection[int], *, frames_too: bool = False) -> list[str]:
        """Take faces out; those behind them in their frames' lists move up, and rows are counted anew.

        Args:
            frames_too: whether frames that lose their last face by it leave the file, too.

        Returns:
            The keys of these frames.
        """
        emptied, frames = [], _frames(self._document.root)
        lists: list[list[Any]] = []
        row = 0
        for name, entry in zip(self.frame_names, self._frames, strict=True):
            faces = entry if isinstance(entry, list) else entry["faces"]
            kept = [record for k, record in enumerate(faces, row) if k not in rows]
            row += len(faces)
            if len(kept) < len(faces):
                faces[:] = kept
                if not kept:
                    emptied.append(name)
                    if frames_too:
                        del frames[name]
                        continue
            lists.append(faces)
        self.frame_names, self._frames = list(frames), list(frames.values())
        self._records = [record for faces in lists for record in faces]
        self.faces = face_table(self._records, list(map(len, lists)))
        self._changed = self._changed or bool(rows)
        return emptied

    def reorder_faces(self, rows: Sequence[int]) -> None:
        """Put the faces of frames into another order; rows are counted anew.

        Args:
            rows: [F] of today, in their new order; those of a frame stay where the frame's are.
        """
        lists: list[list[Any]] = []
        start = 0
        for entry in self._frames:
            faces = entry if isinstance(entry, list) else entry["faces"]
            stop = start + len(faces)
            if sorted(rows[start:stop]) != list(range(start, stop)):
                raise ValueError(f"rows {start} to {stop - 1} are those of one frame and must stay so")
            faces[:] = [self._records[row] for row in rows[start:stop]]
            lists.append(faces)
            start = stop
        self._records = [record for faces in lists for record in faces]
        self.faces = face_table(self._records, list(map(len, lists)))
        self._changed = True

    def frame_extra(self, frame: int) -> dict[str, Any]:
        """A copy of what frame number `frame` holds beside its faces."""
        entry = self._frames[frame]
        return {key: unpack(value) for key, value in entry.items() if key != "faces"} if isinstance(entry, dict) else {}

    def shallow_record(self, row: int) -> dict[str, Any]:
        """The face's fields as they are in memory, bulk numbers packed; the dict is a copy, what is in it is not."""
        record = self._records[row]
        return dict(record) if isinstance(record, dict) else {}

    def root(self) -> dict[str, Any]:
        """A copy of everything in the file, in plain values and arrays."""
        root: dict[str, Any] = unpack(self._document.root)
        return root

    def save(self) -> Path | None:
        """Write the changes back: a time-stamped copy of the old file first, then the new one whole in its place.

        Returns the copy's path; None where nothing was changed, or no file was there to copy. Raises
        AlignmentsChangedError when the file is no longer the one that was loaded: it is left alone, and what would
        have been written stands beside it under the name that the error gives. Raises OutputError when the disk
        refuses; the file is then untouched.
        """
        if self.read_only:
            raise ValueError("these alignments were loaded to be read only")
        if not self._changed:
            return None
        if self.imported:
            raise UsageError(
                f"{self.path.name} holds landmarks for exchange, which cannot be updated; turn it into an alignments "
                "file with gpu-extract import."
            )
        if not self._is_as_loaded():
            raise self._beside()
        digest = new_digest()
        backup = backup_copy(self.path, modern=self.traits.names_back_ups_anew, digest=digest)
        if backup and self._snapshot and self._snapshot.digest != digest.digest():
            with suppress(OSError):
                backup.unlink()
            raise self._beside()
        try:
            write_whole(self.path, self.content(), before_replace=self._check_unchanged)
        except _ChangedMeanwhileError:
            raise self._beside() from None
        self._snapshot = _snapshot(self.path)
        self._changed = False
        return backup

    @property
    def digest(self) -> str:
        """BLAKE2b of the file that was loaded or last saved, in hexadecimal; "" where there is none."""
        return "" if self._snapshot is None else self._snapshot.digest.hex()

    def content(self) -> Iterator[bytes]:
        """The bytes of the file as it is now, in pieces, in the container that its path names."""
        return container_for(self.path).write(self._document)

    def _separate(self, lists: list[list[Any]]) -> None:
        """Give each face a dict of its own where a file shares one, or setting one's hash would set the other's."""
        held = 1 if all(map(isinstance, self._frames, repeat(dict))) else 2  # in frames' dicts, or in the file's itself
        if _are_all_different(self._records, 1) and _are_all_different(lists, held):
            return
        shared: set[int] = set()
        row = 0
        for name, entry in zip(self.frame_names, self._frames, strict=True):
            faces = entry if isinstance(entry, list) else entry["faces"]
            own = []
            for record in faces:
                if id(record) in shared and isinstance(record, dict):
                    record = dict(record)
                shared.add(id(record))
                own.append(record)
                self._records[row] = record
                row += 1
            if isinstance(entry, list):
                _frames(self._document.root)[name] = own
            else:
                _frames(self._document.root)[name] = {**entry, "faces": own}
        self._frames = list(_frames(self._document.root).values())

    def _is_as_loaded(self) -> bool:
        # A file that is gone is written again: what is in memory may be its only copy.
        return self._snapshot is None or not self.path.exists() or self._snapshot.matches(self.path)

    def _check_unchanged(self) -> None:
        if not self._is_as_loaded():
            raise _ChangedMeanwhileError

    def _beside(self) -> AlignmentsChangedError:
        """Keep what cannot be saved under a name of its own, and the error that says so."""
        stamp = time.strftime("_unsaved_%Y%m%d_%H%M%S")
        try:
            kept = f"what was to be saved is in {write_new(self.path, self.content(), suffix=stamp).name}"
        except OutputError as error:
            kept = f"and what was to be saved could not be kept beside it ({error})"
        return AlignmentsChangedError(
            f"{self.path} was changed by another program since it was loaded, so it was not overwritten; {kept}."
        )


class LandmarksOnlyError(AlignmentsError):
    """The file holds landmarks for exchange; `document` is what was read of it."""

    def __init__(self, message: str, document: Document) -> None:
        super().__init__(message)
        self.document = document


class _ChangedMeanwhileError(Exception):
    """The file changed while its successor was being written."""


class _Digesting:
    """A file that is digested while it is read from its beginning to its end."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = new_digest()
        self._digested = 0

    def read(self, count: int = -1) -> bytes:
        start = self._file.tell()
        block = self._file.read(count)
        fresh = block[max(0, self._digested - start) :]
        self._digest.update(fresh)
        self._digested += len(fresh)
        return block

    def seek(self, position: int) -> int:
        return self._file.seek(position)

    def digest(self) -> bytes:
        self._file.seek(self._digested)
        while self.read(1 << 20):
            pass
        digested: bytes = self._digest.digest()
        return digested


def _read(path: Path, limits: Limits, read_only: bool) -> tuple[Document, Snapshot | None]:
    container = container_for(path)
    try:
        with open_input(path, "The alignments file") as file:
            status = os.fstat(file.fileno())
            if status.st_size > limits.max_bytes:
                raise AlignmentsError(f"{path} has {status.st_size} bytes; at most {limits.max_bytes} are read.")
            if read_only:
                return container.read(file, status.st_size, limits, path.name), None
            digesting: Any = _Digesting(file)
            document = container.read(digesting, status.st_size, limits, path.name)
            snapshot = Snapshot.of(status, digesting.digest())
    except OSError as error:
        raise unreadable(path, "The alignments file", error) from error
    except MemoryError as error:
        raise AlignmentsError(f"{path.name} needs more memory than there is.") from error
    return document, snapshot


def _what_it_is(path: Path) -> str | None:
    try:
        with open_input(path, "The alignments file") as file:
            return what_it_is(file.read(HEAD_BYTES))
    except OSError as error:
        raise unreadable(path, "The alignments file", error) from error


def _snapshot(path: Path) -> Snapshot:
    """Of a file that was just written. One that cannot be read back is saved, but not once more over that."""
    try:
        return Snapshot.of(path.stat(), digest_of(path))
    except (OSError, InputError):
        return Snapshot(-1, 0, 0, 0, b"")


def _frames(root: dict[str, Any]) -> dict[str, Any]:
    frames: dict[str, Any] = root.get("__data__", root)
    return frames


def _frames_and_version(root: Any, name: str) -> tuple[dict[str, Any], float]:
    if not isinstance(root, dict):
        raise AlignmentsError(f"{name} is no alignments file: it holds a {type(root).__name__}, not frames with faces.")
    version: Any = 1.0
    if "__data__" in root:
        meta = root.get("__meta__")
        version = meta.get("version", 1.0) if isinstance(meta, dict) else 1.0
    frames = _frames(root)
    if not isinstance(version, int | float) or isinstance(version, bool) or version != version:
        raise AlignmentsError(f"{name} says that its version is {shown(version)}; a number is wanted.")
    if not 1 <= version <= NEWEST:
        raise AlignmentsError(f"{name} has version {shown(version)}; versions 1.0 to {NEWEST} are known.")
    if not isinstance(frames, dict):
        raise AlignmentsError(f"{name} is no alignments file: its frames are a {type(frames).__name__}, not a dict.")
    for key in frames:
        if not isinstance(key, str):
            raise AlignmentsError(
                f"{name} is no alignments file: one of its frames is called {shown(key)}, which is not text."
            )
    return frames, float(version)


def _face_lists(frames: dict[str, Any], name: str) -> list[list[Any]]:
    lists = []
    for key, entry in frames.items():
        faces = entry.get("faces") if isinstance(entry, dict) else entry
        if not isinstance(faces, list):
            raise AlignmentsError(
                f"{name} is no alignments file: its entry {shown(key)} is neither a list of faces nor a dict with one."
            )
        lists.append(faces)
    return lists


def holds_landmarks(root: dict[Any, Any]) -> bool:
    """Whether a file's frames hold landmarks for exchange, or plain lists of points, instead of faces."""
    for entry in {} if "__data__" in root else root.values():
        if isinstance(entry, dict):
            return False
        for face in entry if isinstance(entry, list) else ():
            if isinstance(face, list) and face and isinstance(face[0], list | int | float):
                return True
            if isinstance(face, dict) and not face.keys().isdisjoint(("landmarks_2d", *LANDMARK_KEYS)):
                return "landmarks_2d" in face
    return False


def _are_all_different(objects: list[Any], held: int) -> bool:
    """Whether no object stands twice in a list; each is held from `held` other places if it stands once."""
    most = columns.most_references(objects)
    if most is not None and most <= held + 1:
        return True
    places = np.fromiter(map(id, objects), np.uintp, len(objects))
    places.sort()
    return not (places[1:] == places[:-1]).any()


def _insert_after_landmarks(record: dict[str, Any], key: str, value: Any) -> None:
    """Set a key where files of its time have it."""
    entries = list(record.items())
    record.clear()
    for name, entry in entries:
        record[name] = entry
        if name in LANDMARK_KEYS:
            record[key] = value
    record.setdefault(key, value)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Millions of new containers make the collector look at all of them again and again, for nothing.

    They go to the oldest generation at once, as they would after two more looks; not where a host program keeps objects
    frozen, which would thaw with them.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            if not gc.get_freeze_count():
                gc.freeze()
                gc.unfreeze()
            gc.enable()
