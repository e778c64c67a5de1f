"""The record of a change: a file in the faces folder, JSON under zlib, whole or not there.

It is written before anything is changed, and says what is to be done; so what was stopped is completed or taken back.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from gpu_extract.alignments import Alignments
from gpu_extract.errors import InputError
from gpu_extract.face_files.metadata import STEM, Row, rows_of, write_metadata
from gpu_extract.jobs.changes.contents import packed, raw, rows_digest, unpacked
from gpu_extract.run import journal
from gpu_extract.run.fingerprint import digest as faces_digest
from gpu_extract.storage.atomic import new_digest, sync_folder, write_whole
from gpu_extract.storage.inputs import open_input

VERSION = 1
PRUNE, REINDEX, RENAME = "prune", "reindex", "rename"
BEGUN, DONE, UNDOING = "begun", "done", "undoing"
NO_LIST = (InputError, ValueError, KeyError, TypeError, AttributeError)
"""What is raised where a list of faces is damaged, or none."""


@dataclass
class Record:
    """Of one kind of change; its fields are the keys of its JSON."""

    FILE: ClassVar[str]
    """Its name in the folder; behind the last dot is the key of the JSON that holds the version."""
    COMMAND: ClassVar[str]
    """Whose change it is."""
    REMEDY: ClassVar[str] = "remove it if nothing is to be undone"
    """What to do where it cannot be understood, the end of a sentence."""

    state: str = BEGUN

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """The record that lies in a folder; None where there is none.

        Raises:
            InputError: if it cannot be read.
        """
        path = folder / cls.FILE
        if not os.path.lexists(path):
            return None
        with open_input(path, f"the record of the last {cls.COMMAND}") as file:
            data = file.read()
        try:
            told = json.loads(zlib.decompress(data))
            if told.pop(cls._word()) != VERSION:
                raise ValueError
            return cls.made(told)
        except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
            raise InputError(f"{path} is damaged, or of another version of this program; {cls.REMEDY}.") from error

    @classmethod
    def made(cls, told: dict[str, Any]) -> Self:
        """The record of the keys of its JSON."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Put the record into the folder; raises OutputError if the disk refuses."""
        data = json.dumps({self._word(): VERSION, **asdict(self)}, separators=(",", ":"))
        write_whole(folder / self.FILE, [zlib.compress(data.encode())])

    @classmethod
    def remove(cls, folder: Path) -> None:
        with suppress(FileNotFoundError):
            (folder / cls.FILE).unlink()
        sync_folder(folder)

    @classmethod
    def _word(cls) -> str:
        return cls.FILE.rpartition(".")[2]


@dataclass
class FileRecord(Record):
    """Of a change of an alignments file that its folder of faces follows, with the journals and the list of faces."""

    before: str = ""
    """Digest of the alignments file."""
    after: str = ""
    faces: tuple[str, str] = ("", "")
    """Digests of where its faces are, as journals have them."""
    journals: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By name, what each says before and after, packed."""
    kind: str | None = None
    """Of the list of faces, where there is one that has to follow."""
    lists: tuple[str, str] = ("", "")
    """Its digests before and after."""

    def is_of(self, alignments: Alignments) -> tuple[bool, bool]:
        """Whether a file is that of before, and whether it is that of after; its hashes and the like may be others."""
        now = faces_digest(alignments)
        before, after = self.faces
        return (
            alignments.digest == self.before or (now == before != after),
            alignments.digest == self.after or (now == after != before),
        )

    def note_after(self, alignments: Alignments, before: str) -> None:
        """Remember the file that is changed in memory; `before` is what `faces` has of it as it was."""
        self.faces = (before, faces_digest(alignments))
        self.after = content_digest(alignments)

    def note_journals(self, folder: Path, revise: Callable[[bytes], bytes]) -> None:
        """Remember what each journal in a folder says, and what it is to say."""
        for name in journal.names(folder):
            path = folder / name
            if os.path.lexists(path):
                with open_input(path, journal.WHAT) as file:
                    before = file.read()
                after = revise(before)
                if after != before:
                    self.journals[name] = (packed(before), packed(after))

    def note_list(self, folder: Path, kind: str) -> None:
        """Remember that the list of faces follows; raises one of `NO_LIST` if it cannot."""
        before = rows_digest(rows_of(folder, kind))
        self.lists = before, rows_digest(self.revised(rows_of(folder, kind)))
        self.kind = kind

    def revised(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The list of faces after the change."""
        raise NotImplementedError

    def _follow(
        self, folder: Path, rewritten: Callable[[Iterable[Row]], Iterator[Row]], *, back: bool = False
    ) -> list[str]:
        """Let the list of faces and the journals follow.

        Args:
            rewritten: the list as it is to be, made of what it is.
            back: to what was before.

        Returns:
            What could not be done, in sentences.
        """
        notes = []
        if self.kind is not None:
            try:
                now = rows_digest(rows_of(folder, self.kind))
            except (InputError, ValueError, KeyError, OSError):
                now = ""
            list_wanted, list_other = self.lists if back else reversed(self.lists)
            if now == list_other:
                write_metadata(folder, self.kind, rewritten(rows_of(folder, self.kind)))
            elif now != list_wanted:
                notes.append(f"{STEM}.{self.kind} was changed meanwhile and is left as it is.")
        for name, states in self.journals.items():
            wanted, other = map(unpacked, states if back else reversed(states))
            data = raw(folder / name)
            if data is None or data.startswith(wanted):
                continue
            if (text := journal.with_tail(wanted, other, data)) is None:
                notes.append(f"{name} was written into meanwhile and is left as it is.")
            else:
                write_whole(folder / name, [text])
        return notes


def content_digest(alignments: Alignments) -> str:
    """Digest of the file that saving would write."""
    state = new_digest()
    for block in alignments.content():
        state.update(block)
    return str(state.hexdigest())
