"""The jobs and their steps: all SQL of the service.

A job is cut in steps: a `check` (a dry run) where the number of shards is open or nothing is to be cut, a `cut` for
each shard, a `merge` where there are several. A step waits, runs for whoever claimed it, and is done.

    queued ──► running ──► finishing ──► succeeded | partial | failed
      ▲           └──► cancelling ──► cancelled
      └─ resume ──────────────────────────┘
"""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gpu_extract.errors import OutputError
from gpu_extract.service.database import Database

QUEUED, RUNNING, FINISHING, CANCELLING = "queued", "running", "finishing", "cancelling"
SUCCEEDED, PARTIAL, FAILED, CANCELLED = "succeeded", "partial", "failed", "cancelled"
OPEN = (QUEUED, RUNNING, FINISHING, CANCELLING)
ENDED = (SUCCEEDED, PARTIAL, FAILED, CANCELLED)
CHECK, CUT, MERGE = "check", "cut", "merge"
LONGEST_WAIT_SECONDS = 60.0
"""That a step is put off; one that would wait longer was put off before the clock was set back."""
log = logging.getLogger("gpu_extract.service")
SCHEMA = """
CREATE TABLE IF NOT EXISTS job (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, state TEXT NOT NULL, priority INTEGER NOT NULL, request TEXT NOT NULL,
    error TEXT, exit_code INTEGER, created REAL NOT NULL, started REAL, ended REAL, rev INTEGER NOT NULL DEFAULT 1,
    note TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS step (
    job TEXT NOT NULL REFERENCES job(id) ON DELETE CASCADE, kind TEXT NOT NULL, number INTEGER NOT NULL,
    count INTEGER NOT NULL, state TEXT NOT NULL DEFAULT 'waiting', device TEXT, pid INTEGER, pid_started INTEGER,
    attempt INTEGER NOT NULL DEFAULT 0, tries INTEGER NOT NULL DEFAULT 0, waits INTEGER NOT NULL DEFAULT 0,
    not_before REAL NOT NULL DEFAULT 0, avoid TEXT NOT NULL DEFAULT ',', rescued INTEGER NOT NULL DEFAULT 0,
    ended_with INTEGER,
    PRIMARY KEY (job, kind, number)
) STRICT;
CREATE INDEX IF NOT EXISTS job_by_state ON job (state, priority, created);
CREATE INDEX IF NOT EXISTS step_by_state ON step (state, kind);
"""
CLAIM = """
UPDATE step SET state = 'running', device = :device, attempt = attempt + 1 WHERE rowid = (
    SELECT step.rowid FROM step JOIN job ON job.id = step.job
    WHERE step.state = 'waiting' AND job.state IN ('queued', 'running', 'finishing')
        AND (step.not_before <= :now OR step.not_before > :now + {longest})
        AND ((step.kind IN ({kinds}) AND NOT step.rescued AND instr(step.avoid, ',' || :device || ',') = 0)
             OR (:rescues AND step.rescued))
    ORDER BY (SELECT count(*) FROM step AS busy JOIN job AS mine ON mine.id = busy.job
              WHERE busy.state = 'running' AND mine.owner = job.owner),
        job.priority DESC, job.created, job.id, step.number
    LIMIT 1
) RETURNING *
"""
"""The step that goes next: the owner with fewest running steps first, then priority, then age."""


@dataclass(frozen=True)
class Job:
    """A row of the table."""

    id: str
    owner: str
    state: str
    priority: int
    request: dict[str, Any]
    error: str | None
    exit_code: int | None
    created: float
    started: float | None
    ended: float | None
    rev: int
    note: str | None
    """Why it waits, where it does for a reason."""

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED


