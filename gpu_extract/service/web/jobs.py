"""`/v1/jobs`: make, list, look at, cancel, resume and remove jobs."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, BinaryIO
from urllib.parse import quote

from fastapi import APIRouter, Depends, Header, Query, Response
from fastapi.responses import PlainTextResponse

from gpu_extract.errors import InputError
from gpu_extract.service.access import Caller
from gpu_extract.service.folders import REPORT, JobFolder, is_job_id
from gpu_extract.service.office import Office
from gpu_extract.service.problems import Problem
from gpu_extract.service.requests import JobRequest
from gpu_extract.service.requests import Request as Wanted
from gpu_extract.service.table import QUEUED, Job
from gpu_extract.service.web.answers import WITH_A_BODY, WITH_JSON, problems, sent, told
from gpu_extract.service.web.documents import Job as JobDocument
from gpu_extract.service.web.documents import Jobs, State
from gpu_extract.service.web.guard import needs
from gpu_extract.service.web.pieces import Pieces
from gpu_extract.storage.inputs import open_input

Reader = Annotated[Caller, Depends(needs("read"))]
Submitter = Annotated[Caller, Depends(needs("submit"))]
MOST_LISTED = 200
MOST_LOG_LINES = 10_000
LOG_BYTES = 4 << 20
SENT_BYTES = 1 << 18


def router(office: Office) -> APIRouter:
    """The routes of one office."""
    routes = APIRouter(prefix="/v1", tags=["jobs"])

    @routes.post("/jobs", status_code=201, **told(JobDocument, 404, 409, 429, *WITH_JSON, statuses=(200, 201)))
    def create(
        wanted: JobRequest,
        who: Submitter,
        response: Response,
        key: str | None = Header(None, alias="Idempotency-Key", pattern="^[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?$"),
    ) -> dict[str, Any]:
        """Make a job under an id of the service's, or of `Idempotency-Key`."""
        return _made(office, wanted, who, key, response)

    @routes.put("/jobs/{job}", status_code=201, **told(JobDocument, 404, 409, 429, *WITH_JSON, statuses=(200, 201)))
    def put(job: str, wanted: JobRequest, who: Submitter, response: Response) -> dict[str, Any]:
        """Make a job under an id of the client's; the same again is the same job, 200."""
        return _made(office, wanted, who, job, response)

    @routes.get("/jobs", **told(Jobs))
    def jobs(
        who: Reader,
        state: State | None = None,
        after: str | None = None,
        limit: int = Query(50, ge=1, le=MOST_LISTED),
    ) -> dict[str, Any]:
        """The newest first; `next`, where there are more, is `after` of the next page."""
        owner = None if who.may("admin") else who.name
        found = office.table.jobs(owner=owner, state=state, after=_cursor(after), limit=limit + 1)
        more = _as_cursor(found[limit - 1]) if len(found) > limit else None
        return {"jobs": [shown(office, job) for job in found[:limit]], "next": more}

    @routes.get("/jobs/{job}", **told(JobDocument, 404))
    def job(job: str, who: Reader) -> dict[str, Any]:
        """How a job stands."""
        return shown(office, job_of(office, job, who))

    @routes.post("/jobs/{job}/cancel", status_code=202, **told(JobDocument, 404, *WITH_A_BODY, statuses=(202,)))
    def cancel(job: str, who: Submitter) -> dict[str, Any]:
        """Have it end, within seconds; what it has made stays."""
        office.cancel(job_of(office, job, who))
        return shown(office, job_of(office, job, who))

    @routes.post(
        "/jobs/{job}/resume", status_code=202, **told(JobDocument, 404, 409, 429, *WITH_A_BODY, statuses=(202,))
    )
    def resume(job: str, who: Submitter) -> dict[str, Any]:
        """Go on with one that was cancelled, has failed, or has frames that failed; one that succeeded stays so."""
        office.resume(job_of(office, job, who), who.jobs)
        return shown(office, job_of(office, job, who))

    @routes.delete("/jobs/{job}", status_code=204, responses=problems(404, 409, *WITH_A_BODY))
    def remove(job: str, who: Submitter) -> None:
        """Remove one that has ended, with its faces."""
        office.remove(job_of(office, job, who))

    @routes.get("/jobs/{job}/request", **told(JobRequest, 404))
    def request(job: str, who: Reader) -> dict[str, Any]:
        """What it was made of: sent again under another id, it makes the like."""
        return Wanted.of(job_of(office, job, who).request).asked

    @routes.get("/jobs/{job}/report", **sent("application/json", refused=(404,)))
    def report(job: str, who: Reader) -> Response:
        """The report of its run, as `gpu-extract extract --json` writes it."""
        folder = office.data.job(job_of(office, job, who).id)
        with _own_files(office, folder):
            found = folder.record(REPORT)
        if found is None:
            raise Problem(404, f"the job {job} has no report yet.")
        found |= {"next": ""}  # of the service's own process
        text = office.shown(json.dumps(found, ensure_ascii=False), folder)
        return Response(json.dumps(json.loads(text)), media_type="application/json")

    @routes.get("/jobs/{job}/log", **sent("text/plain", refused=(404,)))
    def log(job: str, who: Reader, tail: int = Query(100, ge=1, le=MOST_LOG_LINES)) -> PlainTextResponse:
        """The last lines of what its processes said."""
        folder = office.data.job(job_of(office, job, who).id)
        if not folder.log.is_file():
            return PlainTextResponse("")
        with _own_files(office, folder), open_input(folder.log, "the log") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - LOG_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()[-tail:]
        return PlainTextResponse(office.shown("\n".join([*lines, ""]), folder))

    @routes.get("/jobs/{job}/alignments", **sent("application/octet-stream", refused=(404,)))
    def alignments(job: str, who: Reader) -> Pieces:
        """The alignments file, with the hashes of this run once it has succeeded."""
        found = job_of(office, job, who)
        path = office.data.job(found.id).path / Wanted.of(found.request).alignments
        try:
            file = open_input(path, "the alignments file")  # one to its end, also where it is replaced meanwhile
        except InputError:
            raise Problem(404, f"the alignments file of the job {job} is gone.") from None
        headers = {
            "Content-Length": str(os.fstat(file.fileno()).st_size),
            "Content-Disposition": attachment(path.name),
        }
        return Pieces(_pieces(file), "application/octet-stream", headers)

    return routes


