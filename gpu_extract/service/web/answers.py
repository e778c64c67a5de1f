"""What the addresses answer, as `/v1/openapi.json` tells it: each status with its content, problems in one form.

Nothing is held against it while it is answered; tests do that, and `make fuzz-service`.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.responses import Response

PROBLEM_TYPE = "application/problem+json"
PROBLEM = {
    "type": "object",
    "title": "Problem",
    "description": "A problem document, RFC 9457.",
    "required": ["title", "status", "detail"],
    "properties": {
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "the sentence that the command line would say"},
        "exit_code": {"type": "integer", "description": "that it would end with"},
    },
}
MEANINGS = {
    400: "The request is not understood, or ended before its body did.",
    401: "It needs a token that is good.",
    403: "The token is not good for this, or the request comes from a foreign page.",
    404: "There is none, or it is somebody else's.",
    408: "The body, or the rest of it, did not come.",
    409: "It contradicts what is there.",
    412: "Another version of tus was said, or none.",
    413: "It is longer than what is taken.",
    415: "Another content type is wanted.",
    421: "The service does not answer to this name.",
    422: "A value is not allowed, or names what cannot be had.",
    423: "Another request writes to it.",
    429: "The caller has as many as it may have.",
    500: "Something unexpected happened; the service's log has it.",
    503: "The service cannot do it at the moment.",
    507: "The disk is full, or refuses.",
}
TEXTS = ("text/plain",)
"""Media types whose content is a string; of others a schema says nothing."""
ANYWHERE = (400, 401, 403, 421, 422, 500, 503, 507)
"""What may be refused wherever it is asked."""
WITH_A_BODY = (408, 413)
WITH_JSON = (*WITH_A_BODY, 415)
OPEN = {"security": list[Any]()}
"""Of an operation for whoever asks."""

Words = dict[str, Any]
"""Keyword arguments of a route."""


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route, or of all, that are problem documents."""
    return {status: {"$ref": "#/components/responses/Problem", "description": MEANINGS[status]} for status in statuses}


def told(document: Any, *refused: int, statuses: tuple[int, ...] = (200,)) -> Words:
    """Of a route that answers with a JSON document.

    Args:
        document: the type that describes it.
        refused: statuses that are problems, besides those that may be met anywhere.
        statuses: with which it is answered.
    """
    return {
        "response_model": None,
        "responses": {**{status: {"model": document} for status in statuses}, **problems(*refused)},
    }


def sent(*kinds: str, refused: tuple[int, ...] = (), unchanged: bool = False) -> Words:
    """Of a route that answers with something else.

    Args:
        kinds: media types that it may have.
        refused: as of `told`.
        unchanged: whether it may be that the client has it, 304.
    """
    content = {kind: {"schema": {"type": "string"} if kind in TEXTS else {}} for kind in kinds}
    empty = {304: {"description": "It is what If-None-Match says."}} if unchanged else {}
    return {"response_class": Response, "responses": {200: {"content": content}, **empty, **problems(*refused)}}


def done(*refused: int) -> Words:
    """Of a route whose answer is a status and headers."""
    return {"response_class": Response, "responses": problems(*refused)}


def header(name: str, schema: dict[str, Any], *, required: bool = True) -> dict[str, Any]:
    """A parameter that a route reads by itself."""
    return {"name": name, "in": "header", "required": required, "schema": schema}


class Described(FastAPI):
    """An application whose description has what its routes refer to.

    Attributes:
        asks_for_tokens: whether whoever comes must say one.
    """

    asks_for_tokens = False

    def openapi(self) -> dict[str, Any]:
        document = super().openapi()
        parts = document.setdefault("components", {})
        parts["responses"] = {
            "Problem": {"description": "It cannot be had.", "content": {PROBLEM_TYPE: {"schema": PROBLEM}}}
        }
        if self.asks_for_tokens:
            parts["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            document["security"] = [{"token": []}]
        return document
