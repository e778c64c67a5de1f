"""Faces as the list that their run wrote has them: what is left of those that carry no header, as before version 2.1.

`faces.jsonl` and `faces.parquet` hold box, landmarks, matrix and the hash of the pixels, by which a file is known
whatever it is called. They hold neither the version of the alignments file nor what numbers its landmarks were: both
follow from the matrix, which comes out to the bit for the right ones only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from gpu_extract.alignments import Alignments
from gpu_extract.alignments.container import Document
from gpu_extract.alignments.generation import Traits
from gpu_extract.alignments.packed import PackedArray, PackedList
from gpu_extract.alignments.upgrade import PROTOCOL, box_around
from gpu_extract.errors import GpuExtractError, counted
from gpu_extract.face_files.metadata import STEM, Row, kinds, rows_of
from gpu_extract.geometry.rounding import USUAL, Rounding
from gpu_extract.naming import base_of
from gpu_extract.run.fingerprint import Fingerprint
from gpu_extract.run.plan import PlanOptions, fit_all, with_poses

VERSIONS = (1.0, 2.0)
"""Those without headers; before them files say no version. Others of one geometry differ in nothing of a list."""
TRIED_FACES = 64
"""By which it is found out how a run has cut, where no journal tells."""


@dataclass(frozen=True)
class Listed:
    """A row of the list."""

    file: str
    frame: str
    index: int
    sha1: str
    size: int
    matrix: np.ndarray  # [2, 3] float64
    box: tuple[float | None, ...]
    points: np.ndarray  # [n, 2] float64

    @classmethod
    def of(cls, row: Row) -> Listed:
        """Raises KeyError, TypeError or ValueError where that is no row."""
        points = np.array(row["landmarks"], np.float64)
        matrix = np.array(row["matrix"], np.float64)
        if points.ndim != 2 or points.shape[1] != 2 or matrix.shape != (2, 3) or len(row["box"]) != 4:
            raise ValueError
        name, frame, sha1 = (str(row[key]) for key in ("file", "frame", "hash"))
        return cls(name, frame, int(row["index"]), sha1, int(row["size"]), matrix, tuple(row["box"]), points)


class FaceList:
    """All rows, by what files can be known by."""

    def __init__(self, rows: Sequence[Listed]) -> None:
        self._by_hash: dict[str, list[Listed]] = defaultdict(list)
        for row in rows:
            self._by_hash[row.sha1].append(row)
        self._names = {base_of(row.file) for row in rows}

    def has_name(self, file: str) -> bool:
        """Whether some face had the name that a file has."""
        return base_of(file) in self._names

    def rows_of(self, hashes: Mapping[str, str]) -> dict[str, Listed]:
        """Rows of files, by name, whose hashes are given; of faces with one hash each gets a file, while there are any.

        Those that are called as their face was come first.
        """
        found: dict[str, Listed] = {}
        taken: set[int] = set()
        for by_name in (True, False):
            for file, sha1 in hashes.items():
                rows = self._by_hash.get(sha1, ())
                if file in found or not rows:
                    continue
                fitting = [row for row in rows if not by_name or base_of(row.file) == base_of(file)]
                if by_name and not fitting:
                    continue
                found[file] = next((row for row in fitting if id(row) not in taken), fitting[0])
                taken.add(id(found[file]))
        return found


def list_in(folder: Path) -> tuple[FaceList | None, list[str]]:
    """The list that lies in a folder, None where there is none, and what is to be said of it, in sentences."""
    notes: list[str] = []
    for kind in kinds():
        if not (folder / f"{STEM}.{kind}").exists():
            continue
        try:
            return FaceList([Listed.of(row) for row in rows_of(folder, kind)]), notes
        except (GpuExtractError, ValueError, KeyError, TypeError, OSError) as error:
            reason = str(error) if isinstance(error, GpuExtractError) else "it is damaged."
            notes.append(f"{STEM}.{kind} cannot be read and was passed over: {reason}")
    return None, notes


def record_of(row: Listed, traits: Traits, *, wide: bool | None = None) -> dict[str, Any]:
    """The face as an alignments file with these traits has it, without masks.

    Args:
        wide: whether its landmarks are float64; by default where float32 would lose something.
    """
    narrow = row.points.astype(np.float32)
    wide = not np.array_equal(narrow, row.points) if wide is None else wide
    points = row.points if wide and not traits.lists else narrow
    x, y, w, h = box_around(points) if None in row.box else (_whole(side) for side in row.box)
    box = {"x": x, "y": y, "w": w, "h": h} if traits.lists else {"x": x, "w": w, "y": y, "h": h}
    kind = PackedList if traits.lists else PackedArray
    record: dict[str, Any] = {**box, "landmarks_xy": kind(points.tobytes(), points.dtype, points.shape)}
    if traits.stores_hashes:
        record["hash"] = row.sha1
    record["mask"] = {}
    if traits.has_identity:
        record["identity"] = {}
    return record if traits.before_2 else {**record, "thumb": None}


def _whole(side: float | None) -> int | float | None:
    return int(side) if side is not None and side == int(side) else side


def old_document(
    path: Path, frames: Mapping[str, Sequence[Listed]], run: Fingerprint | None
) -> tuple[Document, int, list[str]]:
    """An alignments file of before version 2.1, by the rows of its frames.

    Args:
        path: that it will have.
        run: what the folder's journal says.

    Returns:
        The file; of how many faces the matrix is that of the list, to the bit; and sentences for a report.
    """
    rows = [row for listed in frames.values() for row in listed]
    matrices = np.array([row.matrix for row in rows])
    tried = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), TRIED_FACES)).astype(int)).tolist()
    some = {"": [rows[i] for i in tried]}
    best: tuple[int, float, PlanOptions] | None = None
    for version, options in _ways(rows[0].size, run):
        count = int(np.logical_or(*_agreeing(path, some, version, options, matrices[tried])).sum())
        if best is None or count > best[0]:
            best = count, version, options
        if count == len(tried):
            break
    assert best is not None
    _, version, options = best
    narrow, wide = _agreeing(path, frames, version, options, matrices)
    document = _document(
        frames, version, iter([bool(w) if w or n else None for n, w in zip(narrow, wide & ~narrow, strict=True)])
    )
    proven = int((narrow | wide).sum())
    notes = []
    if options.align_eyes:
        notes.append("the faces were cut with level eyes; extract needs --align-eyes to cut them again.")
    if options.centering != Traits(version).centering:
        notes.append(
            f"the faces were centred otherwise; extract needs --centering {options.centering} to cut them again."
        )
    if options.rounding.numerics != USUAL.numerics:
        notes.append(
            f"the crops were rounded otherwise; extract needs --numerics {options.rounding.numerics} to cut them again."
        )
    if doubted := len(rows) - proven:
        notes.append(
            f"of {counted(doubted, 'face')} the landmarks do not give the matrix of the list; verify tells whether "
            f"{'its' if doubted == 1 else 'their'} pixels come out again."
        )
    return document, proven, notes


def _ways(size: int, run: Fingerprint | None) -> Iterator[tuple[float, PlanOptions]]:
    """Versions, and how their faces may have been cut; what the journal says is not asked again."""
    if run is not None:
        rounding = Rounding(run.get("numerics", "mixed"), run.get("eye_angle", "rounded"))
        centering = run["centering"]
        # Where both give the same, the one is meant that faces are centred so for.
        for version in sorted(VERSIONS, key=lambda version: Traits(version).centering != centering):
            yield version, PlanOptions(size, 1, bool(run.get("align_eyes")), rounding, centering=centering)
        return
    for rounding, level in product((USUAL, *USUAL.others), (False, True)):
        for version in VERSIONS:
            centering = Traits(version).centering
            yield version, PlanOptions(size, 1, level, rounding, centering=centering)


def _agreeing(
    path: Path, frames: Mapping[str, Sequence[Listed]], version: float, options: PlanOptions, matrices: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which faces get the matrix of the list [K, 2, 3], with landmarks as float32 and as float64: both [K] bool."""
    found = []
    for wide in (False, True):
        made = Alignments(path, _document(frames, version, iter([wide] * len(matrices))))
        fits = fit_all(made, options, {})
        cut = with_poses(fits, np.arange(len(matrices)))
        found.append((cut == matrices).all(axis=(1, 2)))
    return found[0], found[1]


def _document(frames: Mapping[str, Sequence[Listed]], version: float, wide: Iterator[bool | None]) -> Document:
    traits = Traits(version)
    faces = {key: [record_of(row, traits, wide=next(wide)) for row in rows] for key, rows in frames.items()}
    if traits.before_2:
        return Document(faces, PROTOCOL)
    data = {key: {"faces": records} for key, records in faces.items()}
    return Document({"__meta__": {"version": version}, "__data__": data}, PROTOCOL)
