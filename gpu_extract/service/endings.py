"""What follows from how an attempt at a step ended: another try, the next step, or the end of its job."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gpu_extract.errors import (
    EXIT_OK,
    EXIT_PARTIAL,
    DeviceError,
    GpuExtractError,
    OutputError,
    counted,
    printable,
)
from gpu_extract.options import ServiceSettings
from gpu_extract.service.attempt import Ended
from gpu_extract.service.folders import REPORT, Data
from gpu_extract.service.requests import Request
from gpu_extract.service.steps import cuts, shards_that_pay
from gpu_extract.service.table import (
    CANCELLED,
    CANCELLING,
    CHECK,
    CUT,
    ENDED,
    FAILED,
    FINISHING,
    LONGEST_WAIT_SECONDS,
    MERGE,
    PARTIAL,
    QUEUED,
    RUNNING,
    SUCCEEDED,
    Job,
    Step,
    Table,
)
from gpu_extract.service.tallies import Tallies
from gpu_extract.service.words import PLAN

MOST_TRIES = 3
"""Of a step that ends by a signal."""
MOST_WAITS = 5
"""Of a step for want of room."""
FIRST_WAIT_SECONDS = 10.0
log = logging.getLogger("gpu_extract.service")


class Endings:
    """The rules of one office.

    Args:
        devices: on which its lanes cut.
        stop: stop(job) asks all other processes of a job to end.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        data: Data,
        table: Table,
        tallies: Tallies,
        devices: Sequence[str],
        roots: Mapping[str, str],
        stop: Callable[[str], None],
    ) -> None:
        self._settings, self._data, self._table, self._tallies = settings, data, table, tallies
        self._devices, self._roots, self._stop = devices, roots, stop
        self._untold = False
        """Whether a folder does not know how its job ended."""

    def give_up(self, step: Step) -> None:
        """Nothing follows, by an error of the service."""
        if (job := self._table.job(step.job)) is not None:
            self._fail(job, step, "an error of the service; its log has it.", GpuExtractError.exit_code)

    def follow(self, step: Step, ended: Ended, words: str, *, stopped: bool, device: str) -> None:
        """What follows; inside a change of the table.

        Args:
            words: the last that its process said, for clients.
            stopped: it was asked to end.
        """
        job = self._table.job(step.job)
        if job is None:
            return
        code = ended.code
        free = {"state": "waiting", "device": None, "pid": None, "pid_started": None, "ended_with": code}
        if code in (EXIT_OK, EXIT_PARTIAL):
            self._table.set_step(step, **free | {"state": "done"})
            if job.state == CANCELLING or job.has_ended:
                self._end_if_idle(job)
            else:
                self._go_on(job, step, code)
        elif ended.overdue:
            self._fail(job, step, f"it ran longer than the {self._settings.max_seconds:,} s that a job may take.", code)
        elif job.state == CANCELLING or job.has_ended:
            self._table.set_step(step, **free)
            self._end_if_idle(job)
        elif stopped:  # as the service ends
            self._table.set_step(step, **free)
            self._requeue(job)
        elif code < 0 or code > 128:
            tries = step.tries + 1
            how = f"signal {-code if code < 0 else code - 128}"
            if tries >= MOST_TRIES:
                last = self._tallies.get(step).frames
                self._fail(job, step, f"ended by {how} {MOST_TRIES} times, last after {counted(last, 'frame')}.", code)
            else:
                self._table.set_step(step, **free | {"tries": tries})
                self._requeue(job, f"its process was ended by {how}; it is started again.")
        elif code == DeviceError.exit_code:
            self._other_device(job, step, words, free, device)
        elif code == OutputError.exit_code and step.waits < MOST_WAITS:
            pause = FIRST_WAIT_SECONDS if step.waits == 0 else LONGEST_WAIT_SECONDS
            self._table.set_step(step, **free | {"waits": step.waits + 1, "not_before": time.time() + pause})
            self._requeue(job, f"it is tried again in {pause:g} s: {words}")
        else:
            self._fail(job, step, words or f"its process ended with {code} and without a word.", code)

    def _go_on(self, job: Job, step: Step, code: int) -> None:
        """A step is done: end the job, or take the next."""
        request = Request.of(job.request)
        if step.kind == CHECK and not request.is_check:
            plan = self._data.job(job.id).record_if_whole(PLAN) or {}
            self._table.add_steps(job.id, cuts(shards_that_pay(plan, len(self._devices))))
            self._requeue(job)
            return
        if step.kind != CUT or step.count == 1:
            self.end(job.id, SUCCEEDED if code == EXIT_OK else PARTIAL, self._why_partial(job.id, code), code)
            return
        if all(one.state == "done" for one in self._table.steps(job.id) if one.kind == CUT):
            self._table.add_steps(job.id, [(MERGE, 0, 1)])
            self._table.update(job.id, state=FINISHING)

    def _why_partial(self, job: str, code: int) -> str | None:
        if code == EXIT_OK:
            return None
        report = self._data.job(job).record_if_whole(REPORT) or {}
        notes, errors = report.get("notes") or [], report.get("errors") or []
        if errors:
            first = errors[0]
            more = f"; and {len(errors) - 1:,} more" if len(errors) > 1 else ""
            why = f"{first['frame']}: {str(first['reason']).removesuffix('.')}{more}."
        elif notes:
            why = str(notes[-1])
        else:
            return None
        return printable(self._data.job(job).shown(why, self._roots))  # names of files need not be text

    def _other_device(self, job: Job, step: Step, words: str, free: dict[str, Any], device: str) -> None:
        avoid = f"{step.avoid}{device},"
        if any(f",{other}," not in avoid for other in self._devices):
            self._table.set_step(step, **free | {"avoid": avoid})
            self._requeue(job, words)
        elif self._settings.fallback_cpu and not step.rescued and step.kind == CUT:
            self._table.set_step(step, **free | {"avoid": avoid, "rescued": 1})
            self._requeue(job, f"it is cut on the CPU, for no device takes it: {words}")
        else:
            self._fail(job, step, words, DeviceError.exit_code)

    def _requeue(self, job: Job, note: str | None = None) -> None:
        """The job waits, unless another step of it runs."""
        if any(step.state == RUNNING for step in self._table.steps(job.id)):
            self._table.update(job.id, note=note)
        else:
            self._table.update(job.id, state=QUEUED, note=note)

    def _fail(self, job: Job, step: Step, why: str, code: int) -> None:
        self._table.set_step(step, state="done", device=None, pid=None, pid_started=None, ended_with=code)
        self.end(job.id, FAILED, why, code)
        self._stop(job.id)

    def _end_if_idle(self, job: Job) -> None:
        if job.state == CANCELLING and not any(step.state == RUNNING for step in self._table.steps(job.id)):
            self.end(job.id, CANCELLED, None, None)

    def end(self, job: str, state: str, error: str | None, code: int | None) -> None:
        """The folder knows first, so that a table that is lost is made again from it; later, while the disk is full.

        Without a folder there is no job.
        """
        folder, outcome = self._data.job(job), {"state": state, "error": error, "exit_code": code, "ended": time.time()}
        if not folder.path.is_dir():  # by hand
            log.warning("the folder of the job %s is gone, and so is the job", job)
            self._table.remove(job)
            return
        try:
            folder.end(outcome)
        except OutputError as refusal:
            log.warning("%s: %s", job, refusal)
            self._untold = True
        self._table.update(job, **outcome, note=None)

    def tell_folders(self, *, also_of_earlier: bool = False) -> None:
        """What the disk refused to take in `end`, once it has room.

        Args:
            also_of_earlier: look also for what an earlier service did not tell.
        """
        if not (self._untold or also_of_earlier) or self._table.is_in_memory:
            return
        with self._table.change():  # nobody ends, resumes or removes one meanwhile
            self._untold = False
            for job in self._table.in_states(ENDED):
                folder = self._data.job(job.id)
                if folder.exists and not folder.has_ended:
                    outcome = {"state": job.state, "error": job.error, "exit_code": job.exit_code, "ended": job.ended}
                    try:
                        folder.end(outcome)
                    except OutputError as refusal:
                        log.warning("%s: %s", job.id, refusal)
                        self._untold = True
                        return
