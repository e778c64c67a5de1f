"""The JSON documents that the door answers with, for `/v1/openapi.json`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

State = Literal["queued", "running", "finishing", "cancelling", "succeeded", "partial", "failed", "cancelled"]
Scope = Literal["read", "submit", "admin"]


class _Whole(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Step(_Whole):
    """One process's part of a job."""

    kind: Literal["check", "cut", "merge"]
    shard: str | None = Field(description="its number and how many there are, as 0/4; null where it is the only one")
    state: Literal["waiting", "running", "done"]
    device: str | None
    attempt: int


class Inputs(_Whole):
    """The two inputs, by names that the client knows."""

    alignments: str
    frames: str


class Job(_Whole):
    """How a job stands."""

    id: str
    state: State
    frames: int = Field(description="that are done")
    of: int | None = Field(description="how many frames there are, as soon as that is known")
    faces: int
    rate: float = Field(description="frames a second")
    eta: float | None = Field(description="seconds")
    devices: list[str]
    position: int | None = Field(description="in the queue, from 1; null outside it")
    error: str | None = Field(description="why it failed, in a sentence")
    note: str | None = Field(description="why it waits")
    exit_code: int | None
    inputs: Inputs
    options: dict[str, Any]
    owner: str
    priority: int
    shards: list[Step]
    created: float = Field(description="seconds since 1970")
    started: float | None
    ended: float | None
    rev: int = Field(description="grows with every change of its state")
    links: dict[str, str]


class Jobs(_Whole):
    """A page of jobs."""

    jobs: list[Job]
    next: str | None = Field(description="`after` of the next page; null where this is the last")


class Session(_Whole):
    """Who asks."""

    name: str
    scopes: list[Scope]


class UploadState(_Whole):
    """An upload of the caller's."""

    id: str
    owner: str
    name: str
    length: int = Field(description="bytes it will have")
    offset: int = Field(description="bytes that came")
    expires: float = Field(description="when it is removed if nothing happens to it, in seconds since 1970")


class Alive(_Whole):
    """The service answers."""

    status: Literal["alive"]
    version: str


class Readiness(_Whole):
    """Whether a job that comes now will be cut."""

    ready: bool
    reasons: list[str]


class Device(_Whole):
    """Where steps run."""

    name: str
    kinds: list[str]
    busy: bool
    fault: str | None


class Devices(_Whole):
    """What the box is."""

    devices: list[Device]
    disk_free_bytes: int
    jobs: dict[State, int]


class Option(BaseModel):
    """An option of a job; further members tell what is allowed."""

    name: str
    default: Any
    help: str
    group: str
    type: str


class Options(_Whole):
    """The options that a job may set."""

    options: list[Option]


class Roots(_Whole):
    """Names of folders."""

    roots: list[str]


class Entry(_Whole):
    """A file or folder."""

    name: str
    kind: Literal["file", "folder"]
    bytes: int | None


class Entries(_Whole):
    """What a folder holds."""

    entries: list[Entry]
    more: bool = Field(description="whether some were left out")
