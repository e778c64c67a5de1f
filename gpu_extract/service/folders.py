"""Where a service keeps what. The folders are the truth: the table is made anew from them when it is gone.

<data>/service.sqlite  tokens.toml  service.lock
<data>/uploads/
<data>/jobs/<id>/request.json   what was asked for, by whom, when
                 outcome.json   how it ended, once it did
                 report.json    of the run
                 log.txt        what its processes said
                 in/            the alignments file, which is updated, and frames that were uploaded
                 packed/        the tar of these, until they are unpacked
                 faces/
<data>/cache/
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_extract.errors import InputError, OutputError
from gpu_extract.service.table import ENDED, FAILED
from gpu_extract.storage.atomic import sync_file, sync_folder, write_whole
from gpu_extract.storage.inputs import open_input

REPORT = "report.json"
ASIDE = ".removed-"
"""How the name of a folder begins that is no job any more."""
LOST = "how it ended cannot be read any more; resume it, and what is there is not done again."
"""The error of a job whose outcome.json is damaged."""
JOB_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")


def is_job_id(text: str) -> bool:
    """Whether a text may be a job's id: 1 to 64 of a to z, 0 to 9, and - inside."""
    return JOB_ID.fullmatch(text) is not None


@dataclass(frozen=True)
class Data:
    """The folder of a service."""

    path: Path

    @property
    def table(self) -> Path:
        return self.path / "service.sqlite"

    @property
    def tokens(self) -> Path:
        return self.path / "tokens.toml"

    @property
    def lock(self) -> Path:
        return self.path / "service.lock"

    @property
    def uploads(self) -> Path:
        return self.path / "uploads"

    @property
    def cache(self) -> Path:
        return self.path / "cache"

    def kernels_of(self, owner: str) -> Path:
        """Where processes of an owner's jobs keep the kernels that they compile; it is made if need be.

        Each writes there what the next one runs, so nobody else's do.
        """
        path = self.cache / "triton" / hashlib.sha256(owner.encode()).hexdigest()[:16]
        path.mkdir(parents=True, exist_ok=True)
        return path

    def job(self, job: str) -> JobFolder:
        assert is_job_id(job)
        return JobFolder(self.path / "jobs" / job)

    def jobs(self) -> Iterator[tuple[str, JobFolder]]:
        """All that were begun, by their ids."""
        with suppress(FileNotFoundError):
            for path in (self.path / "jobs").iterdir():
                if is_job_id(path.name) and JobFolder(path).exists:
                    yield path.name, JobFolder(path)

    def clear(self) -> None:
        """Remove what was put aside."""
        for path in (self.path / "jobs").glob(f"{ASIDE}*"):
            shutil.rmtree(path, ignore_errors=True)

    def put_aside_rest(self) -> None:
        """Put aside what a kill or a power cut left of jobs that were being made or removed; before any is made."""
        for path in list((self.path / "jobs").iterdir()):
            if is_job_id(path.name) and not JobFolder(path).exists:
                JobFolder(path).put_aside()

    def make(self) -> None:
        for path in (self.path / "jobs", self.uploads, self.cache):
            path.mkdir(parents=True, exist_ok=True)


