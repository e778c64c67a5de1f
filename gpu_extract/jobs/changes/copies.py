"""Copies that changes have left beside an alignments file, known by what they hold."""

from __future__ import annotations

import os
from collections.abc import Iterator
from glob import escape
from pathlib import Path
from typing import NamedTuple

from gpu_extract.alignments import Alignments
from gpu_extract.errors import GpuExtractError
from gpu_extract.jobs.changes.record import content_digest
from gpu_extract.storage.atomic import digest_of


class Earlier(NamedTuple):
    """A copy from before faces left the file."""

    path: Path
    digest: str
    """Of its content."""
    faces: int
    """In it."""
    gone: int
    """How many of these the file has no more."""


def copy_of(file: Path, digest: str, nbytes: int) -> Path | None:
    """The copy whose content has that digest, and so many bytes; None where there is none any more."""
    for path in _copies(file):
        if path.stat().st_size == nbytes and digest_of(path).hex() == digest:
            return path
    return None


def before_faces_left(file: Path) -> Earlier | None:
    """The copy from before faces left an alignments file the last time; None where there is none.

    It proves itself: once some of its faces are taken out of it, it is the file as it is now, to the byte.
    """
    now = Alignments.load(file)
    found: Earlier | None = None
    for path in _copies(file):
        try:
            copy = Alignments.load(path)
        except GpuExtractError:
            continue
        faces = len(copy.faces)
        gone = faces - len(now.faces)
        if gone > 0 and (found is None or gone < found.gone) and _comes_to(copy, now):
            found = Earlier(path, copy.digest, faces, gone)
    return found


def _copies(file: Path) -> Iterator[Path]:
    real = Path(os.path.realpath(file))
    yield from filter(Path.is_file, sorted(real.parent.glob(f"{escape(real.stem)}_*{escape(real.suffix)}")))


def _comes_to(copy: Alignments, now: Alignments) -> bool:
    """Whether a copy is the file once the faces that this lacks are taken out of it, as is done in memory."""
    wanted = _faces(now)
    one, gone = next(wanted, None), set()
    for row, face in enumerate(_faces(copy)):
        if face == one:
            one = next(wanted, None)
        else:
            gone.add(row)
    copy.remove_faces(gone, frames_too=len(copy.frame_names) > len(now.frame_names))
    return content_digest(copy) == now.digest


def _faces(alignments: Alignments) -> Iterator[tuple[object, ...]]:
    """What tells the faces of a file from one another, in its order."""
    faces = alignments.faces
    points: dict[int, bytes] = {}
    for group in faces.groups:
        points.update(zip(group.rows.tolist(), (one.tobytes() for one in group.points), strict=True))
    for row, frame in enumerate(faces.frame.tolist()):
        box = faces.box[row].tobytes()
        yield alignments.frame_names[frame], box, points.get(row), alignments.stored_hash(row)
