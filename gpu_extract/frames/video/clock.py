"""The times that the ffmpeg program gave a video's packets and frames, from which constant-rate numbers are counted.

A container's timestamps begin anywhere, may start again in the middle and may be missing. `PacketClock` is what that
program made of a packet's before it was decoded, `FrameClock` what it made of a frame's afterwards; the rules and where
they were measured are in docs/formats.md#timing. Times are in units of the stream's time base, from the beginning of
the file, unless a name says microseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from heapq import heappop, heappush

from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

MICROSECOND = Fraction(1, 1_000_000)
TIMELESS = 1 << 60  # a "time" from here on is the number of a packet that has none, by which its frame is known again

# Containers whose clock may start again; from any other a timestamp that is far off is only forgotten.
_RESTARTING = frozenset(("mpegts", "mpeg", "ogg"))
_CLOCK_BITS = {"mpegts": 33, "mpeg": 33}

_JUMP = 10_000_000  # microseconds between what a packet's time should be and what it is: then the clock was set
_STEP_BACK = 100_000  # microseconds; so was it if time goes back by more
_ABSURD = 3600 * 30 * 1_000_000  # microseconds
_NEAR = _ABSURD // 3


def rescaled(value: int, unit: Fraction, other: Fraction) -> int:
    """A time in another unit, halves away from zero."""
    return scaled(value, ratio(unit, other))


def ratio(unit: Fraction, other: Fraction) -> tuple[int, int, int]:
    """Of one unit to another, for `scaled`: twice the numerator, the denominator, and twice that."""
    denominator = unit.denominator * other.numerator
    return 2 * unit.numerator * other.denominator, denominator, 2 * denominator


def scaled(value: int, by: tuple[int, int, int]) -> int:
    """`rescaled` for whoever has many times: fractions take longer to ask than a packet to read."""
    twice, half, whole = by
    return (value * twice + half) // whole if value >= 0 else -((half - value * twice) // whole)


@dataclass(frozen=True)
class ClockFacts:
    """What a file says about its clocks before anything is decoded."""

    container: str  # FFmpeg's name
    time_base: Fraction  # seconds
    file_start: int | None  # microseconds
    stream_start: int | None  # of the video, in its time base
    average_rate: Fraction | None  # frames a second, by the container
    coded_rate: Fraction | None  # the same, by the video itself
    reorder: int  # frames by which decoding runs ahead of showing
    starts: tuple[int, ...] | None = None  # of all packets, then the end; None where each tells how long it lasts


class PacketClock:
    """Takes the packets of one stream in their order and gives each the times that its decoder shall see."""

    def __init__(self, facts: ClockFacts) -> None:
        self._facts = facts
        self._unit = facts.time_base
        self._up, self._down = ratio(MICROSECOND, facts.time_base), ratio(facts.time_base, MICROSECOND)
        self._near = scaled(_NEAR, self._up)
        self._survives = facts.time_base >= MICROSECOND  # whether a time does that is rounded to microseconds and back
        self._restarting = facts.container in _RESTARTING
        self._bits = _CLOCK_BITS.get(facts.container, 0) if facts.file_start is not None else 0
        self._offset = -self._start()
        self._shift = scaled(self._offset, self._up)
        rate = facts.average_rate
        self._dts = -int(facts.reorder * 1_000_000 / float(rate)) if rate else 0
        self._next: int | None = None  # decoding time that is expected of the next packet
        self._last: int | None = None  # decoding time of the last one that had any
        known_rate = facts.coded_rate or rate
        self._frame_length = rescaled(1, 1 / known_rate, MICROSECOND) if known_rate else 0
        self._duration, self._length = 0, self._frame_length  # of the packet before
        self._waiting: list[int] = []  # presentation times of packets whose frames are still to come, as a heap
        self._shown = 0  # microseconds; the end of the last frame that came
        self._timeless = 0  # packets without a presentation time so far
        self._starts = facts.starts
        self._position = 0  # in them, of the next packet

    def _start(self) -> int:
        """Where counting begins, in microseconds: with the video where clocks may restart, else with the whole file."""
        facts = self._facts
        start = facts.file_start or 0
        if self._bits and self._restarting and facts.stream_start is not None:
            start = max(start, rescaled(facts.stream_start, self._unit, MICROSECOND))
        return start

    def duration(self, pts: int | None, duration: int) -> int:
        """How long the next packet lasts that has these two in the file; 0 if it is not known."""
        starts = self._starts
        if starts is None or pts is None:
            return duration
        try:  # some packets before it may not have been readable
            at = starts.index(pts, self._position, len(starts) - 1)
        except ValueError:
            self._starts = None
            return duration
        self._position = at + 1
        return max(starts[at + 1] - pts, 0)

    def take(self, pts: int | None, dts: int | None, duration: int) -> tuple[int, int]:
        """(presentation time or `TIMELESS`, decoding time) of the next packet; the latter is foretold if missing."""
        if self._bits:
            pts, dts = self._unwrapped(pts, dts)
        if pts is not None:
            pts += self._shift
        if dts is not None:
            dts += self._shift
        if self._restarting:
            pts, dts = self._continued(pts, dts)
        now = None if dts is None else scaled(dts, self._down)
        expected = self._next
        if not self._restarting and expected is not None:
            if dts is None or now is None or abs(now - expected) > _NEAR:
                pts, dts = self._sane(pts), self._sane(dts)
            elif pts is not None and abs(pts - dts) > self._near:
                pts = self._sane(pts)
        if duration != self._duration:
            self._duration, self._length = duration, scaled(duration, self._down) or self._frame_length
        length = self._length
        if dts is None or now is None:
            current = self._dts if expected is None else expected
        else:
            current = self._last = now
        self._dts = current + length
        self._next = self._dts if length else None
        if self._restarting:
            self._show(pts, length)
        if dts is None or not self._survives:
            dts = scaled(current, self._up)
        if pts is None:
            self._timeless += 1
            pts = TIMELESS + self._timeless
        return pts, dts

    def after_last(self, number: int, rate: Fraction | None) -> int:
        """Time of the n-th frame that comes out after the last packet and has none; rate: what the decoder knows."""
        length = rescaled(1, 1 / rate, MICROSECOND) if rate else self._frame_length
        return rescaled(self._dts + number * length, MICROSECOND, self._unit)

    def _unwrapped(self, pts: int | None, dts: int | None) -> tuple[int | None, int | None]:
        """Times that lie before the beginning, and only because the clock began again at 0."""
        turn = 1 << self._bits
        latest = rescaled(self._facts.file_start or 0, MICROSECOND, self._unit) + turn // 2
        wrapped = [time is not None and time > latest for time in (pts, dts)]
        if not any(wrapped):
            self._bits = 0
        early = [
            time - turn if time is not None and far else time for time, far in zip((pts, dts), wrapped, strict=True)
        ]
        return early[0], early[1]

    def _continued(self, pts: int | None, dts: int | None) -> tuple[int | None, int | None]:
        """Where the clock was set, time goes on as if it had not been."""
        expected = self._last if self._next is None else self._next
        if dts is None or expected is None:
            return pts, dts
        now = scaled(dts, self._down)
        delta = now - expected
        back = self._next is not None and now + _STEP_BACK < max(self._dts, self._shown)
        if abs(delta) <= _JUMP and not back:
            return pts, dts
        self._offset -= delta
        self._shift = scaled(self._offset, self._up)
        shift = rescaled(delta, MICROSECOND, self._unit)
        return (None if pts is None else pts - shift), dts - shift

    def _show(self, pts: int | None, length: int) -> None:
        """The frame that comes out of the decoder when this packet goes in."""
        if pts is not None:
            heappush(self._waiting, pts)
            if len(self._waiting) > self._facts.reorder:
                self._shown = self._micro(heappop(self._waiting)) + length

    def _sane(self, time: int | None) -> int | None:
        assert self._next is not None
        return None if time is None or abs(self._micro(time) - self._next) > _ABSURD else time

    def _micro(self, time: int) -> int:
        return scaled(time, self._down)


class FrameClock:
    """Takes decoded frames in their order and gives each its time.

    That is the packet's presentation time, or the decoding time of the packet that pushed the frame out, whichever of
    the two failed to ascend less often so far. Frames that come after the last packet may have neither.
    """

    def __init__(self, packets: PacketClock, decoder: VideoCodecContext) -> None:
        self._packets = packets
        self._decoder = decoder
        self._timeless = 0  # frames so far
        self._last_pts = self._last_dts = -(1 << 63)
        self._faulty_pts = self._faulty_dts = 0

    def take(self, frame: VideoFrame) -> int:
        pts, dts = frame.pts, frame.dts
        if pts is not None and dts is not None and pts < TIMELESS:
            if pts <= self._last_pts:
                self._faulty_pts += 1
            if dts <= self._last_dts:
                self._faulty_dts += 1
            self._last_pts, self._last_dts = pts, dts
            return pts if self._faulty_pts <= self._faulty_dts else dts
        if pts is not None and pts >= TIMELESS:
            pts = None
        if dts is not None:
            self._faulty_dts += dts <= self._last_dts
            self._last_dts = dts
        elif pts is not None:
            self._last_dts = pts
        if pts is not None:
            self._faulty_pts += pts <= self._last_pts
            self._last_pts = pts
        elif dts is not None:
            self._last_pts = dts
        if pts is not None and (dts is None or self._faulty_pts <= self._faulty_dts):
            return pts
        if dts is not None:
            return dts
        self._timeless += 1
        return self._packets.after_last(self._timeless - 1, self._decoder.framerate or None)
