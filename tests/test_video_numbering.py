"""Old frames of videos: constant-rate numbers (docs/formats.md#timing), turned pictures (docs/formats.md#rotation)."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from gpu_extract.frames import FrameFailure, open_frames
from gpu_extract.frames.sources import video
from gpu_extract.frames.video.mp4 import has_composition_offsets
from gpu_extract.frames.video.timing import ConstantRate, constant_rate_frames
from gpu_extract.frames.video.turn import UPRIGHT, Turn, turn_of_matrix
from gpu_extract.patch import Patch, Region, whole_frame
from tests.helpers import assert_covers, plain_decode, write_frames

HEIGHT, WIDTH = 48, 80


def write(
    path: Path, times: list[int], options: dict[str, str] | None = None, mux: dict[str, str] | None = None
) -> Path:
    """times: milliseconds."""
    random = np.random.default_rng(0)
    coarse = (random.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8) for _ in times)
    frames = ((pixels.repeat(8, 0).repeat(8, 1), time) for pixels, time in zip(coarse, times, strict=True))
    return write_frames(path, frames, options=options or {"g": "12", "bf": "2"}, mux=mux, fine_times=True)


def shown(path: Path, count: int, **options: object) -> list[int | None]:
    """For each frame, the number of the decoded frame that it equals; None where there is no frame."""
    expected = plain_decode(path)
    numbers: list[int | None] = []
    with open_frames(path, timing="constant", **options) as source:  # type: ignore[arg-type]
        for frame in source.frames(np.arange(count)):
            assert frame.index == len(numbers)
            if isinstance(frame, FrameFailure):
                numbers.append(None)
            else:
                (number,) = (n for n, pixels in enumerate(expected) if np.array_equal(pixels, frame.load().pixels))
                numbers.append(number)
    return numbers


def outputs(
    times: list[float],
    lengths: list[float] | float = 1.0,
    rate: int = 25,
    only_stream: bool = False,
) -> list[int]:
    """times, lengths: in frames of the constant rate."""
    lengths = lengths if isinstance(lengths, list) else [lengths] * len(times)
    clock = ConstantRate(Fraction(rate), Fraction(1, 1000 * rate), only_stream)
    pts = np.array([round(time * 1000) for time in times])
    found: list[int] = constant_rate_frames(pts, np.array([round(length * 1000) for length in lengths]), clock).tolist()
    return found


@pytest.mark.parametrize(
    ("times", "lengths", "expected"),
    [
        ([0, 1, 2, 3], 1, [0, 1, 2, 3]),
        ([0.4, 1.3, 1.7, 3.2], 1, [0, 1, 2, 3]),  # jitter below a tick
        ([0, 1, 3, 4], [1, 2, 1, 1], [0, 1, 1, 2, 3]),  # a frame lasts two ticks and says so
        ([0, 1, 3, 4], 1, [0, 1, 2, 2, 3]),  # it does not say so: the next one, found late, is given twice
        ([0, 1, 3, 4], 0, [0, 1, 2, 2, 3]),  # no durations at all
        ([0, 1, 6, 7], 1, [0, 1, 1, 1, 1, 2, 2, 3]),
        ([0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5], 0.5, [0, 1, 2, 3, 4, 6, 8]),  # left out once two ticks ahead
        ([3, 4, 5], 1, [0, 0, 0, 0, 1, 2]),  # a late start repeats the first frame
        ([0], 1, [0]),
        ([], 1, []),
    ],
)
def test_constant_rate_by_hand(times: list[float], lengths: list[float] | float, expected: list[int]) -> None:
    assert outputs(times, lengths) == expected


def test_a_late_start_is_not_filled_where_there_is_only_one_stream() -> None:
    assert outputs([3, 4, 5], only_stream=True) == [0, 1, 2]
    assert outputs([0, 1, 3, 4], only_stream=True) == [0, 1, 2, 2, 3]


def test_a_stream_that_lags_at_its_end_repeats_its_last_frame() -> None:
    times = [0.0]
    for _ in range(6):
        times.append(times[-1] + 3)
    numbers = outputs(times)
    assert numbers == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5, 6, 6, 6]


def test_a_long_regular_stream_does_not_drift() -> None:
    for rate, step in ((30, 1001 / 1000), (25, 1.0001), (60, 0.9999)):
        count = 3000
        numbers = outputs([number * step for number in range(count)], rate=rate)
        assert abs(len(numbers) - round(count * step)) <= 2
        assert np.all(np.diff(numbers) >= 0)


def every_40ms(count: int) -> list[int]:
    return [number * 40 for number in range(count)]


def test_a_constant_rate_clip_is_numbered_as_decoded(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", every_40ms(30))
    assert shown(path, 30) == list(range(30))


@pytest.mark.parametrize(
    ("extension", "expected"),
    [
        ("mp4", [0, 1, 2, 3, 3, 4, 5, 6, 7, 8, 9]),  # knows how long each frame lasts
        ("mkv", [0, 1, 2, 3, 4, 4, 5, 6, 7, 8, 9]),  # does not
    ],
)
def test_a_variable_rate_clip_repeats_frames(tmp_path: Path, extension: str, expected: list[int]) -> None:
    """Ten frames, the fourth shown twice as long: eleven, as the reference's test clip gave."""
    times = [number * 40 + (40 if number > 3 else 0) for number in range(10)]
    path = write(tmp_path / f"a.{extension}", times, {"bf": "0"})
    assert shown(path, 12) == [*expected, None]


