"""Leaving parts of a video undecoded: the frames that are decoded must be the ones a full decode gives."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from gpu_extract.frames import FrameFailure, open_frames
from gpu_extract.frames.sources import video
from gpu_extract.frames.sources.video import VideoSource
from gpu_extract.frames.video.bitstream import DoubtError, packet_reader, sequences
from gpu_extract.frames.video.index import read_index
from tests.helpers import plain_decode, write_frames

HEIGHT, WIDTH = 48, 64
COUNT = 70


@pytest.fixture(autouse=True)
def _always_worthwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "WORTHWHILE_GAP", 0)
    monkeypatch.setattr(video, "WORTHWHILE_SHARE", 0)


def numbered(number: int) -> np.ndarray:
    """[H, W, 3] RGB: a moving texture with grain, its number in a corner."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    waves = [np.sin((x * (2 + c) + number * 7) / 19) + np.cos((y * (3 - c) - number * 5) / 13) for c in range(3)]
    pixels = (np.stack(waves, -1) + 2) * 60
    pixels[:8, :8] = number * 2 % 250
    return (pixels + np.random.default_rng(number).integers(0, 12, pixels.shape)).astype(np.uint8)


def write(
    path: Path,
    codec: str = "libx264",
    pts: Callable[[int], int] = lambda number: number * 40,
    sound: bool = False,
    pixel_format: str = "yuv420p",
    count: int = COUNT,
    **options: str,
) -> Path:
    return write_frames(
        path,
        ((numbered(number), pts(number)) for number in range(count)),
        codec,
        pixel_format,
        options={name.replace("_", "-"): value for name, value in options.items()},
        fine_times=codec != "mpeg2video",
        sound=sound,
    )


def read(path: Path, wanted: list[int], **options: object) -> tuple[dict[int, np.ndarray], VideoSource]:
    frames = {}
    with open_frames(path, **options) as source:  # type: ignore[arg-type]
        assert isinstance(source, VideoSource)
        for frame in source.frames(np.array(wanted)):
            assert not isinstance(frame, FrameFailure), frame.reason
            frames[frame.index] = frame.load().pixels
    assert list(frames) == wanted
    return frames, source


