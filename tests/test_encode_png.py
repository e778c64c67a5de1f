"""Both writers of PNG: what each writes is the crop, with the text directly before the pixels."""

from __future__ import annotations

import hashlib

import cv2
import numpy as np
import pytest

from gpu_extract.faces.encoder import encoder_for, face_hash
from gpu_extract.faces.encoders import png
from gpu_extract.faces.header import header_text

CROP = np.clip(
    np.add.outer(np.arange(37), np.arange(3 * 52)) + np.random.default_rng(1).normal(0, 5, (37, 3 * 52)), 0, 255
).astype(np.uint8)
TEXT = b"faceswap\0\0\0\0\0{'alignments': {}}"


@pytest.fixture(params=["own", "opencv"])
def encoder(request, monkeypatch):
    if request.param == "own" and not png.png.is_available():
        pytest.skip("the C extension was not built here")
    if request.param == "opencv":
        monkeypatch.setattr(png.png, "_png", None)
    made = encoder_for(".png")
    assert type(made) is {"own": png.PngEncoder, "opencv": png.OpenCvPngEncoder}[request.param]
    return made


def test_a_file_is_its_crop(encoder):
    crop = CROP.reshape(37, 52, 3)
    for text in (None, TEXT):
        file = encoder.encode(crop, text)
        np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED), crop)
        assert header_text(file) == (None if text is None else "{'alignments': {}}")
        assert face_hash(crop, encoder, file) == hashlib.sha1(crop.tobytes()).hexdigest()


def test_text_stands_directly_before_the_pixels(encoder):
    file = encoder.encode(CROP.reshape(37, 52, 3), TEXT)
    at = file.index(b"iTXt")
    assert file[at + 4 : at + 4 + len(TEXT)] == TEXT
    assert file[at + 4 + len(TEXT) + 8 :].startswith(b"IDAT")
    assert file.count(b"iTXt") == 1
