"""`submit`: a run on a server as if it were one here: upload, wait, fetch the faces, save the alignments file.

Whatever cuts it – the network, a sleeping machine, a kill, a restart of the server – the same command goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_extract.client.fetch import fetch
from gpu_extract.client.memory import Memory, Record, identity
from gpu_extract.client.packing import Packed
from gpu_extract.client.remote import Client, InRoot, Job, TheirReport, in_root
from gpu_extract.client.server import PATIENCE_SECONDS
from gpu_extract.client.uploads import begin
from gpu_extract.errors import (
    EXIT_OK,
    EXIT_PARTIAL,
    AlignmentsChangedError,
    InputError,
    InterruptedRunError,
    OutputError,
    UsageError,
)
from gpu_extract.naming import url_of
from gpu_extract.options import SERVER_DECIDES, TOKEN_VARIABLE, Settings, option, options
from gpu_extract.reports.base import check_target, write_report
from gpu_extract.reports.extraction import Report
from gpu_extract.run.folder import prepare_folder
from gpu_extract.run.journal import exists
from gpu_extract.run.progress import Listener, Note, Progress, listener_for
from gpu_extract.storage.atomic import backup_copy, digest_of, locked, new_digest, write_new, write_whole
from gpu_extract.storage.inputs import open_input

STAYS_HERE = ("alignments", "frames", "faces", "json", "progress", "no_update", "partial_ok", *SERVER_DECIDES)
"""Options of `extract` that the server is not told."""
TRIES = 3
"""Of an id that another job may have."""
CANCELLING_SECONDS = 0.2
"""Between looks at a job that is coming to its end."""
MOST_TOKEN = 4096
_NOT_IN_IDS = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What `submit` was asked for.

    Attributes:
        values: of the options of `extract`, by name.
        job: the id of a job that was submitted before, of which only the result is wanted.
        detach: come back as soon as the server has the job.
        alignments_out: where to put an alignments file that is the server's.
    """

    url: str
    values: Mapping[str, Any]
    token_file: str | None = None
    job: str | None = None
    detach: bool = False
    patience: float = PATIENCE_SECONDS
    cancel_on_interrupt: bool = False
    alignments_out: str | None = None
    priority: int = 0


