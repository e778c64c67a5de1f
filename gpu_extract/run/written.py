"""The faces of a run until its end, in some 30 bytes each: which rows of the file, and their hashes."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator

import numpy as np

from gpu_extract.tasks import FaceResult

HASH_BYTES = 20


class Written:
    """Grows by a frame's faces at a time.

    Attributes:
        nbytes: of all files.
        left_out: how many of the faces have no file any more; their hashes hold all the same.
        places: the faces themselves, if they were asked for; empty otherwise.
    """

    def __init__(self, *, keep_places: bool) -> None:
        self._keep_places = keep_places
        self._rows = array("q")
        self._hashes = bytearray()
        self.nbytes = 0
        self.left_out = 0
        self.places: list[FaceResult] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, faces: Iterable[FaceResult]) -> None:
        for face in faces:
            self._rows.append(face.row)
            self._hashes += bytes.fromhex(face.sha1)
            self.nbytes += face.nbytes
            if self._keep_places:
                self.places.append(face)

    def leave_out(self, faces: Iterable[FaceResult]) -> None:
        """Faces that were written once and were deleted since."""
        for face in faces:
            self._rows.append(face.row)
            self._hashes += bytes.fromhex(face.sha1)
            self.left_out += 1

    def rows(self) -> np.ndarray:
        """[K] int64, rows of the alignments file."""
        return np.array(self._rows, np.int64)

    def hashes(self) -> Iterator[str]:
        """K hashes, in the order of `rows`."""
        return (self._hashes[at : at + HASH_BYTES].hex() for at in range(0, len(self._hashes), HASH_BYTES))
