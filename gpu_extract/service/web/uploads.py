"""Uploads over HTTP: tus 1.0 with creation, termination and expiration, for any client that speaks it."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from email.utils import formatdate
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from gpu_extract.service.access import Caller
from gpu_extract.service.problems import Problem
from gpu_extract.service.uploads import Upload, Uploads
from gpu_extract.service.web.answers import WITH_A_BODY, done, header, told
from gpu_extract.service.web.documents import UploadState
from gpu_extract.service.web.guard import needs

VERSION = "1.0.0"
EXTENSIONS = "creation,termination,expiration"
CONTENT_TYPE = "application/offset+octet-stream"
IDLE_SECONDS = 30.0
"""Without a byte, after which a request is given up: nobody tells of a laptop that sleeps, and it holds the upload."""
MOST_METADATA = 4096
_WHOLE = re.compile(r"[0-9]{1,18}")
_TUS = header("Tus-Resumable", {"const": VERSION})
_NUMBER = {"type": "integer", "minimum": 0, "maximum": 10**18 - 1}

Submitter = Annotated[Caller, Depends(needs("submit"))]


class _TusRoute(APIRoute):
    """Says the version with every answer, also with those that refuse."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_tus(request: Request) -> Response:
            try:
                response = await handle(request)
            except Problem as problem:
                problem.headers.setdefault("Tus-Resumable", VERSION)
                raise
            response.headers.setdefault("Tus-Resumable", VERSION)
            return response

        return handle_tus


async def _speaks_tus(request: Request) -> None:
    asked = request.headers.get("Tus-Resumable")
    if asked != VERSION:
        said = "no version" if asked is None else f"version {asked[:20]!r}"
        raise Problem(
            412,
            f"The request says {said} of tus in Tus-Resumable; {VERSION} is spoken.",
            headers={"Tus-Version": VERSION},
        )


