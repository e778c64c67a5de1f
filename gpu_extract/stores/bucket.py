"""Buckets, through obstore, which tries again what may pass and takes credentials and endpoint from the environment."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from gpu_extract.errors import GpuExtractError, InputError, OutputError, UsageError
from gpu_extract.naming import Url
from gpu_extract.stores.base import ChangedError, Entry, Version

PAGE = 1000
LONGEST_REASON = 300
Result = TypeVar("Result")


class Bucket:
    """One bucket or container."""

    def __init__(self, url: Url) -> None:
        if find_spec("obstore") is None:
            raise UsageError(f"{url} needs obstore; install gpu-extract[cloud], or name a path of this machine.")
        import obstore
        import obstore.exceptions
        import obstore.store

        self._obstore: Any = obstore
        self._errors: Any = obstore.exceptions
        self._root = Url(url.scheme, url.bucket, "")
        try:
            self._store: Any = obstore.store.from_url(f"{url.scheme}://{url.bucket}")
        except (self._errors.BaseError, ValueError) as error:
            raise UsageError(f"{url} cannot be reached: {_reason(error)}.") from error

    def head(self, key: str) -> Entry | None:
        try:
            return _entry(self._reading(key, lambda: self._obstore.head(self._store, key)))
        except FileNotFoundError:
            return None

    def read(self, key: str) -> tuple[bytes, Entry] | None:
        def whole() -> tuple[bytes, Entry]:
            got = self._obstore.get(self._store, key)
            return bytes(got.bytes()), _entry(got.meta)

        try:
            return self._reading(key, whole)
        except FileNotFoundError:
            return None

    def read_range(self, entry: Entry, start: int, end: int) -> bytes:
        options: dict[str, Any] = {"range": (start, end)}
        if entry.version["e_tag"] is not None:
            options["if_match"] = entry.version["e_tag"]

        def part() -> bytes:
            return bytes(self._obstore.get(self._store, entry.key, options=options).bytes())

        try:
            return self._reading(entry.key, part)
        except (FileNotFoundError, self._errors.PreconditionError) as error:
            changed = f"{self._at(entry.key)} was changed while it was read; run the command again."
            raise ChangedError(changed) from error

    def entries(self, prefix: str, after: str = "") -> Iterator[list[Entry]]:
        pages = iter(self._obstore.list(self._store, prefix, offset=after or None, chunk_size=PAGE))
        while (page := self._reading(prefix, lambda: next(pages, None))) is not None:
            yield [_entry(meta) for meta in page]

    def put(self, key: str, content: bytes | os.PathLike[str]) -> None:
        what = content if isinstance(content, bytes) else Path(content)
        try:
            self._writing(key, lambda: self._obstore.put(self._store, key, what))
        except FileNotFoundError as error:
            raise self._no_bucket(key) from error

    def create(self, key: str, content: bytes) -> Version | None:
        try:
            return self._put_if(key, content, "create")
        except FileNotFoundError as error:
            raise self._no_bucket(key) from error

    def replace(self, key: str, content: bytes, version: Version) -> Version | None:
        try:
            return self._put_if(key, content, {name: tag for name, tag in version.items() if tag is not None})
        except FileNotFoundError:
            return None

    def remove(self, key: str) -> None:
        try:
            self._writing(key, lambda: self._obstore.delete(self._store, key))
        except FileNotFoundError:
            return

    def _put_if(self, key: str, content: bytes, mode: Any) -> Version | None:
        def put() -> Version:
            return dict(self._obstore.put(self._store, key, content, mode=mode, use_multipart=False))

        try:
            return self._writing(key, put)
        except (self._errors.AlreadyExistsError, self._errors.PreconditionError):
            return None

    def _no_bucket(self, key: str) -> OutputError:
        return OutputError(f"{self._at(key)} could not be written: there is no bucket {self._root.bucket}.")

    def _reading(self, key: str, call: Callable[[], Result]) -> Result:
        return self._calling(call, lambda why: InputError(f"{self._at(key)} could not be read ({why})."))

    def _writing(self, key: str, call: Callable[[], Result]) -> Result:
        return self._calling(call, lambda why: OutputError(f"{self._at(key)} could not be written ({why})."))

    def _calling(self, call: Callable[[], Result], told: Callable[[str], GpuExtractError]) -> Result:
        """Call the library; its errors become ours, but for those that are an answer."""
        try:
            return call()
        except (FileNotFoundError, self._errors.AlreadyExistsError, self._errors.PreconditionError):
            raise
        except (self._errors.BaseError, ValueError, OSError) as error:
            raise told(_reason(error)) from error

    def _at(self, key: str) -> str:
        return f"{self._root}{key}"


def _entry(meta: Any) -> Entry:
    return Entry(meta["path"], meta["size"], {"e_tag": meta["e_tag"], "version": meta["version"]})


def _reason(error: Exception) -> str:
    """The first line of what the library says."""
    said = str(error).partition("\n")[0].strip().rstrip(".")
    return said if len(said) <= LONGEST_REASON else said[:LONGEST_REASON] + "…"
