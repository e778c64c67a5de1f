"""The whole job of this checkout against that of another one, on small and large frames and on folders of images.

    python bench/against.py ../at-another-commit                every kind of footage
    python bench/against.py ../at-another-commit --kinds small png

Writes results/against.json. Whole processes in turn; the ratio is the median over the pairs. Every face file of the
last pair must be the same bytes, and every stored hash the same, or there is no result. The other checkout's extensions
must be built, and it runs on the same libraries.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from common import REPO, Measured, median, paired, ratio_of_pairs, run, run_metadata, save_json, spread, work_folder
from make_clip import make

from gpu_extract.alignments import Alignments


class Kind(NamedTuple):
    what: str
    frames: int
    height: int
    width: int
    size: int
    folder: str | None = None


KINDS = {
    "small": Kind("12,000 frames of 320 × 180, two faces of 64 px each", 12_000, 180, 320, 64),
    "1080p": Kind("3,000 frames of 1920 × 1080, two faces of 256 px each", 3_000, 1080, 1920, 256),
    "png": Kind("300 PNGs of 1920 × 1080, two faces of 256 px each", 300, 1080, 1920, 256, "png"),
    "jpg": Kind("300 JPEGs of 1920 × 1080, two faces of 256 px each", 300, 1080, 1920, 256, "jpg"),
}


def extract(tree: Path, kind: Kind, folder: Path) -> Measured:
    """One run of a checkout, into an empty folder."""
    footage = make(kind.frames, 2, kind.height, kind.width, folder=kind.folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    alignments = shutil.copy(footage.alignments, folder / "a.fsa")
    words = ["extract", "-a", alignments, "-fr", footage.frames, "-fc", folder / "faces", "-sz", str(kind.size), "-q"]
    # -P: else the package in the current folder would come first.
    return run(["env", f"PYTHONPATH={tree}", sys.executable, "-P", "-m", "gpu_extract", *words])


def written(folder: Path) -> dict[str, str]:
    """SHA-1 of every face file, and the hashes of the alignments file by row."""
    found = {path.name: hashlib.sha1(path.read_bytes()).hexdigest() for path in (folder / "faces").glob("*.png")}
    alignments = Alignments.load(folder / "a.fsa")
    return found | {f"row {row}": str(alignments.stored_hash(row)) for row in range(len(alignments.faces))}


def measured(other: Path, kind: Kind, repeats: int, where: Path | None) -> dict[str, Any]:
    with work_folder(where) as work:
        folders = {"other": work / "other", "this": work / "this"}
        trees = {"other": other, "this": REPO}
        jobs: dict[str, Callable[[], Measured]] = {
            name: partial(extract, tree, kind, folders[name]) for name, tree in trees.items()
        }
        runs = paired(jobs, repeats)
        faces = [written(folder) for folder in folders.values()]
    unequal = sorted(name for name in faces[0] | faces[1] if faces[0].get(name) != faces[1].get(name))
    if unequal:
        raise SystemExit(f"{len(unequal)} files are not those of the other checkout: {unequal[:5]} …")
    cpu = [one.cpu_seconds / two.cpu_seconds for one, two in zip(runs["other"], runs["this"], strict=True)]
    return {
        "what": kind.what,
        "times_faster": round(ratio_of_pairs(runs["other"], runs["this"]), 3),
        "times_less_cpu": round(median(cpu), 3),
        "files_equal": len(faces[0]) // 2,
        "seconds": {name: spread([one.seconds for one in part]) for name, part in runs.items()},
        "cpu_seconds": {name: spread([one.cpu_seconds for one in part]) for name, part in runs.items()},
        "peak_mb": {name: spread([one.peak_mb for one in part]) for name, part in runs.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="another checkout")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--work", type=Path, help="where the jobs write, such as /dev/shm (default bench/data)")
    arguments = parser.parse_args()
    other = arguments.other.resolve()
    commit = subprocess.run(
        ["git", "-C", other, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    result: dict[str, Any] = run_metadata() | {
        "against": commit,
        "in_memory": str(arguments.work or "").startswith("/dev/shm"),
        "footage": {},
    }
    for name in arguments.kinds:
        result["footage"][name] = one = measured(other, KINDS[name], arguments.repeats, arguments.work)
        print(f"{one['what']}: {one['times_faster']} ×, {one['times_less_cpu']} × less processor time")
    print(save_json("against", result))


if __name__ == "__main__":
    main()
