"""Which files of a job have come into a faces folder, for whoever goes on after a cut: none is to come twice.

They are lines of a log, as those of a run's journal are. What stands before a line that says so is on the disk; what
follows may have been taken by a power cut, and is proved by its content. A file that has come and is not there any more
was looked at and taken away by somebody; it stays away.
"""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpu_extract.errors import InputError, OutputError
from gpu_extract.run import journal
from gpu_extract.storage.atomic import write_all
from gpu_extract.storage.descriptors import close_quietly, open_beyond_standard
from gpu_extract.storage.durable import sync_file_system
from gpu_extract.storage.inputs import open_input

SETTLE_SECONDS, SETTLE_SHARE = journal.SETTLE_SECONDS, journal.SETTLE_SHARE
READ_BYTES = 1 << 18
WHAT = "the log of what was fetched"


class Arrived:
    """The files that have come into a folder.

    Args:
        folder: of the faces. Those of a whole run that it holds count.
        log: where they stand; None where nobody will go on.

    Raises:
        InputError: if the log, or a journal of the folder, cannot be read.
        OutputError: if the log cannot be written.
    """

    def __init__(self, folder: Path, log: Path | None = None) -> None:
        self._folder, self._log = folder, log
        self._names = _of_run(folder)
        self._settled = True
        self._settled_in = 0.0
        self._due = time.monotonic() + SETTLE_SECONDS
        self._handle: int | None = None
        if log is not None:
            whole = self._read(log)
            try:
                self._handle = open_beyond_standard(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
                os.ftruncate(self._handle, whole)
            except OSError as error:
                raise self._refused(error) from error

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def __len__(self) -> int:
        return len(self._names)

    def add(self, name: str, sha256: str) -> None:
        """A file that is whole under its name; raises OutputError if the log takes no more."""
        self._append({"came": name, "sha256": sha256})
        self._names.add(name)
        self._settled = False

    def settle_when_due(self) -> None:
        """`settle` every few seconds."""
        if time.monotonic() >= self._due:
            self.settle()

    def settle(self) -> None:
        """Put all that has come on the disk.

        Raises:
            OutputError: if the disk refuses.
        """
        if self._settled:
            return
        began = time.monotonic()
        try:
            done = sync_file_system(self._folder)
        except OSError as error:
            raise OutputError(f"the faces in {self._folder} cannot be saved ({error.strerror}).") from error
        if done:
            self._append({"settled": len(self._names)})
            self._settled = True
        self._settled_in = time.monotonic() - began
        self._due = time.monotonic() + max(SETTLE_SECONDS, SETTLE_SHARE * self._settled_in)

    def close(self) -> None:
        """The end, also of a run that was interrupted: nobody is kept waiting, and nothing fails by it."""
        if self._settled_in < journal.QUICK_SECONDS:
            with suppress(OutputError):
                self.settle()
        if self._handle is not None:
            close_quietly(self._handle)
            self._handle = None

    def _append(self, entry: dict[str, Any]) -> None:
        if self._handle is not None:
            try:
                write_all(self._handle, journal.line(entry))
            except OSError as error:
                raise self._refused(error) from error

    def _refused(self, error: OSError) -> OutputError:
        return OutputError(f"{self._log}, where submit remembers what has come, takes no more ({error.strerror}).")

    def _read(self, log: Path) -> int:
        """Learn what stands in a log; returns how many bytes of it are whole."""
        whole = 0
        doubtful: dict[str, str] = {}
        if not log.is_file():
            return 0
        with open_input(log, WHAT) as file:
            for line in file:
                entry = journal.parse(line)
                if entry is None:
                    break
                whole += len(line)
                if "settled" in entry:
                    self._names.update(doubtful)
                    doubtful.clear()
                else:
                    doubtful[entry["came"]] = entry["sha256"]
        self._names.update(name for name, sha256 in doubtful.items() if _is_whole(self._folder / name, sha256))
        return whole


def _of_run(folder: Path) -> set[str]:
    """The files of the run that a folder holds, if it holds a whole one."""
    if not journal.exists(folder):
        return set()
    found = journal.read(folder)
    frames = [] if found is None else found[1]
    names = {face.file_name for frame in frames for face in frame.faces}
    archives = {first for first in {name.partition("/")[0] for name in names} if (folder / first).is_file()}
    return {name for name in names if name.partition("/")[0] not in archives} | archives


def _is_whole(path: Path, sha256: str) -> bool:
    digest = hashlib.sha256()
    try:
        with open_input(path, "a face") as file:
            while block := file.read(READ_BYTES):
                digest.update(block)
    except (InputError, OSError):
        return False
    return digest.hexdigest() == sha256
