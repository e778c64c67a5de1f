"""A faces folder on its way to a bucket: faces while the run goes on, then what lies beside them, journals last.

Names and bytes of faces follow from the run, so putting one twice is putting it once. A journal is put when everything
that it names is there, and only where none is or over the one that this run went on from: who finds a journal finds all
of it. One object, put before all others, says whose run the prefix is for.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from gpu_extract.errors import OutputError
from gpu_extract.naming import Url
from gpu_extract.run import journal
from gpu_extract.run.journal import Told
from gpu_extract.run.progress import Event, FrameDone, Listener
from gpu_extract.run.shard import Shard
from gpu_extract.storage.inputs import open_input
from gpu_extract.storage.parts import TEMPORARY_PREFIX
from gpu_extract.stores.base import Entry, Store, Version
from gpu_extract.stores.cache import in_parallel, write_part
from gpu_extract.tasks import FaceResult

OWN = ".gpu-extract."
"""How the names of what is no face begin."""
REQUESTS, WAITING = 16, 64
AS_IN_THE_BUCKET = 0
"""Time stamp, in ns, of a file that stands for an object: it has its size and perhaps not its content."""
TRIES = 5
RECEIPTS_SECONDS = 5.0
"""Between two looks for shards that have ended."""


@dataclass(frozen=True)
class _Taken:
    """A journal as the bucket has it, or says as much."""

    data: bytes
    version: Version


class Outbox:
    """The faces folder of one run, of which this machine has a part; a listener of the run.

    Args:
        url: of the faces folder in its store.
        folder: where the run writes it; not there yet.
        listener: whoever else is to hear of the run.
    """

    def __init__(self, store: Store, url: Url, folder: Path, listener: Listener) -> None:
        self._store, self._url, self._folder, self._listener = store, url, folder, listener
        self._taken: dict[str, _Taken] = {}
        self._sent: dict[str, int] = {}
        self._begun = False
        self._due = time.monotonic() + RECEIPTS_SECONDS
        self._pool = ThreadPoolExecutor(REQUESTS, "gpu-extract-outbox")
        self._room = threading.BoundedSemaphore(WAITING)
        self._fault: BaseException | None = None

    def __call__(self, event: Event) -> None:
        """Hear of a run; raises what went wrong with putting its faces, which ends it."""
        if self._fault is not None:
            raise self._fault
        if isinstance(event, FrameDone):
            for face in event.faces:
                path = self._folder / face.file_name
                if path.is_file():  # what lies in an archive comes when that is whole
                    self._begin()
                    self._send(face.file_name)
            if time.monotonic() >= self._due:
                self._put_receipts()
                self._due = time.monotonic() + RECEIPTS_SECONDS
        self._listener(event)

    def take_over(self, *, shard: Shard | None, resume: bool) -> None:
        """Bring what the bucket holds of the run: journals, and stand-ins for the faces that they name.

        Raises:
            OutputError: if it holds anything else.
        """
        journals: dict[str, Entry] = {}
        for _ in range(TRIES):
            journals = self._journals(shard, goes_on=resume or shard is not None)
            if not resume or self._read_journals(journals):
                break
        if journals:
            self._folder.mkdir(parents=True)
        if not resume:  # whoever prepares the folder needs the names, to refuse it
            for name in journals:
                (self._folder / name).touch()
        elif journals:
            there = dict(self._entries())  # after the journals: what these name was put before them
            for name in journals:
                self._place_journal(name, there)

    def deliver(self) -> None:
        """Put what was not put yet, and last the journals.

        Raises:
            OutputError: if something cannot be put, or another run puts there.
        """
        self._pool.shutdown()
        if self._fault is not None:
            raise self._fault
        files = list(self._new_files())
        journals = [journal.name_of(shard) for shard in journal.receipts(self._folder)]
        if journal.exists(self._folder):
            journals.append(journal.NAME)
        if files or journals:
            self._begin()
        in_parallel(self._put, files)
        for name in journals:
            self._put_journal(name, self._content(name))

    def remove_merged(self) -> None:
        """Remove receipts that one journal has taken over."""
        gone = [name for name in self._taken if not (self._folder / name).exists()]
        in_parallel(lambda name: self._store.remove(self._key(name)), gone)

    def close(self) -> None:
        """Give up what has not begun, wait for the rest. Harmless after `deliver`."""
        self._pool.shutdown(cancel_futures=True)

    def _refuse_what_is_there(self, begun: bool) -> None:
        if begun:
            raise OutputError(
                f"the faces folder {self._url} holds a run that was begun; add --resume to go on, or name another."
            )
        for name, _ in self._entries():
            if not name.startswith(OWN):
                raise OutputError(
                    f"the faces folder {self._url} is not empty (it holds {name!r}); name another, or empty it first."
                )

    def _entries(self, after: str = "") -> Iterator[tuple[str, Entry]]:
        """Names and entries; with `after`, of a store that sorts, only the page that begins there."""
        prefix = f"{self._url.key}/"
        for page in self._store.entries(self._url.key, f"{prefix}{after}" if after else ""):
            yield from ((entry.key.removeprefix(prefix), entry) for entry in page)
            if after and page and not page[-1].key.startswith(f"{prefix}{after}"):
                return

    def _journals(self, shard: Shard | None, *, goes_on: bool) -> dict[str, Entry]:
        """By name, those in the bucket that a run must know: its own, and such as keep it from writing there."""
        own = {name: entry for name, entry in self._entries(OWN) if name.startswith(OWN)}
        found = {name: entry for name, entry in own.items() if name == journal.NAME or journal.shard_of(name)}
        if not found and not (goes_on and journal.BEGUN in own):
            self._refuse_what_is_there(journal.BEGUN in own)
        if shard is None:
            return found
        mine = journal.name_of(shard)
        peers = {name for name in found if (one := journal.shard_of(name)) and one.count == shard.count}
        return {name: found[name] for name in found if name == mine or name not in peers}

    def _read_journals(self, journals: Iterable[str]) -> bool:
        """False where one is gone by now, as after a merge somewhere else."""
        self._taken.clear()

        def read(name: str) -> None:
            if (found := self._store.read(self._key(name))) is not None:
                self._taken[name] = _Taken(found[0], found[1].version)

        names = list(journals)
        in_parallel(read, names)
        return len(self._taken) == len(names)

    def _place_journal(self, name: str, there: dict[str, Entry]) -> None:
        taken = self._taken.get(name)
        if taken is None:
            raise OutputError(f"{self._url}/{name} comes and goes; wait for the run that writes there.")
        data, told = taken.data, Told.by(taken.data)
        if told is not None:
            for frame in told.finished.values():
                for face in frame.faces:
                    self._stand_in(face, there)
            if told.unsettled:  # what is in a bucket survives a power cut
                data += journal.line({"settled": len(told.unsettled)})
                self._taken[name] = _Taken(data, taken.version)
        write_part(self._folder / name, data, Entry(name, len(data), taken.version))

    def _stand_in(self, face: FaceResult, there: dict[str, Entry]) -> None:
        """Make a file for a face that is in the bucket; what holds several, or has another size, is brought."""
        name, parts = face.file_name, face.file_name.split("/")
        if any(part in ("", ".", "..") for part in parts):
            raise OutputError(f"a journal in {self._url} names {name!r}, which leads out of it; name another folder.")
        path = self._folder / name
        if name in there:
            if path.exists():
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            if there[name].size != face.nbytes:
                self._bring(name, there[name])
                return
            with open(path, "xb") as file:
                file.truncate(there[name].size)
            _mark(path)
        elif parts[0] in there and not (self._folder / parts[0]).exists():
            self._bring(parts[0], there[parts[0]])

    def _bring(self, name: str, entry: Entry) -> None:
        path = self._folder / name
        write_part(path, self._store.read_range(entry, 0, entry.size), entry)
        _mark(path)

    def _put_receipts(self) -> None:
        """Of shards that other processes of this run have ended: what is lost from now on loses them no more."""
        for shard in journal.receipts(self._folder):
            name = journal.name_of(shard)
            if name not in self._taken and journal.is_ended(self._folder, shard):
                data = self._content(name)
                told = Told.by(data)
                faces = [face for frame in told.finished.values() for face in frame.faces] if told else []
                if all(face.file_name in self._sent for face in faces):
                    self._put_journal(name, data)

    def _begin(self) -> None:
        """Say whose run the prefix is for.

        Raises:
            UsageError: if it is for one with other settings.
        """
        if self._begun:
            return
        fingerprint = journal.begun(self._folder)
        if fingerprint is not None:
            key = self._key(journal.BEGUN)
            if self._store.create(key, journal.line(journal.first_entry(fingerprint))) is None:
                found = self._store.read(key)
                told = None if found is None else Told.by(found[0])
                if told is None:
                    raise OutputError(f"{self._url}/{journal.BEGUN} is not readable; name another faces folder.")
                journal.check_settings(told.settings, fingerprint)
        self._begun = True

    def _send(self, name: str) -> None:
        self._room.acquire()
        self._pool.submit(self._put_quietly, name)

    def _put_quietly(self, name: str) -> None:
        try:
            if self._fault is None:
                self._put(name)
        except BaseException as error:
            self._fault = self._fault or error
        finally:
            self._room.release()

    def _put(self, name: str) -> None:
        path = self._folder / name
        stamp = path.stat().st_mtime_ns
        self._store.put(self._key(name), path)
        self._sent[name] = stamp

    def _new_files(self) -> Iterable[str]:
        """Names of files that the bucket does not have as they are here."""
        for path in sorted(self._folder.rglob("*")):
            name = path.relative_to(self._folder).as_posix()
            if path.is_file() and not path.name.startswith((TEMPORARY_PREFIX, OWN)) and path.suffix != ".tmp":
                stamp = path.stat().st_mtime_ns
                if stamp != AS_IN_THE_BUCKET and self._sent.get(name) != stamp:
                    yield name

    def _put_journal(self, name: str, data: bytes) -> None:
        """Put a journal where none is or over the one that was brought, unless what is there says as much."""
        if name in self._taken and self._taken[name].data == data:
            return
        key, ours = self._key(name), Told.by(data)
        version = self._taken[name].version if name in self._taken else None
        for _ in range(TRIES):
            done = self._store.create(key, data) if version is None else self._store.replace(key, data, version)
            if done is not None:
                self._taken[name] = _Taken(data, done)
                return
            version = None
            if (found := self._store.read(key)) is not None:
                theirs, version = Told.by(found[0]), found[1].version
                if ours is None or theirs is None:
                    break
                journal.check_settings(theirs.settings, ours.settings)
                if theirs.covers(ours):
                    self._taken[name] = _Taken(data, version)
                    return
        raise OutputError(f"{self._url}/{name} is written by another run; wait for that, and run this again.")

    def _content(self, name: str) -> bytes:
        with open_input(self._folder / name, journal.WHAT) as file:
            return file.read()

    def _key(self, name: str) -> str:
        return self._url.below(name).key


def _mark(path: Path) -> None:
    os.utime(path, ns=(AS_IN_THE_BUCKET, AS_IN_THE_BUCKET))
