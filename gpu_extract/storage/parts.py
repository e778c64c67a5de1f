"""Files by the thousand, each whole under its name, none flushed: what a power cut takes, a later run writes again.

A file has a temporary name beside its own until it is whole. `atomic` is for files that must survive a power cut.
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import suppress
from pathlib import Path

from gpu_extract.storage.atomic import write_all
from gpu_extract.storage.descriptors import closing, open_beyond_standard

TEMPORARY_PREFIX = ".part-"
MAX_NAME_BYTES = 255  # of one path component, on every file system in common use
_WHOLE_FILE_LEFTOVER = re.compile(
    r"\.(faces\.(jsonl|parquet)|\.gpu-extract\.(journal|failures|pruned|reindexed|renamed).*)\..+\.tmp"
)


def check_part(name: str) -> None:
    """Refuse what cannot be one part of a path.

    Raises:
        OSError: EINVAL.
    """
    if "/" in name or "\0" in name or name in (".", "..", ""):
        raise OSError(errno.EINVAL, "it is no name of a file")


def check_name(name: str) -> None:
    """Refuse what cannot be a face's name: paths, and names that are given to files which are not yet whole.

    Raises:
        OSError: EINVAL.
    """
    check_part(name)
    if name.startswith(TEMPORARY_PREFIX):
        raise OSError(errno.EINVAL, f"names that begin with {TEMPORARY_PREFIX} are those of unfinished files")


def write_file(folder: Path, name: str, data: bytes) -> None:
    """All of a file or nothing: written under a temporary name in the same folder, then renamed.

    Raises:
        OSError: EINVAL also for a name that would lead out of the folder.
    """
    check_name(name)
    inside = os.fspath(folder)  # a Path for each name would cost as much as writing its file
    temporary, final = f"{inside}/{temporary_name(name)}", f"{inside}/{name}"
    handle = open_beyond_standard(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        with closing(handle):
            write_all(handle, data)
        os.rename(temporary, final)  # noqa: PTH104
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)  # noqa: PTH108
        raise


def temporary_name(name: str) -> str:
    """The name that a file has until it is whole; the same at every try, so that a later run takes it over."""
    temporary = TEMPORARY_PREFIX + name
    if len(os.fsencode(temporary)) <= MAX_NAME_BYTES:
        return temporary
    import hashlib

    return TEMPORARY_PREFIX + hashlib.blake2b(os.fsencode(name), digest_size=16).hexdigest()


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed run left under temporary names; no other run may be writing into the folder."""
    for path in folder.rglob(".*"):
        if path.name.startswith(TEMPORARY_PREFIX) or _WHOLE_FILE_LEFTOVER.fullmatch(path.name):
            with suppress(OSError):
                path.unlink()
