"""`submit`: a run on a server as if it were one here: upload, fetch faces as they are made, save the alignments file.

Whatever cuts it – the network, a sleeping machine, a kill, a restart of the server – the same command goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from gpu_extract.client.arrived import Arrived
from gpu_extract.client.events import Teller
from gpu_extract.client.fetch import Fetching
from gpu_extract.client.inputs import Inputs
from gpu_extract.client.memory import Memory, Record
from gpu_extract.client.remote import Client, InRoot, Job, TheirReport
from gpu_extract.client.saving import Saving, check_free, check_writable, put_beside
from gpu_extract.client.wish import Place, Wish
from gpu_extract.errors import (
    EXIT_OK,
    EXIT_PARTIAL,
    GpuExtractError,
    InputError,
    InterruptedRunError,
    OutputError,
    UsageError,
    counted,
)
from gpu_extract.reports.base import check_target, write_report
from gpu_extract.reports.extraction import Report
from gpu_extract.run import failures
from gpu_extract.run.folder import prepare_folder
from gpu_extract.run.journal import exists
from gpu_extract.run.progress import Listener, Note, Progress, listener_for

TRIES = 3
"""Of an id that another job may have."""
CANCELLING_SECONDS = 0.2
"""Between looks at a job that is coming to its end."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 1.0
"""Between looks at a job that makes nothing new; each is twice the one before."""
_NOT_IN_IDS = re.compile(r"[^a-z0-9]+")


def submit(wish: Wish) -> Report | str:
    """Have a server do what `extract` does; returns the report, or the job's id where it is not waited for.

    Raises:
        GpuExtractError: of the kind that `extract` would raise.
    """
    values = wish.values
    listener = listener_for(values.get("progress", "auto"))
    if values.get("json") is not None:
        check_target(Report, values["json"])
    wish.check()
    with Progress(listener) as progress:
        with Client(wish.url, wish.token, patience=wish.patience, note=progress.note) as client:
            submission = _Submission(wish, client, listener)
            with submission.memory.alone(submission.faces):
                found = submission.run()
        if isinstance(found, str):
            progress.finish(EXIT_OK)
            return found
        if values.get("partial_ok") and found.exit_code == EXIT_PARTIAL and found.complete:
            found.exit_code = EXIT_OK
        progress.finish(found.exit_code)
    if values.get("json") is not None:
        write_report(found, values["json"])
    return found


