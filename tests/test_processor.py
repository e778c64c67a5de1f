"""Videos on processors for which FFmpeg has code that rounds otherwise: the pixels of x86-64, or a note.

The other processor is made up here: its swscale is that of x86-64, off by up to two levels, and interpolates chroma
between rows as aarch64 does.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter

from gpu_extract import extract
from gpu_extract.demo.clip import make_clip
from gpu_extract.frames import Frame, open_frames
from gpu_extract.frames.video import processor, yuv
from gpu_extract.frames.video.planes import samples
from gpu_extract.jobs import doctor
from gpu_extract.kernels import yuv as kernels_yuv
from tests.helpers import SITINGS, copied, files_in, random_frame, sited, write_clip

pytestmark = [
    pytest.mark.skipif(not processor.is_x86(), reason="held against the code for x86-64"),
    pytest.mark.skipif(not kernels_yuv.is_available(), reason="the C extension was not built here"),
]

FORMATS = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv420p9le", "yuv420p10le", "yuv420p12le", "yuv422p10le")
MATRICES = (0, 1, 2, 4, 5, 7, 9, 10, 14)
Convert = Callable[..., np.ndarray]
honest: Convert = yuv._convert


def off(pixels: np.ndarray) -> np.ndarray:
    """Off by -2 to 2 levels, the same ones for the same pixels in the same place."""
    rows, columns = np.ogrid[: pixels.shape[0], : pixels.shape[1]]
    shift = ((rows * 7 + columns * 3)[..., None] + pixels) % 5 - 2
    moved: np.ndarray = np.clip(pixels + shift, 0, 255).astype(np.uint8)
    return moved


def between_rows(reformatter: VideoReformatter, frame: av.VideoFrame, pixels: str, **how: bool) -> np.ndarray:
    """Of the frame with each row of chroma mixed with the next."""
    chroma = [samples(plane).view("<u2") for plane in frame.planes[1:]]
    kept = [plane.copy() for plane in chroma]
    for plane, old in zip(chroma, kept, strict=True):
        plane[:-1] = (old[:-1].astype(np.int64) * 3 + old[1:]) // 4
    try:
        return honest(reformatter, frame, pixels, **how)
    finally:
        for plane, old in zip(chroma, kept, strict=True):
            plane[:] = old


def foreign(reformatter: VideoReformatter, frame: av.VideoFrame, pixels: str, **how: bool) -> np.ndarray:
    name = frame.format.name
    if name in yuv._DEEP_FORMATS and pixels == "piped":
        return honest(reformatter, frame, pixels, **how)
    if name in yuv._DEEP_FORMATS and "420" in name:
        return off(between_rows(reformatter, frame, pixels, **how))
    return off(honest(reformatter, frame, pixels, **how))


@pytest.fixture
def move(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Continue on another processor."""

    def to_another(convert: Convert = foreign) -> None:
        monkeypatch.setattr(platform, "machine", lambda: "aarch64")
        monkeypatch.setattr(yuv, "_convert", convert)
        monkeypatch.setattr(yuv, "_ways", {})

    return to_another


def kinds(name: str) -> list[tuple[tuple[int, int], int, int, str]]:
    """Sizes, matrices, ranges and places of chroma."""
    places = SITINGS if name in yuv._DEEP_FORMATS else ("unspecified",)
    tags = [((48, 90), matrix, colour_range, "unspecified") for matrix in MATRICES for colour_range in (0, 1, 2)]
    sizes = [((height, width), 1, 1, "left") for height, width in ((8, 8), (14, 8), (16, 16), (16, 32), (130, 46))]
    return tags + sizes + [((34, 26), 9, 2, place) for place in places]


@pytest.mark.parametrize("pixels", ["direct", "piped"])
@pytest.mark.parametrize("name", FORMATS)
def test_the_formula_is_the_one_that_x86_needs(name: str, pixels: str, move: Callable[..., None]) -> None:
    frames = []
    for size, matrix, colour_range, place in kinds(name):
        frame = random_frame(*size, name, 2 if matrix in (10, 14) else matrix, colour_range)
        if place != "unspecified" and name in yuv._DEEP_FORMATS:
            frame = sited(frame, place)
        frame.colorspace, frame.color_range = matrix, colour_range
        frames.append(frame)
    needed = [yuv._way(frame, pixels) for frame in frames]
    expected = [yuv.to_bgr(frame, None, pixels).pixels for frame in frames]
    by_four_rows = pixels == "piped" and "420" in name and name in yuv._DEEP_FORMATS
    few_rows = [by_four_rows and frame.height < 14 for frame in frames]
    assert [isinstance(way, yuv.Formula) for way in needed] == [not few for few in few_rows]
    move()
    assert [yuv._way(frame, pixels) for frame in frames] == needed
    for frame, whole in zip(frames, expected, strict=True):
        assert np.array_equal(yuv.to_bgr(frame, None, pixels).pixels, whole)
    assert [bool(yuv.notes_on(frame, pixels)) for frame in frames] == few_rows


