"""Engines: pixels and matrices in, crops out.

A user chooses a *kind* of sampling, `exact` or `kornia`; the device decides what implements it. A module of
`samplers/` offers

    KIND: str                                      "exact" or "kornia"
    RANK: int                                      lower is taken first among those that can run
    def obstacle(device: str) -> str | None        why it cannot run on "cpu", "cuda:1", …; None if it can
    def create(device: str, limits: MemoryLimits, say) -> Engine

Adding an engine is adding a module.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from gpu_extract.patch import Patch


@dataclass(frozen=True)
class Crops:
    """K faces to cut out of a list of patches."""

    patch: np.ndarray  # [K] int64, which patch
    crop_from_frame: np.ndarray  # [K, 2, 3] float64, frame pixels -> crop pixels
    cubic: np.ndarray  # [K] bool, else linear
    size: int  # S

    def __len__(self) -> int:
        return len(self.patch)

    @property
    def nbytes(self) -> int:
        """Bytes of the result."""
        return len(self) * self.size * self.size * 3


@dataclass(frozen=True)
class MemoryLimits:
    """Memory that an engine may hold, in MiB."""

    batch_mb: int = 64
    """One batch on its way through the device: patches and crops."""
    pinned_mb: int = 512
    """Page-locked memory on the host, all slots together (CUDA only)."""


class Ticket(ABC):
    """A batch on its way through a device."""

    @abstractmethod
    def result(self) -> np.ndarray:
        """Wait for the crops, [K, S, S, 3] uint8 BGR; they may be overwritten after `release`."""

    def release(self) -> None:
        """Give the memory that holds the result back to the engine."""
        return


class Ready(Ticket):
    """A batch that is done already."""

    def __init__(self, crops: np.ndarray) -> None:
        self._crops = crops

    def result(self) -> np.ndarray:
        return self._crops


class Engine(ABC):
    """One way to sample. `warp` is the contract; `submit` lets a device overlap batches."""

    name: str
    """The kind: "exact" or "kornia"."""
    implementation: str
    """What does it here, for `doctor` and the report."""
    device: str
    inline: bool
    """True: `warp` runs on the calling thread, many threads at once. False: one thread submits batches."""
    is_cutter: bool = False
    """Whether its crops are those of `kernels.cutter`, which may then do all of a frame at once."""
    takes_surfaces: bool = False
    """Whether patches may be parts of surfaces that lie on its device; it keeps these until it has read them."""
    batch_bytes: int = 64 << 20
    """How many bytes of patches and crops make a full batch (engines that are not inline)."""

    @abstractmethod
    def warp(self, patches: Sequence[Patch], crops: Crops) -> np.ndarray:
        """Cut all crops.

        Args:
            patches: pieces of frames, each holding every frame pixel that its crops touch.
            crops: which patch, matrix and filter each crop takes.

        Returns:
            [K, S, S, 3] uint8 BGR, C-contiguous. What lies outside a frame is 0.

        Raises:
            DeviceError: if the device fails for good.
        """

    def submit(self, patches: Sequence[Patch], crops: Crops) -> Ticket:
        """Start a batch and return at once where the device allows it."""
        return Ready(self.warp(patches, crops))

    def has_room(self) -> bool:
        """Whether `submit` would start a batch now, beside those whose memory was not released yet."""
        return False

    def close(self) -> None:
        """Give back what the engine holds on its device."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
