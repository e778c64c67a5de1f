"""The video source: names, order, pixels of regions, damaged and foreign files."""

from __future__ import annotations

import gc
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter

from gpu_extract.errors import FrameError, InputError
from gpu_extract.frames import Frame, FrameFailure, FrameSource, open_frames
from gpu_extract.frames.sources import video
from gpu_extract.frames.video import yuv
from gpu_extract.frames.video.container import container_format
from gpu_extract.frames.video.damage import DamageTracker
from gpu_extract.frames.video.turn import UPRIGHT, Turn
from gpu_extract.frames.video.yuv import to_bgr
from gpu_extract.kernels import yuv as kernels_yuv
from gpu_extract.kernels.cutter import Planes
from gpu_extract.patch import Region
from tests.helpers import (
    CLIP,
    SITINGS,
    VECTORS,
    as_direct,
    as_piped,
    assert_covers,
    copied,
    plain_decode,
    random_frame,
    sited,
    unmarked,
    write_clip,
)


def read(path: Path, wanted: list[int], **options: object) -> tuple[dict[int, np.ndarray], dict[int, str], FrameSource]:
    pixels, failures = {}, {}
    with open_frames(path, **options) as source:  # type: ignore[arg-type]
        for frame in source.frames(np.array(wanted, np.int64)):
            assert frame.name == source.name_of(frame.index)
            if isinstance(frame, FrameFailure):
                failures[frame.index] = frame.reason
            else:
                pixels[frame.index] = frame.load().pixels
    assert list(pixels) == sorted(pixels)
    return pixels, failures, source


@pytest.mark.parametrize("name", ["clip.mp4", "clip_rgb.mkv"])
def test_all_frames_equal_a_plain_decode(name: str) -> None:
    path = VECTORS / "video" / name
    pixels, failures, source = read(path, list(range(7)))
    assert not failures
    assert source.damaged == 0
    assert all(np.array_equal(pixels[index], frame) for index, frame in enumerate(plain_decode(path)))
    stem = name.split(".")[0]
    assert source.name_of(0) == f"{stem}_000001.{name.split('.')[1]}"
    assert source.size_of(0) == pixels[0].shape[:2]


def test_keys_of_both_generations_have_an_index(tmp_path: Path) -> None:
    path = tmp_path / "my_clip.2_x.MP4"
    shutil.copy(CLIP, path)
    with open_frames(path) as source:
        assert source.index_of("my_clip.2_x_000001.png") == 0
        assert source.index_of("my_clip.2_x_000012.MP4") == 11
        assert source.index_of("my_clip.2_x_999999.mp4") == 999998
        assert source.index_of("my_clip.2_x_1000000.png") == 999999
        assert source.name_of(999999) == "my_clip.2_x_1000000.MP4"
        for foreign in (
            "my_clip.2_x_000000.png",
            "my_clip.2_x_00001.png",
            "my_clip.2_x_0000001.png",
            "my_clip.2_x_00001a.png",
            "my_clip.2_x_²²²²²².png",
            "my_clip.2_x_000001.jpg",
            "my_clip.2_x_000001",
            "other_000001.png",
            "my_clip.2_x000001.png",
            "my_clip.2_x_" + "9" * 4000 + ".png",
            "../my_clip.2_x_000001.png",
            "",
            ".png",
        ):
            assert source.index_of(foreign) is None, foreign


def test_non_ascii_name(tmp_path: Path) -> None:
    for name in ("köpfe 顔 %d.mp4", os.fsdecode(b"\xff\xfe.mp4"), "-i.mp4", "http:x.mp4"):
        shutil.copy(CLIP, tmp_path / name)
        pixels, _, _ = read(tmp_path / name, [0])
        assert np.array_equal(pixels[0], plain_decode(CLIP)[0])


def test_wanted_frames_past_the_end_are_failures() -> None:
    pixels, failures, source = read(CLIP, [5, 7, 100])
    assert list(pixels) == [5]
    assert list(failures) == [7, 100]
    assert "7 frames" in failures[7]
    assert source.frames_seen == 7


