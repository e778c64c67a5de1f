"""`/v1/jobs/{job}/faces`: what a job has made: a list, single files, all in one archive."""

from __future__ import annotations

import hashlib
import json
import mimetypes
import os
import tarfile
from collections.abc import Generator
from contextlib import closing, suppress
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Body, Query, Request
from fastapi.responses import Response

from gpu_extract.naming import FACE_EXTENSIONS, has_extension
from gpu_extract.run import journal
from gpu_extract.service import feed
from gpu_extract.service.office import Office
from gpu_extract.service.problems import Problem
from gpu_extract.service.web.answers import WITH_JSON, sent
from gpu_extract.service.web.jobs import Reader, job_of
from gpu_extract.service.web.pieces import Pieces
from gpu_extract.storage.beneath import open_beneath
from gpu_extract.storage.descriptors import close_quietly

MOST_LISTED = 10_000
MOST_ASKED = 1000
BLOCK_BYTES = 1 << 20
SENT_BYTES = 1 << 18
SERVED = (*FACE_EXTENSIONS, ".tar", ".jsonl", ".parquet")
"""What a faces folder may hold for clients."""
SHA256 = "GPU_EXTRACT.sha256"
"""The header of a member that tells what its bytes are."""


def router(office: Office) -> APIRouter:
    """The routes of one office."""
    routes = APIRouter(prefix="/v1", tags=["faces"])

    @routes.get("/jobs/{job}/faces", **sent("application/x-ndjson", refused=(404,)))
    def faces(job: str, who: Reader, after: str = "", limit: int = Query(1000, ge=1, le=MOST_LISTED)) -> Response:
        """JSON lines, a face each: `file`, `frame`, `index`, `sha1`, `bytes`, and `archive` where it lies in one.

        `X-Next` is `after` of the next page.
        """
        found = job_of(office, job, who)
        if not feed.is_place(after):
            raise Problem(422, "after is not what an answer had as X-Next.")
        page = feed.read(office.data.job(found.id).faces, office.shard_count(found), after, limit)
        folder, archives = office.data.job(found.id).faces, dict[str, bool]()
        for face in page.faces:
            if (archive := _file_of(folder, face["file"], archives)) != face["file"]:
                face["archive"] = archive
        lines = "".join(json.dumps(face) + "\n" for face in page.faces)
        headers = {"X-Next": page.place, "X-Anew": str(page.anew).lower(), "X-More": str(page.more).lower()}
        return Response(lines, media_type="application/x-ndjson", headers=headers)

    @routes.get("/jobs/{job}/faces.tar", **sent("application/x-tar", refused=(404,)))
    def tar(job: str, who: Reader, skip: int = Query(0, ge=0)) -> Pieces:
        """Everything in the faces folder, in the order of the journal, which comes last.

        Args:
            skip: members, from the beginning, that the client has; only of a job that has ended.
        """
        found = job_of(office, job, who)
        folder = office.data.job(found.id).faces
        names = members(folder, office.shard_count(found))
        headers = {"Content-Disposition": f'attachment; filename="{found.id}-faces.tar"'}
        return Pieces(_gathered(_archive(folder, names, skip)), "application/x-tar", headers)

    @routes.post("/jobs/{job}/faces.tar", **sent("application/x-tar", refused=(404, *WITH_JSON)))
    def some(job: str, who: Reader, files: Annotated[list[str], Body(min_length=1, max_length=MOST_ASKED)]) -> Pieces:
        """Some files of the faces folder, in the order of their names in the request; those that are missing are left
        out.
        """
        found = job_of(office, job, who)
        names = [name for name in files if has_extension(name, SERVED) or name == journal.NAME]
        folder = office.data.job(found.id).faces
        return Pieces(_gathered(_archive(folder, names, 0)), "application/x-tar")

    @routes.get(
        "/jobs/{job}/faces/{path:path}",
        **sent("image/*", "application/octet-stream", refused=(404,), unchanged=True),
    )
    def face(job: str, path: str, request: Request, who: Reader) -> Response:
        """One file; its ETag is its SHA-256."""
        found = job_of(office, job, who)
        folder = office.data.job(found.id).faces
        handle = _served(folder, path)
        try:
            tag = f'"{_digest_of(handle)}"'
            headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
            if tag in request.headers.get("If-None-Match", ""):
                return Response(status_code=304, headers=headers)
            kind = mimetypes.guess_type(path)[0] if has_extension(path, FACE_EXTENSIONS) else None
            kind = kind or "application/octet-stream"
            size = os.fstat(handle).st_size
            if size <= BLOCK_BYTES:
                return Response(os.pread(handle, BLOCK_BYTES, 0), media_type=kind, headers=headers)
            headers["Content-Length"] = str(size)
            return Pieces(_blocks(folder, path, size), kind, headers)
        finally:
            close_quietly(handle)

    return routes


