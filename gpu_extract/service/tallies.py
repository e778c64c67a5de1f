"""How far jobs are: what their processes say, on top of what earlier ones finished."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gpu_extract.service.attempt import Counts
from gpu_extract.service.table import CANCELLED, CUT, FAILED, RUNNING, Job, Step


@dataclass
class Tally:
    """Of one step.

    Attributes:
        before: frames and faces that earlier attempts finished.
        counts: what this attempt says; None before it has planned.
    """

    before: tuple[int, int] = (0, 0)
    counts: Counts | None = None
    began: float = field(default_factory=time.monotonic)

    @property
    def frames(self) -> int:
        return self.before[0] + (self.counts.frames if self.counts else 0)

    @property
    def faces(self) -> int:
        return self.before[1] + (self.counts.faces if self.counts else 0)

    @property
    def of(self) -> int | None:
        return None if self.counts is None else self.before[0] + self.counts.of

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    @property
    def rate(self) -> float:
        return self.counts.frames / self.seconds if self.counts and self.seconds > 0 else 0.0


class Tallies:
    """Of all jobs whose steps have run in this process."""

    def __init__(self) -> None:
        self._of: dict[str, dict[tuple[str, int], Tally]] = {}

    def put(self, step: Step, tally: Tally) -> None:
        self._of.setdefault(step.job, {})[step.kind, step.number] = tally

    def get(self, step: Step) -> Tally:
        """Of a step; an empty one where nothing is known."""
        return self._of.get(step.job, {}).get((step.kind, step.number)) or Tally()

    def forget(self, job: str) -> None:
        self._of.pop(job, None)

    def shown(
        self, job: Job, steps: Sequence[Step], report: dict[str, Any] | None, plan: dict[str, Any] | None
    ) -> dict[str, Any]:
        """For clients: `frames` and `faces` that are done, `of` how many frames, `rate` a second, `eta` in seconds.

        Args:
            steps: of the job.
            report: of its run, once there is one.
            plan: of its check, where there was one.
        """
        cuts = [step for step in steps if step.kind == CUT]
        tallies = [self.get(step) for step in cuts]
        frames, faces = sum(one.frames for one in tallies), sum(one.faces for one in tallies)
        if job.has_ended:
            told = report or {}
            if job.state not in (CANCELLED, FAILED) or not frames:
                frames, faces = told.get("frames_decoded", 0), told.get("faces_written", 0)
            of = told.get("frames_expected", frames or None)
            return {"frames": frames, "of": of, "faces": faces, "rate": 0.0, "eta": None}
        known = [one.of for one in tallies if one.of is not None]
        of = sum(known) if cuts and len(known) == len(cuts) else (plan or {}).get("frames_expected")
        rate = sum(one.rate for step, one in zip(cuts, tallies, strict=True) if step.state == RUNNING)
        eta = round(max(0, of - frames) / rate, 1) if of is not None and rate else None
        return {"frames": frames, "of": of, "faces": faces, "rate": round(rate, 1), "eta": eta}
