"""How long a service takes to queue jobs that come one after another over HTTP, while it cuts those that it has.

    python bench/bench_queue.py                                 1,000 jobs on two CPU lanes
    python bench/bench_queue.py --against ../at-another-commit  in turn with the service of another checkout

Writes results/queue.json: seconds of the whole, milliseconds of one request, processor seconds of the service itself.
The data folder lies on the disk of `bench/data`, or of `--work`; in memory there is nothing to measure.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import REPO, Measured, median, ratio_of_pairs, run_metadata, save_json, spread, work_folder

from gpu_extract.demo.clip import make_clip

LANES = "cpu,cpu"
FRAMES = 60


@contextmanager
def served(tree: Path, data: Path, root: Path, jobs: int) -> Iterator[tuple[int, int]]:
    """A service of a checkout; its port and process id."""
    words = [sys.executable, "-m", "gpu_extract", "serve", "--config", "", "--port=0", f"--data={data}"]
    words += [f"--root=here={root}", f"--devices={LANES}", f"--queue={jobs}", "--reserve-mb=0"]
    environment = os.environ | {"PYTHONPATH": str(tree)}
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, cwd=tree, env=environment) as process:
        assert process.stderr is not None
        try:
            line = process.stderr.readline()
            if not line.startswith("gpu-extract serves http://"):
                raise SystemExit(line + process.stderr.read())
            yield int(line.split("//")[1].split("/")[0].rpartition(":")[2]), process.pid
        finally:
            process.terminate()
            process.stderr.close()


def queue(tree: Path, work: Path, root: Path, jobs: int) -> tuple[Measured, dict[str, Any]]:
    """Queue so many jobs; how long that took, and the milliseconds of each request."""
    each = []
    with served(tree, work / "data", root, jobs) as (port, pid):
        cpu, began = _cpu_seconds(pid), time.perf_counter()
        for number in range(jobs):
            start = time.perf_counter()
            _put(port, f"job-{number}")
            each.append((time.perf_counter() - start) * 1e3)
        seconds, cpu = time.perf_counter() - began, _cpu_seconds(pid) - cpu
    each.sort()
    told = {"median_ms": each[jobs // 2], "p95_ms": each[jobs * 95 // 100], "max_ms": each[-1], "cpu_seconds": cpu}
    print(f"  {tree.name}: {seconds:.2f} s, {told}", file=sys.stderr, flush=True)
    return Measured(seconds, cpu, 0.0, ""), {name: round(value, 2) for name, value in told.items()}


def _put(port: int, job: str) -> None:
    places = {"alignments": {"root": "here", "path": "demo.fsa"}, "frames": {"root": "here", "path": "demo.mp4"}}
    body = json.dumps({**places, "options": {"size": 16, "extract_every_n": 30}, "shards": 1})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("PUT", f"/v1/jobs/{job}", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    if answer.status != 201:
        raise SystemExit(f"{job}: {answer.status} {answer.read()!r}")
    answer.read()
    connection.close()


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", type=Path, help="where the data folders lie")
    arguments = parser.parse_args()
    trees = {"now": REPO} | ({} if arguments.against is None else {"before": arguments.against.resolve()})
    measured: dict[str, list[tuple[Measured, dict[str, Any]]]] = {name: [] for name in trees}
    with work_folder(arguments.work) as work:
        clip = make_clip(work, FRAMES)
        root = work / "root"
        root.mkdir()
        clip.video.rename(root / "demo.mp4")
        clip.alignments.rename(root / "demo.fsa")
        loads = []
        for number in range(arguments.repeats):
            for name, tree in trees.items():
                loads.append(round(os.getloadavg()[0], 2))
                folder = work / f"{name}-{number}"
                folder.mkdir()
                measured[name].append(queue(tree, folder, root, arguments.jobs))
    result: dict[str, Any] = {"jobs": arguments.jobs, "lanes": LANES, "load_before_each": loads}
    for name, runs in measured.items():
        result[name] = {"seconds": spread([one.seconds for one, _ in runs]), "requests": [told for _, told in runs]}
    if "before" in measured:
        pairs = [[one for one, _ in measured[name]] for name in ("before", "now")]
        result["times_faster"] = round(ratio_of_pairs(*pairs), 2)
    print(save_json("queue", run_metadata() | result), median([one.seconds for one, _ in measured["now"]]))


if __name__ == "__main__":
    main()
