"""What several tests need: pictures, clips, matrices, jobs. A helper that two files want stands here, once.

What only one file needs stays there; fakes of sources, engines and layouts stand in `tests.contracts.fakes`.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import av
import cv2
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter

from gpu_extract.cli import main
from gpu_extract.demo import run_demo
from gpu_extract.demo.clip import face_record, write_alignments
from gpu_extract.engines.base import Crops, Engine
from gpu_extract.frames.video import processor
from gpu_extract.frames.video.yuv import to_bgr
from gpu_extract.kernels import reference
from gpu_extract.patch import Patch, Region
from gpu_extract.run import crew, journal

VECTORS = Path(__file__).parent / "vectors"
"""Conformance vectors; their README says what is in them."""

CLIP = VECTORS / "video" / "clip.mp4"
"""Seven frames of 320 x 240 pixels."""


# ---- pixels


def noise(height: int, width: int, channels: int = 3, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    """[H, W, channels], or [H, W] of one channel: every value of the type as likely as any other."""
    high = int(np.iinfo(dtype).max) + 1
    return np.random.default_rng(seed).integers(0, high, (height, width, channels), dtype=dtype).squeeze()


@lru_cache(maxsize=256)  # drawing a clip takes longer than encoding it
def picture(number: int, height: int, width: int) -> np.ndarray:
    """[H, W, 3] RGB, not to be written into: a smooth texture that moves, its number nowhere but in the pixels."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin((x * (2 + c) + number * 7) / 19) + np.cos((y * (3 - c) - number * 5) / 13) for c in range(3)]
    pixels = ((np.stack(waves, -1) + 2) * 63).astype(np.uint8)
    pixels.flags.writeable = False
    return pixels


def assert_covers(part: Patch, region: Region, whole: np.ndarray) -> None:
    """A patch holds at least the part of a region that is inside the frame, and equals that part of the whole."""
    height, width = whole.shape[:2]
    rows, columns = part.pixels.shape[:2]
    assert rows * columns > 0
    assert np.array_equal(part.pixels, whole[part.y0 : part.y0 + rows, part.x0 : part.x0 + columns])
    assert part.x0 <= min(max(region.x0, 0), width - 1)
    assert part.y0 <= min(max(region.y0, 0), height - 1)
    assert part.x0 + columns >= min(region.x1, width)
    assert part.y0 + rows >= min(region.y1, height)
    assert (part.height, part.width) == (height, width)


# ---- image files


def image_bytes(extension: str, pixels: np.ndarray, *options: int) -> bytes:
    """OpenCV's file of an image."""
    done, data = cv2.imencode(extension, pixels, list(options))
    assert done
    return data.tobytes()


def opencv_pixels(data: bytes) -> np.ndarray | None:
    """What OpenCV makes of a file; None where it gives up."""
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def whole_by_opencv(data: bytes) -> np.ndarray:
    """The same of a file that it must be able to read, [H, W, 3] BGR."""
    pixels = opencv_pixels(data)
    assert pixels is not None
    return pixels


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """A PNG chunk as the standard has it; written here, for the package's own is under test."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of(width: int, height: int, depth: int, colour: int, *chunks: bytes) -> bytes:
    """A PNG whose chunks between IHDR and IEND are given."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"".join((b"\x89PNG\r\n\x1a\n", png_chunk(b"IHDR", header), *chunks, png_chunk(b"IEND", b"")))


def exif(orientation: int) -> bytes:
    """A TIFF header that says nothing but how a picture is turned, 1 to 8."""
    return b"II*\0\x08\0\0\0" + struct.pack("<HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)


def jpeg_with_segment(data: bytes, marker: int, body: bytes) -> bytes:
    """A JPEG with one more segment, at its beginning."""
    return data[:2] + bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body + data[2:]


# ---- video files


def write_frames(
    path: Path,
    frames: Iterable[tuple[np.ndarray, int]],
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    ticks: int = 1000,
    options: dict[str, str] | None = None,
    mux: dict[str, str] | None = None,
    fine_times: bool = False,
    sound: bool = False,
) -> Path:
    """A clip of pictures [H, W, 3] RGB of one size, each with its time.

    Args:
        ticks: of the times, in a second. The rate is 25 frames a second, whatever the times say.
        options: of the codec.
        mux: of the container.
        fine_times: the codec counts in ticks too; else in frames, and rounds the times to them.
        sound: an audio stream of silence is interleaved.
    """
    with av.open(str(path), "w", options=mux or {}) as container:
        stream: Any = container.add_stream(codec, rate=25, options=options or {})
        converter = VideoReformatter()  # one for all: each takes longer to make than a small frame to convert
        audio: Any = container.add_stream("aac", rate=8000) if sound else None
        for number, (pixels, pts) in enumerate(frames):
            if number == 0:
                stream.height, stream.width, stream.pix_fmt = *pixels.shape[:2], pixel_format
                if fine_times:
                    stream.codec_context.time_base = Fraction(1, ticks)
            frame = converter.reformat(av.VideoFrame.from_ndarray(pixels, "rgb24"), format=pixel_format)
            frame.pts, frame.time_base = pts, Fraction(1, ticks)
            container.mux(stream.encode(frame))
            if sound:
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 320), np.float32), "fltp", "mono")
                silence.sample_rate = 8000
                container.mux(audio.encode(silence))
        for each in (stream, audio) if sound else (stream,):
            container.mux(each.encode(None))
    return path


