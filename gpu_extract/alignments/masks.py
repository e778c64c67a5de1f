"""Masks as a file's faces store them: which ones a face has, and one as pixels with its way from the frame.

`docs/formats.md#masks` has the keys. What is wrong with a record is told by the error, in a phrase.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_extract.alignments.limits import shown
from gpu_extract.alignments.packed import unpack
from gpu_extract.errors import AlignmentsError
from gpu_extract.kernels import tables

CUBIC = 2
"""OpenCV's flag; its other ones come to linear sampling here."""
MOST_PX = 4096


@dataclass(frozen=True)
class Mask:
    """A stored mask."""

    pixels: np.ndarray  # [S, S] uint8, not writable
    mask_from_frame: np.ndarray  # [2, 3] float64, with an inverse
    cubic: bool
    """Whether programs bring it into the frame by the cubic filter, else by the linear one."""


def stored_masks(record: Mapping[str, Any]) -> dict[str, Any]:
    """A face's mask records by name, as stored; none where it has no dict of them.

    Args:
        record: the face, see `Alignments.shallow_record`.
    """
    stored = record.get("mask")
    return {str(name): mask for name, mask in stored.items()} if isinstance(stored, dict) else {}


def described(stored: Any) -> tuple[int | None, str | None]:
    """Side in pixels and centering of a mask record, as far as it says them."""
    record = stored if isinstance(stored, dict) else {}
    size, centering = record.get("stored_size"), record.get("stored_centering")
    return (size if _is_side(size) else None), (centering if isinstance(centering, str) else None)


def mask_of(stored: Any) -> Mask:
    """A mask record as a mask.

    Raises:
        AlignmentsError: if it is none, damaged, or incomplete.
    """
    if not isinstance(stored, dict):
        raise AlignmentsError("its record is no dict")
    size: Any = stored.get("stored_size")
    if not _is_side(size):
        raise AlignmentsError(f"its stored_size is {shown(size)}; 1 to {MOST_PX} pixels are understood")
    matrix = _matrix(stored.get("affine_matrix"))
    cubic = stored.get("interpolator", stored.get("intepolator")) == CUBIC
    return Mask(_pixels(stored.get("mask"), int(size)), matrix, bool(cubic))


def _is_side(value: Any) -> bool:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return whole and 1 <= int(value) <= MOST_PX


def _pixels(data: Any, size: int) -> np.ndarray:
    data = unpack(data)
    if not isinstance(data, bytes | bytearray | np.ndarray):
        raise AlignmentsError("it has no compressed pixels")
    stream = zlib.decompressobj()
    try:
        pixels = stream.decompress(bytes(data), size * size + 1)
    except zlib.error as error:
        raise AlignmentsError("its compressed pixels are damaged") from error
    if len(pixels) != size * size or not stream.eof:
        raise AlignmentsError(f"its compressed pixels are not {size} x {size} bytes")
    return np.frombuffer(pixels, np.uint8).reshape(size, size)


def _matrix(value: Any) -> np.ndarray:
    """[2, 3] float64 of a stored matrix, 2 x 3 or 3 x 3."""
    try:
        matrix = np.asarray(unpack(value), np.float64)
    except (TypeError, ValueError):
        matrix = np.empty(0)
    if matrix.shape not in ((2, 3), (3, 3)):
        raise AlignmentsError("its affine_matrix is not 2 x 3 or 3 x 3 numbers")
    matrix = np.ascontiguousarray(matrix[:2])
    with np.errstate(all="ignore"):
        usable = np.isfinite(matrix).all() and np.isfinite(tables.invert(matrix[None])).all()
        area = matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0]
    if not usable or area == 0:
        raise AlignmentsError("its affine_matrix has no inverse")
    return matrix
