"""Who may come in: secrets that were given away, of which only the digests are kept, and the sessions of browsers.

`tokens.toml` is a list of these:

    [[token]]
    name = "anna"                    # whose jobs and uploads they are
    sha256 = "9f86d081884c7d65…"     # of the secret, 64 hex digits
    scopes = ["read", "submit"]      # or "admin", which is all three
    jobs = 20                        # optional: that may wait in the queue
    bytes = 200_000_000_000          # optional: that uploads may take
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import time
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_extract.errors import AlignmentsError, InputError, UsageError
from gpu_extract.storage.atomic import locked, write_whole
from gpu_extract.storage.inputs import open_input, unreadable

SCOPES = ("read", "submit", "admin")
WHAT = "the tokens"
SECRET_BYTES = 32
MODE = 0o600
SESSION_SECONDS = 12 * 3600.0
"""Without a request, after which a browser has to show its token again."""
MOST_SESSIONS = 20
"""Of one token: with a further one the one that was quiet for longest ends."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_KEYS = {"name", "sha256", "scopes", "jobs", "bytes"}


@dataclass(frozen=True)
class Caller:
    """Who asks.

    Attributes:
        name: whose jobs and uploads they are.
        jobs: that may wait in the queue; None for any number.
        bytes: that uploads may take together; None for all there is room for.
    """

    name: str
    scopes: frozenset[str]
    jobs: int | None = None
    bytes: int | None = None

    def may(self, scope: str) -> bool:
        return scope in self.scopes or "admin" in self.scopes


LOCAL = Caller("local", frozenset(SCOPES))
"""Whoever reaches a server that asks nobody for a token."""


@dataclass(frozen=True)
class _Token:
    digest: str
    caller: Caller


class Tokens:
    """What `tokens.toml` says now: it is read again when it was changed, so a token that is taken out is dead.

    Args:
        may_be_none: until there is one, nobody is asked for it. From then on an empty list lets nobody in, whether the
            last one was taken out or an editor is about to write.
    """

    def __init__(self, path: Path, *, may_be_none: bool = False) -> None:
        self.path, self._may_be_none = path, may_be_none
        self._tokens: tuple[_Token, ...] = ()
        self._seen: tuple[int, ...] | None = None
        self._had_some = False
        self.refused = 0
        """Wrong secrets so far."""

    @classmethod
    def load(cls, path: Path, *, may_be_none: bool = False) -> Tokens:
        """The tokens of a file; none where there is no file.

        Raises:
            InputError: if it cannot be read, or is not understood.
        """
        tokens = cls(path, may_be_none=may_be_none)
        tokens._refresh()
        return tokens

    @property
    def are_not_asked_for(self) -> bool:
        """Whether whoever comes may come in; raises InputError as `who` does."""
        return self._may_be_none and len(self) == 0 and not self._had_some

    @staticmethod
    def make(path: Path, name: str, scopes: Iterable[str], *, jobs: int | None = None, bytes: int | None = None) -> str:
        """A new secret, whose digest is added to the file; what is in the file stays as it is, comments included.

        A file that is made is for its owner's eyes only; another keeps its mode.

        Raises:
            UsageError: for a name that is taken or not allowed, or scopes that there are not.
            InputError: if the file cannot be read, or is not understood.
            OutputError: if it cannot be written.
        """
        secret = secrets.token_urlsafe(SECRET_BYTES)
        limits = {key: value for key, value in (("jobs", jobs), ("bytes", bytes)) if value is not None}
        entry = {"name": name, "sha256": _digest(secret), "scopes": list(dict.fromkeys(scopes)), **limits}
        if fault := _fault(entry):
            raise UsageError(f"A token cannot be made: {fault}.")
        try:
            with locked(path):
                text = _text(path)
                if any(token.caller.name == name for token in _parsed(text, path)):
                    raise UsageError(
                        f"{path} has a token of {name} already; take that out first, or give another name."
                    )
                if not path.exists():
                    path.touch(MODE)  # the mode that the new file inherits
                write_whole(path, [_joined(text, entry).encode()])
        except AlignmentsError as error:
            raise InputError(str(error)) from error
        except OSError as error:
            raise unreadable(path, WHAT, error) from error
        return secret

    def who(self, secret: str) -> Caller | None:
        """Whose secret it is. How long it takes tells nothing about the digests.

        Raises:
            InputError: if the file was changed to something that is not understood; nobody is let in then.
        """
        caller = self.holder(_digest(secret))
        self.refused += caller is None
        return caller

    def holder(self, digest: str) -> Caller | None:
        """The same by the secret's digest, 64 hex digits."""
        self._refresh()
        found = None
        for token in self._tokens:
            # All are compared, also after the one that is it.
            if hmac.compare_digest(token.digest, digest):
                found = token.caller
        return found

    def __len__(self) -> int:
        self._refresh()
        return len(self._tokens)

    def _refresh(self) -> None:
        seen = _identity(self.path)
        if seen == self._seen:
            return
        # In this order: where the file is not understood, it is looked at again, and meanwhile nobody is let in.
        self._tokens, self._seen = (), None
        self._tokens = _parsed(_text(self.path), self.path)
        self._seen = seen
        self._had_some |= bool(self._tokens)


