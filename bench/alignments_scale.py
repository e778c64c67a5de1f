"""How long a very large alignments file takes to load and save, and how much memory: JSON on standard output.

    python bench/alignments_scale.py --faces 1000000

Two files are made, byte for byte as the programs of their time pickle them: `arrays` (end of 2019: float32 arrays and
hashes) and `lists` (version 2.4 since March 2026). Each is loaded, planned with the centering of its version, changed
(every hash, or one field of one face where the version has no hashes) and saved with its back-up copy in a process of
its own, whose peak memory is reported. What is left to the time when a frame is cut, the pose of head-centred faces, is
reported by frame.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import pickle
import platform
import resource
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gpu_extract.alignments import Alignments
from gpu_extract.alignments.deflate import deflated
from gpu_extract.frames import Frame, FrameFailure, FrameSource
from gpu_extract.geometry import crops
from gpu_extract.geometry.mean_faces import Centering
from gpu_extract.run.plan import PlanOptions, make_plan

FACES_PER_FRAME = 2
SAMPLED_FRAMES = 1000
PICKLE_FRAME = 1 << 16


def landmarks(count: int, seed: int) -> np.ndarray:
    """[count, 68, 2] float32: the mean face at changing places and sizes, each point a little elsewhere."""
    random = np.random.default_rng(seed)
    jaw = np.linspace(np.pi, 0, 17)
    shape = np.concatenate(
        [np.stack([0.5 + 0.62 * np.cos(jaw), 0.1 + 1.1 * np.sin(jaw)], axis=1), crops.mean_face(68, seed=False)]
    ).astype(np.float32)
    places = 300 + random.random((count, 1, 2), np.float32) * 1500
    sizes = 40 + random.random((count, 1, 1), np.float32) * 400
    return (shape + random.standard_normal((count, 68, 2), np.float32) * np.float32(0.03)) * sizes + places


def arrays_file(faces: int) -> Iterator[bytes]:
    """A file of the end of 2019, by Python's own pickler."""
    points = landmarks(faces, 1)
    data = {}
    for start in range(0, faces, FACES_PER_FRAME):
        data[f"clip_{start // FACES_PER_FRAME + 1:06d}.png"] = [
            {
                "x": int(points[row, 0, 0]), "w": 100 + row % 300, "y": int(points[row, 0, 1]), "h": 120 + row % 300,
                "landmarks_xy": points[row].copy(), "hash": hashlib.sha1(b"%d" % row).hexdigest(), "mask": {},
            }
            for row in range(start, min(start + FACES_PER_FRAME, faces))
        ]  # fmt: skip
    yield pickle.dumps(data, 4)


def lists_file(faces: int) -> Iterator[bytes]:
    """A file of version 2.4 as lists: what Python's pickler writes, without having the lists in memory."""
    return _in_pickle_frames(_lists_pickle(faces))