def members(folder: Path, shards: int) -> list[str]:
    """What an archive of a faces folder holds: faces as its journal names them, what lies beside them, the journal."""
    names: dict[str, None] = {}
    archives: dict[str, bool] = {}
    page = feed.Read(more=True)
    while page.more:
        page = feed.read(folder, shards, page.place, MOST_LISTED)
        names |= dict.fromkeys(_file_of(folder, face["file"], archives) for face in page.faces)
    beside = []
    with suppress(OSError), os.scandir(folder) as entries:
        beside = sorted(entry.name for entry in entries if has_extension(entry.name, SERVED[-2:]))
    return [*names, *beside, *([journal.NAME] if (folder / journal.NAME).is_file() else [])]


def _file_of(folder: Path, face: str, archives: dict[str, bool]) -> str:
    """The file that a face lies in: its own, or an archive with others.

    Args:
        archives: which first parts of names are archives, as far as that was looked at.
    """
    first = face.partition("/")[0]
    if first == face or not has_extension(first, (".tar",)):
        return face
    if first not in archives:
        archives[first] = (folder / first).is_file()
    return first if archives[first] else face


def _archive(folder: Path, names: list[str], skip: int) -> Generator[bytes, None, None]:
    for name in names[skip:]:
        try:
            handle = _open(folder, name)
        except OSError:
            continue
        try:
            status = os.fstat(handle)
            entry = tarfile.TarInfo(name)
            entry.pax_headers = {SHA256: _digest_of(handle)}
            entry.size, entry.mtime, entry.mode = status.st_size, int(status.st_mtime), 0o644
            yield entry.tobuf(tarfile.PAX_FORMAT)
            left = entry.size
            while left:
                block = os.read(handle, min(BLOCK_BYTES, left))
                if not block:
                    raise EOFError(name)
                left -= len(block)
                yield block
            yield bytes(-entry.size % tarfile.BLOCKSIZE)
        finally:
            close_quietly(handle)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _gathered(pieces: Generator[bytes, None, None]) -> Generator[bytes, None, None]:
    """The same in pieces of some size: each crosses from one thread to another, which takes longer than a face does."""
    gathered = bytearray()
    with closing(pieces):
        for piece in pieces:
            gathered += piece
            if len(gathered) >= SENT_BYTES:
                yield bytes(gathered)
                gathered.clear()
    yield bytes(gathered)


def _digest_of(handle: int) -> str:
    """By which a client sees that a member came as it was sent."""
    digest, at = hashlib.sha256(), 0
    while block := os.pread(handle, BLOCK_BYTES, at):
        digest.update(block)
        at += len(block)
    return digest.hexdigest()


def _blocks(folder: Path, path: str, size: int) -> Generator[bytes, None, None]:
    """The first `size` bytes of a file, which is opened when they are asked for: nobody closes what never begins."""
    handle = _open(folder, path)
    try:
        at = 0
        while at < size:
            block = os.pread(handle, min(BLOCK_BYTES, size - at), at)
            if not block:
                raise EOFError
            at += len(block)
            yield block
    finally:
        close_quietly(handle)


def _served(folder: Path, path: str) -> int:
    """A file of a faces folder, opened.

    Raises:
        Problem: 404 where there is none that clients may have.
    """
    missing = Problem(404, f"the job has no file {path[:200]!r}.")
    if not has_extension(path, SERVED):
        raise missing
    try:
        return _open(folder, path)
    except OSError:
        raise missing from None


def _open(folder: Path, path: str) -> int:
    if any(part.startswith(".") for part in path.split("/")[:-1]):
        raise FileNotFoundError(path)
    return open_beneath(folder, path)
