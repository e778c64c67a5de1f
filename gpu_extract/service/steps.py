"""Which steps a job takes: each its kind, number and count, as the table has them."""

from __future__ import annotations

from typing import Any

from gpu_extract.run import journal
from gpu_extract.service.folders import JobFolder
from gpu_extract.service.requests import Request
from gpu_extract.service.table import CHECK, CUT

SHARD_SECONDS = 60.0
"""Of work that a shard is to have at least: each reads the whole index and starts anew."""
SHARDS_A_DEVICE = 4
SHORT_ALIGNMENTS_BYTES = 1 << 16
"""A hundred faces at most, which hardly compress: at worst a picture group is decoded for each, in some 0.5 s."""
SHORT_FRAMES_BYTES = 16 << 20
"""Four minutes of a video of 500 kbit/s, of which more than a hundred frames a second are cut."""

Steps = list[tuple[str, int, int]]


def first_steps(request: Request, folder: JobFolder, devices: int) -> Steps:
    """Of a new job: a check where nothing is to be cut, or to find out how many shards pay on so many devices."""
    if request.is_check:
        return [(CHECK, 0, 1)]
    if request.shards != "auto":
        return cuts(request.shards)
    return cuts(1) if devices == 1 or _is_short(request, folder) else [(CHECK, 0, 1)]


def _is_short(request: Request, folder: JobFolder) -> bool:
    """Whether a job has evidently no work for two shards; a check would take longer than to see that.

    Where that is a mistake, it takes longer on one device than it would on several.
    """
    frames = folder.path / (request.packed or request.frames)
    try:
        if (folder.path / request.alignments).stat().st_size <= SHORT_ALIGNMENTS_BYTES:
            return True
        return frames.is_file() and frames.stat().st_size <= SHORT_FRAMES_BYTES
    except OSError:  # what is not there, its first step tells of
        return True


def further_steps(request: Request, folder: JobFolder, shards: int, devices: int) -> Steps:
    """Of a job that has a past: `shards` are those that were begun, 0 for none."""
    if (folder.faces / journal.NAME).is_file():  # whole from the beginning, or since its shards were merged
        return cuts(1)
    return cuts(shards) if shards else first_steps(request, folder, devices)


def cuts(count: int) -> Steps:
    return [(CUT, number, count) for number in range(count)]


def shards_that_pay(plan: dict[str, Any], devices: int) -> int:
    """In how many shards to cut.

    Args:
        plan: the report of a check.
    """
    by_work = int((plan.get("seconds_estimated") or 0.0) / SHARD_SECONDS)
    return max(1, min(by_work, SHARDS_A_DEVICE * devices, plan.get("frames_expected") or 1))
