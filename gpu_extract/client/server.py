"""A server over HTTP: one connection that is kept, asked again where it was cut, and sentences for what is refused.

Nothing here follows a redirect: the token would go where nobody sent it.
"""

from __future__ import annotations

import errno
import http.client
import json
import os
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.message import Message
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from gpu_extract import __version__
from gpu_extract.errors import (
    AlignmentsError,
    DeviceError,
    GpuExtractError,
    InputError,
    OutputError,
    UsageError,
    printable,
)

TIMEOUT_SECONDS = 30.0
"""Without a byte, after which a connection counts as cut."""
PATIENCE_SECONDS = 900.0
FIRST_PATIENCE_SECONDS = 15.0
"""With a server that has not answered yet: its address may be wrong."""
PAUSES_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Between tries; the last one for all that follow."""
LONGEST_PAUSE_SECONDS = 60.0
MOST_ANSWER = 256 << 20
"""Bytes of an answer that is taken whole."""
LONGEST_SENTENCE = 1000
BUSY = (429, 502, 503, 504)
"""Answers of a server, or of what stands before it, that will answer otherwise later; 429 if it says when."""
KIND_OF_EXIT: Mapping[int, type[GpuExtractError]] = {
    kind.exit_code: kind for kind in (UsageError, InputError, DeviceError, OutputError, AlignmentsError)
}
KIND_OF_STATUS: Mapping[int, type[GpuExtractError]] = {404: InputError, 422: InputError, 507: OutputError}
PROBLEM, JSON = "application/problem+json", "application/json"
"""In what form a service refuses something, and answers; what refuses in another form is another."""
BETWEEN = (404, 500)
"""What proxies say, beside BUSY, while the service behind them is started again."""
PIECE_MIB = 32
"""Of an upload in one request: below what proxies take."""
TLS_ALERT = b"\x15\x03"
NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE")
"""By which OpenSSL says that what came is something else."""
_PLAIN = re.compile(r"[!-~]+")
_TOKEN = re.compile(r"[!-~]{1,512}")


class CutError(Exception):
    """The way to the server was cut, or it cannot answer at the moment.

    Attributes:
        pause: seconds after which it asks to be asked again.
    """

    def __init__(self, why: str, pause: float | None = None) -> None:
        super().__init__(why)
        self.pause = pause


@dataclass(frozen=True)
class Address:
    """Where a server is.

    Attributes:
        path: before that of its routes, where a proxy puts it below one; without a slash at its end.
    """

    secure: bool
    host: str
    port: int | None
    path: str

    @classmethod
    def parse(cls, text: str) -> tuple[Address, str | None]:
        """The address that a URL is, and the token that it ends with as `#token=…`.

        Raises:
            UsageError: if it is none. The sentence does not repeat what may be a secret.
        """
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            raise UsageError("the server's address is not understood; http://HOST:PORT is wanted.") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or not _PLAIN.fullmatch(text):
            raise UsageError(f"the server's address is not understood; {_WANTED}.")
        if parts.username is not None or parts.query:
            raise UsageError(f"the server's address holds more than an address; {_WANTED}.")
        kind, _, token = parts.fragment.partition("=")
        if parts.fragment and kind != "token":
            raise UsageError(f"the server's address ends with something else than #token=…; {_WANTED}.")
        address = cls(parts.scheme == "https", parts.hostname, port, parts.path.rstrip("/"))
        return address, unquote(token) or None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' * self.secure}://{host}{'' if self.port is None else f':{self.port}'}{self.path}"


_WANTED = "http://HOST:PORT is wanted, or https"
_TOKENS = "set GPU_EXTRACT_TOKEN, or give --token-file, with one"
_SPEAKS_TLS = "speaks TLS; its address begins with https://."


class Answer(NamedTuple):
    """What a server answered, whole."""

    status: int
    headers: Message
    body: bytes

    def json(self) -> Any:
        """
        Raises:
            InputError: if it is none.
        """
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            raise InputError("the server's answer is not understood; is the address that of gpu-extract?") from None


class _WholeHead(http.client.HTTPResponse):
    """An answer whose head is whole: by itself `http.client` takes the end of a connection for the end of a head."""

    def begin(self) -> None:
        """
        Raises:
            ConnectionResetError: if the connection ended before the head did.
        """
        whole = self.fp
        self.fp = _Lines(whole)  # type: ignore[assignment]
        try:
            super().begin()
        finally:
            if isinstance(self.fp, _Lines):
                self.fp = whole


class _TlsAnswerError(http.client.HTTPException):
    """An alert of TLS came in place of an answer."""


class _Lines:
    def __init__(self, file: Any) -> None:
        self._file = file

    def readline(self, limit: int) -> bytes:
        line: bytes = self._file.readline(limit)
        if line.startswith(TLS_ALERT):
            raise _TlsAnswerError
        if not line.endswith(b"\n") and len(line) < limit:
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        return line

    def close(self) -> None:
        self._file.close()


class Server:
    """A server that is asked by one thread.

    Args:
        url: its address; a token behind it is used.
        token: by which it knows who asks.
        patience: seconds that it may be away.
        note: told when it is away, and when it is back.

    Raises:
        UsageError: for an address or a token that cannot be one.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        patience: float = PATIENCE_SECONDS,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.address, pasted = Address.parse(url)
        self._token = pasted or token
        if self._token is not None and not _TOKEN.fullmatch(self._token):
            raise UsageError("the token is none: it holds spaces, line breaks or letters that no token has.")
        self.patience, self.note = patience, note
        self._connection: http.client.HTTPConnection | None = None
        self._known = self._away = False
        self._heard_at = time.monotonic()
        self._tries = 0

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        allowed: tuple[int, ...] = (),
    ) -> Answer:
        """Ask until there is an answer; for what may be asked twice.

        Args:
            path: below the address, quoted.
            body: a value that becomes JSON.
            allowed: statuses, beside those of success, that are answers and no errors.

        Raises:
            GpuExtractError: with the server's own sentence where it refuses, or if it is away for too long.
        """
        data = None if body is None else json.dumps(body).encode()
        more = {} if data is None else {"Content-Type": "application/json"}
        while True:
            try:
                with self.stream(
                    method, path, body=data, headers={**more, **(headers or {})}, allowed=allowed
                ) as found:
                    return Answer(found.status, found.headers, read_whole(found, MOST_ANSWER))
            except CutError as error:
                self.wait_out(error)

    @contextmanager
    def stream(
        self,
        method: str,
        path: str,
        *,
        body: bytes | Iterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        allowed: tuple[int, ...] = (),
        timeout: float = TIMEOUT_SECONDS,
    ) -> Iterator[http.client.HTTPResponse]:
        """Ask once, for an answer that is read piece by piece; what is left of it is not waited for.

        Raises:
            CutError: if the way is cut, also while the answer is read.
            GpuExtractError: if the server refuses.
        """
        try:
            answer = self._send(method, path, body, dict(headers or {}), timeout)
            if not (answer.status < 300 or (answer.status in allowed and _form(answer) in (PROBLEM, JSON))):
                self._refuse(answer)
            self.heard()
            yield answer
            if not answer.isclosed():
                self.close()
        except ssl.SSLCertVerificationError as error:
            self.close()
            raise InputError(f"{self.address} does not prove who it is: {error.verify_message}.") from error
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if not self._known and (sentence := _other_protocol(error)):
                raise UsageError(f"{self.address} {sentence}") from error
            raise CutError(_why(error)) from error
        except BaseException:
            self.close()
            raise

    def heard(self) -> None:
        """Something came that is worth waiting for more."""
        if self._away:
            self.note(f"{self.address} is back.")
        self._heard_at = time.monotonic()
        self._known, self._away, self._tries = True, False, 0

    def wait_out(self, error: CutError) -> None:
        """Wait before another try.

        Raises:
            DeviceError: if the server is away for longer than is waited for.
        """
        patience = self.patience if self._known else min(self.patience, FIRST_PATIENCE_SECONDS)
        left = self._heard_at + patience - time.monotonic()
        if left <= 0:
            why = "has not answered" if self._known else "cannot be reached"
            hint = ""
            if not self._known and not self.address.secure and isinstance(error.__cause__, ConnectionResetError):
                hint = " If it speaks TLS, its address begins with https://."
            raise DeviceError(
                f"{self.address} {why} for {patience:,.0f} s ({error}); run the same command again to go on.{hint}"
            ) from error
        if self._tries == 1 or error.pause is not None:  # a kept connection that ended is no news
            self._away = True
            self.note(f"{self.address} is away ({error}); trying again for {left:,.0f} s.")
        pause = PAUSES_SECONDS[min(self._tries, len(PAUSES_SECONDS) - 1)] if error.pause is None else error.pause
        self._tries += 1
        time.sleep(max(0.0, min(pause, left, LONGEST_PAUSE_SECONDS)))

    def close(self) -> None:
        """End the connection; the next question makes another."""
        if self._connection is not None:
            with suppress(OSError):
                self._connection.close()
            self._connection = None

    def _send(
        self, method: str, path: str, body: bytes | Iterator[bytes] | None, headers: dict[str, str], timeout: float
    ) -> http.client.HTTPResponse:
        if self._connection is None:
            self._connection = self._connected(timeout)
        elif self._connection.sock is not None:
            self._connection.sock.settimeout(timeout)
        headers["User-Agent"] = f"gpu-extract/{__version__}"
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            self._connection.request(method, f"{self.address.path}{path}", body, headers)
        except (BrokenPipeError, ConnectionResetError):
            # Who refuses a long body has answered before its end.
            with suppress(http.client.HTTPException):
                return self._connection.getresponse()
            raise
        return self._connection.getresponse()

    def _connected(self, timeout: float) -> http.client.HTTPConnection:
        host, port = self.address.host, self.address.port
        made = http.client.HTTPConnection(host, port, timeout=timeout)
        if self.address.secure:
            made = http.client.HTTPSConnection(host, port, timeout=timeout, context=ssl.create_default_context())
        made.response_class = _WholeHead
        return made

    def _refuse(self, answer: http.client.HTTPResponse) -> None:
        """
        Raises:
            CutError: if it is only for now.
            GpuExtractError: else.
        """
        status = answer.status
        body = read_whole(answer, MOST_ANSWER)
        later = answer.headers.get("Retry-After")
        pause = float(later) if later is not None and later.isascii() and later.isdecimal() else None
        if _form(answer) != PROBLEM:
            raise self._foreign(status, f"HTTP {status} {printable(answer.reason)[:100]}".rstrip(), body, pause)
        said = _document(body)
        sentence = printable(str(said.get("detail") or f"HTTP {status}"))[:LONGEST_SENTENCE]
        if status in BUSY and (status != 429 or later is not None):
            raise CutError(sentence.removesuffix("."), pause)
        if status == 401:
            raise UsageError(f"{self.address} {self._why_unknown}")
        kind = KIND_OF_EXIT.get(said.get("exit_code", 0)) if isinstance(said.get("exit_code"), int) else None
        kind = kind or KIND_OF_STATUS.get(status) or (UsageError if status < 500 else GpuExtractError)
        raise kind(sentence if sentence.endswith((".", "!", "?")) else f"{sentence}.")

    @property
    def _why_unknown(self) -> str:
        if self._token is None:
            return f"asks for a token; {_TOKENS}."
        if self._known:
            return f"does not take the token any more; {_TOKENS} that is good, and the same command goes on."
        return f"does not know this token; {_TOKENS} that is good."

    def _foreign(self, status: int, shown: str, body: bytes, pause: float | None) -> Exception:
        """The error for an answer that is not the service's own but that of a proxy, or of something else."""
        if 300 <= status < 400:
            return UsageError(f"{self.address} sends elsewhere ({shown}); give the address that answers itself.")
        if status in BUSY or (self._known and status in BETWEEN):
            return CutError(f"a proxy says {shown}", pause)
        if status == 400 and b"HTTPS port" in body:
            return UsageError(f"{self.address} {_SPEAKS_TLS}")
        if status in (401, 403, 407):
            return UsageError(
                f"{self.address} is behind a proxy that refuses who asks ({shown}); it must let in whoever has a token."
            )
        if status == 413:
            return UsageError(
                f"{self.address} is behind a proxy that takes no pieces of {PIECE_MIB} MiB ({shown}); allow it more."
            )
        if status < 500:
            return InputError(f"{self.address} is not the address of a gpu-extract service ({shown}); check it.")
        return GpuExtractError(f"{self.address} does not know what to do ({shown}); is it that of gpu-extract?")


