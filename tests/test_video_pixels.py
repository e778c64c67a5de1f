"""Pixels of before March 2026, against what the ffmpeg program of the time gave (docs/formats.md#pixels)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from gpu_extract.errors import FrameError
from gpu_extract.frames.sources.video import Picture, VideoFrame
from gpu_extract.frames.video import processor, yuv
from gpu_extract.frames.video.yuv import to_bgr
from gpu_extract.patch import Region
from tests.helpers import VECTORS, assert_covers, write_clip

# Made once with FFmpeg 4.2.2's program, the one that imageio-ffmpeg 0.4.2 to 0.4.8 came with, of the bytes of `raw`:
#   ffmpeg -f rawvideo -pixel_format FORMAT -video_size WxH -color_range RANGE -colorspace MATRIX -i raw
#          -pix_fmt rgb24 -vcodec rawvideo -f image2pipe -
# SHA-1 of what it wrote, the first 16 digits. 4.1 gives the same; so does 7.0.2, where it does not refuse the matrix.
STORED: dict[str, list[str]] = json.loads((VECTORS / "video" / "pixels.json").read_text())
KINDS = (  # width, height, matrix tag, range tag: of each format's list, in this order
    *((34, 26, 2, 0), (35, 27, 1, 2), (35, 26, 10, 1), (34, 27, 14, 0)),
    *((130, 66, 9, 2), (36, 28, 2, 1), (24, 18, 7, 0), (28, 12, 4, 1), (33, 31, 8, 2)),
)

x86_only = pytest.mark.skipif(not processor.is_x86(), reason="swscale's code for other processors rounds otherwise")


def raw(name: str, width: int, height: int) -> bytes:
    """A frame of noise and more, within the depth of the format."""
    random = np.random.default_rng(width * height)
    if "f32" in name:
        return random.random(4 * width * height).astype(">f4" if name.endswith("be") else "<f4").tobytes()
    words = random.integers(0, 1 << 16, 4 * width * height + 2048).astype("<u2")
    depth = re.search(r"p(9|10|12|14)[bl]e$|gray(9|10|12|14)[bl]e$", name)
    if depth and not name.startswith("p0"):
        words &= (1 << int(depth[1] or depth[2])) - 1
    if name.startswith("xyz12"):
        words <<= 4
    return words.astype(">u2" if name.endswith("be") else "<u2").tobytes()


def frame_of(path: Path, name: str, width: int, height: int, matrix: int, colour_range: int) -> av.VideoFrame:
    path.write_bytes(raw(name, width, height))
    options = {"pixel_format": name, "video_size": f"{width}x{height}"}
    with av.open(str(path), format="rawvideo", options=options) as container:
        frame: av.VideoFrame = next(container.decode(video=0))
    frame.colorspace, frame.color_range = matrix, colour_range
    return frame


def digest(bgr: np.ndarray) -> str:
    return hashlib.sha1(np.ascontiguousarray(bgr[..., ::-1]).data).hexdigest()[:16]


@pytest.mark.parametrize("name", STORED)
def test_bytes_are_those_of_the_program_of_the_time(name: str, tmp_path: Path) -> None:
    frames = [frame_of(tmp_path / "raw", name, *kind) for kind in KINDS]
    notes = [yuv.notes_on(frame, "piped") for frame in frames]
    found = [digest(to_bgr(frame, None, "piped").pixels) for frame in frames]
    different = [kind for kind, one, stored in zip(KINDS, found, STORED[name], strict=True) if one != stored]
    assert different == [kind for kind, note in zip(KINDS, notes, strict=True) if note and kind in different]


def spread(width: int, height: int) -> Iterator[Region]:
    for y in range(-3, height, 19):
        for x in range(-3, width, 29):
            for reach in (1, 17):
                yield Region(x, y, x + reach, y + reach)


@pytest.mark.parametrize("name", STORED)
def test_a_region_is_that_part_of_the_whole(name: str, tmp_path: Path) -> None:
    for kind in ((98, 66, 9, 2), (101, 83, 1, 1)):
        frame = frame_of(tmp_path / "raw", name, *kind)
        whole = to_bgr(frame, None, "piped").pixels
        for region in spread(*kind[:2]):
            part = to_bgr(frame, region, "piped")
            assert_covers(part, region, whole)
            assert part.pixels.strides[1:] == (3, 1)


@x86_only
@pytest.mark.parametrize(
    ("name", "size", "way"),
    [
        *(("yuv420p10le", (166, 134), "formula"), ("yuv422p12le", (166, 134), "formula")),
        *(("yuv420p14le", (166, 134), yuv.CUT_OUT), ("yuv420p10be", (166, 134), yuv.CUT_OUT)),
        *(("yuv440p", (166, 134), yuv.CUT_OUT), ("gbrp10le", (165, 133), yuv.CUT_OUT)),
        *(("yuv420p10le", (165, 134), yuv.WHOLE), ("p010le", (166, 134), yuv.WHOLE)),
        ("yuv411p", (168, 134), yuv.WHOLE),
    ],
)
def test_the_quickest_way_that_is_safe_is_taken(name: str, size: tuple[int, int], way: str, tmp_path: Path) -> None:
    taken = yuv._way(frame_of(tmp_path / "raw", name, *size, 2, 0), "piped")
    assert ("formula" if isinstance(taken, yuv.Formula) else taken) == way


@pytest.mark.parametrize("pixels", ["direct", "piped"])
def test_formats_that_today_are_read_the_wrong_way_round(pixels: str, tmp_path: Path) -> None:
    """RGB of 5 and 6 bits, big endian: the same picture as little endian."""
    for name in ("rgb555", "rgb565", "bgr555", "bgr565"):
        little = frame_of(tmp_path / "raw", name + "le", 31, 17, 2, 0)
        swapped = np.frombuffer((tmp_path / "raw").read_bytes(), "<u2").astype(">u2").tobytes()
        (tmp_path / "raw").write_bytes(swapped)
        options = {"pixel_format": name + "be", "video_size": "31x17"}
        with av.open(str(tmp_path / "raw"), format="rawvideo", options=options) as container:
            big = next(container.decode(video=0))
        expected = to_bgr(little, None, pixels).pixels
        assert np.array_equal(to_bgr(big, None, pixels).pixels, expected)


@pytest.mark.parametrize("name", ["yuv420p", "yuv420p10le", "yuv444p", "nv12"])
@pytest.mark.parametrize(("tag", "like"), [(10, 9), (3, 2), (8, 2), (11, 2), (12, 2), (13, 2), (14, 2), (15, 2)])
def test_matrices_that_swscale_refuses(name: str, tag: int, like: int, tmp_path: Path) -> None:
    for pixels in ("direct", "piped"):
        odd, known = (frame_of(tmp_path / "raw", name, 64, 48, matrix, 1) for matrix in (tag, like))
        region = Region(5, 6, 40, 30)
        assert np.array_equal(to_bgr(odd, None, pixels).pixels, to_bgr(known, None, pixels).pixels)
        assert np.array_equal(to_bgr(odd, region, pixels).pixels, to_bgr(known, region, pixels).pixels)


@pytest.mark.parametrize(
    ("packed", "planar", "channels"),
    [
        ("vyu444", "yuv444p", "vyu"),
        ("uyva", "yuva444p", "uyva"),
        ("vuya", "yuva444p", "vuya"),
        ("ayuv", "yuva444p", "ayuv"),
    ],
)
def test_packed_formats_that_decoders_gave_as_planes(packed: str, planar: str, channels: str) -> None:
    made = av.VideoFrame(40, 30, packed)
    planes = np.random.default_rng(1).integers(0, 256, (4, 30, 40), np.uint8)
    by_name = dict(zip("yuva", planes, strict=True))
    rows = np.frombuffer(memoryview(made.planes[0]), np.uint8).reshape(30, -1)
    rows[:, : 40 * len(channels)] = np.stack([by_name[one] for one in channels], -1).reshape(30, -1)
    other = av.VideoFrame(40, 30, planar)
    for plane, samples in zip(other.planes, planes, strict=False):
        np.frombuffer(memoryview(plane), np.uint8).reshape(30, -1)[:, :40] = samples
    assert np.array_equal(to_bgr(made, None, "piped").pixels, to_bgr(other, None, "piped").pixels)


def test_a_packed_format_of_ten_bits() -> None:
    made, other = av.VideoFrame(40, 30, "v30xle"), av.VideoFrame(40, 30, "yuv444p10le")
    y, u, v = np.random.default_rng(1).integers(0, 1024, (3, 30, 40), np.uint32)
    np.frombuffer(memoryview(made.planes[0]), "<u4").reshape(30, -1)[:, :40] = u << 2 | y << 12 | v << 22
    for plane, samples in zip(other.planes, (y, u, v), strict=True):
        np.frombuffer(memoryview(plane), "<u2").reshape(30, -1)[:, :40] = samples
    assert np.array_equal(to_bgr(made, None, "piped").pixels, to_bgr(other, None, "piped").pixels)


def test_rows_from_the_bottom_up_are_another_kind_of_frame(tmp_path: Path) -> None:
    """What is quick and safe for frames of the same size and format would read past the planes of these."""
    region = Region(8, 8, 24, 20)
    for codec, downwards in (("mjpeg", True), ("amv", False), ("mjpeg", True)):
        path = write_clip(tmp_path / f"{codec}.avi", 1, codec=codec, pixel_format="yuvj420p", options={"strict": "-2"})
        with av.open(str(path)) as container:
            frame = next(container.decode(video=0))
        assert (frame.planes[0].line_size > 0) == downwards
        whole = frame.reformat(format="rgb24", interpolation="BICUBIC").to_ndarray()[..., ::-1]
        assert_covers(to_bgr(frame, region, "piped"), region, whole)


def test_planes_of_a_kind_that_cannot_be_converted_are_not_given() -> None:
    """What is wrong with the frame is then said by loading it, and ends no run."""
    picture = Picture(av.VideoFrame(64, 48, "yuv420p"))
    picture.frame.color_range = 3  # there is none such
    frame = VideoFrame(0, lambda index: f"f_{index}.png", picture)
    assert frame.planes() is None
    with pytest.raises(FrameError, match="its pixels \\(yuv420p\\) cannot be converted"):
        frame.load()
