"""Which picture is frame k where a video's clock does not begin at 0, starts again, lacks times or is another stream's.

Each `shown` is what the ffmpeg program 4.2.2, as imageio brought it until 2024, wrote for that very clip with
`ffmpeg -i CLIP -f image2pipe -pix_fmt rgb24 -vcodec rawvideo -`; 4.1 and 7.0.2 wrote the same unless a line says
otherwise. The pictures carry their numbers: "0x3 1-39" is the first one three times, then each of the others once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pytest

from gpu_extract.frames import FrameFailure, open_frames
from gpu_extract.frames.sources import video
from gpu_extract.frames.video.clock import MICROSECOND, TIMELESS, ClockFacts, FrameClock, PacketClock, rescaled
from gpu_extract.frames.video.decoders import gave_no_frame

BLOCK = 16
COLUMNS, ROWS = 6, 4
BITS = 8

H264 = {"bf": "2", "g": "12", "b_strategy": "0", "sc_threshold": "0"}


@lru_cache(maxsize=512)
def numbered(number: int) -> np.ndarray:
    """[H, W, 3]: the number's bits as black and white blocks."""
    blocks = np.full((ROWS, COLUMNS), 90, np.uint8)
    for bit in range(BITS):
        blocks[divmod(bit, COLUMNS)] = 230 if number >> bit & 1 else 20
    return np.repeat(blocks.repeat(BLOCK, 0).repeat(BLOCK, 1)[..., None], 3, 2)


