"""Headers of face PNGs: written as each release did, read back by us and by a reader of its own."""

from __future__ import annotations

import ast
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gpu_extract.errors import InputError
from gpu_extract.face_files import header
from gpu_extract.face_files.encoder import encoder_for
from gpu_extract.png_file import SIGNATURE
from tests.helpers import frames_of, png_chunk, read_image

GENERATIONS = [
    ("face_v2_1", "v2_1", 2.1),
    ("face_v2_2", "v2_2", 2.2),
    ("face_v2_3", "v2_3", 2.3),
    ("face_v2_4_numpy", "v2_4_numpy", 2.4),
    ("face_v2_4_head", "v2_4_list", 2.4),
]


def a_record(**changes: Any) -> dict[str, Any]:
    """A face of a 2.4 file with arrays."""
    rng = np.random.default_rng(7)
    record = {
        "x": np.int64(3),
        "w": 40,
        "y": -2,
        "h": np.int32(50),
        "landmarks_xy": rng.uniform(-20, 500, (68, 2)).astype(np.float32),
        "mask": {
            "vgg-clear": {
                "mask": zlib.compress(rng.integers(0, 256, 256, np.uint8).tobytes()),
                "affine_matrix": rng.normal(size=(2, 3)),
                "interpolator": 2,
                "stored_size": np.int64(16),
                "stored_centering": "face",
            }
        },
        "identity": {"vggface2": [0.25, -1.0, 0.1]},
        "thumb": np.zeros(9, np.uint8),
    }
    return record | changes


def written(record: dict[str, Any], version: float = 2.4, name: str = "clip_000001.mp4") -> dict[str, Any]:
    """A record's header, parsed."""
    data = header.face_header(version, record, 4, name, 30, 50, True)
    assert data is not None
    return header.parse_text(data[len(header.PREFIX) :].decode())


def strict_chunk(png: bytes) -> dict[str, Any]:
    """docs/formats.md#headers read literally: the first iTXt chunk with our keyword, its checksum, its literal."""
    at = 8
    while True:
        (length,) = struct.unpack(">I", png[at : at + 4])
        kind, data = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        (checksum,) = struct.unpack(">I", png[at + 8 + length : at + 12 + length])
        assert checksum == zlib.crc32(kind + data)
        following = png[at + 16 + length : at + 20 + length]
        at += 12 + length
        if kind == b"iTXt" and data.split(b"\0")[0] == b"faceswap":
            assert following == b"IDAT"
            assert data[8:13] == bytes(5)
            return dict(ast.literal_eval(data[13:].decode("utf-8")))
        assert kind != b"IDAT"


def strict_schema(found: dict[str, Any]) -> None:
    """What current releases insist on (docs/formats.md#headers)."""
    assert set(found) == {"alignments", "source"}
    face = found["alignments"]
    assert {"x", "y", "w", "h", "landmarks_xy"} <= set(face) <= {"x", "y", "w", "h", "landmarks_xy", "mask", "identity"}
    assert set(found["source"]) == {
        "alignments_version",
        "original_filename",
        "face_index",
        "source_filename",
        "source_is_video",
        "source_frame_dims",
    }
    for mask in face.get("mask", {}).values():
        assert set(mask) == {"mask", "affine_matrix", "interpolator", "stored_size", "stored_centering"}
        assert np.shape(mask["affine_matrix"]) in ((2, 3), (3, 3))
        assert len(zlib.decompress(mask["mask"])) == mask["stored_size"] ** 2


def test_four_faces_of_todays_program_to_the_byte(vectors: Path, expected: dict[str, Any]) -> None:
    frames = frames_of(vectors / "alignments" / "v2_4_list.fsa")
    faces = expected["head_tool_itxt"]["itxt"]
    assert len(faces) == 4
    for file_name, want in faces.items():
        stem, index = file_name.removesuffix(".png").rsplit("_", 1)
        record = frames[f"{stem}.png"]["faces"][int(index)]
        data = header.face_header(2.4, record, int(index), f"{stem}.png", 240, 320, False)
        assert data == bytes.fromhex(want["prefix_hex"]) + want["text"].encode()