def write_clip(
    path: Path, count: int = 30, size: tuple[int, int] = (48, 64), codec: str = "libx264", **options: Any
) -> Path:
    """A clip of `picture`s (height, width) at 25 frames a second; options as of `write_frames`."""
    frames = ((picture(number, *size), number) for number in range(count))
    return write_frames(path, frames, codec, ticks=25, **options)


def plain_decode(path: Path) -> list[np.ndarray]:
    """Every frame that FFmpeg decodes, [H, W, 3] BGR, in its order."""
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.options = processor.decoder_options()
        return [as_direct(frame) for frame in container.decode(video=0)]


def as_direct(frame: av.VideoFrame) -> np.ndarray:
    """[H, W, 3] BGR as swscale for x86-64 makes it; on another processor what this program takes for it."""
    return frame.to_ndarray(format="bgr24") if processor.is_x86() else to_bgr(frame).pixels


def unmarked(frame: av.VideoFrame) -> av.VideoFrame:
    """A copy that says nothing of its fields, nor where its chroma lies."""
    copy = av.VideoFrame(frame.width, frame.height, frame.format.name)
    for source, target in zip(frame.planes, copy.planes, strict=True):
        samples = np.frombuffer(memoryview(source), np.uint8).reshape(source.height, -1)
        shared = min(samples.shape[1], target.line_size)
        np.frombuffer(memoryview(target), np.uint8).reshape(target.height, -1)[:, :shared] = samples[:, :shared]
    copy.colorspace, copy.color_range = frame.colorspace, frame.color_range
    return copy


def as_piped(frame: av.VideoFrame) -> np.ndarray:
    """[H, W, 3] BGR as the ffmpeg program of before March 2026 gave it; test_video_pixels.py proves it."""
    if not processor.is_x86():
        return to_bgr(frame, None, "piped").pixels
    return unmarked(frame).reformat(format="rgb24", interpolation="BICUBIC").to_ndarray()[..., ::-1]


def piped_decode(path: Path) -> list[np.ndarray]:
    """Every frame that FFmpeg decodes, as that program gave it."""
    with av.open(str(path)) as container:
        return [as_piped(frame) for frame in container.decode(video=0)]


def random_frame(
    height: int, width: int, pixel_format: str, colorspace: int = 2, color_range: int = 0
) -> av.VideoFrame:
    frame = av.VideoFrame(width, height, pixel_format)
    random = np.random.default_rng(height * width)
    for plane in frame.planes:
        plane.update(random.integers(0, 256, plane.buffer_size, dtype=np.uint8).tobytes())
    frame.colorspace = colorspace
    frame.color_range = color_range
    return frame


SITINGS = ("unspecified", "left", "center", "topleft", "top", "bottomleft", "bottom")


def sited(frame: av.VideoFrame, siting: str) -> av.VideoFrame:
    """The same picture in a frame that says where its chroma lies."""
    graph = av.filter.Graph()
    tags = f"colorspace={frame.colorspace}:range={frame.color_range}"
    size = f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base=1/25"
    source, marker = graph.add("buffer", f"{size}:{tags}"), graph.add("setparams", f"chroma_location={siting}")
    sink = graph.add("buffersink")
    source.link_to(marker)
    marker.link_to(sink)
    graph.configure()
    frame.pts = 0
    graph.push(frame)
    marked = graph.pull()
    assert isinstance(marked, av.VideoFrame)
    return marked


# ---- matrices and crops


def turned(scale: float, radians: float, centre: Sequence[float] | np.ndarray, size: int) -> np.ndarray:
    """crop_from_frame [2, 3] that shows the frame around `centre` (x, y), scaled and turned."""
    cosine, sine = np.cos(radians), np.sin(radians)
    turn = scale * np.array([[cosine, -sine], [sine, cosine]])
    return np.column_stack([turn, size / 2 - turn @ np.asarray(centre)])


