"""PNG: ordinary 8-bit RGB files. Our own encoder in C takes half of ISA-L's time and makes smaller ones.

Where it was not built, ISA-L deflates rows filtered by NumPy; where ISA-L has no wheel, OpenCV writes the file.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np

from gpu_extract.encode import Encoder
from gpu_extract.kernels import png

try:
    from isal import isal_zlib
except ImportError:
    isal_zlib = None  # type: ignore[assignment,unused-ignore]

EXTENSIONS = (".png",)
SIGNATURE = b"\x89PNG\r\n\x1a\n"
LEVEL = 1
"""ISA-L's level: 2 and 3 save 1 to 3 % of the file for half as much time again."""
UP = 2
"""PNG's filter type of rows that are differences to the row above."""


class _Deflate(Protocol):
    def compress(self, data: np.ndarray, level: int) -> bytes: ...


def chunk(kind: bytes, data: bytes) -> bytes:
    """One PNG chunk: length, kind, data, CRC-32 of kind and data."""
    return b"".join((struct.pack(">I", len(data)), kind, data, struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))))


def filtered_rows(crop: np.ndarray) -> np.ndarray:
    """PNG scanlines of a crop: [H, 1 + 3 W] uint8 RGB, each a filter byte and the difference to the row above.

    Args:
        crop: [H, W, 3] uint8 BGR.
    """
    height, width = crop.shape[:2]
    rgb = crop[:, :, ::-1].reshape(height, width * 3)
    rows = np.empty((height, 1 + width * 3), np.uint8)
    rows[:, 0] = UP
    rows[0, 1:] = rgb[0]
    np.subtract(rgb[1:], rgb[:-1], out=rows[1:, 1:])
    return rows


@dataclass(frozen=True)
class PngEncoder:
    """Our own encoder: each row has the filter that leaves least; one IDAT chunk, an iTXt chunk directly before it."""

    extension: str = ".png"
    lossless: bool = True

    def encode(self, crop: np.ndarray, text: bytes | None = None) -> bytes:
        return png.encoded(crop, text)


@dataclass(frozen=True)
class IsalPngEncoder:
    """Rows differenced to the one above, one IDAT chunk by ISA-L; for machines without a C compiler."""

    extension: str = ".png"
    lossless: bool = True

    def encode(self, crop: np.ndarray, text: bytes | None = None) -> bytes:
        height, width = crop.shape[:2]
        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        pixels = cast(_Deflate, isal_zlib).compress(filtered_rows(crop), LEVEL)
        parts = [SIGNATURE, chunk(b"IHDR", header)]
        if text is not None:
            parts.append(chunk(b"iTXt", text))
        return b"".join([*parts, chunk(b"IDAT", pixels), chunk(b"IEND", b"")])


@dataclass(frozen=True)
class OpenCvPngEncoder:
    """OpenCV's PNG, for machines without ISA-L too."""

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
        return encoded[:before] + chunk(b"iTXt", text) + encoded[before:]


def create(extension: str, quality: int | None) -> Encoder:
    """PNG has no quality: it is lossless."""
    if png.is_available():
        return PngEncoder(extension)
    return IsalPngEncoder(extension) if isal_zlib is not None else OpenCvPngEncoder(extension)
