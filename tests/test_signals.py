"""A signal that comes while a module is being imported: nothing is torn, and nothing goes on as if it had not come."""

from __future__ import annotations

import importlib
import signal
import sys
import time
from pathlib import Path

import pytest

from gpu_extract.errors import InterruptedRunError
from gpu_extract.run.signals import StopOnSignal

MOST_SECONDS = 20.0
MODULE = "interrupted_while_it_is_imported"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of one that somebody interrupts, and that takes a while after it."""
    source = "import signal, time\nsignal.raise_signal(signal.SIGINT)\ntime.sleep(0.2)\nwhole = True\n"
    (tmp_path / f"{MODULE}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    return MODULE


def goes_on_after(module: str) -> None:
    with StopOnSignal():
        importlib.import_module(module)
        time.sleep(MOST_SECONDS)


def test_the_import_is_done_and_what_follows_is_not(module: str) -> None:
    before, began = signal.getsignal(signal.SIGALRM), time.monotonic()
    with pytest.raises(InterruptedRunError) as told:
        goes_on_after(module)
    assert told.value.exit_code == 130
    assert time.monotonic() - began < MOST_SECONDS
    assert sys.modules[module].whole
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_what_is_to_end_in_good_order_is_asked_to_and_not_torn(module: str) -> None:
    asked: list[bool] = []
    with StopOnSignal() as signals, signals.calling(lambda: asked.append(True)):
        importlib.import_module(module)
        time.sleep(0.2)
    assert asked == [True]
    assert signals.exit_code == 130
