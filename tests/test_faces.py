"""Faces as arrays: the pixels of the files that `extract` makes, one after another or one by one, and nothing left."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

import gpu_extract
from gpu_extract.errors import DeviceError, FrameError, InputError, UsageError
from gpu_extract.frames.sources.video import VideoSource
from gpu_extract.jobs import faces as jobs_faces
from gpu_extract.jobs.faces import FaceSource, faces
from gpu_extract.jobs.runs import prepare
from gpu_extract.options import Settings, options
from gpu_extract.run import stream
from tests.helpers import VECTORS, copied, face_entry, image_bytes, picture, read_image, write_clip, write_pickled

FRAMES, SIZE = 60, (76, 90)
GENERATIONS = sorted(
    path.name
    for path in (VECTORS / "alignments").iterdir()
    if not path.name.startswith(("reject", "export")) and "video" not in path.name
)


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", FRAMES, SIZE, options={"g": "12", "bf": "2"})


@pytest.fixture
def clip(encoded: Path, tmp_path: Path, landmarks: np.ndarray) -> tuple[Path, Path]:
    """An alignments file and its video: two faces a frame, some of one size with the crop and some not."""
    return write_pickled(tmp_path / "a.fsa", entries(landmarks)), copied(encoded, tmp_path)


def entries(landmarks: np.ndarray, frames: int = FRAMES, faces_a_frame: int = 2) -> dict[str, Any]:
    small = (landmarks - landmarks.mean(axis=0)) * 0.25
    spots = [((30 + 9 * k) % 70 + 8, (36 + 5 * k) % 50 + 10) for k in range(faces_a_frame)]
    return {
        f"clip_{n + 1:06d}.png": [
            face_entry((small * (1 + 0.01 * n) + np.array(spot) + n / 9).astype(np.float32)) for spot in spots
        ]
        for n in range(frames)
    }


def extracted(alignments: Path, frames: Path, folder: Path, **chosen: Any) -> tuple[dict[str, np.ndarray], Any]:
    """What `extract` makes of the same: pixels by the names of faces, and its report."""
    told: Any = {"format": "png", "no_update": True, "replace_hashes": True, "progress": "none"}
    report = gpu_extract.extract(alignments, frames, folder, **told, **chosen)
    return {path.stem: read_image(path) for path in folder.glob("*.png")}, report


def assert_as_extracted(found: FaceSource, files: dict[str, np.ndarray], report: Any) -> None:
    taken = list(found)
    assert {face.name for face in taken} == files.keys()
    for face in taken:
        assert np.array_equal(face.pixels, files[face.name]), face
    order = [(face.position, face.index) for face in taken]
    assert order == sorted(order)
    told = [(failure.frame, failure.index, failure.reason) for failure in found.failures]
    key = str
    assert sorted(told, key=key) == sorted(((e["frame"], e["index"], e["reason"]) for e in report.errors), key=key)


def threads() -> int:
    """Of Python and of C."""
    return len(list(Path("/proc/self/task").iterdir()))


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def settled(count: int) -> bool:
    """Whether no more than so many threads are left within a second."""
    deadline = time.monotonic() + 1
    while threads() > count and time.monotonic() < deadline:
        time.sleep(0.01)
    return threads() <= count


# ---- the same pixels


@pytest.mark.parametrize("name", GENERATIONS)
def test_the_pixels_are_those_of_the_files_for_every_generation(name: str, tmp_path: Path, vectors: Path) -> None:
    alignments = copied(vectors / "alignments" / name, tmp_path)
    files, report = extracted(alignments, vectors / "frames", tmp_path / "faces", size=64)
    assert len(files) > 10
    assert_as_extracted(faces(alignments, vectors / "frames", size=64), files, report)


@pytest.mark.parametrize(
    "chosen",
    [
        {"size": 48},
        {"size": 300, "align_eyes": True, "eye_angle": "rounded"},
        {"size": 48, "centering": "head"},
        {"size": 48, "centering": "face", "numerics": "numpy2", "align_eyes": True},
        {"size": 40, "large": True},
        {"size": 40, "min_size": 105},
        {"size": 33, "extract_every_n": 7},
        {"size": 32, "antialias": True},
        {"size": 48, "workers": 1},
        {"size": 48, "workers": 5, "rotate": "on", "video_timing": "constant", "match_keys": "any"},
    ],
    ids=lambda chosen: " ".join(f"{name}={value}" for name, value in chosen.items()),
)
def test_options_mean_the_same_as_those_of_extract(
    chosen: dict[str, Any], clip: tuple[Path, Path], tmp_path: Path
) -> None:
    files, report = extracted(*clip, tmp_path / "faces", **chosen)
    assert 0 < len(files) <= 2 * FRAMES
    assert_as_extracted(faces(*clip, **chosen), files, report)


def test_another_engine_cuts_in_batches(clip: tuple[Path, Path], tmp_path: Path) -> None:
    """Whose pixels depend on what else is in a batch."""
    pytest.importorskip("kornia")
    files, _ = extracted(*clip, tmp_path / "faces", size=48, engine="kornia", device="cpu")
    source = faces(*clip, size=48, engine="kornia", device="cpu")
    taken = list(source)
    assert [face.name for face in taken] == [face.name for face in faces(*clip, size=48)]
    for face in [*taken, source[7]]:
        assert np.abs(face.pixels.astype(int) - files[face.name]).max() <= 3
    source.close()


def test_the_long_way_gives_the_same(clip: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, report = extracted(*clip, tmp_path / "faces", size=48)
    monkeypatch.setattr(stream, "is_available", lambda: False)
    assert_as_extracted(faces(*clip, size=48), files, report)


def test_a_face_says_what_the_metadata_say(clip: tuple[Path, Path], tmp_path: Path) -> None:
    _, report = extracted(*clip, tmp_path / "faces", size=48, metadata="jsonl")
    rows = [json.loads(line) for line in next((tmp_path / "faces").glob("*.jsonl")).read_text().splitlines()]
    taken = list(faces(*clip, size=48))
    assert report.faces_written == len(rows) == len(taken)
    for face, row in zip(taken, rows, strict=True):
        assert (face.frame, face.position, face.index) == (row["frame"], row["position"], row["index"])
        assert (face.hash, face.size, face.frame_size) == (row["hash"], row["size"], SIZE)
        assert face.crop_from_frame.tolist() == row["matrix"]
        assert (face.roi.tolist(), face.box.tolist()) == (row["roi"], row["box"])
        assert face.landmarks.tolist() == row["landmarks"]
        moved = [face.crop_from_frame @ (x, y, 1) for x, y in row["landmarks"]]
        assert np.allclose(face.landmarks_in_crop, moved)


def test_landmarks_of_turned_frames_lie_where_the_face_is(tmp_path: Path, vectors: Path) -> None:
    """Those of generation g0 are stored as the turned frame had them."""
    alignments = copied(vectors / "alignments" / "g0_2018-05.json", tmp_path)
    for face in faces(alignments, vectors / "frames", size=64):
        inside = face.landmarks_in_crop
        assert ((inside > -8) & (inside < 72)).mean() > 0.9, face


def test_a_face_belongs_to_whoever_receives_it(clip: tuple[Path, Path]) -> None:
    first, second = faces(*clip, size=48), faces(*clip, size=48)
    for face in first:
        for array in (face.pixels, face.landmarks, face.crop_from_frame, face.box):
            array[:] = 0
    again = list(first)
    for face, other in zip(again, second, strict=True):
        assert face.hash == other.hash
        assert np.array_equal(face.crop_from_frame, other.crop_from_frame)
    first[0].pixels[:] = 0
    assert first[0].hash == again[0].hash


def test_what_a_face_can_do(clip: tuple[Path, Path]) -> None:
    face = faces(*clip, size=48)[0]
    assert repr(face) == "<Face 0 of 'clip_000001.png', 48 px>"
    assert face.name == "clip_000001_0"
    assert np.array_equal(face.rgb, face.pixels[:, :, ::-1])
    assert face.rgb.flags.c_contiguous
    assert face.hash == hashlib.sha1(face.pixels.tobytes()).hexdigest()
    shown = face._repr_png_()
    assert shown.startswith(b"\x89PNG")
    with pytest.raises(FrozenInstanceError):
        face.index = 3  # type: ignore[misc]


def test_nothing_is_written_and_no_signal_is_taken(clip: tuple[Path, Path], tmp_path: Path) -> None:
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.iterdir()}
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    for _ in faces(*clip, size=48):
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == handlers
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.iterdir()} == before


# ---- what was asked for


def test_options_are_those_of_extract_and_refused_alike(clip: tuple[Path, Path]) -> None:
    import inspect

    ours = inspect.signature(faces).parameters
    theirs = inspect.signature(gpu_extract.extract).parameters
    for name, parameter in ours.items():
        assert name in theirs
        assert parameter.default == theirs[name].default
    assert {row.name for row in options("extract")} >= ours.keys()
    wrong: dict[str, Any]
    for wrong in ({"size": 8}, {"centering": "nose"}, {"shard": "3/2"}, {"workers": 0}, {"on_error": "raise"}):
        with pytest.raises(UsageError) as refused:
            faces(*clip, **wrong)
        with pytest.raises(UsageError) as same:
            Settings(alignments=clip[0], frames=clip[1], faces=Path("f"), **wrong)
        assert str(refused.value) == str(same.value)
    with pytest.raises(TypeError):
        faces(*clip, siz=64)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match="faces reads paths of this machine only"):
        faces("s3://bucket/a.fsa", clip[1])


def test_what_is_not_there(clip: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no frames at"):
        faces(clip[0], tmp_path / "gone.mp4")
    with pytest.raises(InputError):
        faces(tmp_path / "gone.fsa", clip[1])
    with pytest.raises(DeviceError):
        next(iter(faces(*clip, device="cuda:7")))


def test_planned_before_anything_is_decoded(clip: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    before = threads()
    monkeypatch.setattr(VideoSource, "frames", None)
    source = faces(*clip, size=48, extract_every_n=2)
    assert (len(source), len(source.frames)) == (FRAMES, FRAMES // 2)
    assert source.frames[:2] == ("clip_000001.png", "clip_000003.png")
    assert source.failures == []
    iter(source)
    assert threads() == before


def test_parts_have_each_face_once(clip: tuple[Path, Path]) -> None:
    whole = [(face.frame, face.index, face.hash) for face in faces(*clip, size=48)]
    source = faces(*clip, size=48)
    for count in (1, 3, 7):
        parts = [source.part(number, count, workers=1) for number in range(count)]
        assert [(face.frame, face.index, face.hash) for part in parts for face in part] == whole
        assert sum(map(len, parts)) == len(whole)
    shards = [faces(*clip, size=48, shard=f"{number}/2") for number in range(2)]
    nested = [shard.part(number, 3) for shard in shards for number in range(3)]
    assert [(face.frame, face.index, face.hash) for part in nested for face in part] == whole
    with pytest.raises(UsageError, match="shard must be I/N"):
        source.part(2, 2)


def test_a_copy_for_another_process_plans_anew(clip: tuple[Path, Path]) -> None:
    source = faces(*clip, size=48, extract_every_n=3, shard="1/2").part(0, 2)
    other = pickle.loads(pickle.dumps(source))
    assert [face.hash for face in other] == [face.hash for face in source]


# ---- one by one


def test_any_face_can_be_had_in_any_order(clip: tuple[Path, Path]) -> None:
    source = faces(*clip, size=48)
    taken = list(source)
    for n in np.random.default_rng(3).permutation(len(taken)):
        face = taken[n]
        for same in (source[n], source[face.frame, face.index], source[face.position, face.index]):
            assert (same.frame, same.index, same.hash) == (face.frame, face.index, face.hash)
            assert np.array_equal(same.landmarks, face.landmarks)
    assert source[-1].hash == taken[-1].hash


def test_faces_of_one_frame_cost_one_decode_and_the_next_frame_no_seek(
    clip: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    walks, real = [], VideoSource.frames

    def counted(self: VideoSource, wanted: np.ndarray) -> Any:
        walks.append(int(wanted[0]))
        return real(self, wanted)

    monkeypatch.setattr(VideoSource, "frames", counted)
    source = faces(*clip, size=48)
    for position in range(40, 50):
        for index in (1, 0):
            assert source[position, index].position == position
    assert walks == [40]
    assert source[40, 0].position == 40, "kept"
    assert walks == [40]
    assert source[3, 0].position == 3
    assert walks == [40, 3]


def test_what_is_kept_is_bounded(clip: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_faces, "KEPT_BYTES", 5 * 2 * 48 * 48 * 3)
    source = faces(*clip, size=48)
    for n in range(0, 60, 2):
        source[n]
    assert source._single is not None
    assert list(source._single._kept) == [25, 26, 27, 28, 29]
    assert source._single._kept_bytes == jobs_faces.KEPT_BYTES
    source.close()


@pytest.mark.parametrize(
    ("which", "kind", "sentence"),
    [
        (("clip_000001.jpg", 0), KeyError, "no planned frame has the key 'clip_000001.jpg'; keys are like"),
        ((1, 0), KeyError, "no planned frame has the position 1; keys are like 'clip_000001.png'"),
        (("clip_000002.png", 0), KeyError, "'clip_000002.png' has no face that is planned"),
        (("clip_000003.png", 2), KeyError, "'clip_000003.png' has no face 2 among those planned; it has 0, 1"),
        (60, IndexError, "there are 60 faces, from 0 to 59; 60 is none of them"),
        (-61, IndexError, "-61 is none of them"),
    ],
)
def test_faces_that_cannot_be_had_one_by_one(
    which: Any, kind: type[Exception], sentence: str, clip: tuple[Path, Path]
) -> None:
    with pytest.raises(kind, match=sentence):
        faces(*clip, size=48, extract_every_n=2)[which]


# ---- what goes wrong


@pytest.fixture
def torn(tmp_path: Path, landmarks: np.ndarray) -> tuple[Path, Path]:
    """A folder of six images of which the third is no image, and an alignments file with a frame that is not there."""
    folder = tmp_path / "images"
    folder.mkdir()
    for n in range(6):
        data = image_bytes(".png", picture(n, *SIZE)) if n != 2 else b"no picture"
        (folder / f"clip_{n + 1:06d}.png").write_bytes(data)
    return write_pickled(tmp_path / "a.fsa", entries(landmarks, 7)), folder


def test_a_frame_that_fails_is_left_out_and_named(torn: tuple[Path, Path], tmp_path: Path) -> None:
    files, report = extracted(*torn, tmp_path / "faces", size=48)
    source = faces(*torn, size=48)
    assert [failure.frame for failure in source.failures] == ["clip_000007.png"]
    assert_as_extracted(source, files, report)
    assert (source.failures[0].frame, source.failures[0].faces) == ("clip_000007.png", 2)
    with pytest.raises(FrameError, match=r"clip_000003.png: "):
        source["clip_000003.png", 1]
    with pytest.raises(KeyError, match="cannot be had"):
        source["clip_000007.png", 0]
    assert len(source.failures) == 2
    assert source["clip_000004.png", 1].position == 3


def test_the_first_failure_can_end_it(torn: tuple[Path, Path], landmarks: np.ndarray) -> None:
    with pytest.raises(FrameError, match=r"clip_000007.png: "):
        list(faces(*torn, size=48, on_error="stop"))
    write_pickled(torn[0], entries(landmarks, 6))
    walk = iter(faces(*torn, size=48, on_error="stop"))
    assert [face.position for face in islice(walk, 4)] == [0, 0, 1, 1]
    with pytest.raises(FrameError, match=r"clip_000003.png: "):
        next(walk)


def test_a_face_without_a_crop_is_named_and_its_neighbour_cut(clip: tuple[Path, Path], landmarks: np.ndarray) -> None:
    changed = entries(landmarks)
    changed["clip_000005.png"][0] = face_entry(np.full((68, 2), 3, np.float32))
    write_pickled(clip[0], changed)
    source = faces(*clip, size=48)
    assert len(list(source)) == 2 * FRAMES - 1
    assert [(failure.frame, failure.index) for failure in source.failures] == [("clip_000005.png", 0)]
    assert source["clip_000005.png", 1].index == 1


def test_a_video_that_ends_too_early(clip: tuple[Path, Path], landmarks: np.ndarray) -> None:
    write_pickled(clip[0], entries(landmarks, FRAMES + 3))
    source = faces(*clip, size=48)
    assert len(list(source)) == 2 * FRAMES
    assert [failure.frame for failure in source.failures] == [f"clip_{FRAMES + n:06d}.png" for n in (1, 2, 3)]
    with pytest.raises(FrameError, match="the video ends after 60 frames"):
        source[FRAMES + 1, 0]


def test_images_that_are_others_than_planned(torn: tuple[Path, Path]) -> None:
    source = faces(*torn, size=48)
    (torn[1] / "clip_000000.png").write_bytes(image_bytes(".png", picture(0, *SIZE)))
    with pytest.raises(InputError, match="are others than when their faces were planned"):
        next(iter(source))


def test_memory_that_runs_out_is_said(clip: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def none(self: Any, task: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(stream._Kept, "keep", none)
    with pytest.raises(MemoryError):
        list(faces(*clip, size=48))


# ---- how it ends


def leave_by_break(source: FaceSource) -> None:
    for _ in source:
        break


def leave_by_error(source: FaceSource) -> None:
    with pytest.raises(ZeroDivisionError):
        list(map(lambda face: 1 / 0, source))  # noqa: C417


def leave_by_dropping(source: FaceSource) -> None:
    walk = iter(source)
    next(walk)
    del walk
    gc.collect()


def leave_by_closing(source: FaceSource) -> None:
    with source:
        walk = iter(source)
        next(walk)
    assert list(walk) == []


def leave_by_closing_elsewhere(source: FaceSource) -> None:
    walk = iter(source)
    next(walk)
    thread = threading.Thread(target=source.close)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
    assert list(walk) == []


def leave_after_one_by_one(source: FaceSource) -> None:
    source[5]
    source.close()


@pytest.mark.parametrize("native", [True, False], ids=["native", "long"])
@pytest.mark.parametrize(
    "leave",
    [
        leave_by_break,
        leave_by_error,
        leave_by_dropping,
        leave_by_closing,
        leave_by_closing_elsewhere,
        leave_after_one_by_one,
    ],
)
def test_no_thread_is_left_a_second_later(
    leave: Callable[[FaceSource], None], native: bool, clip: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the reader waits for room."""
    monkeypatch.setattr(stream, "ROOM_BYTES", 1)
    if not native:
        monkeypatch.setattr(stream, "is_available", lambda: False)
    before = threads()
    leave(faces(*clip, size=48, workers=2))
    assert settled(before)


