"""A run in shards, in words of the command line, and who has them run on many machines.

A module of `schedulers/` goes by its name, `gpu-extract cluster NAME`, and offers

    OPTIONS: frozenset[str]                                      what it takes beside the work, by name
    def run(work: Work, options: Mapping[str, Any], say: Callable[[str], None]) -> int      the exit code

Every shard is a run of the command line, so a scheduler knows of it only its words and its exit code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from gpu_extract import plugins
from gpu_extract.errors import AlignmentsError, InputError, UsageError
from gpu_extract.options import Settings, options, words_of

FOLDER = "gpu_extract.cluster.schedulers"
MOST_SHARDS = 100_000
TRIES = 3
"""After the first, of a shard whose process dies or ends with an exit code that another try may change."""
FATAL = (UsageError.exit_code, InputError.exit_code, AlignmentsError.exit_code)
"""Exit codes that every other try would end with, too."""
WITHOUT_FILE = ("--config", "")
"""What a configuration file says was read where the command was given; no other machine's counts."""


@dataclass(frozen=True)
class Work:
    """One run in shards.

    Args:
        values: options of `extract` that are not left at their defaults, by name; paths as they were given.
        shards: how many.
        cpus: cores that a shard asks for.
        gpus: GPUs that a shard asks for.

    Raises:
        UsageError: for a value that is not allowed, and for options that do not go together.
    """

    values: Mapping[str, Any]
    shards: int
    cpus: int = 2
    gpus: int = 0

    def __post_init__(self) -> None:
        check_count("shards", self.shards, 1, MOST_SHARDS)
        check_count("cpus", self.cpus, 1)
        check_count("gpus", self.gpus, 0)
        Settings(**self.values)

    def shard(self, number: int | str) -> list[str]:
        """The words that cut one shard, or go on with it. Ended with 0, it has gone over all its frames."""
        which = ("--shard", f"{number}/{self.shards}", "--resume", "--partial-ok")
        return ["extract", *WITHOUT_FILE, *words_of({"workers": self.cpus} | dict(self.values)), *which]

    def merge(self) -> list[str]:
        """The words that make one run of the shards. Ended with 4, some are missing or not whole."""
        known = {row.name for row in options("merge")}
        values = {name: value for name, value in self.values.items() if name in known}
        if self.values.get("engine") != "kornia":
            values["device"] = "cpu"  # the same bytes, and hardly any are made
        return ["merge", *WITHOUT_FILE, *words_of(values)]


def scheduler(name: str, given: Iterable[str]) -> ModuleType:
    """The module of a name.

    Args:
        given: the options that it is to take.

    Raises:
        UsageError: if there is none, or it does not take them.
    """
    known = plugins.names(FOLDER)
    if name not in known:
        raise UsageError(f"cluster {name!r} is not understood; {', '.join(known)} are.")
    module = plugins.module(FOLDER, name)
    if foreign := sorted(set(given) - module.OPTIONS):
        named = ", ".join(option.replace("_", "-") for option in foreign)
        raise UsageError(f"cluster {name} does not take {named}; see gpu-extract cluster --help.")
    return module


def check_count(name: str, value: int, least: int, most: int | None = None) -> None:
    """Refuse a number that is too small or too large.

    Raises:
        UsageError: if it is.
    """
    if value < least or (most is not None and value > most):
        allowed = f"{least} or more" if most is None else f"{least} to {most:,}"
        raise UsageError(f"{name} must be {allowed}, got {value}.")
