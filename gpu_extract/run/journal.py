"""The run's own record in the faces folder: what was asked for, which frames are finished, each face's hash.

One line an entry: a CRC-32 in hex, a space, JSON. Lines are only ever appended. A line that was torn by a crash, and
whatever follows it, is cut off when the journal is opened again. A finished run leaves its journal in place: it is the
record of the run, and tells a later `--resume` that nothing is left to do.

A frame's line is written when its files have their names, so that whatever kills the process takes nothing; but a power
cut may take the files' data and leave the line. So every few seconds the data is put on the disk, and then a line says
that all before it is. What stands after the last such line has to be proved by whoever goes on.

A shard of a run has a journal of its own beside those of the others, with the same first line: its receipt, which ends
with the shard's report once all its frames were gone over.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import os
import re
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from json.encoder import encode_basestring_ascii as _quoted
from pathlib import Path
from typing import Any

from gpu_extract.errors import InputError, OutputError, UsageError
from gpu_extract.options import MOST_SHARDS
from gpu_extract.run.fingerprint import Fingerprint, differences
from gpu_extract.run.shards import Shard
from gpu_extract.storage.atomic import sync_folder
from gpu_extract.storage.descriptors import close_quietly, open_beyond_standard
from gpu_extract.storage.durable import sync_file_system
from gpu_extract.storage.inputs import open_input, unreadable
from gpu_extract.tasks import FaceResult

NAME = ".gpu-extract.journal"
BEGUN = ".gpu-extract.run"
"""In a bucket, which has no locks and whose journals come last: the first line of those that will be there."""
DONE = ".gpu-extract.done"
"""Of a run in a batch, where nothing is left to do: see `jobs.night.done`."""
FAILURES = ".gpu-extract.failures"
"""What the last run could not do, see `jobs.runs.failures`; not there where it could do all."""
PRUNED = ".gpu-extract.pruned"
"""What a prune has changed in the folder, see `jobs.changes.pruned`."""
REINDEXED = ".gpu-extract.reindexed"
"""What a reindex is changing in the folder, see `jobs.changes.renumbered`; not there before and after."""
RENAMED = ".gpu-extract.renamed"
"""What the last `rename` has called otherwise there, see `jobs.changes.renamed`."""
_RECEIPT = re.compile(re.escape(NAME) + r"\.([0-9]+)-of-([0-9]+)")
VERSION = 1
WHAT = "the journal"
BEGINNING = b' {"journal":'
"""Of the first line, behind its checksum."""
READ_BYTES = LONGEST_FIRST_LINE = 1 << 20
LAST_BYTES = 1 << 16
_encode = json.JSONEncoder(separators=(",", ":")).encode
SETTLE_SECONDS = 5.0  # of work that a power cut makes a resumed run prove, at most
SETTLE_SHARE = 20  # of the time between two flushes at most a twentieth is spent on one
QUICK_SECONDS = 1.0  # a flush that is not worth mentioning to somebody who asked the run to end


@dataclass
class Finished:
    """A frame whose faces are all on disk."""

    position: int
    faces: list[FaceResult] = field(default_factory=list)

    @property
    def key(self) -> int:
        """The frame's first row in the alignments file: positions shift when a folder gains a frame between runs."""
        return min((face.row for face in self.faces), default=-1 - self.position)


