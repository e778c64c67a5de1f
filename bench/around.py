"""What a run costs outside of its frames, this tree against an older one: start, load, plan, tasks, save.

    python bench/around.py --against OLD_TREE            JSON to stdout, a table to stderr
    python bench/around.py --against OLD_TREE --write    and into bench/results/around.json

OLD_TREE is a checkout whose C modules are built. The two take turns, each time in a process of its own; a figure is
the median over the rounds, a ratio the median over the rounds' pairs; `saved_equal` says whether both save the same
bytes. The files hold 12,000 faces of 6,000 frames, no two alike: an `.fsa` of late 2019, one of version 2.4, and a
pickle of 2018, whose landmarks are lists of integers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
FRAMES, FACES = 6000, 2
HEIGHT, WIDTH, SIZE = 180, 320, 64
STAGES = ("load", "plan", "tasks", "save")
START = "start"


def make_files(folder: Path) -> tuple[Path, dict[str, Path]]:
    """The clip, and the alignments files by what they are."""
    import numpy as np
    from make_clip import make

    clip, alignments = make(FRAMES, FACES, HEIGHT, WIDTH)
    rng = np.random.default_rng(2019)
    newest: dict[str, Any] = {}
    late_2019: dict[str, Any] = {}
    of_2018: dict[str, Any] = {}
    for name, faces in pickle.loads(zlib.decompress(alignments.read_bytes())).items():
        late_2019[name] = [
            face | {"landmarks_xy": face["landmarks_xy"] + rng.normal(0, 0.3, (68, 2)).astype(np.float32)}
            for face in faces
        ]
        boxes = [{key: face[key] for key in "xwyh"} for face in faces]
        points = [face["landmarks_xy"].astype(float) for face in late_2019[name]]
        newest[name.replace(".png", ".mp4")] = {
            "video_meta": {},
            "faces": [
                box
                | {"landmarks_xy": own.tolist(), "mask": {}, "identity": {"vggface2": rng.normal(0, 1, 512).tolist()}}
                | {"thumb": list(rng.bytes(2000))}
                for box, own in zip(boxes, points, strict=True)
            ],
        }
        of_2018[name] = [
            box | {"frame_dims": [HEIGHT, WIDTH], "landmarksXY": [(int(x), int(y)) for x, y in own], "hash": None}
            for box, own in zip(boxes, points, strict=True)
        ]
    versioned = {"__meta__": {"version": 2.4}, "__data__": newest}
    contents = {
        "late 2019, .fsa": zlib.compress(pickle.dumps(late_2019, 4)),
        "2.4, .fsa": zlib.compress(pickle.dumps(versioned, 4), 1),
        "2018, .p": pickle.dumps(of_2018, 2),
    }
    files = {}
    for number, (what, content) in enumerate(contents.items()):
        files[what] = folder / f"{number}{what[what.rindex('.') :]}"
        files[what].write_bytes(content)
    return clip, files


def stages(tree: Path, alignments: Path, clip: Path) -> dict[str, Any]:
    """In a process of its own: seconds of the wall and of the CPU by stage, and the digest of what was saved."""
    sys.path.insert(0, str(tree))
    found: dict[str, Any] = {}

    def timed(stage: str, work: Callable[[], Any]) -> Any:
        began, spent = time.perf_counter(), time.process_time()
        result = work()
        found[stage] = [time.perf_counter() - began, time.process_time() - spent]
        return result

    from gpu_extract.alignments import Alignments
    from gpu_extract.frames import open_frames

    try:
        from gpu_extract.run import plan as plans
    except ImportError:  # until November 2026
        from gpu_extract import plan as plans  # type: ignore[no-redef]
    assert Path(plans.__file__).is_relative_to(tree)
    options = getattr(plans, "PlanOptions", None) or plans.Options  # type: ignore[attr-defined]
    file = Alignments.load(alignments)  # what is loaded on the way is part of the start
    file = timed("load", lambda: Alignments.load(alignments))
    with open_frames(clip) as source:
        wanted = options(size=SIZE, extension=".png")
        plan = timed("plan", lambda: plans.without_shared_files(plans.make_plan(file, source, wanted)))
        timed("tasks", lambda: list(plan.tasks()))
    if file.version < 2.1:
        file.set_hashes(plan.rows, [hashlib.sha1(b"%d" % row).hexdigest() for row in plan.rows.tolist()])
    else:
        for row in range(len(file.faces)):
            file.set_field(row, "mask", {})
    timed("save", file.save)
    return found | {"saved": hashlib.sha256(alignments.read_bytes()).hexdigest()}


def in_turn(trees: dict[str, Path], file: Path, clip: Path, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """What `stages` finds, by tree and round."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in trees}
    for _ in range(rounds):
        for name, tree in trees.items():
            with tempfile.TemporaryDirectory() as folder:
                copy = shutil.copy(file, folder)
                command = [sys.executable, __file__, "--stages", tree, copy, clip]
                run = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
            found[name].append(json.loads(run.stdout))
    return found