@pytest.mark.parametrize(("face", "alignments", "version"), GENERATIONS)
def test_each_generation_to_the_byte(vectors: Path, face: str, alignments: str, version: float) -> None:
    """The vectors' faces carry another mask and identity than the file's records; those come from the face."""
    theirs = header.header_text((vectors / "png" / f"{face}.png").read_bytes())
    assert theirs is not None
    parsed = ast.literal_eval(theirs)["alignments"]
    record = dict(frames_of(vectors / "alignments" / f"{alignments}.fsa")["f_000002.png"]["faces"][1])
    lists = isinstance(record["landmarks_xy"], list)
    mask = dict(parsed["mask"]["vgg-clear"])
    stored = mask["affine_matrix"]
    mask["affine_matrix"] = stored if lists else np.array(stored)
    record |= {"mask": {"vgg-clear": mask}, "identity": parsed.get("identity", {})}
    data = header.face_header(version, record, 1, "f_000002.png", 240, 320, False)
    assert data is not None
    ours = data[len(header.PREFIX) :].decode()
    if lists:  # that face was given a 2x3 float64 matrix; the program's own faces hold 3x3 float32 (test above)
        theirs = theirs.replace(repr(stored), repr([*np.array(stored, np.float32).tolist(), [0.0, 0.0, 1.0]]))
    if version == 2.2:  # written by the first 2.2 release; later ones say the frame's size, and we do
        theirs = theirs.removesuffix("}}") + ", 'source_frame_dims': (240, 320)}}"
    assert ours == theirs


@pytest.mark.parametrize(
    ("alignments", "version"),
    [
        ("v2_2", 2.2),
        ("v2_3", 2.3),
        ("v2_3_rewritten_by_head", 2.4),
        ("v2_4_numpy", 2.4),
        ("v2_4_list", 2.4),
        ("v2_4_list_nomask", 2.4),
        ("v2_4_from_g7b_by_v2_3_0", 2.4),
        ("v2_4_from_v2_0_by_v2_3_0", 2.4),
    ],
)
def test_an_independent_reader_accepts_every_face(vectors: Path, alignments: str, version: float) -> None:
    encoder = encoder_for(".png")
    crop = np.arange(5 * 5 * 3, dtype=np.uint8).reshape(5, 5, 3)
    count = 0
    for name, frame in frames_of(vectors / "alignments" / f"{alignments}.fsa").items():
        for index, record in enumerate(frame["faces"]):
            text = header.face_header(version, record, index, name, 240, 320, False)
            png = encoder.encode(crop, text)
            found = strict_chunk(png)
            strict_schema(found)
            assert found == header.read_header(png)
            landmarks = np.asarray(record["landmarks_xy"], np.float32)
            assert np.array_equal(np.array(found["alignments"]["landmarks_xy"]), landmarks.astype(np.float64))
            assert found["alignments"].get("mask", {}).keys() == record["mask"].keys()
            pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
            assert pixels is not None
            assert np.array_equal(pixels, crop)
            count += 1
    assert count == 18


def test_versions_before_headers_have_none() -> None:
    assert header.face_header(2.0, a_record(), 0, "a.png", 1, 1, False) is None
    assert header.face_header(1.0, {}, 0, "a.png", 1, 1, False) is None


def test_names_numbers_and_source() -> None:
    record = a_record(hash="ab" * 20)
    data = header.face_header(2.4, record, 4, "my.clip_é_000001.mp4", 30, 50, True)
    assert data is not None
    text = data.decode()
    assert "np." not in text
    assert "é" in text
    found = header.parse_text(data[len(header.PREFIX) :].decode())
    assert list(found["alignments"]) == ["x", "w", "y", "h", "landmarks_xy", "mask", "identity"]
    assert [type(found["alignments"][key]) for key in "xywh"] == [int] * 4
    assert found["source"] == {
        "alignments_version": 2.4,
        "original_filename": "my.clip_é_000001_4.png",
        "face_index": 4,
        "source_filename": "my.clip_é_000001.mp4",
        "source_is_video": True,
        "source_frame_dims": (30, 50),
    }
    assert found["alignments"]["identity"] == record["identity"]
    mask = found["alignments"]["mask"]["vgg-clear"]
    assert mask["affine_matrix"] == record["mask"]["vgg-clear"]["affine_matrix"].tolist()


