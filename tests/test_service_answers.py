"""What the door answers, against what `/v1/openapi.json` says that it does; HEAD; which methods there are."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import face_entry, write_clip, write_pickled
from tests.serving import Service

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, TypeAdapter

from gpu_extract.service.requests import JobRequest
from gpu_extract.service.web import documents
from gpu_extract.service.web.answers import MEANINGS, PROBLEM_TYPE
from gpu_extract.service.web.heads import Heads
from gpu_extract.service.web.jobs import attachment
from tests.door import ask, served

TUS = {"Tus-Resumable": "1.0.0"}
FRAMES = 4


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, landmarks: np.ndarray) -> Iterator[Service]:
    """One with a job that is done, and an upload."""
    folder = tmp_path_factory.mktemp("service")
    (folder / "root").mkdir()
    small = ((landmarks - landmarks.mean(axis=0)) * 0.25 + (40, 36)).astype(np.float32)
    write_clip(folder / "root" / "clip.mp4", FRAMES, (76, 90))
    write_pickled(
        folder / "root" / "clip.fsa",
        {f"clip_{number + 1:06d}.png": [face_entry(small)] for number in range(FRAMES)},
    )
    with Service(folder / "data", {"here": folder / "root"}, ("--devices=cpu",)).start() as here:
        here.submit("made", "clip.fsa", "clip.mp4", options={"size": 48}, shards=2)
        here.wait("made")
        assert here.ask("POST", "/v1/uploads", headers={**TUS, "Upload-Length": "5"}).status == 201
        yield here


@pytest.fixture(scope="module")
def description(service: Service) -> Any:
    return service.ask("GET", "/v1/openapi.json").json


def operations(description: Any) -> Iterator[tuple[str, Any]]:
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_every_answer_is_described_with_its_content(description: Any) -> None:
    problem = description["components"]["responses"]["Problem"]
    assert list(problem["content"]) == [PROBLEM_TYPE]
    assert set(problem["content"][PROBLEM_TYPE]["schema"]["required"]) == {"title", "status", "detail"}
    for name, operation in operations(description):
        assert {"400", "401", "403", "421", "422", "500", "503", "507"} <= set(operation["responses"]), name
        for status, answer in operation["responses"].items():
            assert answer["description"], (name, status)
            if int(status) >= 400 and (name, status) != ("GET /readyz", "503"):
                assert answer == {"$ref": "#/components/responses/Problem", "description": MEANINGS[int(status)]}
            elif name.split()[0] == "GET" and int(status) == 200:
                assert answer["content"], name
    assert "HTTPValidationError" not in description["components"]["schemas"]


def test_only_where_somebody_is_asked_for_a_token_the_description_says_so(description: Any, tmp_path: Path) -> None:
    from gpu_extract.service.access import Tokens

    assert description["security"] == [{"token": []}]
    opened = [name for name, operation in operations(description) if operation.get("security") == []]
    assert sorted(opened) == ["DELETE /v1/session", "GET /healthz", "GET /readyz", "POST /v1/session"]
    tokens = tmp_path / "data" / "tokens.toml"
    tokens.parent.mkdir()
    secret = Tokens.make(tokens, "anna", ["read"])
    with Service(tmp_path / "data", {}, ("--devices=cpu",)).start() as guarded:
        assert guarded.ask("GET", "/v1/openapi.json").status == 401
        assert guarded.ask("GET", "/v1/openapi.json", headers={"Authorization": f"Bearer {secret}"}).status == 200
        assert {guarded.ask("GET", path).status for path in ("/healthz", "/readyz")} == {200}
    with Service(tmp_path / "open", {}, ("--devices=cpu", "--no-auth")).start() as unguarded:
        assert "security" not in unguarded.ask("GET", "/v1/openapi.json").json


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/healthz", documents.Alive),
        ("/readyz", documents.Readiness),
        ("/v1/session", documents.Session),
        ("/v1/devices", documents.Devices),
        ("/v1/options", documents.Options),
        ("/v1/roots", documents.Roots),
        ("/v1/roots/here", documents.Entries),
        ("/v1/jobs", documents.Jobs),
        ("/v1/jobs/made", documents.Job),
        ("/v1/jobs/made/request", JobRequest),
        ("/v1/uploads", list[documents.UploadState]),
    ],
)
def test_documents_are_what_they_are_said_to_be(service: Service, path: str, kind: type[BaseModel]) -> None:
    TypeAdapter(kind).validate_json(service.ask("GET", path).body, strict=True)


def test_what_a_job_was_made_of_makes_the_like(service: Service) -> None:
    asked = service.ask("GET", service.job("made")["links"]["request"]).json
    assert asked["options"] == {"size": 48}
    assert service.ask("PUT", "/v1/jobs/made", asked).status == 200
    assert service.ask("PUT", "/v1/jobs/like", asked).status == 201
    assert service.wait("like")["faces"] == FRAMES
    assert service.ask("GET", "/v1/jobs/none/request").status == 404
    assert service.ask("DELETE", "/v1/jobs/like").status == 204


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/page/page.js",
        "/healthz",
        "/metrics",
        "/v1/openapi.json",
        "/v1/uploads",
        "/v1/roots/here/none",
        "/v1/jobs?limit=1",
        "/v1/jobs/made/faces",
        "/v1/jobs/made/faces.tar",
        "/v1/jobs/made/faces/clip_000001_0.png",
        "/v1/jobs/made/alignments",
        "/v1/jobs/made/report",
        "/v1/jobs/none",
    ],
)
def test_head_is_answered_as_get_without_a_body(service: Service, path: str) -> None:
    whole, head = (service.ask(method, path) for method in ("GET", "HEAD"))
    assert (head.status, head.body) == (whole.status, b"")
    if path != "/metrics":
        assert {**head.headers, "date": ""} == {**whole.headers, "date": ""}


def test_head_of_an_event_stream_ends_and_holds_none(service: Service) -> None:
    for _ in range(9):  # more than may be open
        assert service.ask("HEAD", "/v1/jobs/made/events").headers["content-type"].startswith("text/event-stream")
    until = time.monotonic() + 10
    while b"sse_clients 0.0" not in service.ask("GET", "/metrics").body:
        assert time.monotonic() < until
        time.sleep(0.05)


def test_nothing_is_made_for_a_head() -> None:
    begun = []

    async def parts() -> AsyncIterator[bytes]:
        begun.append(True)
        yield b"a part"

    app = FastAPI()

    @app.get("/")
    async def stream() -> StreamingResponse:
        return StreamingResponse(parts())

    app.add_middleware(Heads)
    with served(app) as port:
        assert ask(port, "HEAD", "/").status == 200
        assert not begun
        assert ask(port, "GET", "/").body == b"a part"
        assert begun


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PATCH", "/v1/jobs/made", {"GET", "HEAD", "PUT", "DELETE"}),
        ("DELETE", "/v1/jobs", {"GET", "HEAD", "POST"}),
        ("GET", "/v1/jobs/made/cancel", {"POST"}),
        ("HEAD", "/v1/jobs/made/cancel", {"POST"}),
        ("PUT", "/v1/uploads", {"GET", "HEAD", "POST", "OPTIONS"}),
    ],
)
def test_a_method_that_is_not_there_is_told_those_that_are(
    service: Service, method: str, path: str, allowed: set[str]
) -> None:
    answer = service.ask(method, path)
    assert answer.status == 405
    assert set(answer.headers["allow"].split(", ")) == allowed


def test_a_file_that_is_fetched_has_its_name_for_clients_old_and_new(service: Service) -> None:
    answer = service.ask("HEAD", "/v1/jobs/made/alignments")
    assert answer.headers["content-disposition"] == "attachment; filename=\"clip.fsa\"; filename*=utf-8''clip.fsa"
    told = attachment('a "b" é\\.fsa\r\n')
    assert told == "attachment; filename=\"a _b_ __.fsa__\"; filename*=utf-8''a%20%22b%22%20%C3%A9%5C.fsa%0D%0A"
