"""How long a frame holds the interpreter's lock, by thread: only one thread at a time can, so this limits all of them.

    python bench/interpreter.py                   the reader alone, then whole runs
    python bench/interpreter.py --write           results/interpreter.json

Counted is processor time that a thread spends while it holds the lock, as `lock_probe.c` samples it: what other
programs do on the machine adds nothing. For CPython 3.11 and later on Linux, with a C compiler; not for Pythons that
have no such lock.
"""

from __future__ import annotations

import argparse
import importlib.util
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import numpy as np
from common import median, run_metadata, save_json, spread, work_folder
from make_clip import Footage, make

import gpu_extract
from gpu_extract.frames import open_frames
from gpu_extract.run.progress import Event, FrameDone, Planned

PROBE = Path(__file__).with_name("lock_probe.c")
PERIOD_MICROSECONDS = 50
PREFIX = "gpu-extract-"  # of the names of the threads of a run
DECODER_THREADS = 3  # as the reader has on two cores, so that all decode alike

Held = dict[str, float]
"""Milliseconds of held lock a frame, by thread."""


class CannotMeasureError(Exception):
    """Why there are no figures here, as a sentence."""


def built_probe(folder: Path) -> ModuleType:
    """The probe, compiled for this Python."""
    if sys.platform != "linux" or sys.implementation.name != "cpython":
        raise CannotMeasureError("held locks are read from the inside of CPython, on Linux.")
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise CannotMeasureError("this Python has no lock that threads wait for.")
    compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")
    library = folder / "lock_probe.so"
    command = [*compiler, "-O2", "-shared", "-fPIC", f"-I{sysconfig.get_path('include')}", str(PROBE), "-o"]
    try:
        made = subprocess.run([*command, str(library)], capture_output=True, text=True, check=False)
    except OSError as error:
        raise CannotMeasureError(f"there is no C compiler: {error}.") from error
    if made.returncode:
        raise CannotMeasureError(f"the probe cannot be built for this Python:\n{made.stderr}")
    spec = importlib.util.spec_from_file_location("lock_probe", library)
    assert spec is not None
    assert spec.loader is not None
    probe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(probe)
    return probe


class Watch:
    """Watches the calling thread, and all that `threading` starts while `every_thread` is entered."""

    def __init__(self, probe: ModuleType) -> None:
        self._probe = probe
        self._names: dict[int, str] = {}
        self.is_first = True
        """Whether the probe went before all other threads; if not, a busy machine makes its figures too small."""

    def start(self) -> None:
        self._names.clear()
        self._probe.start(PERIOD_MICROSECONDS)
        self.join("main")

    def join(self, name: str) -> None:
        self._names[self._probe.join()] = name

    def stop(self, frames: int) -> Held:
        _, _, self.is_first, threads = self._probe.stop()
        held: Held = {}
        for number, (_, nanoseconds) in enumerate(threads):
            name = self._names[number].removeprefix(PREFIX).partition("-")[0]
            held[name] = held.get(name, 0.0) + nanoseconds / 1e6 / frames
        return held

    @contextmanager
    def every_thread(self) -> Iterator[None]:
        run = threading.Thread.run

        def watched(thread: threading.Thread) -> None:
            self.join(thread.name)
            run(thread)

        threading.Thread.run = watched  # type: ignore
        try:
            yield
        finally:
            threading.Thread.run = run  # type: ignore


def bare_frames(path: Path) -> Iterator[av.VideoFrame]:
    """PyAV as anybody would use it, with as many threads as the reader has."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = DECODER_THREADS
        yield from container.decode(stream)


def frames_of(path: Path, wanted: np.ndarray, timing: str) -> Iterator[Any]:
    with open_frames(path, timing=timing, threads=DECODER_THREADS) as source:
        yield from source.frames(wanted)


def with_planes(frames: Iterable[Any]) -> Iterator[Any]:
    for frame in frames:
        assert frame.planes() is not None
        yield frame


def readers(path: Path, frames: int) -> dict[str, Callable[[], Iterator[Any]]]:
    every, fifth, hundredth = (np.arange(0, frames, step) for step in (1, 5, 100))
    return {
        "PyAV's loop": lambda: bare_frames(path),
        "decoded": lambda: frames_of(path, every, "decoded"),
        "constant": lambda: frames_of(path, every, "constant"),
        "decoded, planes": lambda: with_planes(frames_of(path, every, "decoded")),
        "constant, planes": lambda: with_planes(frames_of(path, every, "constant")),
        "decoded, every 5th": lambda: frames_of(path, fifth, "decoded"),
        "constant, every 5th": lambda: frames_of(path, fifth, "constant"),
        "decoded, every 100th": lambda: frames_of(path, hundredth, "decoded"),
    }


def reader_held(watch: Watch, read: Callable[[], Iterator[Any]], frames: int) -> float:
    walked = read()
    next(walked)  # what is done once is no matter of frames
    watch.start()
    for _ in walked:
        pass
    return watch.stop(frames)["main"]


def run_held(watch: Watch, footage: Footage, size: int, workers: int) -> Held:
    """Of a whole run, from its plan to its last frame."""
    held: Held = {}
    left = frames = 0

    def listen(event: Event) -> None:
        nonlocal left, frames
        if isinstance(event, Planned):
            left = frames = event.frames
            watch.start()
        elif isinstance(event, FrameDone):
            left -= 1
            if not left:
                held.update(watch.stop(frames))

    with work_folder() as folder, watch.every_thread():
        alignments = shutil.copy(footage.alignments, folder)
        gpu_extract.extract(
            alignments, footage.frames, folder / "faces", size=size, workers=workers, engine="exact", progress=listen
        )
    return held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=6000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only-readers", action="store_true", help="no whole runs")
    parser.add_argument("--write", action="store_true", help="keep the figures in results/interpreter.json")
    arguments = parser.parse_args()
    frames = arguments.frames
    footage = make(frames=frames, height=180, width=320)
    with tempfile.TemporaryDirectory() as folder:
        try:
            watch = Watch(built_probe(Path(folder)))
        except CannotMeasureError as error:
            raise SystemExit(f"cannot measure here: {error}") from error
        contenders = readers(footage.frames, frames)
        held: dict[str, list[float]] = {name: [] for name in contenders}
        runs: list[Held] = []
        for _ in range(arguments.rounds):
            for name, read in contenders.items():
                held[name].append(reader_held(watch, read, frames))
            if not arguments.only_readers:
                runs.append(run_held(watch, footage, 64, arguments.workers))
    print("milliseconds of held lock for a frame of the video")
    bare = median(held["PyAV's loop"])
    for name, values in held.items():
        print(f"{name:24} {median(values):.4f}   {median(values) / bare:5.2f} x")
    threads = {name: [run.get(name, 0.0) for run in runs] for name in sorted({name for run in runs for name in run})}
    for name, values in threads.items():
        print(f"a run's {name:16} {median(values):.4f}")
    if not watch.is_first:
        print("The probe had to wait for a free processor: on a busy machine all figures are too small.")
    if arguments.write:
        footage_of = {"height": 180, "width": 320, "frames": frames, "faces_a_frame": 2, "size": 64}
        print(
            save_json(
                "interpreter",
                {
                    "metadata": run_metadata(),
                    "footage": footage_of,
                    "workers": arguments.workers,
                    "decoder_threads": DECODER_THREADS,
                    "probe_goes_first": watch.is_first,
                    "milliseconds_a_frame": {
                        "reader": {name: spread(values) for name, values in held.items()},
                        "run": {name: spread(values) for name, values in threads.items()},
                    },
                },
            )
        )


if __name__ == "__main__":
    main()
