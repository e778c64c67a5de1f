"""The faces of a whole file as columns, so that geometry works on all of them at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_extract.alignments.limits import shown
from gpu_extract.alignments.packed import DTYPES, PackedArray, PackedList, unpack
from gpu_extract.kernels import columns
from gpu_extract.kernels.columns import Columns, Points

POINT_COUNTS = (68, 98, 51, 4)  # landmark sets that the format knows
LANDMARK_KEYS = ("landmarks_xy", "landmarksXY")  # today's name first; the other until September 2019


@dataclass(frozen=True)
class LandmarkGroup:
    """Faces with landmark sets of one size and number type."""

    rows: np.ndarray  # [K] int64, ascending rows of the FaceTable
    points: np.ndarray  # [K, n, 2] float32 or float64, frame pixels (x, y), all finite; not writable


@dataclass(frozen=True)
class FaceTable:
    """F faces in file order; boxes and landmarks in frame pixels, (0, 0) the centre of the top-left pixel."""

    frame: np.ndarray  # [F] int32, index into the frame names
    index: np.ndarray  # [F] int32, position in its frame's list
    box: np.ndarray  # [F, 4] float64: x, y, w, h; NaN where a value is missing or no number
    rotation: np.ndarray  # [F] int16, degrees that the frame was turned by when the face was found; 0 from 2018-11 on
    groups: list[LandmarkGroup]
    invalid: dict[int, str]  # row -> why this face cannot be cut

    def __len__(self) -> int:
        return len(self.frame)


def survey(records: list[Any]) -> Columns | None:
    """What the faces of most files have alike, found at once; None where it has to be looked for."""
    return columns.survey(records, (PackedArray, PackedList), (DTYPES["f4"], DTYPES["f8"]))


def face_table(records: Sequence[Any], counts: Sequence[int], found: Columns | None = None) -> FaceTable:
    """The table of `records`, the face dicts in file order; `counts[i]` of them belong to frame i.

    Args:
        found: by `survey` of the records.
    """
    sizes = np.asarray(counts, np.int64)
    frame = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    starts = np.cumsum(sizes) - sizes
    index = (np.arange(len(frame)) - starts[frame]).astype(np.int32)
    invalid: dict[int, str] = {}
    box = _boxes(records) if found is None or found.box is None else found.box
    may_be_turned = found is None or "r" in found.keys
    rotation = _rotations(records, invalid) if may_be_turned else np.zeros(len(records), np.int16)
    groups = _landmarks(records, None if found is None else found.points, invalid)
    return FaceTable(frame, index, box, rotation, groups, invalid)


def _boxes(records: Sequence[Any]) -> np.ndarray:
    return np.stack([_numbers(records, key) for key in "xywh"], axis=-1)


def _numbers(records: Sequence[Any], key: str) -> np.ndarray:
    values = [record.get(key) if isinstance(record, dict) else None for record in records]
    return np.array([_number(value) for value in values], np.float64)


def _number(value: Any) -> float:
    try:
        return float(value) if _is_number(value) else math.nan
    except OverflowError:
        return math.nan


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _rotations(records: Sequence[Any], invalid: dict[int, str]) -> np.ndarray:
    rotation = np.zeros(len(records), np.int16)
    for row, record in enumerate(records):
        if isinstance(record, dict) and "r" in record:
            degrees = record["r"]
            if degrees is None:
                continue
            if _is_number(degrees) and degrees == degrees // 1 and abs(degrees) <= 360:
                rotation[row] = degrees
            else:
                invalid[row] = f"its rotation r is {shown(degrees)}, not a whole number of degrees from -360 to 360"
    return rotation


def _landmarks(records: Sequence[Any], alike: Points | None, invalid: dict[int, str]) -> list[LandmarkGroup]:
    """Groups of all landmarks.

    Args:
        alike: all of them, where they are of one sort.
    """
    loose: list[tuple[int, Any]] = []
    if alike is not None and _are_pairs(alike.kind, alike.dtype, alike.shape):
        sorts: Sorts = {(alike.shape[0], alike.dtype, alike.kind is PackedList): (range(len(records)), [alike.raw])}
    else:
        alike = None
        sorts, loose = _by_sort(records)
    found: dict[tuple[int, str], list[tuple[np.ndarray, np.ndarray]]] = {}
    for (count, dtype, is_list), (rows, raws) in sorts.items():
        values = np.frombuffer(raws[0] if alike else b"".join(raws), dtype).reshape(len(rows), count, 2)
        raws.clear()
        width = np.dtype(_width(dtype, is_list))
        if alike and width != dtype:  # what is finite there may not be here
            alike = alike._replace(finite=False)
        with np.errstate(all="ignore"):
            values = values.astype(width, copy=False)
        found.setdefault((count, values.dtype.str), []).append((np.array(rows, np.int64), values))
    for row, points in loose:
        values, fault = _as_points(points)
        if fault:
            invalid.setdefault(row, fault)
        else:
            found.setdefault((values.shape[0], values.dtype.str), []).append((np.array([row], np.int64), values[None]))
    finite = alike is not None and alike.finite
    return [
        group
        for key in sorted(found, key=lambda key: (key[0] not in POINT_COUNTS, -key[0], key[1]))
        if (group := _group(*key, found[key], invalid, finite)) is not None
    ]


Sorts = dict[tuple[int, np.dtype, bool], tuple[Sequence[int], list[bytes]]]
"""(points, number type, whether they were lists) -> rows of such landmarks, and their numbers."""


def _by_sort(records: Sequence[Any]) -> tuple[Sorts, list[tuple[int, Any]]]:
    """Packed landmarks by their sort, and all others by their row."""
    sorts: dict[tuple[int, np.dtype, bool], tuple[list[int], list[bytes]]] = {}
    loose: list[tuple[int, Any]] = []
    for row, record in enumerate(records):
        try:
            points = record["landmarks_xy"]
        except (KeyError, TypeError):
            points = record.get("landmarksXY") if isinstance(record, dict) else None
        kind = type(points)
        if (kind is PackedList or (kind is PackedArray and not points.fortran)) and _are_pairs(
            kind, points.dtype, points.shape
        ):
            sort = sorts.setdefault((points.shape[0], points.dtype, kind is PackedList), ([], []))
            sort[0].append(row)
            sort[1].append(points.raw)
        else:
            loose.append((row, points))
    return {**sorts}, loose


def _are_pairs(kind: type, dtype: np.dtype, shape: tuple[int, ...]) -> bool:
    """Whether packed values of C order are pairs of numbers."""
    return shape[1:] == (2,) and (kind is PackedList or dtype.kind in "iuf")


def _width(dtype: np.dtype, is_list: bool) -> type:
    """The type that a file's own program computes in: float32 for lists, an array's own, float64 for one of integers.

    NumPy's means of integers are float64. Its means of float16 would be rounded to float16; no known program stored
    such landmarks, so they are taken as the float32 values that they are.
    """
    return np.float64 if not is_list and (dtype.kind in "iu" or dtype.itemsize == 8) else np.float32


def _as_points(points: Any) -> tuple[np.ndarray, str]:
    """Landmarks of any kind as [n, 2] float32 or float64, or the reason why they are none."""
    none = np.empty((0, 2), np.float32)
    if points is None:
        return none, "it has no landmarks"
    is_array = isinstance(points, PackedArray | np.ndarray)
    try:
        values = np.asarray(unpack(points) if not isinstance(points, np.ndarray) else points)
    except (ValueError, TypeError, OverflowError):
        return none, "its landmarks are not a list of points (x, y)"
    if values.dtype.kind not in "iuf":
        return none, "its landmarks are not numbers"
    if values.ndim != 2 or values.shape[1] != 2:
        return none, f"its landmarks have the shape {list(values.shape)}; points [n, 2] are wanted"
    with np.errstate(all="ignore"):
        return np.ascontiguousarray(values, _width(values.dtype, not is_array)), ""


def _group(
    count: int, dtype: str, parts: list[tuple[np.ndarray, np.ndarray]], invalid: dict[int, str], finite: bool
) -> LandmarkGroup | None:
    """Those of one size and number type.

    Args:
        finite: whether all surely are.
    """
    rows, points = parts[0] if len(parts) == 1 else (np.concatenate(part) for part in zip(*parts, strict=True))
    if count not in POINT_COUNTS:
        allowed = ", ".join(map(str, POINT_COUNTS))
        for row in rows.tolist():
            invalid.setdefault(row, f"it has {count} landmarks; sets of {allowed} are known")
        return None
    with np.errstate(all="ignore"):
        finite = finite or bool(np.isfinite(points.sum()))  # a sum that overflows only costs the longer way
    good = np.ones(len(rows), bool) if finite else np.isfinite(points).all(axis=(1, 2))
    for row in rows[~good].tolist():
        invalid.setdefault(row, "its landmarks hold values that are not finite numbers")
    if invalid:
        good &= ~np.isin(rows, np.fromiter(invalid, np.int64, len(invalid)))
    if not good.all():
        rows, points = rows[good], points[good]
    if not len(rows):
        return None
    order = np.argsort(rows, kind="stable")
    if not np.array_equal(order, np.arange(len(order))):
        rows, points = rows[order], points[order]
    points.flags.writeable = False
    return LandmarkGroup(rows, points)
