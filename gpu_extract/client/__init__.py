"""A service elsewhere, for programs and for the commands `submit` and `health`.

>>> from gpu_extract.client import Client
>>> job = Client("http://gpu-box:8080").submit("alignments.fsa", "clip.mp4")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpu_extract.client.remote import Client, InRoot, Job

__all__ = ["Client", "InRoot", "Job"]


def __getattr__(name: str) -> object:
    """Loaded when first used: `health` must not wait for it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gpu_extract.client import remote

    return getattr(remote, name)
