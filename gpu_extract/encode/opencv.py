"""The formats that OpenCV writes: JPEG, WebP, BMP, TIFF."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from gpu_extract.encode import Encoder
from gpu_extract.errors import OutputError

EXTENSIONS = (".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
QUALITY_FLAGS = {
    ".jpg": cv2.IMWRITE_JPEG_QUALITY,
    ".jpeg": cv2.IMWRITE_JPEG_QUALITY,
    ".webp": cv2.IMWRITE_WEBP_QUALITY,
}


@dataclass(frozen=True)
class OpenCvEncoder:
    """OpenCV's encoder at its own defaults (JPEG quality 95), which is what stored hashes of JPEG faces came from."""

    extension: str
    lossless: bool
    parameters: list[int] = field(default_factory=list)

    def encode(self, crop: np.ndarray, text: bytes | None = None) -> bytes:
        if text is not None:
            raise ValueError(f"a {self.extension} file has no room for a header; only .png has")
        done, data = cv2.imencode(self.extension, crop, self.parameters)
        if not done:
            raise OutputError(f"OpenCV could not encode a {crop.shape[1]}x{crop.shape[0]} face as {self.extension}.")
        return data.tobytes()


def create(extension: str, quality: int | None) -> Encoder:
    """The encoder of one of `EXTENSIONS`; WebP is lossless unless a quality is given."""
    flag = QUALITY_FLAGS.get(extension)
    parameters = [flag, quality] if flag is not None and quality is not None else []
    lossless = extension in (".bmp", ".tif", ".tiff")
    return OpenCvEncoder(extension, lossless, parameters)
