"""A stand-in of the re-extract job of late 2019, written from its specification: what gpu-extract is compared with.

    python bench/baseline.py extract -a alignments.fsa -fr clip.mp4 -fc faces/ -sz 256
    python bench/baseline.py extract --reader pipe …    frames through a pipe from another process, as it was then
    python bench/baseline.py decode clip.mp4            decode every frame, keep nothing
    python bench/baseline.py hashes faces/              SHA-1 of the decoded pixels of each face image

Each prints one JSON object. The job: count the frames by decoding the video once; then a reader thread with a small
queue gives whole BGR frames, and for each frame, one after another, each face is fitted, warped, encoded, decoded
again, hashed and written; at the end the alignments file is renamed to its backup and written anew. It shares no code
with gpu_extract and is not made slower than its description.

The job of 2019 read its frames as raw RGB through a pipe from an ffmpeg process and reversed the channels. `--reader
pipe` does that, with a process of PyAV at the other end; a reversed frame is a view, which OpenCV copies whole for each
face. The default decodes to BGR in this process, which is faster.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
import queue
import subprocess
import sys
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import cv2
import numpy as np

MEAN_FACE = Path(__file__).resolve().parent.parent / "gpu_extract" / "data" / "mean_face_seed.json"
VIDEO_EXTENSIONS = {".avi", ".flv", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv", ".ts", ".vob"}
IMAGE_EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff")
QUEUE_FRAMES = 8


class Stages:
    """Seconds spent in each named stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - start


def extract(
    alignments_file: Path, frames: Path, faces: Path, size: int, reader: str = "library", every_n: int = 1
) -> dict:
    """Run the job; returns its numbers and the hash of every face by file name."""
    start = time.perf_counter()
    stages = Stages()
    mean_face = np.array(json.loads(MEAN_FACE.read_text())["points"])
    alignments = pickle.loads(zlib.decompress(alignments_file.read_bytes()))  # only ever a file of make_clip.py
    is_video = frames.suffix.lower() in VIDEO_EXTENSIONS
    with stages("count frames"):
        total = count_frames(frames) if is_video else len(list_images(frames))
    faces.mkdir(parents=True, exist_ok=True)

    waiting: queue.Queue = queue.Queue(maxsize=QUEUE_FRAMES)
    read = read_folder if not is_video else read_pipe if reader == "pipe" else read_video
    thread = threading.Thread(target=read_ahead, args=(read(frames), waiting, stages), daemon=True)
    thread.start()
    hashes: dict[str, str] = {}
    seen = 0
    while True:
        with stages("wait for frame"):
            item = waiting.get()
        if item is None:
            break
        name, frame = item
        seen += 1
        if (seen - 1) % every_n:
            continue
        for index, face in enumerate(alignments.get(name, [])):
            with stages("fit"):
                frame[max(0, face["y"]) : face["y"] + face["h"], max(0, face["x"]) : face["x"] + face["w"]].copy()
                matrix, interpolation = crop_from_frame(face["landmarks_xy"], mean_face, size)
            with stages("warp"):
                crop = cv2.warpAffine(frame, matrix, (size, size), flags=interpolation)
            extension = Path(name).suffix
            with stages("encode"):
                data = cv2.imencode(extension, crop)[1]
            with stages("decode again"):
                pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
            with stages("hash"):
                face["hash"] = hashlib.sha1(pixels).hexdigest()
            file = f"{Path(name).stem}_{index}{extension}"
            with stages("write"), (faces / file).open("wb") as out:
                out.write(data)
            hashes[file] = face["hash"]
    thread.join()
    if seen != total:
        raise SystemExit(f"{frames} gave {seen} frames after {total} were counted")

    with stages("save alignments"):
        stamp = time.strftime("%Y%m%d_%H%M%S")
        alignments_file.rename(alignments_file.with_stem(f"{alignments_file.stem}_{stamp}"))
        alignments_file.write_bytes(zlib.compress(pickle.dumps(alignments)))
    seconds = time.perf_counter() - start
    return {
        "reader": reader if is_video else "folder",
        "frames": seen,
        "faces": len(hashes),
        "seconds": seconds,
        "frames_per_second": seen / seconds,
        "stage_seconds": dict(stages.seconds),
        "hashes": hashes,
    }


def read_video(video: Path) -> Iterator[tuple[str, np.ndarray]]:
    """(frame name, BGR picture) of every frame."""
    for number, frame in enumerate(decode(video), start=1):
        yield f"{video.stem}_{number:06d}.png", frame.to_ndarray(format="bgr24")


