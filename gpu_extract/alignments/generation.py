"""Which program's file this is: told from the data, because nothing before December 2020 says so itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from gpu_extract.alignments.packed import PackedArray, PackedList

NEWEST = 2.4


def generation_of(version: float, frames: Iterable[Any], records: Sequence[Any]) -> str:
    """ "g0" … "g7b" before version 2.0 (best effort for files made by hand), then the version: "2.0" … "2.4".

    g4 and g5 differ only by a field that few files of the second have, so such files are called g4; in the same way
    the files of spring 2020 are called g7a or g7b by their thumbnails.
    """
    if version >= 2:
        return f"{version:.1f}"
    keys = set(map(frozenset, (record for record in records if isinstance(record, dict))))
    present: set[str] = set().union(*keys) if keys else set()
    if any(isinstance(frame, dict) for frame in frames):
        return "g7b" if "thumb" in present else "g7a"
    if "landmarksXY" in present:
        if "r" in present:
            return "g0"
        if "frame_dims" in present:
            return "g2" if "hash" in present else "g1"
        return "g3"
    if _has_integers(records):
        return "g5" if "mask" in present else "g4"
    return "g6"


def holds_lists_only(records: Sequence[Any]) -> bool:
    """Whether all landmarks are lists: from 2.0 on, that is a file written since March 2026."""
    return not any(isinstance(record, dict) and type(record.get("landmarks_xy")) is PackedArray for record in records)


def _has_integers(records: Sequence[Any]) -> bool:
    """Whether the landmarks are lists of integers; the first face that has any decides."""
    for record in records:
        points = record.get("landmarks_xy") if isinstance(record, dict) else None
        if isinstance(points, PackedList):
            return points.dtype.kind in "iu"
        if isinstance(points, list) and points and isinstance(points[0], list | tuple) and points[0]:
            return type(points[0][0]) is int
        if isinstance(points, PackedArray):
            return False
    return False
