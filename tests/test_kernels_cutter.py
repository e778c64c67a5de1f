"""Frames cut in C against what the Python twin makes of them, piece by piece; and all that may go wrong on the way."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_extract.kernels import cpu, png, yuv
from gpu_extract.kernels.cutter import FACE, Cutter, Done, Planes, is_available, sha1
from gpu_extract.kernels.tables import source_region

pytestmark = pytest.mark.skipif(not is_available(), reason="the C extension was not built here")

PORTABLE = pytest.mark.parametrize("portable", [False, True])
HEIGHT, WIDTH = 118, 210


@dataclass
class Wanted:
    """Faces of a plan: `per_frame` of each of its frames."""

    size: int
    per_frame: int
    crop_from_frame: np.ndarray
    cubic: np.ndarray
    region: np.ndarray
    index: np.ndarray
    starts: np.ndarray

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        return self.crop_from_frame, self.cubic, self.region, self.index, self.starts

    def of(self, frame: int) -> slice:
        return slice(int(self.starts[frame]), int(self.starts[frame + 1]))


def wanted(frames: int, per_frame: int, size: int, seed: int = 0) -> Wanted:
    """Matrices of every kind, those that no crop can come of among them."""
    rng = np.random.default_rng(seed)
    count = frames * per_frame
    matrices = rng.normal(0, 0.7, (count, 2, 3))
    middle = rng.uniform(-20, (WIDTH + 20, HEIGHT + 20), (count, 2))  # of each crop, in its frame
    matrices[:, :, 2] = size / 2 - (matrices[:, :, :2] * middle[:, None]).sum(axis=2)
    matrices[::11] *= 1e9
    matrices[3::31, 0, 0] = np.nan
    matrices[5::37] = 0
    matrices[7::41, 1, 2] = np.inf
    matrices[9::43] *= 1e-300
    cubic = rng.random(count) < 0.5
    index = np.tile(np.arange(per_frame, dtype=np.int32), frames)
    starts = np.arange(frames + 1, dtype=np.int64) * per_frame
    return Wanted(size, per_frame, matrices, cubic, source_region(matrices, cubic, size), index, starts)


def picture(seed: int, height: int = HEIGHT, width: int = WIDTH, slack: int = 6) -> Planes:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 256, (height, width + slack), np.uint8)
    u, v = (rng.integers(0, 256, (height // 2, width // 2 + slack), np.uint8) for _ in range(2))
    strides = (width + slack, width // 2 + slack, width // 2 + slack)
    return Planes(y, u, v, strides, height, width, yuv.COEFFICIENTS[seed % len(yuv.COEFFICIENTS)])


def frame_of(planes: Planes) -> np.ndarray:
    height, width = planes.height, planes.width
    return yuv.to_bgr(planes[:3], planes.strides, 0, 0, width, height, planes.coefficients, planes.layout)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "faces").mkdir()
    descriptor = os.open(tmp_path / "faces", os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def all_done(cutter: Cutter, least: int = 8) -> list[Done]:
    found = []
    while (done := cutter.collect(least, 0.05)) is not None:
        found.append(done)
    return found


def submitted(cutter: Cutter, frames: int, texts: Callable[[int], Any], **how: Any) -> threading.Thread:
    def feed() -> None:
        for i in range(frames):
            while not cutter.submit(i, picture(i, **how), b"", b"f%d" % i, texts(i), 0.2):
                pass
        cutter.close()

    thread = threading.Thread(target=feed)
    thread.start()
    return thread


def assert_as_the_twin(face: Any, file: Path, crop: np.ndarray, text: bytes | None = None) -> None:
    """A face of FACE and its file, against the crop [S, S, 3]."""
    assert face["error"] == 0
    assert bytes(face["sha1"]) == hashlib.sha1(crop.data).digest()
    assert bool(face["one_colour"]) == bool((crop == crop[0, 0]).all())
    data = file.read_bytes()
    assert data == png.encoded(crop, text)
    assert face["nbytes"] == len(data)


@PORTABLE
def test_sha1_of_every_length_around_a_block(portable: bool) -> None:
    data = np.random.default_rng(1).bytes(70_000)
    for size in [*range(260), 4095, 4096, 65_537, 70_000]:
        assert sha1(data[:size], portable=portable) == hashlib.sha1(data[:size]).digest()


@PORTABLE
def test_each_face_has_its_own_hash(portable: bool, folder: int) -> None:
    """Two are hashed at a time; sizes of crops are all remainders of SHA-1's blocks that occur."""
    for size in range(1, 24):
        plan = wanted(1, 5, size)
        cutter = Cutter(1, 1, size, folder, ".png", *plan.arrays, portable=portable)
        for count in range(1, 6):
            crops = np.random.default_rng([size, count]).integers(0, 256, (count, size, size, 3), np.uint8)
            faces, _ = cutter.finish(0, 0, crops, b"", b"f", None)
            assert [bytes(face) for face in faces["sha1"]] == [hashlib.sha1(crop.data).digest() for crop in crops]


