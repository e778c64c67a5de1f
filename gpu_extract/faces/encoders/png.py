"""PNG: ordinary 8-bit RGB files, from our own encoder in C; where that was not built, OpenCV writes them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpu_extract.faces.encoder import Encoder
from gpu_extract.kernels import png
from gpu_extract.png_file import chunk_bytes

EXTENSIONS = (".png",)


@dataclass(frozen=True)
class PngEncoder:
    """Our own encoder: each row has the filter that leaves least; one IDAT chunk, an iTXt chunk directly before it."""

    extension: str = ".png"
    lossless: bool = True

    def encode(self, crop: np.ndarray, text: bytes | None = None) -> bytes:
        return png.encoded(crop, text)


@dataclass(frozen=True)
class OpenCvPngEncoder:
    """OpenCV's PNG, for machines without a C compiler."""

    extension: str = ".png"
    lossless: bool = True

    def encode(self, crop: np.ndarray, text: bytes | None = None) -> bytes:
        import cv2

        done, data = cv2.imencode(".png", crop)
        if not done:
            raise ValueError(f"OpenCV could not encode a crop of shape {crop.shape} as PNG")
        encoded: bytes = data.tobytes()
        if text is None:
            return encoded
        before = encoded.index(b"IDAT") - 4
        return encoded[:before] + chunk_bytes(b"iTXt", text) + encoded[before:]


def create(extension: str, quality: int | None) -> Encoder:
    """PNG has no quality: it is lossless."""
    return PngEncoder(extension) if png.is_available() else OpenCvPngEncoder(extension)
