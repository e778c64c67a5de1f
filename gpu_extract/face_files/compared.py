"""Two headers of one face, compared by what they say: programs write the same values in other forms.

The current program prints the frame's size as a tuple or a list, rounds numbers to float32, writes 3 x 3 matrices
where older ones had 2 x 3, and raises the version; the tools that add masks and identities write them into headers
only. None of that is another face. See `docs/formats.md#headers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from gpu_extract.naming import VIDEO_EXTENSIONS, VIDEO_FACE_EXTENSION

BOX_AND_POINTS = ("x", "y", "w", "h", "landmarks_xy")
FLOAT32_STEP = 2.0**-23
"""Relative; what rounding to float32 may change, twice."""
MATRIX_ROWS = 2
"""A third one is always 0, 0, 1."""


@dataclass
class Compared:
    """What a stored header says otherwise than the expected one."""

    faults: list[str] = field(default_factory=list)
    """Phrases that follow "its header": another face, or less than the alignments file holds."""
    more: list[str] = field(default_factory=list)
    """Names of what only the stored header holds."""


def compared(stored: Mapping[str, Any], expected: Mapping[str, Any]) -> Compared:
    """Compare a header that was read with the one that an extraction writes."""
    found = Compared()
    for part in ("alignments", "source"):
        if not isinstance(stored.get(part), dict):
            found.faults.append(f"has no {part!r}")
    if not found.faults:
        _compare_face(stored["alignments"], expected["alignments"], found)
        _compare_source(stored["source"], expected["source"], found)
    return found


def _compare_face(stored: dict[str, Any], expected: dict[str, Any], found: Compared) -> None:
    for name in BOX_AND_POINTS:
        if name not in stored or not same(stored[name], expected[name]):
            found.faults.append(f"has another {name}" if name in stored else f"has no {name}")
    for kind, equal in (("mask", _same_mask), ("identity", same)):
        there, wanted = _dict(stored.get(kind)), _dict(expected.get(kind))
        for name, value in wanted.items():
            if name not in there:
                found.faults.append(f"lacks the {kind} {name!r}")
            elif not equal(there[name], value):
                found.faults.append(f"has another {kind} {name!r}")
        found.more += [f"{kind} {name!r}" for name in there if name not in wanted]
    found.more += [repr(name) for name in stored if name not in (*BOX_AND_POINTS, "mask", "identity")]


def _compare_source(stored: dict[str, Any], expected: dict[str, Any], found: Compared) -> None:
    index, frame = stored.get("face_index"), stored.get("source_filename")
    if not same(index, expected["face_index"]):
        found.faults.append(f"says face_index {_short(index)}, not {expected['face_index']}")
    if not same_frame(frame, expected["source_filename"]):
        found.faults.append(f"says source_filename {_short(frame)}, not {_short(expected['source_filename'])}")
    if not same(name := stored.get("original_filename"), expected["original_filename"]):
        found.faults.append(f"says original_filename {_short(name)}, not {_short(expected['original_filename'])}")
    # Faces that a program took over from before version 2.1 tell neither the frame's size nor whether it was a video's.
    size, wanted = stored.get("source_frame_dims"), expected.get("source_frame_dims")
    if size is not None and wanted is not None:
        if not same(size, wanted):
            found.faults.append(f"says source_frame_dims {_short(size)}, not {_short(wanted)}")
        if stored.get("source_is_video") != expected["source_is_video"]:
            found.faults.append(f"says source_is_video {_short(stored.get('source_is_video'))}")
    found.more += [repr(name) for name in stored if name not in expected and name != "source_frame_dims"]


def same_frame(stored: Any, expected: str) -> bool:
    """Whether two keys are one frame's; a video's end in .png up to 2.3 and in its own extension from 2.4 on."""
    if stored == expected:
        return True
    if not isinstance(stored, str):
        return False
    one, other = PurePosixPath(stored), PurePosixPath(expected)
    endings = {one.suffix.lower(), other.suffix.lower()} - {VIDEO_FACE_EXTENSION}
    return one.stem == other.stem and len(endings) == 1 and endings <= VIDEO_EXTENSIONS


def _same_mask(stored: Any, expected: dict[str, Any]) -> bool:
    if not isinstance(stored, dict):
        return False
    for key, value in expected.items():
        if key == "affine_matrix":
            rows = stored.get(key)
            if not isinstance(rows, list | tuple) or not same(rows[:MATRIX_ROWS], value[:MATRIX_ROWS]):
                return False
        elif key not in stored:
            # Version 2.1 does not say what a mask is centred on; releases since take it for "face".
            if key != "stored_centering" or value != "face":
                return False
        elif not same(stored[key], value):
            return False
    return True


def same(one: Any, other: Any) -> bool:
    """Equal values: lists and tuples alike, numbers as far as float32 holds them."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, int | float) and isinstance(other, int | float):
        try:
            return one == other or abs(one - other) <= FLOAT32_STEP * max(abs(one), abs(other))
        except OverflowError:
            return False
    return bool(one == other)


def _dict(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "…"
