"""Frequent instructions of pickles, carried out in C; and the count of what a loaded tree holds.

Both do what their callers do without them, or leave it to these: an instruction that is rare, damaged or forbidden, a
tree that is not plainly harmless. So there is one place for every error.
"""

from __future__ import annotations

from typing import Any

try:
    import gpu_extract.kernels._opcodes as _opcodes
except ImportError:  # built only where a C compiler was at hand
    _opcodes = None

SHORTEST_LIMIT = 8
"""Bytes that a string may have at least, or what stands between instructions would be bounded, too."""


def is_available() -> bool:
    """Whether the C extension was built."""
    return _opcodes is not None


def run(
    buffer: bytes,
    at: int,
    safe: int,  # where an instruction may begin at the latest
    max_string: int,  # bytes
    stack: list[Any],
    marks: list[int],
    memo: list[Any],
    shapes: dict[bytes | tuple[int, ...], tuple[int, ...]],  # of arrays by their code, of lists by themselves
    kinds: tuple[Any, ...],  # hole, _reconstruct, ndarray; the types of described dtypes, packed arrays, packed lists
    dtypes: tuple[Any, ...],  # float32, float64, uint8
) -> tuple[int, int]:
    """Carry out instructions from `at` on; all arguments are those of a machine of `alignments/pickles/safe_pickle.py`.

    Returns where the first one stands that was not carried out, and how many values were made; what that one needs is
    as it was. Raises RuntimeError where the extension was not built, MemoryError.
    """
    if _opcodes is None:
        raise RuntimeError("the instructions of pickles were not built in C here; install with a C compiler")
    done: tuple[int, int] = _opcodes.run(
        buffer, at, safe if max_string >= SHORTEST_LIMIT else -1, max_string, stack, marks, memo, shapes, kinds, dtypes
    )
    return done


def is_modest(root: dict[Any, Any], types: tuple[type, ...], values: int, depth: int) -> bool:
    """Whether a tree nests at most `depth` containers, in which `values` at most are containers or of `types`.

    A part that is shared counts as often as it is reached; the count may be higher than that of `check_tree`. False
    where the extension was not built.
    """
    return _opcodes is not None and _opcodes.modest(root, types, values, depth)