class Journal:
    """An open journal; holds a lock on it, so that no second run writes into the folder."""

    def __init__(self, handle: int, path: Path, finished: dict[int, Finished], *, resumed: bool) -> None:
        self._handle, self.path = handle, path
        self.finished = finished
        """Frames that an earlier run finished, by their keys; of one that was done again, the last entry."""
        self.frames_seen: int | None = None
        """Frames of the source, where an earlier run went over all and knew."""
        self.unsettled: set[int] = set()
        """Keys of frames whose files' data may not be on the disk, as far as the journal tells."""
        self.report: dict[str, Any] | None = None
        """Of a shard that went over all its frames; see `end`."""
        self.from_start = False
        """Whether a shard's video must be decoded from its beginning, see `void`."""
        self.resumed = resumed
        self._settled_in = 0.0
        self._due = time.monotonic() + SETTLE_SECONDS

    @classmethod
    def create(cls, folder: Path, fingerprint: Fingerprint, shard: Shard | None = None) -> Journal:
        """A new journal in a folder that has none, or none of that shard.

        Raises:
            OutputError: if it cannot be written.
        """
        path = folder / name_of(shard)
        handle = _open(path, os.O_CREAT | os.O_EXCL)
        try:
            journal = cls(handle, path, {}, resumed=False)
            journal._append(first_entry(fingerprint))
            journal.sync()
        except BaseException:
            close_quietly(handle)
            raise
        sync_folder(folder)  # faces in a folder whose journal has lost its name could not be resumed
        return journal

    @classmethod
    def resume(cls, folder: Path, fingerprint: Fingerprint, shard: Shard | None = None) -> Journal:
        """Open the journal of an earlier run with the same settings and drop what a crash left half-written.

        Raises:
            UsageError: if a setting differs; the sentence names each.
            OutputError: if the journal cannot be read or written, or another run holds it.
        """
        path = folder / name_of(shard)
        handle = _open(path, 0)
        try:
            entries, whole_bytes = _read(handle, path)
            first = next(iter(entries), None)
            if first is None and not _may_be_begun(os.pread(handle, READ_BYTES, 0)):
                raise OutputError(f"{path} is damaged from its first line on; name another faces folder.")
            if first is None:
                _cut_off(handle, 0, path)
                journal = cls(handle, path, {}, resumed=True)
                journal._append(first_entry(fingerprint))
                journal.sync()
                return journal
            if first.get("journal") != VERSION:
                raise UsageError(f"{path} was written by another version of this program; name another faces folder.")
            check_settings(first["settings"], fingerprint)
            journal = cls(handle, path, {}, resumed=True)
            if whole_bytes < os.fstat(handle).st_size:
                _cut_off(handle, whole_bytes, path)
                journal.sync()  # lines that were cut off must not come back behind new ones
            os.lseek(handle, 0, os.SEEK_END)
            for entry in entries[1:]:
                journal._take(entry)
            return journal
        except OSError as error:
            close_quietly(handle)
            raise unreadable(path, WHAT, error) from error
        except BaseException:
            close_quietly(handle)
            raise

    def add(self, *frames: Finished) -> None:
        """Record frames whose faces are on disk, with one call of the system for all.

        Raises:
            OutputError: if the disk takes no more.
        """
        self._write(b"".join([_as_line(_frame_text(frame).encode()) for frame in frames]))
        self.unsettled.update([frame.key for frame in frames])

    def set_frames_seen(self, count: int) -> None:
        """Record how many frames the source has; raises OutputError as `add` does."""
        if count != self.frames_seen:
            self.frames_seen = count
            self._append({"frames_seen": count})

    def revoke(self, keys: list[int]) -> None:
        """Take back what an earlier run recorded of some frames; raises OutputError as `add` does."""
        if keys:
            self._append({"revoked": keys})
            self._forget(keys)

    def end(self, report: dict[str, Any]) -> None:
        """Record that a shard went over all its frames; raises OutputError as `add` does."""
        self.report = report
        self._append({"report": report})
        self.sync()

    def void(self) -> None:
        """Take back all of a shard, of a video that is damaged before it: frames may have other numbers there.

        Raises:
            OutputError: as `add` does.
        """
        self.finished.clear()
        self.unsettled.clear()
        self.report, self.from_start = None, True
        self._append({"void": True})
        self.sync()

    def settle_when_due(self) -> None:
        """`settle` every few seconds."""
        if time.monotonic() >= self._due:
            self.settle()

    def settle_if_quick(self) -> None:
        """`settle`, but not where it would keep somebody waiting who asked the run to end."""
        if self._settled_in < QUICK_SECONDS:
            self.settle()

    def settle(self) -> None:
        """Put all files that it names on the disk, then say so.

        Raises:
            OutputError: if the disk refuses. The files that were last written are then not to be trusted.
        """
        if not self.unsettled:
            return
        self.check_in_place()
        began = time.monotonic()
        try:
            settled = sync_file_system(self.path.parent)
        except OSError as error:
            raise OutputError(f"the faces in {self.path.parent} cannot be saved: {error.strerror}.") from error
        if settled:
            self._append({"settled": len(self.unsettled)})
            self.unsettled.clear()
        self._settled_in = time.monotonic() - began
        self._due = time.monotonic() + max(SETTLE_SECONDS, SETTLE_SHARE * self._settled_in)

    def check_in_place(self) -> None:
        """Find out whether the folder is still the one that the run writes into.

        Raises:
            OutputError: if it is not.
        """
        try:
            mine, there = os.fstat(self._handle), self.path.stat()
            # Some file systems number a file anew each time they are asked.
            in_place = os.path.samestat(mine, there) or mine.st_size == there.st_size
        except (FileNotFoundError, NotADirectoryError):
            in_place = False
        except OSError:  # of a disk that has gone wrong, which whoever writes meets
            return
        if not in_place:
            raise OutputError(
                f"the faces folder {self.path.parent} was renamed, replaced or removed while the run wrote into it."
            )

    def sync(self) -> None:
        """Make what was added survive a power cut."""
        try:
            os.fsync(self._handle)
        except OSError as error:
            raise OutputError(f"the journal {self.path} cannot be saved: {error.strerror}.") from error

    def folds_case(self) -> bool:
        """Whether the folder's file system takes names that differ in case only for one."""
        return self.path.with_name(self.path.name.upper()).exists()

    def close(self) -> None:
        close_quietly(self._handle)

    def _take(self, entry: dict[str, Any]) -> None:
        """Learn what an earlier run recorded."""
        if "frames_seen" in entry:
            self.frames_seen = entry["frames_seen"]
        elif "settled" in entry:
            self.unsettled.clear()
        elif "revoked" in entry:
            self._forget(entry["revoked"])
        elif "report" in entry:
            self.report = entry["report"]
        elif "void" in entry:
            self.finished.clear()
            self.unsettled.clear()
            self.report, self.from_start = None, True
        else:
            self.report = None  # what a later try adds has yet to be reported
            frame = _finished(entry)
            self.finished[frame.key] = frame
            self.unsettled.add(frame.key)

    def _forget(self, keys: list[int]) -> None:
        self.unsettled.difference_update(keys)
        for key in keys:
            self.finished.pop(key, None)

    def _append(self, entry: dict[str, Any]) -> None:
        self._write(line(entry))

    def _write(self, data: bytes) -> None:
        try:
            if os.write(self._handle, data) != len(data):
                raise OutputError(f"the journal {self.path} cannot grow: {os.strerror(errno.ENOSPC)}.")
        except OSError as error:
            raise OutputError(f"the journal {self.path} cannot grow: {error.strerror}.") from error