def test_arrays_and_lists_differ_in_layout() -> None:
    lists = a_record(identity={"t-face_x": np.array([0.1, 1e-30])})
    lists["landmarks_xy"] = lists["landmarks_xy"].tolist()
    lists["mask"]["components"] = lists["mask"]["vgg-clear"]
    found = written(lists)["alignments"]
    assert list(found) == ["x", "y", "w", "h", "landmarks_xy", "mask", "identity"]
    assert found["identity"]["t-face_x"] == np.array([0.1, 1e-30], np.float32).astype(float).tolist()
    assert list(found["mask"]) == ["vgg-clear"]
    matrix = found["mask"]["vgg-clear"]["affine_matrix"]
    assert matrix == [*np.array(lists["mask"]["vgg-clear"]["affine_matrix"], np.float32).tolist(), [0, 0, 1]]
    assert isinstance(written(lists)["source"]["source_frame_dims"], list)

    arrays = a_record()
    arrays["mask"]["components"] = arrays["mask"]["vgg-clear"] | {"affine_matrix": np.eye(3)}
    masks = written(arrays)["alignments"]["mask"]
    assert list(masks) == ["vgg-clear", "components"]
    assert masks["components"]["affine_matrix"] == [[1, 0, 0], [0, 1, 0]]


def test_what_a_record_may_lack() -> None:
    bare = {key: value for key, value in a_record().items() if key in ("x", "y", "w", "h", "landmarks_xy")}
    assert written(bare)["alignments"]["mask"] == {}
    assert written(bare)["alignments"]["identity"] == {}
    assert "identity" not in written(bare, 2.2)["alignments"]
    record = a_record()
    del record["mask"]["vgg-clear"]["stored_centering"]
    assert written(record)["alignments"]["mask"]["vgg-clear"]["stored_centering"] == "face"
    assert "stored_centering" not in written(a_record(), 2.1)["alignments"]["mask"]["vgg-clear"]


