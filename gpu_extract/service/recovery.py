"""The table and the folders of jobs, brought together: the folders are right, also where the table was lost."""

from __future__ import annotations

import logging

from gpu_extract.errors import InputError
from gpu_extract.run.shard import Shard
from gpu_extract.service import feed
from gpu_extract.service.attempt import Counts
from gpu_extract.service.endings import Endings
from gpu_extract.service.folders import Data, JobFolder
from gpu_extract.service.leftovers import end_leftover
from gpu_extract.service.requests import Request
from gpu_extract.service.steps import further_steps
from gpu_extract.service.table import CANCELLED, CANCELLING, CUT, ENDED, OPEN, QUEUED, Table, new_job
from gpu_extract.service.tallies import Tallies, Tally

log = logging.getLogger("gpu_extract.service")


class Recovery:
    """Of one office.

    Args:
        devices: how many there are to cut on.
    """

    def __init__(self, data: Data, table: Table, endings: Endings, tallies: Tallies, devices: int) -> None:
        self._data, self._table, self._endings, self._tallies = data, table, endings, tallies
        self._devices = devices

    def take_up(self) -> None:
        """Take up what an earlier service left, before any lane runs."""
        for step in self._table.running():
            if step.pid is not None and step.pid_started is not None:
                end_leftover(step.pid, step.pid_started)
            self._table.set_step(step, state="waiting", device=None, pid=None, pid_started=None)
        self._data.put_aside_rest()
        for row in self._table.in_states((*OPEN, *ENDED)):
            if not self._data.job(row.id).exists:  # it was removed
                self._table.remove(row.id)
        for job, folder in self._data.jobs():
            if self._table.job(job) is None:
                self.adopt(job, folder)
        for row in self._table.in_states(OPEN):
            self._go_on(row.id, row.state)
        self._endings.tell_folders(also_of_earlier=True)

    def _go_on(self, job: str, state: str) -> None:
        """With one that did not end, as far as its row knows."""
        folder = self._data.job(job)
        if (outcome := folder.outcome()) is not None:  # killed between the folder's word and the table's
            self._table.update(job, **outcome, note=None)
            return
        if state == CANCELLING:
            self._endings.end(job, CANCELLED, None, None)
            return
        self._table.update(job, state=QUEUED)
        for step in self._table.steps(job):
            if step.kind == CUT and step.state == "done":
                shard = Shard(step.number, step.count) if step.count > 1 else None
                self._tallies.put(step, Tally(feed.count(folder.faces, shard), Counts(0, 0, 0)))

    def adopt(self, job: str, folder: JobFolder) -> None:
        """Make a job's row again from its folder."""
        try:
            stored = folder.request()
            request = Request.of(stored)
            outcome = folder.outcome()
        except (InputError, TypeError) as error:
            log.warning("the folder of the job %s cannot be read: %s", job, error)
            return
        made = new_job(job, stored, created=request.created)
        steps = further_steps(request, folder, feed.shards_begun(folder.faces), self._devices)
        self._table.add(made, steps if outcome is None else [])
        if outcome is not None:
            self._table.update(job, **outcome)