@dataclass
class Told:
    """What a journal says, read from its bytes."""

    settings: Fingerprint
    finished: dict[int, Finished]
    unsettled: set[int]
    report: dict[str, Any] | None
    frames_seen: int | None = None
    from_start: bool = False

    @classmethod
    def by(cls, data: bytes) -> Told | None:
        """None where that is no journal of this version; what is torn or behind that does not count."""
        entries = list(itertools.takewhile(lambda entry: entry is not None, map(parse, data.splitlines(True))))
        if not entries or entries[0] is None or entries[0].get("journal") != VERSION:
            return None
        learned = Journal(-1, Path(), {}, resumed=True)
        for entry in entries[1:]:
            if entry is not None:
                learned._take(entry)
        return cls(
            entries[0]["settings"],
            learned.finished,
            learned.unsettled,
            learned.report,
            learned.frames_seen,
            learned.from_start,
        )

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
                found.append(_finished(entry))
        return found


def line(entry: dict[str, Any]) -> bytes:
    """An entry as it stands in a journal."""
    return _as_line(json.dumps(entry, separators=(",", ":"), ensure_ascii=True).encode())


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


def _as_line(text: bytes) -> bytes:
    return b"%08x %s\n" % (zlib.crc32(text), text)


def first_entry(fingerprint: Fingerprint) -> dict[str, Any]:
    return {"journal": VERSION, "settings": fingerprint}


