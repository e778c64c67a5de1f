"""What stands before every route: which names the server answers to, who asks, and how much may be said.

A page of somebody else's can make a browser send requests here, and under a name that points here it can read the
answers. So the Host must be one of ours, and what a browser writes must come from a page of ours.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gpu_extract.errors import InputError, printable
from gpu_extract.service.access import LOCAL, Caller, Sessions, Tokens
from gpu_extract.service.problems import Problem
from gpu_extract.service.web.answers import OPEN as FOR_ALL
from gpu_extract.service.web.answers import PROBLEM_TYPE, WITH_A_BODY, WITH_JSON, problems, told
from gpu_extract.service.web.documents import Session

API = "/v1/"
UPLOAD = "/v1/uploads/"
OPEN = frozenset(("/v1/session", "/v1/healthz", "/v1/readyz"))
"""Of the API, for whoever asks."""
MOST_BODY = 1 << 20
MOST_OF_STRANGERS = 1 << 12
"""Bytes of a body; whoever has not said a token has nothing else to say."""
BODY_SECONDS = 30.0
"""In which a body comes."""
REFUSAL_SECONDS = 0.5
"""A request with a wrong token waits so long, and nobody else with it."""
SAFE = frozenset(("GET", "HEAD", "OPTIONS"))
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
EVERYWHERE = ("0.0.0.0", "::")
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
COOKIE = "gpu-extract-session"
CALLER = "gpu_extract.caller"
"""The key of a scope under which the caller stands."""
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/@\[\]]+?)\.?(?::([0-9]{1,5}))?")

log = logging.getLogger("gpu_extract")


class Guard:
    """ASGI middleware, the outermost.

    Args:
        tokens: None where nobody is asked for one.
        sessions: of the tokens.
        bound: address or name that the server listens at; where that is all addresses, it answers to any address.
        names: that it answers to besides; `*.example.org` for all below that one, `*` for any.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        tokens: Tokens | None,
        sessions: Sessions | None,
        bound: str,
        names: Iterable[str] = (),
    ) -> None:
        self._app, self._tokens, self._sessions = app, tokens, sessions
        self._names = frozenset(name.lower() for name in (*LOCAL_NAMES, bound, *names))
        self._everywhere = bound in EVERYWHERE

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        send = _with_headers(request, send)
        try:
            self._check_host(request)
            caller = scope[CALLER] = await self._caller(request)
            if caller is None and not _is_open(request):
                raise _unknown()
            if request.method not in SAFE and not (request.method == "PATCH" and request.url.path.startswith(UPLOAD)):
                receive = await _gathered(request, receive, MOST_OF_STRANGERS if caller is None else MOST_BODY)
        except Problem as problem:
            await problem_answer(problem)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check_host(self, request: Request) -> None:
        said = request.headers.getlist("Host")
        match = _HOST.fullmatch(said[0]) if len(said) == 1 else None
        if match is None:
            raise Problem(400, "The request says no Host, or one that is not understood.")
        if not self._answers_to(match[1].strip("[]").lower()):
            raise Problem(
                421,
                f"The server does not answer to the name {printable(match[1])[:100]}; if that is its own, add it to "
                "the names that it is started with.",
            )

    def _answers_to(self, name: str) -> bool:
        if name in self._names or "*" in self._names or (self._everywhere and _is_address(name)):
            return True
        return any(name.endswith(known[1:]) for known in self._names if known.startswith("*."))

    async def _caller(self, request: Request) -> Caller | None:
        """Who asks, by a token or by a cookie; None for a stranger.

        Raises:
            Problem: 401 for a wrong token, 403 for what a foreign page has a browser write, 503 where tokens cannot be
                read.
        """
        kind, _, secret = request.headers.get("Authorization", "").partition(" ")
        try:
            if self._tokens is None or self._sessions is None or self._tokens.are_not_asked_for:
                _check_origin(request, demanded=False)
                return LOCAL
            if kind.lower() == "bearer":
                caller = self._tokens.who(secret.strip())
                if caller is None:
                    await asyncio.sleep(REFUSAL_SECONDS)
                    raise _unknown()
                return caller
            session_id = request.cookies.get(_cookie(request))
            caller = None if session_id is None else self._sessions.who(session_id)
            _check_origin(request, demanded=caller is not None)
            return caller
        except InputError as error:
            unreadable = _unreadable(error)
            if _is_open(request):  # the service lives all the same, and is not to be started anew for it
                return None
            raise unreadable from error


def needs(scope: str) -> Callable[[Request], Awaitable[Caller]]:
    """A dependency: the caller, who has that scope.

    Raises:
        Problem: 401 where nobody is known, 403 for one who has not.
    """

    async def caller(request: Request) -> Caller:
        known: Caller | None = request.scope[CALLER]
        if known is None:
            raise _unknown()
        if not known.may(scope):
            has = ", ".join(sorted(known.scopes))
            raise Problem(403, f"The token of {known.name} is good for {has}; this needs {scope}.")
        return known

    return caller


