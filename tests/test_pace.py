"""Time left that holds: where faces or gaps stand unevenly, and with costs that were never alike."""

from __future__ import annotations

import random

import pytest

from gpu_extract.run.pace import Pace, in_words

FRAME_SECONDS, FACE_SECONDS = 0.003, 0.001


def foretold(positions: list[int], faces: list[int], video: bool = True) -> dict[float, float]:
    """By share of the time that has passed: the whole time as it was foretold then, as a part of what it became."""
    chance, now, before = random.Random(1), 0.0, positions[0] - 1
    costs = []
    for position, count in zip(positions, faces, strict=True):
        gap = position - before if video else 1
        costs.append((gap * FRAME_SECONDS + count * FACE_SECONDS) * chance.uniform(0.8, 1.2))
        before = position
    pace = Pace(len(positions), sum(faces), positions if video else (), clock=lambda: now)
    found: dict[float, float] = {}
    for position, count, cost in zip(positions, faces, costs, strict=True):
        now += cost
        pace.frame(position, count)
        share = int(now / sum(costs) * 10) / 10
        if share not in found and (left := pace.seconds_left()) is not None:
            found[share] = (now + left) / sum(costs)
    assert pace.seconds_left() == 0
    return found


@pytest.mark.parametrize("video", [True, False])
def test_frames_that_are_alike(video: bool) -> None:
    assert all(0.95 < part < 1.05 for part in foretold(list(range(9000)), [2] * 9000, video).values())


def test_faces_that_come_by_chance() -> None:
    chance = random.Random(2)
    found = foretold(list(range(9000)), [chance.randint(0, 6) for _ in range(9000)])
    assert all(0.95 < part < 1.05 for share, part in found.items() if share >= 0.1)


def test_frames_that_are_passed_through_count_as_well() -> None:
    """By frames that are done alone, a third of the time would be foretold at the beginning."""
    found = foretold([*range(1, 1001), *range(1001, 30000, 10)], [1] * 3900)
    assert all(0.9 < part < 1.1 for share, part in found.items() if share >= 0.1)


def test_a_part_with_many_faces_is_foretold_as_soon_as_it_can_be_told_from_frames() -> None:
    found = foretold(list(range(9000)), [1] * 3000 + [8] * 6000)
    assert all(0.9 < part < 1.1 for share, part in found.items() if share >= 0.4)
    assert all(0.5 < part < 2 for part in found.values())


def test_nothing_is_foretold_before_something_was_seen() -> None:
    now = 0.0
    pace = Pace(100, 100, clock=lambda: now)
    assert pace.seconds_left() is None
    now = 5.0
    pace.frame(0, 1)
    assert pace.seconds_left() is None


def test_more_than_was_planned_leaves_nothing() -> None:
    now = 0.0
    pace = Pace(10, 0, clock=lambda: now)
    for position in range(20):
        now += 0.6
        pace.frame(position, 1)
    assert pace.seconds_left() == 0


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59, "59 s"), (80, "1 min"), (3570, "1 h 0 min"), (12_000, "3 h 20 min")]
)
def test_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
