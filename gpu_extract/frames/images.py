"""An image file's bytes → BGR pixels, as OpenCV's `imread` gives them by default.

That is: three channels, alpha dropped, EXIF orientation applied, 16-bit values shifted right by 8, CMYK and palettes
converted. The plain 8-bit RGB(A) PNGs that frame dumps consist of have a faster way (`png`); all else is OpenCV's.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import cv2
import numpy as np

from gpu_extract.errors import FrameError
from gpu_extract.frames.base import clip_region
from gpu_extract.frames.image_header import Header, read_header
from gpu_extract.frames.png import PlainPng
from gpu_extract.patch import Patch, Region

MAX_PIXELS = 1 << 28  # 16384 x 16384: 805 MB of BGR
MAX_FILE_BYTES = 1 << 31


def read_file(path: Path) -> bytes:
    """All bytes of a regular file; raises FrameError otherwise."""
    try:
        # A named pipe would block an ordinary open until somebody writes into it.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        reason = "is not there" if error.errno == errno.ENOENT else f"cannot be opened: {error.strerror}"
        raise FrameError(f"the file {reason}.") from error
    with open(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise FrameError("this is not a regular file.")
        if status.st_size > MAX_FILE_BYTES:
            raise FrameError(f"the file has {status.st_size} bytes, at most {MAX_FILE_BYTES} are read.")
        try:
            return file.readall()
        except OSError as error:
            raise FrameError(f"the file cannot be read: {error.strerror}.") from error


def image_size(data: bytes) -> tuple[int, int]:
    """(height, width) that decoding would give, from the header. Raises FrameError."""
    header = _checked_header(data)
    return header.height, header.width


def decode_image(data: bytes, region: Region | None = None) -> Patch:
    """The pixels, or a patch of just the region's; raises FrameError."""
    return Image(data).patch(region)


class Image:
    """An image file's bytes, decoded once however many regions are asked for. Raises FrameError from every method."""

    def __init__(self, data: bytes) -> None:
        self._header = _checked_header(data)
        self._data = data
        self._guard = threading.Lock()
        self._plain: PlainPng | None = None
        self._pixels: np.ndarray | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) as decoded."""
        return self._header.height, self._header.width

    def patch(self, region: Region | None = None) -> Patch:
        with self._guard:
            if self._plain is None and self._pixels is None:
                if self._header.plain_png:
                    self._plain = PlainPng.inflate(self._data, self._header)
                if self._plain is None:
                    self._pixels = _decoded(self._data, self._header)
                self._data = b""
        if self._plain is not None:
            return self._plain.patch(region)
        assert self._pixels is not None
        height, width = self._pixels.shape[:2]
        x0, y0, x1, y1 = clip_region(region or Region(0, 0, width, height), height, width)
        return Patch(self._pixels[y0:y1, x0:x1], x0, y0, height, width)


def _checked_header(data: bytes) -> Header:
    if not data:
        raise FrameError("the file is empty (0 bytes).")
    header = read_header(data)
    if header is None:
        raise FrameError("the file is damaged, or not a PNG, JPEG, BMP, TIFF or WebP image.")
    if header.height < 1 or header.width < 1 or header.height * header.width > MAX_PIXELS:
        raise FrameError(
            f"the file claims {header.width} × {header.height} pixels; at least 1 × 1 and at most {MAX_PIXELS} pixels "
            "are decoded."
        )
    return header


def _decoded(data: bytes, header: Header) -> np.ndarray:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise FrameError(f"OpenCV cannot decode this {header.format} file: {error.err}.") from error
    if pixels is None:
        raise FrameError(f"the {header.format} file is damaged or cut off, OpenCV cannot decode it.")
    return pixels
