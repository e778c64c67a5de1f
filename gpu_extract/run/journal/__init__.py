"""The run's own record in the faces folder: what was asked for, which frames are finished, each face's hash.

One line an entry: a CRC-32 in hex, a space, JSON. Lines are only ever appended. A line that was torn by a crash, and
whatever follows it, is cut off when the journal is opened again. A finished run leaves its journal in place: it is the
record of the run, and tells a later `--resume` that nothing is left to do.

A frame's line is written when its files have their names, so that whatever kills the process takes nothing; but a power
cut may take the files' data and leave the line. So every few seconds the data is put on the disk, and then a line says
that all before it is. What stands after the last such line has to be proved by whoever goes on.

A shard of a run has a journal of its own beside those of the others, with the same first line: its receipt, which ends
with the shard's report once all its frames were gone over.
"""

from __future__ import annotations

from gpu_extract.run.journal.entries import VERSION, Finished, first_entry, frame_entry, line, parse
from gpu_extract.run.journal.files import (
    BEGUN,
    DONE,
    FAILURES,
    NAME,
    PRUNED,
    REINDEXED,
    RENAMED,
    WHAT,
    exists,
    name_of,
    names,
    own_names,
    receipts,
    shard_of,
)
from gpu_extract.run.journal.opened import QUICK_SECONDS, SETTLE_SECONDS, SETTLE_SHARE, Journal, check_settings, locked
from gpu_extract.run.journal.told import (
    LONGEST_FIRST_LINE,
    Follower,
    Told,
    begun,
    frames_of,
    is_ended,
    is_void,
    read,
    revised,
    with_tail,
)

__all__ = [
    "BEGUN",
    "DONE",
    "FAILURES",
    "LONGEST_FIRST_LINE",
    "NAME",
    "PRUNED",
    "QUICK_SECONDS",
    "REINDEXED",
    "RENAMED",
    "SETTLE_SECONDS",
    "SETTLE_SHARE",
    "VERSION",
    "WHAT",
    "Finished",
    "Follower",
    "Journal",
    "Told",
    "begun",
    "check_settings",
    "exists",
    "first_entry",
    "frame_entry",
    "frames_of",
    "is_ended",
    "is_void",
    "line",
    "locked",
    "name_of",
    "names",
    "own_names",
    "parse",
    "read",
    "receipts",
    "revised",
    "shard_of",
    "with_tail",
]