def submit(wish: Wish) -> Report | str:
    """Have a server do what `extract` does; returns the report, or the job's id where it is not waited for.

    Raises:
        GpuExtractError: of the kind that `extract` would raise.
    """
    values = wish.values
    listener = listener_for(values.get("progress", "auto"))
    if values.get("json") is not None:
        check_target(Report, values["json"])
    with Progress(listener) as progress:
        with Client(wish.url, _token(wish), patience=wish.patience, note=progress.note) as client:
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
        values = wish.values
        self.faces = _here(values["faces"], "faces")
        self.updates = not values.get("no_update")
        self.alignments: Path | InRoot | None = None
        self.frames: Path | InRoot | None = None
        if wish.job is None:
            Settings(**{name: value for name, value in values.items() if name not in SERVER_DECIDES})
            self.alignments, self.frames = _place(values["alignments"]), _place(values["frames"])
        elif values.get("alignments") is not None:
            self.alignments = _place(values["alignments"])
        if isinstance(self.alignments, Path) and wish.alignments_out is not None:
            raise UsageError("alignments-out is for an alignments file of the server's; a file here is updated itself.")

    def run(self) -> Report | str:
        self._check_places()
        known = None if self._writes_nothing else self.memory.record(self.faces)
        if known is not None and known.report is not None and self._is_done(known):
            return TheirReport.of(known.report)
        record = self._earlier(known)
        if record is None:
            self._check_alignments_out()
            record = self._new()
        with _goes_on("interrupted; the same command goes on."):
            if not record.begun and not self._writes_nothing:
                _take_folder(self.faces)
            job, record = self._at_work(record)
        if self.wish.detach:
            return job.id
        self._wait(job)
        job.check()
        with _goes_on("interrupted; the same command goes on fetching."):
            return self._bring(job, record)

    # ---- what is remembered

    @property
    def _writes_nothing(self) -> bool:
        return bool(self.wish.values.get("dry_run"))

    def _keep(self, record: Record) -> None:
        if not self._writes_nothing:
            self.memory.keep(self.faces, record)

    def _note(self, text: str) -> None:
        self.listener(Note(text))

    def _command(self) -> dict[str, Any]:
        """What was asked for, by which the same command knows itself again."""
        if self.wish.job is not None:
            return {"url": self.client.url, "job": self.wish.job}
        return {
            "url": self.client.url,
            "alignments": _named(self.alignments),
            "frames": _named(self.frames),
            "frames_are": _identities(self.frames),
            "options": self._options(),
        }

    def _options(self) -> dict[str, Any]:
        rows = {row.name: row for row in options("extract")}
        return {
            name: value
            for name, value in self.wish.values.items()
            if name in rows and name not in STAYS_HERE and value != rows[name].default
        }

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
            if known.before is not None and self.alignments is None:
                self.alignments = Path(known.command["alignments"])
            if not known.sent and isinstance(self.alignments, Path):
                known.before = digest_of(self.alignments).hex()
            return known
        if known.begun and known.report is None and not _is_empty(self.faces):
            raise OutputError(
                f"the faces folder {self.faces} is being filled by the job {known.job}, which was asked for otherwise; "
                "name another folder, or remove that one."
            )
        return None

    def _is_of(self, known: Record) -> bool:
        return known.command == self._command() if self.wish.job is None else known.job == self.wish.job

    def _is_done(self, known: Record) -> bool:
        """Whether all that the command wants is here already, as it was left."""
        if not self._is_of(known) or not exists(self.faces):
            return False
        return not isinstance(self.alignments, Path) or digest_of(self.alignments).hex() in (known.before, known.after)

    def _new(self) -> Record:
        before = self._digest()
        command = self._command()
        job = self.wish.job or _id_of(self.frames, [command, before, os.path.realpath(self.faces)])
        folder = isinstance(self.frames, Path) and self.frames.is_dir()
        record = Record(
            command,
            job,
            sent=self.wish.job is not None,
            before=before if self.wish.job is None else None,
            frames_folder=self.frames.name if folder and isinstance(self.frames, Path) else None,
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
            if record.before is None or self._digest() == record.before:
                job.resume()
            else:
                self._note(f"{self.alignments} was changed since the job {job.id}, which is {job.state}.")
                record, job = self._new(), None
        if job is None and self.wish.job is not None:
            raise InputError(f"{self.client.url} has no job {record.job}; it may have been removed.")
        if job is None:
            if record.sent:
                self._note(f"the server has no job {record.job} any more; it is made again.")
                record.sent, record.fetched, record.before = False, 0, self._digest()
            job = self._put(record)
            if job.state in ("failed", "cancelled"):  # of an earlier command that is not remembered
                job.resume()
            record.sent = True
            self._keep(record)
            self._forget_folder()
        return job, record

    def _digest(self) -> str | None:
        """Of the alignments file as it is now; None where it is none of this machine."""
        return digest_of(self.alignments).hex() if isinstance(self.alignments, Path) else None

    def _put(self, record: Record) -> Job:
        asked = {
            "alignments": self._sent(self.alignments, record),
            "frames": self._sent(self.frames),
            "options": self._options(),
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

    def _sent(self, place: Path | InRoot | None, record: Record | None = None) -> dict[str, Any]:
        """An input as a request has it, once it is on the server."""
        if isinstance(place, InRoot):
            return in_root(place)
        assert place is not None
        found = self._upload(place)
        if record is not None and digest_of(place).hex() != record.before:
            raise InputError(f"{place} changed while it was uploaded; run the same command again.")
        return {"upload": found}

    def _upload(self, path: Path) -> str:
        packed = Packed(path) if path.is_dir() else None
        known_by = identity(path) if packed is None else packed.identity
        known = self.memory.upload(self.client.url, path, known_by)
        if known is None:
            name, size = (path.name, known_by[1]) if packed is None else (packed.name, packed.size)
            known = begin(self.client.server, name, size)
            self.memory.keep_upload(self.client.url, path, known_by, known)
        found = self.client.upload(path, known) if packed is None else self.client.send(packed, known)
        if found != known:
            self.memory.keep_upload(self.client.url, path, known_by, found)
        return found

    def _forget_folder(self) -> None:
        """What a server has of a folder is the job's by now, and would lie there twice for a day."""
        if isinstance(self.frames, Path) and self.frames.is_dir():
            known = self.memory.upload(self.client.url, self.frames, identity(self.frames))
            if known is not None:
                self.client.forget(known)

    def _wait(self, job: Job) -> None:
        try:
            job.wait(self.listener)
        except InterruptedRunError as error:
            if self.wish.cancel_on_interrupt:
                job.cancel()
                text = f"interrupted, and the job {job.id} is cancelled; the same command goes on with it."
            else:
                text = f"interrupted; the job {job.id} goes on at {self.client.url}, the same command fetches it."
            raise InterruptedRunError(text, error.exit_code) from None

    # ---- its result

    def _bring(self, job: Job, record: Record) -> Report:
        report = job.report()
        report.faces_folder = os.fspath(self.faces)
        if not report.dry_run:
            if not record.begun:
                _take_folder(self.faces)
                record.begun = True
                self._keep(record)
            if not exists(self.faces):
                self._note(f"fetching {report.faces_written:,} faces.")
                fetch(
                    self.client.server,
                    job.id,
                    self.faces,
                    begun=record.fetched,
                    settled=lambda count: self._settled(record, count),
                    source_name=record.frames_folder,
                )
            self._save(job, record, report)
        record.report = report.to_dict()
        self._keep(record)
        return report

    def _settled(self, record: Record, count: int) -> None:
        record.fetched = count
        self._keep(record)

    def _save(self, job: Job, record: Record, report: Report) -> None:
        """Do with the alignments file what a run here would have done."""
        changed = report.hashes_changed or report.thumbs_refreshed
        report.backup = None
        if not self.updates:
            report.hashes_updated = report.hashes_changed = 0
            return
        if isinstance(self.alignments, Path) and record.before is not None:
            if changed:
                self._replace(self.alignments, job.alignments(), record, report)
            return
        if self.wish.alignments_out is not None:
            self._put_beside(Path(self.wish.alignments_out), job.alignments())
            report.notes.append(f"the alignments file with its hashes is {self.wish.alignments_out}.")
        elif changed:
            report.notes.append(
                f"the alignments file with its hashes is {self.client.url}/v1/jobs/{job.id}/alignments; "
                "--alignments-out FILE brings it here."
            )

    def _replace(self, path: Path, data: bytes, record: Record, report: Report) -> None:
        """Put the new file in the old one's place, with a copy of that beside it.

        Raises:
            AlignmentsChangedError: if the file is no longer the one that was sent; it is left alone then.
            OutputError: if the disk refuses; it is untouched then.
        """
        digest = new_digest()
        digest.update(data)
        record.after = digest.hexdigest()
        with locked(path):
            if path.exists():
                found = digest_of(path).hex()
                if found == record.after:
                    report.backup = record.backup
                    return
                if found != record.before:
                    raise self._beside(path, data, record)
                self._back_up(path, record, report)
            try:
                write_whole(path, [data], before_replace=lambda: _check_unchanged(path, record))
            except _ChangedMeanwhileError:
                raise self._beside(path, data, record) from None
        report.backup = record.backup

    def _back_up(self, path: Path, record: Record, report: Report) -> None:
        if record.backup is not None:
            with suppress(InputError):
                if digest_of(Path(record.backup)).hex() == record.before:
                    return
        copied = new_digest()
        backup = backup_copy(path, modern=report.alignments_version >= 2.0, digest=copied)
        record.backup = None if backup is None else os.fspath(backup)
        self._keep(record)

    def _beside(self, path: Path, data: bytes, record: Record) -> AlignmentsChangedError:
        if record.unsaved is None or not Path(record.unsaved).exists():
            stamp = time.strftime("_unsaved_%Y%m%d_%H%M%S")
            record.unsaved = os.fspath(write_new(path, [data], suffix=stamp))
            self._keep(record)
        return AlignmentsChangedError(
            f"{path} was changed since it was sent, so it was not overwritten; what was to be saved is in "
            f"{Path(record.unsaved).name}."
        )

    def _put_beside(self, path: Path, data: bytes) -> None:
        """Write the server's file; one that is there is only taken for the same."""
        if path.exists():
            digest = new_digest()
            digest.update(data)
            if digest_of(path) != digest.digest():
                raise OutputError(f"{path} is there and something else; give --alignments-out another name.")
            return
        write_whole(path, [data])

    def _check_alignments_out(self) -> None:
        """
        Raises:
            OutputError: if there is a file of that name, before there can be ours.
        """
        out = self.wish.alignments_out
        if out is not None and os.path.lexists(out):
            raise OutputError(f"{out} is there already; give --alignments-out another name.")

    def _check_places(self) -> None:
        """Find out before hours of work that the result could not be saved.

        Raises:
            OutputError: if so.
        """
        if isinstance(self.alignments, Path):
            path = self.alignments
        elif self.wish.alignments_out is not None:
            path = Path(self.wish.alignments_out)
        else:
            return
        if self.updates and not self._writes_nothing:
            folder = Path(os.path.realpath(path)).parent
            if not os.access(folder, os.W_OK | os.X_OK):
                raise OutputError(
                    f"{path} cannot be saved, its folder is read-only; add --no-update to leave it as it is."
                )


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


class _ChangedMeanwhileError(Exception):
    """The file changed while its successor was being written."""


def _check_unchanged(path: Path, record: Record) -> None:
    if path.exists() and digest_of(path).hex() != record.before:
        raise _ChangedMeanwhileError


def _token(wish: Wish) -> str | None:
    """By which the server knows who asks; never from the command line, which others see.

    Raises:
        InputError: if the file cannot be read.
    """
    if wish.token_file is None:
        return os.environ.get(TOKEN_VARIABLE) or None
    with open_input(wish.token_file, "the token's file") as file:
        return file.read(MOST_TOKEN).decode("utf-8", "replace").strip()


def _place(word: str | os.PathLike[str]) -> Path | InRoot:
    """An input: a file or folder here, or `ROOT:path` of the server where there is none of that name here.

    Raises:
        UsageError: for the address of a bucket.
        InputError: if it is neither.
    """
    found = InRoot.of(word)
    if found is not None:
        return found
    path = _here(word, "what it uploads")
    if not path.exists():
        raise InputError(f"{path} does not exist; check its name and folder, or name a server's as ROOT:path.")
    return path


def _here(word: str | os.PathLike[str], what: str) -> Path:
    if (url := url_of(word)) is not None:
        raise UsageError(f"submit takes {what} of this machine only, not {url}.")
    return Path(word)


def _named(place: Path | InRoot | None) -> str:
    return str(place) if isinstance(place, InRoot) else os.path.realpath(str(place))


def _identities(place: Path | InRoot | None) -> Any:
    """By what frames are known again."""
    return identity(place) if isinstance(place, Path) else None


def _id_of(frames: Path | InRoot | None, words: Any) -> str:
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


def check_decides_itself(flags: Mapping[str, Any]) -> None:
    """Refuse what is named on the command line and is the server's to decide.

    Raises:
        UsageError: if something is.
    """
    for name in flags:
        if name in SERVER_DECIDES:
            raise UsageError(f"{option(name).flags[-1]}: the server decides that for its jobs; leave it out.")
