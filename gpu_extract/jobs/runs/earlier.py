"""What became of the faces that an earlier run wrote: there, damaged, or taken away; and what is left to do.

A face that is not there any more was most likely looked at and deleted, and whoever looks through thousands must not
have to do it twice. So it stays out unless it is asked for. Only if no face is left at all was the folder emptied, not
looked through. A file that is there but not whole is nobody's choice: it is made again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from gpu_extract import png_file
from gpu_extract.errors import InputError, counted
from gpu_extract.face_files.layout import Layout
from gpu_extract.face_files.stored import content, pixel_hash, png_fault
from gpu_extract.naming import FACE_EXTENSIONS, has_extension
from gpu_extract.run.journal import Finished
from gpu_extract.run.plan import Plan, some_faces
from gpu_extract.tasks import FaceResult

NAMED = 5
"""Files that a note names."""
LEAVE_OUT, RESTORE = "leave-out", "restore"


class Recorded(Protocol):
    """A journal, or several."""

    @property
    def finished(self) -> dict[int, Finished]: ...


@dataclass
class Earlier:
    """The faces of an earlier run."""

    whole: dict[int, list[FaceResult]] = field(default_factory=dict)
    """By the key of its record, of each frame that needs nothing: the faces that are there."""
    left_out: dict[int, list[FaceResult]] = field(default_factory=dict)
    """By the key of its record, of each frame: the faces that are not there and stay out."""
    notes: list[str] = field(default_factory=list)
    """What was found missing or damaged, and what is done about it."""

    gone: list[FaceResult] = field(default_factory=list)
    """Faces that are not there any more, whatever is done about it."""

    @property
    def faces_left_out(self) -> int:
        return sum(map(len, self.left_out.values()))

    def left(self, plan: Plan) -> Plan:
        """The faces of a plan that are still to be made."""
        # By rows, not by positions: these shift when the folder of frames gains one between two runs.
        done = [face.row for frames in (self.whole, self.left_out) for faces in frames.values() for face in faces]
        return some_faces(plan, ~np.isin(plan.rows, done))


def look_over(journal: Recorded, folder: Path, layout: type[Layout], deleted: str) -> Earlier:
    """Compare a journal with its folder.

    Args:
        deleted: "leave-out" or "restore", what to do about faces that are not there any more.
    """
    found = Earlier()
    gone: list[FaceResult] = []
    damaged: list[FaceResult] = []
    frames: list[tuple[Finished, list[FaceResult], bool]] = []
    holds = layout.holder(folder)
    for frame in journal.finished.values():
        faults = [face for face in frame.faces if not holds(face.file_name, face.nbytes)]
        missing = [face for face in faults if layout.in_archives or not (folder / face.file_name).exists()]
        broken = [face for face in faults if face not in missing and not _shows(folder / face.file_name, face.sha1)]
        gone += missing
        damaged += broken
        frames.append((frame, missing, bool(broken)))
    emptied = bool(gone) and not layout.in_archives and not has_faces(folder)
    leaves_out = deleted == LEAVE_OUT and not layout.in_archives and not emptied
    for frame, missing, is_broken in frames:
        if missing and leaves_out:
            found.left_out[frame.key] = missing
        if not is_broken and (leaves_out or not missing):
            found.whole[frame.key] = [face for face in frame.faces if face not in missing]
    found.gone = gone
    if gone:
        found.notes.append(_note_of_gone(gone, emptied=emptied, leaves_out=leaves_out))
    if damaged:
        found.notes.append(
            f"{counted(len(damaged), 'face')} of the earlier run {_is(damaged)} not whole any more {_names(damaged)} "
            f"and {_is(damaged)} made again."
        )
    return found


def _shows(path: Path, sha1: str) -> bool:
    """Whether a file of another size has the face's pixels all the same: later programs rewrite headers."""
    try:
        data = content(path)
        whole = not data.startswith(png_file.SIGNATURE) or png_fault(data) is None
        return whole and pixel_hash(data) == sha1
    except InputError:
        return False


def has_faces(folder: Path) -> bool:
    """Whether any image is in the folder or in one inside it, where somebody may have sorted them into."""
    names = (name for _, _, files in os.walk(folder) for name in files)
    return any(has_extension(name, FACE_EXTENSIONS) and not name.startswith(".") for name in names)


def _note_of_gone(gone: list[FaceResult], *, emptied: bool, leaves_out: bool) -> str:
    count, names, are = counted(len(gone), "face"), _names(gone), _is(gone)
    if emptied:
        return f"{count} of the earlier run {are} gone, and no other is in the folder: all are made again."
    what = f"{count} of the earlier run {are} gone from the folder {names}"
    if leaves_out:
        return f"{what}: left out, though still in the alignments file; --deleted {RESTORE} makes them again."
    return f"{what}: made again; --deleted {LEAVE_OUT} would leave out what was deleted by hand."


def _is(faces: list[FaceResult]) -> str:
    return "is" if len(faces) == 1 else "are"


def named(faces: list[FaceResult]) -> str:
    """How many, and the names of the first."""
    return f"{counted(len(faces), 'face')} {_names(faces)}"


def _names(faces: Iterable[FaceResult]) -> str:
    names = [face.file_name for face in sorted(faces, key=lambda face: face.row)]
    more = ", …" if len(names) > NAMED else ""
    return f"({', '.join(names[:NAMED])}{more})"