def photograph(height: int, width: int, seed: int) -> np.ndarray:
    """A smooth, non-symmetric picture [H, W, 3] uint8 with some grain, as photographs have."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (max(2, height // 24), max(2, width // 24), 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) + rng.normal(0, 2, (height, width, 3))
    return np.clip(smooth, 0, 255).astype(np.uint8)


def some_crops(size: int) -> tuple[list[np.ndarray], Crops]:
    """Frames of different, odd, non-square sizes and crops of all kinds over them; the last but one shows nothing."""
    frames = [photograph(61, 97, 1), photograph(120, 45, 2), photograph(33, 34, 3)]
    wanted = [
        (0, turned(1.7, -0.35, (40, 30), size), True),
        (2, turned(0.4, 2.06, (17, 16), size), False),
        (1, turned(2.5, -np.pi / 2, (1, 118), size), True),  # a corner: partly outside
        (0, turned(0.8, np.pi, (48, 30), size), False),
        (1, turned(1.0, 0, (-200, 60), size), True),  # wholly outside
        (0, turned(1.0, 0, (48.5, 30.5), size), True),
    ]
    patch, matrix, cubic = zip(*wanted, strict=True)
    return frames, Crops(np.array(patch), np.array(matrix), np.array(cubic), size)


def exact_crops(frames: list[np.ndarray], crops: Crops) -> np.ndarray:
    """The truth that every engine is compared with, slow and obvious, [K, S, S, 3]."""
    return reference.warp_affine(frames, crops.patch, crops.crop_from_frame, crops.cubic, crops.size)


def assert_as_exact_as_promised(engine: Engine, crops: np.ndarray, truth: np.ndarray) -> None:
    """Equal for exact engines; inside kornia's stated band for the other."""
    assert engine.name in ("exact", "kornia")
    if engine.name == "exact":
        np.testing.assert_array_equal(crops, truth)
        return
    difference = np.abs(crops.astype(int) - truth)
    assert difference.max(initial=0) <= 3
    assert (difference > 1).sum() <= 1e-4 * difference.size


# ---- alignments files


ALIGNMENTS = VECTORS / "alignments"
REFUSED = ("reject_builtins_eval.fsa", "export_job_v2_3_0.json")
ALIGNMENTS_FILES = sorted(path for path in ALIGNMENTS.iterdir() if path.name not in REFUSED)
"""Every file of the vectors that can be read, of all generations."""


def file_name(path: Path) -> str:
    """`ids` of tests that run over files."""
    return path.name


def same(one: Any, other: Any) -> bool:
    """Equal in value, type, order of keys, dtype and shape; every NaN equals every other."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray | np.generic):
        return bool(one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes())
    return bool(one == other or (one != one and other != other))


def fsa_root(path: Path) -> Any:
    """The content of an `.fsa` file, by Python's own unpickler."""
    return pickle.loads(zlib.decompress(path.read_bytes()))


def frames_of(path: Path) -> dict[str, Any]:
    """Frame key -> frame value of an `.fsa` file of any generation."""
    root = fsa_root(path)
    return dict(root.get("__data__", root))


def write_pickled(path: Path, root: Any, protocol: int = 4) -> Path:
    """An `.fsa` file, or a bare pickle under any other extension, by Python's own pickler."""
    raw = pickle.dumps(root, protocol)
    path.write_bytes(zlib.compress(raw) if path.suffix == ".fsa" else raw)
    return path


def face_entry(landmarks: Any, **fields: Any) -> dict[str, Any]:
    """A face as files before version 2.1 hold it; landmarks as given, an array or lists."""
    return {"x": 1, "w": 2, "y": 3, "h": 4, "landmarks_xy": landmarks, "hash": None, "mask": {}} | fields


def copied(path: Path, folder: Path) -> Path:
    """A copy, under the same name, that a test may change."""
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(path, folder / path.name))


# ---- runs


def write_photographs(folder: Path, landmarks: np.ndarray) -> None:
    """Three pictures in `frames`, and `a.fsa` with a face for each."""
    (folder / "frames").mkdir()
    names = [f"f_{number:06d}.png" for number in range(3)]
    for number, name in enumerate(names):
        cv2.imwrite(str(folder / "frames" / name), photograph(240, 320, number))
    write_alignments(folder / "a.fsa", {name: [face_record(landmarks)] for name in names})


def extract_command(alignments: Path, frames: Path, faces: Path, *options: object) -> list[str]:
    """Words of `gpu-extract extract`, on the CPU and without a progress bar."""
    words = ("extract", "-a", alignments, "-fr", frames, "-fc", faces, "--progress", "none", "--device", "cpu")
    return [str(word) for word in (*words, *options)]


