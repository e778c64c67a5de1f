"""The file formats that alignments come in; the file's extension alone says which.

A module of `containers/` is one: `EXTENSIONS` lists its file extensions in lower case, and `read` and `write`
turn a file into a Document and back. A new one is a new file here; nothing lists them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from gpu_extract import plugins
from gpu_extract.alignments.limits import Limits
from gpu_extract.alignments.repeats import Repeats
from gpu_extract.errors import AlignmentsError


@dataclass
class Document:
    """What a file holds: its top-level dict, in which bulk numbers may be packed; `protocol` is of a pickle."""

    root: dict[Any, Any]
    protocol: int | None = None
    numpy_2: bool = False
    """Whether a pickle's arrays have the names of NumPy 2."""
    repeats: Repeats = field(default_factory=Repeats)
    """Of a text, whose keys may stand twice."""


class Container(Protocol):
    EXTENSIONS: tuple[str, ...]

    def read(self, file: BinaryIO, stored: int, limits: Limits, label: str) -> Document:
        """Read an open file of `stored` bytes; `label` names it in errors. Raises AlignmentsError."""

    def write(self, document: Document) -> Iterator[bytes]:
        """The content of a file that holds `document`, in pieces."""


@cache
def containers() -> dict[str, Container]:
    """Extension -> the module that reads and writes it."""
    found: dict[str, Container] = {}
    for module in plugins.modules("gpu_extract.alignments.containers"):
        container = cast(Container, module)
        found.update(dict.fromkeys(container.EXTENSIONS, container))
    return found


def container_for(path: Path) -> Container:
    """The container that `path`'s extension names. Raises AlignmentsError for an unknown one."""
    container = containers().get(path.suffix.lower())
    if container is None:
        allowed = ", ".join(sorted(containers()))
        raise AlignmentsError(f"{path.name} does not have the extension of an alignments file; known are {allowed}.")
    return container
