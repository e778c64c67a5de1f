"""Thumbnails: the small JPEG of a face that alignments files carry since mid-2020."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu_extract.alignments.generation import Traits

QUALITY = 60


def thumbnail(face: np.ndarray, traits: Traits) -> bytes:
    """JPEG bytes of a face's thumbnail.

    Args:
        face: [S, S, 3] uint8 BGR, centred as `traits.centering` says; S is the size of the extracted face.
        traits: of the alignments file.

    Raises:
        ValueError: if the face is not square BGR.
    """
    if face.ndim != 3 or face.shape[0] != face.shape[1] or face.shape[2] != 3 or face.dtype != np.uint8:
        raise ValueError(f"a thumbnail is made from [S, S, 3] uint8, got {list(face.shape)} {face.dtype}")
    import cv2

    side = traits.thumb_px
    if len(face) != side:
        face = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA if len(face) > side else cv2.INTER_CUBIC)
    done, jpeg = cv2.imencode(".jpg", face, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not done:
        raise ValueError(f"OpenCV could not encode a thumbnail of shape {face.shape}")
    return bytes(jpeg)


def as_stored(jpeg: bytes, like: Any) -> np.ndarray | list[int]:
    """A thumbnail's bytes as the value that an alignments file holds.

    Args:
        like: the face's previous `thumb`, or its landmarks where it has none: a list gives a list of integers, a
            uint8 array of shape (N, 1) gives such a column (OpenCV before 4.5), any other array a row of shape (N,).

    Raises:
        TypeError: if `like` is neither list nor array.
    """
    if isinstance(like, list):
        return list(jpeg)
    if not isinstance(like, np.ndarray):
        raise TypeError(f"a thumbnail is stored as list or array, not as {type(like).__name__}")
    stored = np.frombuffer(jpeg, np.uint8).copy()
    return stored[:, None] if like.dtype == np.uint8 and like.ndim == 2 and like.shape[1] == 1 else stored