@PORTABLE
@pytest.mark.parametrize("size", [1, 7, 33, 64])
def test_submitted_pictures_become_what_the_twin_makes(size: int, portable: bool, tmp_path: Path, folder: int) -> None:
    frames, faces = 40, 3
    plan = wanted(frames, faces, size)

    def texts(i: int) -> list[bytes | None] | None:
        return None if i % 3 == 0 else [b"a", None, b"x" * (i * 997)]

    cutter = Cutter(3, 2, size, folder, ".png", *plan.arrays, portable=portable)
    feeder = submitted(cutter, frames, texts)
    done = all_done(cutter)
    feeder.join()
    numbers = [int(number) for one in done for number in one.frames["frame"]]
    assert sorted(numbers) == list(range(frames))
    results = np.concatenate([one.faces for one in done])
    for n, i in enumerate(numbers):
        pixels = frame_of(picture(i))
        crops = cpu.warp_affine([pixels], [0] * faces, plan.crop_from_frame[plan.of(i)], plan.cubic[plan.of(i)], size)
        for k in range(faces):
            text = (texts(i) or [None] * faces)[k]
            assert_as_the_twin(results[n * faces + k], tmp_path / f"faces/f{i}_{k}.png", crops[k], text)
    assert len(list((tmp_path / "faces").iterdir())) == frames * faces
    assert {(int(f["height"]), int(f["width"])) for one in done for f in one.frames} == {(HEIGHT, WIDTH)}


@PORTABLE
def test_ten_thousand_matrices(portable: bool, tmp_path: Path, folder: int) -> None:
    """The tables are made in C as `tables.coordinate_tables` makes them, to the last bit."""
    count, size = 10_000, 9
    plan = wanted(1, count, size, seed=5)
    pixels = np.random.default_rng(8).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    cutter = Cutter(1, 1, size, folder, ".png", *plan.arrays, portable=portable)
    faces, _ = cutter.cut(0, 0, count, [(pixels, 0, 0)], np.zeros(count, np.int64), b"", b"f", None)
    crops = cpu.warp_affine([pixels], np.zeros(count, np.int64), plan.crop_from_frame, plan.cubic, size)
    assert [bytes(sum_) for sum_ in faces["sha1"]] == [hashlib.sha1(crop.data).digest() for crop in crops]
    assert len({bytes(sum_) for sum_ in faces["sha1"]}) > 5000
    assert not faces["error"].any()


@pytest.mark.parametrize("shape", [(2, 2), (2, 64), (64, 2), (34, 30), (66, 98)])
def test_pictures_of_any_even_size(shape: tuple[int, int], tmp_path: Path, folder: int) -> None:
    """Faces that share a region, and faces far from each other."""
    height, width = shape
    plan = wanted(12, 2, 16, seed=height + width)
    cutter = Cutter(2, 1, 16, folder, ".png", *plan.arrays)
    feeder = submitted(cutter, 12, lambda _: None, height=height, width=width, slack=0)
    done = all_done(cutter, 1)
    feeder.join()
    at = {int(number): one.faces[2 * n : 2 * n + 2] for one in done for n, number in enumerate(one.frames["frame"])}
    for i in range(12):
        pixels = frame_of(picture(i, height, width, 0))
        crops = cpu.warp_affine([pixels], [0, 0], plan.crop_from_frame[plan.of(i)], plan.cubic[plan.of(i)], 16)
        for k in range(2):
            assert_as_the_twin(at[i][k], tmp_path / f"faces/f{i}_{k}.png", crops[k])


