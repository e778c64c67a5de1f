"""Plain 8-bit RGB(A) PNGs → BGR in a third of OpenCV's time, to the same bytes.

libdeflate inflates and a C loop unfilters, both without the GIL, the latter only as far as the wanted region needs.
Rows below it are inflated all the same: the checksum is one of all rows.
(`kornia_rs` is as fast, but keeps the GIL meanwhile: with two threads it is already slower than OpenCV.)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu_extract.frames.images.image_header import Header
from gpu_extract.kernels import unfilter
from gpu_extract.patch import Region

deflate: Any
try:
    import deflate
except ImportError:  # it has no wheel for some processors
    deflate = None

_HIGHEST_FILTER = 4
_LARGEST_WINDOW = 0x78  # first byte of a zlib stream


def is_available() -> bool:
    """Whether the library and the C extension are both here."""
    return deflate is not None and unfilter.is_available()


def decode(data: bytes, header: Header, region: Region) -> np.ndarray | None:
    """The pixels of a region inside the image: [h, w, 3] BGR.

    None where OpenCV should do the file, or judge it: it is damaged, or a library or C compiler is missing here.
    """
    if not is_available():
        return None
    deflated = unfilter.stream(data)
    if not deflated or deflated[0] > _LARGEST_WINDOW:
        return None
    row_bytes = header.width * header.channels + 1
    inflated = _inflated(deflated, header.height * row_bytes)
    if inflated is None:
        return None
    rows = np.frombuffer(inflated, np.uint8).reshape(header.height, row_bytes)
    if rows[:, 0].max() > _HIGHEST_FILTER:
        return None
    return unfilter.unfiltered(rows, header.channels, *region)


def _inflated(deflated: bytes, size: int) -> bytearray | None:
    """None unless a sound zlib stream holds exactly that many bytes."""
    try:
        inflated: bytearray = deflate.zlib_decompress(deflated, size)
    except deflate.DeflateError:
        return None
    return inflated if len(inflated) == size else None