@dataclass(frozen=True)
class JobFolder:
    """The folder of one job."""

    path: Path

    @property
    def faces(self) -> Path:
        return self.path / "faces"

    @property
    def inputs(self) -> Path:
        return self.path / "in"

    @property
    def frames(self) -> Path:
        """Of frames that were uploaded."""
        return self.inputs / "frames"

    @property
    def packed(self) -> Path:
        """Of the tar that they came in."""
        return self.path / "packed"

    @property
    def report(self) -> Path:
        return self.path / REPORT

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def exists(self) -> bool:
        """Whether it was begun: a power cut may leave the name of a request, and not what was asked for.

        What cannot be looked at, as another user's, is not to be taken for nothing.
        """
        try:
            return (self.path / "request.json").stat().st_size > 0
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True

    def begin(self, request: dict[str, Any], inputs: Sequence[Path]) -> None:
        """Record what was asked for; the job is known from then on, and after a power cut.

        Args:
            inputs: files that were made for it and are perhaps not on the disk yet.

        Raises:
            OutputError: if the disk refuses.
        """
        try:
            # First its inputs: a request that is there is one that can be run.
            for path in inputs:
                sync_file(path)
            for folder in (self.frames, self.inputs, self.packed):
                sync_folder(folder)
            fresh = self.path / "request.json.new"
            fresh.write_bytes(_as_json(request))
            fresh.rename(self.path / "request.json")  # before it is flushed: bytes and name take one flush together
            sync_file(self.path / "request.json")
            sync_folder(self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            raise OutputError(f"the job's folder cannot be made: {error.strerror}.") from error

    def request(self) -> dict[str, Any]:
        """What was asked for; raises InputError if it cannot be read."""
        found = _read(self.path / "request.json")
        if found is None:
            raise InputError(f"the job in {self.path} has no request.json.")
        return found

    def end(self, outcome: dict[str, Any]) -> None:
        """Record how the job ended; raises OutputError if the disk refuses."""
        write_whole(self.path / "outcome.json", [_as_json(outcome)])

    def go_on(self) -> None:
        """Forget how it ended, for it goes on."""
        (self.path / "outcome.json").unlink(missing_ok=True)
        sync_folder(self.path)

    @property
    def has_ended(self) -> bool:
        return (self.path / "outcome.json").is_file()

    def outcome(self) -> dict[str, Any] | None:
        """How the job ended, None where it did not; where that cannot be read it is a failure, which can be resumed."""
        path = self.path / "outcome.json"
        if not os.path.lexists(path):
            return None
        found = self.record_if_whole(path.name)
        if found is not None and _is_outcome(found):
            return found
        return {"state": FAILED, "error": LOST, "exit_code": InputError.exit_code, "ended": path.lstat().st_mtime}

    def record_if_whole(self, name: str) -> dict[str, Any] | None:
        """The same, and None where it is not whole."""
        with suppress(InputError):
            return self.record(name)
        return None

    def shown(self, sentence: str, roots: Mapping[str, str]) -> str:
        """A sentence of a job's process, with the names that the client knows instead of this machine's paths."""
        for path in (self.frames, self.inputs, self.faces, self.path):
            sentence = sentence.replace(f"{path}/", "").replace(str(path), path.name)
        for name, root in roots.items():
            real = str(Path(root).resolve())
            sentence = sentence.replace(f"{real}/", f"{name}:").replace(real, f"{name}:")
        return sentence

    def record(self, name: str) -> dict[str, Any] | None:
        """Another file of its folder, None where there is none; raises InputError if it is not whole."""
        return _read(self.path / name)

    def put_aside(self) -> Path:
        """Have it be no job any more, at once and for good, however much it holds; returns where it is then.

        Raises:
            OutputError: if the disk refuses.
        """
        aside = self.path.with_name(f"{ASIDE}{self.path.name}-{secrets.token_hex(8)}")
        try:
            self.path.rename(aside)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise OutputError(f"the job's folder cannot be removed: {error.strerror}.") from error
            (self.path / "request.json").unlink(missing_ok=True)  # a longer name needs room that there may not be
            sync_folder(self.path)
            return self.path
        sync_folder(aside.parent)
        return aside


def _is_outcome(found: dict[str, Any]) -> bool:
    return (
        found.keys() == {"state", "error", "exit_code", "ended"}
        and found["state"] in ENDED
        and isinstance(found["error"], str | None)
        and isinstance(found["exit_code"], int | None)
        and isinstance(found["ended"], int | float)
    )


def _as_json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=1).encode()


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    with open_input(path, "a record of a job") as file:
        try:
            found = json.load(file)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} is not whole: {error}.") from error
    return found if isinstance(found, dict) else None
