"""A job's events, from its beginning to its end: a stream that is taken up again where it was cut."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from gpu_extract.client.server import CutError, Server, quoted
from gpu_extract.run.progress import FrameDone, Listener, Note, Planned
from gpu_extract.tasks import FaceResult

QUIET_SECONDS = 45.0
"""A server says every fifteen that it is there."""
LONGEST_LINE = 4 << 20
ENDED = ("succeeded", "partial", "failed", "cancelled")
REMOVED = "removed"


@dataclass
class Event:
    """One server-sent event."""

    kind: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    place: str | None = None
    """Behind it, for whoever goes on from there."""


def follow(server: Server, job: str) -> Iterator[Event]:
    """Every event of a job until it has ended.

    Raises:
        GpuExtractError: if the server refuses, or is away for too long.
    """
    place = ""
    while True:
        try:
            headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": place} if place else {})
            with server.stream(
                "GET", f"/v1/jobs/{quoted(job)}/events", headers=headers, timeout=QUIET_SECONDS
            ) as answer:
                for event in _parsed(answer, server):
                    place = event.place or place
                    yield event
                    if event.kind == "state" and event.data.get("state") in (*ENDED, REMOVED):
                        return
            raise CutError("it ended the stream of events")
        except CutError as error:
            server.wait_out(error)


def tell(events: Iterator[Event], listener: Listener) -> None:
    """Tell a listener of a job as of a run that goes on here.

    The faces of a plan are not known here, so `Planned.faces` is 0. A frame's key is told by the names of its faces.
    """
    told: set[int] = set()
    waiting: list[FrameDone] = []
    open_frame: list[dict[str, Any]] = []
    of, said = None, None
    for event in events:
        if event.kind == "progress" and of is None and isinstance(event.data.get("of"), int):
            of = event.data["of"]
            listener(Planned(of, 0))
        elif event.kind == "face":
            if open_frame and open_frame[-1].get("frame") != event.data.get("frame"):
                waiting += _done(open_frame, told)
                open_frame = []
            open_frame.append(event.data)
            if event.place is not None:
                waiting += _done(open_frame, told)
                open_frame = []
        elif event.kind == "state" and (text := _sentence(event.data)) != said:
            said = text
            if text:
                listener(Note(text))
        if of is not None:
            for done in waiting:
                listener(done)
            waiting.clear()


def _done(faces: list[dict[str, Any]], told: set[int]) -> list[FrameDone]:
    """A frame that is whole, once: where shards were merged, all frames come again."""
    with suppress(KeyError, TypeError, ValueError):
        position = int(faces[0]["frame"])
        if position in told:
            return []
        told.add(position)
        first = str(faces[0]["file"]).rpartition("/")[2].rpartition("#")[2]
        name = first.rpartition(".")[0].rpartition("_")[0]
        rows = (FaceResult(-1, one["index"], one["file"], one["sha1"], one["bytes"]) for one in faces)
        return [FrameDone(name, position, tuple(rows), ())]
    return []


def _sentence(state: dict[str, Any]) -> str | None:
    """What a person wants to know of a job that goes on."""
    if state.get("note"):
        return str(state["note"])
    if state.get("state") == "queued" and isinstance(state.get("position"), int) and state["position"] > 1:
        return f"the job waits; it is number {state['position']:,}."
    return None


def _parsed(answer: http.client.HTTPResponse, server: Server) -> Iterator[Event]:
    event, data = Event(), ""
    while line := answer.readline(LONGEST_LINE):
        if not line.endswith(b"\n"):
            return
        server.heard()
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        name, _, value = text.partition(":")
        value = value.removeprefix(" ")
        if text == "":
            if data:
                with suppress(ValueError, RecursionError):
                    found = json.loads(data)
                    if isinstance(found, dict):
                        event.data = found
                        yield event
            event, data = Event(), ""
        elif name == "event":
            event.kind = value
        elif name == "id":
            event.place = value
        elif name == "data":
            data += value
