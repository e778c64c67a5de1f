"""What a prune changes in the faces folder, written down before it: so that it can be completed, and taken back.

The record lies in the folder. It says which alignments file it goes with, before and after, by the digests of their
content; which files get another name or header; and what becomes of the journals and of the list of faces. Each step
can be told done from what is on the disk, so both ways may begin again wherever they were stopped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from gpu_extract.errors import OutputError
from gpu_extract.face_files.header import with_text
from gpu_extract.face_files.metadata import Row
from gpu_extract.jobs.changes.contents import digest_at, numbered, raw
from gpu_extract.jobs.changes.record import PRUNE, FileRecord
from gpu_extract.run import journal
from gpu_extract.storage.atomic import sync_file
from gpu_extract.storage.durable import sync_file_system
from gpu_extract.storage.parts import write_file


@dataclass(frozen=True)
class Numbered:
    """A face file that gets another number, in its name, in its header, or in both."""

    old: str
    """Its name before, relative to the folder."""
    new: str
    before: str
    """Digest of its content."""
    after: str
    nbytes: int
    """Of its content after."""
    index: tuple[int, int] | None = None
    """Before and after, where its header says it."""
    stem: str = ""
    """How the name that its header gives it begins."""
    text: str | None = None
    """What the header said before, where the numbers alone do not lead back to it."""

    def revised(self, data: bytes) -> bytes:
        return data if self.index is None else numbered(data, self.index[1], f"{self.stem}_{self.index[1]}.png")

    def restored(self, data: bytes) -> bytes:
        if self.text is not None:
            return with_text(data, self.text)
        return data if self.index is None else numbered(data, self.index[0], f"{self.stem}_{self.index[0]}.png")


@dataclass
class Pruned(FileRecord):
    """The record."""

    FILE: ClassVar[str] = journal.PRUNED
    COMMAND: ClassVar[str] = PRUNE

    nbytes: int = 0
    """Of the alignments file before."""
    files: list[Numbered] = field(default_factory=list)
    """In an order in which each new name is free when its turn comes."""
    renamed: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    """By the old name of a face in the list: the new one, its index before and after."""
    left_out: list[tuple[int, Row]] = field(default_factory=list)
    """Rows of the list of faces that leave it, and where they stood."""

    @classmethod
    def made(cls, told: dict[str, Any]) -> Self:
        told["files"] = [
            Numbered(**{**one, "index": None if one["index"] is None else tuple(one["index"])}) for one in told["files"]
        ]
        return cls(**told)

    def bring_forward(self, folder: Path) -> list[str]:
        """Make the folder one of the alignments file after the prune; what could not be done, in sentences.

        Raises:
            OutputError: if the disk refuses; it can be done again.
        """
        steps = [_Step(one.old, one.new, one.before, one.after, one.revised) for one in self.files]
        left = _take(folder, steps)
        return self._finish(folder, left, back=False)

    def take_back(self, folder: Path) -> list[str]:
        """The reverse of `bring_forward`."""
        files = reversed(self.files)
        steps = [_Step(one.new, one.old, one.after, one.before, one.restored) for one in files]
        left = _take(folder, steps)
        return self._finish(folder, left, back=True)

    def _finish(self, folder: Path, left: list[str], *, back: bool) -> list[str]:
        notes = [f"{name} was changed or taken away meanwhile and is left as it is." for name in left]
        self._settle(folder)
        return notes + self._follow(folder, self._restored if back else self.revised, back=back)

    def _settle(self, folder: Path) -> None:
        """Put the files on the disk: the journals call them whole."""
        try:
            if sync_file_system(folder):
                return
            for one in self.files:
                for name in (one.old, one.new):
                    with suppress(FileNotFoundError):
                        sync_file(folder / name)
        except OSError as error:
            raise OutputError(f"the faces in {folder} cannot be saved: {error.strerror}.") from error

    def revised(self, rows: Iterable[Row]) -> Iterator[Row]:
        gone = {row["file"] for _, row in self.left_out}
        for row in rows:
            if row["file"] in gone:
                continue
            new, _, index = self.renamed.get(row["file"], (row["file"], 0, row["index"]))
            yield {**row, "file": new, "index": index}

    def _restored(self, rows: Iterable[Row]) -> Iterator[Row]:
        old = {new: (name, index) for name, (new, index, _) in self.renamed.items()}
        left_out = dict(self.left_out)
        at = 0
        for row in rows:
            while at in left_out:
                yield left_out.pop(at)
                at += 1
            name, index = old.get(row["file"], (row["file"], row["index"]))
            yield {**row, "file": name, "index": index}
            at += 1
        yield from left_out.values()


@dataclass(frozen=True)
class _Step:
    """A file that gets another name, other content, or both."""

    source: str
    target: str
    was: str
    """Digest of its content."""
    becomes: str
    change: Callable[[bytes], bytes]

    def is_certainly_done(self, folder: Path) -> bool:
        """Its file is there, and what it was made of is not."""
        return digest_at(folder / self.target) == self.becomes and digest_at(folder / self.source) != self.was

    def take(self, folder: Path) -> str | None:
        """Do it, or what a kill left of it to do; the name of a file that is not there as it should be."""
        source, target = folder / self.source, folder / self.target
        if digest_at(target) == self.becomes:
            if source != target and self.was != self.becomes and digest_at(source) == self.was:
                source.unlink()
            return None
        if digest_at(source) != self.was or (source != target and os.path.lexists(target)):
            return self.source
        inside, _, name = self.target.rpartition("/")
        try:
            (folder / inside).mkdir(parents=True, exist_ok=True)
            if self.was == self.becomes:
                source.rename(target)
                return None
            data = raw(source)
            if data is None:
                return self.source
            write_file(folder / inside, name, self.change(data))
            if source != target:
                source.unlink()
        except OSError as error:
            raise OutputError(f"{source} cannot be renamed or written: {error.strerror}.") from error
        return None


def _take(folder: Path, steps: Sequence[_Step]) -> list[str]:
    """Do what is yet to be done of steps, in their order; the names of files that are not there as they should be.

    Of equal faces in a frame one has, after a step, the very bytes and the name that the next one had before. So a step
    by itself does not tell whether it was done, but whatever stands before one that certainly was, was done as well.
    """
    done = max((i + 1 for i, one in enumerate(steps) if one.is_certainly_done(folder)), default=0)
    left = [one.target for one in steps[:done] if digest_at(folder / one.target) != one.becomes]
    return left + [name for one in steps[done:] if (name := one.take(folder)) is not None]
