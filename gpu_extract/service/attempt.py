"""Attempts at steps: each a child process, watched to its end."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from gpu_extract.run.children import Child
from gpu_extract.run.confinement import Confinement

POLL_SECONDS = 0.1
READ_BYTES = 1 << 16
SAID = "said"
"""What a process says, until it is in the log."""
LONGEST_LINE = 1 << 16
MOST_LOG_BYTES = 16 << 20
"""After which a job's log takes no more: what a process says is not to fill the disk."""
NICER = 5
"""Than the service is its processes are."""


@dataclass(frozen=True)
class Counts:
    """What a process says of its progress."""

    frames: int
    of: int
    faces: int


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        code: negative is the signal that ended it.
        words: the last that it said.
        overdue: it ran longer than it may, and was stopped.
    """

    code: int
    words: str
    overdue: bool = False


class Attempt:
    """`run` it on one thread; `stop` it from any."""

    def __init__(self, log: Path, on_counts: Callable[[Counts], None], max_seconds: float | None) -> None:
        self._log, self._on_counts, self._max_seconds = log, on_counts, max_seconds
        self._stop = threading.Event()
        self._words = ""
        self._rest, self._at = b"", 0

    def stop(self) -> None:
        """Ask the process to end; it is killed if it does not."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    def run(
        self,
        words: Sequence[str],
        cores: set[int],
        confinement: Confinement,
        environment: dict[str, str],
        on_start: Callable[[int], None],
    ) -> Ended:
        """Start the process and wait for its end.

        Args:
            on_start: told its process id.

        Raises:
            OutputError: if it cannot be started.
        """
        # A file and no pipe: who writes into a pipe that nobody reads any more ends by a signal.
        with open(self._log.with_name(SAID), "w+b", buffering=0) as said:
            child = Child.start(words, cores, confinement=confinement, environment=environment, log=said)
            with closing(child):
                try:
                    with suppress(OSError):  # the door answers also while all cores cut
                        os.setpriority(os.PRIO_PROCESS, child.process.pid, os.getpriority(os.PRIO_PROCESS, 0) + NICER)
                    on_start(child.process.pid)
                    return self._watch(child, said.fileno())
                except BaseException:
                    child.kill()
                    raise

    def _watch(self, child: Child, said: int) -> Ended:
        began = time.monotonic()
        overdue = False
        with open(self._log, "ab", buffering=0) as log:
            while (code := child.exit_code) is None:
                while self._read(said, log):
                    pass
                now = time.monotonic()
                if self._max_seconds is not None and now - began > self._max_seconds and not self.stopped:
                    overdue = True
                    self.stop()
                if self.stopped:
                    child.end()
                time.sleep(POLL_SECONDS)
            while self._read(said, log):
                pass
            self._take(self._rest, log)
        return Ended(code, self._words, overdue)

    def _read(self, said: int, log: IO[bytes]) -> bool:
        """Take what the process said; False where there is nothing more."""
        data = os.pread(said, READ_BYTES, self._at)
        self._at += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._take(line, log)
        if len(self._rest) > LONGEST_LINE:
            self._take(self._rest, log)
            self._rest = b""
        return bool(data)

    def _take(self, line: bytes, log: IO[bytes]) -> None:
        if not line.strip():
            return
        text = line.decode("utf-8", "replace").strip()
        with suppress(ValueError, KeyError, TypeError):
            told = json.loads(text)
            if "note" not in told:
                self._on_counts(Counts(int(told["frames"]), int(told["of"]), int(told["faces"])))
                return
            text = str(told["note"])
        self._words = text.removeprefix("gpu-extract: ")
        if log.tell() < MOST_LOG_BYTES:
            with suppress(OSError):
                log.write(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {text}\n".encode())


class Attempts:
    """Those that go on, by the keys of their steps."""

    def __init__(self) -> None:
        self._of: dict[tuple[str, str, int], Attempt] = {}

    def put(self, key: tuple[str, str, int], attempt: Attempt) -> None:
        self._of[key] = attempt

    def forget(self, key: tuple[str, str, int]) -> None:
        self._of.pop(key, None)

    def stop(self, job: str) -> None:
        """All of a job."""
        for key, attempt in list(self._of.items()):
            if key[0] == job:
                attempt.stop()

    def stop_all(self) -> None:
        for attempt in list(self._of.values()):
            attempt.stop()