def _lists_pickle(faces: int) -> Iterator[bytes]:
    memo = 0
    known: dict[str, int] = {}

    def new(code: bytes) -> bytes:
        nonlocal memo
        memo += 1
        return code + b"\x94"

    def key(text: str) -> bytes:
        if text in known:
            return b"h%c" % known[text] if known[text] < 256 else struct.pack("<cI", b"j", known[text])
        known[text] = memo
        return new(b"\x8c%c" % len(text) + text.encode())

    def integer(value: int) -> bytes:
        return b"K%c" % value if value < 256 else struct.pack("<cH", b"M", value)

    pair = np.dtype([("open", "S3"), ("g", "S1"), ("x", ">f8"), ("g2", "S1"), ("y", ">f8"), ("close", "S1")])
    yield new(b"}") + b"(" + key("__meta__") + new(b"}") + key("version") + struct.pack(">cd", b"G", 2.4) + b"s"
    yield key("__data__") + new(b"}")
    frames = -(-faces // FACES_PER_FRAME)
    for first in range(0, frames, 1000):
        yield b"("
        count = min(1000, frames - first)
        points = landmarks(min(count * FACES_PER_FRAME, faces - first * FACES_PER_FRAME), first)
        code = np.empty((len(points), 68), pair)
        code["open"], code["g"], code["g2"], code["close"] = b"]\x94(", b"G", b"G", b"e"
        code["x"], code["y"] = points[..., 0], points[..., 1]
        raw = code.tobytes()
        size = 68 * pair.itemsize
        for frame in range(count):
            name = b"clip_%06d.mp4" % (first + frame + 1)
            parts = [new(b"\x8c%c" % len(name) + name), new(b"}"), b"(", key("faces"), new(b"]")]
            rows = range(frame * FACES_PER_FRAME, min((frame + 1) * FACES_PER_FRAME, len(points)))
            parts.append(b"(" if len(rows) > 1 else b"")
            for row in rows:
                x, y = points[row, 0].astype(int).tolist()
                parts += (
                    new(b"}"),
                    b"(",
                    key("x"),
                    integer(x),
                    key("y"),
                    integer(y),
                    key("w"),
                    integer(100 + row % 300),
                )
                parts += (key("h"), integer(120 + row % 300), key("landmarks_xy"), new(b"]"))
                parts += (b"(", raw[row * size : row * size + size], b"e")
                memo += 68
                parts += (key("mask"), new(b"}"), key("identity"), new(b"}"), key("thumb"), b"N", b"u")
            parts += (b"e" if len(rows) > 1 else b"a", key("video_meta"), new(b"}"), b"u")
            yield b"".join(parts)
        yield b"u"
    yield b"u."


def _in_pickle_frames(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Protocol header and frames of about 64 KiB."""
    yield b"\x80\x04"
    parts: list[bytes] = []
    size = 0
    for chunk in itertools.chain(chunks, [None]):
        if chunk is not None:
            parts.append(chunk)
            size += len(chunk)
        if size >= PICKLE_FRAME or chunk is None:
            yield b"\x95" + size.to_bytes(8, "little") + b"".join(parts)
            parts.clear()
            size = 0


class AllFrames(FrameSource):
    """A source that has every frame of the file, in the file's order."""

    kind = "video"

    def __init__(self, alignments: Alignments) -> None:
        self.path = Path("clip.mp4")
        self._names = alignments.frame_names
        self._index = {name: i for i, name in enumerate(alignments.frame_names)}

    def index_of(self, name: str) -> int | None:
        return self._index.get(name)

    def name_of(self, index: int) -> str:
        return self._names[index]

    def size_of(self, index: int) -> tuple[int, int]:
        return 1080, 1920

    def frames(self, wanted: np.ndarray) -> Iterator[Frame | FrameFailure]:
        return iter(())

    def close(self) -> None:
        pass


def measure(path: Path) -> dict[str, object]:
    """Load, plan, change and save `path` in this process."""
    seconds = {}
    began = time.perf_counter()
    alignments = Alignments.load(path)
    seconds["load"] = time.perf_counter() - began
    began = time.perf_counter()
    centering: Centering = "legacy" if alignments.version < 2 else "head"
    plan = make_plan(alignments, AllFrames(alignments), PlanOptions(centering=centering))
    seconds["plan"] = time.perf_counter() - began
    assert plan.face_count == len(alignments.faces)
    sampled = range(min(SAMPLED_FRAMES, plan.frame_count))
    began = time.perf_counter()
    for i in sampled:
        plan.task(i)
    task_seconds = (time.perf_counter() - began) / len(sampled)
    rows = range(len(alignments.faces))
    hashes = [f"{row:040x}" for row in rows]
    began = time.perf_counter()
    if alignments.traits.stores_hashes:
        alignments.set_hashes(rows, hashes)
    else:
        alignments.set_field(0, "thumb", None)
    seconds["change"] = time.perf_counter() - began
    began = time.perf_counter()
    alignments.save()
    seconds["save"] = time.perf_counter() - began
    return {
        "faces": len(alignments.faces),
        "seconds": {stage: round(value, 2) for stage, value in seconds.items()},
        "seconds_total": round(sum(seconds.values()), 2),
        "centering": centering,
        "task_milliseconds": round(task_seconds * 1000, 3),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "stored_mb": round(path.stat().st_size / 1e6),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=int, default=1_000_000)
    parser.add_argument("--kind", choices=("arrays", "lists"), nargs="*", default=["arrays", "lists"])
    parser.add_argument("--folder", type=Path, help="where the files are made (default: a temporary folder)")
    parser.add_argument("--generate", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.generate:
        make = arrays_file if options.kind == ["arrays"] else lists_file
        with options.generate.open("wb") as file:
            file.writelines(deflated(make(options.faces)))
        return
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    results = {"python": platform.python_version(), "numpy": np.__version__, "cores": os.cpu_count(), "runs": {}}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for kind in options.kind:
            path = Path(folder) / f"{kind}.fsa"
            own = [sys.executable, __file__, "--faces", str(options.faces), "--kind", kind]
            subprocess.run([*own, "--generate", str(path)], check=True)
            done = subprocess.run([*own, "--measure", str(path)], check=True, capture_output=True, text=True)
            results["runs"][kind] = json.loads(done.stdout)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
