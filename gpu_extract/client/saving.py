"""The alignments file here, and the server's in its place: whole, and with a copy of the old, as a run saves it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from gpu_extract.client.memory import Record
from gpu_extract.errors import AlignmentsChangedError, InputError, OutputError
from gpu_extract.storage.atomic import backup_copy, digest_of, locked, new_digest, write_new, write_whole


class Saving:
    """What is remembered of a file that is to be saved.

    Args:
        keep: puts the record on the disk.
    """

    def __init__(self, record: Record, keep: Callable[[Record], None]) -> None:
        self._record, self._keep = record, keep

    def replace(self, path: Path, data: bytes, *, modern: bool) -> str | None:
        """Put the new file in the old one's place; returns the path of the old one's copy, if there is one.

        Args:
            modern: which name the copy gets, see `backup_copy`.

        Raises:
            AlignmentsChangedError: if the file is no longer the one that was sent; it is left alone then.
            OutputError: if the disk refuses; it is untouched then.
        """
        record = self._record
        record.after = _digest(data).hex()
        with locked(path):
            if path.exists():
                found = digest_of(path).hex()
                if found == record.after:
                    return record.backup
                if found != record.before:
                    raise self._beside(path, data)
                self._back_up(path, modern)
            try:
                write_whole(path, [data], before_replace=lambda: self._check_unchanged(path))
            except _ChangedMeanwhileError:
                raise self._beside(path, data) from None
        return record.backup

    def _back_up(self, path: Path, modern: bool) -> None:
        record = self._record
        if record.backup is not None:
            with suppress(InputError):
                if digest_of(Path(record.backup)).hex() == record.before:
                    return
        backup = backup_copy(path, modern=modern)
        record.backup = None if backup is None else os.fspath(backup)
        self._keep(record)

    def _beside(self, path: Path, data: bytes) -> AlignmentsChangedError:
        record = self._record
        if record.unsaved is None or not Path(record.unsaved).exists():
            stamp = time.strftime("_unsaved_%Y%m%d_%H%M%S")
            record.unsaved = os.fspath(write_new(path, [data], suffix=stamp))
            self._keep(record)
        return AlignmentsChangedError(
            f"{path} was changed since it was sent, so it was not overwritten; what was to be saved is in "
            f"{Path(record.unsaved).name}."
        )

    def _check_unchanged(self, path: Path) -> None:
        if path.exists() and digest_of(path).hex() != self._record.before:
            raise _ChangedMeanwhileError


class _ChangedMeanwhileError(Exception):
    """The file changed while its successor was being written."""


def put_beside(path: Path, data: bytes) -> None:
    """Write a server's file; one that is there is only taken for the same.

    Raises:
        OutputError: if it is another one, or the disk refuses.
    """
    if path.exists():
        if digest_of(path) != _digest(data):
            raise OutputError(f"{path} is there and something else; give --alignments-out another name.")
        return
    write_whole(path, [data])


def check_free(path: str | os.PathLike[str]) -> None:
    """
    Raises:
        OutputError: if there is a file of that name, before there can be ours.
    """
    if os.path.lexists(path):
        raise OutputError(f"{path} is there already; give --alignments-out another name.")


def check_writable(path: Path) -> None:
    """Find out before hours of work that a result could not be saved.

    Raises:
        OutputError: if so.
    """
    if not os.access(Path(os.path.realpath(path)).parent, os.W_OK | os.X_OK):
        raise OutputError(f"{path} cannot be saved, its folder is read-only; add --no-update to leave it as it is.")


def _digest(data: bytes) -> bytes:
    digest = new_digest()
    digest.update(data)
    found: bytes = digest.digest()
    return found