def router(uploads: Uploads, *, idle_seconds: float = IDLE_SECONDS) -> APIRouter:
    """Routes below `/v1`. Whose uploads they are is what `guard` says; of another's none is there, but for `admin`."""
    routes = APIRouter(prefix="/uploads", tags=["uploads"], route_class=_TusRoute)
    tus = [Depends(_speaks_tus)]

    def words_about(upload: Upload) -> dict[str, str]:
        """Headers that tell of an upload; waits for the disk."""
        offset = uploads.offset(upload)
        words = {"Upload-Offset": str(offset), "Upload-Length": str(upload.length), "Cache-Control": "no-store"}
        if offset < upload.length:
            words["Upload-Expires"] = formatdate(uploads.expires(upload), usegmt=True)
        if upload.metadata:
            words["Upload-Metadata"] = upload.metadata
        return words

    @routes.options("", status_code=204, **done())
    async def what_is_spoken(caller: Submitter) -> Response:
        words = {"Tus-Version": VERSION, "Tus-Extension": EXTENSIONS, "Tus-Max-Size": str(uploads.most_bytes)}
        return Response(status_code=204, headers=words)

    @routes.get("", **told(list[UploadState]))
    async def own(caller: Submitter) -> list[dict[str, Any]]:
        return await asyncio.to_thread(_listed, uploads, caller)

    @routes.post(
        "",
        status_code=201,
        dependencies=tus,
        openapi_extra={
            "parameters": [
                _TUS,
                header("Upload-Length", _NUMBER),
                header("Upload-Metadata", {"type": "string", "maxLength": MOST_METADATA}, required=False),
            ]
        },
        **done(412, 413, 429, 408),
    )
    async def create(request: Request, caller: Submitter) -> Response:
        length = _whole(request, "Upload-Length")
        metadata = request.headers.get("Upload-Metadata", "")
        name = _metadata(metadata).get("filename", "")

        def announce() -> dict[str, str]:
            upload = uploads.create(caller.name, length, name, metadata=metadata, most_owned=caller.bytes)
            return {"Location": f"{request.url.path}/{upload.id}", **words_about(upload)}

        return Response(status_code=201, headers=await asyncio.to_thread(announce))

    @routes.head("/{upload_id}", dependencies=tus, openapi_extra={"parameters": [_TUS]}, **done(404, 412))
    async def offset(upload_id: str, caller: Submitter) -> Response:
        def look() -> dict[str, str]:
            return words_about(uploads.find(upload_id, _owner(caller)))

        return Response(headers=await asyncio.to_thread(look))

    @routes.patch(
        "/{upload_id}",
        status_code=204,
        dependencies=tus,
        openapi_extra={
            "parameters": [_TUS, header("Upload-Offset", _NUMBER)],
            "requestBody": {"required": True, "content": {CONTENT_TYPE: {"schema": {}}}},  # any bytes
        },
        **done(404, 408, 409, 412, 413, 415, 423),
    )
    async def append(upload_id: str, request: Request, caller: Submitter) -> Response:
        if (said := request.headers.get("Content-Type", "none")) != CONTENT_TYPE:
            raise Problem(415, f"The content type is {said[:80]}; {CONTENT_TYPE} is wanted.")
        begin = _whole(request, "Upload-Offset")
        upload = await asyncio.to_thread(uploads.find, upload_id, _owner(caller))
        try:
            await uploads.append(upload, begin, _chunks(request, idle_seconds))
        except ClientDisconnect:
            # Nobody reads this answer; what came is kept.
            raise Problem(400, "The connection ended before the request did.") from None
        return Response(status_code=204, headers=await asyncio.to_thread(words_about, upload))

    @routes.delete(
        "/{upload_id}",
        status_code=204,
        dependencies=tus,
        openapi_extra={"parameters": [_TUS]},
        **done(404, 412, 423, *WITH_A_BODY),
    )
    async def terminate(upload_id: str, caller: Submitter) -> Response:
        def remove() -> None:
            uploads.terminate(uploads.find(upload_id, _owner(caller)))

        await asyncio.to_thread(remove)
        return Response(status_code=204)

    return routes


def _owner(caller: Caller) -> str | None:
    """Whose uploads a caller sees."""
    return None if caller.may("admin") else caller.name


def _listed(uploads: Uploads, caller: Caller) -> list[dict[str, Any]]:
    listed = []
    for upload in uploads.all():
        if _owner(caller) in (None, upload.owner):
            with suppress(Problem):  # removed meanwhile
                words = {"id": upload.id, "owner": upload.owner, "name": upload.name, "length": upload.length}
                listed.append({**words, "offset": uploads.offset(upload), "expires": uploads.expires(upload)})
    return listed


async def _chunks(request: Request, idle_seconds: float) -> AsyncIterator[bytes]:
    chunks = aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout(idle_seconds):
                chunk = await anext(chunks)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise Problem(
                408, f"Nothing came for {idle_seconds:g} seconds; what came is kept, so go on from there."
            ) from None
        yield chunk


def _whole(request: Request, header: str) -> int:
    said = request.headers.get(header)
    if said is None or not _WHOLE.fullmatch(said):
        raise Problem(400, f"{header} is {'missing' if said is None else repr(said[:40])}; a whole number is wanted.")
    return int(said)


def _metadata(said: str) -> dict[str, str]:
    """Pairs of Upload-Metadata: keys, each with a value in base64 or none, and commas between."""
    if len(said) > MOST_METADATA:
        raise Problem(400, f"Upload-Metadata has {len(said):,} letters; at most {MOST_METADATA:,} are taken.")
    pairs: dict[str, str] = {}
    for pair in filter(None, (part.strip() for part in said.split(","))):
        key, _, value = pair.partition(" ")
        try:
            pairs[key] = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, ValueError):
            raise Problem(400, f"Upload-Metadata's {key[:40]!r} is no UTF-8 in base64.") from None
    return pairs
