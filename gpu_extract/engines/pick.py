"""Which engine a run takes: of those that can run what was asked for on the device, the best."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import product
from types import ModuleType
from typing import NamedTuple

from gpu_extract import plugins
from gpu_extract.engines.base import Engine, MemoryLimits
from gpu_extract.engines.installed import torch_fault
from gpu_extract.errors import DeviceError, UsageError
from gpu_extract.options import option


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
    if fault := option("device").fault(device):
        raise UsageError(fault)
    if device == "auto" and not _cuda_driver_present():
        return "cpu"
    if fault := torch_fault():
        if device == "auto":
            return "cpu"
        raise DeviceError(f"device {device} was asked for but {fault}; install or repair it, or try --device cpu.")
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


class PassedOver(NamedTuple):
    """A better engine that could not be taken, and why."""

    module: str
    device: str
    obstacle: str

    def __str__(self) -> str:
        return f"{self.module} on {self.device}: {self.obstacle}"


def _name(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]


def pick_engine(
    kind: str = "auto",
    device: str = "auto",
    limits: MemoryLimits | None = None,
    say: Callable[[str], None] = _silent,
) -> tuple[Engine, list[PassedOver]]:
    """The engine that a run takes, and each better one that could not be taken.

    Args:
        kind: "exact" (the same bytes everywhere), "kornia", or "auto", which is always exact.
        device: "cpu", "cuda", "cuda:N", or "auto": a CUDA device where there is one, and the CPU where none can run
            what was asked for.
        say: told what takes a while.

    Raises:
        UsageError: if a name is not understood.
        DeviceError: if nothing can run what was asked for; the sentence says why.
    """
    if fault := option("engine").fault(kind):
        raise UsageError(fault)
    wanted = "exact" if kind == "auto" else kind
    place = resolve_device(device)
    places = [place, "cpu"] if device == "auto" and place != "cpu" else [place]
    able = [module for module in modules() if wanted == module.KIND]
    passed_over: list[PassedOver] = []
    unusable: list[PassedOver] = []
    if device == "auto" and place == "cpu" and _cuda_driver_present() and (fault := torch_fault()):
        unusable.append(PassedOver(_name(able[0]), "cuda", fault))
    for place, module in product(places, able):
        obstacle = module.obstacle(place)
        if obstacle is None:
            try:
                return module.create(place, limits or MemoryLimits(), say), unusable + passed_over
            except DeviceError as error:
                obstacle = str(error)
        passed_over.append(PassedOver(_name(module), place, obstacle))
    reasons = "; ".join(map(str, passed_over))
    raise DeviceError(f"engine {wanted} cannot run on {' or '.join(places)}: {reasons.rstrip('.')}.")
