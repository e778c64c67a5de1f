"""Which face of an alignments file a face file shows: by what it says of itself, proven against what that file says.

A PNG of version 2.1 and later says in its header which frame's which face it is, and with which landmarks it was cut:
these prove it, for the number may be an older one. Any other file is known by the hash of its pixels, which the
alignments file stores, and a journal records. Neither depends on the file's name or folder; the name is asked only
where a file cannot be read, or where it proves nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_extract import png_file
from gpu_extract.alignments import Alignments
from gpu_extract.errors import InputError
from gpu_extract.face_files.compared import FLOAT32_STEP, same_frame
from gpu_extract.face_files.header import read_header
from gpu_extract.face_files.stored import Place, content, pixel_hash
from gpu_extract.naming import base_of, split_name, stem_of

_HASH = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True)
class Identity:
    """What a file of a faces folder shows."""

    rows: tuple[int, ...] = ()
    """Faces of the alignments file that it shows; several where these cannot be told apart, none where it is extra."""
    proven: bool = False
    """Whether it shows them as the alignments file has them; else it only says so."""
    said: int | None = None
    """The one of them that its header or name says."""
    fault: str | None = None
    """Why it cannot be read."""


class Identities:
    """Knows the faces of one alignments file when it sees their files. Thread-safe."""

    def __init__(self, alignments: Alignments, hashes: Mapping[int, str], places: Mapping[str, int]) -> None:
        """
        Args:
            hashes: of rows, what a run recorded beside what the file stores.
            places: rows by the names that a run recorded, relative to the folder.
        """
        self._alignments, self._places = alignments, places
        faces = alignments.faces
        self._points: dict[int, np.ndarray] = {}
        for group in faces.groups:
            self._points.update(zip(group.rows.tolist(), group.points, strict=True))
        self._rows_of: dict[int, list[int]] = {}
        for row, frame in enumerate(faces.frame.tolist()):
            self._rows_of.setdefault(frame, []).append(row)
        self._frames: dict[str, list[int]] = {}
        for frame, name in enumerate(alignments.frame_names):
            self._frames.setdefault(stem_of(base_of(name)), []).append(frame)
        self._by_hash: dict[str, tuple[int, ...]] = {}
        for row in range(len(faces)):
            for sha1 in {stored_hash(alignments, row), hashes.get(row)} - {None}:
                self._by_hash[str(sha1)] = (*self._by_hash.get(str(sha1), ()), row)

    @property
    def has_hashes(self) -> bool:
        return bool(self._by_hash)

    def of(self, name: str, place: Place) -> Identity:
        """What a file shows.

        Args:
            name: relative to the folder.
            place: where it is.
        """
        named = self.named(name)
        unproven = Identity(() if named is None else (named,), said=named)
        try:
            data = content(place)
            is_png = data.startswith(png_file.SIGNATURE)
            header = read_header(data) if is_png and self._alignments.traits.has_headers else None
            if header is not None:
                if not png_file.is_whole(data):
                    raise InputError("it is damaged or cut off.")
                return self._by_header(header)
            rows = self._by_hash.get(pixel_hash(data), ())
        except InputError as error:
            return Identity(unproven.rows, said=named, fault=str(error))
        return Identity(rows, True, named if named in rows else None) if rows else unproven

    def named(self, name: str) -> int | None:
        """The row that a file's name stands for; None where it stands for none, or for several."""
        if (row := self._places.get(name)) is not None:
            return row
        stem, _, index = split_name(base_of(name))[0].rpartition("_")
        if not index.isascii() or not index.isdecimal():
            return None
        rows = [row for frame in self._frames.get(stem, ()) if (row := self._row(frame, int(index))) is not None]
        return rows[0] if len(rows) == 1 else None

    def _row(self, frame: int, index: int) -> int | None:
        rows = self._rows_of.get(frame, ())
        return rows[index] if index < len(rows) else None

    def _by_header(self, header: dict[str, Any]) -> Identity:
        source, face = header.get("source"), header.get("alignments")
        if not isinstance(source, dict) or not isinstance(face, dict):
            return Identity()
        index, points = source.get("face_index"), _points(face.get("landmarks_xy"))
        rows: list[int] = []
        said: int | None = None
        for frame in self._frames_called(source.get("source_filename")):
            rows += [row for row in self._rows_of.get(frame, ()) if _same_points(points, self._points.get(row))]
            if said is None and isinstance(index, int) and index >= 0:
                said = self._row(frame, index)
        if rows:
            return Identity(tuple(rows), True, said if said in rows else None)
        return Identity(() if said is None else (said,), said=said)

    def _frames_called(self, name: object) -> list[int]:
        """Entries of the file that a header means; headers of February 2021 have a path before the name."""
        if not isinstance(name, str):
            return []
        found = self._frames.get(stem_of(base_of(name)), [])
        keys = {frame: self._alignments.frame_names[frame] for frame in found}
        exactly = [frame for frame, key in keys.items() if key == name]
        return exactly or [frame for frame, key in keys.items() if same_frame(base_of(name), base_of(key))]


def stored_hash(alignments: Alignments, row: int) -> str | None:
    """The hash of a face in a file whose version has them; None where it has none, or something that is none."""
    stored = alignments.stored_hash(row) if alignments.traits.stores_hashes else None
    return stored if stored is not None and _HASH.fullmatch(stored) else None


def _points(value: Any) -> np.ndarray | None:
    """[n, 2] float64; None where that is no set of landmarks."""
    try:
        points = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        return None
    return points if points.ndim == 2 else None


def _same_points(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    """Whether two sets are one, as far as float32 holds them."""
    if one is None or other is None or one.shape != other.shape:
        return False
    step = FLOAT32_STEP * np.maximum(np.abs(one), np.abs(other))
    return bool((np.abs(one - other) <= step).all())
