"""Which decoded frames cannot be trusted because the video is damaged.

FFmpeg conceals what it cannot decode, and goes on predicting from what it made up. So from each place where it
complains, everything is in doubt until a key frame that came later and has no complaint of its own. Damage that decodes
without any complaint cannot be told from pictures that were meant so; nor does every decoder complain, nor always one
that decodes several frames at once, which may hand a frame out before it has found the error.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import av
from av.video.frame import PictureType

from gpu_extract.frames.video.clock import TIMELESS

_REMEMBERED = 128  # packets; no decoder delays a picture by more
_WINDOW = 32  # packets before one among which is what it is predicted from, if that is shown later
_LONGEST_RUN = 16  # frames held back
SEAM = 3  # packets before the end of a transport stream that may be marked as corrupt where another was joined to it


class _Event(NamedTuple):
    first: int  # the number of the first packet in doubt
    cleared_by: int  # key frames from this packet on end it
    only_marked: bool = False  # the container says so, not the decoder


class _Held(NamedTuple):
    frame: av.VideoFrame
    packet: int | None  # its number, None where timestamps do not tell
    until: int | None  # the latest time shown of any packet before its own


class DamageTracker:
    """Passes decoded frames on in their order, each with whether it is in doubt.

    Frames shown before one that they are predicted from wait for it, at most `_LONGEST_RUN` at once.

    second: in units of the packets' times; 0 where jumps ahead shall not be taken for seams.
    """

    def __init__(self, second: int = 0) -> None:
        self._second = second
        self._sent = 0
        self._time: int | None = None  # of decoding, of the packet before
        self._number_of: dict[int, int] = {}  # time shown, or `TIMELESS` -> packet
        self._latest: dict[int, int] = {}  # packet -> the latest time shown of it and of those shortly before
        self._window: deque[int] = deque(maxlen=_WINDOW)
        self._events: list[_Event] = []
        self._held: deque[_Held] = deque()

    def send(self, packet: av.Packet[Any], stored_dts: int | None = None) -> None:
        """To be told of each packet, `SEAM` packets before it is decoded; stored_dts: if the packet's was changed.

        Where time runs backwards, or is a second or more ahead at a key frame, marks just before are taken for those
        of a seam, at which nothing is missing.
        """
        number, self._sent = self._sent, self._sent + 1
        dts = packet.dts if stored_dts is None else stored_dts
        if dts is not None:
            if self._time is not None and (dts < self._time or self._is_ahead(packet, dts - self._time)):
                at_seam = number - SEAM
                self._events = [event for event in self._events if not event.only_marked or event.first < at_seam]
            self._time = dts
        if packet.is_corrupt:
            self._events.append(_Event(number, number + 1, only_marked=True))
        if packet.pts is None:
            return
        self._number_of.pop(packet.pts, None)
        self._number_of[packet.pts] = number
        if packet.pts < TIMELESS:
            self._window.append(packet.pts)
            self._latest[number] = max(self._window)
        if len(self._number_of) > _REMEMBERED:
            self._latest.pop(self._number_of.pop(next(iter(self._number_of))), None)

    def hole(self) -> None:
        """Something between the packet before and the next one could not be read."""
        self._events.append(_Event(self._sent, self._sent))

    def refused(self, delay: int) -> None:
        """The decoder refused a packet; delay: how many packets later it may say so."""
        number = max(self._sent - 1 - SEAM - delay, 0)
        self._events.append(_Event(number, number + 1))

    def take(self, frames: list[av.VideoFrame]) -> Iterator[tuple[av.VideoFrame, bool]]:
        for frame in frames:
            number = None if frame.pts is None else self._number_of.get(frame.pts)
            if frame.is_corrupt:
                first = number or 0
                self._events.append(_Event(first, first + 1))
            self._held.append(_Held(frame, number, None if number is None else self._latest.get(number)))
            while self._held and (len(self._held) > _LONGEST_RUN or not self._waits(self._held[0])):
                yield self._judged(self._held.popleft())

    def finish(self) -> Iterator[tuple[av.VideoFrame, bool]]:
        """What still waits at the end of the video."""
        while self._held:
            yield self._judged(self._held.popleft())

    def _is_ahead(self, packet: av.Packet[Any], step: int) -> bool:
        return 0 < self._second <= step and packet.is_keyframe

    def _waits(self, held: _Held) -> bool:
        newest = self._held[-1].frame
        if held.until is None or newest.pts is None:
            return all(one.frame.pict_type == PictureType.B for one in self._held)
        return newest.pts < held.until

    def _judged(self, held: _Held) -> tuple[av.VideoFrame, bool]:
        number = self._sent if held.packet is None else held.packet
        if held.frame.key_frame and not held.frame.is_corrupt:
            self._events = [event for event in self._events if event.cleared_by > number]
        return held.frame, any(event.first <= number for event in self._events)
