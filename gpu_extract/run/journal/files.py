"""Names of journals in a folder, and of what else this program keeps there to remember what was done."""

from __future__ import annotations

import os
import re
from pathlib import Path

from gpu_extract.options import MOST_SHARDS
from gpu_extract.run.shard import Shard
from gpu_extract.storage.inputs import unreadable

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
RECEIPT = re.compile(re.escape(NAME) + r"\.([0-9]+)-of-([0-9]+)")
WHAT = "the journal"


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
    match = RECEIPT.fullmatch(name)
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


def exists(folder: Path, shard: Shard | None = None) -> bool:
    """Whether a folder holds the journal of a run, or of a shard; raises InputError where the system cannot tell."""
    path = folder / name_of(shard)
    try:
        return path.is_file()
    except OSError as error:
        raise unreadable(path, WHAT, error) from error
