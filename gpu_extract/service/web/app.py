"""The application: all routes, behind the guard."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.routing import Match

from gpu_extract import __version__
from gpu_extract.errors import GpuExtractError, printable
from gpu_extract.service.access import Sessions, Tokens
from gpu_extract.service.office import Office
from gpu_extract.service.problems import Problem
from gpu_extract.service.requests import FORMS
from gpu_extract.service.uploads import Uploads
from gpu_extract.service.web import events, faces, guard, jobs, state
from gpu_extract.service.web import uploads as uploading
from gpu_extract.service.web.answers import ANYWHERE, Described, problems
from gpu_extract.service.web.guard import Guard, problem_answer
from gpu_extract.service.web.heads import Heads

PAGE = Path(__file__).parent.parent / "page"
TOO_FEW_FILES = (errno.EMFILE, errno.ENFILE)
log = logging.getLogger("gpu_extract.service")


class _PageFiles(StaticFiles):
    """Modules of one version together: a browser asks each time whether its copy is still it."""

    def file_response(self, *args: Any, **named: Any) -> Response:
        response = super().file_response(*args, **named)
        response.headers["Cache-Control"] = "no-cache"
        return response


def make_app(
    office: Office, uploads: Uploads, tokens: Tokens | None, *, bound: str, names: Iterable[str] = ()
) -> Described:
    """The application of one service.

    Args:
        tokens: None where nobody is asked for one.
        bound: the address that it listens at.
        names: further ones by which it is reached.
    """
    app = Described(
        title="gpu-extract",
        version=__version__,
        description="Faces cut again from an alignments file and its frames.",
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # behind a proxy it would be to another scheme
        responses=problems(*ANYWHERE),
    )
    app.asks_for_tokens = tokens is not None
    sessions = None if tokens is None else Sessions(tokens)
    app.include_router(guard.router(tokens, sessions), prefix="/v1")
    app.include_router(uploading.router(uploads), prefix="/v1")
    app.include_router(state.router(office, uploads))
    for routes in (jobs, events, faces):
        app.include_router(routes.router(office))

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    app.mount("/page", _PageFiles(directory=PAGE), name="page")

    @app.exception_handler(Problem)
    async def refused(request: Request, problem: Problem) -> Response:
        return problem_answer(problem)

    @app.exception_handler(GpuExtractError)
    async def failed(request: Request, error: GpuExtractError) -> Response:
        return problem_answer(Problem.of(error))

    @app.exception_handler(RequestValidationError)
    async def not_understood(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return problem_answer(Problem(422, f"the body is no JSON: {first['ctx']['error'].lower()}."))
        if first["loc"] == ("body",) and first["type"] != "missing" and not _says_json(request):
            said = request.headers.get("Content-Type", "none")[:80]
            return problem_answer(Problem(415, f"the content type is {said}; application/json is wanted."))
        where = ".".join(str(part) for part in first["loc"][1:] if part not in FORMS)
        return problem_answer(Problem(422, f"{where or 'the body'}: {first['msg'].lower()}."))

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> Response:
        path = request.url.path[:200]
        said = {
            404: f"there is nothing at {path} of this service; /v1/openapi.json tells what there is where.",
            405: f"{request.method[:20]} is nothing that {path} knows; /v1/openapi.json tells what it does.",
        }.get(error.status_code, f"{error.detail}.")
        headers = error.headers if error.status_code != 405 else {"Allow": ", ".join(_methods_at(request))}
        return problem_answer(Problem(error.status_code, said, headers=headers))

    @app.exception_handler(OSError)
    async def of_the_system(request: Request, error: OSError) -> Response:
        log.error("%s %s: %s", request.method, request.url.path, printable(str(error)))
        why = (error.strerror or str(error)).lower()
        said = f"the machine that the service runs on refuses ({why}); try again later."
        return problem_answer(Problem(503 if error.errno in TOO_FEW_FILES else 507, said))

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        log.exception("%s %s", request.method, request.url.path, exc_info=error)
        return problem_answer(Problem(500, "something unexpected happened; the service's log has it."))

    app.add_middleware(Heads)
    app.add_middleware(Guard, tokens=tokens, sessions=sessions, bound=bound, names=names)
    return app


def _says_json(request: Request) -> bool:
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def _methods_at(request: Request) -> list[str]:
    """What is answered at the address of a request, whichever route does it."""
    routes = request.app.routes
    found = [
        method
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
        if any(route.matches({**request.scope, "method": method})[0] == Match.FULL for route in routes)
    ]
    return ["HEAD", *found] if "GET" in found else found