@dataclass(frozen=True)
class Step:
    """A row of the table."""

    job: str
    kind: str
    number: int
    count: int
    state: str
    device: str | None
    pid: int | None
    pid_started: int | None
    attempt: int
    tries: int
    """Attempts that ended by a signal."""
    waits: int
    """Times that it was put off for want of room."""
    not_before: float
    avoid: str
    """Devices that did not take it, each between commas."""
    rescued: int
    """Whether it is for the CPU, since no device takes it."""
    ended_with: int | None

    @property
    def key(self) -> tuple[str, str, int]:
        return self.job, self.kind, self.number


class Table:
    """All jobs. Safe to call from several threads.

    Raises:
        OutputError: from any method that writes, where the disk refuses; nothing has changed then.
        sqlite3.DatabaseError: on opening, if it is that of another version; it is closed then.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.close, self.change = database.close, database.change
        for name, row in (("job", Job), ("step", Step)):
            columns = {about["name"] for about in database.execute(f"PRAGMA table_info({name})")}
            if columns != {field.name for field in fields(row)}:
                database.close()
                raise sqlite3.DatabaseError(f"{name} is that of another version")

    @property
    def is_in_memory(self) -> bool:
        """Whether the disk is full, and takes no changes until there is room."""
        return self._database.is_in_memory

    def works(self) -> bool:
        """Whether it can be read and written."""
        try:
            with self.change():
                self._database.execute("UPDATE job SET rev = rev WHERE 0")
            self.counts()
        except (OutputError, sqlite3.Error):
            return False
        return True

    def add(self, job: Job, steps: Sequence[tuple[str, int, int]]) -> None:
        """A new job with its first steps, each (kind, number, count); of a folder that is on the disk."""
        with self.change(at_once=False):
            self._database.execute(
                "INSERT INTO job (id, owner, state, priority, request, created) VALUES (?, ?, ?, ?, ?, ?)",
                (job.id, job.owner, job.state, job.priority, json.dumps(job.request), job.created),
            )
            self.add_steps(job.id, steps)

    def add_steps(self, job: str, steps: Sequence[tuple[str, int, int]]) -> None:
        with self.change():
            self._database.executemany(
                "INSERT INTO step (job, kind, number, count) VALUES (?, ?, ?, ?)", [(job, *step) for step in steps]
            )

    def remove_steps(self, job: str) -> None:
        with self.change():
            self._database.execute("DELETE FROM step WHERE job = ?", (job,))

    def remove(self, job: str) -> None:
        """Forget a job whose folder is gone."""
        with self.change(at_once=False):
            self._database.execute("DELETE FROM job WHERE id = ?", (job,))

    def job(self, job: str) -> Job | None:
        rows = self._database.execute("SELECT * FROM job WHERE id = ?", (job,))
        return _job(rows[0]) if rows else None

    def jobs(
        self, *, owner: str | None = None, state: str | None = None, after: tuple[float, str] | None, limit: int
    ) -> list[Job]:
        """The newest first.

        Args:
            after: `created` and `id` of the last one that was seen.
        """
        where: list[str] = ["1"]
        values: list[Any] = []
        for column, value in (("owner", owner), ("state", state)):
            if value is not None:
                where.append(f"{column} = ?")
                values.append(value)
        if after is not None:
            where.append("(created, id) < (?, ?)")
            values += after
        query = f"SELECT * FROM job WHERE {' AND '.join(where)} ORDER BY created DESC, id DESC LIMIT ?"
        return [_job(row) for row in self._database.execute(query, (*values, limit))]

    def in_states(self, states: Sequence[str]) -> list[Job]:
        """The oldest first."""
        marks = ", ".join("?" * len(states))
        query = f"SELECT * FROM job WHERE state IN ({marks}) ORDER BY created, id"
        return [_job(row) for row in self._database.execute(query, states)]

    def counts(self) -> dict[str, int]:
        """Of jobs, by state."""
        rows = self._database.execute("SELECT state, count(*) FROM job GROUP BY state")
        return {row[0]: row[1] for row in rows}

    def waiting_of(self, owner: str) -> int:
        """Jobs of an owner that did not end."""
        marks = ", ".join("?" * len(OPEN))
        query = f"SELECT count(*) FROM job WHERE owner = ? AND state IN ({marks})"
        return int(self._database.execute(query, (owner, *OPEN))[0][0])

    def oldest_queued(self) -> float | None:
        """When the oldest job that waits was made."""
        found: float | None = self._database.execute("SELECT min(created) FROM job WHERE state = ?", (QUEUED,))[0][0]
        return found

    def place_of(self, job: Job) -> int:
        """How many jobs go before one that is queued, and it: 1 is next."""
        query = (
            "SELECT count(*) FROM job WHERE state = ? AND (priority > ? OR (priority = ? AND (created, id) <= (?, ?)))"
        )
        return int(self._database.execute(query, (QUEUED, job.priority, job.priority, job.created, job.id))[0][0])

    def update(self, job: str, **columns: Any) -> None:
        """Change a job's row; its `rev` grows."""
        names = ", ".join(f"{name} = ?" for name in columns)
        with self.change():
            self._database.execute(f"UPDATE job SET {names}, rev = rev + 1 WHERE id = ?", (*columns.values(), job))

    def steps(self, job: str) -> list[Step]:
        rows = self._database.execute("SELECT * FROM step WHERE job = ? ORDER BY kind, number", (job,))
        return [Step(**dict(row)) for row in rows]

    def claim(self, device: str, kinds: Sequence[str], now: float, *, rescues: bool = False) -> Step | None:
        """Take the step that goes next for a device, whose job runs then; none while the disk is full.

        Args:
            rescues: take also cuts that no device takes any more.
        """
        query = CLAIM.format(longest=LONGEST_WAIT_SECONDS, kinds=", ".join(f"'{kind}'" for kind in kinds))
        with self.change(at_once=False):
            if self.is_in_memory:
                return None
            rows = self._database.execute(query, {"device": device, "now": now, "rescues": rescues})
            if not rows:
                return None
            step = Step(**dict(rows[0]))
            self._database.execute(
                "UPDATE job SET state = CASE WHEN ? = 'merge' THEN 'finishing' ELSE 'running' END, note = NULL, "
                "started = coalesce(started, ?), rev = rev + 1 WHERE id = ?",
                (step.kind, now, step.job),
            )
        return step

    def began(self, step: Step, pid: int, ticks: int | None) -> None:
        """Which process runs a step, and when that began: a power cut leaves none."""
        with self.change(at_once=False):
            self.set_step(step, pid=pid, pid_started=ticks)

    def set_step(self, step: Step, **columns: Any) -> None:
        names = ", ".join(f"{name} = ?" for name in columns)
        with self.change():
            self._database.execute(
                f"UPDATE step SET {names} WHERE job = ? AND kind = ? AND number = ?",
                (*columns.values(), *step.key),
            )

    def running(self) -> list[Step]:
        """Steps that somebody claimed."""
        return [Step(**dict(row)) for row in self._database.execute("SELECT * FROM step WHERE state = 'running'")]


def _job(row: sqlite3.Row) -> Job:
    return Job(**(dict(row) | {"request": json.loads(row["request"])}))


def new_job(job: str, request: dict[str, Any], *, created: float | None = None) -> Job:
    """A queued one."""
    made = time.time() if created is None else created
    owner, priority = str(request["owner"]), int(request["priority"])
    return Job(job, owner, QUEUED, priority, request, None, None, made, None, None, 1, None)


def opened(path: Path) -> Table:
    """The table of a file; an empty one where that is damaged, or another version's, which is then put aside.

    Raises:
        OutputError: if it cannot be opened, and the disk is not full.
    """
    try:
        return Table(Database(path, SCHEMA))
    except sqlite3.DatabaseError as error:
        aside = path.with_suffix(f".damaged-{int(time.time())}")
        log.warning(
            "the table of jobs cannot be used (%s); it lies at %s, and is made again from the folders", error, aside
        )
        for suffix in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                path.with_name(path.name + suffix).rename(f"{aside}{suffix}")
        return Table(Database(path, SCHEMA))
