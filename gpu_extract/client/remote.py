"""A service elsewhere, and its jobs, as Python has them."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from gpu_extract.client.arrived import Arrived
from gpu_extract.client.events import ENDED, follow, tell
from gpu_extract.client.fetch import Fetching
from gpu_extract.client.packing import Packed
from gpu_extract.client.server import PATIENCE_SECONDS, Server, quoted, read_whole
from gpu_extract.client.uploads import Source, forget, send, upload
from gpu_extract.errors import GpuExtractError, InputError, InterruptedRunError, UsageError
from gpu_extract.options import ROOT_PLACE
from gpu_extract.reports.extraction import Report
from gpu_extract.run.progress import Listener, Silent

MOST_ALIGNMENTS = 4 << 30
GONE_WELL = ("succeeded", "partial")
TAKEN = 409


@dataclass(frozen=True)
class InRoot:
    """A file or folder of one of the server's roots: `ROOT:path` in words."""

    root: str
    path: str

    @classmethod
    def of(cls, text: str | os.PathLike[str]) -> InRoot | None:
        """What a word names on the server; None where there is a file of that name here, or it names none there."""
        match = ROOT_PLACE.fullmatch(os.fspath(text))
        return None if match is None or os.path.lexists(text) else cls(match[1], match[2])

    def __str__(self) -> str:
        return f"{self.root}:{self.path}"


class Client:
    """A service, asked by one thread at a time.

    >>> client = Client("http://gpu-box:8080", token)
    >>> job = client.submit("alignments.fsa", "clip.mp4", options={"size": 512})
    >>> job.wait()
    >>> job.fetch("faces/")

    Args:
        url: of the service; `#token=…` behind it is understood.
        token: by which it knows who asks.
        patience: seconds that it may be away before an error says so.
        note: told what a person should know meanwhile.

    Raises:
        UsageError: for an address or a token that cannot be one. Every method raises GpuExtractError of the kind that
            `extract` would, with the service's own sentence.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        patience: float = PATIENCE_SECONDS,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.server = Server(url, token, patience=patience, note=note)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; the next question makes another."""
        self.server.close()

    @property
    def url(self) -> str:
        """Without the token."""
        return str(self.server.address)

    def upload(self, path: str | os.PathLike[str], known: str | None = None) -> str:
        """Send a file, or a folder of images as one tar; returns the upload's id, by which a later call goes on as
        `known`."""
        path = Path(path)
        return self.send(Packed(path), known) if path.is_dir() else upload(self.server, path, known)

    def send(self, source: Source, known: str | None = None) -> str:
        """As `upload`, of what is no file."""
        return send(self.server, source, known)

    def submit(
        self,
        alignments: str | os.PathLike[str] | InRoot,
        frames: str | os.PathLike[str] | InRoot,
        *,
        options: Mapping[str, Any] | None = None,
        job: str | None = None,
        shards: Literal["auto"] | int = "auto",
        priority: int = 0,
    ) -> Job:
        """Upload what is here and make a job of it.

        Args:
            alignments: a file here, or of a root.
            frames: a video or a folder of images here, or of a root.
            options: of `extract`, by name.
            job: its id; the same again with the same request is the same job.
            shards: in how many parts it is cut.
            priority: -100 to 100; higher goes first.
        """
        chosen = {} if options is None else dict(options)
        asked: dict[str, Any] = {"options": chosen, "shards": shards, "priority": priority}
        for name, place in (("alignments", alignments), ("frames", frames)):
            if isinstance(place, InRoot):
                asked[name] = in_root(place)
            else:
                asked[name] = {"upload": self.upload(place)}
        made = self.put(job or secrets.token_hex(8), asked)
        if made is None:
            raise UsageError(f"there is another job {job}; take another id.")
        return made

    def put(self, job: str, asked: Mapping[str, Any]) -> Job | None:
        """Make a job of a request as the service wants it; None where its id is another's."""
        answer = self.server.ask("PUT", f"/v1/jobs/{quoted(job)}", body=asked, allowed=(TAKEN,))
        return None if answer.status == TAKEN else Job.of(self.server, answer.json())

    def job(self, job: str) -> Job:
        """How a job stands."""
        return Job.of(self.server, self.server.ask("GET", f"/v1/jobs/{quoted(job)}").json())

    def find(self, job: str) -> Job | None:
        """How a job stands; None where there is none."""
        answer = self.server.ask("GET", f"/v1/jobs/{quoted(job)}", allowed=(404,))
        return None if answer.status == 404 else Job.of(self.server, answer.json())

    def jobs(self) -> Iterator[Job]:
        """All that the token may see, the newest first."""
        after = ""
        while True:
            found = self.server.ask("GET", f"/v1/jobs?limit=200{after}").json()
            if not isinstance(found, dict) or not isinstance(found.get("jobs"), list):
                raise InputError("the server's list of jobs is not understood.")
            yield from (Job.of(self.server, said) for said in found["jobs"])
            if not isinstance(found.get("next"), str):
                return
            after = f"&after={quoted(found['next'])}"

    def forget(self, upload_id: str) -> None:
        """Have the service remove an upload; jobs that were made of it keep it."""
        forget(self.server, upload_id)


