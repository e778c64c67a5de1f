"""What a rename calls otherwise in a folder, written down before it, so that it can be taken back.

The record lies in the folder: of each file its name before and after, and the digest of its content. A file whose name
another one has that moves away itself waits for that; of a circle one file has a third name for an instant. Each step
is one rename to a name that is free, so no file is ever without a name, and none is overwritten.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Self

from gpu_extract.errors import InputError, OutputError
from gpu_extract.jobs.changes.contents import digest_at
from gpu_extract.jobs.changes.record import BEGUN, RENAME, Record
from gpu_extract.naming import split_name
from gpu_extract.run import journal
from gpu_extract.storage.atomic import sync_folder


@dataclass
class Moved:
    """A file that is called otherwise; names are relative to the folder."""

    old: str
    new: str
    digest: str
    """Of its content, which stays."""
    aside: str | None = None
    """Its name for an instant, where others are in a circle with it."""

    def is_at(self, folder: Path, name: str | None) -> bool:
        """Whether the file, or one of the same content, has a name now."""
        return name is not None and digest_at(folder / name) == self.digest


@dataclass
class Renamed(Record):
    """The record."""

    FILE: ClassVar[str] = journal.RENAMED
    COMMAND: ClassVar[str] = RENAME

    files: list[Moved] = field(default_factory=list)

    @classmethod
    def made(cls, told: dict[str, Any]) -> Self:
        return cls(told["state"], [Moved(**one) for one in told["files"]])

    def followed_by(self, folder: Path, moves: Mapping[str, str]) -> Renamed:
        """One record of this one, whose work was stopped, and of the moves that complete it."""
        left = dict(moves)
        files = []
        for one in self.files:
            now = next((name for name in (one.new, one.aside) if one.is_at(folder, name)), None)
            if now is not None:
                files.append(Moved(one.old, left.pop(now, one.new), one.digest))
        return Renamed(BEGUN, files + [Moved(old, new, _digest(folder, old)) for old, new in left.items()])

    def backwards(self, folder: Path) -> dict[str, str]:
        """The moves that take it back, of files that are where it left them."""
        found = {}
        for one in self.files:
            if not one.is_at(folder, one.old):
                now = next((name for name in (one.new, one.aside) if one.is_at(folder, name)), None)
                if now is not None:
                    found[now] = one.old
        return found

    def note_asides(self, folder: Path, steps: Collection[tuple[str, str]]) -> None:
        """Remember the third names of steps, so that whoever goes on finds the files."""
        targets = {one.old for one in self.files} | {one.new for one in self.files}
        aside = {source: target for source, target in steps if target not in targets}
        for one in self.files:
            now = next((name for name in (one.old, one.new) if name in aside and one.is_at(folder, name)), None)
            if now is not None:
                one.aside = aside[now]


def _digest(folder: Path, name: str) -> str:
    found = digest_at(folder / name)
    if found is None:
        raise InputError(f"{folder / name} cannot be read any more; nothing was renamed.")
    return found


def steps_of(moves: Mapping[str, str], occupied: Collection[str]) -> list[tuple[str, str]]:
    """The renames that bring files to their names, in an order in which each name is free when its turn comes.

    Args:
        moves: by a file's name the one that it is to have; each of these is free, or that of a file that moves too.
        occupied: all names in the folder.
    """
    steps: list[tuple[str, str]] = []
    left = dict(moves)
    taken = {*occupied, *moves.values()}
    for first in moves:
        if first not in left:
            continue
        chain = [first]
        while (target := left[chain[-1]]) in left and target != first:
            chain.append(target)
        if target == first:
            aside = next(name for name in _asides(left[first]) if name not in taken)
            steps.append((first, aside))
            steps += [(source, left[source]) for source in reversed(chain[1:])]
            steps.append((aside, left[first]))
        else:
            steps += [(source, left[source]) for source in reversed(chain)]
        for source in chain:
            del left[source]
    return steps


def _asides(name: str) -> Iterator[str]:
    stem, extension = split_name(name)
    yield f"{stem} (renaming){extension}"
    yield from (f"{stem} (renaming {number}){extension}" for number in count(2))


def take(folder: Path, steps: Collection[tuple[str, str]]) -> list[tuple[str, str]]:
    """Rename files; those that cannot be, because somebody took the file or the name meanwhile.

    Raises:
        OutputError: if the disk refuses; it can be gone on with.
    """
    left, touched = [], set()
    for source, target in steps:
        old, new = folder / source, folder / target
        if not os.path.lexists(old) or (os.path.lexists(new) and not _is_one(old, new)):
            left.append((source, target))
            continue
        try:
            new.parent.mkdir(parents=True, exist_ok=True)
            old.rename(new)
        except OSError as error:
            raise OutputError(f"{old} cannot be renamed to {target}: {error.strerror}.") from error
        touched |= {old.parent, new.parent}
    for place in sorted(touched):
        sync_folder(place)
    return left


def _is_one(old: Path, new: Path) -> bool:
    """Whether two names are one to a file system that takes no notice of case."""
    return old.parent == new.parent and old.name.casefold() == new.name.casefold() and old.samefile(new)
