"""Ctrl-C and SIGTERM: the first asks a run to end in good order, the second ends it at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

from gpu_extract.errors import InterruptedRunError

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class StopOnSignal:
    """While entered, the first SIGINT or SIGTERM raises InterruptedRunError, the second ends the process.

    Inside `calling(stop)` the first one calls `stop` instead. Does nothing outside the main thread. One may be entered
    inside another; the inner one has the say.
    """

    def __init__(self) -> None:
        self._stop: Callable[[], None] | None = None
        self._previous: dict[signal.Signals, Any] = {}
        self.received: signal.Signals | None = None

    @property
    def exit_code(self) -> int | None:
        """130 or 143 once a signal came, else None."""
        return EXIT_CODES[self.received] if self.received is not None else None

    @contextmanager
    def calling(self, stop: Callable[[], None]) -> Iterator[None]:
        """Call `stop` from the signal handler: it must not wait, and whoever called this must soon come to an end."""
        self._stop = stop
        try:
            yield
        finally:
            self._stop = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in EXIT_CODES:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number)
        if self.received is not None:
            os._exit(EXIT_CODES[name])
        self.received = name
        if self._stop is None:
            raise InterruptedRunError("interrupted.", EXIT_CODES[name])
        self._stop()