def test_decoding_stops_after_the_last_wanted_frame_if_allowed(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 200)
    _, _, stopped = read(path, [0, 1, 2])
    assert stopped.frames_seen is None
    assert stopped.frames_decoded < 60
    _, _, near_the_end = read(path, list(range(190)))
    assert near_the_end.frames_seen == 200
    _, _, finished = read(path, [0, 1, 2], skip_unwanted=False)
    assert (finished.frames_seen, finished.frames_decoded) == (200, 200)
    _, _, looked_at_first = read(path, [0, 1, 2], skip_unwanted=False, rotate=True)
    assert (looked_at_first.frames_seen, looked_at_first.frames_decoded) == (200, 200)


@pytest.mark.parametrize(
    "pixel_format",
    [
        *("yuv420p", "yuvj420p", "yuv444p", "yuv422p", "yuvj422p", "yuv411p", "yuv420p10le", "yuv422p10le"),
        *("yuv444p12le", "yuva420p", "gray", "gray10le", "gbrp", "bgr24", "nv12", "p010le", "yuv420p10be", "yuyv422"),
    ],
)
@pytest.mark.parametrize("size", [(134, 166), (83, 150), (98, 101), (2, 2), (18, 330)])
def test_a_region_equals_that_part_of_the_whole(pixel_format: str, size: tuple[int, int]) -> None:
    height, width = size
    for colorspace, color_range in ((2, 0), (1, 1), (1, 2), (5, 1), (9, 1)):
        frame = random_frame(height, width, pixel_format, colorspace, color_range)
        whole = as_direct(frame)
        frame.colorspace, frame.color_range = colorspace, color_range
        assert np.array_equal(to_bgr(frame).pixels, whole)
        for y0 in range(0, height, 17):
            for x0 in range(0, width, 23):
                for reach in (1, 8, 33):
                    region = Region(x0, y0, x0 + reach, y0 + reach)
                    assert_covers(to_bgr(frame, region), region, whole)


@pytest.mark.parametrize(
    ("pixel_format", "size", "way"),
    [
        ("yuv420p", (134, 166), yuv.Formula(kernels_yuv.COEFFICIENTS[0], kernels_yuv.Layout())),
        ("yuvj420p", (134, 166), yuv.Formula(kernels_yuv.COEFFICIENTS[5], kernels_yuv.Layout())),
        ("yuv420p", (134, 165), yuv.WHOLE),
        ("yuv422p", (134, 166), yuv.Formula(kernels_yuv.COEFFICIENTS[0], kernels_yuv.Layout(halved=False))),
        ("yuv422p", (133, 166), yuv.WHOLE),
        ("yuv444p", (133, 165), yuv.CUT_OUT),
        ("yuv444p12le", (133, 165), yuv.CUT_OUT),
        ("yuv420p10le", (134, 166), yuv.Formula(kernels_yuv.COEFFICIENTS[0], kernels_yuv.Layout(10))),
        ("yuv422p12le", (134, 166), yuv.Formula(kernels_yuv.COEFFICIENTS[0], kernels_yuv.Layout(12, False))),
        ("yuv420p10le", (133, 166), yuv.WHOLE),
        ("yuv420p10be", (134, 166), yuv.WHOLE),
        ("yuv420p14le", (134, 166), yuv.WHOLE),
        ("yuv411p", (134, 168), yuv.WHOLE),
        ("nv12", (134, 166), yuv.WHOLE),
    ],
)
def test_the_quickest_way_that_is_safe_is_taken(pixel_format: str, size: tuple[int, int], way: object) -> None:
    if not kernels_yuv.is_available():
        pytest.skip("the C extension was not built here")
    assert yuv._way(random_frame(*size, pixel_format, 2, 0), "direct") == way