class _Submission:
    """One run of the command."""

    def __init__(self, wish: Wish, client: Client, listener: Listener) -> None:
        self.wish, self.client, self.listener = wish, client, listener
        self.memory = Memory()
        self.faces = wish.faces
        self.inputs = Inputs(client, self.memory, wish.alignments, wish.frames)

    def run(self) -> Report | str:
        self._check_places()
        known = None if self.wish.writes_nothing else self.memory.record(self.faces)
        if known is not None and known.report is not None and self._is_done(known) and not self._tries_again(known):
            return TheirReport.of(known.report)
        record = self._earlier(known)
        if record is None:
            if self.wish.alignments_out is not None:
                check_free(self.wish.alignments_out)
            record = self._new()
        with _goes_on("interrupted; the same command goes on."):
            if not record.begun and not self.wish.writes_nothing:
                _take_folder(self.faces)
            job, record = self._at_work(record)
        if self.wish.detach:
            return job.id
        if self.wish.writes_nothing:
            with self._left_at_work(job):
                job.wait(self.listener)
            job.check()
            return self._report(job)
        if not record.brought:
            self._fetch(job, record)
        with _goes_on("interrupted; the same command goes on."):
            report = self._report(job)
            self._save(job, record, report)
            failures.keep(self.faces, report)
            record.report = report.to_dict()
            self._keep(record)
            self.memory.log(self.faces).unlink(missing_ok=True)
            return report

    # ---- what is remembered

    def _keep(self, record: Record) -> None:
        if not self.wish.writes_nothing:
            self.memory.keep(self.faces, record)

    def _note(self, text: str) -> None:
        self.listener(Note(text))

    def _command(self) -> dict[str, Any]:
        """What was asked for, by which the same command knows itself again."""
        if self.wish.job is not None:
            return {"url": self.client.url, "job": self.wish.job}
        return {"url": self.client.url, **self.inputs.words, "options": self.wish.options}

    def _earlier(self, known: Record | None) -> Record | None:
        """The submission that the command goes on with; None where it begins one.

        Raises:
            OutputError: if the folder has faces of another.
        """
        if known is None:
            return None
        if known.unsaved is not None and _is_empty(self.faces):
            return None
        if known.report is None and self._is_of(known):
            if known.before is not None and self.inputs.alignments is None:
                self.inputs.alignments = Path(known.command["alignments"])
            if not known.sent and isinstance(self.inputs.alignments, Path):
                known.before = self.inputs.digest()
            return known
        if known.report is None:
            self._check_no_faces_of(known, "was asked for otherwise")
        return None

    def _check_no_faces_of(self, record: Record, why: str) -> None:
        """
        Raises:
            OutputError: if the folder has faces of a submission that cannot go on.
        """
        if record.begun and not _is_empty(self.faces):
            raise OutputError(
                f"the faces folder {self.faces} is being filled by the job {record.job}, which {why}; name another "
                "folder, or remove that one."
            )

    def _is_of(self, known: Record) -> bool:
        return known.command == self._command() if self.wish.job is None else known.job == self.wish.job

    def _is_done(self, known: Record) -> bool:
        """Whether all that the command wants is here already, as it was left."""
        if not self._is_of(known) or not exists(self.faces):
            return False
        digest = self.inputs.digest()
        return digest is None or digest in (known.before, known.after)

    def _tries_again(self, known: Record) -> bool:
        """Whether a job of which some frames failed goes on with these, as `extract --resume` would."""
        if self.wish.job is not None or known.report is None or known.report.get("exit_code") != EXIT_PARTIAL:
            return False
        job = self.client.find(known.job)
        if job is None:
            self._note(
                f"the server has no job {known.job} any more, of which some frames failed; to try these again, name "
                "another faces folder."
            )
            return False
        if job.state == "partial":
            self._note(f"some frames of the job {job.id} failed; they are tried again.")
            job.resume()
        known.report, known.brought = None, False
        known.before, known.after, known.backup = self.inputs.digest(), None, None
        self._keep(known)
        return True

    def _new(self) -> Record:
        before, command = self.inputs.digest(), self._command()
        job = self.wish.job or _id_of(self.inputs.frames, [command, before, os.path.realpath(self.faces)])
        record = Record(
            command,
            job,
            sent=self.wish.job is not None,
            before=before if self.wish.job is None else None,
            frames_folder=self.inputs.frames_folder,
        )
        self._keep(record)
        return record

    # ---- the job

    def _at_work(self, record: Record) -> tuple[Job, Record]:
        """The job, which the server has by now, and which goes on where it was cancelled or failed."""
        job = self.client.find(record.job) if record.sent else None
        while job is not None and job.state == "cancelling" and self.wish.job is None:
            time.sleep(CANCELLING_SECONDS)
            job = self.client.find(record.job)
        if job is not None and job.state in ("failed", "cancelled") and self.wish.job is None:
            if record.before is None or self.inputs.digest() == record.before:
                job.resume()
            else:
                self._check_no_faces_of(record, f"is {job.state} and had another alignments file")
                self._note(f"{self.inputs.alignments} was changed since the job {job.id}, which is {job.state}.")
                record, job = self._new(), None
        if job is None and self.wish.job is not None:
            raise InputError(f"{self.client.url} has no job {record.job}; it may have been removed.")
        if job is None:
            if record.sent:
                self._begin_again(record)
            job = self._put(record)
            if job.state in ("failed", "cancelled"):  # of an earlier command that is not remembered
                job.resume()
            record.sent = True
            self._keep(record)
            self.inputs.forget_folder()
        return job, record

    def _begin_again(self, record: Record) -> None:
        """A job that the server has not any more; what came of it comes again, from whatever version is there now."""
        digest = self.inputs.digest()
        if digest != record.before:
            self._check_no_faces_of(record, "is gone from the server and had another alignments file")
        self._note(f"the server has no job {record.job} any more; it is made again.")
        record.sent, record.brought, record.before = False, False, digest
        self.memory.log(self.faces).unlink(missing_ok=True)

    def _put(self, record: Record) -> Job:
        asked = {
            **self.inputs.sent(record.before),
            "options": self.wish.options,
            "priority": self.wish.priority,
        }
        base = record.job
        for _ in range(TRIES):
            self._keep(record)
            job = self.client.put(record.job, asked)
            if job is not None:
                self._note(f"the job is {job.id} of {self.client.url}.")
                return job
            record.job = f"{base[:55]}-{secrets.token_hex(4)}"
        raise UsageError(f"{self.client.url} has other jobs of the name {base}; run the command again.")

    @contextmanager
    def _left_at_work(self, job: Job) -> Iterator[None]:
        """Have whoever interrupts hear what becomes of the job."""
        try:
            yield
        except InterruptedRunError as error:
            if job.has_ended:
                text = "interrupted; the same command goes on fetching."
            elif self.wish.cancel_on_interrupt:
                job.cancel()
                text = f"interrupted, and the job {job.id} is cancelled; the same command goes on with it."
            else:
                text = f"interrupted; the job {job.id} goes on at {self.client.url}, the same command goes on fetching."
            raise InterruptedRunError(text, error.exit_code) from None

    # ---- its result

    def _fetch(self, job: Job, record: Record) -> None:
        """Bring the faces while the job makes them, until it has ended."""
        log = self.memory.log(self.faces)
        if not record.begun or _is_empty(self.faces):
            log.unlink(missing_ok=True)
            _take_folder(self.faces)
            record.begun = True
            self._keep(record)
        teller = Teller(self.listener)
        with closing(Arrived(self.faces, log)) as arrived:
            fetching = Fetching(self.client.server, job.id, self.faces, arrived, teller.frame)
            with self._left_at_work(job):
                self._follow(job, fetching, teller)
            self._check(job, fetching)
            with _goes_on("interrupted; the same command goes on fetching."):
                fetching.finish(record.frames_folder)
        record.brought = True
        self._keep(record)

    def _follow(self, job: Job, fetching: Fetching, teller: Teller) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            teller.state(job.said)
            teller.planned(job.said.get("of"))
            try:
                if fetching.catch_up():
                    pause = FIRST_PAUSE_SECONDS
            except InputError:
                if self.client.find(job.id) is None:
                    raise self._removed(job, fetching) from None
                raise
            if job.has_ended:
                return
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            found = self.client.find(job.id)
            if found is None:
                raise self._removed(job, fetching)
            job.state, job.said = found.state, found.said

    def _removed(self, job: Job, fetching: Fetching) -> InputError:
        again = "" if self.wish.job is not None else "; the same command makes it again"
        return InputError(f"the job {job.id} was removed from {self.client.url}{again}.{self._kept(fetching)}")

    def _check(self, job: Job, fetching: Fetching) -> None:
        """
        Raises:
            GpuExtractError: if the job did not end well; what has come of it stays.
        """
        try:
            job.check()
        except GpuExtractError as error:
            error.args = (f"{error}{self._kept(fetching)}",)
            raise

    def _kept(self, fetching: Fetching) -> str:
        faces = counted(fetching.faces, "face is", "faces are")
        return f" Of what it had made, {faces} in {self.faces}." if fetching.faces else ""

    def _report(self, job: Job) -> Report:
        report = job.report()
        report.faces_folder = os.fspath(self.faces)
        return report

    def _save(self, job: Job, record: Record, report: Report) -> None:
        """Do with the alignments file what a run here would have done."""
        changed = report.hashes_changed or report.thumbs_refreshed
        report.backup = None
        alignments = self.inputs.alignments
        if not self.wish.updates:
            report.hashes_updated = report.hashes_changed = 0
        elif isinstance(alignments, Path) and record.before is not None:
            # Also where the report says unchanged: an attempt before the last one may have saved what this one found.
            saving = Saving(record, self._keep)
            modern = report.alignments_version >= 2.0
            report.backup = saving.replace(alignments, job.alignments(), modern=modern)
            if report.backup is not None and not changed:
                report.hashes_changed = report.hashes_updated
        elif self.wish.alignments_out is not None:
            put_beside(Path(self.wish.alignments_out), job.alignments())
            report.notes.append(f"the alignments file with its hashes is {self.wish.alignments_out}.")
        elif changed:
            report.notes.append(
                f"the alignments file with its hashes is {self.client.url}/v1/jobs/{job.id}/alignments; "
                "--alignments-out FILE brings it here."
            )

    def _check_places(self) -> None:
        """
        Raises:
            OutputError: if the result could not be saved.
        """
        alignments, out = self.inputs.alignments, self.wish.alignments_out
        path = alignments if isinstance(alignments, Path) else None if out is None else Path(out)
        if path is not None and self.wish.updates and not self.wish.writes_nothing:
            check_writable(path)


def _take_folder(folder: Path) -> None:
    """Make the faces folder, or see that it is empty.

    Raises:
        OutputError: if it is not, or cannot be made.
    """
    if exists(folder):
        raise OutputError(f"the faces folder {folder} holds a run of its own; name another folder.")
    prepare_folder(folder, resume=False)


@contextmanager
def _goes_on(text: str) -> Iterator[None]:
    """Have whoever interrupts hear what follows from it."""
    try:
        yield
    except InterruptedRunError as error:
        raise InterruptedRunError(text, error.exit_code) from None


def _id_of(frames: Place | None, words: Any) -> str:
    """A job's id, the same for the same words, in which a person knows the footage again."""
    name = frames.path if isinstance(frames, InRoot) else str(frames)
    stem = _NOT_IN_IDS.sub("-", Path(name).stem.lower()).strip("-")[:40].strip("-") or "job"
    digest = hashlib.blake2b(json.dumps(words, sort_keys=True).encode(), digest_size=6).hexdigest()
    return f"{stem}-{digest}"


def _is_empty(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except OSError:
        return True
