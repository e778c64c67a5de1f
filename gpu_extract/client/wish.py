"""What `submit` was asked for, and what the words of it name: files here, files of a server's roots, a token."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_extract.client.remote import InRoot
from gpu_extract.client.server import PATIENCE_SECONDS
from gpu_extract.errors import InputError, UsageError
from gpu_extract.naming import url_of
from gpu_extract.options import SERVER_DECIDES, TOKEN_VARIABLE, Settings, option, options
from gpu_extract.storage.inputs import open_input

STAYS_HERE = ("alignments", "frames", "faces", "json", "progress", "no_update", "partial_ok", *SERVER_DECIDES)
"""Options of `extract` that the server is not told."""
MOST_TOKEN = 4096

Place = Path | InRoot
"""Of an input: here, or on the server."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What `submit` was asked for.

    Attributes:
        values: of the options of `extract`, by name.
        job: the id of a job that was submitted before, of which only the result is wanted.
        detach: come back as soon as the server has the job.
        alignments_out: where to put an alignments file that is the server's.
    """

    url: str
    values: Mapping[str, Any]
    token_file: str | None = None
    job: str | None = None
    detach: bool = False
    patience: float = PATIENCE_SECONDS
    cancel_on_interrupt: bool = False
    alignments_out: str | None = None
    priority: int = 0

    def check(self) -> None:
        """
        Raises:
            UsageError: for values that no run takes, or that contradict each other.
        """
        if self.job is None:
            Settings(**{name: value for name, value in self.values.items() if name not in SERVER_DECIDES})
        if isinstance(self.alignments, Path) and self.alignments_out is not None:
            raise UsageError("alignments-out is for an alignments file of the server's; a file here is updated itself.")

    @property
    def faces(self) -> Path:
        """
        Raises:
            UsageError: for the address of a bucket.
        """
        return _here(self.values["faces"], "faces")

    @property
    def alignments(self) -> Place | None:
        """None where only the result of a job is wanted; raises as `place` does."""
        if self.job is not None and self.values.get("alignments") is None:
            return None
        return place(self.values["alignments"])

    @property
    def frames(self) -> Place | None:
        """None where only the result of a job is wanted; raises as `place` does."""
        return None if self.job is not None else place(self.values["frames"])

    @property
    def updates(self) -> bool:
        return not self.values.get("no_update")

    @property
    def writes_nothing(self) -> bool:
        return bool(self.values.get("dry_run"))

    @property
    def options(self) -> dict[str, Any]:
        """Those that the server is told: what is not as usual."""
        rows = {row.name: row for row in options("extract")}
        return {
            name: value
            for name, value in self.values.items()
            if name in rows and name not in STAYS_HERE and value != rows[name].default
        }

    @property
    def token(self) -> str | None:
        """By which the server knows who asks; never from the command line, which others see.

        Raises:
            InputError: if the file cannot be read.
        """
        if self.token_file is None:
            return os.environ.get(TOKEN_VARIABLE) or None
        with open_input(self.token_file, "the token's file") as file:
            return file.read(MOST_TOKEN).decode("utf-8", "replace").strip()


def place(word: str | os.PathLike[str]) -> Place:
    """An input: a file or folder here, or `ROOT:path` of the server where there is none of that name here.

    Raises:
        UsageError: for the address of a bucket.
        InputError: if it is neither.
    """
    found = InRoot.of(word)
    if found is not None:
        return found
    path = _here(word, "what it uploads")
    if not path.exists():
        raise InputError(f"{path} does not exist; check its name and folder, or name a server's as ROOT:path.")
    return path


def _here(word: str | os.PathLike[str], what: str) -> Path:
    if (url := url_of(word)) is not None:
        raise UsageError(f"submit takes {what} of this machine only, not {url}.")
    return Path(word)


def check_decides_itself(flags: Mapping[str, Any]) -> None:
    """Refuse what is named on the command line and is the server's to decide.

    Raises:
        UsageError: if something is.
    """
    for name in flags:
        if name in SERVER_DECIDES:
            raise UsageError(f"{option(name).flags[-1]}: the server decides that for its jobs; leave it out.")