def test_what_nobody_walks_keeps_no_thread_and_no_file_open(clip: tuple[Path, Path]) -> None:
    """So a process may fork, and a notebook may plan as often as it likes."""
    before, descriptors = threads(), open_files()
    for timing in ("constant", "decoded"):
        kept = faces(*clip, size=48, video_timing=timing, rotate="on")
        assert settled(before)
        assert open_files() == descriptors
        assert 0 < len(kept.part(0, 2)) < len(kept)
        assert settled(before)
        assert open_files() == descriptors


def test_the_picture_that_told_the_turn_is_let_go_at_once(clip: tuple[Path, Path]) -> None:
    """Else planning again and again takes a picture's memory each time, until the garbage collector comes."""
    gc.collect()
    gc.disable()
    try:
        kept = faces(*clip, size=48, rotate="on")
        assert not [one for one in gc.get_objects() if type(one) is av.VideoFrame]
    finally:
        gc.enable()
    assert len(kept) == 2 * FRAMES


def test_a_walk_is_ended_by_another_thread_while_it_waits(clip: tuple[Path, Path]) -> None:
    """As a notebook's cell that is stopped by a button: the loop just ends, and the source says that it is closed."""
    source = faces(*clip, size=48)
    begun, taken = threading.Event(), []

    def take() -> None:
        for face in source:
            taken.append(face)
            begun.set()
            time.sleep(0.01)

    thread = threading.Thread(target=take)
    thread.start()
    assert begun.wait(10)
    source.close()
    thread.join(5)
    assert not thread.is_alive()
    assert 0 < len(taken) < 2 * FRAMES
    with pytest.raises(ValueError, match="these faces are closed"):
        next(iter(source))
    with pytest.raises(ValueError, match="these faces are closed"):
        source[0]
    source.close()


