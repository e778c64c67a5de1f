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
        joined: dict[str, Any] = {}
        again: dict[str, bool] = {}
        for name, entry in pairs:
            if name not in joined:
                joined[name] = entry
                continue
            both = _both(joined[name], entry, faces_of)
            if both is None:
                raise AlignmentsError(
                    f"{label} has frame {shown(name)} more than once, in forms that do not go together; "
                    "take one of the two out."
                )
            again[name] = again.get(name, False) or both is not joined[name]
            joined[name] = both
        if joined:
            frames.clear()
            frames.update(joined)
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


def _both(one: Any, other: Any, faces_of: Faces) -> Any:
    """Two entries of a frame as one; `one` itself where the other adds no face, None where they are no such entries."""
    if isinstance(one, list) and isinstance(other, list):
        return _all_faces(one, other, faces_of)
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return None
    faces, more = one.get("faces"), other.get("faces")
    if not (isinstance(faces, list) and isinstance(more, list)):
        return None
    every = _all_faces(faces, more, faces_of)
    return one if every is faces else {**other, **one, "faces": every}


def _all_faces(one: list[Any], other: list[Any], faces_of: Faces) -> list[Any]:
    """The faces of both lists, those that are the same once; `one` itself where that is all."""
    there, more = faces_of(one), faces_of(other)
    more = [face for face in more if not any(_equal(face, known) for known in there)]
    return [*there, *more] if more else one


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