def test_colour_tags_choose_the_matrix() -> None:
    if not kernels_yuv.is_available():
        pytest.skip("the C extension was not built here")
    kinds = ((1, 1), (1, 2), (5, 1), (9, 1))
    ways = {tags: yuv._way(random_frame(48, 90, "yuv420p", *tags), "direct") for tags in kinds}
    assert len(set(ways.values())) == 4


@pytest.mark.parametrize("without", ["nothing", "the extension"])
@pytest.mark.parametrize("change", ["more contrast", "neighbours", "position"])
def test_a_converter_of_another_kind_is_noticed(change: str, without: str, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = yuv._convert

    def convert(reformatter: VideoReformatter, frame: av.VideoFrame, rule: str, **how: bool) -> np.ndarray:
        pixels = honest(reformatter, frame, rule, **how)
        if change == "more contrast":
            return pixels ^ 128
        if change == "neighbours":
            return cv2.blur(pixels, (3, 3))
        return pixels + np.arange(pixels.shape[1], dtype=np.uint8)[:, None]

    monkeypatch.setattr(yuv, "_ways", {})
    monkeypatch.setattr(yuv, "_convert", convert)
    if without == "the extension":
        monkeypatch.setattr(kernels_yuv, "_yuv", None)
    frame = random_frame(134, 166, "yuv420p", 2, 0)
    assert yuv._way(frame, "direct") == (yuv.CUT_OUT if change == "more contrast" else yuv.WHOLE)
    whole = convert(VideoReformatter(), frame, "direct")
    for region in (Region(0, 0, 20, 20), Region(30, 41, 50, 61), Region(120, 100, 140, 120)):
        assert_covers(to_bgr(frame, region), region, whole)


def test_without_the_extension_swscale_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yuv, "_ways", {})
    monkeypatch.setattr(kernels_yuv, "_yuv", None)
    frame = random_frame(134, 166, "yuv420p", 5, 1)
    assert yuv._way(frame, "direct") == yuv.CUT_OUT
    whole = as_direct(frame)
    for region in (Region(0, 0, 20, 20), Region(30, 41, 50, 61), Region(120, 100, 140, 120)):
        assert_covers(to_bgr(frame, region), region, whole)


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv420p10le", "yuv422p", "yuv422p10le"])
@pytest.mark.parametrize("way", ["quickest", "whole"])
def test_interlaced_frames_are_converted_line_by_line(
    tmp_path: Path, pixel_format: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As every FFmpeg did when the hashes were made; today's gives each field its own chroma."""
    if way == "whole":
        monkeypatch.setattr(yuv, "_way", lambda frame, pixels: yuv.WHOLE)
    options = {"x264-params": "interlaced=1:tff=1"}
    height = 66 if "422" in pixel_format else 68
    path = write_clip(tmp_path / "fields.mkv", 3, (height, 96), pixel_format=pixel_format, options=options)
    region = Region(20, 10, 50, 40)
    with av.open(str(path)) as container:
        for marked in container.decode(video=0):
            assert marked.interlaced_frame
            expected = as_direct(unmarked(marked))
            assert np.array_equal(to_bgr(marked).pixels, expected)
            assert_covers(to_bgr(marked, region), region, expected)
            assert np.array_equal(to_bgr(marked, None, "piped").pixels, as_piped(marked))
            assert_covers(to_bgr(marked, region, "piped"), region, as_piped(marked))


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p", "yuv420p10le", "yuv422p10le", "yuv444p", "yuv444p10le"])
def test_regions_of_decoded_frames_equal_the_whole(tmp_path: Path, codec: str, pixel_format: str) -> None:
    """Decoded frames say where their chroma lies, which frames made here cannot."""
    path = write_clip(tmp_path / "clip.mkv", 3, (130, 166), codec=codec, pixel_format=pixel_format)
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            regions = [Region(x, y, x + 20, y + 20) for x in range(0, 166, 29) for y in (0, 31, 115)]
            parts = [to_bgr(frame, region) for region in regions]
            piped = [to_bgr(frame, region, "piped") for region in regions]
            whole = as_direct(frame)
            for part, like_then, region in zip(parts, piped, regions, strict=True):
                assert_covers(part, region, whole)
                assert_covers(like_then, region, as_piped(frame))


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p", "yuv420p10le", "yuv422p10le", "yuv420p12le"])
@pytest.mark.parametrize("size", [(48, 90), (8, 64), (130, 166)])
def test_regions_follow_where_each_frame_says_that_its_chroma_lies(pixel_format: str, size: tuple[int, int]) -> None:
    """Frames of one size and format that differ in nothing else, one after the other, in every order."""
    height, width = size
    regions = [Region(x, y, x + 33, y + 9) for x in (0, 20, width - 33) for y in (0, height // 2 - 3, height - 9)]
    for colorspace, color_range, unknown in ((1, 1, None), (5, 2, None), (9, 1, 10), (2, 2, 14)):
        frame = random_frame(height, width, pixel_format, colorspace, color_range)
        for siting in (*SITINGS, *reversed(SITINGS)):
            marked = sited(frame, siting)
            tags = yuv._tags(marked)
            whole = as_direct(marked)
            marked.colorspace = unknown or colorspace  # to swscale; it is then taken for the one before
            parts = [to_bgr(marked, region) for region in regions]
            piped = [to_bgr(marked, region, "piped") for region in regions]
            marked.colorspace = colorspace
            assert yuv._tags(marked) == tags
            for part, like_then, region in zip(parts, piped, regions, strict=True):
                assert_covers(part, region, whole)
                assert_covers(like_then, region, as_piped(marked))


def test_places_of_chroma_are_told_apart() -> None:
    """Unless the frame is converted as if it said nothing."""
    kinds = {siting: yuv._siting(sited(random_frame(48, 90, "yuv420p10le", 1, 1), siting)) for siting in SITINGS}
    assert kinds["unspecified"] == kinds["center"]
    assert len(set(kinds.values())) == len(SITINGS) - 1


@pytest.mark.parametrize("size", [(16, 16), (16, 32), (32, 16)])
def test_a_frame_of_a_size_that_is_tried_out_keeps_its_picture(size: tuple[int, int]) -> None:
    frame = random_frame(*size, "yuv420p10le")
    planes = [bytes(plane) for plane in frame.planes]
    whole = as_direct(unmarked(frame))
    assert np.array_equal(to_bgr(frame).pixels, whole)
    assert [bytes(plane) for plane in frame.planes] == planes


@pytest.mark.parametrize(
    ("pixel_format", "size"),
    [("gbrpf32le", (40, 50)), ("grayf32le", (40, 50)), ("monob", (40, 50)), ("yuv420p", (1, 50)), ("yuv420p", (50, 1))],
)
def test_unusual_frames_are_converted_whole(pixel_format: str, size: tuple[int, int]) -> None:
    frame = av.VideoFrame(size[1], size[0], pixel_format)
    for plane in frame.planes:
        plane.update(bytes(plane.buffer_size))
    whole = as_direct(frame)
    assert_covers(to_bgr(frame, Region(0, 0, 9, 9)), Region(0, 0, 9, 9), whole)


@pytest.mark.parametrize("timing", ["decoded", "constant"])
def test_a_closed_source_gives_nothing_though_it_was_looked_at(tmp_path: Path, timing: str) -> None:
    source = open_frames(write_clip(tmp_path / "clip.mkv", 9), rotate=True, timing=timing)
    source.close()
    with pytest.raises(ValueError, match="closed"):
        list(source.frames(np.arange(9)))


def test_a_region_far_outside_is_still_a_patch() -> None:
    frame = random_frame(48, 64, "yuv420p")
    whole = as_direct(frame)
    for region in (Region(-50, -50, -20, -20), Region(900, 900, 901, 950)):
        assert_covers(to_bgr(frame, region), region, whole)


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [
        ("a.mkv", "libx264", "yuv420p"),
        ("a.mov", "libx264", "yuv420p10le"),
        ("a.mp4", "libx264", "yuv444p"),
        ("a.avi", "mpeg4", "yuv420p"),
        ("a.ts", "libx264", "yuv420p"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("a.flv", "flv", "yuv420p"),
        ("a.mpg", "mpeg2video", "yuv420p"),
        ("a.vob", "mpeg2video", "yuv420p"),
        ("a.wmv", "wmv2", "yuv420p"),
        ("a.mp4", "libx265", "yuv420p"),
    ],
)
def test_containers_and_codecs(tmp_path: Path, name: str, codec: str, pixel_format: str) -> None:
    path = write_clip(tmp_path / name, 12, codec=codec, pixel_format=pixel_format)
    expected = plain_decode(path)
    pixels, failures, _ = read(path, list(range(len(expected))))
    assert not failures
    assert len(expected) == 12
    assert all(np.array_equal(pixels[index], frame) for index, frame in enumerate(expected))
    renamed = path.rename(tmp_path / "wrong.txt")
    assert len(read(renamed, [3])[0]) == 1


def test_a_change_of_size_in_mid_stream(tmp_path: Path) -> None:
    first = write_clip(tmp_path / "a.ts", 6, (48, 64), options={"tune": "zerolatency"})
    second = write_clip(tmp_path / "b.ts", 6, (64, 96), options={"tune": "zerolatency"})
    both = tmp_path / "both.ts"
    both.write_bytes(first.read_bytes() + second.read_bytes())
    expected = plain_decode(both)
    assert {frame.shape for frame in expected} == {(48, 64, 3), (64, 96, 3)}
    with open_frames(both) as source:
        for frame in source.frames(np.arange(len(expected))):
            assert isinstance(frame, Frame)
            assert (frame.height, frame.width) == expected[frame.index].shape[:2]
            region = Region(30, 20, 62, 46)
            assert_covers(frame.load(region), region, expected[frame.index])


@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_a_truncated_video_gives_what_decodes_and_names_the_rest(tmp_path: Path, keep: float) -> None:
    path = write_clip(tmp_path / "a.mkv", 60, options={"g": "10"})
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    expected = plain_decode(path)
    assert 10 < len(expected) < 60
    pixels, failures, source = read(path, list(range(60)))
    assert sorted(pixels) == list(range(len(expected)))
    assert sorted(failures) == list(range(len(expected), 60))
    assert all(np.array_equal(pixels[index], frame) for index, frame in enumerate(expected))
    assert source.frames_seen == len(expected)


@pytest.mark.parametrize("name", ["a.mp4", "a.ts"])
def test_damage_in_the_middle_is_passed_over(tmp_path: Path, name: str) -> None:
    path = write_clip(tmp_path / name, 60, options={"g": "5"})
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 600] = np.random.default_rng(1).integers(0, 256, 600, dtype=np.uint8).tobytes()
    path.write_bytes(data)
    pixels, failures, source = read(path, list(range(60)), threads=1)
    assert source.damaged > 0
    assert len(pixels) >= 40
    assert len(pixels) + len(failures) == 60
    doubted = [index for index, reason in failures.items() if "cannot be trusted" in reason]
    assert doubted
    assert source.frames_seen == len(pixels) + len(doubted)


def spoilt(path: Path, number: int) -> Path:
    """The second half of one packet overwritten."""
    with av.open(str(path)) as container:
        content = [bytes(packet) for packet in container.demux(video=0) if packet.size][number]
    data = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(data.replace(content, content[:half] + b"\xff" * (len(content) - half)))
    return path


@pytest.fixture(scope="module")
def groups_of_12(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[np.ndarray]]:
    """A clip of four groups of pictures with B-frames, and all its frames."""
    options = {"g": "12", "bf": "3", "b_strategy": "0", "sc_threshold": "0", "crf": "10"}
    path = write_clip(tmp_path_factory.mktemp("groups") / "a.mkv", 48, (96, 128), options=options)
    return path, plain_decode(path)


@pytest.mark.parametrize("skip_unwanted", [False, True])
@pytest.mark.parametrize("number", range(12, 24))
def test_what_is_predicted_from_damage_is_no_frame(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    groups_of_12: tuple[Path, list[np.ndarray]],
    number: int,
    skip_unwanted: bool,
) -> None:
    """Every packet of a group of pictures in turn; B-frames are shown before what they are predicted from."""
    monkeypatch.setattr(video, "WORTHWHILE_GAP", 0)
    monkeypatch.setattr(video, "WORTHWHILE_SHARE", 0)
    clip, whole = groups_of_12
    path = spoilt(copied(clip, tmp_path), number)
    pixels, failures, source = read(path, list(range(48)), threads=1, skip_unwanted=skip_unwanted)
    assert source.frames_seen == 48
    assert failures
    assert set(failures) <= set(range(9, 24))
    assert all("its pixels cannot be trusted" in reason for reason in failures.values())
    assert all(np.array_equal(frame, whole[index]) for index, frame in pixels.items())


class Packet:
    def __init__(self, pts: int | None, dts: int | None = None, is_corrupt: bool = False) -> None:
        self.pts, self.dts, self.is_corrupt = pts, pts if dts is None else dts, is_corrupt


class Shown:
    def __init__(self, pts: int | None, kind: str = "P", is_corrupt: bool = False) -> None:
        self.pts, self.key_frame, self.is_corrupt = pts, kind == "I", is_corrupt
        self.pict_type = PictureType[kind]


def doubted(tracker: DamageTracker, *frames: Shown) -> list[int | None]:
    taken: list[Any] = [*tracker.take(list(frames)), *tracker.finish()]  # type: ignore[arg-type]
    assert [frame for frame, _ in taken] == list(frames)
    return [frame.pts for frame, doubt in taken if doubt]


def test_doubt_begins_in_decode_order_and_ends_at_a_key_frame() -> None:
    tracker = DamageTracker()
    for pts in (0, 4, 2, 1, 3, 8, 6, 9):
        tracker.send(Packet(pts))  # type: ignore[arg-type]
    frames = [Shown(0, "I"), Shown(1, "B"), Shown(2, "B", True), Shown(3, "B"), Shown(4), Shown(6, "B"), Shown(8, "I")]
    assert doubted(tracker, *frames, Shown(9)) == [1, 2, 3, 6]


def test_doubt_without_timestamps() -> None:
    frames = [Shown(None, "I"), Shown(None, "B"), Shown(None, "P", True), Shown(None, "I"), Shown(None)]
    tracker = DamageTracker()
    for _ in frames:
        tracker.send(Packet(None))  # type: ignore[arg-type]
    taken = tracker.take(frames)  # type: ignore[arg-type]
    assert [doubt for _, doubt in taken] == [False, True, True, False, False]


def test_frames_wait_for_a_bounded_time() -> None:
    tracker = DamageTracker()
    for pts in (0, 1000, *range(1, 30)):
        tracker.send(Packet(pts, dts=0))  # type: ignore[arg-type]
    for pts in range(30):
        given = [frame.pts for frame, _ in tracker.take([Shown(pts, "B" if pts else "I")])]  # type: ignore[list-item]
        assert given == ([0] if pts == 0 else [pts - 16] if pts > 16 else [])
    assert len(list(tracker.finish())) == 16


@pytest.mark.parametrize("joined", [False, True])
def test_a_mark_counts_unless_another_stream_was_joined(joined: bool) -> None:
    tracker = DamageTracker()
    for pts in range(4):
        tracker.send(Packet(pts, is_corrupt=pts == 2))  # type: ignore[arg-type]
    tracker.send(Packet(-50 if joined else 4))  # type: ignore[arg-type]
    assert doubted(tracker, Shown(0, "I"), *map(Shown, range(1, 4))) == ([] if joined else [2, 3])


def test_a_hole_spares_what_came_before() -> None:
    tracker = DamageTracker()
    for pts in range(3):
        tracker.send(Packet(pts))  # type: ignore[arg-type]
    tracker.hole()
    for pts in range(3, 6):
        tracker.send(Packet(pts))  # type: ignore[arg-type]
    assert doubted(tracker, Shown(0, "I"), *map(Shown, range(1, 5)), Shown(5, "I")) == [3, 4]


def test_a_frame_waits_for_the_latest_of_the_packets_shortly_before_it() -> None:
    """However times go up and down, and whatever was forgotten of them since."""
    random = np.random.default_rng(3)
    steps = random.choice([-90, -7, -1, 1, 2, 40], 600, p=[0.02, 0.1, 0.2, 0.4, 0.2, 0.08])
    times = list(dict.fromkeys(np.cumsum(steps).tolist()))
    for number, pts in enumerate(times):
        latest = max(times[max(number - 31, 0) : number + 1])
        for shown in (pts, latest - 1, latest):
            tracker = DamageTracker()
            for one in times[: number + 1]:
                tracker.send(Packet(one, dts=0))  # type: ignore[arg-type]
            passed = tracker.take([Shown(pts), Shown(shown)])  # type: ignore[list-item]
            assert bool(passed) == (latest in (pts, shown)), (number, shown)


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p", "yuv420p10le", "yuv422p10le"])
@pytest.mark.parametrize("pixels", ["direct", "piped"])
def test_planes_are_what_load_converts(tmp_path: Path, pixel_format: str, pixels: str) -> None:
    if not kernels_yuv.is_available():
        pytest.skip("the C extension was not built here")
    is_deep, chroma_rows = "10" in pixel_format, 50 if "422" in pixel_format else 25

    def converted(planes: Planes) -> np.ndarray:
        return kernels_yuv.to_bgr(planes[:3], planes.strides, 0, 0, 70, 50, planes.coefficients, planes.layout)

    path = write_clip(tmp_path / "a.mp4", 3, (50, 70), pixel_format=pixel_format)
    with open_frames(path, pixels=pixels) as source:
        frames = [frame for frame in source.frames(np.arange(3)) if isinstance(frame, Frame)]
        planes = [frame.planes() for frame in frames]
        whole = [frame.load().pixels for frame in frames]
    del frames  # planes are valid without them, and after the source was closed
    assert len(planes) == 3
    for one, pixels_of_it in zip(planes, whole, strict=True):
        assert one is not None
        assert (one.height, one.width) == (50, 70)
        assert one.layout.bits == (10 if is_deep else 8)
        assert [memoryview(plane).nbytes for plane in one[:3]] == [
            rows * stride for rows, stride in zip((50, chroma_rows, chroma_rows), one.strides, strict=True)
        ]
        np.testing.assert_array_equal(converted(one), pixels_of_it)


def test_planes_that_were_repeated_are_those_of_one_picture(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 2, (32, 48))
    with open_frames(path, timing="constant") as source:
        assert [frame.planes() is None for frame in source.frames(np.arange(2))] == [  # type: ignore[union-attr]
            not kernels_yuv.is_available()
        ] * 2


@pytest.mark.parametrize(
    ("size", "pixel_format", "turn"),
    [
        ((50, 71), "yuv420p", UPRIGHT),
        ((51, 70), "yuv420p", UPRIGHT),
        ((50, 70), "yuv420p", Turn(True, False, False)),
        ((50, 71), "yuv422p", UPRIGHT),
        ((50, 71), "yuv420p10le", UPRIGHT),
        ((50, 70), "yuv420p10be", UPRIGHT),
        ((50, 70), "nv12", UPRIGHT),
        ((50, 70), "bgr24", UPRIGHT),
        ((4, 4), "yuv420p", UPRIGHT),
    ],
)
def test_there_are_no_planes_where_the_formula_does_not_give_the_pixels(
    size: tuple[int, int], pixel_format: str, turn: Turn
) -> None:
    frame = video.VideoFrame(0, str, video.Picture(random_frame(*size, pixel_format)), turn)
    assert frame.planes() is None


FOREIGN = {
    "hls.mp4": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/etc/passwd\n#EXT-X-ENDLIST\n",
    "concat.mp4": b"ffconcat version 1.0\nfile '/etc/passwd'\n",
    "dash.mp4": b"<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'></MPD>",
    "sdp.mp4": b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
    "text.mkv": b"hello",
    "empty.mp4": b"",
    "image.mp4": b"\x89PNG\r\n\x1a\n" + bytes(64),
    "%06d.mp4": b"\xff\xd8\xff\xe0" + bytes(64),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_playlists_and_other_files_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FOREIGN[name])
    with pytest.raises(
        InputError, match=r"not a video in a known container|is no video; it is (a (PNG|JPEG) image\.$|empty )"
    ):
        open_frames(tmp_path / name)


def test_headers_without_a_video_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(CLIP.read_bytes()[:100])
    with pytest.raises(InputError, match="cannot be read"):
        open_frames(tmp_path / "a.mp4")
    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(InputError, match="no video stream"):
        open_frames(tmp_path / "sound.mkv")


def test_a_video_without_frames_is_an_input_error(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 2)
    data = path.read_bytes()
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    path.write_bytes(data[:start] + bytes(end - start) + data[end:])
    with open_frames(path) as source, pytest.raises(InputError, match="no frame of the video"):
        list(source.frames(np.arange(2)))


def test_frames_of_absurd_size_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "a.mp4", 3, (96, 128))
    monkeypatch.setattr(video, "MAX_PIXELS", 96 * 127)
    with open_frames(path) as source, pytest.raises(InputError, match="no frame of the video"):
        list(source.frames(np.arange(2)))


@pytest.mark.parametrize("head", [b"", b"G", b"\x47" * 3, b"RIFF", bytes(2048), b"\x00\x00\x01"])
def test_short_heads_are_no_container(head: bytes) -> None:
    assert container_format(head) is None


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def _no_leaks() -> Iterator[None]:
    gc.collect()
    files, threads = open_files(), threading.active_count()
    yield
    gc.collect()
    assert open_files() == files
    assert threading.active_count() == threads


@pytest.mark.usefixtures("_no_leaks")
def test_closing_in_mid_iteration_frees_everything() -> None:
    tasks = len(list(Path("/proc/self/task").iterdir()))
    for _ in range(30):
        source = open_frames(CLIP, threads=2)
        frames = source.frames(np.arange(7))
        first = next(frames)
        assert isinstance(first, Frame)
        source.close()
        source.close()
        assert list(frames) == [] or all(isinstance(frame, FrameFailure) for frame in frames)
        assert first.load().pixels.shape == (240, 320, 3)
    del first, frames, source
    gc.collect()
    assert len(list(Path("/proc/self/task").iterdir())) <= tasks + 1


def test_a_source_can_be_walked_again() -> None:
    with open_frames(CLIP) as source:
        for _ in range(3):
            frames = [frame.load().pixels for frame in source.frames(np.array([1, 6])) if isinstance(frame, Frame)]
            assert len(frames) == 2
            assert np.array_equal(frames[1], plain_decode(CLIP)[6])
    with pytest.raises(ValueError, match="closed"):
        list(source.frames(np.array([1])))


def test_pixels_that_cannot_be_converted_are_a_frame_error() -> None:
    from gpu_extract.frames.sources.video import Picture, VideoFrame

    frame = VideoFrame(0, str, Picture(av.VideoFrame(16, 16, "bgr4")))
    with pytest.raises(FrameError, match="cannot be converted"):
        frame.load()