def far(reformatter: VideoReformatter, frame: av.VideoFrame, pixels: str, **how: bool) -> np.ndarray:
    return off(honest(reformatter, frame, pixels, **how)) ^ 16


def of_another_matrix(reformatter: VideoReformatter, frame: av.VideoFrame, pixels: str, **how: bool) -> np.ndarray:
    kept, frame.colorspace = frame.colorspace, 1
    try:
        return off(honest(reformatter, frame, pixels, **how))
    finally:
        frame.colorspace = kept


@pytest.mark.parametrize("convert", [far, of_another_matrix])
@pytest.mark.parametrize("name", ["yuv420p", "yuv422p", "yuv420p10le"])
def test_what_is_not_near_is_left_to_ffmpeg_and_noted(name: str, convert: Convert, move: Callable[..., None]) -> None:
    move(convert)
    frame = random_frame(48, 90, name, 5, 1)
    assert not isinstance(yuv._way(frame, "direct"), yuv.Formula)
    (note,) = yuv.notes_on(frame, "direct")
    assert note == (
        f"frames of this kind ({name}, 90 x 48) are converted by FFmpeg's code for this processor (aarch64), whose "
        "pixels may be a level or two away from those of x86-64, and more at edges of colours; hashes that were stored "
        "there may not come out again."
    )
    assert np.array_equal(yuv.to_bgr(frame).pixels, convert(VideoReformatter(), frame, "direct"))


def test_a_place_of_chroma_that_nobody_knows_is_left_to_ffmpeg(
    monkeypatch: pytest.MonkeyPatch, move: Callable[..., None]
) -> None:
    move()
    frame = random_frame(48, 90, "yuv420p10le", 1, 1)
    monkeypatch.setattr(yuv, "_PLACES", {"top": (False, 0)})
    assert not isinstance(yuv._way(sited(frame, "left"), "direct"), yuv.Formula)
    assert isinstance(yuv._way(sited(frame, "top"), "direct"), yuv.Formula)


@pytest.mark.parametrize(
    ("name", "size", "noted"),
    [
        *(("yuv420p", (47, 90), True), ("yuva420p", (48, 90), True), ("nv12", (48, 90), True)),
        *(("yuv411p", (48, 88), True), ("yuv420p10be", (48, 90), True), ("yuv420p", (48, 90), False)),
        *(("yuv444p", (48, 90), False), ("gbrp", (47, 90), False), ("bgr24", (48, 90), False)),
        *(("gray10le", (48, 90), False), ("yuv444p12le", (48, 90), False)),
    ],
)
def test_only_subsampled_chroma_without_a_formula_is_noted(
    name: str, size: tuple[int, int], noted: bool, move: Callable[..., None]
) -> None:
    frame = random_frame(*size, name)
    assert yuv.notes_on(frame, "direct") == ()
    move()
    assert len(yuv.notes_on(frame, "direct")) == noted


def test_without_the_extension_every_subsampled_format_is_noted(
    monkeypatch: pytest.MonkeyPatch, move: Callable[..., None]
) -> None:
    monkeypatch.setattr(kernels_yuv, "_yuv", None)
    move()
    assert len(yuv.notes_on(random_frame(48, 90, "yuv420p"), "direct")) == 1
    assert yuv.formats_like_x86() == []


def bgr(path: Path, pixels: str) -> tuple[list[np.ndarray], list[bool], list[str]]:
    """Of all frames: pixels, whether there are planes; and the notes."""
    with open_frames(path, pixels=pixels) as source:
        frames = [frame for frame in source.frames(np.arange(3)) if isinstance(frame, Frame)]
        found = [frame.load().pixels for frame in frames]
        return found, [frame.planes() is not None for frame in frames], [*source.notes]


