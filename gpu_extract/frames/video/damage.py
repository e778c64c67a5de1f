"""Which decoded frames cannot be trusted because the video is damaged.

FFmpeg conceals what it cannot decode, and goes on predicting from what it made up. So from each place where it
complains, everything is in doubt until a key frame that came later and has no complaint of its own. Damage that decodes
without any complaint cannot be told from pictures that were meant so; nor does every decoder complain, nor always one
that decodes several frames at once, which may hand a frame out before it has found the error.
"""

from __future__ import annotations

from collections import deque
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


_UNKNOWN: tuple[int | None, int | None] = (None, None)


class DamageTracker:
    """Passes decoded frames on in their order, each with whether it is in doubt.

    Frames shown before one that they are predicted from wait for it, at most `_LONGEST_RUN` at once.

    second: in units of the packets' times; 0 where jumps ahead shall not be taken for seams.
    """

    def __init__(self, second: int = 0) -> None:
        self._second = second
        self._sent = 0
        self._time: int | None = None  # of decoding, of the packet before
        # Time shown, or `TIMELESS` -> packet, and the latest time shown of it and of those shortly before.
        self._known: dict[int | None, tuple[int | None, int | None]] = {}
        self._window: deque[int] = deque(maxlen=_WINDOW)
        self._latest = -(1 << 63)  # in the window
        self._age = 0  # times that came into the window since
        self._events: list[_Event] = []
        # Frames that wait, with the two of their packet; None where timestamps do not tell.
        self._held: deque[tuple[av.VideoFrame, int | None, int | None]] = deque()

    def send(self, packet: av.Packet[Any], stored_dts: int | None = None) -> None:
        """To be told of each packet, `SEAM` packets before it is decoded; stored_dts: if the packet's was changed.

        Where time runs backwards, or is a second or more ahead at a key frame, marks just before are taken for those
        of a seam, at which nothing is missing.
        """
        number = self._sent
        self._sent = number + 1
        dts = packet.dts if stored_dts is None else stored_dts
        if dts is not None:
            before, self._time = self._time, dts
            if (
                self._events
                and before is not None
                and (dts < before or (0 < self._second <= dts - before and packet.is_keyframe))
            ):
                at_seam = number - SEAM
                self._events = [event for event in self._events if not event.only_marked or event.first < at_seam]
        if packet.is_corrupt:
            self._events.append(_Event(number, number + 1, only_marked=True))
        pts = packet.pts
        if pts is None:
            return
        known = self._known
        known.pop(pts, None)
        known[pts] = number, self._latest_with(pts) if pts < TIMELESS else None
        if len(known) > _REMEMBERED:
            del known[next(iter(known))]

    def hole(self) -> None:
        """Something between the packet before and the next one could not be read."""
        self._events.append(_Event(self._sent, self._sent))

    def refused(self, delay: int) -> None:
        """The decoder refused a packet; delay: how many packets later it may say so."""
        number = max(self._sent - 1 - SEAM - delay, 0)
        self._events.append(_Event(number, number + 1))

    def take(self, frames: list[av.VideoFrame]) -> list[tuple[av.VideoFrame, bool]]:
        """The frames that need not wait, those first that have waited for these."""
        passed: list[tuple[av.VideoFrame, bool]] = []
        held = self._held
        for frame in frames:
            pts = frame.pts
            number, until = self._known.get(pts, _UNKNOWN)
            if frame.is_corrupt:
                first = number or 0
                self._events.append(_Event(first, first + 1))
            held.append((frame, number, until))
            while held:
                until = held[0][2]
                if until is None or pts is None:
                    waits = all(frame.pict_type == PictureType.B for frame, _, _ in held)
                else:
                    waits = pts < until
                if waits and len(held) <= _LONGEST_RUN:
                    break
                passed.append(self._judged(*held.popleft()) if self._events else (held.popleft()[0], False))
        return passed

    def finish(self) -> list[tuple[av.VideoFrame, bool]]:
        """What still waits at the end of the video."""
        passed = [self._judged(frame, packet) for frame, packet, _ in self._held]
        self._held.clear()
        return passed

    def _latest_with(self, pts: int) -> int:
        """The latest time in the window once this one is in it."""
        self._window.append(pts)
        self._age += 1
        if pts >= self._latest:
            self._latest, self._age = pts, 0
        elif self._age >= _WINDOW:
            self._latest = max(self._window)
            self._age = [*reversed(self._window)].index(self._latest)
        return self._latest

    def _judged(self, frame: av.VideoFrame, packet: int | None, _: int | None = None) -> tuple[av.VideoFrame, bool]:
        number = self._sent if packet is None else packet
        if frame.key_frame and not frame.is_corrupt:
            self._events = [event for event in self._events if event.cleared_by > number]
        return frame, any(event.first <= number for event in self._events)
