"""How soon `gpu_extract.faces` gives its first face, of 100,000: this tree against an older one.

    python bench/first_face.py --against OLD_TREE            JSON to stdout
    python bench/first_face.py --against OLD_TREE --write    and into bench/results/first_face.json

OLD_TREE is a checkout whose C modules are built. The two take turns, each time in a process of its own, which has had
a first face before, so that imports are done; a figure is the median over the rounds, a ratio that of the pairs. The
clip has 50,400 frames of 1920x1080. The files are those of `alignments_scale.py`, and one of 2.4 as arrays with two
masks, a thumbnail and an identity a face, most of whose bytes are none that a face is cut by.
"""

from __future__ import annotations

import argparse
import json
import pickle
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
FACES, FRAMES = 100_000, 50_400
REPEATS = 3


def arrays_with_masks() -> bytes:
    """A file of version 2.4 before March 2026."""
    import numpy as np
    from alignments_scale import landmarks

    rng = np.random.default_rng(1)
    points = landmarks(FACES, 3)
    masks = [rng.bytes(int(n)) for n in rng.integers(250, 450, 500)]
    thumbs = [np.frombuffer(rng.bytes(int(n)), np.uint8) for n in rng.integers(1500, 2500, 500)]
    data: dict[str, Any] = {}
    for row in range(FACES):
        mask = {
            "mask": masks[row % 500][row % 7 :], "affine_matrix": rng.standard_normal((2, 3)), "interpolator": 2,
            "stored_size": 128, "stored_centering": "face",
        }  # fmt: skip
        entry = data.setdefault(f"clip_{row // 2 + 1:06d}.mp4", {"faces": [], "video_meta": {}})
        entry["faces"].append({
            "x": int(points[row, 0, 0]), "w": 100 + row % 300, "y": int(points[row, 0, 1]), "h": 120 + row % 300,
            "landmarks_xy": points[row].copy(), "mask": {"components": mask, "extended": dict(mask)}, "identity": {},
            "thumb": thumbs[row % 500][row % 11 :].copy(),
        })  # fmt: skip
    return zlib.compress(pickle.dumps({"__meta__": {"version": 2.4}, "__data__": data}, 4), 1)


def make_files(folder: Path) -> dict[str, Path]:
    from alignments_scale import arrays_file, lists_file

    from gpu_extract.alignments.deflate import deflated

    files: dict[str, Callable[[], bytes]] = {
        "late 2019": lambda: b"".join(deflated(arrays_file(FACES))),
        "2.4, lists": lambda: b"".join(deflated(lists_file(FACES))),
        "2.4, arrays with masks": arrays_with_masks,
    }
    found: dict[str, Path] = {}
    for name, made in files.items():
        found[name] = folder / f"{len(found)}.fsa"
        found[name].write_bytes(made())
    return found


def first_face(tree: Path, alignments: Path, clip: Path) -> list[tuple[float, float]]:
    """In a process of its own: seconds of the wall and of the CPU until the first face, each time anew."""
    sys.path.insert(0, str(tree))
    import gpu_extract

    assert Path(gpu_extract.__file__).is_relative_to(tree)
    found = []
    for _ in range(REPEATS + 1):
        began, spent = time.perf_counter(), time.process_time()
        with gpu_extract.faces(alignments, clip) as source:
            next(iter(source))
            found.append((time.perf_counter() - began, time.process_time() - spent))
            assert len(source) == FACES
        del source
    return found[1:]


def in_turn(trees: dict[str, Path], file: Path, clip: Path, rounds: int) -> dict[str, list[list[float]]]:
    """By tree and round, the median seconds of wall and CPU."""
    from common import median

    found: dict[str, list[list[float]]] = {name: [] for name in trees}
    for _ in range(rounds):
        for name, tree in trees.items():
            command = [sys.executable, "-P", __file__, "--first", tree, file, clip]
            run = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
            found[name].append([median(times) for times in zip(*json.loads(run.stdout), strict=True)])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, metavar="OLD_TREE", help="a checkout whose C modules are built")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="into bench/results/first_face.json")
    parser.add_argument("--first", type=Path, nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.first is not None:
        print(json.dumps(first_face(*asked.first)))
        return
    if asked.against is None:
        parser.error("--against says what to compare with")
    from common import median, run_metadata, save_json
    from make_clip import make

    clip = make(FRAMES).frames
    data: dict[str, Any] = {"metadata": run_metadata(), "faces": FACES, "files": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name, file in make_files(Path(folder)).items():
            found = in_turn({"old": asked.against.resolve(), "new": REPO}, file, clip, asked.rounds)
            data["files"][name] = {"mb": round(file.stat().st_size / 1e6, 1)}
            for i, clock in enumerate(("wall", "cpu")):
                old, new = ([run[i] for run in found[tree]] for tree in ("old", "new"))
                data["files"][name][clock] = {
                    "old_s": round(median(old), 3),
                    "new_s": round(median(new), 3),
                    "ratio": round(median([b / a for a, b in zip(old, new, strict=True)]), 3),
                }
    print(json.dumps(data, indent=2))
    if asked.write:
        save_json("first_face", data)


if __name__ == "__main__":
    main()
