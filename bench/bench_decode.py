"""How fast frames are read: decoding alone, with the faces' regions or whole frames converted, and skipped over.

    python bench/bench_decode.py                   JSON to stdout, a table to stderr
    python bench/bench_decode.py --json FILE --rounds 5

All contenders of a part run in turn, round after round, in one process; the figure is the median over the rounds, the
ratio the median over the rounds' pairs. As in the pipeline, one thread walks the source and workers load the frames.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from common import core_count, median, run_metadata, spread
from make_clip import make

from gpu_extract.frames import FrameFailure, open_frames
from gpu_extract.patch import Region

REGIONS = (Region(300, 200, 700, 600), Region(1200, 400, 1500, 700))  # two faces of usual size
IN_FLIGHT = 8  # frames handed to workers and not yet loaded

Contender = Callable[[], int]  # reads everything once and gives the number of frames


def read(path: Path, wanted: np.ndarray, regions: tuple[Region | None, ...] = (), **options: Any) -> int:
    """Walks the wanted frames and loads the regions (None: the whole frame) of each in worker threads."""
    count = 0
    with open_frames(path, **options) as source, ThreadPoolExecutor(core_count()) as workers:
        waiting: list[Any] = []
        for frame in source.frames(wanted):
            if isinstance(frame, FrameFailure):
                raise SystemExit(f"frame {frame.index + 1} of {path} cannot be read: {frame.reason}")
            count += 1
            if regions:
                waiting.append(workers.submit(lambda frame=frame: [frame.load(region) for region in regions]))
            if len(waiting) >= IN_FLIGHT:
                waiting.pop(0).result()
        for task in waiting:
            task.result()
    return count


def bare_decode(path: Path) -> int:
    """PyAV as anybody would use it, nothing kept."""
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        return sum(1 for _ in container.decode(video=0))


def opencv_folder(folder: Path) -> int:
    """OpenCV's reader in as many threads as ours."""
    with ThreadPoolExecutor(core_count()) as workers:
        return sum(image is not None for image in workers.map(lambda path: cv2.imread(str(path)), folder.iterdir()))


def video_contenders(path: Path, frames: int) -> dict[str, Contender]:
    every = np.arange(frames)
    return {
        "decode alone, PyAV": lambda: bare_decode(path),
        "decode alone, ours": lambda: read(path, every),
        "decode, 2 regions": lambda: read(path, every, REGIONS),
        "decode, whole frames": lambda: read(path, every, (None,)),
    }


def skipping_contenders(path: Path, frames: int) -> dict[str, Contender]:
    fiftieth = np.arange(0, frames, 50)
    return {
        "every 50th, all decoded": lambda: read(path, fiftieth, REGIONS, skip_unwanted=False),
        "every 50th, skipping": lambda: read(path, fiftieth, REGIONS),
        "the last frame, skipping": lambda: read(path, np.array([frames - 1]), REGIONS),
    }


def folder_contenders(folder: Path, frames: int, kind: str) -> dict[str, Contender]:
    every = np.arange(frames)
    return {
        f"{kind}, OpenCV": lambda: opencv_folder(folder),
        f"{kind}, whole frames": lambda: read(folder, every, (None,)),
        f"{kind}, 2 regions": lambda: read(folder, every, REGIONS),
    }


def measured(contenders: dict[str, Contender], rounds: int) -> dict[str, Any]:
    """Seconds and frames a second of each; `ratio` is how many times faster than the first one."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    counts: dict[str, int] = {}
    for _ in range(rounds):
        for name, run in contenders.items():
            start = time.perf_counter()
            counts[name] = run()
            seconds[name].append(time.perf_counter() - start)
    first = next(iter(contenders))
    return {
        name: {
            "seconds": spread(values),
            "frames": counts[name],
            "frames_per_second": round(counts[name] / median(values), 1),
            "ratio": round(median([a / b for a, b in zip(seconds[first], values, strict=True)]), 3),
        }
        for name, values in seconds.items()
    }


def parts(rounds: int) -> Iterator[tuple[str, dict[str, Any]]]:
    clip = make(frames=600, faces=2, height=1080, width=1920, keyint=250, folder=None)
    yield "video", measured(video_contenders(clip.frames, 600), rounds)
    long_clip = make(frames=3000, faces=2, height=1080, width=1920, keyint=250, folder=None)
    yield "skipping", measured(skipping_contenders(long_clip.frames, 3000), rounds)
    for kind in ("png", "jpg"):
        folder = make(frames=120, faces=2, height=1080, width=1920, keyint=250, folder=kind)
        yield kind, measured(folder_contenders(folder.frames, 120, kind), rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the result goes; stdout without it")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    result: dict[str, Any] = {"metadata": run_metadata(), "rounds": arguments.rounds, "parts": {}}
    for name, figures in parts(arguments.rounds):
        result["parts"][name] = figures
        for contender, figure in figures.items():
            line = f"{contender:28} {figure['frames_per_second']:8.1f} frames/s  {figure['ratio']:6.2f} x"
            print(line, file=sys.stderr, flush=True)
    text = json.dumps(result, indent=1) + "\n"
    if arguments.json:
        arguments.json.write_text(text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
