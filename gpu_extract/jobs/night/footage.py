"""What a batch cuts: the videos and folders of images in some places, each with its alignments file if it has one.

Nothing is opened. Whether a file is what its name says, its own run finds out.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gpu_extract.errors import InputError
from gpu_extract.jobs.whereabouts import alignments_of, looked_for, name_of
from gpu_extract.naming import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, has_extension, of_this_machine, split_name
from gpu_extract.run import journal
from gpu_extract.storage.inputs import unreadable

VIDEOS = (*sorted(VIDEO_EXTENSIONS), ".3gp", ".m2ts", ".m4v", ".mts", ".mxf", ".ogv")
WILD = frozenset("*?[")
NAMED = 5
"""Files that a note names."""


@dataclass(frozen=True)
class Footage:
    """A video or a folder of images."""

    frames: Path
    below: Path
    """Where its faces go, in the batch's faces folder."""
    is_folder: bool
    alignments: Path | None = None
    fault: str = ""
    """Why it cannot be cut, as a sentence; empty where nothing is known against it."""


@dataclass
class Found:
    """What is in all places."""

    footage: list[Footage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find(
    places: Iterable[str | os.PathLike[str]],
    faces: Path,
    *,
    alignments_dir: Path | None = None,
    recursive: bool = False,
) -> Found:
    """The footage of some places, in their order, each piece once.

    Args:
        places: videos, folders of images, folders of either, and patterns of such names.
        faces: the folder of faces, whose own folders are no footage.
        alignments_dir: where the alignments files lie, if not beside the frames.
        recursive: also the folders in those folders.

    Raises:
        InputError: if a place is not there, or nothing in all of them has an alignments file.
        UsageError: for an address.
    """
    search = _Search(faces, alignments_dir, recursive)
    asked = [os.fspath(of_this_machine(place, "batch")) for place in places]
    if alignments_dir is not None and not alignments_dir.is_dir():
        raise InputError(f"there is no folder {alignments_dir}; name the one that holds the alignments files.")
    for place in asked:
        for path in _matching(place):
            search.take(path)
    found = _apart(list(search.found.values()))
    if not any(one.alignments for one in found):
        raise InputError(_nothing(found, asked, search.among_faces))
    return Found(found, _notes(search.left_out))


class _Search:
    def __init__(self, faces: Path, alignments_dir: Path | None, recursive: bool) -> None:
        self._faces = os.path.realpath(faces)
        self._alignments_dir, self._recursive = alignments_dir, recursive
        self.found: dict[str, Footage] = {}
        """By the path that leads there without links, but for one under its own name."""
        self.left_out: list[str] = []
        self.among_faces: list[Path] = []
        """What was named and is the folder of faces, or in it."""

    def take(self, path: Path) -> None:
        """What somebody named."""
        if path.is_dir():
            if self._is_of_faces(os.path.realpath(path)):
                self.among_faces.append(path)
            self._take_folder(path, Path(), is_named=True)
        elif has_extension(path.name, VIDEOS):
            self._add(path, Path(), is_folder=False)
        else:
            self.left_out.append(path.name)

    def _take_folder(self, folder: Path, below: Path, *, is_named: bool) -> None:
        if self._is_of_faces(os.path.realpath(folder)):
            return
        try:
            with os.scandir(folder) as scanned:
                entries = sorted(scanned, key=lambda entry: entry.name)
        except OSError as error:
            fault = unreadable(folder, "the folder", error)
            if is_named:
                raise fault from error
            self._put(Footage(folder, below / name_of(folder), is_folder=True, fault=str(fault)))
            return
        if any(entry.name.startswith(journal.NAME) for entry in entries):
            return
        shown = [entry for entry in entries if not entry.name.startswith(".")]
        before = len(self.found)
        inner = below if is_named else below / folder.name
        for entry in shown:
            if entry.is_dir():
                # A link may lead back to where it is; what it names itself is taken, what is in there is not.
                if is_named or (self._recursive and not entry.is_symlink()):
                    self._take_folder(folder / entry.name, inner, is_named=False)
            elif has_extension(entry.name, VIDEOS) and (is_named or self._recursive):
                self._add(folder / entry.name, inner, is_folder=False)
        if any(has_extension(entry.name, IMAGE_EXTENSIONS) and not entry.is_dir() for entry in shown):
            holds_others = len(self.found) > before
            self._add(folder, below, is_folder=True, only_with_alignments=holds_others)

    def _is_of_faces(self, path: str) -> bool:
        return path == self._faces or path.startswith(f"{self._faces}{os.sep}")

    def _add(self, frames: Path, below: Path, *, is_folder: bool, only_with_alignments: bool = False) -> None:
        name = name_of(frames)
        alignments = self._alignments_of(frames, below)
        if alignments is not None or not only_with_alignments:
            stem = name if is_folder else split_name(name)[0]
            self._put(Footage(frames, below / stem, is_folder, alignments))

    def _alignments_of(self, frames: Path, below: Path) -> Path | None:
        if self._alignments_dir is None:
            return alignments_of(frames)
        folders = dict.fromkeys((self._alignments_dir / below, self._alignments_dir))
        return next((file for folder in folders if (file := alignments_of(frames, folder)) is not None), None)

    def _put(self, footage: Footage) -> None:
        folder = os.path.realpath(footage.frames.parent if footage.frames.name else footage.frames / "..")
        self.found.setdefault(os.path.join(folder, name_of(footage.frames)), footage)  # noqa: PTH118 (a key)


def _matching(place: str) -> list[Path]:
    """The path that a place is, or those that it is a pattern of."""
    if os.path.lexists(place):
        return [Path(place)]
    matches = sorted(glob.glob(place, recursive=True)) if WILD & set(place) else []  # noqa: PTH207 (also absolute ones)
    if not matches:
        raise InputError(f"there is nothing at {place}; pass videos, folders of images, or folders of either.")
    return [Path(match) for match in matches]


def _apart(found: Sequence[Footage]) -> list[Footage]:
    """The same, of which none is to be cut that would share its alignments file or its faces folder with another."""
    settled = list(found)
    for group in _groups(settled, lambda one: None if one.alignments is None else os.path.realpath(one.alignments)):
        videos = [i for i in group if not settled[i].is_folder]
        if len(videos) == 1:  # a video's file, and a folder of its frames beside it
            for i in set(group) - set(videos):
                settled[i] = replace(settled[i], alignments=None)
        else:
            file = settled[group[0]].alignments
            why = f"would all be cut by {file}; name only the one that it was made from."
            _refuse(settled, group, why)
    for group in _groups(settled, lambda one: one.below if one.alignments is not None and not one.fault else None):
        why = (
            f"would share one folder of faces, {settled[group[0]].below}; name the folder that holds them all, with "
            "--recursive, or cut one with another --faces."
        )
        _refuse(settled, group, why)
    return settled


def _groups(found: Sequence[Footage], key: Callable[[Footage], Hashable | None]) -> Iterator[list[int]]:
    """Places of those that agree in a key that is not None, two or more."""
    by_key: dict[Hashable, list[int]] = {}
    for i, one in enumerate(found):
        if (value := key(one)) is not None:
            by_key.setdefault(value, []).append(i)
    yield from (group for group in by_key.values() if len(group) > 1)


def _refuse(found: list[Footage], group: Sequence[int], why: str) -> None:
    names = " and ".join(os.fspath(found[i].frames) for i in group)
    for i in group:
        found[i] = replace(found[i], fault=f"{names} {why}")


def _nothing(found: Sequence[Footage], places: Sequence[str], among_faces: Sequence[Path]) -> str:
    if among_faces and not found:
        return f"no videos are looked for in {among_faces[0]}, for the faces go there; name another --faces."
    named = ", ".join(places[:NAMED]) + (", …" if len(places) > NAMED else "")
    if not found:
        return f"there are no videos and no folders of images in {named}; --recursive looks into inner folders, too."
    if len(found) == 1:
        one = found[0]
        return one.fault or f"{one.frames} has no alignments file: there is no {looked_for(one.frames)}."
    return (
        f"none of the {len(found):,} videos and folders of images in {named} has an alignments file: "
        f"there is no {looked_for(found[0].frames)}, for example; --alignments-dir names another folder."
    )


def _notes(left_out: Sequence[str]) -> list[str]:
    if not left_out:
        return []
    names = ", ".join(left_out[:NAMED]) + (", …" if len(left_out) > NAMED else "")
    if len(left_out) == 1:
        return [f"{names} does not have a video's name and was left out."]
    return [f"{len(left_out):,} files do not have a video's name and were left out: {names}"]
