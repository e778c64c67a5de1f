"""What every encoder of face files keeps (`gpu_extract/face_files/encoder.py`), compared with OpenCV's decoder.

A new format gets a line in `ENCODERS`.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import pytest

from gpu_extract import plugins
from gpu_extract.errors import UsageError
from gpu_extract.face_files.encoder import Encoder, encoder_for, extensions, face_hash
from gpu_extract.face_files.encoders import opencv
from gpu_extract.face_files.encoders.png import PngEncoder
from gpu_extract.face_files.header import header_text
from gpu_extract.kernels import png, png_reference
from tests.helpers import noise, photograph

FOLDER = "gpu_extract.face_files.encoders"
TEXT = b"faceswap\0\0\0\0\0{'alignments': {}}"


class Backend(NamedTuple):
    name: str
    module: str
    """In the folder of plug-ins."""
    extension: str
    make: Callable[[], Encoder]
    lossless: bool = True
    has_room_for_text: bool = False

    def __str__(self) -> str:
        return self.name


def chosen(module: str, extension: str, quality: int | None = None, lossless: bool = True) -> Backend:
    """The encoder that a run takes for an extension."""
    name = extension[1:] if quality is None else f"{extension[1:]}-{quality}"
    return Backend(name, module, extension, lambda: encoder_for(extension, quality), lossless)


class NumPyPngEncoder(PngEncoder):
    """As where the C extension was not built."""

    def encode(self, crop: np.ndarray, text: bytes | None = None) -> bytes:
        return png_reference.encoded(crop, text)


def c_png() -> Encoder:
    if not png.is_available():
        pytest.skip("the C extension was not built here")
    return PngEncoder()


ENCODERS = [
    Backend("png-c", "png", ".png", c_png, has_room_for_text=True),
    Backend("png-numpy", "png", ".png", NumPyPngEncoder, has_room_for_text=True),
    chosen("opencv", ".jpg", lossless=False),
    chosen("opencv", ".jpg", 40, lossless=False),
    chosen("opencv", ".jpeg", lossless=False),
    chosen("opencv", ".webp", lossless=False),
    chosen("opencv", ".webp", 60, lossless=False),
    chosen("opencv", ".bmp"),
    chosen("opencv", ".tif"),
    chosen("opencv", ".tiff"),
]

SHAPES = [(1, 1), (2, 3), (37, 52), (64, 64), (51, 16)]  # squares are what is encoded; others show swapped axes


def decoded(data: bytes) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return pixels


def crops() -> list[np.ndarray]:
    return [*(photograph(*shape, seed=3) for shape in SHAPES), *(noise(*shape).reshape(*shape, 3) for shape in SHAPES)]


@pytest.fixture(params=ENCODERS, ids=str)
def backend(request: pytest.FixtureRequest) -> Backend:
    made: Backend = request.param
    return made


@pytest.fixture
def encoder(backend: Backend) -> Encoder:
    return backend.make()


def test_every_encoder_has_a_line() -> None:
    assert {backend.module for backend in ENCODERS} == set(plugins.names(FOLDER))
    assert sorted({backend.extension for backend in ENCODERS}) == extensions()


@pytest.mark.parametrize("text", [None, TEXT])
def test_a_png_is_the_same_file_whether_the_extension_was_built_or_not(
    text: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_c = [c_png().encode(crop, text) for crop in crops()]
    monkeypatch.setattr(png, "_png", None)
    assert [encoder_for(".png").encode(crop, text) for crop in crops()] == by_c


def test_an_unknown_extension_is_a_sentence() -> None:
    with pytest.raises(UsageError, match=r"face images cannot be written as '\.gif'; \.bmp, \.jpeg, .* are understood"):
        encoder_for(".gif")


class TestEncoder:
    def test_it_says_what_it_writes(self, encoder: Encoder, backend: Backend) -> None:
        assert encoder.extension == backend.extension == backend.extension.lower()
        assert encoder.extension.startswith(".")
        assert encoder.lossless is backend.lossless

    def test_the_case_of_an_extension_does_not_matter(self, backend: Backend) -> None:
        found = encoder_for(backend.extension.upper())
        assert found.extension == backend.extension
        assert found.encode(photograph(16, 16, 1)) == encoder_for(backend.extension).encode(photograph(16, 16, 1))

    def test_a_file_decodes_to_its_crop(self, encoder: Encoder, backend: Backend) -> None:
        for crop in crops():
            found = decoded(encoder.encode(crop))
            assert found.shape == crop.shape
            assert found.dtype == np.uint8
            if backend.lossless:
                np.testing.assert_array_equal(found, crop)
        smooth = photograph(64, 48, 3)
        assert np.abs(decoded(encoder.encode(smooth)).astype(int) - smooth).mean() < (1e-9 if backend.lossless else 9)

    def test_the_hash_is_that_of_the_decoded_pixels(self, encoder: Encoder) -> None:
        for crop in crops():
            data = encoder.encode(crop)
            assert face_hash(crop, encoder, data) == hashlib.sha1(decoded(data).tobytes()).hexdigest()

    def test_no_crop_leaves_a_trace_in_the_next_file(self, encoder: Encoder) -> None:
        first, second = photograph(40, 40, 1), noise(64, 64)
        alone = encoder.encode(first)
        encoder.encode(second)
        assert encoder.encode(first) == alone
        assert encoder.encode(second) != alone

    def test_the_crop_is_not_changed(self, encoder: Encoder) -> None:
        crop = photograph(33, 33, 2)
        kept = crop.copy()
        crop.flags.writeable = False
        encoder.encode(crop)
        np.testing.assert_array_equal(crop, kept)

    def test_many_threads_encode_at_once(self, encoder: Encoder) -> None:
        mine = [photograph(48, 48, seed) for seed in range(4)]
        wanted = [encoder.encode(crop) for crop in mine]
        assert len(set(wanted)) == 4
        found: list[set[bytes]] = [set() for _ in mine]
        together = threading.Barrier(4)

        def work(number: int) -> None:
            together.wait(30)
            for _ in range(25):
                found[number].add(encoder.encode(mine[number]))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [{data} for data in wanted]

    def test_text_travels_directly_before_the_pixels_or_is_refused(self, encoder: Encoder, backend: Backend) -> None:
        crop = photograph(37, 52, 4)
        if not backend.has_room_for_text:
            with pytest.raises(ValueError, match=r"has no room for a header; only \.png has"):
                encoder.encode(crop, TEXT)
            return
        plain, with_text = encoder.encode(crop), encoder.encode(crop, TEXT)
        assert header_text(plain) is None
        assert header_text(with_text) == "{'alignments': {}}"
        np.testing.assert_array_equal(decoded(with_text), crop)
        assert face_hash(crop, encoder, with_text) == face_hash(crop, encoder, plain)
        at = with_text.index(b"iTXt")
        assert with_text[at + 4 : at + 4 + len(TEXT)] == TEXT
        assert with_text[at + 4 + len(TEXT) + 8 :].startswith(b"IDAT")
        assert with_text.count(b"iTXt") == 1

    def test_quality_is_for_lossy_formats(self, backend: Backend) -> None:
        crop = photograph(64, 64, 5)
        low, high = (encoder_for(backend.extension, quality) for quality in (20, 100))
        assert low.lossless is high.lossless is (backend.extension not in opencv.QUALITY_FLAGS)
        if low.lossless:
            assert low.encode(crop) == high.encode(crop)
        else:
            assert len(low.encode(crop)) < len(high.encode(crop))
