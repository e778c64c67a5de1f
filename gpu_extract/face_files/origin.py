"""Where a face file is from, as its header tells: which frame's which face, and its record of the alignments file.

The reverse of `faces.header.face_header`: what that makes of a record, the record made of it here gives again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_extract.alignments.face_table import POINT_COUNTS
from gpu_extract.alignments.generation import NEWEST, Traits
from gpu_extract.alignments.packed import PackedArray, PackedList
from gpu_extract.alignments.upgrade import MASK_KEYS
from gpu_extract.errors import InputError
from gpu_extract.face_files.header import header_text, parse_text
from gpu_extract.naming import base_of, split_name

BOX_OF_LISTS = ["x", "y", "w", "h"]
"""How the face begins in headers of files that hold lists; before, w comes second."""
KNOWN = frozenset((*BOX_OF_LISTS, "landmarks_xy", "mask", "identity"))
MASK_NEEDS = MASK_KEYS[:4]


@dataclass(frozen=True)
class Origin:
    """What the header of a face file says."""

    text: str
    """The header."""
    version: float
    """Of the alignments file."""
    lists: bool
    """Whether that file held lists instead of arrays."""
    frame: str
    """The frame's key."""
    index: int
    """The face's, in its frame."""
    name: str
    """How the program that made the file called it."""
    is_video: bool
    size: tuple[int, int] | None
    """Of the frame, (height, width); None where the header does not tell."""
    face: dict[str, Any]

    @property
    def more(self) -> list[str]:
        """Names of what alignments files have no place for."""
        return [str(name) for name in self.face if name not in KNOWN]

    def record(self, traits: Traits) -> dict[str, Any]:
        """The face as alignments files with these traits have it; thumbnails, which no header holds, are None.

        Raises:
            InputError: if the header lacks something, or it is none of what belongs there.
        """
        points = self.points()
        names = BOX_OF_LISTS if traits.lists else ("x", "w", "y", "h")
        if lacking := [name for name in names if name not in self.face]:
            raise InputError(f"its header has no {lacking[0]!r}.")
        record: dict[str, Any] = {name: self.face[name] for name in names}
        kind = PackedList if traits.lists else PackedArray
        record["landmarks_xy"] = kind(points.tobytes(), points.dtype, points.shape)
        record["mask"] = {str(name): _mask(str(name), mask, traits) for name, mask in _items(self.face, "mask")}
        if traits.has_identity:
            record["identity"] = {str(name): _numbers(values) for name, values in _items(self.face, "identity")}
        record["thumb"] = None
        return record

    def points(self) -> np.ndarray:
        """Landmarks [n, 2] float32, which is all that a header holds of them.

        Raises:
            InputError: if there are none that a face can be cut by.
        """
        try:
            with np.errstate(over="ignore"):
                points = np.asarray(self.face["landmarks_xy"], np.float32)
        except (KeyError, TypeError, ValueError):
            raise InputError("its header has no landmarks.") from None
        if points.shape not in {(count, 2) for count in POINT_COUNTS} or not np.isfinite(points).all():
            raise InputError("the landmarks in its header are none.")
        return points


def origin_of(png: bytes) -> Origin | None:
    """What a face PNG says of itself; None where it carries no header. Nothing behind the header is looked at.

    Raises:
        InputError: if the header is damaged, or lacks what it takes to know the face.
    """
    text = header_text(png)
    if text is None:
        return None
    header = parse_text(text)
    source, face = header.get("source"), header.get("alignments")
    if not isinstance(source, dict) or not isinstance(face, dict):
        raise InputError("its header is not that of a face.")
    version, index = source.get("alignments_version"), source.get("face_index")
    frame, name = source.get("source_filename"), source.get("original_filename")
    if not isinstance(version, int | float) or not Traits(version).has_headers or version > NEWEST:
        raise InputError(f"its header is of version {version!r}; versions 2.1 to {NEWEST} have headers.")
    if not isinstance(index, int) or index < 0:
        raise InputError("its header does not say which face of its frame it is.")
    if not isinstance(frame, str) or not (key := base_of(frame)):
        raise InputError("its header does not say which frame it is from.")
    return Origin(
        text,
        float(version),
        Traits(version).may_hold_lists and list(face)[: len(BOX_OF_LISTS)] == BOX_OF_LISTS,
        key,
        index,
        base_of(name) if isinstance(name, str) and name else f"{split_name(key)[0]}_{index}.png",
        bool(source.get("source_is_video")),
        _size(source.get("source_frame_dims")),
        face,
    )


def _size(value: Any) -> tuple[int, int] | None:
    if isinstance(value, list | tuple) and len(value) == 2 and all(type(side) is int for side in value):
        return value[0], value[1]
    return None


def _items(face: dict[str, Any], kind: str) -> Iterable[tuple[Any, Any]]:
    found = face.get(kind) or {}
    if not isinstance(found, dict):
        raise InputError(f"the {kind} in its header is no dict.")
    return found.items()


def _mask(name: str, mask: Any, traits: Traits) -> dict[str, Any]:
    if not isinstance(mask, dict) or any(key not in mask for key in MASK_NEEDS):
        raise InputError(f"the mask {name!r} in its header lacks something.")
    found = {key: mask[key] for key in MASK_NEEDS}
    if not traits.lists:
        try:
            found["affine_matrix"] = PackedArray.of(np.asarray(mask["affine_matrix"], np.float64))
        except (TypeError, ValueError):
            raise InputError(f"the matrix of the mask {name!r} in its header is none.") from None
    if traits.masks_have_centering:
        # Version 2.1 does not say it; releases since take its masks for "face".
        found["stored_centering"] = mask.get("stored_centering", "face")
    return found


def _numbers(values: Any) -> Any:
    """A list of floats in an eighth of the memory."""
    if not isinstance(values, list) or not values or not all(type(value) is float for value in values):
        return values
    wide = np.array(values)
    return PackedList(wide.tobytes(), wide.dtype, wide.shape)
