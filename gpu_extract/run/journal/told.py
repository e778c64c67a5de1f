"""What journals say, read from files or from bytes, with a lock or without."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu_extract.errors import InputError, OutputError
from gpu_extract.run.fingerprint import Fingerprint
from gpu_extract.run.journal.entries import VERSION, Finished, finished, first_entry, frame_entry, line, parse
from gpu_extract.run.journal.files import WHAT, name_of, names
from gpu_extract.run.shard import Shard
from gpu_extract.storage.inputs import open_input, unreadable
from gpu_extract.tasks import FaceResult

READ_BYTES = LONGEST_FIRST_LINE = 1 << 20
LAST_BYTES = 1 << 16


@dataclass(eq=False)
class Told:
    """What a journal says."""

    settings: Fingerprint = field(default_factory=dict)
    finished: dict[int, Finished] = field(default_factory=dict)
    """Frames by their keys; of one that was done again, the last entry."""
    unsettled: set[int] = field(default_factory=set)
    """Keys of frames whose files' data may not be on the disk, as far as the journal tells."""
    report: dict[str, Any] | None = None
    """Of a shard that went over all its frames."""
    frames_seen: int | None = None
    """Frames of the source, where a run went over all and knew."""
    from_start: bool = False
    """Whether a shard's video must be decoded from its beginning, see `Journal.void`."""

    @staticmethod
    def by(data: bytes) -> Told | None:
        """None where that is no journal of this version; what is torn or behind that does not count."""
        entries = list(itertools.takewhile(lambda entry: entry is not None, map(parse, data.splitlines(True))))
        if not entries or entries[0] is None or entries[0].get("journal") != VERSION:
            return None
        told = Told(entries[0]["settings"])
        for entry in entries[1:]:
            if entry is not None:
                told.take(entry)
        return told

    def take(self, entry: dict[str, Any]) -> None:
        """Learn what an entry behind the first says."""
        if "frames_seen" in entry:
            self.frames_seen = entry["frames_seen"]
        elif "settled" in entry:
            self.unsettled.clear()
        elif "revoked" in entry:
            self.forget(entry["revoked"])
        elif "report" in entry:
            self.report = entry["report"]
        elif "void" in entry:
            self.finished.clear()
            self.unsettled.clear()
            self.report, self.from_start = None, True
        elif "faces" in entry:
            self.report = None  # what a later try adds has yet to be reported
            frame = finished(entry)
            self.finished[frame.key] = frame
            self.unsettled.add(frame.key)

    def forget(self, keys: list[int]) -> None:
        """Frames that are taken back."""
        self.unsettled.difference_update(keys)
        for key in keys:
            self.finished.pop(key, None)

    def covers(self, other: Told) -> bool:
        """Whether it says all that the other one says.

        Raises:
            OutputError: if they contradict each other.
        """
        for key in self.finished.keys() & other.finished.keys():
            if _files(self.finished[key]) != _files(other.finished[key]):
                raise OutputError(
                    f"two runs have other faces for frame number {self.finished[key].position + 1}; they are not one."
                )
        return self.finished.keys() >= other.finished.keys() and (self.report is not None or other.report is None)


def _files(frame: Finished) -> list[tuple[int, str, str, int]]:
    return sorted((face.row, face.file_name, face.sha1, face.nbytes) for face in frame.faces)


class Follower:
    """Reads what another process adds to a receipt."""

    def __init__(self, folder: Path, shard: Shard) -> None:
        self._path = folder / name_of(shard)
        self._at = 0

    def new_frames(self) -> list[Finished]:
        """Frames whose lines are whole and were not given before."""
        try:
            with open_input(self._path, WHAT) as file:
                file.seek(self._at)
                data = file.read()
        except (InputError, OSError):
            return []
        found = []
        for text in data.splitlines(keepends=True):
            entry = parse(text)
            if entry is None:
                break
            self._at += len(text)
            if "faces" in entry:
                found.append(finished(entry))
        return found


def with_tail(before: bytes, after: bytes, now: bytes) -> bytes | None:
    """What a journal was before it became `after`, with what a run has noted since.

    Returns:
        None where that has to do with faces, or what there is now did not grow from `after`.
    """
    tail = now.removeprefix(after)
    entries = [parse(text) for text in tail.splitlines(keepends=True)]
    if not now.startswith(after) or any(
        entry is None or not entry.keys().isdisjoint(("faces", "revoked", "void", "report")) for entry in entries
    ):
        return None
    return before + tail


