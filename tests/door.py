"""A server with nothing but what stands at its door: sessions, uploads, and a route of each kind."""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Request, Response

from gpu_extract.service.access import Caller, Sessions, Tokens
from gpu_extract.service.problems import Problem
from gpu_extract.service.uploads import Uploads
from gpu_extract.service.web import guard
from gpu_extract.service.web import uploads as web_uploads

MiB = 1 << 20


def door(
    uploads: Uploads,
    tokens: Tokens | None = None,
    *,
    bound: str = "127.0.0.1",
    names: tuple[str, ...] = (),
    idle_seconds: float = 30.0,
) -> FastAPI:
    app = FastAPI()
    sessions = None if tokens is None else Sessions(tokens)
    routes = APIRouter(prefix="/v1")
    routes.include_router(guard.router(tokens, sessions))
    routes.include_router(web_uploads.router(uploads, idle_seconds=idle_seconds))

    @routes.get("/healthz")
    async def healthz() -> str:
        return "up"

    @routes.get("/unguarded")
    async def unguarded() -> str:
        return "a route that forgot to ask who it is"

    @routes.put("/echo")
    async def echo(said: dict[str, Any], caller: Annotated[Caller, Depends(guard.needs("submit"))]) -> dict[str, Any]:
        return {"caller": caller.name, "keys": len(said)}

    @routes.get("/read")
    async def read(caller: Annotated[Caller, Depends(guard.needs("read"))]) -> str:
        return caller.name

    @app.get("/")
    async def page() -> str:
        return "the page"

    async def refuse(request: Request, problem: Exception) -> Response:
        assert isinstance(problem, Problem)
        return guard.problem_answer(problem)

    app.include_router(routes)
    app.add_exception_handler(Problem, refuse)
    app.add_middleware(guard.Guard, tokens=tokens, sessions=sessions, bound=bound, names=names)
    return app


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def detail(self) -> str:
        assert self.headers["Content-Type"] == "application/problem+json"
        document = self.json
        assert document["status"] == self.status
        said: str = document["detail"]
        return said


def ask(port: int, method: str, path: str, headers: dict[str, str] | None = None, body: Any = None) -> Answer:
    """One request over a connection of its own; an iterable body goes in chunks, without a length."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


@contextmanager
def served(app: FastAPI) -> Iterator[int]:
    """The port of a server in a thread."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", ws="none", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="door")
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not server.started:
            assert thread.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def main() -> None:
    """`python -m tests.door FOLDER PORT`: a process that can be killed."""
    folder, port = sys.argv[1:]
    uploads = Uploads(Path(folder), reserve_bytes=0, most_bytes=64 << 30)
    uvicorn.run(door(uploads), host="127.0.0.1", port=int(port), log_level="error", ws="none")


if __name__ == "__main__":
    main()