def read_pipe(video: Path) -> Iterator[tuple[str, np.ndarray]]:
    """The same from a process that writes raw RGB frames to its standard output."""
    with av.open(str(video)) as container:
        shape = (container.streams.video[0].height, container.streams.video[0].width, 3)
    with subprocess.Popen([sys.executable, __file__, "raw", str(video)], stdout=subprocess.PIPE) as process:
        number = 0
        while data := process.stdout.read(shape[0] * shape[1] * 3):
            number += 1
            yield f"{video.stem}_{number:06d}.png", np.frombuffer(data, np.uint8).reshape(shape)[:, :, ::-1]


def read_folder(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    for path in list_images(folder):
        yield path.name, cv2.imread(str(path))


def read_ahead(frames: Iterator[tuple[str, np.ndarray]], waiting: queue.Queue, stages: Stages) -> None:
    """Put every frame, then None."""
    while True:
        with stages("read"):
            item = next(frames, None)
        waiting.put(item)
        if item is None:
            return


def list_images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name.lower().endswith(IMAGE_EXTENSIONS))


def decode(video: Path) -> Iterator[av.VideoFrame]:
    """Every frame of a video, with all of the decoder's threads."""
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        yield from container.decode(stream)


def count_frames(video: Path) -> int:
    return sum(1 for _ in decode(video))


def crop_from_frame(landmarks: np.ndarray, mean_face: np.ndarray, size: int) -> tuple[np.ndarray, int]:
    """The matrix [2, 3] that carries frame pixels to pixels of the crop, and OpenCV's interpolation flag for it."""
    core = landmarks[17:]
    core_mean, mean_face_mean = core.mean(axis=0), mean_face.mean(axis=0)
    core_centred = core - core_mean
    covariance = (mean_face - mean_face_mean).T @ core_centred / len(core)
    sign = np.array([1.0, -1.0 if np.linalg.det(covariance) < 0 else 1.0])
    u, s, vh = np.linalg.svd(covariance)
    rotation = u @ np.diag(sign) @ vh
    scale = 1.0 / np.float64(core_centred.var(axis=0).sum()) * (s @ sign)
    matrix = np.empty((2, 3))
    matrix[:, :2] = scale * rotation
    matrix[:, 2] = mean_face_mean - scale * (rotation @ core_mean)

    padding = int(size * 0.1875)
    matrix = matrix * (size - 2 * padding)
    matrix[:, 2] += padding
    scale_x = np.sqrt(matrix[0, 0] ** 2 + matrix[0, 1] ** 2)
    scale_y = (matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0]) / scale_x
    return matrix, cv2.INTER_CUBIC if (scale_x + scale_y) / 2 >= 1.0 else cv2.INTER_AREA


def write_raw(video: Path) -> None:
    for frame in decode(video):
        sys.stdout.buffer.write(frame.to_ndarray(format="rgb24"))


def decode_only(video: Path) -> dict:
    start = time.perf_counter()
    frames = count_frames(video)
    seconds = time.perf_counter() - start
    return {"frames": frames, "seconds": seconds, "frames_per_second": frames / seconds}


def hashes_of(folder: Path) -> dict[str, str]:
    """SHA-1 of the decoded pixels of every image of a folder, by file name."""
    return {
        path.name: hashlib.sha1(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)).hexdigest() for path in list_images(folder)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    job = commands.add_parser("extract")
    job.add_argument("-a", "--alignments", type=Path, required=True)
    job.add_argument("-fr", "--frames", type=Path, required=True)
    job.add_argument("-fc", "--faces", type=Path, required=True)
    job.add_argument("-sz", "--size", type=int, default=256)
    job.add_argument("-een", "--extract-every-n", type=int, default=1)
    job.add_argument("--reader", choices=["library", "pipe"], default="library")
    commands.add_parser("raw", help="raw RGB frames on standard output").add_argument("video", type=Path)
    commands.add_parser("decode").add_argument("video", type=Path)
    commands.add_parser("hashes").add_argument("folder", type=Path)
    args = parser.parse_args()
    if args.command == "extract":
        done = extract(args.alignments, args.frames, args.faces, args.size, args.reader, args.extract_every_n)
        print(json.dumps(done))
    elif args.command == "raw":
        write_raw(args.video)
    elif args.command == "decode":
        print(json.dumps(decode_only(args.video)))
    else:
        print(json.dumps(hashes_of(args.folder)))


if __name__ == "__main__":
    main()
