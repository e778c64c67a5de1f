"""Exact sampling: crops of frames, cut with the same integers and so the same bytes everywhere.

Each of the modules `reference` (NumPy, slow, the truth), `cpu` (C) and `warp_affine` (Triton, CUDA) has a function
`warp_affine` that takes the same arguments; `tables` makes the integers that they share. Nothing here imports torch or
triton until it is asked for, and nothing imports the rest of the package.
"""

from __future__ import annotations

from importlib.util import find_spec


def is_available() -> bool:
    """Whether the CUDA kernel can run here: triton is installed and torch, imported for it, sees a CUDA device."""
    if find_spec("triton") is None or find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()