def attachment(name: str) -> str:
    """The Content-Disposition of a file of this name; twice, for curl knows the older form only."""
    plain = re.sub(r"[^ !#-\[\]-~]", "_", name)
    return f"attachment; filename=\"{plain}\"; filename*=utf-8''{quote(name, safe='')}"


@contextmanager
def _own_files(office: Office, folder: JobFolder) -> Iterator[None]:
    """While the service reads what it wrote itself: that it cannot is no fault of who asks."""
    try:
        yield
    except InputError as error:
        raise Problem(503, office.shown(str(error), folder)) from error


def job_of(office: Office, job: str, who: Caller) -> Job:
    """A job that the caller may see.

    Raises:
        Problem: 404 for one that is not there, or is somebody else's.
    """
    found = office.known(job)
    if found is None or (found.owner != who.name and not who.may("admin")):
        raise Problem(404, f"there is no job {job[:100]!r}.")
    return found


def _made(office: Office, wanted: JobRequest, who: Caller, key: str | None, response: Response) -> dict[str, Any]:
    job, is_new = office.create(wanted, who.name, key, who.jobs)
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return shown(office, job)


def shown(office: Office, job: Job) -> dict[str, Any]:
    """A job as clients see it."""
    wanted = Wanted.of(job.request)
    link = f"/v1/jobs/{job.id}"
    links = ["events", "faces", "faces.tar", "alignments", "log", "request"]
    if office.data.job(job.id).report.is_file():
        links.append("report")
    return {
        "id": job.id,
        "state": job.state,
        **office.progress(job),
        "position": (office.table.place_of(job) or None) if job.state == QUEUED else None,  # it may run by now
        "error": job.error,
        "note": job.note,
        "exit_code": job.exit_code,
        "inputs": wanted.shown,
        "options": wanted.options,
        "owner": job.owner,
        "priority": job.priority,
        "shards": office.shards(job),
        "created": job.created,
        "started": job.started,
        "ended": job.ended,
        "rev": job.rev,
        "links": {name: f"{link}/{name}" for name in links},
    }


def _pieces(file: BinaryIO) -> Generator[bytes, None, None]:
    with file:
        while piece := file.read(SENT_BYTES):
            yield piece


def _as_cursor(job: Job) -> str:
    return base64.urlsafe_b64encode(json.dumps([job.created, job.id]).encode()).decode()


def _cursor(text: str | None) -> tuple[float, str] | None:
    if text is None:
        return None
    try:
        created, job = json.loads(base64.urlsafe_b64decode(text.encode()))
        if isinstance(created, float) and isinstance(job, str) and is_job_id(job):
            return created, job
    except (ValueError, TypeError, RecursionError):
        pass
    raise Problem(422, "after is not what an answer had as next.")