LAYOUTS = [
    yuv.Layout(halved=False),
    *(yuv.Layout(10, True, left, down) for left in (False, True) for down in (0, 1, 2)),
    *(yuv.Layout(bits, halved, cubic=True) for bits in (9, 12) for halved in (False, True)),
]


@PORTABLE
def test_pictures_of_every_layout(portable: bool, tmp_path: Path, folder: int) -> None:
    size, faces, frames = 20, 4, len(LAYOUTS)
    rng = np.random.default_rng(11)
    plan = wanted(frames, faces, size, seed=3)
    pictures = []
    for i, layout in enumerate(LAYOUTS):
        rows = HEIGHT // 2 if layout.halved else HEIGHT
        kind = np.uint16 if layout.bits > 8 else np.uint8
        y = rng.integers(0, 1 << layout.bits, (HEIGHT, WIDTH + 5), kind)
        u, v = rng.integers(0, 1 << layout.bits, (2, rows, WIDTH // 2 + 1), kind)
        strides = (y.strides[0], u.strides[0], v.strides[0])
        pictures.append(Planes(y, u, v, strides, HEIGHT, WIDTH, yuv.COEFFICIENTS[i % 10], layout))
    cutter = Cutter(2, 1, size, folder, ".png", *plan.arrays, portable=portable)
    for i, planes in enumerate(pictures):
        while not cutter.submit(i, planes, b"", b"f%d" % i, None, 0.2):
            pass
    cutter.close()
    done = all_done(cutter)
    numbers = [int(number) for one in done for number in one.frames["frame"]]
    results = np.concatenate([one.faces for one in done])
    assert sorted(numbers) == list(range(frames))
    for n, i in enumerate(numbers):
        pixels = frame_of(pictures[i])
        crops = cpu.warp_affine([pixels], [0] * faces, plan.crop_from_frame[plan.of(i)], plan.cubic[plan.of(i)], size)
        for k in range(faces):
            assert_as_the_twin(results[n * faces + k], tmp_path / f"faces/f{i}_{k}.png", crops[k])


@PORTABLE
def test_crops_that_go_into_memory_are_those_of_the_files(portable: bool) -> None:
    """No file is made, and the memory of a face that is not cut stays as it was."""
    frames, faces, size = 30, 3, 33
    plan = wanted(frames, faces, size)
    cutter = Cutter(3, 2, size, -1, "", *plan.arrays, portable=portable)
    found = [np.full((faces, size, size, 3), 7, np.uint8) for _ in range(frames)]
    for i in range(frames):
        while not cutter.submit(i, picture(i), b"", b"", None, 0.2, found[i]):
            pass
    cutter.close()
    done = all_done(cutter, 1)
    assert sorted(int(number) for one in done for number in one.frames["frame"]) == list(range(frames))
    assert not np.concatenate([one.faces["error"] for one in done]).any()
    assert sum(one.seconds[0] + one.seconds[1] for one in done) > 0
    assert sum(sum(one.seconds[2:]) for one in done) == 0
    for i in range(frames):
        faces_of = plan.of(i)
        crops = cpu.warp_affine(
            [frame_of(picture(i))], [0] * faces, plan.crop_from_frame[faces_of], plan.cubic[faces_of], size
        )
        assert np.array_equal(found[i], crops)


@pytest.mark.parametrize(
    "memory",
    [
        np.zeros((2, 8, 8, 3), np.uint8),
        np.zeros((3, 8, 9, 3), np.uint8),
        np.zeros((3, 8, 8, 3), np.int8),
        np.zeros((3, 8, 8, 4), np.uint8),
        np.zeros((3, 8, 8, 3), np.float32),
    ],
    ids=lambda memory: f"{memory.shape} {memory.dtype}",
)
def test_memory_that_crops_do_not_fit_into(memory: np.ndarray) -> None:
    plan = wanted(1, 3, 8)
    cutter = Cutter(1, 1, 8, -1, "", *plan.arrays)
    with pytest.raises(ValueError, match=r"crops must be \[3, 8, 8, 3\] uint8"):
        cutter.submit(0, picture(0), b"", b"", None, 0.2, memory)


def test_memory_for_crops_is_in_one_piece_and_may_be_written() -> None:
    plan = wanted(1, 3, 8)
    cutter = Cutter(1, 1, 8, -1, "", *plan.arrays)
    fixed = np.zeros((3, 8, 8, 3), np.uint8)
    fixed.flags.writeable = False
    for memory in (fixed, np.zeros((3, 8, 16, 3), np.uint8)[:, :, ::2]):
        with pytest.raises((ValueError, BufferError)):
            cutter.submit(0, picture(0), b"", b"", None, 0.2, memory)
    with pytest.raises(TypeError):
        cutter.submit(0, picture(0), b"", b"", None, 0.2, [0])  # type: ignore[arg-type]


def test_a_picture_is_let_go_without_a_further_call_for_another() -> None:
    plan = wanted(1, 3, 8)
    cutter = Cutter(1, 1, 8, -1, "", *plan.arrays)
    planes = picture(0)
    y = bytearray(planes.y.tobytes())
    crops = np.zeros((3, 8, 8, 3), np.uint8)
    assert cutter.submit(0, planes._replace(y=y), b"", b"", None, 0.2, crops)
    assert _is_exported(y)
    deadline = time.monotonic() + 10
    while _is_exported(y) and time.monotonic() < deadline:
        cutter.let_go()
    assert not _is_exported(y)
    assert len(cutter.collect(1, 1).frames) == 1  # type: ignore[union-attr]


def test_a_fork_drops_what_it_has_no_threads_of() -> None:
    """It would wait for them for ever."""
    plan = wanted(1, 3, 8)
    cutter = Cutter(2, 1, 8, -1, "", *plan.arrays)
    assert cutter.submit(0, picture(0), b"", b"", None, 0.2, np.zeros((3, 8, 8, 3), np.uint8))
    child = os.fork()
    if child == 0:
        del cutter
        os._exit(0)
    deadline = time.monotonic() + 20
    ended = 0
    while not ended and time.monotonic() < deadline:
        ended, _ = os.waitpid(child, os.WNOHANG)
        time.sleep(0.01)
    if not ended:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert ended == child


def test_patches_and_crops_on_the_callers_thread(tmp_path: Path, folder: int) -> None:
    plan = wanted(3, 5, 24)
    rng = np.random.default_rng(3)
    whole = rng.integers(0, 256, (80, 120, 3), np.uint8)
    wide = rng.integers(0, 256, (80, 130, 3), np.uint8)
    patches = [(whole, 0, 0), (wide[:, 4:90], 4, 0)]
    patch_of = np.array([1, 0, 1], np.int64)
    cutter = Cutter(1, 1, 24, folder, ".png", *plan.arrays)
    faces, seconds = cutter.cut(1, 1, 3, patches, patch_of, b"", b"one", [b"t", None, b""])
    part = slice(int(plan.starts[1]) + 1, int(plan.starts[1]) + 4)
    crops = cpu.warp_affine(
        [whole, wide[:, 4:90]], patch_of, plan.crop_from_frame[part], plan.cubic[part], 24, [(0, 0), (4, 0)]
    )
    for k in range(3):
        assert_as_the_twin(faces[k], tmp_path / f"faces/one_{k + 1}.png", crops[k], [b"t", None, b""][k])
    assert min(seconds[1:]) > 0
    finished, seconds = cutter.finish(2, 2, crops, b"", b"two", None)
    for k in range(3):
        assert_as_the_twin(finished[k], tmp_path / f"faces/two_{k + 2}.png", crops[k])
    assert seconds[:2] == (0, 0)


def test_names_that_are_refused_stop_nothing(tmp_path: Path, folder: int) -> None:
    plan = wanted(1, 3, 8)
    crops = np.zeros((3, 8, 8, 3), np.uint8)
    cutter = Cutter(1, 1, 8, folder, ".png", *plan.arrays)
    faces, _ = cutter.finish(0, 0, crops, b"", b"n" * 250, None)
    assert faces["error"].tolist() == [errno.ENAMETOOLONG] * 3
    faces, _ = cutter.finish(0, 0, crops, b"", b"n" * 2000, None)
    assert faces["error"].tolist() == [errno.ENAMETOOLONG] * 3
    assert list((tmp_path / "faces").iterdir()) == []
    assert faces["one_colour"].all()


def test_an_error_of_the_folder_ends_a_frame(tmp_path: Path, folder: int) -> None:
    plan = wanted(1, 3, 8)
    cutter = Cutter(1, 1, 8, folder, ".png", *plan.arrays)
    faces, _ = cutter.finish(0, 0, np.zeros((3, 8, 8, 3), np.uint8), b"missing/", b"f", None)
    assert faces["error"].tolist() == [errno.ENOENT, errno.ECANCELED, errno.ECANCELED]


def test_an_error_of_the_folder_ends_all_threads(tmp_path: Path, folder: int) -> None:
    plan = wanted(50, 1, 8)
    cutter = Cutter(2, 2, 8, folder, ".png", *plan.arrays)
    (tmp_path / "faces").rmdir()
    for i in range(50):
        while not cutter.submit(i, picture(i), b"", b"f", None, 0.2):
            pass
    cutter.close()
    errors = [int(error) for one in all_done(cutter) for error in one.faces["error"]]
    assert len(errors) == 50
    assert errno.ENOENT in errors[:2]
    assert errors.count(errno.ECANCELED) > 20


def test_a_file_that_cannot_grow_leaves_none(tmp_path: Path, folder: int) -> None:
    plan = wanted(1, 2, 64)
    crops = np.random.default_rng(2).integers(0, 256, (2, 64, 64, 3), np.uint8)
    cutter = Cutter(1, 1, 64, folder, ".png", *plan.arrays)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        faces, _ = cutter.finish(0, 0, crops, b"", b"f", None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert faces["error"].tolist() == [errno.EFBIG, errno.ECANCELED]
    assert list((tmp_path / "faces").iterdir()) == []


def test_pictures_are_kept_as_long_as_they_are_needed_and_no_longer(folder: int) -> None:
    """By the buffers that are exported: an array that has any cannot be resized."""
    plan = wanted(30, 1, 8)
    cutter = Cutter(1, 1, 8, folder, ".png", *plan.arrays)
    kept: list[bytearray] = []
    for i in range(30):
        planes = picture(i)
        y = bytearray(planes.y.tobytes())
        kept.append(y)
        planes = planes._replace(y=y)
        while not cutter.submit(i, planes, b"", b"f%d" % i, None, 0.2):
            pass
        held = sum(map(_is_exported, kept))
        assert held <= 4  # one waits, one is cut, one is done, one was just given
    cutter.close()
    all_done(cutter)
    assert not any(map(_is_exported, kept))


def _is_exported(array: bytearray) -> bool:
    try:
        array.append(0)
    except BufferError:
        return True
    array.pop()
    return False


def test_submit_waits_for_room_only_as_long_as_it_is_told(folder: int) -> None:
    plan = wanted(20, 1, 8)
    cutter = Cutter(2, 2, 8, folder, ".png", *plan.arrays)
    # The second thread joins in only when more than two wait, and the first is kept busy by a fifo that nobody reads.
    os.mkfifo(f"/proc/self/fd/{folder}/.part-stuck_0.png")
    assert cutter.submit(0, picture(0), b"", b"stuck", None, 0.1)
    deadline = time.monotonic() + 10
    i = 1
    while time.monotonic() < deadline and cutter.submit(i, picture(i), b"", b"stuck", None, 0.1):
        i += 1
    began = time.monotonic()
    assert not cutter.submit(i, picture(i), b"", b"f", None, 0.1)
    assert 0.09 < time.monotonic() - began < 5
    for _ in range(i):
        reader = os.open(f"/proc/self/fd/{folder}/.part-stuck_0.png", os.O_RDONLY | os.O_NONBLOCK)
        time.sleep(0.05)
        os.close(reader)
        if not os.path.lexists(f"/proc/self/fd/{folder}/.part-stuck_0.png"):
            break
    cutter.abandon()
    all_done(cutter)
    cutter.join()


def test_collect_returns_when_it_is_woken_or_the_time_is_over(folder: int) -> None:
    plan = wanted(2, 1, 8)
    cutter = Cutter(1, 1, 8, folder, ".png", *plan.arrays)
    began = time.monotonic()
    done = cutter.collect(1, 0.1)
    assert done is not None
    assert len(done.frames) == len(done.faces) == 0
    assert time.monotonic() - began > 0.09
    cutter.wake()
    assert cutter.collect(1, 60) is not None
    threading.Timer(0.1, cutter.wake).start()
    assert cutter.collect(1, 60) is not None
    cutter.close()
    assert cutter.collect(1, 60) is None


def test_what_is_abandoned_is_left_out(tmp_path: Path, folder: int) -> None:
    plan = wanted(8, 2, 64)
    cutter = Cutter(1, 8, 64, folder, ".png", *plan.arrays)
    cutter.abandon()
    assert not cutter.submit(0, picture(0), b"", b"f", None, 60)
    crops = np.zeros((2, 64, 64, 3), np.uint8)
    faces, _ = cutter.finish(0, 0, crops, b"", b"f", None)
    assert faces["error"].tolist() == [errno.ECANCELED] * 2
    faces, _ = cutter.cut(0, 0, 2, [(crops[0], 0, 0)], np.zeros(2, np.int64), b"", b"f", None)
    assert faces["error"].tolist() == [errno.ECANCELED] * 2
    assert list((tmp_path / "faces").iterdir()) == []


def test_nothing_is_taken_once_it_is_closed(folder: int) -> None:
    cutter = Cutter(1, 8, 64, folder, ".png", *wanted(8, 2, 64).arrays)
    cutter.close()
    with pytest.raises(ValueError, match="the cutter is closed"):
        cutter.submit(0, picture(0), b"", b"f", None, 60)


def test_dropped_without_being_closed(folder: int) -> None:
    plan = wanted(40, 2, 64)
    before = threading.active_count(), len(os.listdir("/proc/self/task"))  # noqa: PTH208
    cutter = Cutter(3, 8, 64, folder, ".png", *plan.arrays)
    for i in range(20):
        assert cutter.submit(i, picture(i), b"", b"f%d" % i, None, 5)
    del cutter
    assert (threading.active_count(), len(os.listdir("/proc/self/task"))) == before  # noqa: PTH208


def test_descriptors_of_closed_standard_streams_are_left_alone(tmp_path: Path) -> None:
    """Else a library's warning would be written into a face."""
    program = f"""if True:
        import os, threading
        import numpy as np
        from gpu_extract.kernels.cutter import Cutter
        folder, fifo = {os.fspath(tmp_path)!r}, {os.fspath(tmp_path / ".part-f_0.png")!r}
        plan = [np.zeros((1, 2, 3)), np.zeros(1, bool), np.zeros((1, 4), np.int64), np.zeros(1, np.int32)]
        cutter = Cutter(1, 1, 256, os.open(folder, os.O_RDONLY), ".png", *plan, np.array([0, 1]))
        os.mkfifo(fifo)
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        crops = np.frombuffer(os.urandom(3 << 16), np.uint8).reshape(1, 256, 256, 3)  # more than a pipe holds
        os.close(0), os.close(2)
        thread = threading.Thread(target=cutter.finish, args=(0, 0, crops, b"", b"f", None))
        thread.start()
        while not (found := {{n for n in range(64) if os.path.realpath(f"/proc/self/fd/{{n}}") == fifo}} - {{reader}}):
            pass
        os.write(1, str(*found).encode())
        os.set_blocking(reader, True)
        while os.read(reader, 1 << 16):
            pass
        thread.join()
        """
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert found.returncode == 0
    assert int(found.stdout) > 2


def _cutter(folder: int, **changed: Any) -> Cutter:
    plan = wanted(2, 2, 8)
    given: dict[str, Any] = {
        "threads": 1,
        "per_thread": 1,
        "size": 8,
        "folder": folder,
        "extension": ".png",
        "crop_from_frame": plan.crop_from_frame,
        "cubic": plan.cubic,
        "region": plan.region,
        "index": plan.index,
        "starts": plan.starts,
    }
    return Cutter(**given | changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"threads": 0},
        {"per_thread": 0},
        {"size": 0},
        {"size": 1 << 16},
        {"extension": "." + "x" * 20},
        {"crop_from_frame": np.zeros((3, 2, 3))},
        {"crop_from_frame": np.zeros((4, 2, 3), np.float32)},
        {"cubic": np.zeros(4, np.int32)},
        {"region": np.zeros((4, 4), np.int32)},
        {"index": np.zeros(4, np.int64)},
        {"starts": np.array([0, 2, 5])},
        {"starts": np.array([0, 3, 2])},
        {"starts": np.array([-1, 2, 4])},
        {"starts": np.zeros(0, np.int64)},
    ],
    ids=str,
)
def test_plans_that_cannot_be(changed: dict[str, Any], folder: int) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        _cutter(folder, **changed)


def test_arrays_that_are_not_in_one_piece(folder: int) -> None:
    with pytest.raises((ValueError, BufferError)):
        _cutter(folder, region=np.zeros((4, 8), np.int64)[:, ::2])


def test_pictures_that_cannot_be(folder: int) -> None:
    cutter = _cutter(folder)
    good = picture(0)
    for planes in (
        good._replace(height=HEIGHT + 2),
        good._replace(width=WIDTH + 8),
        good._replace(width=WIDTH - 1),
        good._replace(height=0),
        good._replace(strides=(WIDTH - 2, 0, 0)),
        good._replace(strides=(1 << 60, *good.strides[1:])),
        good._replace(strides=(-WIDTH, *good.strides[1:])),
        good._replace(v=good.v[:-1]),
        good._replace(v=b""),
        good._replace(layout=yuv.Layout(10)),
        good._replace(layout=yuv.Layout(halved=False)),
        good._replace(layout=yuv.Layout(13)),
        good._replace(layout=yuv.Layout(cubic=True)),
    ):
        with pytest.raises(ValueError):  # noqa: PT011
            cutter.submit(0, planes, b"", b"f", None, 0.1)
    for frame in (-1, 2):
        with pytest.raises(ValueError, match=f"frame {frame} is none of 2"):
            cutter.submit(frame, good, b"", b"f", None, 0.1)
    with pytest.raises(ValueError, match="texts must be a tuple, one for each face"):
        cutter.submit(0, good, b"", b"f", [b""], 0.1)
    with pytest.raises(ValueError):  # noqa: PT011
        cutter.submit(0, good, b"", b"f\0", None, 0.1)
    with pytest.raises(TypeError):
        cutter.submit(0, good, b"", b"f", ["text", None], 0.1)  # type: ignore[list-item]
    cutter.close()
    assert all_done(cutter) == []


def test_patches_and_crops_that_cannot_be(folder: int) -> None:
    cutter = _cutter(folder)
    pixels, of = np.zeros((9, 9, 3), np.uint8), np.zeros(2, np.int64)
    for patch in ((pixels[:, :, 0], 0, 0), (pixels[:, ::-1], 0, 0), (pixels, -1, 0), (pixels.astype(np.int8), 0, 0)):
        with pytest.raises(ValueError):  # noqa: PT011
            cutter.cut(0, 0, 2, [patch], of, b"", b"f", None)
    for patch_of in (of[:1], of + 1, of - 1, of.astype(np.int32)):
        with pytest.raises(ValueError):  # noqa: PT011
            cutter.cut(0, 0, 2, [(pixels, 0, 0)], patch_of, b"", b"f", None)
    for first, count in ((0, 3), (1, 2), (-1, 1)):
        with pytest.raises(ValueError, match="are none of frame 0, which has 2"):
            cutter.cut(0, first, count, [(pixels, 0, 0)], np.zeros(count, np.int64), b"", b"f", None)
    for crops in (np.zeros((1, 8, 9, 3), np.uint8), np.zeros((1, 8, 8, 3), np.int8), np.zeros((8, 8, 3), np.uint8)):
        with pytest.raises(ValueError):  # noqa: PT011
            cutter.finish(0, 0, crops, b"", b"f", None)


def test_records_are_those_of_c() -> None:
    assert FACE.itemsize == 40
