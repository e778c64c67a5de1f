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
    """Tell a listener of a job as of a run that goes on here, see `Teller`."""
    teller = Teller(listener)
    open_frame: list[dict[str, Any]] = []
    for event in events:
        if event.kind == "progress":
            teller.planned(event.data.get("of"))
        elif event.kind == "face":
            if open_frame and open_frame[-1].get("frame") != event.data.get("frame"):
                teller.frame(open_frame)
                open_frame = []
            open_frame.append(event.data)
            if event.place is not None:
                teller.frame(open_frame)
                open_frame = []
        elif event.kind == "state":
            teller.state(event.data)


class Teller:
    """Tells a listener of a job as of a run that goes on here.

    The faces of a plan are not known here, so `Planned.faces` is 0. A frame's key is told by the names of its faces.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._told: set[int] = set()
        self._waiting: list[FrameDone] = []
        self._of: int | None = None
        self._said: str | None = None

    def planned(self, of: Any) -> None:
        """How many frames there will be, or None; what follows the first number says nothing new."""
        if self._of is None and isinstance(of, int):
            self._of = of
            self._listener(Planned(of, 0))
            for done in self._waiting:
                self._listener(done)
            self._waiting.clear()

    def frame(self, faces: list[dict[str, Any]]) -> None:
        """The faces of a frame that is whole, once: where shards were merged, all frames come again."""
        with suppress(KeyError, TypeError, ValueError):
            position = int(faces[0]["frame"])
            if position in self._told:
                return
            self._told.add(position)
            first = str(faces[0]["file"]).rpartition("/")[2].rpartition("#")[2]
            name = first.rpartition(".")[0].rpartition("_")[0]
            rows = (FaceResult(-1, one["index"], one["file"], one["sha1"], one["bytes"]) for one in faces)
            done = FrameDone(name, position, tuple(rows), ())
            if self._of is None:
                self._waiting.append(done)
            else:
                self._listener(done)

    def state(self, data: dict[str, Any]) -> None:
        """What a person wants to know of a job that goes on."""
        if (text := _sentence(data)) != self._said:
            self._said = text
            if text:
                self._listener(Note(text))


def _sentence(state: dict[str, Any]) -> str | None:
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