def wanted_sets(count: int) -> list[list[int]]:
    random = np.random.default_rng(count)
    sets = [[0], [count - 1], [count // 2], [0, count - 1], list(range(7, count, 25)), list(range(count - 9, count))]
    sets += [[number] for number in range(30, min(50, count), 3)]
    sets += [sorted(random.choice(count, size, replace=False).tolist()) for size in (2, 5, 9)]
    return sets


def assert_exact(path: Path, **options: object) -> tuple[list[str], int]:
    """Checks every set of wanted frames; gives what `skipping` said, and the fewest frames decoded for one frame."""
    expected = plain_decode(path)
    said, fewest = [], len(expected)
    for wanted in wanted_sets(len(expected)):
        frames, source = read(path, wanted, **options)
        for index, pixels in frames.items():
            assert np.array_equal(pixels, expected[index]), (wanted, index, source.skipping)
        said.append(source.skipping)
        if len(wanted) == 1:
            fewest = min(fewest, source.frames_decoded)
    return said, fewest


def late(number: int) -> int:
    return number * 40 + 123_456


def variable(number: int) -> int:
    return number * 40 + number * number // 3 + (17 if number % 5 == 0 else 0)


H264: dict[str, dict[str, Any]] = {  # of texts; Any, for they go to `write` among keywords of other types
    "plain": {"g": "12"},
    "b-frames": {"g": "12", "bf": "3", "b_pyramid": "2", "refs": "4"},
    "open": {"g": "10", "bf": "3", "x264_params": "open-gop=1:keyint=10:min-keyint=4:scenecut=0:b-adapt=0"},
    "no b-frames": {"g": "15", "bf": "0", "tune": "zerolatency"},
    "slices": {"g": "12", "slices": "4"},
    "one keyframe": {"g": "9999", "x264_params": "scenecut=0"},
    "all keyframes": {"g": "1"},
    "refresh": {"x264_params": "intra-refresh=1:keyint=12:scenecut=0"},
}


@pytest.mark.parametrize("extension", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("kind", H264)
def test_h264(tmp_path: Path, kind: str, extension: str) -> None:
    path = write(tmp_path / f"a.{extension}", **H264[kind])
    said, fewest = assert_exact(path)
    assert set(said) == {"done"}
    if kind in ("plain", "b-frames", "open", "no b-frames", "slices"):
        assert fewest <= 6
    if kind == "all keyframes":
        assert fewest == 1


@pytest.mark.parametrize("extension", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("pts", [late, variable])
@pytest.mark.parametrize("kind", ["b-frames", "open"])
def test_late_start_and_variable_rate(tmp_path: Path, extension: str, pts: Callable[[int], int], kind: str) -> None:
    path = write(tmp_path / f"a.{extension}", pts=pts, **H264[kind])
    said, _ = assert_exact(path)
    assert set(said) == {"done"}


@pytest.mark.parametrize("extension", ["mp4", "mkv", "ts"])
def test_interleaved_sound(tmp_path: Path, extension: str) -> None:
    said, _ = assert_exact(write(tmp_path / f"a.{extension}", sound=True, **H264["open"]))
    assert set(said) == {"done"}


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mkv", "libx265", {"x265_params": "keyint=12:min-keyint=4:open-gop=1:log-level=none"}),
        ("a.mp4", "libx265", {"x265_params": "keyint=12:open-gop=0:bframes=4:log-level=none"}),
        ("a.mkv", "libx265", {"x265_params": "keyint=16:temporal-layers=3:bframes=4:log-level=none"}),
        ("a.webm", "libvpx-vp9", {"g": "12", "cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "12"}),
        ("a.mkv", "mjpeg", {}),
        ("a.mkv", "ffv1", {"g": "8"}),
    ],
)
def test_other_codecs(tmp_path: Path, name: str, codec: str, options: dict[str, Any]) -> None:
    pixel_format = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = write(tmp_path / name, codec, pixel_format=pixel_format, **options)
    said, fewest = assert_exact(path)
    assert set(said) == {"done"}
    assert fewest <= 9


@pytest.mark.parametrize(
    ("name", "codec", "reason"),
    [
        ("a.avi", "mpeg4", "avi files have no reliable timestamps"),
        ("a.mpg", "mpeg2video", "mpeg files have no reliable timestamps"),
        ("a.flv", "libx264", "flv files have no reliable timestamps"),
        ("a.mp4", "mpeg4", "the codec mpeg4"),
        ("a.webm", "libvpx", "the codec vp8"),
    ],
)
def test_what_cannot_be_indexed_is_decoded_whole(tmp_path: Path, name: str, codec: str, reason: str) -> None:
    said, _ = assert_exact(write(tmp_path / name, codec, g="12"))
    assert all(reason in text for text in said)


def edited(path: Path, frames: int) -> Path:
    """The same mp4, its edit list begun some frames later."""
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 4
    assert struct.unpack_from(">II", data, at) == (0, 1)
    (media_time,) = struct.unpack_from(">i", data, at + 12)
    scale = struct.unpack_from(">I", data, data.index(b"mdhd") + 16)[0]
    struct.pack_into(">i", data, at + 12, media_time + frames * 40 * scale // 1000)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("frames", [1, 5, 12, 17])
@pytest.mark.parametrize("kind", ["b-frames", "open", "no b-frames"])
def test_edit_lists_that_cut_the_beginning(tmp_path: Path, frames: int, kind: str) -> None:
    path = edited(write(tmp_path / "a.mp4", **H264[kind]), frames)
    assert len(plain_decode(path)) == COUNT - frames
    assert_exact(path)


@pytest.mark.parametrize("extension", ["mp4", "mkv"])
def test_times_that_an_avi_gave_to_pictures_are_not_relied_on(tmp_path: Path, extension: str) -> None:
    """AVI knows times of decoding only; copied from one, B-frames are shown by those, and come in another order."""
    path = tmp_path / f"copied.{extension}"
    with av.open(str(write(tmp_path / "a.mp4", bf="2", g="12"))) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            packet.pts = packet.dts = round(number / 25 / packet.time_base)
            packet.stream = stream
            target.mux(packet)
    messages, _ = assert_exact(path)
    assert {message.partition(":")[0] for message in messages} == {"not possible"}


def test_streams_joined_without_care(tmp_path: Path) -> None:
    first, second = (write(tmp_path / f"{name}.ts", count=40, **H264["b-frames"]).read_bytes() for name in "ab")
    (tmp_path / "both.ts").write_bytes(first + second)
    said, _ = assert_exact(tmp_path / "both.ts")
    assert all(text.startswith("not possible") for text in said)


def test_a_stream_that_begins_in_mid_group(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ts", **H264["open"])
    data = path.read_bytes()
    path.write_bytes(data[: 188 * 3] + data[188 * (len(data) // 188 // 3) :])
    said, _ = assert_exact(path)
    assert "done" not in said


def test_a_packet_cut_short_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", **H264["b-frames"])
    data = bytearray(path.read_bytes())
    middle = data.index(b"mdat") + len(data) // 2
    data[middle : middle + 900] = bytes(900)
    path.write_bytes(data)
    with open_frames(path) as source:
        frames = [frame.index for frame in source.frames(np.array([3, 60])) if not isinstance(frame, FrameFailure)]
        assert isinstance(source, VideoSource)
        assert source.skipping.startswith("not possible")
    assert 3 in frames


def test_damage_in_a_decoded_part_ends_the_skipping(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", **H264["b-frames"])
    with av.open(str(path)) as container:
        keyframes = [packet for packet in container.demux(video=0) if packet.size and packet.is_keyframe]
        pos, pts = keyframes[3].pos, keyframes[3].pts
        assert pos is not None
        assert pts is not None
        spot = pos + keyframes[3].size // 2
        entry = pts * keyframes[3].time_base * 25
    data = bytearray(path.read_bytes())
    data[spot : spot + 60] = b"\xa5" * 60
    path.write_bytes(data)
    expected = plain_decode(path)
    with open_frames(path) as source:
        assert isinstance(source, VideoSource)
        first, second = source.frames(np.array([2, round(entry) + 1]))
        assert source.skipping.startswith("given up")
        assert source.damaged > 0
    assert not isinstance(first, FrameFailure)
    assert np.array_equal(first.load().pixels, expected[2])
    assert isinstance(second, FrameFailure)
    assert "its pixels cannot be trusted" in second.reason


def test_a_wrong_index_is_given_up_and_no_wrong_frame_comes_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.mp4", **H264["b-frames"])
    expected = plain_decode(path)

    def shifted(container: object, stream: object, closed: object, clock: object) -> object:
        index = read_index(container, stream, closed, clock)  # type: ignore[arg-type]
        late_entries = index.entry & (np.arange(len(index.pts)) > 40)
        wrong = np.flatnonzero(late_entries)
        index.entry[wrong + 1] = True  # claims that decoding may begin at a predicted picture
        index.pts[wrong[0] + 3] += 1
        return index

    monkeypatch.setattr(video, "read_index", shifted)
    said = []
    for wanted in ([5, 50, 60, 69], [65, 66], [62], [45]):
        frames, source = read(path, wanted)
        assert all(np.array_equal(frames[index], expected[index]) for index in wanted)
        said.append(source.skipping[:8])
    assert said.count("given up") >= 2


def test_frames_past_the_end_are_failures(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", **H264["b-frames"])
    with open_frames(path) as source:
        frames = list(source.frames(np.array([3, COUNT, COUNT + 7])))
        assert source.frames_seen == COUNT
    assert [isinstance(frame, FrameFailure) for frame in frames] == [False, True, True]


def test_skipping_can_be_forbidden(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", **H264["b-frames"])
    _, source = read(path, [5, 60], skip_unwanted=False)
    assert (source.frames_seen, source.frames_decoded) == (COUNT, COUNT)


def test_closing_in_mid_stretch_ends_the_iteration(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", **H264["b-frames"])
    source = open_frames(path)
    frames = source.frames(np.array([5, 40, 65]))
    assert next(frames).index == 5
    source.close()
    assert list(frames) == []


@pytest.mark.parametrize(
    ("packet", "message"),
    [
        (b"\0\0\0\x05\x65abc", "do not fill"),
        (b"\0\0\0\0", "do not fill"),
        (b"\0\0\0\2\x80\0", "first bit"),
        (b"\0\0\0\2\x06\x80", "no picture"),
        (b"\0\0\0\2\x02\0", "partitions"),
    ],
)
def test_broken_h264_packets_raise_doubt(packet: bytes, message: str) -> None:
    with pytest.raises(DoubtError, match=message):
        packet_reader("h264", b"\x01\x42\0\x0a\xff\xe0\0")(memoryview(packet), True)


def hvcc(*arrays: tuple[int, list[bytes]]) -> bytes:
    """A configuration record of HEVC whose units have lengths of four bytes."""
    record = b"\x01" + bytes(20) + b"\x03" + bytes([len(arrays)])
    for kind, units in arrays:
        record += bytes([0x80 | kind]) + len(units).to_bytes(2, "big")
        record += b"".join(len(unit).to_bytes(2, "big") + unit for unit in units)
    return record


def sized(*units: bytes) -> memoryview:
    return memoryview(b"".join(len(unit).to_bytes(4, "big") + unit for unit in units))


def test_sequences_of_hevc_are_found_wherever_they_stand() -> None:
    one, other, deeper = b"\x42\x01\x05", b"\x42\x01\x06", b"\x42\x09\x07"  # the last one of a layer above
    picture, record = b"\x26\x01\xaf", hvcc((32, [b"\x40\x01\x0c"]), (33, [one]))
    assert sequences("hevc", record, [sized(picture), sized(picture)]) == {one}
    assert sequences("hevc", record, [sized(one, deeper, picture)]) == {one}
    assert sequences("hevc", record, [sized(picture), sized(other, picture)]) == {one, other}
    assert sequences("hevc", hvcc((33, [one, other])), []) == {one, other}
    packets = [memoryview(b"\0\0\0\1" + unit + b"\0\0\1" + picture) for unit in (one, one + b"\0")]
    assert sequences("hevc", b"", packets) == {one}
    assert sequences("hevc", b"\0\0\0\1" + other, packets) == {one, other}
    for broken in (hvcc((33, [one]))[:25], hvcc((33, [one]))[:24], record[:22] + b"\x03" + record[23:]):
        with pytest.raises(DoubtError, match="end early"):
            sequences("hevc", broken, [])
    with pytest.raises(DoubtError, match="do not fill"):
        sequences("hevc", record, [memoryview(b"\0\0\0\x09\x42\x01")])


def test_sequences_of_av1_are_those_of_its_packets() -> None:
    """Beside the stream an encoder may put another one than it begins with, which then counts for nothing."""
    one, other, frame = b"\x0a\x02\x11\x22", b"\x0a\x02\x11\x23", b"\x32\x81\x00\x55"
    beside = b"\x81\0\0\0" + other
    assert sequences("av1", beside, [memoryview(one + frame), memoryview(frame), memoryview(one)]) == {b"\x11\x22"}
    assert sequences("av1", beside, [memoryview(frame), memoryview(frame)]) == {b"\x11\x23"}
    assert len(sequences("av1", beside, [memoryview(frame), memoryview(one)])) == 2
    assert sequences("av1", b"", [memoryview(b"\x0c\x77\x11\x22")]) == {b"\x11\x22"}  # extended, to the end
    for broken in (b"\x0a\x03\x11", b"\x0a", b"\x0a" + b"\x80" * 9, b"\x8a\x01\x11", b"\x0c"):
        with pytest.raises(DoubtError):
            sequences("av1", b"", [memoryview(broken)])


def test_sequences_of_other_codecs_raise_doubt() -> None:
    with pytest.raises(DoubtError, match="the codec vp8"):
        sequences("vp8", b"", [])


def test_gradual_refresh_is_no_entry() -> None:
    read_packet = packet_reader("h264", b"\x01\x42\0\x0a\xff\xe0\0")

    def sei(first_bits: int) -> bytes:
        unit = bytes((6, 6, 1, first_bits, 0x80))
        return len(unit).to_bytes(4, "big") + unit + b"\0\0\0\2\x41\x9a"

    assert read_packet(memoryview(sei(0b11000000)), True).entry
    assert not read_packet(memoryview(sei(0b10000000)), True).entry  # not exact
    assert not read_packet(memoryview(sei(0b00100110)), True).entry  # exact, but only four frames later
    assert not read_packet(memoryview(sei(0b11000000)), False).entry
