"""What ends a run early: a host program's event or, where there is none, Ctrl-C, SIGTERM and SIGHUP (a lost terminal).

The first signal asks a run to end in good order, the second ends it at once.
"""

from __future__ import annotations

import _thread
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any, ClassVar, Self

from gpu_extract.errors import AlignmentsError, InterruptedRunError, OutputError, UsageError

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
CANCELLED_EXIT_CODE = EXIT_CODES[signal.SIGINT]
POLL_SECONDS = 0.05  # how long the end of a run may wait for the watcher of a host's event
AGAIN_SECONDS = 0.02  # after which a signal that came during an import is given once more
GRACE_SECONDS = 3.0  # for frames in flight; what takes longer is given up and done again by --resume


def taken() -> list[signal.Signals]:
    """Those that end a run; one that is ignored, as SIGHUP under `nohup`, stays so."""
    return [number for number in EXIT_CODES if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]


class StopOnSignal:
    """While entered, the first signal raises InterruptedRunError, the second ends the process.

    Inside `calling(stop)` the first one calls `stop` instead. Does nothing outside the main thread. One may be entered
    inside another; the inner one has the say. A SIGHUP that is ignored, as under `nohup`, stays so.

    A signal may come while a library is being called, and that library may make another error of it, or none. What then
    leaves the block is InterruptedRunError all the same; `check` raises it where the block goes on. While a module is
    being imported nothing is raised: an import that is torn may leave its lock taken for good. It is raised by the
    next `check`, or as soon as no import is on its way.
    """

    _unheard: ClassVar[signal.Signals | None] = None
    """A signal that came during an import, in whichever block."""
    _is_again: ClassVar[bool] = False
    """Whether the signal that comes next is that one."""
    _giving: ClassVar[_thread.LockType] = _thread.allocate_lock()
    """Held by who gives it again, or sees to it that nobody does; never in a handler."""

    def __init__(self) -> None:
        self._stop: Callable[[], None] | None = None
        self._previous: dict[signal.Signals, Any] = {}
        self.received: signal.Signals | None = None
        self._raised = False

    @property
    def exit_code(self) -> int | None:
        """129, 130 or 143 once a signal came, else None."""
        return EXIT_CODES[self.received] if self.received is not None else None

    @contextmanager
    def calling(self, stop: Callable[[], None]) -> Iterator[None]:
        """Call `stop` from the signal handler: it must not wait, and whoever called this must soon come to an end."""
        self._stop = stop
        if self._raised:
            stop()
        try:
            yield
        finally:
            self._stop = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in taken():
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def check(self) -> None:
        """Raise what a signal raised, or had to leave to this, if it went unheard."""
        number = StopOnSignal._unheard or (self.received if self._raised else None)
        if number is not None:
            StopOnSignal._unheard = None
            raise InterruptedRunError("interrupted.", EXIT_CODES[number])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with StopOnSignal._giving:
            unheard, StopOnSignal._unheard = StopOnSignal._unheard, None
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        StopOnSignal._is_again = False
        told = isinstance(error, InterruptedRunError | OutputError | AlignmentsError)
        if not told and (error is None or isinstance(error, Exception)):
            if unheard is not None:
                raise InterruptedRunError("interrupted.", EXIT_CODES[unheard])
            self.check()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number)
        if StopOnSignal._is_again:
            StopOnSignal._is_again = False
            if StopOnSignal._unheard is None:  # heard meanwhile
                return
        elif self.received is not None:
            os._exit(EXIT_CODES[name])
        self.received = name
        if self._stop is None:
            self._raised = True
            if _is_importing(frame):
                StopOnSignal._unheard = name
                with suppress(RuntimeError):  # without a thread `check` has to do
                    _thread.start_new_thread(_give_again, (number,))
                return
            StopOnSignal._unheard = None
            raise InterruptedRunError("interrupted.", EXIT_CODES[name])
        self._stop()


def _give_again(number: int) -> None:
    """Whoever is no run, and so never asks `check`, is to hear it, too."""
    time.sleep(AGAIN_SECONDS)
    with StopOnSignal._giving:
        if StopOnSignal._unheard == number:
            StopOnSignal._is_again = True
            signal.pthread_kill(threading.main_thread().ident or 0, number)


def _is_importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported, however deep in it the frame is."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


class Interruption:
    """What may end one run early; a context manager.

    Args:
        cancel: a host program's event. Signals are then left alone; without it they are taken, in the main thread.

    Raises:
        UsageError: if `cancel` is no event.
    """

    def __init__(self, cancel: threading.Event | None = None) -> None:
        if cancel is not None and not callable(getattr(cancel, "is_set", None)):
            raise UsageError(f"cancel must be an event, such as threading.Event(), got {cancel!r}.")
        self._cancel = cancel
        self._signals = StopOnSignal()

    @property
    def exit_code(self) -> int | None:
        """129, 130 or 143 once the run is to end, else None."""
        if self._cancel is None:
            return self._signals.exit_code
        return CANCELLED_EXIT_CODE if self._cancel.is_set() else None

    def check(self) -> None:
        """Raise InterruptedRunError if the run is to end, also where it stopped for that or a library swallowed it."""
        if self.exit_code is not None:
            raise InterruptedRunError("interrupted." if self._cancel is None else "cancelled.", self.exit_code)
        self._signals.check()

    @contextmanager
    def calling(self, stop: Callable[[], None]) -> Iterator[None]:
        """Call `stop` when the run is to end; it must not wait, and is called from a signal handler or a thread."""
        if self._cancel is None:
            with self._signals.calling(stop):
                yield
            return
        ended = threading.Event()
        watcher = threading.Thread(target=_watch, args=(self._cancel, ended, stop), name="gpu-extract-watcher")
        from gpu_extract.run.threads import start_thread

        start_thread(watcher, "none of the threads that this run needs")
        try:
            yield
        finally:
            ended.set()
            watcher.join()

    def __enter__(self) -> Self:
        if self._cancel is None:
            self._signals.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._cancel is None:
            self._signals.__exit__(kind, error, trace)


def _watch(cancel: threading.Event, ended: threading.Event, stop: Callable[[], None]) -> None:
    while not ended.is_set():
        if cancel.wait(POLL_SECONDS):
            stop()
            return
