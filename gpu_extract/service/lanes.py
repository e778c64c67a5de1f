"""Lanes: threads that each take one step after another. One for each device, and one for what needs none."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import Protocol

from gpu_extract.errors import GpuExtractError, OutputError
from gpu_extract.run.threads import usable_cores
from gpu_extract.service.attempt import Attempt, Ended
from gpu_extract.service.devices import CPU
from gpu_extract.service.table import CHECK, CUT, MERGE, Step

IDLE_SECONDS = 1.0
FAULT_SECONDS = 5.0
"""Before the next try of a lane to which something happened that is no step's fault."""
log = logging.getLogger("gpu_extract.service")


class Foreman(Protocol):
    """Who has the steps."""

    draining: bool

    def claim(self, lane: Lane) -> Step | None:
        """The step that goes next on a lane."""

    def attempt(self, step: Step) -> Attempt:
        """The attempt at a step that was claimed."""

    def run(self, attempt: Attempt, step: Step, lane: Lane) -> Ended:
        """Run a step to its end."""

    def ended(self, step: Step, ended: Ended, attempt: Attempt, lane: Lane) -> None:
        """Draw the consequences."""

    def wait(self, seconds: float) -> None:
        """Until there may be more to do."""


@dataclass
class Lane:
    """Where steps run.

    Attributes:
        name: of the device, or "desk".
        kinds: of steps that it takes.
        device: on which they run.
    """

    name: str
    kinds: tuple[str, ...]
    device: str
    cores: set[int]
    foreman: Foreman
    busy_seconds: float = 0.0
    running: Step | None = None
    fault: str | None = None
    """What keeps the device from working, as the last step on it said."""

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._loop, name=f"gpu-extract-lane-{self.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self, seconds: float) -> bool:
        """Whether it has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    @property
    def lives(self) -> bool:
        return self._thread.is_alive()

    def _loop(self) -> None:
        foreman = self.foreman
        while not foreman.draining:
            try:
                step = foreman.claim(self)
                if step is None:
                    foreman.wait(IDLE_SECONDS)
                    continue
                began = time.monotonic()
                try:
                    self._do(step)
                finally:
                    self.busy_seconds += time.monotonic() - began
                    self.running = None
            except GpuExtractError as error:  # the table takes nothing while the disk is full
                log.warning("%s: %s", self.name, error)
                foreman.wait(FAULT_SECONDS)
            except Exception:
                log.exception("%s: a step ended in an error of the service", self.name)
                foreman.wait(FAULT_SECONDS)

    def _do(self, step: Step) -> None:
        foreman = self.foreman
        attempt = foreman.attempt(step)
        self.running = step
        # However it ends: a step of which nobody drew the consequences would run for ever.
        try:
            ended = foreman.run(attempt, step, self)
        except GpuExtractError as error:
            ended = Ended(error.exit_code, str(error))
        except OSError as error:
            ended = Ended(OutputError.exit_code, f"its process cannot be started: {error.strerror}.")
        except Exception:
            log.exception("%s: %s", self.name, step.key)
            ended = Ended(GpuExtractError.exit_code, "an error of the service; its log has it.")
        foreman.ended(step, ended, attempt, self)


def lanes_for(devices: list[str], foreman: Foreman) -> list[Lane]:
    """A lane for each device, with a share of the cores, and the desk."""
    cores = sorted(usable_cores())
    found = []
    for number, device in enumerate(devices):
        mine = set(cores[number :: len(devices)]) or {cores[number % len(cores)]}
        name = device if devices.count(device) == 1 else f"{device}#{number}"
        found.append(Lane(name, (CUT,), device, mine, foreman))
    found.append(Lane("desk", (CHECK, MERGE), CPU, set(cores), foreman))
    return found
