"""Keys that stand twice in a text file: JSON and YAML keep the last, and what stood first would be lost without a word.

A frame that stands twice, as in files that were joined by hand, is one frame with the faces of both places. Anything
else that stands twice with two values contradicts itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gpu_extract.alignments.limits import shown
from gpu_extract.alignments.packed import unpack
from gpu_extract.errors import AlignmentsError

Pairs = Sequence[tuple[Any, Any]]
Faces = Callable[[list[Any]], list[Any]]
LISTED = 20
"""Frames that a note names."""


class Repeats:
    """The mappings of a file that hold a key twice, collected while it is read."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[dict[Any, Any], Pairs]] = {}

    def mapping(self, pairs: Pairs) -> dict[Any, Any]:
        """The dict of some pairs, the last of each key, which `join` and `contradictions` know again if it lost any."""
        made = dict(pairs)
        if len(made) != len(pairs):
            self._found[id(made)] = (made, pairs)  # kept with its id, which stays its own by that
        return made

    def contradictions(self, mapping: Any) -> list[str]:
        """The keys that stand more than once in a mapping, with different values."""
        _, pairs = self._found.get(id(mapping), (None, ()))
        first: dict[Any, Any] = {}
        found: dict[Any, None] = {}
        for key, value in pairs:
            if not _equal(first.setdefault(key, value), value):
                found[key] = None
        return list(map(str, found))

    def join(self, frames: dict[str, Any], label: str, faces_of: Faces = list) -> list[str]:
        """Give frames that stand more than once the faces of all places; the dict is changed.

        Args:
            faces_of: the faces of a frame, of the list that a file has for it.

        Returns:
            What was done, as notes.
        """
        _, pairs = self._found.pop(id(frames), (None, ()))
        places: dict[str, list[Any]] = {}
        for name, entry in pairs:
            places.setdefault(name, []).append(entry)
        again: dict[str, bool] = {}
        for name, entries in places.items():
            if len(entries) > 1:
                frames[name], again[name] = _joined(
                    entries, faces_of, f"{label} has frame {shown(name)} more than once"
                )
        return _notes(again, label)

    def refuse(self, root: dict[Any, Any], label: str) -> None:
        """Refuse a file in which anything stands twice with two values; call `join` before.

        Raises:
            AlignmentsError: naming it, and where it stands.
        """
        for mapping, _ in self._found.values():
            if keys := self.contradictions(mapping):
                where = _where(root, mapping)
                raise AlignmentsError(
                    f"{label} has the key {shown(keys[0])} twice{where}, with two values; take one of the two out."
                )


def _joined(entries: list[Any], faces_of: Faces, what: str) -> tuple[Any, bool]:
    """All entries of a frame as one, and whether any after the first adds a face.

    Raises:
        AlignmentsError: if they are not all lists of faces, or all dicts with one; `what` begins the sentence.
    """
    framed = all(isinstance(entry, dict) for entry in entries)
    lists = [entry.get("faces") for entry in entries] if framed else entries
    if not all(isinstance(faces, list) for faces in lists):
        raise AlignmentsError(f"{what}, in forms that do not go together; take all but one of them out.")
    every = list(faces_of(lists[0]))
    first = len(every)
    known = set(map(_fingerprint, every))
    for faces in lists[1:]:
        fresh = {key: face for face in faces_of(faces) if (key := _fingerprint(face)) not in known}
        every += fresh.values()
        known.update(fresh)
    if not framed:
        return every, len(every) > first
    joined: dict[Any, Any] = {}
    for entry in reversed(entries):
        joined |= entry
    return joined | {"faces": every}, len(every) > first


def _fingerprint(face: Any) -> str:
    """A text that equal faces have in common, so that thousands are compared in no time."""
    return repr(unpack(face))


def _equal(one: Any, other: Any) -> bool:
    return one is other or bool(unpack(one) == unpack(other))


def _notes(again: dict[str, bool], label: str) -> list[str]:
    notes = []
    for added, what in ((True, "the faces of all places were taken"), (False, "with the same faces, taken once")):
        names = [shown(name) for name, adds in again.items() if adds is added]
        if names:
            stand = "1 frame stands" if len(names) == 1 else f"{len(names):,} frames stand"
            more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
            notes.append(f"{stand} more than once in {label}, {what}: {', '.join(names[:LISTED])}{more}")
    return notes


def _where(root: dict[Any, Any], mapping: dict[Any, Any]) -> str:
    """Which frame and face a mapping belongs to, as the end of "the key … twice"."""
    frames = root.get("__data__", root)
    for name, entry in frames.items() if isinstance(frames, dict) else ():
        if entry is mapping:
            return f" in frame {shown(name)}"
        faces = entry.get("faces") if isinstance(entry, dict) else entry
        for index, face in enumerate(faces if isinstance(faces, list) else ()):
            if face is mapping or _holds(face, mapping):
                return f" in frame {shown(name)}, face {index}"
    return ""


def _holds(value: Any, mapping: dict[Any, Any]) -> bool:
    """Whether a mapping lies in a value of a face, such as a mask; faces nest no deeper than that."""
    return isinstance(value, dict) and any(
        part is mapping or (isinstance(part, dict) and any(inner is mapping for inner in part.values()))
        for part in value.values()
    )
