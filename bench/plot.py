"""Draw bench/results/extract.json as bench/results/extract.png.

    python bench/plot.py [NAME]

Three panels: frames per second of the job and its peers, busy seconds by stage, frames per second by cores. A panel
whose goal was not measured is left out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

RESULTS = Path(__file__).resolve().parent / "results"
OURS, PEER, LIMIT = "#c8501e", "#9aa5ad", "#41525e"
SHADES = ["#41525e", "#6d8291", "#c8501e", "#e58a5c", "#f2bf9f", "#a3b8a0", "#5f8a6b", "#d8cfa8", "#b39ddb", "#8d6e63"]


def plot_peers(axes: Axes, goals: dict[str, Any]) -> None:
    """Frames per second, whole processes."""
    bars: list[tuple[str, float, str]] = []
    if "1" in goals:
        for name, seconds in goals["1"]["seconds"].items():
            bars.append((name.replace(", ", ",\n"), 600 / seconds["median"], OURS if "gpu" in name else PEER))
    if "2" in goals:
        rates = goals["2"]["frames_per_second"]
        if "1" not in goals:
            bars.append(("gpu-extract", rates["gpu-extract"]["median"], OURS))
        bars.append(("decoding alone,\nnothing kept", rates["decode"]["median"], LIMIT))
    names, rates_, colours = zip(*bars, strict=True)
    drawn = axes.barh(names, rates_, color=colours, height=0.62)
    axes.bar_label(drawn, fmt="%.0f", padding=4)
    axes.invert_yaxis()
    axes.set_title("Frames per second, 1080p H.264, 2 faces a frame")
    axes.margins(x=0.12)


def plot_stages(axes: Axes, goals: dict[str, Any]) -> None:
    """Busy seconds by stage, summed over threads; waiting is left out."""
    goal = goals["1"]
    rows = {"stand-in,\nin the process": goal["stand_in_stage_seconds"], "gpu-extract": goal["stage_seconds"]}
    stages = [
        stage
        for stage in dict.fromkeys([stage for row in rows.values() for stage in row])
        if not stage.startswith("wait")
    ]
    colours = dict(zip(stages, SHADES, strict=False))
    for row, (name, seconds) in enumerate(rows.items()):
        left = 0.0
        for stage in (stage for stage in stages if stage in seconds):
            axes.barh(name, seconds[stage], left=left, height=0.62, color=colours.get(stage, PEER), edgecolor="white")
            left += seconds[stage]
        busy = [f"{stage} {seconds[stage]:.1f}" for stage in stages if seconds.get(stage, 0) >= 0.05]
        axes.text(0, row + 0.36, ", ".join(busy), fontsize=7, va="top")
    axes.invert_yaxis()
    axes.set_ylim(1.75, -0.5)
    axes.set_title("Busy seconds by stage, 600 frames, all threads added")


def plot_cores(axes: Axes, goals: dict[str, Any]) -> None:
    goal = goals["7"]
    cores = list(goal["frames_per_second"])
    rates = [goal["frames_per_second"][count]["median"] for count in cores]
    drawn = axes.bar(cores, rates, color=OURS, width=0.6)
    axes.bar_label(drawn, [f"{rate:.0f}\n{goal['limiting_stage'][n]}" for rate, n in zip(rates, cores, strict=True)])
    axes.set_xlabel("cores")
    axes.set_title("Frames per second by cores, and the limiting stage")
    axes.margins(y=0.18)


def main(name: str = "extract") -> None:
    data = json.loads((RESULTS / f"{name}.json").read_text())
    goals = data["goals"]
    panels: list[Callable[[Axes, dict[str, Any]], None]] = []
    panels += [plot_peers] if "1" in goals or "2" in goals else []
    panels += [plot_stages] if "1" in goals else []
    panels += [plot_cores] if "7" in goals else []
    if not panels:
        raise SystemExit(
            f"bench/results/{name}.json holds none of the goals 1, 2 and 7; run bench_extract.py with them"
        )

    plt.rcParams.update({"font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left"})
    figure, all_axes = plt.subplots(
        1, len(panels), figsize=(5.4 * len(panels), 3.6), layout="constrained", squeeze=False
    )
    for panel, axes in zip(panels, all_axes[0], strict=True):
        panel(axes, goals)
        axes.spines[["top", "right"]].set_visible(False)
    machine = data["machine"]
    where = f"{machine['cpu']}, {data['cores_used']} cores" + (f", {machine['gpu']}" if machine["gpu"] else "")
    figure.supxlabel(f"{where} · {data['date'][:10]} · commit {data['commit']}", fontsize=8, color="#666666")
    figure.savefig(RESULTS / f"{name}.png", dpi=130)
    print(f"written: bench/results/{name}.png")


if __name__ == "__main__":
    main(*sys.argv[1:2])
