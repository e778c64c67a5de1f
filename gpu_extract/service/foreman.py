"""What lanes are told: which step goes next, how it is run, what follows from its end."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial

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
from gpu_extract.run.shard import Shard
from gpu_extract.service import feed
from gpu_extract.service.attempt import Attempt, Attempts, Counts, Ended
from gpu_extract.service.devices import CPU
from gpu_extract.service.endings import Endings
from gpu_extract.service.folders import Data
from gpu_extract.service.lanes import Lane
from gpu_extract.service.leftovers import began
from gpu_extract.service.meters import Meters
from gpu_extract.service.requests import Request, check_frames
from gpu_extract.service.table import CUT, FINISHING, MERGE, RUNNING, Step, Table
from gpu_extract.service.tallies import Tallies, Tally
from gpu_extract.service.unpacking import Unpacking
from gpu_extract.service.words import reads, report_of, words_for

LEAST_MEMORY_MB = 1024
OPEN_FILES = 4096
"""Of a job's process."""
END_AGAIN_SECONDS = 1.0
log = logging.getLogger("gpu_extract.service")


class Foreman:
    """Of the lanes of one office."""

    def __init__(
        self,
        settings: ServiceSettings,
        data: Data,
        table: Table,
        tallies: Tallies,
        attempts: Attempts,
        endings: Endings,
        meters: Meters,
        roots: Mapping[str, str],
    ) -> None:
        self._settings, self._data, self._table, self._tallies = settings, data, table, tallies
        self._attempts, self._endings, self._meters, self._roots = attempts, endings, meters, roots
        self._unpacking = Unpacking()
        self._news = threading.Condition()
        of_machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
        self._memory_mb = max(LEAST_MEMORY_MB, settings.memory_mb or of_machine)
        self.draining = False

    def claim(self, lane: Lane) -> Step | None:
        """The step that goes next on a lane."""
        if self.draining:
            return None
        step = self._table.claim(lane.device, lane.kinds, time.time(), rescues=MERGE in lane.kinds)
        self._endings.tell_folders()
        return step

    def attempt(self, step: Step) -> Attempt:
        """The attempt at a step that was claimed; whoever cancels its job stops it."""
        attempt = Attempt(self._data.job(step.job).log, partial(self._counted, step), self._settings.max_seconds)
        self._attempts.put(step.key, attempt)
        job = None
        with suppress(OutputError):  # what cannot be read is not begun, and waits
            job = self._table.job(step.job)
        if job is None or job.state not in (RUNNING, FINISHING) or self.draining:
            attempt.stop()
        return attempt

    def run(self, attempt: Attempt, step: Step, lane: Lane) -> Ended:
        """Run a step to its end."""
        folder = self._data.job(step.job)
        job = self._table.job(step.job)
        if job is None or not folder.exists:
            raise InputError(f"the folder of the job {step.job} is gone.")
        request = Request.of(job.request)  # not that of the folder, in which the job's processes write
        check_frames(request, self._roots)
        shard = Shard(step.number, step.count) if step.count > 1 else None
        self._tallies.put(step, Tally(feed.count(folder.faces, shard) if step.kind == CUT else (0, 0)))
        scratch = folder.path / "tmp"
        scratch.mkdir(exist_ok=True)
        triton = self._data.kernels_of(request.owner)
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
                file_bytes=self._settings.upload_gb << 30,
                open_files=OPEN_FILES,
            ),
            {"TMPDIR": str(scratch), "TRITON_CACHE_DIR": str(triton)},
            lambda pid: self._table.began(step, pid, began(pid)),
        )

    def _counted(self, step: Step, counts: Counts) -> None:
        tally = self._tallies.get(step)
        before, tally.counts = tally.counts, counts
        if step.kind == CUT:
            self._meters.frames.inc(max(0, counts.frames - (before.frames if before else 0)))
            self._meters.faces.inc(max(0, counts.faces - (before.faces if before else 0)))

    def ended(self, step: Step, ended: Ended, attempt: Attempt, lane: Lane) -> None:
        """What follows from how an attempt ended."""
        self._attempts.forget(step.key)
        folder = self._data.job(step.job)
        shutil.rmtree(folder.path / "tmp", ignore_errors=True)
        self._meters.shard_ended(step.kind, _outcome(ended.code), self._tallies.get(step).seconds)
        words = folder.shown(ended.words, self._roots)
        lane.fault = words if ended.code == DeviceError.exit_code else None
        follow = partial(self._endings.follow, step, ended, words, stopped=attempt.stopped, device=lane.device)
        give_up = partial(self._endings.give_up, step)
        while True:
            try:
                with self._table.change():
                    follow()
                break
            except OutputError as error:  # the step has ended all the same, and is not to run twice
                log.warning("%s: %s", step.key, error)
                if self.draining:
                    return
                time.sleep(END_AGAIN_SECONDS)
            except Exception:  # a step of which nothing follows would run for ever
                if follow is give_up:
                    raise
                log.exception("%s: what follows from its end", step.key)
                follow = give_up
        self.tell()

    def tell(self) -> None:
        """Lanes that wait: something may have changed."""
        with self._news:
            self._news.notify_all()

    def wait(self, seconds: float) -> None:
        """Until something may have changed."""
        with self._news:
            if not self.draining:
                self._news.wait(seconds)

    def drain(self) -> None:
        """Give out no step any more, and have those that run end."""
        self.draining = True
        self._attempts.stop_all()
        self.tell()


def _outcome(code: int) -> str:
    known = {EXIT_OK: "done", EXIT_PARTIAL: "partial", UsageError.exit_code: "usage", InputError.exit_code: "input"}
    known |= {DeviceError.exit_code: "device", OutputError.exit_code: "output"}
    return "signal" if code < 0 or code > 128 else known.get(code, "failed")