class Sessions:
    """Browsers that showed a token, for which they hold a cookie instead. They end with this process.

    A session is nothing but a way to say a token: what the token may do, and whether it is still good, is asked anew
    with every request.
    """

    def __init__(
        self, tokens: Tokens, *, seconds: float = SESSION_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tokens, self._seconds, self._clock = tokens, seconds, clock
        self._sessions: dict[str, _Session] = {}  # by the digests of their ids; the one that was quiet longest first

    def begin(self, secret: str) -> str | None:
        """The id of a new session; None for a secret that is nobody's."""
        if self._tokens.who(secret) is None:
            return None
        digest = _digest(secret)
        self._forget_old()
        same = [key for key, session in self._sessions.items() if session.digest == digest]
        for key in same[: max(0, len(same) + 1 - MOST_SESSIONS)]:
            del self._sessions[key]
        session_id = secrets.token_urlsafe(SECRET_BYTES)
        self._sessions[_digest(session_id)] = _Session(digest, self._clock())
        return session_id

    def who(self, session_id: str) -> Caller | None:
        self._forget_old()
        key = _digest(session_id)
        session = self._sessions.pop(key, None)
        if session is None or (caller := self._tokens.holder(session.digest)) is None:
            return None
        self._sessions[key] = _Session(session.digest, self._clock())
        return caller

    def end(self, session_id: str) -> None:
        self._sessions.pop(_digest(session_id), None)

    def __len__(self) -> int:
        return len(self._sessions)

    def _forget_old(self) -> None:
        before = self._clock() - self._seconds
        while self._sessions and next(iter(self._sessions.values())).used < before:
            del self._sessions[next(iter(self._sessions))]


@dataclass(frozen=True)
class _Session:
    digest: str  # of its token's secret
    used: float


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _identity(path: Path) -> tuple[int, ...]:
    """Enough to see that a file is another, or has other content."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise unreadable(path, WHAT, error) from error
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _text(path: Path) -> str:
    if not os.path.lexists(path):
        return ""
    with open_input(path, WHAT) as file:
        content = file.read()
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8 (byte {error.start}).") from error


def _parsed(text: str, path: Path) -> tuple[_Token, ...]:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not understood: {error}.") from error
    entries = document.pop("token", [])
    if document or not isinstance(entries, list):
        raise InputError(f"{path} is not understood: it is a list of [[token]], with nothing beside it.")
    names: set[str] = set()
    digests: set[str] = set()
    for number, entry in enumerate(entries, 1):
        fault = _fault(entry)
        if fault is None and (entry["name"] in names or entry["sha256"] in digests):
            fault = "its name or its sha256 is another one's, too"
        if fault is not None:
            raise InputError(f"{path} is not understood: of token {number}, {fault}.")
        names.add(entry["name"])
        digests.add(entry["sha256"])
    return tuple(
        _Token(
            entry["sha256"],
            Caller(entry["name"], frozenset(entry["scopes"]), entry.get("jobs"), entry.get("bytes")),
        )
        for entry in entries
    )


def _fault(entry: Any) -> str | None:
    """What is wrong with an entry of the list."""
    if not isinstance(entry, dict):
        return "there are no keys"
    if more := sorted(entry.keys() - _KEYS):
        return f"{', '.join(more)} is not known; there are name, sha256, scopes, jobs and bytes"
    name, digest, scopes = entry.get("name"), entry.get("sha256"), entry.get("scopes")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return "the name must be 1 to 64 of a-z, A-Z, 0-9 and . _ @ -, the first a letter or a digit"
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        return "sha256 must be 64 hex digits in small letters"
    if not isinstance(scopes, list) or not scopes or any(scope not in SCOPES for scope in scopes):
        return f"scopes must be some of {', '.join(SCOPES)}"
    for key in ("jobs", "bytes"):
        value = entry.get(key, 0)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            return f"{key} must be a whole number"
    return None


def _joined(text: str, entry: dict[str, Any]) -> str:
    before = f"{text.rstrip()}\n\n" if text.strip() else ""
    scopes = ", ".join(f'"{scope}"' for scope in entry["scopes"])
    lines = [f'name = "{entry["name"]}"', f'sha256 = "{entry["sha256"]}"', f"scopes = [{scopes}]"]
    lines += [f"{key} = {entry[key]}" for key in ("jobs", "bytes") if key in entry]
    return before + "\n".join(["[[token]]", *lines]) + "\n"
