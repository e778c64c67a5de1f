"""Plain JPEGs, of which only what is wanted is decoded: regions in C, or the upper part as a JPEG of its own.

The latter is for a decoder that can only decode all of a file, where there is no C extension. Rows are coded from the
top down, so that a lower height in the header makes it stop early. Only files of one kind are cut: one Huffman-coded
scan of all components, no restart markers, no EXIF block, which might turn the image.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence

import numpy as np

from gpu_extract.frames.images.image_header import EXIF_PREFIX, JPEG_FRAME_MARKERS, JPEG_SCAN, jpeg_segments
from gpu_extract.kernels import jpeg
from gpu_extract.patch import Region

_BLOCK = 8
_UPSAMPLING_ROWS = 2  # a colour of half height is blended from the rows above and below: one row more, rounded up
_APP1, _RESTART_INTERVAL = 0xE1, 0xDD
_SEQUENTIAL_HUFFMAN = (0xC0, 0xC1)
_END = re.compile(b"\xff\xd9")  # three times as fast as bytes.find


def decode(data: bytes, regions: Sequence[Region], *, turned: bool = True) -> list[np.ndarray] | None:
    """The pixels of regions inside the image, each [h, w, 3] BGR.

    None where OpenCV should do the file, or judge it: it is not plain or damaged, or a C compiler is missing here.

    Args:
        turned: whether an EXIF block would turn the image.
    """
    return jpeg.rectangles(data, regions, turned=turned) if jpeg.is_available() else None


def upper_part(data: bytes, rows: int, *, turned: bool = True) -> bytes | None:
    """A file that decodes to the first rows of this one, at least as many as asked for, or not at all.

    None where the file is of another kind, or nothing would be left out. The result has no end marker: a decoder that
    meets one before it needs it complains, and one that runs out of data refuses, as it must, because what follows
    there in the whole file may matter.

    Args:
        turned: whether an EXIF block would turn the image.
    """
    frame = scan = None
    try:
        for marker, position, _ in jpeg_segments(data):
            has_exif = marker == _APP1 and data.startswith(EXIF_PREFIX, position + 4)
            if marker == _RESTART_INTERVAL or (has_exif and turned):
                return None
            if marker in JPEG_FRAME_MARKERS:
                if frame is not None or marker not in _SEQUENTIAL_HUFFMAN:
                    return None
                frame = position
            elif marker == JPEG_SCAN:
                scan = position
        if frame is None or scan is None:
            return None
        precision, height, _, components = struct.unpack_from(">BHHB", data, frame + 4)
        if precision != 8 or components not in (1, 3) or data[scan + 4] != components:
            return None
        vertical_factor = max(data[frame + 11 + 3 * component] & 15 for component in range(components))
    except (struct.error, IndexError):
        return None
    unit = _BLOCK * vertical_factor
    lowered = -(-(rows + _UPSAMPLING_ROWS) // unit) * unit if vertical_factor in (1, 2) else height
    end = _END.search(data, scan) if lowered < height else None
    if end is None:
        return None
    view = memoryview(data)
    return b"".join((view[: frame + 5], struct.pack(">H", lowered), view[frame + 7 : end.start()]))
