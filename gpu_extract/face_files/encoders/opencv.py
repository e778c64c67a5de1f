"""The formats that OpenCV writes: JPEG, WebP, BMP, TIFF."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpu_extract.errors import OutputError
from gpu_extract.face_files.encoder import Encoder

EXTENSIONS = (".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
QUALITY_FLAGS = {".jpg": "IMWRITE_JPEG_QUALITY", ".jpeg": "IMWRITE_JPEG_QUALITY", ".webp": "IMWRITE_WEBP_QUALITY"}


@dataclass(frozen=True)
class OpenCvEncoder:
    """OpenCV's encoder at its own defaults (JPEG quality 95), which is what stored hashes of JPEG faces came from."""

    extension: str
    lossless: bool
    quality: int | None = None

    def encode(self, crop: np.ndarray, text: bytes | None = None) -> bytes:
        import cv2

        if text is not None:
            raise ValueError(f"a {self.extension} file has no room for a header; only .png has")
        flag = QUALITY_FLAGS.get(self.extension)
        parameters = [] if flag is None or self.quality is None else [getattr(cv2, flag), self.quality]
        done, data = cv2.imencode(self.extension, crop, parameters)
        if not done:
            raise OutputError(f"OpenCV could not encode a {crop.shape[1]}x{crop.shape[0]} face as {self.extension}.")
        return data.tobytes()


def create(extension: str, quality: int | None) -> Encoder:
    """The encoder of one of `EXTENSIONS`; WebP is lossless unless a quality is given."""
    return OpenCvEncoder(extension, extension in (".bmp", ".tif", ".tiff"), quality)
