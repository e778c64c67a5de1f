"""What was fetched from a store, kept on this machine under what its content was, so that it comes once.

Processes that want the same wait for the one that fetches it. What is not whole has another name.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from gpu_extract.errors import InputError, OutputError
from gpu_extract.naming import Url
from gpu_extract.storage.descriptors import close_quietly, closing, open_beyond_standard
from gpu_extract.stores.base import Entry, Store

NAME = "gpu-extract"
RANGE_BYTES = 16 << 20
REQUESTS = 8
"""At the same time."""
POLL_SECONDS = 0.1
KEPT_SECONDS = 30 * 86400.0
"""What nobody wanted for so long is removed when something else comes."""
RESERVE_BYTES = 64 << 20
UNFINISHED, LOCK = ".unfinished", ".lock"

Item = TypeVar("Item")
Check = Callable[[], None]
"""Raises what ends the command early; called often."""


def cache_folder(asked: str | os.PathLike[str] | None) -> Path:
    """The folder that is asked for, or the usual one; made where it is not there.

    Raises:
        OutputError: if it cannot be made.
    """
    usual = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 (no home, no error)
    folder = Path(usual) / NAME if asked is None else Path(asked)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the cache {folder} cannot be made ({error.strerror}); give --cache another one.") from error
    return folder


def fetch_file(store: Store, entry: Entry, url: Url, cache: Path, check: Check) -> Path:
    """An object as a file of its own name; from the cache where it is there.

    Raises:
        InputError: if it cannot be read, or changes meanwhile.
        OutputError: if the disk refuses, or is too small.
    """

    def fetch(folder: Path) -> None:
        _fetch_ranges(store, entry, folder / url.name, check)

    return _once(f"{url}\0{entry.identity}", entry.size, cache, check, fetch) / url.name


def fetch_folder(store: Store, entries: Sequence[Entry], url: Url, cache: Path, check: Check) -> Path:
    """Objects of one prefix as a folder of the prefix's name; see `fetch_file`."""

    def fetch(folder: Path) -> None:
        inside = folder / url.name
        inside.mkdir()

        def one(entry: Entry) -> None:
            check()
            write_part(inside / entry.key.rpartition("/")[2], store.read_range(entry, 0, entry.size), entry)

        in_parallel(one, entries)

    content = "\0".join(f"{entry.key} {entry.identity}" for entry in entries)
    size = sum(entry.size for entry in entries)
    return _once(f"{url}/\0{content}", size, cache, check, fetch) / url.name


def write_part(path: Path, data: bytes, entry: Entry) -> None:
    """Write what was read of an object, if it is all of it."""
    if len(data) != entry.size:
        raise InputError(f"{entry.key} came with {len(data):,} of {entry.size:,} bytes; run the command again.")
    try:
        with open(path, "xb") as file:
            file.write(data)
    except OSError as error:
        raise _refused(path, error) from error


def in_parallel(call: Callable[[Item], None], items: Sequence[Item]) -> None:
    """Call for each, several at a time; raises the first error, and then begins no more."""
    with ThreadPoolExecutor(REQUESTS, "gpu-extract-store") as pool:
        futures = [pool.submit(call, item) for item in items]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _fetch_ranges(store: Store, entry: Entry, path: Path, check: Check) -> None:
    try:
        descriptor = open_beyond_standard(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    except OSError as error:
        raise _refused(path, error) from error

    def one(start: int) -> None:
        check()
        end = min(start + RANGE_BYTES, entry.size)
        data = store.read_range(entry, start, end)
        if len(data) != end - start:
            raise InputError(f"{entry.key} came with {len(data):,} of {end - start:,} bytes; run the command again.")
        os.pwrite(descriptor, data, start)

    try:
        with closing(descriptor):
            os.ftruncate(descriptor, entry.size)
            in_parallel(one, range(0, entry.size, RANGE_BYTES))
    except OSError as error:
        raise _refused(path, error) from error


def _once(what: str, size: int, cache: Path, check: Check, fetch: Callable[[Path], None]) -> Path:
    """The folder that `fetch` filled, now or at another time."""
    fetched = cache / "fetched"
    place = fetched / hashlib.blake2b(what.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    try:
        fetched.mkdir(exist_ok=True)
        with waiting_for(place.with_suffix(LOCK), check):
            if not place.is_dir():
                _remove_old(fetched, place)
                _check_room(fetched, size)
                unfinished = place.with_suffix(UNFINISHED)
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir()
                fetch(unfinished)
                unfinished.rename(place)
            os.utime(place)
    except OSError as error:
        raise _refused(place, error) from error
    return place


@contextmanager
def waiting_for(lock: Path, check: Check) -> Iterator[None]:
    """Hold a lock, after waiting for whoever has it."""
    descriptor = open_beyond_standard(lock, os.O_RDWR | os.O_CREAT)
    try:
        while True:
            check()
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(POLL_SECONDS)
        yield
    finally:
        close_quietly(descriptor)


def _remove_old(fetched: Path, keep: Path) -> None:
    before = time.time() - KEPT_SECONDS
    for place in [place for place in fetched.iterdir() if place.is_dir() and place != keep]:
        with suppress(OSError):
            if place.stat().st_mtime < before:
                shutil.rmtree(place)


def _check_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size + RESERVE_BYTES > free:
        raise OutputError(
            f"{size / 1e6:,.0f} MB are to be fetched, and {folder} has {free / 1e6:,.0f} MB left; give --cache another "
            "folder."
        )


def _refused(path: Path, error: OSError) -> OutputError:
    return OutputError(f"the cache cannot take {path} ({error.strerror}); give --cache another folder.")