def revised(
    data: bytes,
    settings: Fingerprint,
    result_of: Callable[[FaceResult], FaceResult | None],
    error_of: Callable[[dict[str, Any]], dict[str, Any] | None],
) -> bytes:
    """A journal whose faces are what `result_of` makes of each, of other settings; a face that is None is left out.

    `error_of` is for the failures in a shard's report. Data that is no journal of this version stays what it is.
    """
    told = Told.by(data)
    if told is None:
        return data
    settled: list[Finished] = []
    unsettled: list[Finished] = []
    for key, frame in told.finished.items():
        faces = [found for face in frame.faces if (found := result_of(face)) is not None]
        faces.sort(key=lambda face: face.index)
        if frame.faces and not faces:
            continue
        (unsettled if key in told.unsettled else settled).append(Finished(frame.position, faces))
    entries = [first_entry(settings)]
    if told.from_start:
        entries.append({"void": True})
    entries += map(frame_entry, settled)
    if settled:
        entries.append({"settled": len(settled)})
    entries += map(frame_entry, unsettled)
    if told.frames_seen is not None:
        entries.append({"frames_seen": told.frames_seen})
    if told.report is not None:
        errors = [one for error in told.report["errors"] if (one := error_of(error)) is not None]
        entries.append({"report": {**told.report, "errors": errors}})
    return b"".join(map(line, entries))


def read(folder: Path) -> tuple[Fingerprint, list[Finished]] | None:
    """The fingerprint and frames of the run that a folder holds, read without a lock; None where there is no run.

    Of a run in shards those of all that are there.
    """
    found: dict[int, Finished] = {}
    fingerprint: Fingerprint | None = None
    for name in names(folder):
        path = folder / name
        if not os.path.lexists(path):
            continue
        with open_input(path, WHAT) as file:
            entries, _ = entries_in(file.fileno(), path)
        if not entries or entries[0].get("journal") != VERSION:
            continue
        fingerprint = fingerprint or entries[0]["settings"]
        found |= frames_of(entries[1:])
    return None if fingerprint is None else (fingerprint, list(found.values()))


def frames_of(entries: list[dict[str, Any]]) -> dict[int, Finished]:
    """What the entries behind a journal's first come to: frames by their keys, without those that were taken back."""
    told = Told()
    for entry in entries:
        told.take(entry)
    return told.finished


def begun(folder: Path) -> Fingerprint | None:
    """The fingerprint of the run that a folder holds, from a journal's first line; None where there is none."""
    for name in names(folder):
        path = folder / name
        if not path.is_file():
            continue
        with open_input(path, WHAT) as file:
            first = parse(file.readline(LONGEST_FIRST_LINE))
        if first is not None and first.get("journal") == VERSION:
            fingerprint: Fingerprint = first["settings"]
            return fingerprint
    return None


def is_void(folder: Path, shard: Shard | None) -> bool:
    """Whether the receipt of a shard was taken back by `Journal.void`."""
    path = folder / name_of(shard)
    if shard is None or not path.is_file():
        return False
    with open_input(path, WHAT) as file:
        entries, _ = entries_in(file.fileno(), path)
    return any("void" in entry for entry in entries)


def is_ended(folder: Path, shard: Shard) -> bool:
    """Whether a shard went over all its frames, as far as the last line of its receipt tells by its beginning."""
    with open_input(folder / name_of(shard), WHAT) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - LAST_BYTES))
        last = file.read().removesuffix(b"\n").rpartition(b"\n")[2]
    return last[8:].startswith(b' {"report":')


def entries_in(handle: int, path: Path) -> tuple[list[dict[str, Any]], int]:
    """All whole entries, and how many bytes they take."""
    entries, whole_bytes = [], 0
    try:
        for line in _lines(handle):
            entry = parse(line)
            if entry is None:
                break
            entries.append(entry)
            whole_bytes += len(line)
    except OSError as error:
        raise unreadable(path, WHAT, error) from error
    return entries, whole_bytes


def _lines(handle: int) -> Iterator[bytes]:
    with open(handle, "rb", buffering=READ_BYTES, closefd=False) as file:
        file.seek(0)
        yield from file