def frame_entry(frame: Finished) -> dict[str, Any]:
    rows = [[face.row, face.index, face.file_name, face.sha1, face.nbytes] for face in frame.faces]
    return {"frame": frame.position, "faces": rows, **_more(frame)}


def _frame_text(frame: Finished) -> str:
    """What `json.dumps` makes of the frame's entry, in a third of the time."""
    faces = [f'[{face.row},{face.index},{_quoted(face.file_name)},"{face.sha1}",{face.nbytes}]' for face in frame.faces]
    more = "".join(f',"{key}":{_encode(values)}' for key, values in _more(frame).items())
    return f'{{"frame":{frame.position},"faces":[{",".join(faces)}]{more}}}'


def _more(frame: Finished) -> dict[str, list[Any]]:
    """What else is noted of faces where a list of them is wanted; beside them, for versions that know nothing of it."""
    columns: dict[str, list[Any]] = {
        "sharpness": [face.sharpness for face in frame.faces],
        "hash_states": [face.hash_state for face in frame.faces],
    }
    return {key: values for key, values in columns.items() if any(value is not None for value in values)}


def read(folder: Path) -> tuple[Fingerprint, list[Finished]] | None:
    """The fingerprint and frames of the run that a folder holds, read without a lock; None where there is no run.

    Of a run in shards those of all that are there.
    """
    found: dict[int, Finished] = {}
    fingerprint: Fingerprint | None = None
    for name in [NAME, *map(name_of, receipts(folder))]:
        path = folder / name
        if not os.path.lexists(path):
            continue
        with open_input(path, WHAT) as file:
            entries, _ = _read(file.fileno(), path)
        if not entries or entries[0].get("journal") != VERSION:
            continue
        fingerprint = fingerprint or entries[0]["settings"]
        found |= frames_of(entries[1:])
    return None if fingerprint is None else (fingerprint, list(found.values()))


def frames_of(entries: list[dict[str, Any]]) -> dict[int, Finished]:
    """What the entries behind a journal's first come to: frames by their keys, without those that were taken back."""
    found: dict[int, Finished] = {}
    for entry in entries:
        if "faces" in entry:
            frame = _finished(entry)
            found[frame.key] = frame
        if "void" in entry:
            found.clear()
        for key in entry.get("revoked", ()):
            found.pop(key, None)
    return found


def name_of(shard: Shard | None) -> str:
    """A journal's file name: the run's, or that of a shard's receipt."""
    return NAME if shard is None else f"{NAME}.{shard.number}-of-{shard.count}"


def receipts(folder: Path) -> list[Shard]:
    """The shards whose journals a folder holds, ascending; none where there is no folder."""
    try:
        with os.scandir(folder) as entries:
            found = [shard_of(entry.name) for entry in entries if entry.name.startswith(NAME)]
    except OSError:
        return []
    return sorted(shard for shard in found if shard is not None)


def shard_of(name: str) -> Shard | None:
    """The shard whose receipt has that name; None where it is another file's."""
    match = _RECEIPT.fullmatch(name)
    shard = None if match is None else Shard(int(match[1]), int(match[2]))
    if shard is None or name != name_of(shard) or not shard.number < shard.count <= MOST_SHARDS:
        return None
    return shard


def names(folder: Path) -> list[str]:
    """Names of all journals that a folder may hold."""
    return [NAME, *map(name_of, receipts(folder))]


