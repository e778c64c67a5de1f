"""Where the record of a change lies: a file in the faces folder, JSON under zlib, whole or not there."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gpu_extract.errors import InputError
from gpu_extract.storage.atomic import sync_folder, write_whole
from gpu_extract.storage.inputs import open_input

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

VERSION = 1
Record = TypeVar("Record")


@dataclass(frozen=True)
class RecordFile:
    """Of one kind of change.

    Args:
        name: of the file.
        word: the key of its JSON that holds the version.
        what: it is, for a sentence: "the record of the last prune".
    """

    name: str
    word: str
    what: str

    def load(self, folder: Path, make: Callable[[dict[str, Any]], Record], remedy: str) -> Record | None:
        """The record that lies in a folder; None where there is none.

        Args:
            make: the record of the keys of its JSON.
            remedy: what to do where it cannot be understood, the end of a sentence.

        Raises:
            InputError: if it cannot be read.
        """
        path = folder / self.name
        if not os.path.lexists(path):
            return None
        with open_input(path, self.what) as file:
            data = file.read()
        try:
            told = json.loads(zlib.decompress(data))
            if told.pop(self.word) != VERSION:
                raise ValueError
            return make(told)
        except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
            raise InputError(f"{path} is damaged, or of another version of this program; {remedy}.") from error

    def save(self, folder: Path, record: DataclassInstance) -> None:
        """Put the record into the folder; raises OutputError if the disk refuses."""
        data = json.dumps({self.word: VERSION, **asdict(record)}, separators=(",", ":"))
        write_whole(folder / self.name, [zlib.compress(data.encode())])

    def remove(self, folder: Path) -> None:
        with suppress(FileNotFoundError):
            (folder / self.name).unlink()
        sync_folder(folder)
