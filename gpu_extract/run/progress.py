"""Progress of a run: a bar on a terminal, a plain line now and then in a log, or nothing."""

from __future__ import annotations

import sys
import time
from typing import Any, Protocol

from gpu_extract.errors import UsageError

STYLES = ("auto", "bar", "plain", "none")
PLAIN_INTERVAL_SECONDS = 10.0


class Progress(Protocol):
    """Counts frames done; a context manager."""

    def advance(self, faces: int) -> None:
        """One more frame is done, with this many faces."""

    def say(self, message: str) -> None:
        """A line for a person, without tearing the bar."""

    def close(self) -> None: ...


class _Silent:
    def advance(self, faces: int) -> None:
        pass

    def say(self, message: str) -> None:
        pass

    def close(self) -> None:
        pass


class _Bar:
    def __init__(self, total: int) -> None:
        from tqdm import tqdm

        self._bar: Any = tqdm(total=total, unit="frame", dynamic_ncols=True, file=sys.stderr, mininterval=0.2)
        self._faces = 0

    def advance(self, faces: int) -> None:
        self._faces += faces
        self._bar.set_postfix(faces=self._faces, refresh=False)
        self._bar.update()

    def say(self, message: str) -> None:
        self._bar.write(message, file=sys.stderr)

    def close(self) -> None:
        self._bar.close()


class _Plain:
    def __init__(self, total: int) -> None:
        self._total, self._frames, self._faces = total, 0, 0
        self._began = self._last = time.monotonic()

    def advance(self, faces: int) -> None:
        self._frames += 1
        self._faces += faces
        now = time.monotonic()
        if now - self._last >= PLAIN_INTERVAL_SECONDS:
            self._last = now
            rate = self._frames / (now - self._began)
            left = (self._total - self._frames) / rate
            done = f"{self._frames:,}/{self._total:,} frames, {self._faces:,} faces"
            self.say(f"{done}, {rate:.1f} frames/s, {left:.0f} s left")

    def say(self, message: str) -> None:
        print(message, file=sys.stderr, flush=True)

    def close(self) -> None:
        pass


def make_progress(style: str, total: int) -> Progress:
    """The progress display of a run over `total` frames.

    Raises:
        UsageError: if the style is not one of `STYLES`.
    """
    check_style(style)
    if style == "auto":
        style = "bar" if sys.stderr is not None and sys.stderr.isatty() else "plain"
    if style == "bar":
        return _Bar(total)
    return _Plain(total) if style == "plain" else _Silent()


def check_style(style: str) -> None:
    if style not in STYLES:
        raise UsageError(f"progress {style!r} is not understood; {', '.join(STYLES)} are.")
