"""The prediction for GPU machines: against what can be reckoned by hand, its document against its figures."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from tests.helpers import module_from

ROOT = Path(__file__).parent.parent
CPU = {"decode": 0.004, "convert": 0.001, "warp": 0.001, "finish": 0.002, "lock": 0.0001}


@pytest.fixture(scope="module")
def model() -> ModuleType:
    return module_from(ROOT / "bench" / "gpu_model.py")


def test_the_document_has_the_predictions_of_the_figures(model: ModuleType) -> None:
    document = (ROOT / "docs" / "gpu.md").read_text("utf-8")
    loaded = [json.loads((ROOT / "bench" / "results" / f"{name}.json").read_text()) for name in model.SOURCES]
    assert model.with_part(document, model.part(*loaded)) == document


def test_cores_do_what_the_card_leaves_to_them(model: ModuleType) -> None:
    card = next(card for card in model.CARDS if card.name == "L4")
    cuts, decodes = (model.rates(card, 7, CPU, 124, decodes=decodes) for decodes in (False, True))
    assert cuts["cores"] == pytest.approx(7 / 0.007)
    assert decodes["cores"] == pytest.approx(7 / 0.002)
    assert decodes["NVDEC, all engines"] == 4 * decodes["NVDEC, one session"] == 4 * 903
    assert cuts["kernel"] == pytest.approx(58 * 64 * 2.04e9 / (2 * 256 * 256 * 124))
    assert not {name for name in cuts if "NVDEC" in name}


def test_the_slowest_stage_is_the_limit(model: ModuleType) -> None:
    found = {"cores": 900.0, "lock, one process": 500.0, "NVDEC, one session": 300.0, "NVDEC, all engines": 700.0}
    assert model.limit(found, processes=False) == ("NVDEC, one session", 300.0)
    assert model.limit(found, processes=True) == ("NVDEC, all engines", 700.0)
