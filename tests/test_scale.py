"""The capacity model: its simulation against what can be reckoned by hand, its document against its figures."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from tests.helpers import module_from

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def scale() -> ModuleType:
    return module_from(ROOT / "bench" / "scale.py")


@pytest.fixture(scope="module")
def model(scale: ModuleType) -> ModuleType:
    found: ModuleType = scale.scale_model
    return found


@pytest.mark.parametrize(
    ("shards", "count", "slots", "rounds"), [(1, 1, 1, 1), (10, 1, 1, 10), (10, 2, 2, 3), (64, 8, 8, 1), (65, 8, 8, 2)]
)
def test_without_losses_it_is_a_division(shards: int, count: int, slots: int, rounds: int, model: ModuleType) -> None:
    found = model.simulate(shards, 30.0, count, slots, None, 1)
    assert (found.seconds, found.lost, found.shards_lost) == (30.0 * rounds, 0.0, 0)


def test_losses_are_as_often_as_they_should_be(model: ModuleType) -> None:
    """A shard of a tenth of a life is lost once in exp(0.1) - 1 times, and a lost one has done nearly half."""
    shards, life = 20_000, 1000.0
    found = model.simulate(shards, life / 10, 5, 1, life, 7)
    assert found.shards_lost / shards == pytest.approx(0.105, rel=0.1)
    assert found.lost == pytest.approx(0.049, rel=0.1)
    lifetimes = shards * life / 10 / (1 - found.lost) / life
    waits = lifetimes * model.ASSUMED["new_machine_seconds"]
    assert found.seconds == pytest.approx((shards * life / 10 / (1 - found.lost) + waits) / 5, rel=0.05)


def test_who_loses_a_machine_loses_all_that_it_was_at(model: ModuleType) -> None:
    one, four = (model.simulate(4_000, 100.0, 2, slots, 1000.0, 3) for slots in (1, 4))
    assert four.shards_lost == pytest.approx(one.shards_lost, rel=0.2)
    assert four.seconds < one.seconds / 3


def test_the_tables_are_those_of_the_figures(scale: ModuleType) -> None:
    document = (ROOT / "docs" / "scale.md").read_text("utf-8")
    result = json.loads((ROOT / "bench" / "results" / "scale.json").read_text("utf-8"))
    assert scale.with_part(document, scale.part(result)) == document


def test_the_costs_of_the_program_are_about_those_that_were_measured(scale: ModuleType) -> None:
    """The ratios, which a busy machine leaves as they are."""
    result = json.loads((ROOT / "bench" / "results" / "scale.json").read_text("utf-8"))
    found = scale.constants(result["measured"])
    for name in ("FACE_COST", "FRAME_COST"):
        assert found[name]["in_the_program"] == pytest.approx(found[name]["measured"], rel=scale.TOLERANCE), name


def test_the_seconds_of_the_program_are_those_of_an_idle_machine(scale: ModuleType) -> None:
    """A frame with two faces, as one core does it in the benchmark of the whole job."""
    from gpu_extract.jobs.runs.processes import COST_SECONDS
    from gpu_extract.run.shards import FACE_COST, FRAME_COST

    frames_per_second = re.search(r'"1: (\d+) ', (ROOT / "bench" / "results" / "extract.json").read_text("utf-8"))
    assert frames_per_second is not None
    seconds = COST_SECONDS * (1 + 2 * FACE_COST + FRAME_COST)
    assert seconds == pytest.approx(1 / int(frames_per_second[1]), rel=scale.TOLERANCE)
