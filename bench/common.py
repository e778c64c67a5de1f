"""What every benchmark shares: running commands and measuring them, pairs, metadata, result files."""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata as packages
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
RESULTS = REPO / "bench" / "results"
PACKAGES = ("numpy", "opencv-python", "opencv-python-headless", "av", "isal", "kornia", "torch", "triton")


@dataclass(frozen=True)
class Measured:
    """One finished process."""

    seconds: float  # wall time from start to end of the process
    cpu_seconds: float  # user and system time, its children included
    peak_mb: float  # largest resident set
    stdout: str


class CommandError(RuntimeError):
    """A measured command failed: a benchmark has no result then."""


def run(command: Sequence[str | Path], cores: int | None = None, watch: Callable[[], bool] | None = None) -> Measured:
    """Run a command to its end and measure it, on the first `cores` of the cores of this process.

    With `watch`, a function that is asked every 2 ms whether what is waited for has happened, `seconds` is the time
    until it has.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err, _only_cores(cores):
        start = time.perf_counter()
        process = subprocess.Popen([str(part) for part in command], stdout=out, stderr=err, env=_environment())
        seen = None
        if watch is not None:
            while seen is None and os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                seen = time.perf_counter() - start if watch() else None
                time.sleep(0.002)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start if watch is None else seen
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode != 0 or seconds is None:
            tail = err.read()[-2000:]
            raise CommandError(f"{' '.join(map(str, command))} exited with {process.returncode}:\n{tail}")
        return Measured(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, out.read())


def paired(jobs: dict[str, Callable[[], Measured]], repeats: int) -> dict[str, list[Measured]]:
    """Run the jobs in turn, `repeats` times over, so that a slow minute of the machine falls on all of them."""
    measured: dict[str, list[Measured]] = {name: [] for name in jobs}
    for _ in range(repeats):
        for name, job in jobs.items():
            measured[name].append(job())
            print(f"  {name}: {measured[name][-1].seconds:.2f} s", file=sys.stderr, flush=True)
    return measured


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, least and most, and every value in the order measured."""
    rounded = [round(value, 4) for value in values]
    return {"median": round(median(values), 4), "min": min(rounded), "max": max(rounded), "runs": rounded}


def ratio_of_pairs(slow: Sequence[Measured], fast: Sequence[Measured]) -> float:
    """How many times faster: the median over the pairs that ran one after the other."""
    return median([a.seconds / b.seconds for a, b in zip(slow, fast, strict=True)])


def core_count() -> int:
    return len(os.sched_getaffinity(0))


def run_metadata() -> dict[str, Any]:
    """When, what and where: part of every result file. BENCH_COMMIT says what a tree without git is of."""
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "commit": os.environ.get("BENCH_COMMIT", "")[:12] or _git("rev-parse", "--short=12", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "machine": {
            "cpu": _cpu_model(),
            "cores": core_count(),
            "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
            "gpu": _gpu_name(),
            "system": f"{platform.system()} {platform.machine()}",
        },
    }


def save_json(name: str, data: dict[str, Any]) -> Path:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(data, indent=1) + "\n")
    return path


@contextmanager
def work_folder(parent: Path | None = None) -> Iterator[Path]:
    """An empty folder for what the jobs write, by default on the disk that holds the clips; removed at the end."""
    parent = parent or REPO / "bench" / "data"
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="work_", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def _only_cores(cores: int | None) -> Iterator[None]:
    """Children started inside inherit the affinity."""
    before = os.sched_getaffinity(0)
    if cores is not None:
        os.sched_setaffinity(0, sorted(before)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _environment() -> dict[str, str]:
    """This process's, but with byte code kept between runs, as an installed package's is."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH")]))}


def _version(package: str) -> str | None:
    try:
        return packages.version(package)
    except packages.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(
            ["git", "-C", str(REPO), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _gpu_name() -> str | None:
    try:
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None
