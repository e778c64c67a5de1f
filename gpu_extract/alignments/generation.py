"""Which program's file this is: told from the data, because nothing before December 2020 says so itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gpu_extract.alignments.packed import PackedArray, PackedList
from gpu_extract.kernels.columns import Columns

NEWEST = 2.4
FIRST_THUMBS = "g7b"  # of the generations before 2.0


@dataclass(frozen=True)
class Traits:
    """What files of one version have, and what their programs do: the only place where versions are compared.

    See `docs/formats.md#generations`.
    """

    version: float
    """1.0 where the file does not say."""
    generation: str = ""
    lists: bool = False
    """Whether no landmarks are arrays."""
    numpy_2: bool = False
    """Whether NumPy 2 pickled the arrays."""

    @property
    def before_2(self) -> bool:
        """Geometry of the first programs: their mean face, padding cut off instead of rounded."""
        return self.version < 2

    @property
    def centering(self) -> Literal["legacy", "head"]:
        """What faces and thumbnails are centred on unless a user says otherwise."""
        return "legacy" if self.before_2 else "head"

    @property
    def stores_hashes(self) -> bool:
        """Whether faces have a `hash`."""
        return self.version < 2.1

    @property
    def has_headers(self) -> bool:
        """Whether face PNGs carry their alignment."""
        return not self.stores_hashes

    @property
    def headers_have_frame_size(self) -> bool:
        return self.version >= 2.2

    @property
    def masks_have_centering(self) -> bool:
        """Whether a mask says what it is centred on."""
        return self.version >= 2.2

    @property
    def has_identity(self) -> bool:
        return self.version >= 2.3

    @property
    def may_hold_lists(self) -> bool:
        """Whether landmarks and matrices may be lists instead of arrays."""
        return self.version >= 2.4

    @property
    def has_thumbs(self) -> bool:
        return not self.before_2 or self.generation == FIRST_THUMBS

    @property
    def thumb_px(self) -> int:
        """Side of a thumbnail."""
        return 80 if self.before_2 else 96

    @property
    def counts_decoded_frames(self) -> bool:
        """Whether a video's frames are numbered as they are decoded, and not turned: since March 2026, when files hold
        lists only. Before, they are counted as a constant-rate stream, and turned as the video says."""
        return not self.before_2 and self.lists

    @property
    def under_numpy_2(self) -> bool:
        """Whether their programs run under NumPy 2, and so take a reciprocal in float32: since December 2025."""
        return self.version >= NEWEST and (self.lists or self.numpy_2)

    @property
    def names_back_ups_anew(self) -> bool:
        """Whether back-up copies are called `_bk_` and a date with dots."""
        return not self.before_2


def generation_of(version: float, frames: Iterable[Any], records: Sequence[Any], columns: Columns | None = None) -> str:
    """ "g0" … "g7b" before version 2.0 (best effort for files made by hand), then the version: "2.0" … "2.4".

    g4 and g5 differ only by a field that few files of the second have, so such files are called g4; in the same way
    the files of spring 2020 are called g7a or g7b by their thumbnails.

    Args:
        columns: of the records, where they are known.
    """
    if version >= 2:
        return f"{version:.1f}"
    present: set[Any] = (
        columns.keys
        if columns is not None
        else set().union(*{tuple(record) for record in records if isinstance(record, dict)})
    )
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


def holds_lists_only(records: Sequence[Any], columns: Columns | None = None) -> bool:
    """Whether all landmarks are lists: from 2.0 on, that is a file written since March 2026."""
    if columns is not None and columns.points is not None:
        return columns.points.kind is PackedList
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
