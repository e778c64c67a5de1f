"""Jobs from arrival to end: what clients ask of them, and what lanes do."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import threading
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from gpu_extract.errors import (
    EXIT_OK,
    EXIT_PARTIAL,
    DeviceError,
    InputError,
    OutputError,
    UsageError,
)
from gpu_extract.options import ServiceSettings
from gpu_extract.run.confinement import Confinement
from gpu_extract.run.shards import Shard
from gpu_extract.service import feed
from gpu_extract.service.attempt import Attempt, Counts, Ended
from gpu_extract.service.devices import CPU, chosen
from gpu_extract.service.endings import Endings
from gpu_extract.service.folders import REPORT, Data, JobFolder, is_job_id
from gpu_extract.service.lanes import Lane, lanes_for
from gpu_extract.service.leftovers import began, end_leftover, hold
from gpu_extract.service.meters import Meters
from gpu_extract.service.problems import Problem
from gpu_extract.service.requests import JobRequest, Request, Uploaded, take
from gpu_extract.service.steps import first_steps, further_steps
from gpu_extract.service.table import (
    CANCELLED,
    CANCELLING,
    CUT,
    ENDED,
    FINISHING,
    MERGE,
    OPEN,
    QUEUED,
    RUNNING,
    Job,
    Step,
    new_job,
    opened,
)
from gpu_extract.service.tallies import Tallies, Tally
from gpu_extract.service.unpacking import Unpacking
from gpu_extract.service.words import PLAN, reads, report_of, words_for
from gpu_extract.storage.descriptors import close_quietly

DAY_SECONDS = 86_400.0
LEAST_MEMORY_MB = 1024
OPEN_FILES = 4096
"""Of a job's process."""
log = logging.getLogger("gpu_extract.service")


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
        self._news = threading.Condition()
        self._making = threading.RLock()
        self._attempts: dict[tuple[str, str, int], Attempt] = {}
        self._tallies = Tallies()
        self._unpacking = Unpacking()
        self.draining = False
        of_machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
        self._memory_mb = max(LEAST_MEMORY_MB, settings.memory_mb or of_machine)
        self.devices = chosen(settings.devices)
        self.lanes = lanes_for(self.devices, self)
        try:
            self.table = opened(self.data.table)
        except BaseException:
            close_quietly(self._held)
            raise
        self._endings = Endings(settings, self.data, self.table, self._tallies, self.devices, self.roots, self._stop)

    # What a client asks for.

    def create(
        self, asked: JobRequest, owner: str, job: str | None = None, most: int | None = None
    ) -> tuple[Job, bool]:
        """A job under an id, and whether it is new; the same request again is the same job.

        Args:
            most: jobs of this owner that may be open at a time.

        Raises:
            Problem: for what cannot be had; 409 where the id is taken by another request.
        """
        if self.draining:
            raise Problem(503, "the service is about to end; ask again in a minute.", headers={"Retry-After": "60"})
        if job is not None and not is_job_id(job):
            raise Problem(422, f"{job[:100]!r} is no id: 1 to 64 of a to z, 0 to 9, and - inside, are.")
        with self._making:
            if job is not None and (known := self.known(job)) is not None:
                if known.owner == owner and known.request["asked"] == asked.model_dump():
                    return known, False
                raise Problem(409, f"there is a job {job} that was asked for otherwise; take another id.")
            self._check_queue(owner, most)
            job = job or f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"
            folder = self.data.job(job)
            shutil.rmtree(folder.path, ignore_errors=True)  # of one that was never begun
            try:
                folder.path.mkdir(parents=True)
                request = take(asked, folder, owner, time.time(), self.roots, self._uploaded)
                folder.begin(request.to_dict())
                made = new_job(job, request.to_dict(), created=request.created)
                self.table.add(made, first_steps(request, len(self.devices)))
            except BaseException as error:  # whoever is refused has no job, also none that is found at the next start
                shutil.rmtree(folder.path, ignore_errors=True)
                if isinstance(error, OSError):
                    raise OutputError(f"the job's folder cannot be made: {error.strerror}.") from error
                if isinstance(error, OutputError):
                    raise OutputError(self.shown(str(error), folder)) from error
                raise
        self._notify()
        return self.table.job(job) or made, True

    def _check_queue(self, owner: str, most: int | None) -> None:
        allowed = self.settings.queue if most is None else most
        if self.table.waiting_of(owner) >= allowed:
            why = f"{allowed:,} jobs of this token are open, no more are taken; try again when some have ended."
            raise Problem(429, why, headers={"Retry-After": "60"})

    def known(self, job: str) -> Job | None:
        """A job, also one that only its folder knows of."""
        if not is_job_id(job):
            return None
        found = self.table.job(job)
        if found is None and self.data.job(job).exists:
            with self._making:  # whoever makes it, or removes it, has done so then
                found = self.table.job(job)
                if found is None and self.data.job(job).exists:
                    self._adopt(job, self.data.job(job))
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
        self._stop(job.id)

    def resume(self, job: Job, most: int | None = None) -> None:
        """Go on with one that was cancelled, failed, or has frames that failed.

        Args:
            most: as for `create`.

        Raises:
            Problem: 409 while a process of it still ends, 429 where too many are open.
        """
        request, folder = Request.of(job.request), self.data.job(job.id)
        if self.draining:
            raise Problem(503, "the service is about to end; ask again in a minute.", headers={"Retry-After": "60"})
        with self.table.change():
            now = self.table.job(job.id)
            if now is None or now.state in OPEN or not folder.exists:
                return
            self._check_idle(job)
            self._check_queue(job.owner, most)
            count = max((step.count for step in self.table.steps(job.id) if step.kind == CUT), default=0)
            self.table.remove_steps(job.id)
            self.table.add_steps(job.id, further_steps(request, folder, count, len(self.devices)))
            folder.go_on()
            self.table.update(job.id, state=QUEUED, error=None, exit_code=None, ended=None, started=None, note=None)
        self._tallies.forget(job.id)
        self._notify()

    def remove(self, job: Job) -> None:
        """Forget a job that has ended, with all that it made.

        Raises:
            Problem: 409 if it has not ended.
        """
        with self._making:
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
            except OutputError:  # the disk is full, and what is removed makes room
                shutil.rmtree(aside, ignore_errors=True)
                self.table.remove(job.id)
            self._tallies.forget(job.id)
        shutil.rmtree(aside, ignore_errors=True)

    def _check_idle(self, job: Job) -> None:
        if any(step.state == RUNNING for step in self.table.steps(job.id)):
            why = f"a process of the job {job.id} is still ending; try again in some seconds."
            raise Problem(409, why, headers={"Retry-After": "5"})

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

    # What lanes ask for.

    def claim(self, lane: Lane) -> Step | None:
        """The step that goes next on a lane."""
        if self.draining:
            return None
        return self.table.claim(lane.device, lane.kinds, time.time(), rescues=MERGE in lane.kinds)

    def attempt(self, step: Step) -> Attempt:
        """The attempt at a step that was claimed; whoever cancels its job stops it."""
        folder = self.data.job(step.job)
        attempt = Attempt(folder.log, partial(self._counted, step), self.settings.max_seconds)
        self._attempts[step.key] = attempt
        job = self.table.job(step.job)
        if job is None or job.state not in (RUNNING, FINISHING) or self.draining:
            attempt.stop()
        return attempt

    def run(self, attempt: Attempt, step: Step, lane: Lane) -> Ended:
        """Run a step to its end."""
        folder = self.data.job(step.job)
        request = Request.of(folder.request())
        shard = Shard(step.number, step.count) if step.count > 1 else None
        self._tallies.put(step, Tally(feed.count(folder.faces, shard) if step.kind == CUT else (0, 0)))
        scratch = folder.path / "tmp"
        scratch.mkdir(exist_ok=True)
        triton = self.data.cache / "triton"
        triton.mkdir(exist_ok=True)
        report_of(step, request, folder).unlink(missing_ok=True)
        if request.packed is not None:
            self._unpacking.frames(folder.path / request.packed, folder.frames, lambda: attempt.stopped)
        memory = self._memory_mb if lane.device == CPU else None
        return attempt.run(
            words_for(step, request, folder, lane.device, len(lane.cores)),
            lane.cores,
            Confinement(
                reads=reads(request, folder),
                writes=(str(folder.path),) if lane.device == CPU else (str(folder.path), str(triton)),
                memory_bytes=None if memory is None else memory << 20,
                file_bytes=self.settings.upload_gb << 30,
                open_files=OPEN_FILES,
            ),
            {"TMPDIR": str(scratch), "TRITON_CACHE_DIR": str(triton)},
            lambda pid: self.table.set_step(step, pid=pid, pid_started=began(pid)),
        )

    def _counted(self, step: Step, counts: Counts) -> None:
        tally = self._tallies.get(step)
        before, tally.counts = tally.counts, counts
        if step.kind == CUT:
            self.meters.frames.inc(max(0, counts.frames - (before.frames if before else 0)))
            self.meters.faces.inc(max(0, counts.faces - (before.faces if before else 0)))

    def ended(self, step: Step, ended: Ended, attempt: Attempt, lane: Lane) -> None:
        """What follows from how an attempt ended."""
        self._attempts.pop(step.key, None)
        folder = self.data.job(step.job)
        shutil.rmtree(folder.path / "tmp", ignore_errors=True)
        self.meters.shard_ended(step.kind, _outcome(ended.code), self._tallies.get(step).seconds)
        words = self.shown(ended.words, folder)
        lane.fault = words if ended.code == DeviceError.exit_code else None
        follow = partial(self._endings.follow, step, ended, words, stopped=attempt.stopped, device=lane.device)
        give_up = partial(self._endings.give_up, step)
        while True:
            try:
                with self.table.change():
                    follow()
                break
            except OutputError as error:  # the disk is full: the step has ended all the same, and is not to run twice
                log.warning("%s: %s", step.key, error)
                if self.draining:
                    return
                time.sleep(1.0)
            except Exception:  # a step of which nothing follows would run for ever
                if follow is give_up:
                    raise
                log.exception("%s: what follows from its end", step.key)
                follow = give_up
        self._notify()

    def _stop(self, job: str) -> None:
        for key, attempt in list(self._attempts.items()):
            if key[0] == job:
                attempt.stop()

    def _notify(self) -> None:
        with self._news:
            self._news.notify_all()

    def wait(self, seconds: float) -> None:
        """Until something may have changed."""
        with self._news:
            if not self.draining:
                self._news.wait(seconds)

    def shown(self, sentence: str, folder: JobFolder) -> str:
        """A sentence of a job's process as clients may see it."""
        return folder.shown(sentence, self.roots)

    # Beginning and end.

    def start(self) -> None:
        """Take up what an earlier service left, and let the lanes run."""
        self._recover()
        for lane in self.lanes:
            lane.start()

    def drain(self) -> None:
        """Take nothing more and ask all processes to end; what they did not finish waits for the next service."""
        self.draining = True
        for attempt in list(self._attempts.values()):
            attempt.stop()
        self._notify()

    def close(self, seconds: float) -> None:
        """Wait for the lanes; after `drain`."""
        until = time.monotonic() + seconds
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
        if shutil.disk_usage(self.data.path).free < self.settings.reserve_mb << 20:
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

    def _recover(self) -> None:
        for step in self.table.running():
            if step.pid is not None and step.pid_started is not None:
                end_leftover(step.pid, step.pid_started)
            self.table.set_step(step, state="waiting", device=None, pid=None, pid_started=None)
        self.data.put_aside_rest()
        for row in self.table.in_states(ENDED):
            if not self.data.job(row.id).exists:  # killed while it was removed
                self.table.remove(row.id)
        for job, folder in self.data.jobs():
            if self.table.job(job) is None:
                self._adopt(job, folder)
        for row in self.table.in_states(OPEN):
            if row.state == CANCELLING:
                self._endings.end(row.id, CANCELLED, None, None)
                continue
            if self.data.job(row.id).outcome() is not None:  # killed between the folder's word and the table's
                self.table.remove(row.id)
                self._adopt(row.id, self.data.job(row.id))
                continue
            self.table.update(row.id, state=QUEUED)
            for step in self.table.steps(row.id):
                if step.kind == CUT and step.state == "done":
                    shard = Shard(step.number, step.count) if step.count > 1 else None
                    before = feed.count(self.data.job(row.id).faces, shard)
                    self._tallies.put(step, Tally(before, Counts(0, 0, 0)))

    def _adopt(self, job: str, folder: JobFolder) -> None:
        """Make a job's row again from its folder."""
        try:
            stored = folder.request()
            request = Request.of(stored)
            outcome = folder.outcome()
        except (InputError, TypeError) as error:
            log.warning("the folder of the job %s cannot be read: %s", job, error)
            return
        made = new_job(job, stored, created=request.created)
        steps = further_steps(request, folder, feed.shards_begun(folder.faces), len(self.devices))
        self.table.add(made, steps if outcome is None else [])
        if outcome is not None:
            self.table.update(job, **outcome)


def _outcome(code: int) -> str:
    known = {EXIT_OK: "done", EXIT_PARTIAL: "partial", UsageError.exit_code: "usage", InputError.exit_code: "input"}
    known |= {DeviceError.exit_code: "device", OutputError.exit_code: "output"}
    return "signal" if code < 0 or code > 128 else known.get(code, "failed")