def own_names(folder: Path) -> list[str]:
    """Names of all that this program may have put into a folder to remember what was done there."""
    return [*names(folder), BEGUN, DONE, FAILURES, PRUNED, REINDEXED, RENAMED]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep runs out of a folder while its journals are replaced.

    Raises:
        InputError: if one is no file, or cannot be read.
        OutputError: if a run is writing into it.
    """
    with ExitStack() as stack:
        for name in names(folder):
            if os.path.lexists(folder / name):
                open_input(folder / name, WHAT).close()
                stack.callback(close_quietly, _open(folder / name, 0))
        yield


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
        entries, _ = _read(file.fileno(), path)
    return any("void" in entry for entry in entries)


def is_ended(folder: Path, shard: Shard) -> bool:
    """Whether a shard went over all its frames, as far as the last line of its receipt tells by its beginning."""
    with open_input(folder / name_of(shard), WHAT) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - LAST_BYTES))
        last = file.read().removesuffix(b"\n").rpartition(b"\n")[2]
    return last[8:].startswith(b' {"report":')


def exists(folder: Path, shard: Shard | None = None) -> bool:
    """Whether a folder holds the journal of a run, or of a shard; raises InputError where the system cannot tell."""
    path = folder / name_of(shard)
    try:
        return path.is_file()
    except OSError as error:
        raise unreadable(path, WHAT, error) from error


def _open(path: Path, flags: int) -> int:
    """A locked handle for reading and appending."""
    try:
        handle = open_beyond_standard(path, os.O_RDWR | os.O_APPEND | flags)
    except OSError as error:
        if error.errno == errno.EIO:
            raise unreadable(path, WHAT, error) from error
        raise OutputError(f"the journal {path} cannot be opened: {error.strerror}.") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        close_quietly(handle)
        shard = _RECEIPT.fullmatch(path.name)
        who = f"shard {shard[1]}/{shard[2]} is being cut" if shard else "another run is writing"
        raise OutputError(f"{who} into {path.parent}; wait for it, or name another folder.") from None
    return handle


def _read(handle: int, path: Path) -> tuple[list[dict[str, Any]], int]:
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


def _cut_off(handle: int, length: int, path: Path) -> None:
    try:
        os.ftruncate(handle, length)
    except OSError as error:
        raise OutputError(f"the journal {path} cannot be cut to its whole lines: {error.strerror}.") from error


def _lines(handle: int) -> Iterator[bytes]:
    with open(handle, "rb", buffering=READ_BYTES, closefd=False) as file:
        file.seek(0)
        yield from file


def parse(line: bytes) -> dict[str, Any] | None:
    """The entry of a line; None if the line is torn or altered."""
    if not line.endswith(b"\n") or line[8:9] != b" ":
        return None
    text = line[9:-1]
    if line[:8] != b"%08x" % zlib.crc32(text):
        return None
    entry: dict[str, Any] = json.loads(text)
    return entry


def _may_be_begun(data: bytes) -> bool:
    """Whether data without a whole line is what a crash left of the first one; anything else is not to be cut off."""
    written = data.rstrip(b"\0")
    checksum, begun = written[:8], written[8:][: len(BEGINNING)]
    return b"\n" not in data and not checksum.strip(b"0123456789abcdef") and BEGINNING.startswith(begun)


def _finished(entry: dict[str, Any]) -> Finished:
    faces = entry["faces"]
    unknown = [None] * len(faces)
    columns = zip(faces, entry.get("sharpness", unknown), entry.get("hash_states", unknown), strict=True)
    return Finished(entry["frame"], [FaceResult(*[*face, *more]) for face, *more in columns])


def check_settings(before: Fingerprint, now: Fingerprint) -> None:
    """Raise UsageError naming every setting that differs."""
    changed = differences(before, json.loads(json.dumps(now)))
    if changed:
        raise UsageError(
            f"this folder's run had other settings: {'; '.join(changed)}; "
            "resume with the old ones, or name another faces folder."
        )
