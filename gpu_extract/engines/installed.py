"""Whether torch can be had here: it may be missing, or lie there without the libraries that it needs."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec


@cache
def torch_fault() -> str | None:
    """Why torch cannot be used, as the end of a sentence; None where it can."""
    if find_spec("torch") is None:
        return "torch is not installed"
    try:
        import torch
    except Exception as error:  # an OSError without its libraries, a ValueError, …
        return f"torch is installed but cannot be loaded ({first_line(error)})"
    return None if hasattr(torch, "cuda") else "torch is installed but lies there in parts only"


def first_line(error: BaseException) -> str:
    """What an error says, without the advice that torch appends."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