@dataclass
class Job:
    """A job as the service told it last.

    Attributes:
        state: "queued", "running", "finishing", "succeeded", "partial", "failed", "cancelling" or "cancelled".
        said: all that the service says of it.
    """

    server: Server
    id: str
    state: str
    said: dict[str, Any] = field(repr=False)

    @classmethod
    def of(cls, server: Server, said: Any) -> Job:
        """
        Raises:
            InputError: if the answer is none of a job.
        """
        if not isinstance(said, dict) or not all(isinstance(said.get(name), str) for name in ("id", "state")):
            raise InputError("the server's answer is no job; is the address that of gpu-extract?")
        return cls(server, said["id"], said["state"], said)

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED

    def refresh(self) -> None:
        """Ask how it stands."""
        found = Job.of(self.server, self.server.ask("GET", self._path).json())
        self.state, self.said = found.state, found.said

    def wait(self, listener: Listener | None = None) -> None:
        """Wait until it has ended, however.

        Args:
            listener: told of it as of a run that goes on here, see `gpu_extract.run.progress`; `Planned.faces` is 0.
        """
        tell(follow(self.server, self.id), listener or Silent())
        self.refresh()

    def cancel(self) -> None:
        """Have it end within seconds; `resume` goes on with it."""
        self._change("cancel")

    def resume(self) -> None:
        """Go on with one that was cancelled, has failed, or has frames that failed."""
        self._change("resume")

    def fetch(self, folder: str | os.PathLike[str]) -> None:
        """Bring its faces into a folder that is empty or not there yet, as if the run had been here.

        Raises:
            GpuExtractError: also where the job has not ended well, see `check`.
        """
        from gpu_extract.run.folder import prepare_folder

        self.check()
        prepare_folder(Path(folder), resume=False)
        fetching = Fetching(self.server, self.id, Path(folder), Arrived(Path(folder)))
        fetching.catch_up()
        fetching.finish()

    def check(self) -> None:
        """
        Raises:
            GpuExtractError: if it has not ended with a result, of the kind and with the sentence of its run.
        """
        if self.state in GONE_WELL:
            return
        if self.state == "failed":
            from gpu_extract.client.server import KIND_OF_EXIT

            code = self.said.get("exit_code")
            kind = KIND_OF_EXIT.get(code, GpuExtractError) if isinstance(code, int) else GpuExtractError
            raise kind(f"the job {self.id} failed: {self.said.get('error') or 'no reason is given'}")
        if self.state == "cancelled":
            raise InterruptedRunError(f"the job {self.id} was cancelled; run the same command again to go on with it.")
        raise UsageError(f"the job {self.id} is {self.state}; wait for its end.")

    def report(self) -> Report:
        """The report of its run.

        Raises:
            InputError: if it has none, or one that is not understood.
        """
        return TheirReport.of(self.server.ask("GET", f"{self._path}/report").json())

    def alignments(self) -> bytes:
        """The alignments file, with the hashes of this run once it has succeeded."""
        from gpu_extract.client.server import CutError

        while True:
            try:
                with self.server.stream("GET", f"{self._path}/alignments") as answer:
                    return read_whole(answer, MOST_ALIGNMENTS)
            except CutError as error:
                self.server.wait_out(error)

    @property
    def _path(self) -> str:
        return f"/v1/jobs/{quoted(self.id)}"

    def _change(self, how: str) -> None:
        found = Job.of(self.server, self.server.ask("POST", f"{self._path}/{how}").json())
        self.state, self.said = found.state, found.said


class TheirReport(Report):
    """The report of a run elsewhere; its versions are those of that machine."""

    told_versions: dict[str, str]

    @classmethod
    def of(cls, said: Any) -> Report:
        """
        Raises:
            InputError: if it is no report.
        """
        usual = Report()
        if not isinstance(said, dict):
            raise InputError("the server's answer is no report.")
        found = {name: value for name, value in said.items() if name in vars(usual)} | {"next": ""}  # not for here
        for name, value in found.items():
            if not _fits(vars(usual)[name], value):
                raise InputError(f"the server's report says {str(value)[:100]!r} for {name}, which is not understood.")
        report = cls(**found)
        versions = said.get("versions")
        report.told_versions = versions if isinstance(versions, dict) else {}
        if not all(isinstance(one, dict) and {"frame", "index", "reason"} <= one.keys() for one in report.errors):
            raise InputError("the server's report lists failures that are not understood.")
        for one in report.errors:
            one["frame"], one["reason"] = str(one["frame"]), str(one["reason"])
        report.notes = [str(note) for note in report.notes]
        report.confinement = [str(limit) for limit in report.confinement]
        return report

    @property
    def versions(self) -> dict[str, str]:
        return self.told_versions


def _fits(usual: Any, value: Any) -> bool:
    """Whether a value is of the kind that a report has there; what may be None may be a number or a text."""
    if usual is None:
        return value is None or isinstance(value, int | float | str)
    if isinstance(usual, float):
        return isinstance(value, int | float)
    return isinstance(value, type(usual))


def in_root(place: InRoot) -> dict[str, str]:
    """As a request has it."""
    return {"root": place.root, "path": place.path}
