"""The faces folder before a run: empty, or holding the run that is to be resumed."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpu_extract.errors import OutputError
from gpu_extract.run import journal
from gpu_extract.run.shard import Shard
from gpu_extract.storage.descriptors import close_quietly, open_beyond_standard
from gpu_extract.storage.inputs import is_folder, unreadable


def prepare_folder(folder: Path, *, resume: bool, shard: Shard | None = None) -> None:
    """Create a folder for face files, with parents; one that exists must be empty, or hold a run to resume.

    Shards of one run share a folder.

    Raises:
        OutputError: if it is not a folder, holds anything else, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = _why_not(folder, resume, shard)
    except NotADirectoryError:
        raise OutputError(f"the faces folder {folder} cannot be made: a part of that path is a file.") from None
    except FileExistsError:
        raise OutputError(
            f"the faces folder {folder} is a file; name a folder that is empty or not there yet."
        ) from None
    except OSError as error:
        if error.errno == errno.EIO and is_folder(folder, "the faces folder"):
            raise unreadable(folder, "the faces folder", error) from error
        raise OutputError(f"the faces folder {folder} cannot be made: {error.strerror}.") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"the faces folder {folder} cannot be written: permission denied.")
    if reason is not None:
        raise OutputError(f"the faces folder {folder} {reason}")


def check_folder(folder: Path, *, resume: bool, shard: Shard | None = None) -> None:
    """Look, and change nothing: what is in a folder, if it is there, is what `prepare_folder` takes.

    Raises:
        OutputError: if it is something else.
    """
    try:
        reason = _why_not(folder, resume, shard)
    except OSError:  # it is not there, or no folder, which whoever makes it is told
        return
    if reason is not None:
        raise OutputError(f"the faces folder {folder} {reason}")


def _why_not(folder: Path, resume: bool, shard: Shard | None) -> str | None:
    """Why a run may not write into a folder; None where it may. Raises OSError where it cannot be looked into."""
    with os.scandir(folder) as entries:
        occupied = next(entries, None)
    if occupied is None:
        return None
    is_whole, shards = journal.exists(folder), journal.receipts(folder)
    if shard is None and (is_whole or shards) and resume:
        return None
    if shard is None and is_whole:
        return "holds an earlier run; add --resume to continue it, or name another folder."
    if shard is None and shards:
        return (
            f"holds shards of a run ({len(shards)} of {shards[0].count}); gpu-extract merge makes one run of them, "
            "--resume takes them over, or name another folder."
        )
    if shard is not None and is_whole:
        return "holds a run that is not divided, or whose shards were merged; name another folder."
    if shard is not None and shards:
        if others := [other for other in shards if other.count != shard.count]:
            return f"holds a shard of {others[0].count}, and this is {shard}: divide one run one way."
        if shard in shards and not resume:
            return f"holds an earlier try of shard {shard}; add --resume to continue it."
        return None
    return f"is not empty (it holds {occupied.name!r}); name another, or empty it first."


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other runs of several processes out of a folder, whose journals are their children's.

    Raises:
        OutputError: if one is there.
    """
    handle = open_beyond_standard(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(f"another run is writing into {folder}; wait for it, or name another folder.") from None
        except OSError:  # a file system without locks on folders; the journals have theirs
            pass
        yield
    finally:
        close_quietly(handle)
