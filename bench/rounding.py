"""How many hashes differ between gpu-extract and the programs' formulas, by what rounds: NumPy, OpenCV, the processor.

    python bench/rounding.py make WORK                       frames of noise, 1,300 faces, three alignments files
    PYTHON bench/rounding.py cut WORK NAME                   the formulas of the time, one face after another, under
                                                             whatever NumPy and OpenCV that interpreter has
    python bench/rounding.py compare WORK                    extracts with gpu-extract, compares with all that was cut,
                                                             writes results/rounding.json

`cut` is written from the specification of the job and shares no code with gpu_extract. Needs numpy and cv2 only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
import platform
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np

DATA = Path(__file__).resolve().parent.parent / "gpu_extract" / "data"
FRAMES, FACES, SIZE = 100, 13, 256
KINDS = ("seed", "eyes", "head", "head of 2026")
"""Legacy crops of 2019, the same with level eyes, head crops until 2025 and since, whose offsets are float32."""


def make(work: Path) -> None:
    generator = np.random.default_rng(2020)
    shape = np.zeros((68, 2))
    shape[17:] = np.array(json.loads((DATA / "mean_face_seed.json").read_text())["points"]) - 0.5
    shape[:17] = np.column_stack([np.linspace(-0.75, 0.75, 17), 0.65 * np.sin(np.linspace(0, np.pi, 17)) - 0.05])
    (work / "frames").mkdir(parents=True)
    old: dict[str, Any] = {}
    for number in range(FRAMES):
        name = f"f_{number:06d}.png"
        frame = generator.integers(0, 256, (270, 480, 3), np.uint8)
        cv2.imwrite(str(work / "frames" / name), frame)
        old[name] = []
        for _ in range(FACES):
            scale, angle = generator.uniform(20, 130), generator.normal(0, 0.3)
            turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            points = shape @ turn.T + generator.uniform((60, 60), (420, 210)) + generator.normal(0, scale / 40, (68, 2))
            face = {"x": 1, "w": 2, "y": 3, "h": 4, "landmarks_xy": points.astype(np.float32), "hash": None, "mask": {}}
            old[name].append(face)
    new = {
        name: {
            "faces": [
                {
                    "x": 1,
                    "y": 3,
                    "w": 2,
                    "h": 4,
                    "landmarks_xy": face["landmarks_xy"].tolist(),
                    "mask": {},
                    "identity": {},
                    "thumb": None,
                }
                for face in faces
            ],
            "video_meta": {},
        }
        for name, faces in old.items()
    }
    (work / "old.fsa").write_bytes(zlib.compress(pickle.dumps(old, 4)))
    (work / "new.fsa").write_bytes(zlib.compress(pickle.dumps({"__meta__": {"version": 2.4}, "__data__": new}, 4)))
    landmarks = {name: [face["landmarks_xy"].tolist() for face in faces] for name, faces in old.items()}
    (work / "landmarks.json").write_text(json.dumps(landmarks))


def normalized(points: np.ndarray, mean_face: np.ndarray) -> np.ndarray:
    """The fit as the job has it, expression by expression: what NumPy makes of the scalars is the point."""
    core = points[17:]
    core_mean, mean_face_mean = core.mean(axis=0), mean_face.mean(axis=0)
    core_centred, mean_face_centred = core - core_mean, mean_face - mean_face_mean
    covariance = mean_face_centred.T @ core_centred / len(core)
    sign = np.ones(2)
    if np.linalg.det(covariance) < 0:
        sign[1] = -1
    u, s, vh = np.linalg.svd(covariance)
    rotation = u @ np.diag(sign) @ vh
    scale = 1.0 / core_centred.var(axis=0).sum() * (s @ sign)
    matrix = np.empty((2, 3))
    matrix[:, :2] = scale * rotation
    matrix[:, 2] = mean_face_mean - scale * (rotation @ core_mean)
    return matrix


def to_crop(matrix: np.ndarray, padding: int) -> np.ndarray:
    matrix = matrix * (SIZE - 2 * padding)
    matrix[:, 2] += padding
    return matrix


def level(matrix: np.ndarray, points: np.ndarray, padding: int) -> np.ndarray:
    in_crop = cv2.transform(points[None], to_crop(matrix, padding))[0]
    right, left = in_crop[36:42].mean(axis=0), in_crop[42:48].mean(axis=0)
    theta = np.pi - float(np.arctan2(right[1] - left[1], right[0] - left[0]))
    turn = np.array([[np.cos(theta), -np.sin(theta), 0], [np.sin(theta), np.cos(theta), 0], [0, 0, 1]])
    turned: np.ndarray = (turn @ np.vstack([matrix, [0, 0, 1]]))[:2]
    return turned


POSE = [6, 7, 8, 9, 10, 17, 21, 22, 26, 31, 32, 33, 34, 35, 36, 39, 42, 45, 48, 50, 51, 52, 54, 56, 57, 58]
CAMERA = np.array([[4, 0, 0.5], [0, 4, 0.5], [0, 0, 1]], np.float64)
HEAD = np.array([[0, 0, -2.3]], np.float32)


def head_offset(matrix: np.ndarray, points: np.ndarray, solid: np.ndarray, half: np.ndarray | np.float32) -> np.ndarray:
    flat = cv2.transform(points[None], matrix)[0]
    _, rotation, translation = cv2.solvePnP(solid, flat[POSE], CAMERA, np.zeros((4, 1)), flags=cv2.SOLVEPNP_ITERATIVE)
    centre = cv2.projectPoints(HEAD, rotation, translation, CAMERA, np.zeros((4, 1)))[0]
    offset: np.ndarray = centre.reshape(2) - half
    return offset


def cut(work: Path, name: str) -> None:
    cv2.setNumThreads(1)
    mean = {
        part: np.array(json.loads((DATA / f"mean_face_{part}.json").read_text())["points"]) for part in ("seed", "head")
    }
    solid = np.array(json.loads((DATA / "mean_face_head_3d26.json").read_text())["points"])
    hashes: dict[str, dict[str, str]] = {kind: {} for kind in KINDS}
    for frame_name, faces in json.loads((work / "landmarks.json").read_text()).items():
        frame = cv2.imread(str(work / "frames" / frame_name))
        for index, face in enumerate(faces):
            points = np.array(face, np.float32)
            seed, head = normalized(points, mean["seed"]), normalized(points, mean["head"])
            before, since = head.copy(), head.copy()
            before[:, 2] -= head_offset(head, points, solid, np.array([0.5, 0.5]))
            since[:, 2] -= head_offset(head, points, solid, np.float32(0.5))
            legacy = int(SIZE * 0.1875)
            crops = {
                "seed": to_crop(seed, legacy),
                "eyes": to_crop(level(seed, points, legacy), legacy),
                "head": to_crop(before, round(SIZE * 0.625 / 2)),
                "head of 2026": to_crop(since, round(SIZE * 0.625 / 2)),
            }
            for kind, matrix in crops.items():
                scale_x = np.sqrt(matrix[0, 0] ** 2 + matrix[0, 1] ** 2)
                scale_y = (matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0]) / scale_x
                flag = cv2.INTER_CUBIC if (scale_x + scale_y) / 2 >= 1 else cv2.INTER_AREA
                crop = cv2.warpAffine(frame, matrix, (SIZE, SIZE), flags=flag)
                hashes[kind][f"{Path(frame_name).stem}_{index}.png"] = hashlib.sha1(crop).hexdigest()
    versions = {"numpy": np.__version__, "opencv": cv2.__version__, "libc": " ".join(platform.libc_ver())}
    (work / f"cut_{name}.json").write_text(json.dumps({"versions": versions, "hashes": hashes}))


RUNS = {
    "seed, numpy1": ("old.fsa", "seed", ("--numerics", "numpy1")),
    "seed, numpy2": ("old.fsa", "seed", ("--numerics", "numpy2")),
    "eyes, numpy1, libm": ("old.fsa", "eyes", ("-ae", "--numerics", "numpy1", "--eye-angle", "libm")),
    "eyes, numpy1, rounded": ("old.fsa", "eyes", ("-ae", "--numerics", "numpy1", "--eye-angle", "rounded")),
    "eyes, numpy2, libm": ("old.fsa", "eyes", ("-ae", "--numerics", "numpy2", "--eye-angle", "libm")),
    "head, numpy1": ("new.fsa", "head", ("--numerics", "numpy1")),
    "head of 2026, numpy2": ("new.fsa", "head of 2026", ("--numerics", "numpy2")),
    "head of 2026, numpy1": ("new.fsa", "head of 2026", ("--numerics", "numpy1")),
}


def compare(work: Path) -> None:
    from common import run_metadata, save_json

    found: dict[str, Any] = {}
    theirs = {path.stem.removeprefix("cut_"): json.loads(path.read_text()) for path in sorted(work.glob("cut_*.json"))}
    for run, (alignments, kind, options) in RUNS.items():
        faces = work / "faces" / run
        shutil.rmtree(faces, ignore_errors=True)
        faces.parent.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "gpu_extract", "extract", "-a", work / alignments, "-fr", work / "frames"]
        command += ["-fc", faces, "-sz", SIZE, "--no-update", "--progress", "none", *options]
        subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
        ours = {path.name: hashlib.sha1(cv2.imread(str(path))).hexdigest() for path in faces.glob("*.png")}
        for name, other in theirs.items():
            assert ours.keys() == other["hashes"][kind].keys()
            unequal = sum(ours[file] != sha1 for file, sha1 in other["hashes"][kind].items())
            found.setdefault(name, {"versions": other["versions"], "faces": len(ours)})[run] = unequal
    print(save_json("rounding", {"metadata": run_metadata(), "unequal": found}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["make", "cut", "compare"])
    parser.add_argument("work", type=Path)
    parser.add_argument("name", nargs="?", default="here")
    args = parser.parse_args()
    if args.step == "cut":
        cut(args.work, args.name)
    else:
        {"make": make, "compare": compare}[args.step](args.work)


if __name__ == "__main__":
    main()
