"""HEAD wherever a GET is: the same status and headers, and no more work than they need."""

from __future__ import annotations

from contextlib import suppress

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OWN = "/v1/uploads/"
"""Below it HEAD is a word of tus, and there is no GET."""


class Heads:
    """ASGI middleware: a route is asked for what it would answer to a GET, and left as it begins to send its body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD" or scope["path"].startswith(OWN):
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            raise ClientDisconnect  # what is behind the head would be read by nobody

        with suppress(ClientDisconnect):
            await self._app({**scope, "method": "GET"}, receive, send_head)
