"""Thumbnails equal those of the releases to the byte, whether the face had to shrink or to grow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gpu_extract.alignments.generation import Traits
from gpu_extract.face_files import thumbs
from gpu_extract.geometry import crops
from gpu_extract.kernels import reference
from tests.helpers import frames_of, read_image, whole_by_opencv


def cut(frame: np.ndarray, landmarks: Any, size: int, version: float) -> np.ndarray:
    """The face [S, S, 3] that a thumbnail of that version is made from."""
    points = np.asarray(landmarks, np.float32)[None]
    made = crops.crop_geometry(points, size, Traits(version).centering, seed=version < 2)
    crop: np.ndarray = reference.warp_affine([frame], [0], made.crop_from_frame, made.cubic, size)[0]
    return crop


@pytest.mark.parametrize("name", ["thumb_v2_1", "thumb_v2_4_head"])
def test_a_small_face_grows_to_the_releases_bytes(vectors: Path, name: str) -> None:
    frame = read_image(vectors / "frames" / "f_000002.png")
    record = frames_of(vectors / "alignments" / "v2_4_list.fsa")["f_000002.png"]["faces"][1]
    jpeg = thumbs.thumbnail(cut(frame, record["landmarks_xy"], 64, 2.4), Traits(2.4))
    assert jpeg == (vectors / "png" / f"{name}.jpg").read_bytes()


@pytest.mark.parametrize(
    ("alignments", "version", "otherwise"),
    [
        ("g7b_2020-08", 1.0, [("f_000007.png", 0)]),  # mirrored landmarks, which those releases fitted wrongly
        ("v2_1", 2.1, []),
        ("v2_4_numpy", 2.4, []),
        ("v2_4_list", 2.4, [("f_000002.png", 0)]),  # today's float32 reciprocal: docs/formats.md#crops
    ],
)
def test_stored_thumbnails_come_out_again(
    vectors: Path, alignments: str, version: float, otherwise: list[tuple[str, int]]
) -> None:
    """They were made from faces of 256 pixels: 80 px legacy-aligned before 2.0, 96 px head-aligned from then on."""
    equal, different = 0, []
    for name, value in frames_of(vectors / "alignments" / f"{alignments}.fsa").items():
        if name == "f_000099.png":  # has no frame
            continue
        frame = read_image(vectors / "frames" / name)
        for index, record in enumerate(value["faces"]):
            jpeg = thumbs.thumbnail(cut(frame, record["landmarks_xy"], 256, version), Traits(version))
            stored = record["thumb"]
            assert whole_by_opencv(jpeg).shape[:2] == (Traits(version).thumb_px,) * 2
            again = thumbs.as_stored(bytes(np.asarray(stored, np.uint8)), stored)
            assert type(again) is type(stored)
            assert np.array_equal(again, stored)
            if jpeg == bytes(np.asarray(stored, np.uint8)):
                equal += 1
            else:
                different.append((name, index))
    assert different == otherwise
    assert equal + len(different) == 17


@pytest.mark.parametrize("version", [1.0, 2.0])
def test_a_face_of_the_right_size_is_not_resized(version: float) -> None:
    side = Traits(version).thumb_px
    face = np.random.default_rng(3).integers(0, 256, (side, side, 3), np.uint8)
    expected = cv2.imencode(".jpg", face, [cv2.IMWRITE_JPEG_QUALITY, 60])[1].tobytes()
    assert thumbs.thumbnail(face, Traits(version)) == expected


def test_the_value_takes_the_form_of_its_file() -> None:
    jpeg = b"\xff\xd8\x00\x07"
    assert thumbs.as_stored(jpeg, [1, 2]) == [255, 216, 0, 7]
    column = thumbs.as_stored(jpeg, np.zeros((9, 1), np.uint8))
    row = thumbs.as_stored(jpeg, np.zeros(9, np.uint8))
    assert isinstance(column, np.ndarray)
    assert isinstance(row, np.ndarray)
    assert (column.shape, column.dtype) == ((4, 1), np.dtype(np.uint8))
    assert (row.shape, row.dtype) == ((4,), np.dtype(np.uint8))
    assert row.flags.writeable
    assert np.shape(thumbs.as_stored(jpeg, np.zeros((68, 2), np.float32))) == (4,)
    assert thumbs.as_stored(jpeg, [[1.0, 2.0]] * 68) == list(jpeg)
    with pytest.raises(TypeError, match="not as NoneType"):
        thumbs.as_stored(jpeg, None)


def test_only_square_colour_faces_are_taken() -> None:
    for wrong in (np.zeros((4, 5, 3), np.uint8), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)):
        with pytest.raises(ValueError, match=r"\[S, S, 3\] uint8"):
            thumbs.thumbnail(wrong, Traits(2.4))