def test_landmark_sets_of_every_size() -> None:
    for n in (4, 51, 68, 98):
        points = np.random.default_rng(n).uniform(0, 90, (n, 2))
        found = written(a_record(landmarks_xy=points))["alignments"]["landmarks_xy"]
        assert found == points.astype(np.float32).astype(float).tolist()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"x": float("nan")}, "the face's x is nan"),
        ({"w": "7"}, "the face's w is '7'"),
        ({"landmarks_xy": np.full((68, 2), np.inf)}, "landmarks hold a number that is not finite"),
        ({"landmarks_xy": [[1, 2], [3]]}, "landmarks are not numbers in rows"),
        ({"identity": {"vggface2": [1.0, float("nan")]}}, "identity 'vggface2' hold a number that is not finite"),
        ({"mask": {"m": {"mask": b""}}}, "no 'affine_matrix'"),
        ({"mask": {"m": None}}, "mask 'm' of the face's record is no mask"),
        ({"mask": {"m": {"mask": 10**12}}}, "mask 'm' of the face's record is no mask"),
        ({"mask": {"m": a_record()["mask"]["vgg-clear"] | {"affine_matrix": np.eye(2)}}}, "mask 'm' is 2 x 2"),
    ],
)
def test_a_record_that_no_header_can_carry(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        header.face_header(2.4, a_record(**change), 0, "a.png", 1, 1, False)


def test_read_face(vectors: Path, tmp_path: Path) -> None:
    path = vectors / "png" / "face_v2_3.png"
    face = header.read_face(path)
    assert face.header == strict_chunk(path.read_bytes())
    assert np.array_equal(face.pixels, read_image(path))
    crop = np.random.default_rng(1).integers(0, 256, (20, 20, 3), np.uint8)
    for name in ("plain.png", "lossy.jpg"):
        cv2.imwrite(str(tmp_path / name), crop)
        face = header.read_face(str(tmp_path / name))
        assert face.header is None
        assert face.pixels.shape == (20, 20, 3)
    assert header.read_header(tmp_path / "plain.png") is None


def png_with(*parts: bytes) -> bytes:
    return b"".join(
        [SIGNATURE, png_chunk(b"IHDR", bytes(13)), *parts, png_chunk(b"IDAT", b""), png_chunk(b"IEND", b"")]
    )


def text_chunk(text: str | bytes) -> bytes:
    return png_chunk(b"iTXt", header.PREFIX + (text if isinstance(text, bytes) else text.encode()))


def test_foreign_chunks_are_walked_over() -> None:
    foreign = png_chunk(b"iTXt", b"XML:com.adobe.xmp" + bytes(5) + b"<x/>")
    assert header.read_header(png_with(foreign)) is None
    assert header.read_header(png_with(foreign, png_chunk(b"tEXt", b"faceswap\0{}"), text_chunk("{'a': 1}"))) == {
        "a": 1
    }
    late = png_with()[:-12] + text_chunk("{'a': 1}") + png_chunk(b"IEND", b"")
    assert header.read_header(late) is None


@pytest.mark.parametrize(
    ("png", "sentence"),
    [
        (b"\xff\xd8\xff", "not a PNG"),
        (b"", "not a PNG"),
        (png_with()[:20], "ends inside its 'IHDR' chunk"),
        (png_with()[:36], "ends before its pixels"),
        (SIGNATURE + struct.pack(">I4s", 1 << 31, b"iTXt") + b"faceswap" * 9, "ends inside its 'iTXt' chunk"),
        (png_with(text_chunk("{'a': 1}")).replace(b"'a'", b"'b'"), "checksum is wrong"),
        (png_with(png_chunk(b"iTXt", b"faceswap\0\1\0\0\0" + zlib.compress(b"{}"))), "compressed"),
        (png_with(text_chunk(b"{'\xff': 1}")), "not UTF-8"),
        (png_with(*[png_chunk(b"tEXt", b"")] * header.MAX_CHUNKS), "more than 1024 chunks"),
        (png_with(text_chunk("7")), "not a dict but of type int"),
        (png_with(text_chunk("{'a': nan}")), "not a plain literal"),
        (png_with(text_chunk("__import__('os').getcwd()")), "not a plain literal"),
        (png_with(text_chunk('{"a": true}')), "not a plain literal"),
        (png_with(text_chunk("{'a': 1")), "not a literal that can be read"),
        (png_with(text_chunk("{'a: 1}")), "not a literal that can be read"),
        (png_with(text_chunk("{[]: 1}")), "not a literal that can be read"),
        (png_with(text_chunk("'''\n''' '{'a': 1}")), "not a plain literal"),
        (png_with(text_chunk("[" * 5000 + "]" * 5000)), "deeper or longer"),
        (png_with(text_chunk("{'a': [" + "1," * 300_000 + "]}")), "deeper or longer"),
        (png_with(text_chunk("{" + "-" * 100_000 + "1: 2}")), "not a plain literal"),
    ],
)
def test_hostile_headers_end_in_a_sentence(png: bytes, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        header.read_header(png)


@pytest.mark.parametrize(
    "text", ["{" + "1" * 200_000 + "!", "'" + "\\'" * 200_000, "'\\" * 200_000, "{'a': b'" + "\\x00" * 200_000]
)
def test_no_text_costs_more_than_one_pass(text: str) -> None:
    began = time.process_time()
    with pytest.raises(InputError):
        header.parse_text(text)
    assert time.process_time() - began < 2


def test_a_size_that_the_file_does_not_have_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header, "MAX_TEXT_BYTES", 40)
    with pytest.raises(InputError, match="at most 40 are read"):
        header.read_header(png_with(text_chunk("{'a': " + "1" * 50 + "}")))


def test_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.png"):
        header.read_face(tmp_path / "gone.png")
    (tmp_path / "bad.png").write_bytes(png_with(text_chunk("[")))
    for read in (header.read_face, header.read_header):
        with pytest.raises(InputError, match=r"bad\.png cannot be read"):
            read(tmp_path / "bad.png")


def test_many_threads_may_read_headers_at_once() -> None:
    """Python's own parser is not made for that before 3.13."""
    text = str({"alignments": {"landmarks_xy": [[float(i), i / 7] for i in range(2000)]}, "source": {}})
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(header.parse_text, [text] * 160))
    assert all(one == found[0] for one in found)