UNEVEN = {
    "gap": [number * 40 + (400 if number >= 10 else 0) for number in range(20)],
    "burst": [number * 40 if number < 10 else 300 + number * 10 for number in range(20)],
    "jitter": [0, 31, 90, 118, 171, 198, 252, 271, 330, 352, 401, 462, 480, 535, 561, 600, 655, 679, 730, 758],
    "slower": [number * 33 if number < 10 else 67 * number - 340 for number in range(20)],
    "late": [1000 + number * 40 + (160 if number >= 8 else 0) for number in range(14)],
}


@pytest.mark.parametrize("extension", ["mp4", "mov"])
@pytest.mark.parametrize(
    ("kind", "b_frames", "copies"),
    [
        ("gap", 0, [*[1] * 9, 11, *[1] * 10]),
        ("gap", 2, [*[1] * 9, 10, 2, *[1] * 9]),
        ("burst", 0, [*[4] * 10, *[1] * 9, 4]),
        ("burst", 3, [3, *[4] * 9, 2, *[1] * 9]),
        ("jitter", 0, [*[1] * 10, 2, *[1] * 9]),
        ("jitter", 2, [1] * 20),
        ("slower", 0, [*[1] * 10, *[2] * 9, 1]),
        ("slower", 2, [*[1] * 11, *[2] * 9]),
        ("late", 0, [*[1] * 7, 5, *[1] * 6]),
        ("late", 3, [*[1] * 7, 4, 2, *[1] * 5]),
    ],
)
def test_uneven_clips_with_and_without_b_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, b_frames: int, copies: list[int], extension: str
) -> None:
    """copies: how often ffmpeg 4.2.2 gave each frame; with B-frames it did not know how long one lasts."""
    path = write(tmp_path / f"a.{extension}", UNEVEN[kind], {"bf": str(b_frames)})
    assert_copies(path, copies, monkeypatch)


@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize(
    ("kind", "copies"),
    [
        ("gap", [*[1] * 9, 10, 2, *[1] * 9]),
        ("burst", [3, *[4] * 9, 2, *[1] * 9]),
        ("slower", [*[1] * 11, *[2] * 9]),
        ("late", [*[1] * 7, 4, 2, *[1] * 5]),
    ],
)
def test_uneven_fragmented_clips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, copies: list[int], b_frames: int
) -> None:
    """In fragments ffmpeg 4.2.2 never knew how long a frame lasts, B-frames or not."""
    mux = {"movflags": "frag_keyframe+empty_moov"}
    path = write(tmp_path / "a.mp4", UNEVEN[kind], {"g": "6", "bf": str(b_frames)}, mux)
    assert_copies(path, copies, monkeypatch)


@pytest.mark.parametrize("extension", ["mp4", "mov"])
@pytest.mark.parametrize(
    ("kind", "milliseconds", "copies"),
    [
        ("gap", 20, [*[1] * 8, 11, *[1] * 9, 2]),
        ("burst", 30, [*[4] * 9, *[1] * 9, 5]),
        ("slower", 15, [*[1] * 9, *[2] * 10]),
        ("slower", 30, [*[1] * 9, *[2] * 9, 1]),
    ],
)
def test_the_last_frame_of_a_clip_that_was_cut_without_encoding_lasts_to_the_end_of_its_track(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, milliseconds: int, copies: list[int], extension: str
) -> None:
    """milliseconds: those cut, in the middle of the first frame, which an edit list leaves out; copies as above."""
    assert_copies(cut(tmp_path / f"a.{extension}", kind, milliseconds, group=1), copies, monkeypatch)


