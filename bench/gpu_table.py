"""The GPU's figures as Markdown: the parts of README.md and kernels/README.md between their gpu marks.

    python bench/gpu_table.py                      print both parts
    python bench/gpu_table.py --write              put them into the two files

What is written comes from bench/results/gpu.json and from nothing else; without it they say that nothing was measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from common import REPO, RESULTS

RESULT = RESULTS / "gpu.json"
BEGIN, END = "<!-- gpu:begin -->\n", "<!-- gpu:end -->"
NOT_MEASURED = "Not yet measured on a GPU.\n"
OPPONENTS = {
    "kornia": "kornia",
    "kornia_regions": "kornia, regions",
    "grid_sample": "grid_sample",
    "grid_sample_regions": "grid_sample, regions",
    "opencv_all_cores": "OpenCV",
    "cvcuda": "CV-CUDA",
}


def load(file: Path | None = None) -> dict[str, Any] | None:
    """The measured result, or None; a dry run is none."""
    file = file or RESULT
    if not file.exists():
        return None
    result: dict[str, Any] = json.loads(file.read_text())
    return None if result["dry_run"] else result


def conditions(result: dict[str, Any]) -> str:
    """What every figure needs beside it."""
    gpu, versions = result["gpu"], result["versions"]
    return (
        f"{result['date'][:10]}, {gpu['name']}, driver {gpu['driver']}, torch {versions['torch']}, "
        f"triton {versions['triton']}, {result['machine']['cores']} CPU cores, commit {result['commit']}"
        f"{' with changes' if result['uncommitted_changes'] else ''}; `make gpu-check`."
    )


def exactness(result: dict[str, Any]) -> str:
    crops, vectors = result.get("random_crops"), result.get("vectors")
    if crops is None or vectors is None:
        return "Exactness was not shown: a part of the check failed."
    return (
        f"{crops['crops'] - crops['unequal']:,} of {crops['crops']:,} random crops equal to the byte; of the vectors' "
        f"{vectors['faces']} faces {vectors['files_unequal_to_cpu']} differ from the CPU's file and "
        f"{vectors['hashes_unequal']} of {vectors['hashes_compared']} hashes from the stored ones."
    )


def end_to_end_part(result: dict[str, Any] | None) -> str:
    """For README.md: whole runs."""
    if result is None:
        return NOT_MEASURED
    lines = [conditions(result), exactness(result), ""]
    if "end_to_end" in result:
        ends = result["end_to_end"]
        lines += [f"The whole job, {ends['clip']}; stages are busy seconds, summed over threads:", ""]
        lines += [
            "| sampling | frames/s | limit | read | load | warp | encode | write |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for run in ends["runs"].values():
            stages = [
                f"{run['stage_seconds'].get(name, 0):.2f}" for name in ("read", "load", "warp", "encode", "write")
            ]
            what = f"{run['engine_implementation']} on {run['device']}"
            lines.append(
                f"| {what} | {run['frames_per_second']:.0f} | {run['limiting_stage']} | {' | '.join(stages)} |"
            )
    return "\n".join(lines + skipped_lines(result)) + "\n"


def kernel_part(result: dict[str, Any] | None) -> str:
    """For kernels/README.md: the kernel alone."""
    if result is None:
        return NOT_MEASURED
    lines = [conditions(result), exactness(result)]
    if "kernel" in result:
        kernel = result["kernel"]
        rows = kernel["rows"]
        opponents = [name for name in OPPONENTS if any(row["ms"].get(name) is not None for row in rows)]
        lines += [
            f"The card copies {kernel['copy_gb_per_second']:,.0f} GB/s, read and written; the floor is the time in",
            "which it copies as many bytes as crops and the pixels under them have, without the time of a launch, "
            f"{kernel['launch_ms'] * 1000:.1f} µs. Factors: how much faster ours is; others convert the whole frame to",
            "floats, or, where it says regions, only what the crops touch.",
            "",
            f"| frame | crops | sampling | kernel | over the floor | {' | '.join(OPPONENTS[n] for n in opponents)} |",
            "|---" * (5 + len(opponents)) + "|",
        ]
        for row in rows:
            factors = [row["times_faster_than"].get(name) for name in opponents]
            cells = ["–" if factor is None else f"{factor:.1f} ×" for factor in factors]
            lines.append(
                f"| {row['frame']} | {row['faces']} × {row['size']} px | {row['interpolation']} "
                f"| {row['ms']['triton'] * 1000:.1f} µs | {row['times_memory_floor']:.2f} × | {' | '.join(cells)} |"
            )
    return "\n".join(lines + skipped_lines(result)) + "\n"


def skipped_lines(result: dict[str, Any]) -> list[str]:
    return ["", "Skipped: " + "; ".join(result["skipped"]) + "."] if result["skipped"] else []


PARTS = {REPO / "README.md": end_to_end_part, REPO / "kernels" / "README.md": kernel_part}


def part_of(text: str) -> str:
    """What stands between the marks of a file."""
    return text.split(BEGIN, 1)[1].split(END, 1)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the parts into the two files")
    parser.add_argument("--json", type=Path, metavar="FILE", help="another result, to print the parts of")
    options = parser.parse_args()
    if options.json is not None and options.write:
        parser.error("the two files say what bench/results/gpu.json says; --json is for printing")
    result = load(options.json)
    for path, make in PARTS.items():
        part = make(result)
        if options.write:
            text = path.read_text("utf-8")
            path.write_text(text.replace(BEGIN + part_of(text) + END, BEGIN + part + END), "utf-8")
        else:
            print(f"{path.relative_to(REPO)}:\n\n{part}")


if __name__ == "__main__":
    main()