def test_a_keyboard_interrupt_ends_the_loop_and_its_threads(clip: tuple[Path, Path]) -> None:
    code = (
        "import os, signal, sys, time, numpy.linalg, gpu_extract\n"
        "def tasks(): return len(os.listdir('/proc/self/task'))\n"
        "source, before = gpu_extract.faces(*sys.argv[1:], size=48, workers=2), tasks()\n"
        "try:\n    for n, face in enumerate(source):\n        if n == 7: os.kill(os.getpid(), signal.SIGINT)\n"
        "except KeyboardInterrupt:\n    deadline = time.monotonic() + 1\n"
        "    while tasks() > before and time.monotonic() < deadline: time.sleep(0.01)\n"
        "    print(n, tasks() - before)\n"
    )
    command = [sys.executable, "-c", code, *map(str, clip)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "7 0\n", "")


def test_an_interpreter_ends_although_a_walk_is_unfinished(clip: tuple[Path, Path]) -> None:
    code = (
        "import gpu_extract\nfrom gpu_extract.run import stream\nstream.ROOM_BYTES = 1\n"
        f"walk = iter(gpu_extract.faces({str(clip[0])!r}, {str(clip[1])!r}, size=48, workers=2))\n"
        "print(next(walk).name)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "clip_000001_0\n", "")


def test_a_thread_goes_on_although_the_main_one_has_ended(clip: tuple[Path, Path]) -> None:
    code = (
        "import threading, time, gpu_extract\nfrom gpu_extract.run import stream\nstream.ROOM_BYTES = 1\n"
        "def take():\n    time.sleep(0.5)\n"
        f"    print(sum(1 for _ in gpu_extract.faces({str(clip[0])!r}, {str(clip[1])!r}, size=48, workers=2)))\n"
        "threading.Thread(target=take).start()"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, f"{2 * FRAMES}\n", "")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_walks_anew_whatever_its_parent_was_at(clip: tuple[Path, Path]) -> None:
    source = faces(*clip, size=48, workers=2)
    expected = [face.hash for face in source]
    walk = iter(source)
    next(walk)
    assert source[4].hash == expected[4]
    child = os.fork()
    if child == 0:
        code = 1
        try:
            found = [face.hash for face in source]
            code = 0 if found == expected and source[4].hash == expected[4] else 2
            del walk
        finally:
            os._exit(code)
    deadline = time.monotonic() + 60
    ended, status = 0, -1
    while not ended and time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.02)
    if not ended:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert (ended, status) == (child, 0)
    assert len(list(walk)) == len(expected) - 1
    source.close()


