"""A run divided: part I of N of the frames of a plan, and where the parts meet.

Whoever has the same alignments file, frames and options divides alike, on whatever machine: all follows from the plan,
the number of parts, and what the source says of reading it.
"""

from __future__ import annotations

import numpy as np

from gpu_extract.errors import FrameError
from gpu_extract.frames import FrameSource
from gpu_extract.run.plan import Plan, subset
from gpu_extract.run.shard import Shard

FACE_COST = 0.34
"""Of cutting and writing a face of 256 px, in frames of 1920 x 1080 read; measured in `bench/scale.py`."""
READING_PIXELS = 1920 * 1080
FRAME_COST = 0.22
"""Of a frame besides, however small; from the same place."""


def part_of(plan: Plan, source: FrameSource, shard: Shard) -> Plan:
    """The same plan over the frames of one shard."""
    bounds = cuts(plan, source, shard.count)
    frames = np.zeros(plan.frame_count, bool)
    frames[bounds[shard.number] : bounds[shard.number + 1]] = True
    return subset(plan, frames)


def cuts(plan: Plan, source: FrameSource, count: int) -> np.ndarray:
    """[count + 1] ascending: shard i has the frames bounds[i] to bounds[i + 1] of the plan, perhaps none.

    All cost about the same, as far as one may begin where reading can: elsewhere what lies before is read twice.
    """
    reading = source.reading(plan.positions)
    spent = np.cumsum(frame_costs(plan, reading.cost, source))
    if not len(spent):
        return np.zeros(count + 1, np.int64)
    ideal = spent[-1] * np.arange(1, count) / count
    before = np.concatenate([[0.0], spent[:-1]])  # spent when a frame begins
    begins = np.flatnonzero(reading.begins)
    anywhere = np.arange(plan.frame_count)
    tolerance = spent[-1] / count / 2
    inner = []
    for wanted in ideal.tolist():
        near = _nearest(before, begins, wanted)
        if near is None or abs(before[near] - wanted) > tolerance:
            near = _nearest(before, anywhere, wanted)
        inner.append(near)
    bounds = np.array([0, *inner, plan.frame_count], np.int64)
    return np.maximum.accumulate(bounds)


def frame_costs(plan: Plan, reading: np.ndarray, source: FrameSource) -> np.ndarray:
    """[N] float64, what each frame of a plan costs, about, in frames of 1920 x 1080 that are read.

    Args:
        reading: [N] how many frames of the source must be read for it.
    """
    faces = np.diff(plan.starts) * (FACE_COST * (plan.size / 256) ** 2)
    pixels = _pixels(plan, source)
    costs: np.ndarray = reading * (pixels / READING_PIXELS) + faces + FRAME_COST
    return costs


def _pixels(plan: Plan, source: FrameSource) -> int:
    """Of the first frame."""
    try:
        height, width = source.size_of(int(plan.positions[0])) if plan.frame_count else (0, 0)
    except FrameError:
        return READING_PIXELS
    return height * width


def _nearest(before: np.ndarray, allowed: np.ndarray, wanted: float) -> int | None:
    """Of the allowed frames [n] ascending, the one whose beginning comes closest to what is to be spent before it."""
    if not len(allowed):
        return None
    at = int(np.searchsorted(before[allowed], wanted))
    around = allowed[max(at - 1, 0) : at + 1]
    return int(around[np.argmin(np.abs(before[around] - wanted))])
