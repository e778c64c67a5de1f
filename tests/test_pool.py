"""Threads that are given much at once, and what becomes of it when somebody interrupts."""

from __future__ import annotations

import threading
import time

import pytest

from gpu_extract.run.pool import Pool
from gpu_extract.run.threads import available_cores


def test_all_is_done_in_order() -> None:
    with Pool() as pool:
        assert list(pool.map(str, range(1000))) == [str(number) for number in range(1000)]


def test_an_interrupted_block_waits_for_no_more_than_what_was_begun() -> None:
    begun: list[int] = []
    first = threading.Event()

    def slow(number: int) -> None:
        begun.append(number)
        first.set()
        time.sleep(0.05)

    def interrupted() -> None:
        with Pool() as pool:
            told = pool.map(slow, range(1000))  # held, so that nothing takes back what is in it
            first.wait()
            assert told is not None
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(begun) <= 2 * available_cores()
