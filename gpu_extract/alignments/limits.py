"""How much an alignments file may ask of this machine, and the check of a loaded tree's shape."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from dataclasses import dataclass

from gpu_extract.errors import AlignmentsError
from gpu_extract.kernels import opcodes

MAX_DEPTH = 64  # real files nest 8 deep
BFS_BLOCK = 1 << 16  # containers looked into at a time


@dataclass(frozen=True)
class Limits:
    """Caps on what a file may expand to; real files stay far below all of them."""

    max_bytes: int = 4 << 30  # of the file, and of its content after inflating
    max_ratio: int = 250  # inflated bytes per stored byte; landmarks and thumbnails reach 1 to 5
    free_bytes: int = 64 << 20  # inflated size up to which the ratio does not matter
    max_string: int = 256 << 20  # bytes of one string, mask or thumbnail
    free_values: int = 2_000_000  # values (list items, dict entries) of any file
    values_per_byte: int = 4  # further values per stored byte

    def inflated(self, stored: int) -> int:
        """Bytes that a file of `stored` bytes may inflate to."""
        return min(self.max_bytes, max(self.free_bytes, stored * self.max_ratio))

    def values(self, stored: int) -> int:
        """Values that a file of `stored` bytes may hold."""
        return self.free_values + stored * self.values_per_byte


def check_tree(root: object, allowed: Iterable[type], max_values: int, label: str) -> None:
    """Refuse a tree that nests too deep, holds foreign types, or multiplies by sharing its parts.

    Runs level by level, counting a shared part as often as it is reached, so that every later walk over the tree is
    known to end soon. Raises AlignmentsError.
    """
    plain = tuple(allowed)
    if type(root) is dict and opcodes.is_modest(root, plain, max_values, MAX_DEPTH):
        return
    allowed = {dict, list, tuple, *plain}
    level: list[object] = [root]
    values = 0
    for _depth in range(MAX_DEPTH):
        below: list[object] = []
        for start in range(0, len(level), BFS_BLOCK):
            found = gc.get_referents(*level[start : start + BFS_BLOCK])
            foreign = set(map(type, found)) - allowed
            if foreign:
                names = ", ".join(sorted(kind.__name__ for kind in foreign))
                raise AlignmentsError(f"{label} holds values that are not plain data ({names}).")
            values += len(found)
            if values > max_values:
                raise AlignmentsError(
                    f"{label} holds more than {max_values} values for its size; it looks built to exhaust memory."
                )
            below += [value for value in found if type(value) in CONTAINERS]
        if not below:
            return
        level = below
    raise AlignmentsError(f"{label} nests deeper than {MAX_DEPTH} levels; alignments files nest at most 8 deep.")


CONTAINERS = frozenset((dict, list, tuple))
SHOWN = 80  # characters of a hostile file's text that an error repeats


def shown(value: object) -> str:
    """`value` for an error sentence: short, printable and cheap whatever it is."""
    if isinstance(value, str | bytes):
        return repr(value[:SHOWN]) + ("…" if len(value) > SHOWN else "")
    if isinstance(value, int) and value.bit_length() > 4 * SHOWN:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, int | float) or value is None:
        text = repr(value)
        return text if len(text) <= SHOWN else text[:SHOWN] + "…"
    return f"a {type(value).__name__}"


def reason(error: Exception) -> str:
    """The text of an error of Python's own, in one short line."""
    return " ".join(str(error)[:200].split())
