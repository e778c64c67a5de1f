"""The devices of this machine on which faces can be cut, found without loading what uses them."""

from __future__ import annotations

import ctypes

CPU = "cpu"


def chosen(asked: str | None) -> list[str]:
    """The devices that a user named, with commas between; by default all GPUs, or the CPU where there is none.

    One may be named several times: as often something is cut on it at once.
    """
    if asked not in (None, "auto"):
        return [name.strip() for name in str(asked).split(",") if name.strip()]
    return [f"cuda:{number}" for number in range(_cuda_count())] or [CPU]


def _cuda_count() -> int:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value
