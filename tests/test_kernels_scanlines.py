"""PNG scanlines: what a decoder makes of them is the crop, for every filter, in the vector and the portable code."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest

from gpu_extract.kernels import scanlines

needs_extension = pytest.mark.skipif(not scanlines.is_available(), reason="the C extension was not built here")
FILTERS = (scanlines.UP, scanlines.AVERAGE, scanlines.PAETH)
SIZES = [(1, 1), (1, 40), (40, 1), (7, 5), (7, 6), (13, 21), (16, 17), (64, 64)]


def decoded(rows: np.ndarray) -> np.ndarray:
    """The BGR image that OpenCV reads from a PNG of these scanlines."""
    header = struct.pack(">IIBBBBB", (rows.shape[1] - 1) // 3, rows.shape[0], 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b"")):
        png += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)


@needs_extension
@pytest.mark.parametrize("filter_type", FILTERS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_decoder_gives_back_the_crop(size, filter_type):
    crop = np.random.default_rng(size).integers(0, 256, (*size, 3), dtype=np.uint8)
    rows = scanlines.filtered_rows(crop, filter_type)
    assert rows.shape == (size[0], 1 + 3 * size[1])
    assert (rows[:, 0] == filter_type).all()
    np.testing.assert_array_equal(decoded(rows), crop)


@needs_extension
@pytest.mark.parametrize("filter_type", FILTERS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_portable_code_writes_the_same_bytes(size, filter_type):
    crop = np.random.default_rng(size).integers(0, 256, (*size, 3), dtype=np.uint8)
    rows = np.full((size[0], 1 + 3 * size[1]), 0xA5, np.uint8)
    scanlines._scanlines.fill_rows(crop, rows, filter_type, True)
    np.testing.assert_array_equal(rows, scanlines.filtered_rows(crop, filter_type))


@needs_extension
def test_up_is_the_difference_to_the_row_above():
    crop = np.array([[[1, 2, 3], [4, 5, 6]], [[11, 2, 1], [4, 9, 255]]], np.uint8)
    assert scanlines.filtered_rows(crop).tolist() == [[2, 3, 2, 1, 6, 5, 4], [2, 254, 0, 10, 249, 4, 0]]


@needs_extension
def test_crops_may_be_views():
    image = np.random.default_rng(4).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    for view in (image[3:20, 5:33], image[::-1], image[:, ::-1], image[:, :, ::-1]):
        np.testing.assert_array_equal(decoded(scanlines.filtered_rows(view)), view)


@needs_extension
@pytest.mark.parametrize(
    ("crop", "out", "filter_type", "message"),
    [
        (np.zeros((4, 4, 4), np.uint8), np.zeros((4, 13), np.uint8), 2, "crop must be"),
        (np.zeros((4, 4, 3), np.int8), np.zeros((4, 13), np.uint8), 2, "crop must be"),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 12), np.uint8), 2, r"out must be \[4, 13\]"),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 13), np.uint8), 1, "filter must be .* got 1"),
    ],
)
def test_refuses_arrays_of_another_shape(crop, out, filter_type, message):
    with pytest.raises(ValueError, match=message):
        scanlines._scanlines.fill_rows(crop, out, filter_type)


def test_a_missing_extension_is_one_sentence(monkeypatch):
    monkeypatch.setattr(scanlines, "_scanlines", None)
    assert not scanlines.is_available()
    with pytest.raises(RuntimeError, match="C compiler"):
        scanlines.filtered_rows(np.zeros((2, 2, 3), np.uint8))
