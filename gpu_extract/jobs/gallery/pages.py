"""The data of a page of faces: scripts that a browser loads from the disk, where it would refuse to fetch JSON.

`index.js` has what is sorted and filtered by, a column each; `page_0001.js` and so on have the rest of 500 faces each,
which the page loads where a face is looked at. Both are calls of functions with JSON in them, in ASCII.
"""

from __future__ import annotations

import base64
import json
import math
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpu_extract.jobs.gallery.entries import Entry, State
from gpu_extract.jobs.gallery.particulars import Particulars
from gpu_extract.naming import stem_of
from gpu_extract.storage.parts import write_file

FACES_A_PAGE = 500
LANDMARK_STEPS = 8  # of a pixel of the crop
EXTENSION = ".png"
"""Of files whose names need not be told, as they follow from frame and index."""


class Pages:
    """Takes the faces of a report, a page at a time, and writes them beside each other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        self._frames: dict[str, int] = {}
        self._files: dict[int, str] = {}
        self._columns: dict[str, array[Any]] = {
            "frame": array("I"),
            "index": array("i"),
            "state": array("B"),
            "side": array("f"),
            "yaw": array("f"),
            "sharpness": array("f"),
        }

    @property
    def next_number(self) -> int:
        """Of the page that `add` writes."""
        return self._count // FACES_A_PAGE + 1

    def add(self, entries: Sequence[Entry], found: Sequence[Particulars]) -> None:
        """Write a page; all but the last have `FACES_A_PAGE` faces. Raises OSError if it cannot be written."""
        number = self.next_number
        rows = [self._row(entry, about) for entry, about in zip(entries, found, strict=True)]
        write_file(self._folder, f"page_{number:04d}.js", _call("page", number, rows))

    def finish(self, **more: Any) -> list[str]:
        """Write the index, with `more` beside its columns; returns the names of the columns that something is known of.

        Raises:
            OSError: if it cannot be written.
        """
        columns = {name: _packed(column) for name, column in self._columns.items() if self._is_known(column)}
        index = {
            "count": self._count,
            "perPage": FACES_A_PAGE,
            "extension": EXTENSION,
            "frames": list(self._frames),
            "files": list(self._files.items()),
            "columns": columns,
            **more,
        }
        write_file(self._folder, "index.js", _call("begin", index))
        return list(columns)

    def _row(self, entry: Entry, about: Particulars) -> list[Any]:
        frame = self._frames.setdefault(about.frame, len(self._frames))
        if entry.name and entry.name != f"{stem_of(about.frame)}_{about.index}{EXTENSION}":
            self._files[self._count] = entry.name
        self._count += 1
        yaw, pitch, roll = about.pose
        values = (frame, about.index, int(about.state), about.box_px, yaw, about.sharpness)
        for column, value in zip(self._columns.values(), values, strict=True):
            column.append(value)
        return [
            about.sha1,
            about.nbytes,
            about.size,
            about.position,
            _rounded(pitch),
            _rounded(roll),
            about.hash_state,
            None if about.landmarks is None else _steps(about.landmarks),
            entry.reason or about.fault,
            None if entry.place is None or isinstance(entry.place, Path) else entry.place.shard.name,
        ]

    @staticmethod
    def _is_known(column: array[Any]) -> bool:
        """Whether anything is known at all of what a column says."""
        return column.typecode != "f" or bool(np.isfinite(np.frombuffer(column, np.float32)).any())


def states() -> dict[str, int]:
    """The numbers of `State`, as the page has them."""
    return {state.name.lower(): int(state) for state in State if state.name is not None}


def _call(function: str, *values: Any) -> bytes:
    """A script that hands JSON to a function of the page; whatever a name holds, it stays inside its string."""
    text = ",".join(json.dumps(value, separators=(",", ":"), allow_nan=False) for value in values)
    return f'"use strict";gallery.{function}({text});\n'.replace("<", "\\u003c").encode("ascii")


def _packed(column: array[Any]) -> str:
    """Little-endian numbers as base64."""
    kind = np.dtype(column.typecode).newbyteorder("<")
    return base64.b64encode(np.array(column, kind).tobytes()).decode()


def _steps(points: np.ndarray) -> str:
    steps = np.clip(np.rint(points * LANDMARK_STEPS), -(1 << 15), (1 << 15) - 1).astype("<i2")
    return base64.b64encode(steps.tobytes()).decode()


def _rounded(value: float) -> float | None:
    return round(value, 1) if math.isfinite(value) else None
