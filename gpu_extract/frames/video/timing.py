"""Constant-rate numbering, by which files made before March 2026 count a video's frames (docs/formats.md#timing).

Their frames came through a pipe from the ffmpeg program with its default options, which writes a stream of constant
rate: a frame is repeated where the next one is late and left out where two fall on one tick. `ConstantRate` is that
program's documented rule (`-vsync cfr`), from the releases that were bundled with imageio until 2024. Later releases
keep a frame's duration unrounded and may then place a repeat one tick earlier or later.
"""

from __future__ import annotations

from collections import deque
from fractions import Fraction

import numpy as np

from gpu_extract.frames.video.clock import ratio, scaled

_SLACK = 1.1  # ticks by which a frame may be early or late before one is left out or repeated
_ROUND_UP = 0.6
_MIDPOINT_NUDGE = 1 / (1 << 17)  # keeps times that lie exactly between two ticks from depending on float noise
_MOST_FRAMES = 1 << 26  # a month of them
_TOO_MANY = 3600 * 30 * 30  # copies of a frame; where that many are due, there are none


class ConstantRate:
    """Says of each decoded frame how often it, and how often the one before it, appears in the output.

    rate: output frames a second; time_base: seconds a unit of time; only_stream: the file has nothing but the video,
    and then its first frame is never repeated to fill a late start; lengths_known: False where those releases did not
    know how long a frame lasts (mp4 and mov with composition offsets) and took one tick, whatever `duration` is.
    """

    def __init__(
        self,
        rate: Fraction,
        time_base: Fraction,
        only_stream: bool = False,
        lengths_known: bool = True,
    ) -> None:
        self._ticks_per_unit = rate * time_base
        self._parts = 1 << min(
            max(29 - (rate.numerator.bit_length() - 1), 0), 16
        )  # of a tick, in which times are counted
        self._in_parts = ratio(time_base, 1 / (rate * self._parts))
        self._next = 0  # the tick that the next output frame has
        self._may_start_late = only_stream
        self._lengths_known = lengths_known
        self._duration, self._length = 0, 1.0  # of the frame before, the latter in ticks
        self._recent = deque((0, 0, 0), maxlen=3)  # repeats of the previous frame, at the last three frames

    def place(self, time: int, duration: int) -> tuple[int, int]:
        """(repeats of the previous frame, copies of this one) that the output has before the next frame comes.

        time: when it is shown, from the beginning of the file.
        """
        at = self._ticks(time)
        if duration != self._duration and self._lengths_known:
            self._duration, self._length = duration, float(round(self._ticks_per_unit * duration)) or 1.0
        length = self._length
        early = at - self._next
        if self._may_start_late and early >= 0.5:
            self._next, early = round(at), 0.0
        self._may_start_late = False
        end = early + length
        if -_SLACK <= end <= _SLACK:
            self._recent.append(0)
            self._next += 1
            return 0, 1
        if early < 0 < end:
            early = 0.0
        repeats, total = 0, 1
        if end < -_SLACK:
            total = 0
        elif end > _SLACK:
            total = _rounded(end)
            if early > _SLACK:
                repeats = _rounded(early - _ROUND_UP)
        repeats = min(repeats, total)
        self._recent.append(repeats)
        if total > _TOO_MANY:
            return 0, 0
        self._next += total
        return repeats, total - repeats

    def finish(self) -> int:
        """Copies of the last frame at the end of the stream."""
        return sorted(self._recent)[1]

    def _ticks(self, time: int) -> float:
        ticks = scaled(time, self._in_parts) / self._parts
        return ticks + (_MIDPOINT_NUDGE if ticks > 0 else -_MIDPOINT_NUDGE)


def _rounded(ticks: float) -> int:
    """In single precision, as the program rounded them."""
    return round(float(np.float32(ticks)))


def constant_rate_frames(times: np.ndarray, duration: np.ndarray, clock: ConstantRate) -> np.ndarray:
    """[M] number of the decoded frame that each output frame shows; times, duration: [N], in the order shown.

    Raises ValueError if there are more than anyone can want.
    """
    shown: list[int] = []
    copies: list[int] = []
    for number, (time, length) in enumerate(zip(times.tolist(), duration.tolist(), strict=True)):
        shown += (max(number - 1, 0), number)
        copies += clock.place(time, length)
    if len(times):
        shown.append(len(times) - 1)
        copies.append(clock.finish())
    if sum(copies) > _MOST_FRAMES:
        raise ValueError(f"the video has {sum(copies)} frames at its constant rate.")
    return np.repeat(np.array(shown, np.int64), np.array(copies, np.int64))
