"""Which engine a run takes: of those that can run what was asked for on the device, the best."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import ModuleType

from gpu_extract import plugins
from gpu_extract.engines.base import Engine, MemoryLimits
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
    limits: MemoryLimits | None = None,
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
    if fault := option("engine").fault(kind):
        raise UsageError(fault)
    place = resolve_device(device)
    passed_over: list[str] = []
    for module in modules():
        if kind in ("auto", module.KIND):
            obstacle = module.obstacle(place)
            if obstacle is None:
                try:
                    return module.create(place, limits or MemoryLimits(), say), passed_over
                except DeviceError as error:
                    obstacle = str(error)
            passed_over.append(f"{module.__name__.rpartition('.')[2]}: {obstacle}")
    raise DeviceError(f"engine {kind} cannot run on {place}: {'; '.join(passed_over)}.")
