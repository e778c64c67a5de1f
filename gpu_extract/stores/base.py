"""What a store can do: whole objects under keys, read, listed, put; and put only where a key is free or unchanged."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from gpu_extract.errors import InputError

Version = dict[str, Any]
"""What a store calls one content of an object: `e_tag`, `version`. Only the store that gave it can read it."""


class ChangedError(InputError):
    """An object is not the one any more that was listed."""


@dataclass(frozen=True)
class Entry:
    """An object, without its content."""

    key: str
    size: int
    version: Version = field(hash=False)

    @property
    def identity(self) -> str:
        """The same for the same content."""
        return f"{self.version.get('e_tag')} {self.version.get('version')} {self.size}"


class Store(Protocol):
    """A bucket. All of it may be called from many threads.

    Reading raises InputError, writing OutputError, each with one sentence; a store tries again by itself what may pass.
    """

    def head(self, key: str) -> Entry | None:
        """None where there is no such object."""

    def read(self, key: str) -> tuple[bytes, Entry] | None:
        """Content and what it was; None where there is no such object."""

    def read_range(self, entry: Entry, start: int, end: int) -> bytes:
        """Bytes [start, end) of the very object that was listed.

        Raises:
            ChangedError: if it is another one now.
        """

    def entries(self, prefix: str, after: str = "") -> Iterator[list[Entry]]:
        """What lies below `prefix/`, in pages, ascending where the store sorts.

        Args:
            after: keys up to this one are left out.
        """

    def put(self, key: str, content: bytes | os.PathLike[str]) -> None:
        """Whatever was there before is replaced."""

    def create(self, key: str, content: bytes) -> Version | None:
        """Put where nothing is; None where something is, which stays."""

    def replace(self, key: str, content: bytes, version: Version) -> Version | None:
        """Put over the object of that version; None where another one is there, which stays."""

    def remove(self, key: str) -> None:
        """Harmless where there is no such object."""
