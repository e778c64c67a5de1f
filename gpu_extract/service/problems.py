"""What a request cannot have, and why: a status, and the sentence that the command line would say."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from gpu_extract.errors import (
    AlignmentsError,
    DeviceError,
    GpuExtractError,
    InputError,
    OutputError,
    UsageError,
    printable,
)

LONGEST_DETAIL = 4096
"""Letters: a sentence repeats what was asked for, which may be a body of a megabyte."""

STATUS_OF: tuple[tuple[type[GpuExtractError], int], ...] = (
    (UsageError, 422),
    (AlignmentsError, 422),
    (InputError, 422),
    (DeviceError, 503),
    (OutputError, 507),
)


class Problem(Exception):  # noqa: N818 (the word of RFC 9457)
    """Ends a request with a problem document (RFC 9457).

    Attributes:
        status: of HTTP.
        detail: one sentence.
        headers: of the answer.
        members: further members of the document.
    """

    def __init__(self, status: int, detail: str, *, headers: Mapping[str, str] | None = None, **members: Any) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail
        self.headers = dict(headers or {})
        self.members = members

    @classmethod
    def of(cls, error: GpuExtractError) -> Problem:
        status = next((status for kind, status in STATUS_OF if isinstance(error, kind)), 500)
        return cls(status, str(error), exit_code=error.exit_code)

    def document(self) -> dict[str, Any]:
        """Its members; what is no letter is escaped, for halves of letters cannot be sent."""
        detail = printable(self.detail[:LONGEST_DETAIL]) + ("…" if len(self.detail) > LONGEST_DETAIL else "")
        return {"title": HTTPStatus(self.status).phrase, "status": self.status, "detail": detail, **self.members}
