"""Ray: a task a shard, each of which runs the command line in a process of its own; this process only counts them.

Ray starts a task again whose machine is lost. What ends otherwise than well is judged here, by its exit code.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from gpu_extract.cluster.base import FATAL, TRIES, Work, check_count
from gpu_extract.errors import EXIT_OK, EXIT_PARTIAL, DeviceError, GpuExtractError, UsageError
from gpu_extract.run.children import Child, without_options
from gpu_extract.run.signals import GRACE_SECONDS, Interruption
from gpu_extract.run.threads import usable_cores

OPTIONS = frozenset({"address", "in_flight"})
ROUNDS = 2
"""A merge may ask for shards again, which a damaged video made void."""
WAIT_SECONDS = (0.0, 5.0, 20.0, 60.0)
"""Before each try: what was thought to be lost may still hold its receipt."""
POLL_SECONDS = 1.0
KNOCK_SECONDS = 5.0
LINE_SECONDS = 10.0
"""Between lines that tell how far it is, where standard error is no terminal."""


def run(work: Work, options: Mapping[str, Any], say: Callable[[str], None]) -> int:
    """Cut what is missing, merge, and say the merge's table.

    Raises:
        UsageError: without Ray, or for options that are not allowed.
        DeviceError: without a cluster, or when it is lost.
        GpuExtractError: with the exit code and the sentence of a shard that no try can cut, or of the merge.
    """
    if find_spec("ray") is None:
        raise UsageError("cluster ray needs Ray; install gpu-extract[ray], here and on every machine of the cluster.")
    in_flight = options.get("in_flight")
    if in_flight is not None:
        check_count("in-flight", in_flight, 1)
    work = replace(work, values={name: _everywhere(name, value) for name, value in work.values.items()})
    merged = _merge(work)
    if not merged.done:
        with _connected(options.get("address", "auto")), Interruption() as interruption:
            crew = _Crew(work, in_flight, quiet=bool(options.get("quiet")))
            for _ in range(ROUNDS):
                whole = crew.cut(merged.missing or range(work.shards))
                interruption.check()
                merged = _merge(work)
                if merged.done or not whole or not merged.missing:
                    break
    if merged.code not in (EXIT_OK, EXIT_PARTIAL):
        raise _ended_with(merged.code, merged.words)
    if not options.get("quiet"):
        say(merged.table)
    return merged.code


def cut(words: list[str], wait: float) -> tuple[int, str]:
    """In a task: run the command line; returns its exit code (negative is a signal) and its last words."""
    time.sleep(wait)
    child = Child.start(words, usable_cores())
    try:
        return child.process.wait(), child.last_words()
    finally:
        child.stop()
        with suppress(subprocess.TimeoutExpired):
            child.process.wait(GRACE_SECONDS)
        child.kill()
        child.close()


class _Crew:
    """Tasks in flight, and how many tries each shard has had."""

    def __init__(self, work: Work, in_flight: int | None, *, quiet: bool) -> None:
        ray = _ray()
        self._ray, self._work, self._in_flight, self._quiet = ray, work, in_flight, quiet
        asked = {"num_cpus": work.cpus, "num_gpus": work.gpus, "max_retries": -1}
        self._task = ray.remote(**asked)(cut)
        self._said = 0.0

    def cut(self, numbers: Iterable[int]) -> bool:
        """Cut these shards; returns whether all are. Those that are not after some tries are named."""
        waiting = deque(numbers)
        left, tries, lost = len(waiting), dict.fromkeys(waiting, 0), 0
        flying: dict[Any, int] = {}
        self._tell(left, last=False)
        try:
            while waiting or flying:
                while waiting and len(flying) < self._most():
                    number = waiting.popleft()
                    words = [*self._work.shard(number), "--progress", "none", "-q"]
                    flying[self._task.remote(words, WAIT_SECONDS[tries[number]])] = number
                done, _ = self._ray.wait(list(flying), timeout=POLL_SECONDS)
                for one in done:
                    number = flying.pop(one)
                    code, words_said = self._result(one)
                    if code in (EXIT_OK, EXIT_PARTIAL):
                        left -= 1
                        self._tell(left, last=not left)
                        continue
                    shard = f"shard {number}/{self._work.shards}"
                    if code in FATAL:
                        raise _ended_with(code, f"{shard}: {words_said}")
                    tries[number] += 1
                    again = tries[number] <= TRIES
                    how = f"was ended by signal {-code}" if code < 0 else f"ended with {code}: {words_said}"
                    self._say(f"{shard} {how} {'It is tried again.' if again else 'It is given up.'}")
                    if again:
                        waiting.append(number)
                    else:
                        lost += 1
        finally:
            for one in flying:
                with suppress(Exception):
                    self._ray.cancel(one)
        return not lost

    def _result(self, one: Any) -> tuple[int, str]:
        try:
            code, words = self._ray.get(one)
        except self._ray.exceptions.RayError as error:
            return GpuExtractError.exit_code, f"{str(error).strip().splitlines()[-1]}."
        return code, words or "without a word."

    def _most(self) -> int:
        """Shards in flight: those that run, and as many that are ready when one ends."""
        if self._in_flight is not None:
            return self._in_flight
        there, work = self._ray.cluster_resources(), self._work
        room = there.get("CPU", 0) // work.cpus
        if work.gpus:
            room = min(room, there.get("GPU", 0) // work.gpus)
        return 2 * max(1, int(room))

    def _tell(self, left: int, *, last: bool) -> None:
        now = time.monotonic()
        if self._quiet or not (last or now - self._said >= LINE_SECONDS):
            return
        self._said = now
        self._say(f"{self._work.shards - left:,} of {self._work.shards:,} shards are cut.")

    def _say(self, line: str) -> None:
        with suppress(OSError):
            print(f"gpu-extract: {line}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class _Merged:
    """How a merge ended."""

    code: int
    table: str
    words: str
    missing: list[int]

    @property
    def done(self) -> bool:
        return self.code in (EXIT_OK, EXIT_PARTIAL) and not self.missing


def _merge(work: Work) -> _Merged:
    command = [sys.executable, "-m", "gpu_extract", *work.merge(), "--json", "-", "--progress", "none"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=without_options())
    table = ended.stderr.strip()  # or the sentence of an error
    told = json.loads(ended.stdout) if ended.stdout else {"shards_missing": []}
    missing = sorted(int(shard.partition("/")[0]) for shard in told["shards_missing"])
    return _Merged(ended.returncode, table, table.rpartition("\n")[2].removeprefix("gpu-extract: "), missing)


@contextmanager
def _connected(address: str) -> Iterator[None]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = _ray()
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        why = str(error).strip().partition("\n")[0].rstrip(".")
        raise DeviceError(f"no Ray cluster answers at {address}: {why}; ray start --head begins one.") from error
    try:
        yield
    except ray.exceptions.RayError as error:
        why = str(error).strip().partition("\n")[0].rstrip(".")
        raise DeviceError(f"the Ray cluster was lost: {why}; run this again to continue.") from error
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Find out in seconds what Ray tries for minutes, and then ends the process.

    Raises:
        OSError: if nobody listens at an address HOST:PORT.
    """
    host, _, port = address.rpartition(":")
    if port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_SECONDS).close()


def _ray() -> Any:
    return import_module("ray")


def _everywhere(name: str, value: Any) -> Any:
    """A path as it is from every folder; what has a scheme stays as it is."""
    if name not in ("alignments", "frames", "faces") or "://" in str(value):
        return value
    return os.path.abspath(value)  # noqa: PTH100 (resolves no links, which other machines may have otherwise)


def _ended_with(code: int, words: str) -> GpuExtractError:
    error = GpuExtractError(words or "a process ended without a word.")
    error.exit_code = code
    return error