@pytest.mark.parametrize("extension", ["mp4", "mov"])
@pytest.mark.parametrize(
    ("kind", "milliseconds", "copies"),
    [
        ("gap", 130, [*[1] * 5, 11, *[1] * 9, 2]),
        ("gap", 380, [*[1] * 9, 12]),
        ("burst", 130, [*[4] * 6, *[1] * 9, 7]),
        ("slower", 75, [*[1] * 7, *[2] * 10]),
        ("jitter", 125, [*[1] * 6, 2, *[1] * 9]),
        ("jitter", 260, [*[1] * 3, 2, *[1] * 9]),
    ],
)
def test_frames_of_a_clip_that_was_cut_within_a_group_of_pictures_last_to_the_next_one(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    milliseconds: int,
    copies: list[int],
    extension: str,
) -> None:
    """copies: as above, of the frames that an edit list leaves; FFmpeg of today has lengths a packet late there."""
    assert_copies(cut(tmp_path / f"a.{extension}", kind, milliseconds, group=12), copies, monkeypatch)


def cut(path: Path, kind: str, milliseconds: int, group: int) -> Path:
    """An uneven clip without B-frames whose beginning an edit list leaves out; group: pictures from key frame on."""
    whole = write(path.with_name("whole.mp4"), UNEVEN[kind], {"bf": "0", "g": str(group)})
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size and packet.pts is not None and packet.dts is not None and packet.time_base is not None:
                earlier = round(Fraction(milliseconds, 1000) / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - earlier, packet.dts - earlier, stream
                target.mux(packet)
    return path


def assert_copies(path: Path, copies: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = np.repeat(np.arange(len(copies)), copies).tolist()
    assert shown(path, len(expected) + 2, skip_unwanted=False) == [*expected, None, None]
    monkeypatch.setattr(video, "WORTHWHILE_GAP", 0)
    monkeypatch.setattr(video, "WORTHWHILE_SHARE", 0)
    with open_frames(path, timing="constant") as source:
        list(source.frames(np.array([1])))
        assert source.skipping == "done"  # type: ignore[attr-defined]
    assert shown(path, len(expected) + 2) == [*expected, None, None]


def test_composition_offsets_are_found_in_the_file(tmp_path: Path) -> None:
    times = every_40ms(8)
    with_b = write(tmp_path / "b.mp4", times, {"bf": "2"})
    without = write(tmp_path / "p.mp4", times, {"bf": "0"})
    assert has_composition_offsets(with_b, 1)
    assert not has_composition_offsets(with_b, 2)
    assert not has_composition_offsets(without, 1)
    data = with_b.read_bytes()
    at = data.index(b"ctts") + 8
    for name, damaged in {
        "none": data[:at] + bytes(4) + data[at + 4 :],  # a table of no entries
        "short": data[: data.index(b"tkhd") + 8],
        "tiny": b"\0\0\0\1moov\0\0",
        "small": b"\0\0\0\3moov" + data,
        "empty": b"",
    }.items():
        (tmp_path / name).write_bytes(damaged)
        assert not has_composition_offsets(tmp_path / name, 1), name
    assert not has_composition_offsets(tmp_path / "nowhere", 1)
    wide = data.index(b"moov") - 4  # the same box with a size of 64 bits
    size = int.from_bytes(data[wide : wide + 4], "big")
    grown = data[:wide] + b"\0\0\0\1moov" + (size + 8).to_bytes(8, "big") + data[wide + 8 :]
    (tmp_path / "wide").write_bytes(grown)
    assert has_composition_offsets(tmp_path / "wide", 1)


def test_frames_in_one_tick_are_left_out() -> None:
    """Three frames too many within a tick: the output runs two ticks ahead, so the third is left out."""
    times = sorted([*range(60), 10.125, 10.25, 10.375])
    assert outputs(times) == [*range(13), *range(14, 63)]


def test_a_frame_is_never_copied_for_more_than_a_day() -> None:
    """At 30 frames a second and more; the program wrote none then, and went on with the next."""
    day = 3600 * 30 * 30
    assert len(outputs([0, day])) == day + 1
    assert outputs([0, 2 * day]) == [0]


def test_a_month_of_frames_is_refused() -> None:
    clock = ConstantRate(Fraction(25), Fraction(1, 25))
    times = np.arange(30) * 3_000_000
    with pytest.raises(ValueError, match=r"the video has 8\d{7} frames"):
        constant_rate_frames(times, np.ones(30, np.int64), clock)


def test_constant_timing_is_the_same_with_and_without_skipping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "WORTHWHILE_GAP", 0)
    monkeypatch.setattr(video, "WORTHWHILE_SHARE", 0)
    random = np.random.default_rng(4)
    times = np.cumsum(random.choice([20, 40, 40, 40, 80, 160], 50)).tolist()
    path = write(tmp_path / "a.mp4", times)
    with open_frames(path, timing="constant", skip_unwanted=False) as source:
        everything = {
            frame.index: frame.load().pixels
            for frame in source.frames(np.arange(400))
            if not isinstance(frame, FrameFailure)
        }
        count = source.frames_seen
    assert count == len(everything) != 50
    for wanted in ([0, 40], [17], [count - 1], [count], list(range(3, count, 13))):
        with open_frames(path, timing="constant") as source:
            frames = list(source.frames(np.array(wanted)))
            assert source.skipping == "done"  # type: ignore[attr-defined]
            assert source.frames_seen == count
        for frame in frames:
            if isinstance(frame, FrameFailure):
                assert frame.index == count
            else:
                assert np.array_equal(frame.load().pixels, everything[frame.index])


def test_frames_that_share_a_picture_load_apart(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", [0, 40, 400, 440])
    with open_frames(path, timing="constant") as source:
        frames = [frame for frame in source.frames(np.arange(9)) if not isinstance(frame, FrameFailure)]
    assert len(frames) == 9
    assert np.array_equal(frames[2].load().pixels, frames[5].load().pixels)
    assert [frame.name for frame in frames[:2]] == ["a_000001.mp4", "a_000002.mp4"]


def test_an_unknown_timing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="timing must be one of"):
        open_frames(tmp_path, timing="vfr")


MATRICES = [
    *((1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)),
    *((-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)),
]


def carried(pixels: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """Each pixel where the matrix puts it: x' = a x + c y, y' = b x + d y, then moved so that both start at 0."""
    a, b, c, d = matrix
    height, width = pixels.shape[:2]
    y, x = np.mgrid[0:height, 0:width]
    to_x, to_y = a * x + c * y, b * x + d * y
    to_x, to_y = to_x - to_x.min(), to_y - to_y.min()
    result = np.zeros((to_y.max() + 1, to_x.max() + 1, 3), np.uint8)
    result[to_y, to_x] = pixels
    return result


def native(matrix: tuple[int, int, int, int]) -> bytes:
    a, b, c, d = (value << 16 for value in matrix)
    return struct.pack("=9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)


@pytest.mark.parametrize("matrix", MATRICES)
def test_turns_carry_pixels_where_the_matrix_says(matrix: tuple[int, int, int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    expected = carried(pixels, matrix)
    turn = turn_of_matrix(native(matrix))
    assert turn.size(30, 50) == expected.shape[:2]
    assert np.array_equal(turn.patch(whole_frame(pixels)).pixels, expected)
    height, width = expected.shape[:2]
    for region in (Region(0, 0, 5, 9), Region(7, 3, 20, 29), Region(width - 4, height - 6, width, height)):
        x0, y0, x1, y1 = turn.stored_region(region, height, width)
        patch = turn.patch(Patch(pixels[y0:y1, x0:x1], x0, y0, 30, 50))
        assert (patch.x0, patch.y0, patch.height, patch.width) == (region.x0, region.y0, height, width)
        assert np.array_equal(patch.pixels, expected[region.y0 : region.y1, region.x0 : region.x1])


@pytest.mark.parametrize("angle", [10, 45, 100])
def test_other_angles_are_left_alone(angle: int) -> None:
    sine, cosine = (round(f(np.radians(angle)) * 65536) for f in (np.sin, np.cos))
    assert turn_of_matrix(struct.pack("=9i", cosine, sine, 0, -sine, cosine, 0, 0, 0, 1 << 30)) == UPRIGHT
    assert turn_of_matrix(bytes(36)) == UPRIGHT
    assert Turn() == UPRIGHT


def rewritten_matrix(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """The same mp4 with another matrix in its track header, as a phone writes it."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in matrix)
    struct.pack_into(">9i", data, at, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("matrix", MATRICES)
def test_a_turned_clip(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    path = rewritten_matrix(write(tmp_path / "a.mp4", every_40ms(4)), matrix)
    stored = plain_decode(path)
    assert stored[0].shape == (HEIGHT, WIDTH, 3)
    with open_frames(path) as source:
        assert source.size_of(0) == (HEIGHT, WIDTH)
        for frame in source.frames(np.arange(4)):
            assert not isinstance(frame, FrameFailure)
            assert np.array_equal(frame.load().pixels, stored[frame.index])
    with open_frames(path, rotate=True) as source:
        for frame in source.frames(np.arange(4)):
            assert not isinstance(frame, FrameFailure)
            expected = carried(stored[frame.index], matrix)
            assert source.size_of(frame.index) == (frame.height, frame.width) == expected.shape[:2]
            assert np.array_equal(frame.load().pixels, expected)
            part = frame.load(Region(5, 7, 18, 20))
            assert part.pixels.flags.c_contiguous
            assert_covers(part, Region(5, 7, 18, 20), expected)
