"""How long the rest of a run will take, by what its frames and faces have cost so far."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

SAMPLE_SECONDS = 0.5
FADE = 0.99
"""Of what was learned, with each sample: half a minute ago counts half."""
CAUTION = 0.05
"""How much is kept of the assumption that frames and faces cost alike, which a run of equal frames cannot refute."""
LEAST_SAMPLES = 3
LONGEST_GAP = 250
"""Frames between two that are wanted; where there are more, groups of pictures are passed over and cost little."""


class Pace:
    """What a run costs: so much for each frame that is gone through, and so much for each face.

    A video's frames between those that are wanted are decoded as well, so a frame stands for all from the one before
    it. Both costs come from a weighted least-squares fit over samples of half a second, of which later ones count more.

    Args:
        frames: that this run has to do.
        faces: of these; 0 where nobody knows.
        positions: of these in a video, ascending; empty where what lies between them costs nothing.
        clock: monotonic seconds; that of the machine by default.
    """

    def __init__(
        self,
        frames: int,
        faces: int,
        positions: Sequence[int] | np.ndarray = (),
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._positions, self._clock = positions, clock or time.monotonic
        self._steps = frames if len(positions) == 0 else sum(self._gap(i) for i in range(len(positions)))
        self._faces = faces
        self._steps_done = self._faces_done = 0
        self._sampled = self._clock()
        self._at_sample = (0, 0)
        self._samples = 0
        self._weights = self._ss = self._sf = self._ff = self._st = self._ft = 0.0

    def _gap(self, i: int) -> int:
        before = self._positions[i - 1] if i else self._positions[0] - 1
        return min(int(self._positions[i] - before), LONGEST_GAP)

    def frame(self, position: int, faces: int) -> None:
        """A frame is done with."""
        steps = 1
        if len(self._positions):
            i = bisect_left(self._positions, position)
            steps = self._gap(i) if i < len(self._positions) else 0
        self.add(steps, faces)

    def add(self, steps: int, faces: int) -> None:
        """Frames and faces are done with."""
        self._steps_done += steps
        self._faces_done += faces
        now = self._clock()
        if now - self._sampled >= SAMPLE_SECONDS:
            self._sample(now)

    def expect(self, frames: int) -> None:
        """So many there are in all, as is known now."""
        self._steps = frames

    def _sample(self, now: float) -> None:
        s, f = self._steps_done - self._at_sample[0], self._faces_done - self._at_sample[1]
        t = now - self._sampled
        self._sampled, self._at_sample = now, (self._steps_done, self._faces_done)
        self._samples += 1
        self._weights = FADE * self._weights + t
        self._ss = FADE * self._ss + s * s / t
        self._sf = FADE * self._sf + s * f / t
        self._ff = FADE * self._ff + f * f / t
        self._st = FADE * self._st + s
        self._ft = FADE * self._ft + f

    def seconds_left(self) -> float | None:
        """None while nobody can tell."""
        steps, faces = max(0, self._steps - self._steps_done), max(0, self._faces - self._faces_done)
        if not steps:
            return 0.0
        if self._samples < LEAST_SAMPLES or not self._st:
            return None
        # Rates as shares of the usual ones, so that the fit does not depend on how many faces a frame has.
        step, face = self._weights / self._st, self._weights / self._ft if self._ft else 0.0
        a, b = self._fit(step, face)
        return a * step * steps + b * face * faces

    def _fit(self, step: float, face: float) -> tuple[float, float]:
        """How much of the time goes with steps, and with faces, as parts of the usual seconds of each."""
        if not face or not self._faces:
            return 1.0, 0.0
        total = self._weights
        ss, sf, ff = self._ss * step * step, self._sf * step * face, self._ff * face * face
        st = ft = total
        ss, ff = ss + CAUTION * total, ff + CAUTION * total
        st, ft = st + CAUTION * total / 2, ft + CAUTION * total / 2
        a = (st * ff - ft * sf) / (ss * ff - sf * sf)
        b = (ft * ss - st * sf) / (ss * ff - sf * sf)
        if a < 0:
            return 0.0, ft / ff
        if b < 0:
            return st / ss, 0.0
        return a, b


def in_words(seconds: float) -> str:
    """ "42 s", "12 min", "3 h 20 min"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