# ---- how it flows


@pytest.mark.parametrize("native", [True, False], ids=["native", "long"])
def test_whoever_takes_slowly_stops_the_decoder(
    native: bool, clip: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "ROOM_BYTES", 1)
    if not native:
        monkeypatch.setattr(stream, "is_available", lambda: False)
    sources, real = [], prepare.frames_of

    def opened(*given: Any, **how: Any) -> Any:
        sources.append(real(*given, **how))
        return sources[-1]

    monkeypatch.setattr(jobs_faces, "frames_of", opened)
    walk = iter(faces(*clip, size=48, workers=2))
    next(walk)
    deadline = time.monotonic() + 20
    seen = -1
    while seen != (now := sources[-1].frames_decoded):
        assert time.monotonic() < deadline
        seen = now
        time.sleep(0.5)
    assert seen < 25, "8 for which there is room, and what is on its way through the decoder"
    time.sleep(0.2)
    assert sources[-1].frames_decoded == seen
    assert len(list(walk)) == 2 * FRAMES - 1
    assert sources[-1].frames_decoded == FRAMES


def test_many_walks_at_once(clip: tuple[Path, Path], vectors: Path) -> None:
    """Of one source and of several, in one thread and in many; with poses that are found on the way."""
    source = faces(*clip, size=48, centering="head", workers=2)
    expected = [face.hash for face in faces(*clip, size=48, centering="head")]
    assert [(one.hash, two.hash) for one, two in zip(source, source, strict=True)] == list(
        zip(expected, expected, strict=True)
    )
    found: dict[int, list[str]] = {}

    def take(number: int) -> None:
        mine = source if number % 2 else faces(*clip, size=48, centering="head")
        found[number] = [face.hash for face in mine]
        assert mine[number].hash == expected[number]

    takers = [threading.Thread(target=take, args=(number,)) for number in range(6)]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join()
    assert list(found.values()) == [expected] * 6
    source.close()


