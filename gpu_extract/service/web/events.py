"""`/v1/jobs/{job}/events`: faces as they become whole, progress, and how it ends, as server-sent events.

The id of an event is a place in the job's journals (see `feed`), so whoever comes back is told exactly what is new, and
nothing is kept for anybody.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from gpu_extract.service import feed
from gpu_extract.service.office import Office
from gpu_extract.service.problems import Problem
from gpu_extract.service.table import Job
from gpu_extract.service.web.answers import sent
from gpu_extract.service.web.jobs import Reader, job_of, shown

POLL_SECONDS = 0.25
FACES_AT_ONCE = 50
QUIET_SECONDS = 15.0
"""After which a comment keeps proxies from closing a silent stream."""
STALLED_SECONDS = 10.0
"""In which a client takes what it is sent; one that does not is cut off."""
MOST_STREAMS = 4
"""Of one caller."""
MOST_NEWEST = 10_000


class _EventStream(StreamingResponse):
    """Tells of its end, also where its client went away before it began."""

    def __init__(self, events: AsyncIterator[bytes], on_end: Callable[[], None]) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_soon(message: Message) -> None:
            try:
                await asyncio.wait_for(send(message), STALLED_SECONDS)
            except TimeoutError:
                raise ClientDisconnect from None

        try:
            with suppress(ClientDisconnect):
                await super().__call__(scope, receive, send_soon)
        finally:
            self._on_end()


def router(office: Office) -> APIRouter:
    """The routes of one office."""
    routes = APIRouter(prefix="/v1", tags=["jobs"])
    streams: Counter[str] = Counter()

    @routes.get("/jobs/{job}/events", **sent("text/event-stream", refused=(404, 429)))
    async def events(
        job: str,
        caller: Reader,
        place: str | None = Header(None, alias="Last-Event-ID"),
        newest: int | None = Query(None, ge=0, le=MOST_NEWEST),
    ) -> StreamingResponse:
        """`face`, `progress`, `state` and `anew`, until the job has ended.

        Args:
            newest: begin with about so many of the faces there are, not with the first; a `Last-Event-ID` counts more.
        """
        found = await run_in_threadpool(job_of, office, job, caller)
        who = caller.name
        if place is not None and not feed.is_place(place):
            raise Problem(422, "Last-Event-ID is not the id of one of these events.")
        if place is None and newest is not None:
            folder, shards = office.data.job(found.id).faces, await run_in_threadpool(office.shard_count, found)
            place = await run_in_threadpool(feed.near_end, folder, shards, newest)
        if streams[who] >= MOST_STREAMS:
            why = f"{MOST_STREAMS} event streams of this token are open; close one first."
            raise Problem(429, why, headers={"Retry-After": "5"})
        streams[who] += 1  # before anybody else is asked: a page opens several at once
        office.meters.streams.inc()

        def end() -> None:
            streams[who] -= 1
            office.meters.streams.dec()

        return _EventStream(_events(office, found, place or ""), end)

    return routes


async def _events(office: Office, job: Job, place: str) -> AsyncIterator[bytes]:
    folder = office.data.job(job.id).faces
    rev, told, spoke = -1, None, time.monotonic()
    while not office.draining:
        now = await run_in_threadpool(office.known, job.id)
        if now is None:
            yield _event("state", {"state": "removed"})
            return
        shards = await run_in_threadpool(office.shard_count, now)
        found = await run_in_threadpool(feed.read, folder, shards, place, FACES_AT_ONCE)
        blocks = []
        if found.anew:
            blocks.append(_event("anew", {}))
        if found.faces:
            blocks += [_event("face", face) for face in found.faces[:-1]]
            blocks.append(_event("face", found.faces[-1], found.place))
        place = found.place
        state = await run_in_threadpool(shown, office, now)
        progress = {name: state[name] for name in ("frames", "of", "faces", "rate", "eta")}
        if progress != told:
            blocks.append(_event("progress", progress))
            told = progress
        if now.rev != rev and not (now.has_ended and found.more):
            blocks.append(_event("state", state))
            rev = now.rev
        if not blocks and time.monotonic() - spoke > QUIET_SECONDS:
            blocks.append(b": still there\n\n")
        if blocks:
            spoke = time.monotonic()
            yield b"".join(blocks)
        if now.has_ended and not found.more:
            return
        await asyncio.sleep(0.0 if found.more else POLL_SECONDS)


def _event(kind: str, data: dict[str, Any], place: str | None = None) -> bytes:
    head = f"id: {place}\n" if place is not None else ""
    return f"{head}event: {kind}\ndata: {json.dumps(data)}\n\n".encode()