def files_in(folder: Path) -> dict[str, bytes]:
    """Everything in a faces folder but the journal, hidden files too: its path in the folder, and its bytes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (journal.NAME, journal.FAILURES)
    }


class Instructions:
    """Counts what Python's virtual machine executes in functions that begin inside it, and in threads that start there.

    Attributes:
        count: so far.
    """

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Instructions:
        self._before = sys.gettrace(), threading.gettrace()
        threading.settrace(self._trace)
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before[0])
        threading.settrace(self._before[1])

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        self.count += event == "opcode"
        return self._trace


def by_the_long_way(patch: pytest.MonkeyPatch) -> None:
    """Have Python write all faces itself, with calls that a test can replace; those of C are out of its reach."""
    patch.setattr(crew, "is_available", lambda: False)


STOPS_ITSELF = """
import os, signal, sys
from gpu_extract.run.journal import Journal

left = int(os.environ.get("STOP_AFTER", -1))
add = Journal.add

def add_and_stop(self, *frames):
    global left
    for frame in frames:
        add(self, frame)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.Signals[os.environ.get("STOP_BY", "SIGSTOP")])

Journal.add = add_and_stop
from gpu_extract.cli import main
sys.exit(main())
"""
"""The command line, which sends itself the signal STOP_BY once STOP_AFTER frames are finished."""


class Job:
    """Runs of `extract`, in this process, over one alignments file and one folder or video.

    What a run writes lies beside the alignments file: `faces` and `report.json`. Attributes may be set before a run.
    """

    def __init__(self, alignments: Path, frames: Path, *options: str) -> None:
        self.root, self.alignments, self.frames = alignments.parent, alignments, frames
        self.faces, self.json = self.root / "faces", self.root / "report.json"
        self.options = options
        self.before = alignments.read_bytes()

    def command(self, *options: str) -> list[str]:
        given = (*self.options, "--json", self.json, *options)
        return extract_command(self.alignments, self.frames, self.faces, *given)

    def run(self, *options: str) -> int:
        """Returns the exit code."""
        return main(self.command(*options))

    @property
    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.json.read_text())
        return found

    def files(self) -> dict[str, bytes]:
        return files_in(self.faces)

    def pixels(self) -> dict[str, np.ndarray]:
        """The images that lie flat in the faces folder, [S, S, 3] BGR."""
        names = sorted(path.name for path in self.faces.iterdir() if not path.name.startswith("."))
        return {name: read_image(self.faces / name) for name in names}

    def hashes(self) -> dict[str, str]:
        """SHA-1 of the pixels of those images."""
        return {name: hashlib.sha1(pixels.tobytes()).hexdigest() for name, pixels in self.pixels().items()}


def read_image(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image is not None, path
    return image


def module_from(path: Path, name: str | None = None) -> ModuleType:
    """The module of a file that lies on no import path, or a second copy of one that does, under another name."""
    spec = importlib.util.spec_from_file_location(name or path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A file that takes long to make, for fixtures: one test process makes it, others wait for it.

    `make` writes the path that it is given.
    """
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    target = shared / name
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            unfinished = target.with_name(f"{name}.part")
            make(unfinished)
            unfinished.rename(target)
    return target


def clip_made_once(factory: pytest.TempPathFactory, path: Path, count: int, size: tuple[int, int]) -> Path:
    """A copy at `path` of a clip as of `write_clip` that test processes share, with a key frame each 6 frames."""

    def make(unfinished: Path) -> None:
        options = {"g": "6", "bf": "0", "preset": "ultrafast"}
        write_clip(unfinished.with_suffix(".mp4"), count, size, options=options).rename(unfinished)

    made = made_once(factory, f"clip-{count}-{size[0]}-{size[1]}", make)
    return Path(shutil.copyfile(made, path))


def demo_made_once(factory: pytest.TempPathFactory, folder: Path) -> None:
    """A copy at `folder` of what `gpu-extract demo` leaves, for tests that do not ask how that is made."""

    def make(unfinished: Path) -> None:
        run_demo(unfinished / "demo", progress="none")

    shutil.copytree(made_once(factory, "demo", make) / "demo", folder)


def mount(*arguments: str) -> bool:
    """Whether that could be done here."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    return subprocess.run(["mount", *arguments], capture_output=True).returncode == 0


class Tmpfs:
    """A file system of its own, of a given size."""

    def __init__(self, folder: Path, kib: int) -> None:
        folder.mkdir()
        self.folder = folder
        if not mount("-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)):
            pytest.skip("file systems cannot be mounted here")

    def grow(self, kib: int) -> None:
        assert mount("-o", f"remount,size={kib}k", str(self.folder))


@contextmanager
def tmpfs_at(folder: Path, kib: int) -> Iterator[Tmpfs]:
    """One that is there as long as the `with`."""
    made = Tmpfs(folder, kib)
    try:
        yield made
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
