"""Turns: of all that want to do something to one thing, one does it at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

WAIT_SECONDS = 0.1


class Turns:
    """Whose turn it is, for each thing that somebody is at."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._busy: set[Hashable] = set()

    @contextmanager
    def at(self, thing: Hashable, while_waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Be alone at it; whoever is must not ask again.

        Args:
            while_waiting: called now and then; what it raises ends the wait.
        """
        with self._change:
            while thing in self._busy:
                while_waiting()
                self._change.wait(WAIT_SECONDS)
            self._busy.add(thing)
        try:
            yield
        finally:
            with self._change:
                self._busy.discard(thing)
                self._change.notify_all()
