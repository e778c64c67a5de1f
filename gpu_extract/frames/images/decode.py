"""An image file's bytes → BGR pixels, as OpenCV's `imread` gives them by default.

That is: three channels, alpha dropped, EXIF orientation applied (unless it is to be left alone), 16-bit values shifted
right by 8, CMYK and palettes converted; of a PNG that holds an animation, its still picture. The plain 8-bit RGB(A)
PNGs that frame dumps consist of have a faster way (`plain_png`), and so have regions of plain JPEGs (`plain_jpeg`); all
else is OpenCV's.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from gpu_extract import png_file
from gpu_extract.errors import FrameError
from gpu_extract.frames.base import clip_region
from gpu_extract.frames.images import plain_jpeg, plain_png
from gpu_extract.frames.images.image_header import PNG_ANIMATION_CHUNKS, Header, read_header
from gpu_extract.patch import Patch, Region
from gpu_extract.storage.contents import what_it_is
from gpu_extract.storage.descriptors import close_quietly
from gpu_extract.storage.placeholders import why_not_there

MAX_PIXELS = 1 << 28  # 16384 x 16384: 805 MB of BGR
MAX_FILE_BYTES = 1 << 31
_KNOWN_KINDS = ("PNG image", "JPEG image", "BMP image", "TIFF image", "WebP image")


def read_file(path: Path) -> bytes:
    """All bytes of a regular file; raises FrameError otherwise."""
    try:
        # A named pipe would block an ordinary open until somebody writes into it.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        reason = f"cannot be opened: {error.strerror}"
        if error.errno == errno.ENOENT:
            why = why_not_there(path)
            reason = f"is there, but {why}" if why else "is not there"
        raise FrameError(f"the file {reason}.") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise FrameError("this is not a regular file.")
        if status.st_size > MAX_FILE_BYTES:
            raise FrameError(f"the file has {status.st_size} bytes, at most {MAX_FILE_BYTES} are read.")
        with open(descriptor, "rb", buffering=0, closefd=False) as file:
            return file.readall()
    except OSError as error:
        raise FrameError(f"the file cannot be read: {error.strerror}.") from error
    finally:
        close_quietly(descriptor)


def image_size(data: bytes, *, turned: bool = True) -> tuple[int, int]:
    """(height, width) that decoding would give, from the header. Raises FrameError."""
    header = _checked_header(data, turned)
    return header.height, header.width


def decode_image(data: bytes, region: Region | None = None) -> Patch:
    """The pixels, or a patch of just the region's; raises FrameError."""
    image = Image(data)
    return image.patch() if region is None else image.patches([region])[0]


class Image:
    """An image file's bytes and, once asked for, its pixels. Any thread may ask; FrameError comes from every method.

    Args:
        turned: whether the EXIF orientation is followed.
    """

    def __init__(self, data: bytes, *, turned: bool = True) -> None:
        self._header = _checked_header(data, turned)
        self._turned = turned
        # OpenCV takes the first picture of an animation, which need not be the still one that all others show.
        self._data = png_file.without(data, PNG_ANIMATION_CHUNKS) if self._header.animated else data
        self._guard = threading.Lock()
        self._pixels: np.ndarray | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) as decoded."""
        return self._header.height, self._header.width

    def patch(self, region: Region | None = None) -> Patch:
        """All of the image, or a region; the whole file is decoded, once however many regions are asked for."""
        with self._guard:
            self._whole()
        height, width = self.size
        return self.patches([region or Region(0, 0, width, height)])[0]

    def patches(self, regions: Sequence[Region]) -> list[Patch]:
        """A patch for each region, of which there is at least one; what none of them needs may stay undecoded."""
        height, width = self.size
        inside = [clip_region(region, height, width) for region in regions]
        low_x, low_y, high_x, high_y = zip(*inside, strict=True)
        around = Region(min(low_x), min(low_y), max(high_x), max(high_y))
        with self._guard:
            if sum(region.area for region in inside) < around.area and (each := self._jpeg_regions(inside)) is not None:
                return [
                    Patch(pixels, x0, y0, height, width) for pixels, (x0, y0, _, _) in zip(each, inside, strict=True)
                ]
            pixels, x, y = self._covering(around)
        return [Patch(pixels[y0 - y : y1 - y, x0 - x : x1 - x], x0, y0, height, width) for x0, y0, x1, y1 in inside]

    def _jpeg_regions(self, regions: Sequence[Region]) -> list[np.ndarray] | None:
        """Pixels of regions of a plain JPEG that is not decoded yet."""
        if self._pixels is not None or self._header.format != "JPEG":
            return None
        return plain_jpeg.decode(self._data, regions, turned=self._turned)

    def _covering(self, region: Region) -> tuple[np.ndarray, int, int]:
        """Pixels that hold a region, and where in the image they begin."""
        if self._pixels is None:
            if self._header.plain_png and (part := plain_png.decode(self._data, self._header, region)) is not None:
                return part, region.x0, region.y0
            if (parts := self._jpeg_regions([region])) is not None:
                return parts[0], region.x0, region.y0
            if self._header.format == "JPEG" and (part := self._upper_part(region.y1)) is not None:
                return part, 0, 0
        return self._whole(), 0, 0

    def _whole(self) -> np.ndarray:
        if self._pixels is None:
            pixels = self._decoded()
            if pixels.shape[:2] != self.size:
                raise FrameError(
                    f"its header says {self._header.width} × {self._header.height} pixels, but it decodes to "
                    f"{pixels.shape[1]} × {pixels.shape[0]}; save it again without its EXIF data."
                )
            self._pixels = pixels
            self._data = b""
        return self._pixels

    def _upper_part(self, rows: int) -> np.ndarray | None:
        """At least that many rows of a JPEG; None where it must be decoded whole."""
        upper = plain_jpeg.upper_part(self._data, rows, turned=self._turned)
        if upper is None:
            return None
        try:
            return self._by_opencv(upper)
        except cv2.error:
            return None

    def _decoded(self) -> np.ndarray:
        header = self._header
        if header.plain_png:
            plain = plain_png.decode(self._data, header, Region(0, 0, header.width, header.height))
            if plain is not None:
                return plain
        try:
            pixels = self._by_opencv(self._data)
        except cv2.error as error:
            raise FrameError(f"OpenCV cannot decode this {header.format} file: {error.err}.") from error
        if pixels is None:
            raise FrameError(f"the {header.format} file is damaged or cut off, OpenCV cannot decode it.")
        return pixels

    def _by_opencv(self, data: bytes) -> np.ndarray | None:
        flags = cv2.IMREAD_COLOR if self._turned else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        pixels: np.ndarray | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        return pixels


def _checked_header(data: bytes, turned: bool) -> Header:
    if not data:
        raise FrameError("the file is empty (0 bytes).")
    header = read_header(data, turned=turned)
    if header is None:
        other = what_it_is(data)
        if other is None or other.endswith(_KNOWN_KINDS):
            raise FrameError("the file is damaged, or not a PNG, JPEG, BMP, TIFF or WebP image.")
        raise FrameError(f"the file is no PNG, JPEG, BMP, TIFF or WebP image; it is {other}.")
    if header.height < 1 or header.width < 1 or header.height * header.width > MAX_PIXELS:
        raise FrameError(
            f"the file claims {header.width} × {header.height} pixels; at least 1 × 1 and at most {MAX_PIXELS} pixels "
            "are decoded."
        )
    return header
