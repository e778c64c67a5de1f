"""What threads wait in: a queue that wakes only as many workers as it needs, and a bound in bytes."""

from __future__ import annotations

import threading
from collections import deque

from gpu_extract.frames import Frame, FrameFailure

DECODED_FRAMES_PER_WORKER = 2  # decoded frames that wait for a worker; 3 MB each at 1080p
POLL_SECONDS = 0.2  # how long a blocked thread takes at most to see that the run was stopped


class StoppedError(Exception):
    """Raised inside a thread that has to end early."""


class Backlog:
    """Frames that wait for a worker. The n-th worker, from 0, takes one only while more than 2 n wait.

    So a decoder that needs most of the machine keeps it: the workers that it outpaces join in one by one, and no more
    of them than that fight over the cores, or are woken.
    """

    def __init__(self, workers: int) -> None:
        self._waiting: deque[tuple[int, Frame | FrameFailure]] = deque()
        self._lock = threading.Lock()
        self._enough = [threading.Condition(self._lock) for _ in range(workers)]  # for each worker
        self._closed = False

    def put(self, item: tuple[int, Frame | FrameFailure]) -> None:
        with self._lock:
            self._waiting.append(item)
            for worker, enough in enumerate(self._enough):
                if not self._is_enough(worker):
                    break
                enough.notify()

    def take(self, worker: int) -> tuple[int, Frame | FrameFailure] | None:
        """The next frame, or None when there will be no more."""
        with self._lock:
            while not self._is_enough(worker) and not self._closed:
                self._enough[worker].wait()
            return self._waiting.popleft() if self._waiting else None

    def close(self) -> None:
        """Nothing more comes; all workers take what is left."""
        with self._lock:
            self._closed = True
            for enough in self._enough:
                enough.notify()

    def _is_enough(self, worker: int) -> bool:
        return len(self._waiting) > worker * DECODED_FRAMES_PER_WORKER


class ByteBudget:
    """A bound in bytes; one item larger than the whole budget passes alone."""

    def __init__(self, capacity: int) -> None:
        self._capacity, self._used = capacity, 0
        self._changed = threading.Condition()

    def acquire(self, nbytes: int, stopped: threading.Event) -> None:
        with self._changed:
            while self._used and self._used + nbytes > self._capacity:
                if stopped.is_set():
                    raise StoppedError
                self._changed.wait(POLL_SECONDS)
            self._used += nbytes

    def release(self, nbytes: int) -> None:
        with self._changed:
            self._used -= nbytes
            self._changed.notify_all()
