"""Crops to file bytes, one module a family of formats, and the hash of what a file decodes to.

A module of `encoders/` offers `EXTENSIONS` (lower case, with the dot) and `create(extension, quality) -> Encoder`;
adding a format is adding a module.
"""

from __future__ import annotations

import hashlib
from functools import cache
from types import ModuleType
from typing import Protocol

import numpy as np

from gpu_extract import plugins
from gpu_extract.errors import UsageError


class Encoder(Protocol):
    """Turns crops into the bytes of a file. Thread-safe, holds no state of a crop."""

    @property
    def extension(self) -> str:
        """With the dot; lower case."""

    @property
    def lossless(self) -> bool:
        """Whether decoding the bytes gives the crop's own pixels back."""

    def encode(self, crop: np.ndarray, text: bytes | None = None) -> bytes:
        """File bytes of a crop.

        Args:
            crop: [S, S, 3] uint8 BGR, C-contiguous.
            text: metadata that travels inside the file; only PNG has room for it.
        """


@cache
def _modules() -> dict[str, ModuleType]:
    found = {}
    for module in plugins.modules("gpu_extract.face_files.encoders"):
        for extension in module.EXTENSIONS:
            found[extension] = module
    return found


def extensions() -> list[str]:
    """Extensions that can be written, sorted, with the dot."""
    return sorted(_modules())


def encoder_for(extension: str, quality: int | None = None) -> Encoder:
    """The encoder that writes files of an extension (any case).

    Args:
        quality: 1..100 for lossy formats; None takes the format's default.

    Raises:
        UsageError: if nothing here writes that extension.
    """
    module = _modules().get(extension.lower())
    if module is None:
        raise UsageError(f"face images cannot be written as {extension!r}; {', '.join(extensions())} are understood.")
    encoder: Encoder = module.create(extension.lower(), quality)
    return encoder


def is_of_one_colour(crop: np.ndarray) -> bool:
    """Whether all pixels of a crop are the same. The middle row tells it of nearly all that are not."""
    row = crop[len(crop) // 2]
    return bool((row == row[0]).all()) and bool((crop == row[0]).all())


def stored_pixels(crop: np.ndarray, encoder: Encoder, data: bytes) -> np.ndarray:
    """BGR pixels that a face file decodes to, [S, S, 3] uint8.

    Those of a lossless file are the crop itself; a lossy one is decoded by OpenCV, whose JPEG pixels the stored hashes
    were made from.
    """
    if encoder.lossless:
        return crop
    import cv2

    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))


def sha1_of(pixels: np.ndarray) -> str:
    """SHA-1 of an image's pixels, 40 lower-case hex digits."""
    return hashlib.sha1(np.ascontiguousarray(pixels).data).hexdigest()


def face_hash(crop: np.ndarray, encoder: Encoder, data: bytes) -> str:
    """SHA-1 of the `stored_pixels` of a face file."""
    return sha1_of(stored_pixels(crop, encoder, data))
