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

Steps = list[tuple[str, int, int]]


def first_steps(request: Request, devices: int) -> Steps:
    """Of a new job: a check where nothing is to be cut, or to find out how many shards pay on so many devices."""
    if request.is_check or (request.shards == "auto" and devices > 1):
        return [(CHECK, 0, 1)]
    return cuts(1 if request.shards == "auto" else request.shards)


def further_steps(request: Request, folder: JobFolder, shards: int, devices: int) -> Steps:
    """Of a job that has a past: `shards` are those that were begun, 0 for none."""
    if (folder.faces / journal.NAME).is_file():  # whole from the beginning, or since its shards were merged
        return cuts(1)
    return cuts(shards) if shards else first_steps(request, devices)


def cuts(count: int) -> Steps:
    return [(CUT, number, count) for number in range(count)]


def shards_that_pay(plan: dict[str, Any], devices: int) -> int:
    """In how many shards to cut.

    Args:
        plan: the report of a check.
    """
    by_work = int((plan.get("seconds_estimated") or 0.0) / SHARD_SECONDS)
    return max(1, min(by_work, SHARDS_A_DEVICE * devices, plan.get("frames_expected") or 1))
