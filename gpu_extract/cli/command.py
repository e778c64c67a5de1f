"""What a command is to the command line; each has a module in `commands/` that says so of itself in `COMMAND`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gpu_extract.options import option

Word = tuple[tuple[str, ...], dict[str, Any]]


@dataclass(frozen=True)
class Command:
    """One command.

    Args:
        name: what calls it.
        run: does it; returns the exit code.
        text: what `--help` says of it, the first line also in the list of all commands.
        example: a command line that a reader may copy.
        options: the command whose options it takes (see `gpu_extract.options`); None for none.
        words: its arguments beside these, made by `word`.
        pixels: whether it loads libraries of pixels, which need room in memory to be loaded at all.
    """

    name: str
    run: Callable[[argparse.Namespace], int]
    text: str
    example: str
    options: str | None = None
    words: tuple[Word, ...] = ()
    pixels: bool = False


def word(*names: str, **how: Any) -> Word:
    """An argument of a command, as `add_argument` wants it."""
    return names, how


def seconds(text: str) -> float:
    """The type of a word that is a span of time."""
    found = float(text)
    if not 0 <= found < 1e9:
        raise ValueError(text)
    return found


MATCH_KEYS = word(
    "--match-keys",
    metavar="RULES",
    default=option("match_keys").default,
    help=f"{option('match_keys').help}; such a key becomes its frame's name",
)
"""Of commands that rename keys after their frames."""
