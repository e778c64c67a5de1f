"""A real service in a process of its own, and a small client of the standard library, for the tests of the service."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import IO, Any

START_SECONDS = 30.0
ENDED = ("succeeded", "partial", "failed", "cancelled")


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Service:
    """A service over a data folder, which it may be started over several times."""

    data: Path
    roots: dict[str, Path]
    options: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    port: int = 0
    process: subprocess.Popen[str] | None = None
    said: str = ""

    def start(self) -> Service:
        roots = [f"--root={name}={path}" for name, path in self.roots.items()]
        command = [sys.executable, "-m", "gpu_extract", "serve", "--config", "", f"--data={self.data}", *roots]
        self.process = subprocess.Popen(
            [*command, "--port=0", "--reserve-mb=0", *self.options],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **self.environment},
        )
        self.said = ""
        self._listening = Thread(target=self._listen, args=(self.process.stderr,), daemon=True)
        serves = self._serves = Event()
        self._listening.start()
        serves.wait()
        found = re.search(r"^gpu-extract serves http://[^/]*:(\d+)/", self.said, re.MULTILINE)
        if found is None:
            self.process.wait()
            self._close()
            raise AssertionError(self.said)
        self.port = int(found[1])
        return self

    def _listen(self, stderr: IO[str]) -> None:
        """To its end: a service whose log nobody reads stands still when the pipe is full."""
        for line in stderr:
            self.said += line
            if line.startswith("gpu-extract serves http://"):
                self._serves.set()
        self._serves.set()

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, *, seconds: float = 30.0
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        try:
            sent = dict(headers or {})
            if body is not None and not isinstance(body, bytes):
                body = json.dumps(body).encode()
                sent.setdefault("Content-Type", "application/json")
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def submit(self, job: str, alignments: str, frames: str, root: str = "here", **rest: Any) -> Answer:
        body = {"alignments": {"root": root, "path": alignments}, "frames": {"root": root, "path": frames}, **rest}
        return self.ask("PUT", f"/v1/jobs/{job}", body)

    def job(self, job: str) -> dict[str, Any]:
        answer = self.ask("GET", f"/v1/jobs/{job}")
        assert answer.status == 200, answer.body
        found: dict[str, Any] = answer.json
        return found

    def wait(self, job: str, states: tuple[str, ...] = ENDED, seconds: float = 60.0) -> dict[str, Any]:
        until = time.monotonic() + seconds
        while (found := self.job(job))["state"] not in states:
            assert time.monotonic() < until, found
            time.sleep(0.05)
        return found

    @contextmanager
    def events(self, job: str, place: str | None = None) -> Iterator[Iterator[tuple[str, str, Any]]]:
        """(id, kind, data) of a job's stream; the id is "" where an event has none."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", f"/v1/jobs/{job}/events", headers={} if place is None else {"Last-Event-ID": place})
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        try:
            yield _events(answer)
        finally:
            with suppress(OSError):
                connection.close()
            answer.close()

    def pids(self) -> list[int]:
        """Of the processes that work on this service's jobs."""
        found = []
        for path in Path("/proc").iterdir():
            with suppress(OSError):
                if path.name.isdecimal() and os.fsencode(self.data / "jobs") in (path / "cmdline").read_bytes():
                    found.append(int(path.name))
        return found

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self._close()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it as a container's runtime does; its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(20)
        self._close()
        return code

    def _close(self) -> None:
        assert self.process is not None
        self._listening.join(10)
        if self.process.stderr is not None:
            self.process.stderr.close()

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        until = time.monotonic() + 10
        while self.pids() and time.monotonic() < until:
            time.sleep(0.05)


def _events(answer: http.client.HTTPResponse) -> Iterator[tuple[str, str, Any]]:
    place = kind = ""
    for raw in answer:
        name, _, value = raw.decode().rstrip("\n").partition(": ")
        if name == "id":
            place = value
        elif name == "event":
            kind = value
        elif name == "data":
            yield place, kind, json.loads(value)
            place = ""
