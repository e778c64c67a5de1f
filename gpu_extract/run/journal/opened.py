"""An open journal, to which a run adds what it has done."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from gpu_extract.errors import OutputError, UsageError
from gpu_extract.run.fingerprint import Fingerprint, differences
from gpu_extract.run.journal.entries import VERSION, Finished, first_entry, frame_line, line, may_be_begun
from gpu_extract.run.journal.files import RECEIPT, WHAT, name_of, names
from gpu_extract.run.journal.told import READ_BYTES, Told, entries_in
from gpu_extract.run.shard import Shard
from gpu_extract.storage.atomic import sync_folder
from gpu_extract.storage.descriptors import close_quietly, open_beyond_standard
from gpu_extract.storage.durable import sync_file_system
from gpu_extract.storage.inputs import open_input, unreadable

SETTLE_SECONDS = 5.0  # of work that a power cut makes a resumed run prove, at most
SETTLE_SHARE = 20  # of the time between two flushes at most a twentieth is spent on one
QUICK_SECONDS = 1.0  # a flush that is not worth mentioning to somebody who asked the run to end


class Journal(Told):
    """What the journal says, and the file itself, with a lock on it, so that no second run writes into the folder."""

    def __init__(self, handle: int, path: Path, settings: Fingerprint, *, resumed: bool) -> None:
        super().__init__(settings)
        self._handle, self.path = handle, path
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
            journal = cls(handle, path, fingerprint, resumed=False)
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
            entries, whole_bytes = entries_in(handle, path)
            first = next(iter(entries), None)
            if first is None and not may_be_begun(os.pread(handle, READ_BYTES, 0)):
                raise OutputError(f"{path} is damaged from its first line on; name another faces folder.")
            if first is None:
                _cut_off(handle, 0, path)
                journal = cls(handle, path, fingerprint, resumed=True)
                journal._append(first_entry(fingerprint))
                journal.sync()
                return journal
            if first.get("journal") != VERSION:
                raise UsageError(f"{path} was written by another version of this program; name another faces folder.")
            check_settings(first["settings"], fingerprint)
            journal = cls(handle, path, first["settings"], resumed=True)
            if whole_bytes < os.fstat(handle).st_size:
                _cut_off(handle, whole_bytes, path)
                journal.sync()  # lines that were cut off must not come back behind new ones
            os.lseek(handle, 0, os.SEEK_END)
            for entry in entries[1:]:
                journal.take(entry)
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
        self._write(b"".join(map(frame_line, frames)))
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
            self.forget(keys)

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

    def _append(self, entry: dict[str, Any]) -> None:
        self._write(line(entry))

    def _write(self, data: bytes) -> None:
        try:
            if os.write(self._handle, data) != len(data):
                raise OutputError(f"the journal {self.path} cannot grow: {os.strerror(errno.ENOSPC)}.")
        except OSError as error:
            raise OutputError(f"the journal {self.path} cannot grow: {error.strerror}.") from error


def check_settings(before: Fingerprint, now: Fingerprint) -> None:
    """Raise UsageError naming every setting that differs."""
    changed = differences(before, json.loads(json.dumps(now)))
    if changed:
        raise UsageError(
            f"this folder's run had other settings: {'; '.join(changed)}; "
            "resume with the old ones, or name another faces folder."
        )


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
        shard = RECEIPT.fullmatch(path.name)
        who = f"shard {shard[1]}/{shard[2]} is being cut" if shard else "another run is writing"
        raise OutputError(f"{who} into {path.parent}; wait for it, or name another folder.") from None
    return handle


def _cut_off(handle: int, length: int, path: Path) -> None:
    try:
        os.ftruncate(handle, length)
    except OSError as error:
        raise OutputError(f"the journal {path} cannot be cut to its whole lines: {error.strerror}.") from error
