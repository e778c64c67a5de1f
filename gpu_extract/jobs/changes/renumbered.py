"""What a reindex changes in the faces folder, written down before it: so that it can be completed.

Numbers change places, so no file can have its new name at once. First each that moves gets a name of its own in
between, then each gets its new one; the record says which of the two is going on, and so every step can be told done
from what is on the disk. `pruned` is its counterpart for faces that leave.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, Self

from gpu_extract.errors import OutputError
from gpu_extract.face_files.metadata import Row
from gpu_extract.jobs.changes.contents import digest_at, numbered, raw
from gpu_extract.jobs.changes.record import BEGUN, REINDEX, FileRecord
from gpu_extract.run import journal
from gpu_extract.storage.atomic import sync_file, sync_folder
from gpu_extract.storage.durable import sync_file_system
from gpu_extract.storage.parts import write_file

HELD = "held"
ASIDE = ".moved"
"""Behind the old name of a file whose new name was taken by another one meanwhile."""
BETWEEN = ".gpu-extract.moving-"
"""How names in between begin; the number of the file in the record follows."""


@dataclass(frozen=True)
class Moved:
    """A face file that gets another number."""

    old: str
    """Its name before, relative to the folder."""
    new: str
    """After; in the same sub-folder."""
    before: str
    """Digest of its content."""
    after: str
    index: int
    """Its new number."""
    original: str
    """Name that its header gives it then."""

    @property
    def inside(self) -> str:
        """The sub-folder, "" or with a slash at its end."""
        folder, slash, _ = self.old.rpartition("/")
        return folder + slash


@dataclass
class Renumbered(FileRecord):
    """The record, which is there only until all is done."""

    FILE: ClassVar[str] = journal.REINDEXED
    COMMAND: ClassVar[str] = REINDEX
    REMEDY: ClassVar[str] = "extract the faces again, into a new folder"

    files: list[Moved] = field(default_factory=list)
    numbers: dict[str, tuple[str, int]] = field(default_factory=dict)
    """By the old name of a face in the list: the new one, and its new number."""

    @classmethod
    def made(cls, told: dict[str, Any]) -> Self:
        return cls(**told | {"files": [Moved(**one) for one in told["files"]]})

    def is_going_on(self, folder: Path) -> bool:
        """Whether files have lost their old names already."""
        between = (self._between(folder, number) for number in range(len(self.files)))
        return self.state != BEGUN or any(map(os.path.lexists, between))

    def finish(self, folder: Path) -> list[str]:
        """Make the folder one of the alignments file after the reindex; what could not be done, in sentences.

        Raises:
            OutputError: if the disk refuses; it can be done again.
        """
        left: set[str] = set()
        try:
            if self.state == BEGUN:
                left.update(one.old for number, one in enumerate(self.files) if not self._hold(folder, number))
                self._settle(folder)
                self.state = HELD
                self.save(folder)
            left.update(one.old for number, one in enumerate(self.files) if not self._name(folder, number))
            self._settle(folder)
        except OSError as error:
            raise OutputError(f"the faces in {folder} cannot be renumbered: {error.strerror}.") from error
        notes = [f"{name} was changed or taken away meanwhile and is not renumbered." for name in sorted(left)]
        notes += self._follow(folder, self.revised)
        self.remove(folder)
        return notes

    def _between(self, folder: Path, number: int) -> Path:
        return folder / f"{self.files[number].inside}{BETWEEN}{number}"

    def _hold(self, folder: Path, number: int) -> bool:
        """Take a file's old name away; whether that is done."""
        one, between = self.files[number], self._between(folder, number)
        if digest_at(between) == one.before:
            return True
        if digest_at(folder / one.old) != one.before:
            return False
        (folder / one.old).rename(between)
        return True

    def _name(self, folder: Path, number: int) -> bool:
        """Give a file its new name, and its header the new number; whether that is done."""
        one, between = self.files[number], self._between(folder, number)
        data = raw(between)
        if data is None:
            return digest_at(folder / one.new) == one.after
        if os.path.lexists(folder / one.new) and digest_at(folder / one.new) != one.after:
            between.rename(folder / f"{one.old}{ASIDE}")
            return False
        if one.before == one.after:
            between.rename(folder / one.new)
            return True
        name = one.new.removeprefix(one.inside)
        write_file(folder / one.inside, name, numbered(data, one.index, one.original))
        between.unlink()
        return True

    def _settle(self, folder: Path) -> None:
        """Put names and files on the disk before anything says that they are there."""
        if sync_file_system(folder):
            return
        for number, one in enumerate(self.files):
            for path in (folder / one.new, self._between(folder, number)):
                with suppress(FileNotFoundError):
                    sync_file(path)
        for inside in {one.inside for one in self.files}:
            sync_folder(folder / inside)

    def revised(self, rows: Iterable[Row]) -> Iterator[Row]:
        for _, of_frame in groupby(rows, key=lambda row: row["frame"]):
            changed = []
            for row in of_frame:
                name, index = self.numbers.get(row["file"], (row["file"], row["index"]))
                changed.append({**row, "file": name, "index": index})
            yield from sorted(changed, key=lambda row: row["index"])
