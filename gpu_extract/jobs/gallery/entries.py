"""What a page of faces lists: the files of a folder, faces that are gone from it, and those that failed; in order."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path

from gpu_extract.errors import InputError
from gpu_extract.face_files.beside import lies_beside
from gpu_extract.face_files.recorded import Recorded
from gpu_extract.face_files.stored import InShard, Place, content
from gpu_extract.jobs.gallery.outcome import Outcome
from gpu_extract.naming import FACE_EXTENSIONS, base_of, has_extension, split_name, stem_of
from gpu_extract.run.pool import Pool
from gpu_extract.storage.parts import TEMPORARY_PREFIX
from gpu_extract.tasks import FaceResult

_DIGITS = re.compile("([0-9]+)")


class State(IntFlag):
    """What there is to say of an entry; the page knows these numbers."""

    NONE = 0
    OUTSIDE = 1
    """The middle of its crop lies outside the frame."""
    UNREADABLE = 2
    FAILED = 4
    GONE = 8
    """The run wrote it, and its file is not there."""
    EXTRA = 16
    """The run did not write it."""
    SMALL = 32
    """It has a thumbnail."""
    HIDDEN = 64
    """A browser cannot show its file: a member of an archive, or of a format that browsers do not know."""


@dataclass(slots=True)
class Entry:
    """A face as the page lists it."""

    name: str
    """Of its file, relative to the folder; of a member of an archive, its name in there; empty for a failure."""
    place: Place | None
    """None where there is no file."""
    frame: str
    """The frame's key, or as much of it as the file's name tells."""
    index: int
    """In its frame; -1 where it is not known any more, or for a whole frame that failed."""
    state: State
    result: FaceResult | None = None
    """What the run recorded."""
    position: int | None = None
    """Of the frame in its source, from 0, as the run recorded it."""
    reason: str = ""
    """Why it failed, or cannot be read."""


def entries_of(stored: dict[str, Place], outcome: Outcome) -> list[Entry]:
    """All that a page lists, by frame and index: names are compared as people count, frame 10 after frame 9.

    A face that was renamed, or sorted into a sub-folder, is known by its header, or by the hash of its pixels.

    Args:
        stored: the files of the folder, as `faces.stored` gives them.
    """
    recorded = {face.file_name: (face, frame.position) for frame in outcome.frames for face in frame.faces}
    files = {name: place for name, place in stored.items() if _is_face(name)}
    known = {
        name: recorded.pop(said) for name, place in files.items() if (said := recorded_as(name, place)) in recorded
    }
    if recorded:
        unknown = {name: place for name, place in files.items() if name not in known}
        known |= {name: recorded.pop(said) for name, said in _known_again(unknown, recorded, outcome).items()}
    found = []
    for name, place in files.items():
        face, position = known.get(name, (None, None))
        extra = State.EXTRA if outcome.settings is not None and face is None else State.NONE
        found.append(_entry(name, place, extra, face, position))
    found += [_entry(name, None, State.GONE, face, position) for name, (face, position) in recorded.items()]
    for failed in outcome.failed:
        index = -1 if failed.index is None or outcome.is_outdated else failed.index
        found.append(Entry("", None, failed.frame, index, State.FAILED, reason=failed.reason))
    found.sort(key=_order)
    return found


def recorded_as(name: str, place: Place) -> str:
    """The name by which journals and lists know a file."""
    return f"{place.shard.name}/{name}" if isinstance(place, InShard) else name


def _known_again(files: Mapping[str, Place], gone: Collection[str], outcome: Outcome) -> dict[str, str]:
    """Files that show faces which are not where the run put them, by their names, and where it did put each.

    Args:
        gone: where these faces were.
    """
    recorded = Recorded(face for frame in outcome.frames for face in frame.faces)

    def places(place: Place) -> list[str]:
        try:
            return recorded.places(content(place))
        except (InputError, OSError):
            return []

    with Pool() as threads:
        told = list(threads.map(places, files.values()))
    owner: dict[str, str] = {}
    for name, said in zip(files, told, strict=True):
        place = next((place for place in said if place in gone and place not in owner), None)
        if place is not None:
            owner[place] = name
    return {name: place for place, name in owner.items()}


def _is_face(name: str) -> bool:
    if base_of(name).startswith(TEMPORARY_PREFIX) or not has_extension(name, FACE_EXTENSIONS):
        return False
    return not lies_beside(name, Path())


def _entry(name: str, place: Place | None, state: State, face: FaceResult | None, position: int | None) -> Entry:
    stem = split_name(base_of(name if face is None else face.file_name))[0]
    frame, _, number = stem.rpartition("_")
    if face is not None and number == str(face.index):
        return Entry(name, place, frame, face.index, state, face, position)
    if frame and number.isascii() and number.isdecimal() and len(number) < 7:
        return Entry(name, place, frame, int(number), state, face, position)
    return Entry(name, place, stem, -1, state, face, position)


def _order(entry: Entry) -> tuple[list[tuple[int, str]], int, str]:
    parts = _DIGITS.split(stem_of(entry.frame))
    # Numbers are compared by their digits: a name may have more of them than Python makes a number of.
    key = [(len(part), part) if i % 2 else (0, part) for i, part in enumerate(part.lstrip("0") for part in parts)]
    return key, entry.index, entry.name