@pytest.mark.parametrize("pixels", ["direct", "piped"])
@pytest.mark.parametrize(
    ("codec", "pixel_format", "size"),
    [
        *(("libx264", "yuv420p", (48, 90)), ("libx264", "yuv422p", (48, 90)), ("libx264", "yuv420p10le", (48, 90))),
        *(("libx265", "yuv420p12le", (48, 90)), ("libx264", "yuv422p10le", (48, 90)), ("ffv1", "yuv420p9le", (16, 32))),
        ("libx264", "yuv444p", (48, 90)),
    ],
)
def test_a_video_gives_the_pixels_of_x86(
    codec: str, pixel_format: str, size: tuple[int, int], pixels: str, tmp_path: Path, move: Callable[..., None]
) -> None:
    path = write_clip(tmp_path / "a.mkv", 3, size, codec, pixel_format=pixel_format)
    expected, planes, notes = bgr(path, pixels)
    assert notes == []
    if pixel_format == "yuv444p":
        move(honest)
    else:
        move()
    found, found_planes, notes = bgr(path, pixels)
    assert notes == []
    assert found_planes == planes
    assert len(found) == 3
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one, other)


def test_a_video_is_noted_once_and_read_as_before(tmp_path: Path, move: Callable[..., None]) -> None:
    path = write_clip(tmp_path / "a.mkv", 3, (47, 90), "ffv1", pixel_format="yuv420p")
    move()
    with open_frames(path, timing="constant", pixels="piped") as source:
        frames = [frame for frame in source.frames(np.arange(3)) if isinstance(frame, Frame)]
        assert len(frames) == source.frames_decoded == 3
        (note,) = source.notes
    assert "(yuv420p, 90 x 47)" in note


def test_a_video_whose_colours_cannot_be_converted_opens_without_a_note(
    tmp_path: Path, move: Callable[..., None]
) -> None:
    def refuse(*arguments: Any, **how: Any) -> np.ndarray:
        raise ValueError("colours of no kind")

    path = write_clip(tmp_path / "a.mkv", 3, pixel_format="yuv420p")
    move(refuse)
    with open_frames(path) as source:
        assert tuple(source.notes) == ()


def test_a_run_makes_the_faces_of_x86(tmp_path: Path, move: Callable[..., None]) -> None:
    clip = make_clip(tmp_path, 8)
    here = copied(clip.alignments, tmp_path / "here")
    there = copied(clip.alignments, tmp_path / "there")
    expected = extract(here, clip.video, tmp_path / "here" / "faces", size=64)
    move()
    found = extract(there, clip.video, tmp_path / "there" / "faces", size=64)
    assert found.notes == expected.notes
    assert found.faces_written == expected.faces_written > 0
    pictures = [
        {name: data for name, data in files_in(tmp_path / place / "faces").items() if name.endswith(".png")}
        for place in ("here", "there")
    ]
    assert pictures[0] == pictures[1] != {}
    assert here.read_bytes() == there.read_bytes()


@pytest.mark.parametrize(
    ("codec", "name"), [("mpeg2video", "a.ts"), ("mjpeg", "a.avi"), ("mpeg4", "a.mp4"), ("libx264", "b.mp4")]
)
def test_the_portable_transform_is_that_of_x86(codec: str, name: str, tmp_path: Path) -> None:
    pixel_format = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = write_clip(tmp_path / name, 12, (48, 90), codec, pixel_format=pixel_format, options={"strict": "-2"})
    decoded = []
    for options in ({}, {"idct": "simple"}):
        with av.open(str(path)) as container:
            container.streams.video[0].codec_context.options = options
            decoded.append([[bytes(plane) for plane in frame.planes] for frame in container.decode(video=0)])
    assert decoded[0] == decoded[1]
    assert len(decoded[0]) == 12


def test_decoders_are_told_where_they_would_transform_otherwise(move: Callable[..., None]) -> None:
    assert processor.decoder_options() == {}
    move()
    assert processor.decoder_options() == {"idct": "simple"}


def test_doctor_says_which_videos_are_those_of_x86(move: Callable[..., None]) -> None:
    findings = doctor.examine(device="cpu")
    assert findings.pixels is None
    assert "\npixels " not in findings.table()
    move()
    findings = doctor.examine(device="cpu")
    formats = ", ".join(sorted(yuv._FORMULA_FORMATS))
    assert findings.pixels == (
        f"of videos with even sides, {formats}: as on x86-64; other 4:2:0 and 4:2:2: a few levels away, other hashes"
    )
    assert f"\npixels    {findings.pixels}\n" in findings.table()