def read_whole(answer: http.client.HTTPResponse, most: int) -> bytes:
    """The rest of an answer.

    Raises:
        InputError: if it is longer than `most` bytes.
    """
    data = answer.read(most + 1)
    if len(data) > most:
        raise InputError(f"the server's answer is longer than the {most:,} bytes that are taken.")
    # With a size to read, http.client takes the end of a connection for the end of an answer.
    if answer.length:
        raise http.client.IncompleteRead(data, answer.length)
    return data


def quoted(text: str) -> str:
    """A part of a path as URLs have it."""
    return quote(text, safe="")


def _form(answer: http.client.HTTPResponse) -> str:
    return answer.headers.get_content_type()


def _document(body: bytes) -> dict[str, Any]:
    with suppress(ValueError, RecursionError):
        found = json.loads(body)
        if isinstance(found, dict):
            return found
    return {}


def _other_protocol(error: Exception) -> str | None:
    """What to say of somebody who speaks another language; None where nothing tells that."""
    if isinstance(error, _TlsAnswerError):
        return _SPEAKS_TLS
    if isinstance(error, ssl.SSLError) and error.reason in NO_TLS:
        return "does not speak TLS; if it is a server without, its address begins with http://."
    if isinstance(error, http.client.BadStatusLine) and not isinstance(error, ConnectionError):
        return "does not speak HTTP; check the port."
    return None


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "nothing came for too long"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {(error.reason or 'for no reason that is told').lower().replace('_', ' ')}"
    if isinstance(error, http.client.HTTPException) or not (isinstance(error, OSError) and error.strerror):
        return "the connection ended"
    return error.strerror.lower()
