"""Jobs from arrival to end, as clients ask for them."""

from __future__ import annotations

import secrets
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from gpu_extract.errors import OutputError
from gpu_extract.options import ServiceSettings
from gpu_extract.service.attempt import Attempts
from gpu_extract.service.devices import chosen
from gpu_extract.service.endings import Endings
from gpu_extract.service.folders import REPORT, Data, JobFolder, is_job_id
from gpu_extract.service.foreman import Foreman
from gpu_extract.service.lanes import lanes_for
from gpu_extract.service.leftovers import hold
from gpu_extract.service.meters import Meters
from gpu_extract.service.problems import Problem
from gpu_extract.service.recovery import Recovery
from gpu_extract.service.requests import JobRequest, Request, Uploaded, take
from gpu_extract.service.steps import first_steps, further_steps
from gpu_extract.service.table import (
    CANCELLED,
    CANCELLING,
    CUT,
    ENDED,
    OPEN,
    QUEUED,
    RUNNING,
    SUCCEEDED,
    Job,
    new_job,
    opened,
)
from gpu_extract.service.tallies import Tallies
from gpu_extract.service.turns import Turns
from gpu_extract.service.words import PLAN
from gpu_extract.storage.descriptors import close_quietly

DAY_SECONDS = 86_400.0


class Office:
    """The jobs of one data folder, which it has for itself.

    Raises:
        OutputError: if the folder cannot be written, or another service has it.
    """

    def __init__(self, settings: ServiceSettings, uploaded: Uploaded, meters: Meters | None = None) -> None:
        self.settings = settings
        self.data = Data(settings.data.resolve())  # as its processes name it, whatever folder this was started in
        self.roots: Mapping[str, str] = dict(settings.root or {})
        self.meters = meters or Meters()
        self._uploaded = uploaded
        self._held = hold(self.data)
        self._drained = 0.0
        try:
            self.table = opened(self.data.table)
        except BaseException:
            close_quietly(self._held)
            raise
        self.devices = chosen(settings.devices)
        self._turns = Turns()
        self._arriving: Counter[str] = Counter()
        self._counting = threading.Lock()
        self._tallies, self._attempts = Tallies(), Attempts()
        self._endings = Endings(
            settings, self.data, self.table, self._tallies, self.devices, self.roots, self._attempts.stop
        )
        self._recovery = Recovery(self.data, self.table, self._endings, self._tallies, len(self.devices))
        self.foreman = Foreman(
            settings, self.data, self.table, self._tallies, self._attempts, self._endings, self.meters, self.roots
        )
        self.lanes = lanes_for(self.devices, self.foreman)

    @property
    def draining(self) -> bool:
        """Whether it is about to end."""
        return self.foreman.draining

    def create(
        self, asked: JobRequest, owner: str, job: str | None = None, most: int | None = None
    ) -> tuple[Job, bool]:
        """A job under an id, and whether it is new; the same request again is the same job.

        A new one survives a power cut.

        Args:
            most: jobs of this owner that may be open at a time.

        Raises:
            Problem: for what cannot be had; 409 where the id is taken by another request, whoever's it is.
        """
        self._check_open()
        if job is not None and not is_job_id(job):
            raise Problem(422, f"{job[:100]!r} is no id: 1 to 64 of a to z, 0 to 9, and - inside, are.")
        name = job or f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"
        with self._turns.at(name):
            if (known := self._known(name)) is not None:
                if known.owner == owner and known.request["asked"] == asked.model_dump():
                    return known, False
                raise Problem(409, f"there is a job {name} that was asked for otherwise; take another id.")
            with self._arrival(owner, most):
                made = self._make(asked, owner, name)
        self.foreman.tell()
        return self.table.job(name) or made, True

    def _make(self, asked: JobRequest, owner: str, job: str) -> Job:
        folder = self.data.job(job)
        shutil.rmtree(folder.path, ignore_errors=True)  # of one that was never begun
        try:
            folder.path.mkdir(parents=True)
            room = shutil.disk_usage(self.data.path).free - (self.settings.reserve_mb << 20)
            request = take(
                asked, folder, owner, time.time(), self.roots, self._uploaded, room=room, go_on=self._check_open
            )
            folder.begin(request.to_dict(), [folder.path / request.alignments])
            made = new_job(job, request.to_dict(), created=request.created)
            self.table.add(made, first_steps(request, folder, len(self.devices)))
        except BaseException as error:  # whoever is refused has no job, also none that is found at the next start
            shutil.rmtree(folder.path, ignore_errors=True)
            if isinstance(error, OSError):
                raise OutputError(f"the job's folder cannot be made: {error.strerror}.") from error
            if isinstance(error, OutputError):
                raise OutputError(self.shown(str(error), folder)) from error
            raise
        return made

    @contextmanager
    def _arrival(self, owner: str, most: int | None) -> Iterator[None]:
        """While a job is made, for others of the owner may be made at the same time."""
        with self._counting:
            self._check_queue(owner, most)
            self._arriving[owner] += 1
        try:
            yield
        finally:
            with self._counting:
                self._arriving[owner] -= 1
                if not self._arriving[owner]:
                    del self._arriving[owner]

    def _check_queue(self, owner: str, most: int | None) -> None:
        allowed = self.settings.queue if most is None else most
        if self.table.waiting_of(owner) + self._arriving[owner] >= allowed:
            why = f"{allowed:,} jobs of this token are open, no more are taken; try again when some have ended."
            raise Problem(429, why, headers={"Retry-After": "60"})

    def _check_open(self) -> None:
        if self.draining:
            raise Problem(503, "the service is about to end; ask again in a minute.", headers={"Retry-After": "60"})

    def known(self, job: str) -> Job | None:
        """A job, also one that only its folder knows of."""
        if not is_job_id(job):
            return None
        found = self.table.job(job)
        if found is None and self.data.job(job).exists:
            with self._turns.at(job):  # whoever makes it, or removes it, has done so then
                found = self._known(job)
        return found

    def _known(self, job: str) -> Job | None:
        found = self.table.job(job)
        if found is None and self.data.job(job).exists:
            self._recovery.adopt(job, self.data.job(job))
            found = self.table.job(job)
        return found

    def cancel(self, job: Job) -> None:
        """Have it end; what it has made stays, and it can be resumed."""
        with self.table.change():
            now = self.table.job(job.id)
            if now is None or now.state in (*ENDED, CANCELLING):
                return
            busy = [step for step in self.table.steps(job.id) if step.state == RUNNING]
            self.table.update(job.id, state=CANCELLING, note=None)
            if not busy:
                self._endings.end(job.id, CANCELLED, None, None)
        self._attempts.stop(job.id)

    def resume(self, job: Job, most: int | None = None) -> None:
        """Go on with one that was cancelled, failed, or has frames that failed; one that succeeded has all.

        Args:
            most: as for `create`.

        Raises:
            Problem: 409 while a process of it still ends, 429 where too many are open.
            OutputError: while the disk is full.
        """
        request, folder = Request.of(job.request), self.data.job(job.id)
        self._check_open()
        with self.table.change():
            now = self.table.job(job.id)
            if now is not None and now.state == CANCELLING:
                raise self._still_ending(job)
            if now is None or now.state in (*OPEN, SUCCEEDED) or not folder.exists:
                return
            if self.table.is_in_memory:
                raise OutputError("the disk is full: there is no room to go on; remove old jobs first.")
            self._check_idle(job)
            self._check_queue(job.owner, most)
            count = max((step.count for step in self.table.steps(job.id) if step.kind == CUT), default=0)
            self.table.remove_steps(job.id)
            self.table.add_steps(job.id, further_steps(request, folder, count, len(self.devices)))
            folder.go_on()
            self.table.update(job.id, state=QUEUED, error=None, exit_code=None, ended=None, started=None, note=None)
        self._tallies.forget(job.id)
        self.foreman.tell()

    def remove(self, job: Job) -> None:
        """Forget a job that has ended, with all that it made.

        Raises:
            Problem: 409 if it has not ended.
        """
        with self._turns.at(job.id):
            with self.table.change():  # nobody resumes it meanwhile
                now = self.table.job(job.id)
                if now is None:
                    return
                if not now.has_ended:
                    raise Problem(409, f"the job {job.id} is {now.state}; cancel it first.")
                self._check_idle(now)
                aside = self.data.job(job.id).put_aside()
            try:
                self.table.remove(job.id)
            except OutputError:  # what is removed makes room
                shutil.rmtree(aside, ignore_errors=True)
                self.table.remove(job.id)
            self._tallies.forget(job.id)
            shutil.rmtree(aside, ignore_errors=True)

    def _check_idle(self, job: Job) -> None:
        if any(step.state == RUNNING for step in self.table.steps(job.id)):
            raise self._still_ending(job)

    def _still_ending(self, job: Job) -> Problem:
        why = f"a process of the job {job.id} is still ending; try again in some seconds."
        return Problem(409, why, headers={"Retry-After": "5"})

    def progress(self, job: Job) -> dict[str, Any]:
        """How far it is (see `Tallies.shown`), and the `devices` on which it runs."""
        folder, steps = self.data.job(job.id), self.table.steps(job.id)
        report = folder.record_if_whole(REPORT) if job.has_ended else None
        plan = None if job.has_ended else folder.record_if_whole(PLAN)
        devices = [step.device for step in steps if step.state == RUNNING]
        return self._tallies.shown(job, steps, report, plan) | {"devices": devices}

    def shards(self, job: Job) -> list[dict[str, Any]]:
        """Its steps, for whoever wants to know."""
        return [
            {
                "kind": step.kind,
                "shard": f"{step.number}/{step.count}" if step.count > 1 else None,
                "state": step.state,
                "device": step.device if step.state == RUNNING else None,
                "attempt": step.attempt,
            }
            for step in self.table.steps(job.id)
        ]

    def shard_count(self, job: Job) -> int:
        """In how many shards a job is cut, as far as that is known."""
        return max((step.count for step in self.table.steps(job.id) if step.kind == CUT), default=1)

    def shown(self, sentence: str, folder: JobFolder) -> str:
        """A sentence of a job's process as clients may see it."""
        return folder.shown(sentence, self.roots)

    def start(self) -> None:
        """Take up what an earlier service left, and let the lanes run."""
        self._recovery.take_up()
        for lane in self.lanes:
            lane.start()

    def drain(self) -> None:
        """Take nothing more and ask all processes to end; what they did not finish waits for the next service."""
        if not self.draining:
            self._drained = time.monotonic()
        self.foreman.drain()

    def close(self, seconds: float) -> None:
        """Wait for the lanes, until so long after `drain`: connections that took some time to end leave them less."""
        until = self._drained + seconds
        for lane in self.lanes:
            if lane.lives:
                lane.join(max(0.0, until - time.monotonic()))
        self.table.close()
        close_quietly(self._held)

    def faults(self) -> list[str]:
        """What keeps the service from working: "draining", "database", "disk", "no device worker"."""
        found = ["draining"] if self.draining else []
        if not self.table.works():
            found.append("database")
        if self.table.is_in_memory or shutil.disk_usage(self.data.path).free < self.settings.reserve_mb << 20:
            found.append("disk")
        cutting = [lane for lane in self.lanes if CUT in lane.kinds]
        if not any(lane.lives and lane.fault is None for lane in cutting):
            found.append("no device worker")
        return found

    def sweep(self, now: float) -> None:
        """Remove jobs that ended long ago, and folders that were put aside."""
        self.data.clear()
        if self.settings.keep_days:
            for job in self.table.in_states(ENDED):
                if job.ended is not None and now - job.ended > self.settings.keep_days * DAY_SECONDS:
                    self.remove(job)