class Shown(BaseModel):
    """What a page shows for a session."""

    token: str = Field(max_length=256)


def router(tokens: Tokens | None, sessions: Sessions | None) -> APIRouter:
    """Sessions of browsers, whose EventSource and images cannot say a token. Routes below `/v1`."""
    routes = APIRouter(prefix="/session", tags=["session"])

    @routes.post("", openapi_extra=FOR_ALL, **told(Session, *WITH_JSON))
    async def begin(shown: Shown, request: Request, response: Response) -> dict[str, Any]:
        try:
            if tokens is None or sessions is None or tokens.are_not_asked_for:
                return _told(LOCAL)
            session_id = sessions.begin(shown.token.strip())
            caller = None if session_id is None else sessions.who(session_id)
        except InputError as error:
            raise _unreadable(error) from error
        if session_id is None or caller is None:
            await asyncio.sleep(REFUSAL_SECONDS)
            raise _unknown()
        response.set_cookie(
            _cookie(request), session_id, path="/", httponly=True, samesite="strict", secure=_is_secure(request)
        )
        return _told(caller)

    @routes.get("", **told(Session))
    async def who(request: Request) -> dict[str, Any]:
        caller: Caller | None = request.scope[CALLER]
        if caller is None:
            raise _unknown()
        return _told(caller)

    @routes.delete("", status_code=204, openapi_extra=FOR_ALL, responses=problems(*WITH_A_BODY))
    async def end(request: Request) -> Response:
        response = Response(status_code=204)
        if sessions is not None and (session_id := request.cookies.get(_cookie(request))) is not None:
            sessions.end(session_id)
            response.delete_cookie(_cookie(request), path="/", httponly=True, samesite="strict")
        return response

    return routes


def problem_answer(problem: Problem) -> Response:
    return JSONResponse(problem.document(), problem.status, problem.headers, media_type=PROBLEM_TYPE)


def _told(caller: Caller) -> dict[str, Any]:
    return {"name": caller.name, "scopes": sorted(caller.scopes)}


def _is_open(request: Request) -> bool:
    """Whether it is for whoever asks, or for its route to decide."""
    return not request.url.path.startswith(API) or request.url.path in OPEN


def _unknown() -> Problem:
    return Problem(
        401, "This needs a token that is good; say it as Authorization: Bearer.", headers={"WWW-Authenticate": "Bearer"}
    )


def _unreadable(error: InputError) -> Problem:
    log.error("Nobody is let in: %s", printable(str(error)))
    return Problem(503, "The server cannot read its tokens at the moment; its log tells why.")


def _check_origin(request: Request, *, demanded: bool) -> None:
    """A browser says with everything that it writes which page it is from."""
    if request.method in SAFE:
        return
    origin, host = request.headers.get("Origin"), request.headers["Host"]
    if origin is None and demanded:
        raise Problem(403, "A request that writes, and comes with a cookie, must say its Origin.")
    # The page's https may end at a proxy, from where on it is http. The other way round somebody is in between.
    if origin is not None and origin.lower() not in {
        f"{scheme}://{host.lower()}" for scheme in ("https", request.url.scheme)
    }:
        raise Problem(
            403,
            f"The request is from a page of {printable(origin)[:100]} and came to {printable(host)[:100]}, which "
            "must be the same; a proxy between them must hand on the Host.",
        )


def _is_secure(request: Request) -> bool:
    return "https" in (request.url.scheme, request.headers.get("Origin", "").lower().partition(":")[0])


def _cookie(request: Request) -> str:
    """The name of the cookie, one for each port: browsers send a cookie to all servers of a machine."""
    match = _HOST.fullmatch(request.headers["Host"])
    return COOKIE if match is None or match[2] is None else f"{COOKIE}-{match[2]}"


def _is_address(name: str) -> bool:
    """No foreign page has an address of ours for its name."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _with_headers(request: Request, send: Send) -> Send:
    async def send_more(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            if request.url.path.startswith(API):
                headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return send_more


async def _gathered(request: Request, receive: Receive, most: int) -> Receive:
    """The request's body, whole, for whoever receives it: a length need not be said, and need not be true.

    Raises:
        Problem: 413 if it is longer than `most`, 408 if it takes too long, 400 if it has no end.
    """
    said = int(request.headers.get("Content-Length", "0"))  # the server under us saw to it that it is a number
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            more = True
            while more and max(len(body), said) <= most:
                message = await receive()
                if message["type"] != "http.request":
                    raise Problem(400, "The connection ended before the request did.")
                body += message.get("body", b"")
                more = message.get("more_body", False)
    except TimeoutError:
        raise Problem(408, f"The body took longer than {BODY_SECONDS:g} seconds.") from None
    if max(len(body), said) > most:
        raise Problem(413, f"The body is longer than the {most:,} bytes that are taken here.")
    whole: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

    async def receive_whole() -> Message:
        return whole.pop() if whole else await receive()

    return receive_whole