# ---- the door


def test_the_door_gives_the_function_however_it_is_asked(clip: tuple[Path, Path]) -> None:
    code = (
        "import sys, gpu_extract\n"
        "if sys.argv[1] == 'from': from gpu_extract import faces; assert len(faces(*sys.argv[2:])) == 120\n"
        "source = gpu_extract.faces(*sys.argv[2:], size=48)\n"
        "assert isinstance(source, gpu_extract.FaceSource)\n"
        "print(len(source))"
    )
    for how in ("function", "from"):
        run = subprocess.run([sys.executable, "-c", code, how, *map(str, clip)], capture_output=True, text=True)
        assert (run.stdout, run.stderr) == ("120\n", "")


def test_a_clip_of_other_pixels_than_420(tmp_path: Path, landmarks: np.ndarray) -> None:
    video = write_clip(tmp_path / "clip.mkv", 10, SIZE, "ffv1", pixel_format="yuv444p")
    alignments = write_pickled(tmp_path / "a.fsa", entries(landmarks, 10))
    files, report = extracted(alignments, video, tmp_path / "faces", size=48)
    assert_as_extracted(faces(alignments, video, size=48), files, report)


@pytest.mark.slow
def test_a_hundred_thousand_faces_need_no_more_memory_than_a_thousand(tmp_path: Path, landmarks: np.ndarray) -> None:
    video = write_clip(tmp_path / "clip.mp4", 2000, SIZE)
    alignments = write_pickled(tmp_path / "a.fsa", entries(landmarks, 2000, 50))
    source = faces(alignments, video, size=128)
    assert len(source) == 100_000
    sizes = []
    for n, _ in enumerate(source):
        if n % 10_000 == 1_000:
            sizes.append(resident_mb())
    assert n == 99_999
    assert max(sizes) - sizes[1] < 32, sizes


def resident_mb() -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024
