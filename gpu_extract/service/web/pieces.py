"""Answers that are made piece by piece, as they are sent."""

from __future__ import annotations

from collections.abc import Generator, Mapping

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class Pieces(StreamingResponse):
    """What the generator holds open is closed with the answer, also where its client has gone away: abandoned, it would
    wait until somebody looks for garbage.
    """

    def __init__(
        self, pieces: Generator[bytes, None, None], media_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(pieces, media_type=media_type, headers=headers)
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._pieces.close()
