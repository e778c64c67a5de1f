"""PNG: ordinary 8-bit RGB files from our own encoder, in C or, where that was not built, in NumPy: the same files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpu_extract.face_files.encoder import Encoder
from gpu_extract.kernels import png, png_reference

EXTENSIONS = (".png",)


@dataclass(frozen=True)
class PngEncoder:
    """Each row has the filter that leaves least; one IDAT chunk, an iTXt chunk directly before it."""

    extension: str = ".png"
    lossless: bool = True

    def encode(self, crop: np.ndarray, text: bytes | None = None) -> bytes:
        return png.encoded(crop, text) if png.is_available() else png_reference.encoded(crop, text)


def create(extension: str, quality: int | None) -> Encoder:
    """PNG has no quality: it is lossless."""
    return PngEncoder(extension)
