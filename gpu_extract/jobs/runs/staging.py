"""A job whose alignments file, frames or faces lie in buckets: brought here before it, carried there after it.

The job itself knows paths of this machine only. Nothing is changed in a bucket in place but by a put that asks for the
version that was brought: where an endpoint ignores that, the job is refused before any work.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from gpu_extract.errors import AlignmentsChangedError, GpuExtractError, InputError, InterruptedRunError, OutputError
from gpu_extract.jobs.runs.next_step import next_command
from gpu_extract.jobs.runs.outbox import Outbox
from gpu_extract.naming import Url
from gpu_extract.options import Settings
from gpu_extract.reports.base import check_target, write_report
from gpu_extract.reports.extraction import Report
from gpu_extract.run.progress import Note, listener_for
from gpu_extract.run.shard import Shard
from gpu_extract.run.signals import CANCELLED_EXIT_CODE
from gpu_extract.storage.descriptors import close_quietly, open_beyond_standard
from gpu_extract.storage.inputs import open_input
from gpu_extract.stores import open_store
from gpu_extract.stores.base import Entry, Store, Version
from gpu_extract.stores.cache import cache_folder, fetch_file, fetch_folder, waiting_for, write_part
from gpu_extract.stores.probe import require

WHAT = "the alignments file"


class Stage:
    """One job's places, of which some are in buckets.

    Attributes:
        settings: the job's, with paths of this machine.
    """

    def __init__(self, asked: Settings, folder: Path, cache: Path, cancel: threading.Event | None) -> None:
        self._urls, self._folder, self._cache, self._cancel = asked.urls, folder, cache, cancel
        self._stores = {name: open_store(url) for name, url in self._urls.items()}
        self._listener = listener_for(asked.progress)
        self._outbox: Outbox | None = None
        self._loaded: tuple[bytes, Version] | None = None
        self.settings = replace(asked, json=None, progress=self._listener)
        if not asked.dry_run:
            self._require_conditions()
        if "faces" in self._urls:
            self._bring_faces()
        if "alignments" in self._urls:
            self._bring_alignments()
        if "frames" in self._urls:
            self._bring_frames()

    def deliver(self, report: Report) -> None:
        """Carry to the buckets what the job has made, in the order in which it may be relied upon.

        Raises:
            OutputError: if something cannot be written.
            AlignmentsChangedError: if the alignments file is not the one any more that was brought.
        """
        if not self.settings.dry_run:
            if self._outbox is not None:
                self._outbox.deliver()
            if self._loaded is not None:
                self._save_alignments(report)
            if self._outbox is not None:
                self._outbox.remove_merged()
        report.faces_folder = self.told(report.faces_folder)
        report.notes[:] = map(self.told, report.notes)

    def close(self) -> None:
        if self._outbox is not None:
            self._outbox.close()

    def told(self, text: str) -> str:
        """With addresses instead of the paths that they have here."""
        for name, url in self._urls.items():
            text = text.replace(os.fspath(getattr(self.settings, name)), str(url))
        return text

    def _check(self) -> None:
        if self._cancel is not None and self._cancel.is_set():
            raise InterruptedRunError("cancelled.", CANCELLED_EXIT_CODE)

    def _require_conditions(self) -> None:
        settings, done = self.settings, set()
        updates = not settings.no_update and settings.shard is None
        for name, writes in (("faces", True), ("alignments", updates)):
            if (url := self._urls.get(name)) is not None and writes and (url.scheme, url.bucket) not in done:
                done.add((url.scheme, url.bucket))
                require(self._stores[name], url if name == "faces" else url.folder)

    def _bring_faces(self) -> None:
        url, folder = self._urls["faces"], self._folder / "faces"
        self._outbox = Outbox(self._stores["faces"], url, folder, self._listener)
        shard = None if self.settings.shard is None else Shard.of(self.settings.shard)
        if not self.settings.dry_run:
            self._outbox.take_over(shard=shard, resume=self.settings.resume)
        self.settings = replace(self.settings, faces=folder, progress=self._outbox)

    def _bring_alignments(self) -> None:
        url = self._urls["alignments"]
        found = self._stores["alignments"].read(url.key)
        if found is None:
            raise InputError(f"{WHAT} {url} does not exist; check its name and bucket.")
        data, entry = found
        path = self._folder / "alignments" / url.name
        path.parent.mkdir()
        write_part(path, data, entry)
        self._loaded = data, entry.version
        self.settings = replace(self.settings, alignments=path)

    def _bring_frames(self) -> None:
        url, store = self._urls["frames"], self._stores["frames"]
        entry = store.head(url.key)
        if entry is not None:
            self._say(url, [entry])
            path = fetch_file(store, entry, url, self._cache, self._check)
        else:
            images = _directly_below(store, url)
            if not images:
                raise InputError(f"the frames {url} do not exist, as one object or several; check name and bucket.")
            self._say(url, images)
            path = fetch_folder(store, images, url, self._cache, self._check)
        self.settings = replace(self.settings, frames=path)

    def _say(self, url: Url, entries: list[Entry]) -> None:
        size = sum(entry.size for entry in entries)
        self._listener(Note(f"{url} is fetched, {size / 1e6:,.0f} MB, unless the cache has it."))

    def _save_alignments(self, report: Report) -> None:
        """Put the alignments file over the version that was brought, after a copy of that one."""
        assert self._loaded is not None
        url, store = self._urls["alignments"], self._stores["alignments"]
        loaded, version = self._loaded
        data = _content(self.settings.alignments)
        if data == loaded:
            return
        copy = None
        if report.backup is not None:
            copy, is_new = _put_beside(store, url, Path(report.backup).name, loaded)
            report.backup = str(copy)
        if store.replace(url.key, data, version) is not None:
            return
        found = store.read(url.key)
        if found is not None and found[0] == data:
            return
        if copy is not None and is_new:
            store.remove(copy.key)
        stem, suffix = Path(url.name).stem, Path(url.name).suffix
        stamp = time.strftime("_unsaved_%Y%m%d_%H%M%S")
        try:
            kept, _ = _put_beside(store, url, f"{stem}{stamp}{suffix}", data)
            where = f"what was to be saved is in {kept.name}"
        except OutputError as error:
            where = f"and what was to be saved could not be kept beside it ({error})"
        raise AlignmentsChangedError(
            f"{url} was changed by another program since it was loaded, so it was not overwritten; {where}."
        )


def run_staged(settings: Settings, cancel: threading.Event | None, job: Callable[[Settings], Report]) -> Report:
    """A job between bringing and carrying; its report is written after that."""
    if settings.json is not None:
        check_target(Report, settings.json)
    with staged(settings, cancel) as stage:
        report = job(stage.settings)
        stage.deliver(report)
        report.next = stage.told(report.next) if next_command(settings, report) else ""
    if settings.json is not None:
        write_report(report, settings.json)
    return report


@contextmanager
def staged(settings: Settings, cancel: threading.Event | None = None) -> Iterator[Stage]:
    """Bring what is in buckets, for as long as the block lasts; `deliver` carries the results there.

    Raises:
        GpuExtractError: one of its kinds, with addresses in its sentence; also what the block raises.
    """
    cache = cache_folder(settings.cache)
    stage = None
    with _working_folder(cache) as folder:
        try:
            stage = Stage(settings, folder, cache, cancel)
            yield stage
        except GpuExtractError as error:
            if stage is not None:
                error.args = (stage.told(str(error)),)
            raise
        finally:
            if stage is not None:
                stage.close()


@contextmanager
def _working_folder(cache: Path) -> Iterator[Path]:
    """A new folder that is removed in the end; and those of processes that were killed."""
    works = cache / "at-work"
    descriptor = -1
    try:
        works.mkdir(exist_ok=True)
        with waiting_for(cache / "at-work.lock", lambda: None):
            for left in works.iterdir():
                _remove_if_left(left)
            folder = Path(tempfile.mkdtemp(dir=works))
            descriptor = open_beyond_standard(folder, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        raise OutputError(f"the cache {cache} cannot be used ({error.strerror}); give --cache another one.") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        close_quietly(descriptor)


def _remove_if_left(folder: Path) -> None:
    try:
        descriptor = open_beyond_standard(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        return
    finally:
        close_quietly(descriptor)


def _directly_below(store: Store, url: Url) -> list[Entry]:
    prefix = f"{url.key}/"
    found = [entry for page in store.entries(url.key) for entry in page]
    return [entry for entry in found if "/" not in entry.key.removeprefix(prefix)]


def _put_beside(store: Store, url: Url, name: str, data: bytes) -> tuple[Url, bool]:
    """Put under a name beside an address, or one with a number where that has other content; and whether it is new."""
    stem, suffix = Path(name).stem, Path(name).suffix
    for number in range(1, 100):
        place = url.beside(name if number == 1 else f"{stem}({number}){suffix}")
        if store.create(place.key, data) is not None:
            return place, True
        found = store.read(place.key)
        if found is not None and found[0] == data:
            return place, False
    raise OutputError(f"no name is free for {name} beside {url}.")


def _content(path: Path) -> bytes:
    with open_input(path, WHAT) as file:
        return file.read()
