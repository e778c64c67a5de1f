"""The folder source: which entries are frames, their order, their pixels."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from gpu_extract.errors import FrameError, InputError
from gpu_extract.frames import Frame, FrameFailure, open_frames
from gpu_extract.frames.images import decode, plain_png
from gpu_extract.frames.images.decode import MAX_PIXELS, Image, decode_image, image_size
from gpu_extract.frames.images.image_header import Header, read_header
from gpu_extract.patch import Region
from tests.helpers import (
    VECTORS,
    assert_covers,
    exif,
    image_bytes,
    jpeg_with_segment,
    noise,
    opencv_pixels,
    png_chunk,
    png_of,
    read_image,
    whole_by_opencv,
)


def png(
    width: int, height: int, depth: int, colour: int, rows: bytes, extra: tuple[bytes, ...] = (), end: bytes = b""
) -> bytes:
    """A PNG written here; rows hold a filter byte each."""
    return png_of(width, height, depth, colour, *extra, png_chunk(b"IDAT", zlib.compress(rows)), end)


def rgb_png(pixels: np.ndarray, extra: tuple[bytes, ...] = (), end: bytes = b"") -> bytes:
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    return png(width, height, 8, {3: 2, 4: 6}[pixels.shape[2]], rows, extra, end)


def jpeg_with_exif(data: bytes, orientation: int) -> bytes:
    return jpeg_with_segment(data, 0xE1, b"Exif\0\0" + exif(orientation))


def load_all(folder: Path) -> list[Frame | FrameFailure]:
    with open_frames(folder) as source:
        assert source.frames_seen is not None
        return list(source.frames(np.arange(source.frames_seen)))


def test_order_equals_the_reference_loader(tmp_path: Path) -> None:
    listing = json.loads((VECTORS / "expected" / "listing_order.json").read_text("utf-8"))
    for name in listing["files_in_folder"]:
        if name == "sub.png":
            (tmp_path / name).mkdir()
        else:
            (tmp_path / name).write_bytes(b"")
    expected = [name for name in listing["seed"]["loader_order"] if name != "sub.png"]
    with open_frames(tmp_path) as source:
        assert [source.name_of(index) for index in range(len(expected))] == expected
        assert source.frames_seen == len(expected)
        assert [source.index_of(name) for name in expected] == list(range(len(expected)))
        assert source.index_of("sub.png") is None
        assert source.index_of("y.exr") is None


RESOURCE = b"\0\5\x16\7\0\2\0\0Mac OS X        "


def test_resource_files_of_macos_are_no_frames(tmp_path: Path) -> None:
    """A file whose name begins so is one by its content, or by the frame it lies beside if it is no image itself."""
    image = image_bytes(".png", noise(5, 7))
    for name, data in {
        "._a.png": RESOURCE,
        "._alone.png": RESOURCE,
        "._b.png": b"",
        "._b.jpg": image,
        "._c.png": image,
        "._d.png": b"damaged",
        ".e.png": RESOURCE,
        "a.png": image,
        "b.png": image,
        "b.jpg": image,
        "._a.webp": RESOURCE,
        "._a.txt": RESOURCE,
    }.items():
        (tmp_path / name).write_bytes(data)
    with open_frames(tmp_path) as source:
        assert source.names() == ["._b.jpg", "._c.png", "._d.png", ".e.png", "a.png", "b.jpg", "b.png"]
        assert source.notes == ["3 resource files of macOS ('._a.png' …) do not count as frames."]
        assert source.beside() == {}
        assert source.index_of("._a.png") is None
    for name in ("._alone.png", "._b.png"):
        (tmp_path / name).unlink()
    with open_frames(tmp_path) as source:
        assert source.notes == ["1 resource file of macOS ('._a.png' …) does not count as a frame."]


def test_images_of_other_formats_count_when_they_are_admitted(tmp_path: Path) -> None:
    image = image_bytes(".webp", noise(5, 7))
    for name in ("a.webp", "b.png", "c.WebP", "d.heic", "e.exr", "f.txt"):
        (tmp_path / name).write_bytes(image)
    (tmp_path / "g.webp").mkdir()
    with open_frames(tmp_path) as source:
        assert (source.names(), source.frames_seen) == (["b.png"], 1)
        assert source.beside() == {
            "a.webp": "",
            "c.WebP": "",
            "d.heic": "HEIC images are not read; convert it to PNG",
            "e.exr": "EXR images are not read; convert it to PNG",
        }
        source.admit(["c.WebP", "a.webp", "d.heic", "b.png", "nothing.webp", "a.webp"])
        assert (source.names(), source.frames_seen) == (["b.png", "a.webp", "c.WebP"], 3)
        assert [source.index_of(name) for name in ("b.png", "a.webp", "c.WebP", "d.heic")] == [0, 1, 2, None]
        assert set(source.beside()) == {"d.heic", "e.exr"}
        frames = [frame for frame in source.frames(np.array([0, 2])) if isinstance(frame, Frame)]
        assert [(frame.name, frame.load().pixels.shape) for frame in frames] == [
            ("b.png", (5, 7, 3)),
            ("c.WebP", (5, 7, 3)),
        ]


def test_a_folder_of_another_format_only(tmp_path: Path) -> None:
    """No frame that is listed could get another number by them."""
    for name in ("b.webp", "a.webp", "c.heic"):
        (tmp_path / name).write_bytes(b"")
    with open_frames(tmp_path) as source:
        assert source.names() == ["a.webp", "b.webp"]
        assert set(source.beside()) == {"c.heic"}


def test_why_a_folder_holds_no_frames(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"")
    with pytest.raises(InputError, match=r"holds no frames: images end in one of \.bmp"):
        open_frames(tmp_path)
    (tmp_path / "._a.png").write_bytes(RESOURCE)
    with pytest.raises(InputError, match="holds no frames, only resource files of macOS; name the folder with the"):
        open_frames(tmp_path)
    for name in ("a.heic", "b.HEIC", "c.dng"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=r"holds images that are not read \(1 \.dng, 2 \.heic\); convert them to PNG"):
        open_frames(tmp_path)


def test_vector_frames_equal_opencv() -> None:
    with open_frames(VECTORS / "frames") as source:
        frames = [frame for frame in source.frames(np.arange(8)) if isinstance(frame, Frame)]
    assert len(frames) == 8
    for number, frame in enumerate(frames):
        assert source.frames_decoded == number
        frame.load(Region(0, 0, 9, 9))
        patch = frame.load()
        assert np.array_equal(patch.pixels, read_image(VECTORS / "frames" / frame.name))
        assert (patch.x0, patch.y0, patch.height, patch.width) == (0, 0, 240, 320)
        assert (frame.height, frame.width) == (240, 320)


def test_wanted_frames_only_and_none_is_opened_before_load(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(b"not an image")
    with open_frames(tmp_path) as source:
        frames = list(source.frames(np.array([1, 3, 9])))
        assert [frame.index for frame in frames] == [1, 3, 9]
        assert isinstance(frames[2], FrameFailure)
        assert "only 4 frames" in frames[2].reason
        assert source.frames_decoded == 0
        assert isinstance(frames[0], Frame)
        with pytest.raises(FrameError, match="damaged, or not a"):
            frames[0].load()
        with pytest.raises(FrameError, match="damaged, or not a"):
            _ = frames[0].height


@pytest.mark.skipif(not hasattr(cv2, "IMWRITE_PNG_FILTER"), reason="OpenCV writes chosen filters from 4.12 on")
def test_a_file_is_read_and_decoded_once_for_all_its_regions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, options in (("a.png", ()), ("b.png", (cv2.IMWRITE_PNG_FILTER, 0x80)), ("c.jpg", ())):
        (tmp_path / name).write_bytes(image_bytes(name[1:], noise(40, 60), *options))
    frames = [frame for frame in load_all(tmp_path) if isinstance(frame, Frame)]
    sizes = [(frame.height, frame.width) for frame in frames]
    for path in tmp_path.iterdir():
        path.unlink()
    assert sizes == [(40, 60)] * 3
    first = [frame.load(Region(0, 0, 20, 20)) for frame in frames]
    monkeypatch.setattr(cv2, "imdecode", None)
    for frame, patch in zip(frames, first, strict=True):
        whole = frame.load().pixels
        assert np.array_equal(patch.pixels[:20, :20], whole[:20, :20])
        assert np.array_equal(frame.load(Region(30, 10, 60, 40)).pixels[-30:, -30:], whole[10:, 30:])


@pytest.mark.parametrize("extension", [".png", ".jpg", ".bmp"])
def test_all_regions_of_a_frame_at_once(tmp_path: Path, extension: str) -> None:
    (tmp_path / f"a{extension}").write_bytes(image_bytes(extension, noise(90, 60)))
    whole = read_image(tmp_path / f"a{extension}")
    with open_frames(tmp_path) as source:
        (frame,) = source.frames(np.array([0]))
        assert isinstance(frame, Frame)
        for _ in range(2):
            first, second = frame.load_each([Region(5, 20, 30, 50), Region(-9, 0, 10, 12)])
            assert np.array_equal(first.pixels, whole[20:50, 5:30])
            assert np.array_equal(second.pixels, whole[:12, :10])
            assert (first[1:], second[1:]) == ((5, 20, 90, 60), (0, 0, 90, 60))
            assert source.frames_decoded == 1
        assert np.array_equal(frame.load().pixels, whole)
        assert source.frames_decoded == 1


def test_non_ascii_and_undecodable_names(tmp_path: Path) -> None:
    names = ["é ü 顔.png", os.fsdecode(b"\xff\xfe.png")]
    for name in names:
        (tmp_path / name).write_bytes(image_bytes(".png", noise(5, 7)))
    with open_frames(tmp_path) as source:
        for frame in source.frames(np.arange(2)):
            assert isinstance(frame, Frame)
            assert np.array_equal(frame.load().pixels, noise(5, 7))
        assert {source.name_of(0), source.name_of(1)} == set(names)


def test_empty_and_missing_folders(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="holds no frames"):
        open_frames(tmp_path)
    with pytest.raises(InputError, match="no frames at"):
        open_frames(tmp_path / "nowhere")
    with pytest.raises(InputError, match="neither a folder"):
        open_frames(tmp_path / "notes.txt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\x89PNG\r\n\x1a\n", "damaged"),
        (b"\xff\xd8\xff", "damaged"),
        (image_bytes(".png", noise(20, 30))[:-30], "cut off"),
        (image_bytes(".jpg", noise(20, 30))[:-200], "cut off|cannot decode"),
        (image_bytes(".bmp", noise(20, 30))[:-200], "cut off|cannot decode"),
        (png(1 << 20, 1 << 20, 8, 2, b""), "at most"),
        (png(0, 10, 8, 2, b""), "at least 1"),
    ],
)
def test_bad_files_are_frame_errors(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    (frame,) = load_all(tmp_path)
    assert isinstance(frame, Frame)
    with pytest.raises(FrameError, match=message):
        frame.load()


def test_pipes_and_dangling_links_do_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    for frame, message in zip(load_all(tmp_path), ("regular file", "not there"), strict=True):
        assert isinstance(frame, Frame)
        with pytest.raises(FrameError, match=message):
            frame.load()


def test_seed_semantics_of_unusual_images() -> None:
    deep = noise(9, 13, 3, np.uint16)
    assert np.array_equal(decode_image(image_bytes(".png", deep)).pixels, (deep >> 8).astype(np.uint8))
    four = noise(9, 13, 4)
    assert np.array_equal(decode_image(image_bytes(".png", four)).pixels, four[..., :3])
    grey = noise(9, 13, 1)
    assert np.array_equal(decode_image(image_bytes(".png", grey)).pixels, np.repeat(grey[..., None], 3, 2))
    palette = noise(1, 256, 3)[None].reshape(256, 3)
    indices = noise(9, 13, 1)
    rows = b"".join(b"\0" + row.tobytes() for row in indices)
    paletted = png(13, 9, 8, 3, rows, (png_chunk(b"PLTE", palette.tobytes()),))
    assert np.array_equal(decode_image(paletted).pixels, palette[indices][..., ::-1])


@pytest.mark.parametrize("orientations", [(1, 6), (6, 1), (8, 3)])
def test_the_first_of_several_exif_blocks_counts_wherever_it_stands(orientations: tuple[int, int]) -> None:
    jpeg = image_bytes(".jpg", noise(40, 60))
    first, second = orientations
    scan = jpeg.index(b"\xff\xda")
    after_the_size = jpeg[:scan] + jpeg_with_exif(jpeg[:2] + jpeg[scan:], first)[2:]
    for data in (jpeg_with_exif(jpeg_with_exif(jpeg, second), first), after_the_size):
        whole = whole_by_opencv(data)
        assert image_size(data) == whole.shape[:2]
        assert np.array_equal(decode_image(data, Region(5, 7, 35, 38)).pixels, whole[7:38, 5:35])


def test_an_image_of_another_size_than_its_header_says_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = image_bytes(".bmp", noise(40, 60))

    def lying(data: bytes, **how: bool) -> Header:
        header = read_header(data, **how)
        assert header is not None
        return replace(header, width=40, height=60)

    monkeypatch.setattr(decode, "read_header", lying)
    with pytest.raises(FrameError, match="says 40 × 60 pixels, but it decodes to 60 × 40"):
        decode_image(data, Region(0, 0, 10, 10))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = noise(16, 24)
    turns = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: np.rot90(p, -1),
        7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
        8: lambda p: np.rot90(p, 1),
    }
    jpeg = image_bytes(".jpg", upright)
    files = {
        "jpeg": (jpeg_with_exif(jpeg, orientation), whole_by_opencv(jpeg)),
        "png, before the pixels": (rgb_png(upright[..., ::-1], (png_chunk(b"eXIf", exif(orientation)),)), upright),
        "png, after the pixels": (rgb_png(upright[..., ::-1], (), png_chunk(b"eXIf", exif(orientation))), upright),
    }
    for data, pixels in files.values():
        expected = turns[orientation](pixels)
        patch = decode_image(data)
        assert np.array_equal(patch.pixels, expected)
        assert image_size(data) == expected.shape[:2]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_an_orientation_that_is_not_followed_changes_nothing(kind: str, orientation: int, tmp_path: Path) -> None:
    """As programs since March 2026 read images; a region of a JPEG is still decoded only as far down as it needs."""
    picture = noise(64, 41)
    if kind == "png":
        data = rgb_png(picture[..., ::-1], (png_chunk(b"eXIf", exif(orientation)),))
    elif kind == "jpeg":
        data = jpeg_with_exif(image_bytes(".jpg", picture), orientation)
    else:
        pillow = pytest.importorskip("PIL.Image")
        pillow.fromarray(picture[..., ::-1]).save(
            tmp_path / "a.webp", lossless=True, exif=b"Exif\0\0" + exif(orientation)
        )
        data = (tmp_path / "a.webp").read_bytes()
    stored = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    assert stored is not None
    assert stored.shape == (64, 41, 3)
    assert kind == "jpeg" or np.array_equal(stored, picture)
    assert image_size(data, turned=False) == (64, 41)
    assert np.array_equal(Image(data, turned=False).patch().pixels, stored)
    assert np.array_equal(Image(data, turned=False).patch(Region(3, 5, 30, 17)).pixels, stored[5:17, 3:30])


def animated(still: np.ndarray, others: list[np.ndarray], *, still_is_a_frame: bool) -> bytes:
    """A PNG with an animation of pictures of one size; the still picture may or may not be its first."""

    def control(number: int) -> bytes:
        height, width = still.shape[:2]
        return png_chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, width, height, 0, 0, 1, 10, 0, 0))

    def rows(picture: np.ndarray) -> bytes:
        return zlib.compress(b"".join(b"\0" + row.tobytes() for row in picture[..., ::-1]))

    count = len(others) + still_is_a_frame
    before = [png_chunk(b"acTL", struct.pack(">II", count, 0)), *([control(0)] if still_is_a_frame else [])]
    after, number = [], int(still_is_a_frame)
    for picture in others:
        after += [control(number), png_chunk(b"fdAT", struct.pack(">I", number + 1) + rows(picture))]
        number += 2
    plain = rgb_png(still[..., ::-1])
    split, end = plain.index(b"IDAT") - 4, plain.index(b"IEND") - 4
    return plain[:split] + b"".join(before) + plain[split:end] + b"".join(after) + plain[end:]


@pytest.mark.parametrize("still_is_a_frame", [False, True])
@pytest.mark.parametrize("own", [True, False], ids=["own", "OpenCV"])
def test_of_an_animated_png_the_still_picture_counts(
    still_is_a_frame: bool, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    still, *others = (noise(23, 31, seed=seed) for seed in (1, 2, 3))
    data = animated(still, others, still_is_a_frame=still_is_a_frame)
    if not own:
        monkeypatch.setattr(plain_png, "is_available", lambda: False)
    assert np.array_equal(decode_image(data).pixels, still)
    assert np.array_equal(decode_image(data, Region(2, 3, 9, 11)).pixels, still[3:11, 2:9])
    assert image_size(data) == (23, 31)


def png_variants() -> dict[str, bytes]:
    rgb = noise(31, 47)
    ancillary = {
        "gamma": png_chunk(b"gAMA", struct.pack(">I", 100000)),
        "chromaticities": png_chunk(b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)),
        "srgb": png_chunk(b"sRGB", b"\1"),
        "broken profile": png_chunk(b"iCCP", b"profile\0\0" + zlib.compress(b"not a profile")),
        "density": png_chunk(b"pHYs", struct.pack(">IIB", 2835, 2835, 1)),
        "text": png_chunk(b"tEXt", b"Comment\0hello"),
        "compressed text": png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"hello" * 99)),
        "unicode text": png_chunk(b"iTXt", b"faceswap\0\0\0\0\0" + b"{'a': 1}"),
        "time": png_chunk(b"tIME", struct.pack(">HBBBBB", 2020, 1, 2, 3, 4, 5)),
        "transparent colour": png_chunk(b"tRNS", struct.pack(">HHH", *rgb[0, 0].tolist())),
        "background": png_chunk(b"bKGD", struct.pack(">HHH", 1, 2, 3)),
        "significant bits": png_chunk(b"sBIT", b"\5\6\5"),
        "histogram of nothing": png_chunk(b"sPLT", b"x\0\x08"),
        "unknown": png_chunk(b"prVt", b"private"),
        "animation": png_chunk(b"acTL", struct.pack(">II", 1, 0)),
    }
    variants = {name: rgb_png(rgb, (extra,)) for name, extra in ancillary.items()}
    variants["rgb"] = rgb_png(rgb)
    variants["rgba"] = rgb_png(noise(31, 47, 4))
    variants["rgba, invisible"] = rgb_png(noise(31, 47, 4) * np.array([1, 1, 1, 0], np.uint8))
    variants["1 x 1"] = rgb_png(noise(1, 1)[None, None])
    variants["suggested palette"] = rgb_png(rgb, (png_chunk(b"PLTE", bytes(range(48))),))
    variants["trailing bytes"] = rgb_png(rgb) + b"trailing" * 9
    for level in (0, 1, 6, 9):
        variants[f"opencv {level}"] = image_bytes(".png", rgb, cv2.IMWRITE_PNG_COMPRESSION, level)
    for strategy in range(5):
        variants[f"strategy {strategy}"] = image_bytes(".png", rgb, cv2.IMWRITE_PNG_STRATEGY, strategy)
    variants["16-bit rgb"] = image_bytes(".png", noise(31, 47, 3, np.uint16))
    variants["16-bit rgba"] = image_bytes(".png", noise(31, 47, 4, np.uint16))
    variants["16-bit grey"] = image_bytes(".png", noise(31, 47, 1, np.uint16))
    variants["bilevel"] = image_bytes(".png", noise(31, 47, 1), cv2.IMWRITE_PNG_BILEVEL, 1)
    return variants


@pytest.mark.parametrize("name", png_variants())
def test_every_png_kind_equals_opencv(name: str) -> None:
    data = png_variants()[name]
    assert np.array_equal(decode_image(data).pixels, whole_by_opencv(data))


def test_which_pngs_take_the_fast_path() -> None:
    headers = {name: read_header(data) for name, data in png_variants().items()}
    fast = {name for name, header in headers.items() if header and header.plain_png}
    assert {"rgb", "rgba", "gamma", "srgb", "text", "opencv 1", "strategy 3", "animation"} <= fast
    slow = {"transparent colour", "16-bit rgb", "bilevel", "background", "unknown", "suggested palette"}
    assert not slow & fast


@pytest.mark.parametrize("flip", [0x01, 0x80])
def test_damaged_pngs_never_differ_from_opencv(flip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every single-byte fault in a small PNG: the same pixels as OpenCV, or a FrameError where OpenCV gives none."""
    honest = cv2.imdecode
    answers: dict[tuple[bytes, int], np.ndarray | None] = {}

    def asked_once(data: np.ndarray, flags: int) -> np.ndarray | None:
        """OpenCV spends seconds on a chunk that claims two gigabytes, and would be asked twice for each file."""
        key = (data.tobytes(), flags)
        if key not in answers:
            answers[key] = honest(data, flags)
        return answers[key]

    monkeypatch.setattr(cv2, "imdecode", asked_once)
    good = rgb_png(noise(6, 9), (png_chunk(b"tEXt", b"a\0b"),))
    for position in range(24, len(good)):  # past the size, which is checked on its own
        data = bytearray(good)
        data[position] ^= flip
        expected = opencv_pixels(bytes(data))
        try:
            pixels = decode_image(bytes(data)).pixels
        except FrameError:
            pixels = None
        assert (pixels is None) == (expected is None), position
        if pixels is not None and expected is not None:
            assert np.array_equal(pixels, expected), position


@pytest.mark.parametrize("extension", [".png", ".jpg", ".bmp", ".tiff", ".webp"])
def test_size_comes_from_the_header(extension: str) -> None:
    data = image_bytes(extension, noise(37, 53))
    assert image_size(data) == (37, 53)
    assert decode_image(data).pixels.shape == (37, 53, 3)
    assert MAX_PIXELS >= 16384 * 16384


@pytest.mark.parametrize("extension", [".png", ".jpg"])
@pytest.mark.parametrize(
    "region", [Region(0, 0, 53, 37), Region(5, 3, 20, 30), Region(-9, -9, 4, 4), Region(50, 30, 99, 99)]
)
def test_a_region_is_that_part_of_the_whole(extension: str, region: Region) -> None:
    data = image_bytes(extension, noise(37, 53))
    whole = decode_image(data).pixels
    assert whole.shape == (37, 53, 3)
    assert_covers(decode_image(data, region), region, whole)


def test_a_folder_needs_neither_decoder_to_be_opened() -> None:
    code = (
        "import sys; from gpu_extract.frames import open_frames; "
        f"open_frames({str(VECTORS / 'frames')!r}); print(sorted({{'av', 'cv2'}} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
