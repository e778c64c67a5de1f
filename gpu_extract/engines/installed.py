"""Whether torch, Triton and kornia can be had here: they may be missing, or lie there without what they need."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec


@cache
def torch_fault() -> str | None:
    """Why torch cannot be used, as the end of a sentence; None where it can."""
    if fault := _fault("torch", "cuda"):
        return fault
    import torch

    return None if hasattr(torch.cuda, "is_available") else "torch lies there in parts only"


@cache
def triton_fault() -> str | None:
    """Why Triton cannot be used, or the torch that it works with; None where it can."""
    if find_spec("triton") is None:
        return "triton is not installed"
    return torch_fault() or _fault("triton", "jit")


@cache
def kornia_fault() -> str | None:
    """Why kornia cannot be used, or the torch that it works with; None where it can."""
    if find_spec("kornia") is None:
        return "kornia is not installed"
    return torch_fault() or _fault("kornia", "geometry")


def _fault(package: str, part: str) -> str | None:
    if find_spec(package) is None:
        return f"{package} is not installed"
    try:
        module = import_module(package)
    except Exception as error:  # an OSError without its libraries, a ValueError, …
        return f"{package} cannot be loaded ({first_line(error)})"
    return None if hasattr(module, part) else f"{package} lies there in parts only"


def first_line(error: BaseException) -> str:
    """What an error says, without the advice that torch appends."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
