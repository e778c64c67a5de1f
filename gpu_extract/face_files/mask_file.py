"""Files of masks: 8-bit grey PNG that say what made them, so that later ones may replace them."""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO

import numpy as np

from gpu_extract import png_file
from gpu_extract.kernels import png

EXTENSION = ".png"
MARK = png_file.chunk_bytes(b"tEXt", b"Software\0gpu-extract masks")
"""Stands behind the header of every mask."""
MARKED_BYTES = 128
NONE, SUB, UP = 0, 1, 2
"""Filters of PNG that are tried for a row; the one that leaves least is taken, as if its bytes were signed."""


def encoded(mask: np.ndarray) -> bytes:
    """The file of a mask [H, W] uint8, at least 1 x 1."""
    height, width = mask.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = _filtered(mask).tobytes()
    stream = png.deflated(rows) if png.is_available() else zlib.compress(rows)
    parts = (png_file.chunk_bytes(b"IHDR", header), MARK, png_file.chunk_bytes(b"IDAT", stream))
    return b"".join((png_file.SIGNATURE, *parts, png_file.chunk_bytes(b"IEND", b"")))


def is_mask(file: BinaryIO) -> bool:
    """Whether a file, from its beginning, is one that `encoded` made."""
    return MARK in file.read(MARKED_BYTES)


def _filtered(mask: np.ndarray) -> np.ndarray:
    """[H, 1 + W] uint8: each row with its filter before it."""
    left, above = np.zeros_like(mask), np.zeros_like(mask)
    left[:, 1:], above[1:] = mask[:, :-1], mask[:-1]
    choices = {NONE: mask, SUB: mask - left, UP: mask - above}
    left_over = [np.abs(rows.view(np.int8).astype(np.int16)).sum(axis=1) for rows in choices.values()]
    chosen = np.argmin(left_over, axis=0)
    rows = np.empty((len(mask), 1 + mask.shape[1]), np.uint8)
    rows[:, 0] = chosen
    for kind, filtered in choices.items():
        rows[chosen == kind, 1:] = filtered[chosen == kind]
    return rows
