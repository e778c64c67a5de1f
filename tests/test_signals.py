"""Signals that come while a module is being imported: they tear no import, and are heard soon, whoever runs."""

from __future__ import annotations

import importlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpu_extract.errors import InterruptedRunError
from gpu_extract.run.signals import StopOnSignal

MOST_SECONDS = 20.0
MODULE = "interrupted_while_it_is_imported"
RUN = """
import sys, time
sys.path.insert(0, sys.argv[1])
from gpu_extract.errors import InterruptedRunError
from gpu_extract.run.signals import StopOnSignal
try:
    with StopOnSignal():
        import slow
        print("imported", slow.WHOLE, flush=True)
        for _ in range(200):
            time.sleep(0.05)
except InterruptedRunError as error:
    print("heard", error.exit_code, flush=True)
time.sleep(0.2)
print("ended", flush=True)
"""
SLOW = """
import time
print("importing", flush=True)
for _ in range(60):
    time.sleep(0.005)
WHOLE = True
"""


@pytest.fixture
def process(tmp_path: Path) -> subprocess.Popen[str]:
    """One that imports for some tenths of a second, and then works for ten seconds without asking for signals."""
    (tmp_path / "slow.py").write_text(SLOW)
    command = [sys.executable, "-c", RUN, str(tmp_path)]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert started.stdout is not None
    assert started.stdout.readline() == "importing\n"
    return started


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_during_an_import_is_heard_when_that_has_ended(
    process: subprocess.Popen[str], number: signal.Signals, code: int
) -> None:
    process.send_signal(number)
    began = time.monotonic()
    said, err = process.communicate(timeout=20)
    assert said == f"imported True\nheard {code}\nended\n", err
    assert time.monotonic() - began < 5


def test_a_second_signal_ends_even_an_import(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=20)
    assert (process.returncode, said) == (130, "")


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
    before, began = signal.getsignal(signal.SIGINT), time.monotonic()
    with pytest.raises(InterruptedRunError) as told:
        goes_on_after(module)
    assert told.value.exit_code == 130
    assert time.monotonic() - began < MOST_SECONDS
    assert sys.modules[module].whole
    assert signal.getsignal(signal.SIGINT) is before


def test_what_is_to_end_in_good_order_is_asked_to_and_not_torn(module: str) -> None:
    asked: list[bool] = []
    with StopOnSignal() as signals, signals.calling(lambda: asked.append(True)):
        importlib.import_module(module)
        time.sleep(0.2)
    assert asked == [True]
    assert signals.exit_code == 130