def starts(trees: dict[str, Path], clip: Path, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """A whole `extract` of one frame, from the start of the process to its end."""
    from common import run
    from make_clip import make

    one = next(iter(pickle.loads(zlib.decompress(make(FRAMES, FACES, HEIGHT, WIDTH).alignments.read_bytes())).items()))
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in trees}
    for _ in range(rounds):
        for name, tree in trees.items():
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder, "one.fsa")
                file.write_bytes(zlib.compress(pickle.dumps(dict([one]), 4)))
                begin = f"import sys; sys.path.insert(0, {str(tree)!r}); sys.argv[0] = 'gpu-extract'; "
                begin += "from gpu_extract.__main__ import main; raise SystemExit(main())"
                words = ["extract", "-a", file, "-fr", clip, "-fc", Path(folder, "faces"), "-sz", SIZE]
                measured = run([sys.executable, "-c", begin, *map(str, words), "--progress", "none"])
            found[name].append({START: [measured.seconds, measured.cpu_seconds]})
    return found


def compared(found: dict[str, list[dict[str, Any]]], names: tuple[str, ...]) -> dict[str, Any]:
    """By stage, the medians in milliseconds and the ratio of the pairs, of wall and CPU."""
    from common import median

    old, new = found["old"], found["new"]
    result: dict[str, Any] = {}
    for stage in names:
        result[stage] = {}
        for i, clock in enumerate(("wall", "cpu")):
            result[stage][clock] = {
                "old_ms": round(median([run[stage][i] for run in old]) * 1e3, 1),
                "new_ms": round(median([run[stage][i] for run in new]) * 1e3, 1),
                "ratio": round(median([b[stage][i] / a[stage][i] for a, b in zip(old, new, strict=True)]), 3),
            }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, metavar="OLD_TREE", help="a checkout whose C modules are built")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", action="store_true", help="into bench/results/around.json")
    parser.add_argument("--stages", type=Path, nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.stages is not None:
        print(json.dumps(stages(*asked.stages)))
        return
    if asked.against is None:
        parser.error("--against says what to compare with")

    from common import RESULTS, run_metadata, save_json

    trees = {"old": asked.against.resolve(), "new": REPO}
    equal = {}
    with tempfile.TemporaryDirectory() as folder:
        clip, files = make_files(Path(folder))
        table = {"one frame": compared(starts(trees, clip, asked.rounds), (START,))}
        for what, file in files.items():
            found = in_turn(trees, file, clip, asked.rounds)
            table[what] = compared(found, STAGES)
            equal[what] = len({run["saved"] for runs in found.values() for run in runs}) == 1
    commit = subprocess.run(
        ["git", "-C", str(trees["old"]), "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False
    )
    result = {**run_metadata(), "against": commit.stdout.strip(), "rounds": asked.rounds, "stages": table}
    result["saved_equal"] = equal
    for what, stage_rows in table.items():
        for stage, clocks in stage_rows.items():
            figures = "   ".join(
                f"{clock} {one['old_ms']:7.1f} → {one['new_ms']:7.1f} ms, × {one['ratio']:.2f}"
                for clock, one in clocks.items()
            )
            print(f"{what:16} {stage:6} {figures}", file=sys.stderr)
    print(json.dumps(result, indent=1))
    if asked.write:
        print(f"written: {save_json('around', result).relative_to(RESULTS.parent.parent)}", file=sys.stderr)


if __name__ == "__main__":
    main()
