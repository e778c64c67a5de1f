"""Freed memory stays with the process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = """
import resource, sys
import numpy as np
from gpu_extract.frames.memory import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def fill(count):
    before = faults()
    for _ in range(count):
        arrays = [np.full(6_000_000, 1, np.uint8) for _ in range(4)]
        del arrays
    return faults() - before

if sys.argv[1] == "keep":
    keep_freed_memory()
fill(2)
print(fill(20))
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not os.confstr("CS_GNU_LIBC_VERSION"), reason="glibc gives memory back, others differ"
)
def test_arrays_are_not_fetched_anew() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    environment["NUMPY_MADVISE_HUGEPAGE"] = "0"

    def faults(mode: str) -> int:
        command = [sys.executable, "-c", CODE, mode]
        return int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)

    assert faults("keep") < 100 < 10_000 < faults("as it is")
