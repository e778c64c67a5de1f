"""PNG files of crops, in one call of C without the GIL: rows filtered, Huffman-coded with runs, wrapped in chunks."""

from __future__ import annotations

import numpy as np

try:
    import gpu_extract.kernels._png as _png
except ImportError:  # built only where a C compiler was at hand
    _png = None

NOT_BUILT = "the C PNG encoder was not built here; install with a C compiler, or encode with OpenCV"


def is_available() -> bool:
    """Whether the C extension was built."""
    return _png is not None


def encoded(crop: np.ndarray, text: bytes | None = None, *, portable: bool = False) -> bytes:
    """The file of a crop: 8-bit RGB, one IDAT chunk.

    Args:
        crop: [H, W, 3] uint8 BGR, at least 1 x 1; rows may be strided.
        text: data of an iTXt chunk that goes directly before the pixels.
        portable: leaves out what is particular to this processor; the file is the same.

    Raises RuntimeError where the extension was not built, ValueError for another shape or dtype.
    """
    if _png is None:
        raise RuntimeError(NOT_BUILT)
    if crop.ndim == 3 and crop.strides[1:] != (3, 1):
        crop = np.ascontiguousarray(crop)
    file: bytes = _png.encode(crop, text, 0) if portable else _png.encode(crop, text)
    return file


def deflated(data: bytes) -> bytes:
    """The zlib stream of at least one byte, as `encoded` has it for its rows; raises as that does."""
    if _png is None:
        raise RuntimeError(NOT_BUILT)
    stream: bytes = _png.deflated(data)
    return stream
