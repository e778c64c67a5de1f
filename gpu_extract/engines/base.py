"""Engines: pixels and matrices in, crops out.

A user chooses a *kind* of sampling, `exact` or `kornia`; the device decides what implements it. A module of
`samplers/` offers

    KIND: str                                      "exact" or "kornia"
    RANK: int                                      lower is taken first among those that can run
    def obstacle(device: str) -> str | None        why it cannot run on "cpu", "cuda:1", …; None if it can
    def create(device: str, limits: Limits, say) -> Engine

Adding an engine is adding a module.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import numpy as np

from gpu_extract import plugins
from gpu_extract.errors import DeviceError, UsageError
from gpu_extract.patch import Patch

KINDS = ("auto", "exact", "kornia")


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
class Limits:
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

    def close(self) -> None:
        """Give back what the engine holds on its device."""
        return

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@cache
def modules() -> list[ModuleType]:
    """The modules of `samplers/`, best first."""
    return sorted(plugins.modules("gpu_extract.engines.samplers"), key=lambda module: module.RANK)


def resolve_device(device: str) -> str:
    """ "cpu", "cuda:0", … from what a user asked for; "auto" takes CUDA where there is one.

    Raises:
        UsageError: if the name is not understood.
        DeviceError: if it is not there.
    """
    if device == "cpu":
        return device
    if device != "auto" and device != "cuda" and not (device.startswith("cuda:") and device[5:].isdigit()):
        raise UsageError(f"device {device!r} is not understood; auto, cpu, cuda and cuda:N are.")
    if device == "auto" and not _cuda_driver_present():
        return "cpu"
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return "cuda:0" if count else "cpu"
    index = int(device[5:]) if ":" in device else 0
    if index >= count:
        there = (
            f"{count} CUDA device{'s are' if count != 1 else ' is'} visible" if count else "no CUDA device is visible"
        )
        raise DeviceError(f"device {device} was asked for but {there}; try --device cpu, or see gpu-extract doctor.")
    return f"cuda:{index}"


def _cuda_driver_present() -> bool:
    """Whether it is worth a second of importing torch to ask for CUDA devices."""
    import ctypes

    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def _silent(message: str) -> None:
    pass


def pick_engine(
    kind: str = "auto",
    device: str = "auto",
    limits: Limits | None = None,
    say: Callable[[str], None] = _silent,
) -> tuple[Engine, list[str]]:
    """The engine that a run takes, and one line for each better one that could not be taken.

    Args:
        kind: "exact" (the same bytes everywhere), "kornia", or "auto": exact where the device has it, else kornia.
        device: "auto", "cpu", "cuda", "cuda:N".
        say: told what takes a while.

    Raises:
        UsageError: if a name is not understood.
        DeviceError: if nothing can run what was asked for; the sentence says why.
    """
    if kind not in KINDS:
        raise UsageError(f"engine {kind!r} is not understood; {', '.join(KINDS)} are.")
    place = resolve_device(device)
    passed_over: list[str] = []
    for module in modules():
        if kind in ("auto", module.KIND):
            obstacle = module.obstacle(place)
            if obstacle is None:
                try:
                    return module.create(place, limits or Limits(), say), passed_over
                except DeviceError as error:
                    obstacle = str(error)
            passed_over.append(f"{module.__name__.rpartition('.')[2]}: {obstacle}")
    raise DeviceError(f"engine {kind} cannot run on {place}: {'; '.join(passed_over)}.")