def number_of(pixels: np.ndarray) -> int:
    """Of a picture of any size, whose upper left corner is a numbered one."""
    middles = pixels[BLOCK // 2 :: BLOCK, BLOCK // 2 :: BLOCK, 1][:ROWS, :COLUMNS] > 125
    return sum(int(middles[divmod(bit, COLUMNS)]) << bit for bit in range(BITS))


def sequence(text: str) -> list[int]:
    numbers: list[int] = []
    for part in text.split():
        first, _, copies = part.partition("x")
        low, _, high = first.partition("-")
        numbers += np.repeat(np.arange(int(low), int(high or low) + 1), int(copies or 1)).tolist()
    return numbers


class Track(NamedTuple):
    """One stream of a clip; times in seconds."""

    codec: str = "libx264"
    start: float = 0
    pictures: int = 40
    first: int = 0
    rate: Fraction | int = 25
    options: dict[str, str] = H264
    times: Callable[[int], float] | None = None  # in frames; None where it is the number itself
    size: tuple[int, int] = (ROWS * BLOCK, COLUMNS * BLOCK)
    default: bool | None = None
    sound: bool = False
    still: int = 1  # how often each picture comes in a row


def sound(codec: str, start: float = 0, length: float = 1.6) -> Track:
    return Track(codec, start, round(length * 20), sound=True)


def mux(path: Path, *tracks: Track, options: dict[str, str] | None = None, container: str | None = None) -> Path:
    """The packets of all tracks in the order of their times."""
    with av.open(str(path), "w", format=container, options=options or {}) as output:
        packets: list[tuple[Fraction, int, Any]] = []
        for track in tracks:
            stream: Any = output.add_stream(track.codec, rate=48000 if track.sound else track.rate)
            if track.default is not None:
                stream.disposition = int(track.default)
            packets += [
                (time, stream.index, packet) for time, packet in (_voice if track.sound else _film)(stream, track)
            ]
        for _, _, packet in sorted(packets, key=lambda one: one[:2]):
            output.mux(packet)
    return path


def _film(stream: Any, track: Track) -> list[tuple[Fraction, Any]]:
    stream.height, stream.width = track.size
    stream.pix_fmt = {"mjpeg": "yuvj420p", "qtrle": "rgb24"}.get(track.codec, "yuv420p")
    stream.options = track.options
    unit = 1 / Fraction(track.rate)
    if track.times:
        unit = Fraction(1, 90000)
        stream.codec_context.time_base = unit
    made = []
    for number in range(track.pictures):
        pixels = np.full((*track.size, 3), 90, np.uint8)
        pixels[: ROWS * BLOCK, : COLUMNS * BLOCK] = numbered(track.first + number // track.still)
        frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format=stream.pix_fmt)
        frame.time_base = unit
        frame.pts = round(track.times(number) / track.rate / unit) if track.times else number
        made += stream.encode(frame)
    return _timed(made + stream.encode(None), track.start)


def _voice(stream: Any, track: Track) -> list[tuple[Fraction, Any]]:
    stream.layout = "mono"
    stream.format = stream.codec_context.codec.audio_formats[0]
    made = []
    for number in range(track.pictures):
        silence = av.AudioFrame(stream.format.name, "mono", 2400)
        for plane in silence.planes:
            plane.update(bytes(plane.buffer_size))
        silence.sample_rate, silence.time_base, silence.pts = 48000, Fraction(1, 48000), number * 2400
        made += stream.encode(silence)
    return _timed(made + stream.encode(None), track.start)


def _timed(packets: list[Any], start: float) -> list[tuple[Fraction, Any]]:
    timed = []
    for packet in packets:
        shift = round(Fraction(start).limit_denominator(1000) / packet.time_base)
        packet.pts += shift
        packet.dts += shift
        timed.append((packet.dts * packet.time_base, packet))
    return timed


def joined(path: Path, *parts: tuple[tuple[Track, ...], dict[str, str]], container: str | None = None) -> Path:
    """Recordings one after the other in one file, each with the clock that it had."""
    pieces = [
        mux(path.with_name(f"{number}{path.suffix}"), *tracks, options=options, container=container).read_bytes()
        for number, (tracks, options) in enumerate(parts)
    ]
    path.write_bytes(b"".join(pieces))
    return path


def at(seconds: float) -> dict[str, str]:
    return {"output_ts_offset": f"{seconds}"}


def after(codec: str, seconds: float | None, *sounds: Track, **fields: Any) -> Callable[[Path], Path]:
    """Two recordings of 40 pictures; the second one's clock begins at that time, or where the first one's did."""

    def make(path: Path) -> Path:
        container = {".mpg": "mpeg", ".vob": "vob", ".ts": "mpegts", ".m2ts": "mpegts"}[path.suffix]
        one, two = Track(codec, **fields), Track(codec, first=40, **fields)
        options = {} if seconds is None else at(seconds)
        return joined(path, ((one, *sounds), {}), ((two, *sounds), options), container=container)

    return make


def clip(*tracks: Track, container: str | None = None, **options: str) -> Callable[[Path], Path]:
    return lambda path: mux(path, *tracks, options=options, container=container)


MPEG2 = {"bf": "2", "g": "12", "qmin": "2", "qmax": "4"}
MP2 = sound("mp2")
PLAIN = {"bf": "0", "g": "12"}
SMALL = Track(options=PLAIN, pictures=20)
OTHER = Track(options=PLAIN, pictures=20, first=100)
LARGE = OTHER._replace(size=(96, 128))
HUGE = OTHER._replace(size=(2000, 2560), pictures=2)  # more pixels than being the default is worth


class Case(NamedTuple):
    name: str  # of the file
    make: Callable[[Path], Path]
    shown: str
    skippable: bool = False  # whether a part of it can be decoded alone


def faster(number: int) -> float:
    return number if number < 15 else 15 + (number - 15) * 0.3


def paused(number: int) -> float:
    return number + 500 * (number >= 15)


def counted_in_fields(path: Path) -> Path:
    """An AVI with two ticks a picture, as one is that was copied from MPEG."""
    with av.open(str(mux(path.with_suffix(".mkv"), VCD))) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        stream.time_base = Fraction(1, 50)
        for number, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            packet.stream, packet.time_base = stream, stream.time_base
            packet.pts = packet.dts = 2 * number
            target.mux(packet)
    return path


def no_default(*tracks: Track) -> Callable[[Path], Path]:
    return clip(*(track._replace(default=False) for track in tracks), default_mode="passthrough")


def marked(*tracks: Track, default: int) -> Callable[[Path], Path]:
    return clip(*(track._replace(default=number == default) for number, track in enumerate(tracks)))


B3 = Track(options={**H264, "bf": "3", "x264-params": "b-pyramid=normal"})
FILM, EARLY, LATE = Track(), Track(options=PLAIN), Track(start=0.4)
DVD = Track("mpeg2video", options=MPEG2)
VCD = Track("mpeg1video", options=PLAIN)
STILL = Track("qtrle", options={}, pictures=15, still=5)
SLOW_AAC, OPUS = sound("aac"), sound("libopus")

CASES = {
    # Packets of AVI have no presentation times: those of decoding count, as frames come out.
    "avi, alone": Case("a.avi", clip(FILM), "0-39"),
    "avi, with sound": Case("a.avi", clip(FILM, MP2), "0x3 1-39"),
    "avi, B-pyramid": Case("a.avi", clip(B3, MP2), "0x3 1-39"),
    "avi, 29.97": Case("a.avi", clip(FILM._replace(rate=Fraction(30000, 1001)), MP2), "0x3 1-39"),
    "avi, no B-frames": Case("a.avi", clip(EARLY, MP2), "0-39"),
    "avi, MPEG-4": Case("a.avi", clip(Track("mpeg4", options=MPEG2), MP2), "0x2 1-39"),
    # Where clocks may start again, counting begins with the picture; elsewhere with whatever is first.
    "ts, sound first": Case("a.ts", clip(LATE, MP2), "0-39", skippable=True),
    "ts, picture first": Case("a.ts", clip(FILM, sound("mp2", 0.4)), "0-39", skippable=True),
    "m2ts, sound first": Case(
        "a.m2ts", clip(LATE, MP2, container="mpegts", mpegts_m2ts_mode="1"), "0-39", skippable=True
    ),
    "mpg, sound first": Case("a.mpg", clip(DVD._replace(start=0.4), MP2, container="mpeg"), "0-39"),
    "vob, sound first": Case("a.vob", clip(DVD._replace(start=0.4), MP2, container="vob"), "0-39"),
    "mkv, sound first": Case("a.mkv", clip(LATE, MP2), "0x11 1-39", skippable=True),
    "mp4, sound first": Case("a.mp4", clip(LATE, SLOW_AAC), "0x11 1-39", skippable=True),
    "flv, sound first": Case("a.flv", clip(LATE, SLOW_AAC), "0x12 1-39"),
    "asf, sound first": Case("a.wmv", clip(Track("wmv2", 0.4, options=PLAIN), MP2, container="asf"), "0x11 1-39"),
    "mp4, sound later": Case("a.mp4", clip(FILM, sound("aac", 0.4)), "0-39", skippable=True),
    "mp4, late and alone": Case("a.mp4", clip(LATE), "0-39", skippable=True),
    # A sound track's delay: not in 7.0.2 for mp4.
    "mkv, AAC": Case("a.mkv", clip(FILM, SLOW_AAC), "0x2 1-39", skippable=True),
    "mkv, AAC, later": Case("a.mkv", clip(Track(start=0.1), SLOW_AAC), "0x4 1-39", skippable=True),
    "mkv, AAC, 60 a second": Case("a.mkv", clip(Track(rate=60), SLOW_AAC), "0x2 1-39", skippable=True),
    "mkv, MP3": Case("a.mkv", clip(EARLY, sound("libmp3lame")), "0x2 1-39", skippable=True),
    "mkv, Opus": Case("a.mkv", clip(FILM, OPUS), "0-39", skippable=True),
    "mkv, no delay": Case("a.mkv", clip(FILM, MP2), "0-39", skippable=True),
    "mp4 in fragments": Case(
        "a.mp4", clip(FILM, SLOW_AAC, movflags="delay_moov+frag_keyframe"), "0x2 1-39", skippable=True
    ),
    # Too short to be measured: a picture a frame, not a field.
    "mpg, one picture": Case("a.mpg", clip(DVD._replace(pictures=1), container="mpeg"), "0"),
    "mpg, two pictures": Case("a.mpg", clip(DVD._replace(pictures=2), container="mpeg"), "0-1"),
    "mpg, two pictures of MPEG-1": Case(
        "a.mpg", clip(DVD._replace(codec="mpeg1video", pictures=2), container="mpeg"), "0-1"
    ),
    "avi, fields of MPEG-1": Case("a.avi", counted_in_fields, "0 1x2 2-39"),
    # Two recordings in one file. Half a second back, 7.0.2 left out two pictures.
    "ts, again": Case("a.ts", after("libx264", None), "0-79"),
    "ts, again, sound": Case("a.ts", after("libx264", None, MP2), "0-79"),
    "ts, MPEG-2, again": Case("a.ts", after("mpeg2video", None, options=MPEG2), "0-79"),
    "ts, 30 s ahead": Case("a.ts", after("libx264", 30), "0-79"),
    "ts, 3 s ahead": Case("a.ts", after("libx264", 3), "0-38 39x33 40x2 41-79"),
    "ts, 0.7 s back": Case("a.ts", after("libx264", 0.9), "0-79"),
    "ts, 0.05 s back": Case("a.ts", after("libx264", 1.55), "0-79"),
    "mpg, again": Case("a.mpg", after("mpeg2video", None, options=MPEG2), "0-79"),
    "vob, again, sound": Case("a.vob", after("mpeg2video", None, MP2, options=MPEG2), "0-79"),
    "mpg, 30 s ahead": Case("a.mpg", after("mpeg2video", 30, options=MPEG2), "0-79"),
    "vob, 3 s ahead": Case("a.vob", after("mpeg2video", 3, options=MPEG2), "0-37 38x22 39x2 40-79"),
    # The clock's 33 bits run over in the middle.
    "ts, overflow": Case("a.ts", clip(FILM, MP2, **at(95441.5)), "0-39", skippable=True),
    "mpg, overflow": Case("a.mpg", clip(DVD, container="mpeg", **at(95442.5)), "0-39"),
    # One recording that pauses: with B-frames, presentation times jump before those of decoding do.
    "ts, paused": Case("a.ts", clip(EARLY._replace(times=paused)), "0-39", skippable=True),
    "ts, paused, B-frames": Case("a.ts", clip(FILM._replace(times=paused), MP2), "0-13 14x500 15x2"),
    "ts, faster": Case("a.ts", clip(EARLY._replace(times=faster)), "0x9 1-14x10 15-39x3", skippable=True),
    # Packets that say that nothing changes became no frames, so the next picture came one early; in 7.0.2 they do.
    "mov, animation": Case("a.mov", clip(STILL), "0x4 1x5 2x7"),
    "mov, animation, with sound": Case("a.mov", clip(STILL, SLOW_AAC), "0x4 1x5 2x7"),
    # Which of several streams: 4.1 did not look at what is marked as the default.
    "mkv, second is the default": Case("a.mkv", marked(SMALL, OTHER, default=1), "100-119", skippable=True),
    "mkv, none is the default": Case("a.mkv", no_default(SMALL, OTHER), "0-19", skippable=True),
    "mkv, second is larger": Case("a.mkv", no_default(SMALL, LARGE), "100-119", skippable=True),
    "mkv, first is larger": Case("a.mkv", marked(LARGE, SMALL, default=1), "0-19", skippable=True),
    "mkv, second is larger, first the default": Case("a.mkv", marked(SMALL, LARGE, default=0), "0-19", skippable=True),
    "mkv, second is huge": Case("a.mkv", marked(SMALL, HUGE, default=0), "100-101", skippable=True),
    "mp4, second is the default": Case("a.mp4", marked(SMALL, OTHER, default=1), "100-119", skippable=True),
    "ts, second is larger": Case("a.ts", clip(SMALL, LARGE), "100-119", skippable=True),
    "avi, second is larger": Case("a.avi", clip(SMALL, LARGE), "100-119"),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, list[int], bool]:
    chosen = CASES[request.param]
    return chosen.make(tmp_path / chosen.name), sequence(chosen.shown), chosen.skippable


def shown(path: Path, wanted: list[int], **options: Any) -> tuple[list[int | None], str]:
    """The numbers in the wanted frames, None where there is no frame; and what became of skipping."""
    with open_frames(path, timing="constant", rotate=True, **options) as source:
        frames = list(source.frames(np.array(wanted)))
        numbers = [None if isinstance(frame, FrameFailure) else number_of(frame.load().pixels) for frame in frames]
        return numbers, source.skipping  # type: ignore[attr-defined]


def test_frames_are_those_of_the_program(case: tuple[Path, list[int], bool], monkeypatch: pytest.MonkeyPatch) -> None:
    path, expected, skippable = case
    count = len(expected)
    assert shown(path, list(range(count + 2)), skip_unwanted=False)[0] == [*expected, None, None]
    monkeypatch.setattr(video, "WORTHWHILE_GAP", 0)
    monkeypatch.setattr(video, "WORTHWHILE_SHARE", 0)
    for wanted in (list(range(0, count, 7)), [count - 1, count]):
        numbers, skipping = shown(path, wanted)
        assert numbers == [[*expected, None][position] for position in wanted]
        assert (skipping == "done") == skippable, skipping


@pytest.mark.parametrize("seconds", [None, 30, 3])
def test_no_picture_is_missing_at_a_seam(tmp_path: Path, seconds: float | None) -> None:
    """The last packet before it is marked as damaged, for the counter of transport packets begins again."""
    with open_frames(after("libx264", seconds)(tmp_path / "a.ts")) as source:
        frames = [frame for frame in source.frames(np.arange(80)) if not isinstance(frame, FrameFailure)]
        assert [number_of(frame.load().pixels) for frame in frames] == list(range(80))


@pytest.mark.parametrize("size", [(96, 128), (64, 128), (80, 96)])
def test_pictures_of_another_size_are_scaled_to_the_first_ones(tmp_path: Path, size: tuple[int, int]) -> None:
    """So wrote 4.2.2, byte for byte; the program since March 2026 has each as it is stored."""
    first = Track("mpeg2video", options=MPEG2, pictures=12)
    second = first._replace(size=size, first=40)
    path = joined(tmp_path / "a.ts", ((first,), {}), ((second,), {}), container="mpegts")
    with av.open(str(path)) as container:
        stored = list(container.decode(video=0))
    assert {(frame.height, frame.width) for frame in stored} == {first.size, size}
    with open_frames(path, timing="constant", pixels="piped", rotate=True) as source:
        assert source.size_of(20) == first.size
        frames = [frame for frame in source.frames(np.arange(24)) if not isinstance(frame, FrameFailure)]
    assert len(frames) >= 23
    assert {(frame.height, frame.width) for frame in frames} == {first.size}
    expected = stored[-1].reformat(96, 64, "rgb24", interpolation="BICUBIC").to_ndarray()[..., ::-1]
    assert np.array_equal(frames[-1].load().pixels, expected)
    with open_frames(path) as source:
        sizes = [(f.height, f.width) for f in source.frames(np.arange(23)) if not isinstance(f, FrameFailure)]
    assert set(sizes) == {first.size, size}


def test_decoded_timing_takes_the_first_stream(tmp_path: Path) -> None:
    with open_frames(marked(SMALL, OTHER, default=1)(tmp_path / "a.mkv")) as source:
        frames = [frame for frame in source.frames(np.arange(20)) if not isinstance(frame, FrameFailure)]
        assert [number_of(frame.load().pixels) for frame in frames] == list(range(20))


def test_a_source_says_which_stream_it_took(tmp_path: Path) -> None:
    path = marked(LARGE, SMALL, default=1)(tmp_path / "a.mkv")
    with open_frames(path, timing="constant") as source:
        assert source.notes == (
            "the file has 2 video streams; frames are those of stream 1 (96 × 64), which FFmpeg 4.2 took; before "
            "spring 2020 it took stream 0 (128 × 96): if no hash fits, copy that one into a file of its own.",
        )
    with open_frames(path) as source:
        assert not source.notes
    with open_frames(no_default(SMALL, LARGE)(tmp_path / "b.mkv"), timing="constant") as source:
        assert source.notes == (
            "the file has 2 video streams; frames are those of stream 1 (128 × 96), which FFmpeg 4.2 took.",
        )
    with open_frames(clip(SMALL, MP2)(tmp_path / "c.mkv"), timing="constant") as source:
        assert not source.notes


FACTS = ClockFacts("mpegts", Fraction(1, 90000), 1_400_000, 126_000, Fraction(25), Fraction(25), 0)
TICK = 3600  # 40 ms


def times(*packets: tuple[int | None, int | None], length: int = TICK, **facts: Any) -> list[tuple[int, int]]:
    clock = PacketClock(replace(FACTS, **facts))
    return [clock.take(pts, dts, length) for pts, dts in packets]


def decoding(*stamps: int | None, length: int = TICK, **facts: Any) -> list[int]:
    """Times of packets that are shown as soon as they are decoded, from the beginning."""
    return [dts for _, dts in times(*((stamp, stamp) for stamp in stamps), length=length, **facts)]


def test_counting_begins_with_the_picture_or_with_the_file() -> None:
    assert decoding(126_000 + 9000, stream_start=126_000 + 9000) == [0]
    assert decoding(126_000 + 9000, stream_start=None) == [9000]
    assert decoding(126_000 + 9000, stream_start=126_000 + 9000, container="matroska") == [9000]
    assert decoding(126_000, file_start=None, container="avi") == [126_000]
    assert decoding(126_000, file_start=None) == [126_000]


def test_a_clock_that_was_set_goes_on() -> None:
    start = 126_000
    assert decoding(*range(start, start + 4 * TICK, TICK), start) == [0, TICK, 2 * TICK, 3 * TICK, 4 * TICK]
    assert decoding(start, start + 11 * 90_000) == [0, TICK]
    assert decoding(start, start + 9 * 90_000) == [0, 9 * 90_000]  # a gap
    assert decoding(start, start + 8 * TICK, start + 7 * TICK) == [0, 8 * TICK, 7 * TICK]  # a step of two ticks back
    assert decoding(start, start + 8 * TICK, start + 5 * TICK) == [0, 8 * TICK, 9 * TICK]
    assert times((start + TICK, start), (start + 40 * TICK, start + 300 * TICK)) == [
        (TICK, 0),
        (40 * TICK - 299 * TICK, TICK),
    ]


def test_a_clock_that_does_not_restart_loses_absurd_times() -> None:
    facts: dict[str, Any] = {"container": "matroska", "file_start": 0}
    assert decoding(0, 20 * 90_000, TICK, **facts) == [0, 20 * 90_000, TICK]
    assert times((0, 0), (1 << 40, 1 << 40), (TICK, TICK), **facts) == [
        (0, 0),
        (TIMELESS + 1, TICK),
        (TICK, TICK),
    ]


def test_missing_times_are_foretold() -> None:
    assert times((None, None), (None, None), file_start=0, container="avi", reorder=2) == [
        (TIMELESS + 1, -2 * TICK),
        (TIMELESS + 2, -TICK),
    ]
    assert decoding(126_000, None, None, length=0) == [0, TICK, 2 * TICK]  # by the rate
    assert decoding(126_000, None, None, length=0, average_rate=None, coded_rate=None) == [0, 0, 0]


def test_a_clock_without_lengths_still_notices_a_jump() -> None:
    stamps = [126_000, 126_000 + TICK, 126_000 + 20 * 90_000]
    assert decoding(*stamps, length=0, average_rate=None, coded_rate=None) == [0, TICK, TICK]


def test_times_that_lie_before_the_overflow() -> None:
    """The file begins at the overflow; its first picture is a tick before it."""
    first = (1 << 33) - TICK
    assert decoding(first, 0, TICK, file_start=0, stream_start=0) == [-TICK, 0, TICK]


@pytest.mark.parametrize(("value", "expected"), [(5, 3), (-5, -3), (4, 2), (6, 3), (7, 4), (-7, -4)])
def test_halves_are_rounded_away_from_zero(value: int, expected: int) -> None:
    assert rescaled(value, Fraction(1, 2), Fraction(1)) == expected


@pytest.mark.parametrize("unit", [Fraction(1, rate) for rate in (25, 1000, 15360, 90000, 10**6, 10**7, 10**9)], ids=str)
def test_times_of_decoding_are_whole_microseconds_in_between(unit: Fraction) -> None:
    """Also where a packet is so far ahead or behind that it is looked at closely."""
    second = round(1 / unit)
    clock = PacketClock(replace(FACTS, container="matroska", file_start=0, time_base=unit))
    random = np.random.default_rng(second % 7)
    for stamp in [*np.sort(random.integers(-9 * second, 90 * second, 200)).tolist(), 11 * 3600 * second, 2 * second]:
        microseconds = rescaled(stamp, unit, MICROSECOND)
        assert clock.take(stamp, stamp, 7) == (stamp, rescaled(microseconds, MICROSECOND, unit))


@pytest.mark.parametrize("value", [-10_000_000_019, -1, 0, 1, 7, 10_000_000_019])
def test_rescaled_is_the_nearest_whole_number(value: int) -> None:
    for unit, other in (
        (Fraction(1, 90000), MICROSECOND),
        (MICROSECOND, Fraction(1, 90000)),
        (Fraction(1001, 30000), 1),
    ):
        exact = value * unit / other
        found = rescaled(value, Fraction(unit), Fraction(other))
        assert abs(found - exact) <= Fraction(1, 2)
        assert abs(found - exact) < Fraction(1, 2) or abs(found) > abs(exact)


class Came(NamedTuple):
    pts: int | None
    dts: int | None


class Decoder(NamedTuple):
    framerate: Fraction | None = None


def test_a_frame_has_the_time_that_ascends() -> None:
    clock = FrameClock(PacketClock(FACTS), Decoder())  # type: ignore[arg-type]
    frames = [Came(0, -9), Came(5, -8), Came(3, -7), Came(4, -6), Came(TIMELESS + 1, -5), Came(9, None)]
    assert [clock.take(frame) for frame in frames] == [0, 5, -7, -6, -5, 9]  # type: ignore[arg-type]


@pytest.mark.parametrize(("rate", "tick"), [(None, TICK), (Fraction(50), TICK // 2)])
def test_frames_after_the_last_packet_go_on(rate: Fraction | None, tick: int) -> None:
    packets = PacketClock(FACTS)
    packets.take(126_000, 126_000, TICK)
    clock = FrameClock(packets, Decoder(rate))  # type: ignore[arg-type]
    last = [clock.take(Came(TIMELESS + 1, None)) for _ in range(3)]  # type: ignore[arg-type]
    assert last == [TICK, TICK + tick, TICK + 2 * tick]


@pytest.mark.parametrize(
    ("packet", "silent"),
    [
        (b"\0\0\0\7\0\0\0", True),
        (b"\0\0\0\x08\0\0\0\0", False),
        (b"\0\0\0\x0d\0\x08" + bytes(7), True),
        (b"\0\0\0\x0e\0\x08" + bytes(8), False),
        (b"\0\0\0\x09\0\7" + bytes(3), False),
    ],
)
def test_packets_of_quicktime_animation_that_became_no_frame(packet: bytes, silent: bool) -> None:
    assert gave_no_frame("qtrle", packet) == gave_no_frame("qtrle", memoryview(packet)) == silent
    assert not gave_no_frame("mjpeg", packet)


def test_decoded_timing_has_a_frame_of_every_packet(tmp_path: Path) -> None:
    with open_frames(clip(STILL)(tmp_path / "a.mov")) as source:
        frames = [frame for frame in source.frames(np.arange(16)) if not isinstance(frame, FrameFailure)]
        assert [number_of(frame.load().pixels) for frame in frames] == sequence("0x5 1x5 2x5")
