"""Plain 8-bit RGB(A) PNGs → BGR, about three times as fast as OpenCV and to the same bytes.

Frame dumps are written by a few programs, many of which filter every row with None, Sub or Up. Those rows are inflated
by ISA-L and unfiltered by NumPy, both without the GIL, and only as far as the wanted region needs. Rows with the
Average or Paeth filter cannot be vectorised; files that have them are left to OpenCV. (`kornia_rs` decodes any PNG in
a third to a half of OpenCV's time, but keeps the GIL meanwhile: with two threads it is already the slower one.)
"""

from __future__ import annotations

import struct
from itertools import groupby
from typing import Any

import cv2
import numpy as np

from gpu_extract.frames.base import clip_region
from gpu_extract.frames.image_header import PNG_SIGNATURE, Header
from gpu_extract.patch import Patch, Region

isal_zlib: Any
try:
    from isal import isal_zlib
except ImportError:
    isal_zlib = None

_NONE, _SUB, _UP = 0, 1, 2

_PEEK_BYTES = 1 << 16  # enough rows to see which filters a program uses, little enough to have cost nothing


class PlainPng:
    """An inflated PNG; regions of it are unfiltered as they are asked for."""

    def __init__(self, filtered: np.ndarray, header: Header) -> None:
        self._filtered = filtered  # [H, 1 + W * channels]
        self._header = header

    @classmethod
    def inflate(cls, data: bytes, header: Header) -> PlainPng | None:
        """None where OpenCV should judge or do the file: it is damaged, or a row has a filter not done here."""
        filtered = _inflated(data, header.height, header.width * header.channels + 1)
        if filtered is None or filtered[:, 0].max() > _UP:
            return None
        return cls(filtered, header)

    def patch(self, region: Region | None = None) -> Patch:
        height, width = self._header.height, self._header.width
        x0, y0, x1, y1 = clip_region(region or Region(0, 0, width, height), height, width)
        pixels = _unfiltered(self._filtered, self._header.channels, y0, y1, x1)
        conversion = cv2.COLOR_RGB2BGR if self._header.channels == 3 else cv2.COLOR_RGBA2BGR
        return Patch(cv2.cvtColor(pixels[:, x0:], conversion), x0, y0, height, width)


def _inflated(data: bytes, rows: int, row_bytes: int) -> np.ndarray | None:
    """[rows, row_bytes] filter byte and filtered samples of each row; None if anything is out of order."""
    if isal_zlib is None:
        return None
    parts = []
    position = len(PNG_SIGNATURE)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        body = memoryview(data)[position + 4 : end]
        if data[end : end + 4] != struct.pack(">I", isal_zlib.crc32(body)):
            return None
        if kind == b"IDAT":
            parts.append(body[4:])
        position = end + 4
        if kind == b"IEND":
            break
    deflated = b"".join(parts)
    size = rows * row_bytes
    try:
        first = isal_zlib.decompressobj().decompress(deflated, min(_PEEK_BYTES, size))
        if max(first[::row_bytes], default=_UP + 1) > _UP:
            return None
        # Room for one byte more than there should be: an image with too many rows is not for this path.
        inflater = isal_zlib.decompressobj()
        inflated = inflater.decompress(deflated, size + 1)
    except isal_zlib.error:
        return None
    if len(inflated) != size or not inflater.eof or inflater.unused_data:
        return None
    return np.frombuffer(inflated, np.uint8).reshape(rows, row_bytes)


def _unfiltered(filtered: np.ndarray, channels: int, y0: int, y1: int, x1: int) -> np.ndarray:
    """Pixels [y1 - y0, x1, channels] of rows y0..y1."""
    filters = filtered[:, 0]
    start = y0
    while start and filters[start] == _UP:
        start -= 1
    needed = filters[start:y1]
    source = filtered[start:y1, 1:].reshape(y1 - start, -1, channels)[:, :x1]
    if (needed == _NONE).all():
        return source[y0 - start :]
    result = np.empty(source.shape, np.uint8)
    row = 0
    for kind, run in groupby(needed.tolist()):
        stop = row + len(list(run))
        if kind == _SUB:
            np.add.accumulate(source[row:stop], axis=1, out=result[row:stop])
        else:
            for at in range(row, stop):
                if kind == _UP and at:
                    np.add(source[at], result[at - 1], out=result[at])
                else:
                    result[at] = source[at]
        row = stop
    return result[y0 - start :]
