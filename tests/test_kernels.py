"""The integer tables, the NumPy reference and the C sampler: OpenCV's bytes, and nothing read outside a buffer."""

from __future__ import annotations

import ctypes
import json
import mmap
import threading
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest

from gpu_extract.kernels import cpu, reference, tables
from tests.helpers import turned

EXTENSION: Any = vars(cpu)["_sampler"]  # None where it was not built
needs_sampler = pytest.mark.skipif(not cpu.is_available(), reason="the C sampler was not built here")


class Case(NamedTuple):
    frame: np.ndarray  # [H, W, 3] uint8
    matrix: np.ndarray  # crop_from_frame [2, 3]
    cubic: bool
    size: int


def random_case(rng: np.random.Generator) -> Case:
    """Noise or a smooth image, any rotation, scales 0.15 - 4, centres up to 50 px outside, down to 1 × 1 frames."""
    height, width = (int(v) for v in rng.choice([1, 2, 3, 4, 5, 17, 46, 91, 120], 2))
    frame: np.ndarray = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if rng.random() < 0.3:
        frame = cv2.GaussianBlur(frame, (0, 0), 3)
    size = int(rng.integers(1, 73))
    angle, scale = rng.uniform(0, 2 * np.pi), np.exp(rng.uniform(np.log(0.15), np.log(4)))
    if rng.random() < 0.2:
        angle = rng.integers(0, 4) * np.pi / 2
    centre = rng.uniform((-50, -50), (width + 50, height + 50))
    return Case(frame, turned(scale, angle, centre, size), bool(rng.random() < 0.6), size)


def opencv(case: Case) -> np.ndarray:
    flags = cv2.INTER_CUBIC if case.cubic else cv2.INTER_AREA
    return cv2.warpAffine(case.frame, case.matrix, (case.size, case.size), flags=flags)


def cut(
    sampler: ModuleType, case: Case, source: np.ndarray | None = None, origin: tuple[int, int] = (0, 0)
) -> np.ndarray:
    source = case.frame if source is None else source
    crop: np.ndarray = sampler.warp_affine([source], [0], case.matrix[None], [case.cubic], case.size, [origin])[0]
    return crop


def portable(case: Case, source: np.ndarray, origin: tuple[int, int] = (0, 0)) -> np.ndarray:
    out = np.empty((case.size, case.size, 3), np.uint8)
    table = tables.coordinate_tables(case.matrix[None], case.size)[0]
    EXTENSION.warp(source, *origin, table, tables.weights(case.cubic), out, True)
    return out


CASES = [random_case(np.random.default_rng([8, seed])) for seed in range(400)]
WILD = [
    Case(CASES[0].frame if CASES[0].frame.size > 300 else np.full((33, 47, 3), 200, np.uint8), matrix, cubic, 31)
    for cubic in (True, False)
    for value in (np.nan, np.inf, -np.inf, 1e300, -1e9, 1e9, 7e4, 1e-9, 1e-300, 0.0)
    for place in range(6)
    for matrix in [np.where(np.arange(6).reshape(2, 3) == place, value, [[1.1, 0.2, 3.0], [-0.2, 1.1, 5.0]])]
]


@pytest.mark.parametrize("cubic", [True, False])
def test_weights_sum_to_one_and_hit_whole_pixels(cubic: bool) -> None:
    weights = tables.weights(cubic)
    k = 4 if cubic else 2
    assert weights.shape == (1024, k, k)
    assert weights.dtype == np.int16
    assert (weights.astype(int).sum(axis=(1, 2)) == 32768).all()
    assert weights[0, k // 2 - 1, k // 2 - 1] == 32767
    assert not weights.flags.writeable


def test_half_pixel_linear_weights_are_quarters() -> None:
    assert (tables.weights(False)[16 * 32 + 16] == 8192).all()


def test_inverse_undoes_the_matrix() -> None:
    matrix = np.array([[[1.5, -0.4, 20.0], [0.3, 1.2, -7.0]], [[0.0, 0.0, 5.0], [0.0, 0.0, 6.0]]])
    x, y = matrix[0] @ (31.0, 17.0, 1.0)
    assert tables.invert(matrix)[0] @ (x, y, 1.0) == pytest.approx((31, 17))
    assert (tables.invert(matrix)[1] == 0).all()


def test_coordinate_tables_hold_columns_then_rows() -> None:
    shift_and_double = np.array([[[2.0, 0.0, -6.0], [0.0, 2.0, -10.0]]])  # frame pixel (3, 5) is crop pixel (0, 0)
    dx, dy, X0, Y0 = tables.coordinate_tables(shift_and_double, 3)[0]
    assert dx.tolist() == [0, 512, 1024]
    assert dy.tolist() == [0, 0, 0]
    assert X0.tolist() == [3 * 1024 + 16] * 3
    assert Y0.tolist() == [5 * 1024 + 16, 5 * 1024 + 528, 6 * 1024 + 16]


def test_an_entry_that_int32_cannot_hold_is_its_minimum() -> None:
    table = tables.coordinate_tables(np.array([[[1e-9, 0, 0], [0, 1.0, 0]]]), 4)[0]
    assert table[0].tolist() == [0, -(2**31), -(2**31), -(2**31)]


@pytest.mark.parametrize("first", range(0, len(CASES), 100))
def test_reference_equals_opencv(first: int) -> None:
    for case in CASES[first : first + 100]:
        np.testing.assert_array_equal(cut(reference, case), opencv(case))


def test_reference_equals_opencv_on_matrices_out_of_range() -> None:
    for case in WILD:
        np.testing.assert_array_equal(cut(reference, case), opencv(case))


def test_reference_takes_each_crop_from_its_own_source() -> None:
    rng = np.random.default_rng(3)
    sources = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((30, 50), (1, 1), (17, 9))]
    matrices = np.stack([case.matrix for case in CASES[:6]])
    order, cubic = [2, 0, 1, 0, 2, 2], [True, False, True, True, False, True]
    crops = reference.warp_affine(sources, order, matrices, cubic, 21)
    for crop, source, matrix, is_cubic in zip(crops, order, matrices, cubic, strict=True):
        np.testing.assert_array_equal(crop, opencv(Case(sources[source], matrix, is_cubic, 21)))


def taps_of(case: Case) -> tuple[int, int, int, int]:
    """The region by brute force over all pixels."""
    dx, dy, X0, Y0 = tables.coordinate_tables(case.matrix[None], case.size)[0]
    sx = np.clip((X0[:, None] + dx) >> 10, -(1 << 15), (1 << 15) - 1)
    sy = np.clip((Y0[:, None] + dy) >> 10, -(1 << 15), (1 << 15) - 1)
    before, after = (1, 3) if case.cubic else (0, 2)
    return sx.min() - before, sy.min() - before, sx.max() + after, sy.max() + after


def test_source_region_is_exact() -> None:
    for case in CASES:
        region = tables.source_region(case.matrix[None], np.array([case.cubic]), case.size)
        assert region.dtype == np.int64
        assert tuple(region[0]) == taps_of(case)


def test_source_region_of_matrices_out_of_range_holds_every_tap() -> None:
    everywhere = 0
    for case in WILD:
        x0, y0, x1, y1 = tables.source_region(case.matrix[None], np.array([case.cubic]), case.size)[0]
        left, top, right, bottom = taps_of(case)
        assert (x0 <= left, y0 <= top, x1 >= right, y1 >= bottom) == (True,) * 4
        everywhere += (x0, y0, x1, y1) == tables.EVERYWHERE
    assert 0 < everywhere < len(WILD)


def piece_of(case: Case, slack: int) -> tuple[np.ndarray, tuple[int, int]]:
    """The part of the frame that the crop touches, copied into a buffer with other numbers around it."""
    height, width = case.frame.shape[:2]
    region = tables.source_region(case.matrix[None], np.array([case.cubic]), case.size)[0]
    x0, y0 = np.clip(region[:2] - slack, 0, [width - 1, height - 1])
    x1, y1 = np.clip(region[2:] + slack, [x0 + 1, y0 + 1], [width, height])
    around = np.full((y1 - y0 + 8, x1 - x0 + 8, 3), 137, np.uint8)
    piece = around[4:-4, 4:-4]
    piece[:] = case.frame[y0:y1, x0:x1]
    return piece, (int(x0), int(y0))


@pytest.mark.parametrize("slack", [0, 1, 5])
def test_reference_needs_no_more_than_the_region(slack: int) -> None:
    for case in CASES[:60]:
        piece, origin = piece_of(case, slack)
        np.testing.assert_array_equal(cut(reference, case, piece, origin), opencv(case))


@needs_sampler
def test_sampler_equals_opencv() -> None:
    for case in CASES:
        expected = opencv(case)
        np.testing.assert_array_equal(cut(cpu, case), expected)
        np.testing.assert_array_equal(portable(case, case.frame), expected)


@needs_sampler
def test_sampler_equals_opencv_on_matrices_out_of_range() -> None:
    for case in WILD:
        expected = opencv(case)
        np.testing.assert_array_equal(cut(cpu, case), expected)
        np.testing.assert_array_equal(portable(case, case.frame), expected)


@needs_sampler
@pytest.mark.parametrize("cubic", [True, False])
def test_sampler_cuts_every_size_around_a_strip(cubic: bool) -> None:
    """Strips are 64 columns of blocks of 8; the last block of a row overlaps the one before it."""
    rng = np.random.default_rng(9)
    frame = rng.integers(0, 256, (90, 110, 3), dtype=np.uint8)
    for size in [*range(1, 18), *range(62, 74), *range(126, 138), 200]:
        for centre in ((55.3, 44.8), (3.1, 88.2)):  # inside, over two borders
            case = Case(frame, turned(size / 60, rng.uniform(-3, 3), centre, size), cubic, size)
            expected = opencv(case)
            np.testing.assert_array_equal(cut(cpu, case), expected)
            np.testing.assert_array_equal(portable(case, frame), expected)


@needs_sampler
@pytest.mark.parametrize("slack", [0, 1, 5])
def test_sampler_reads_pieces_with_strided_rows(slack: int) -> None:
    for case in CASES:
        piece, origin = piece_of(case, slack)
        expected = opencv(case)
        np.testing.assert_array_equal(cut(cpu, case, piece, origin), expected)
        np.testing.assert_array_equal(portable(case, piece, origin), expected)


@needs_sampler
def test_sampler_saturates_positions_as_int16() -> None:
    frame = np.random.default_rng(5).integers(0, 256, (3, 9, 3), dtype=np.uint8)
    for x0 in (32762, 32767, 40000):
        case = Case(frame, np.array([[1.0, 0, -32755.0], [0, 1.0, 0]]), True, 20)
        np.testing.assert_array_equal(cut(cpu, case, frame, (x0, 0)), cut(reference, case, frame, (x0, 0)))


@needs_sampler
def test_sampler_takes_any_layout_of_pixels() -> None:
    case = next(case for case in CASES if case.frame.shape[0] > 40 and case.frame.shape[1] > 40)
    expected = opencv(case)
    for frame in (case.frame[::-1][::-1], np.asfortranarray(case.frame), np.flip(np.flip(case.frame, 2).copy(), 2)):
        np.testing.assert_array_equal(cut(cpu, Case(frame, *case[1:])), expected)


@needs_sampler
@pytest.mark.parametrize("prefill", [0x00, 0xFF])
def test_sampler_writes_every_byte_of_out_and_no_other(prefill: int) -> None:
    for case in CASES[:100]:
        around = np.full((3, case.size, case.size, 3), prefill, np.uint8)
        out = around[1:2]
        assert cpu.warp_affine([case.frame], [0], case.matrix[None], [case.cubic], case.size, out=out) is out
        np.testing.assert_array_equal(out[0], opencv(case))
        assert (around[0] == prefill).all()
        assert (around[2] == prefill).all()


class Guarded:
    """Memory whose byte after the last and page before the first cannot be read: a stray load ends the process."""

    def __init__(self, n_bytes: int) -> None:
        self.page = mmap.PAGESIZE
        pages = -(-n_bytes // self.page) + 2
        self.map = mmap.mmap(-1, pages * self.page)
        self.bytes = np.frombuffer(self.map, np.uint8)
        for offset in (0, (pages - 1) * self.page):
            assert self.protect(offset, 0) == 0
        self.readable = self.bytes[self.page : (pages - 1) * self.page]
        self.pages = pages

    def protect(self, offset: int, mode: int) -> int:
        libc = ctypes.CDLL(None, use_errno=True)
        address = ctypes.c_void_p(self.bytes.ctypes.data + offset)
        return int(libc.mprotect(address, ctypes.c_size_t(self.page), mode))

    def close(self) -> None:
        for offset in (0, (self.pages - 1) * self.page):
            self.protect(offset, mmap.PROT_READ | mmap.PROT_WRITE)
        del self.readable, self.bytes
        self.map.close()


@needs_sampler
@pytest.mark.parametrize("at_end", [True, False], ids=["ends-at-guard", "starts-at-guard"])
def test_sampler_reads_nothing_outside_the_source(at_end: bool) -> None:
    """Random crops, and enlarged ones of which eight neighbouring pixels touch the very corners with their taps."""
    frame = np.random.default_rng(2).integers(0, 256, (24, 31, 3), dtype=np.uint8)
    corners = [
        Case(frame, np.array([[8.0, 0, -8.0 * x], [0, 8.0, -8.0 * y]]), cubic, 64)
        for cubic in (True, False)
        for x in (*range(-1, 3), *range(31 - 12, 31 - 6))
        for y in (*range(-1, 3), *range(24 - 12, 24 - 6))
    ]
    memory = Guarded(130 * 130 * 3)
    for case in CASES[:200] + corners:
        n = case.frame.size
        place = memory.readable[-n:] if at_end else memory.readable[:n]
        place[:] = case.frame.reshape(-1)
        source = place.reshape(case.frame.shape)
        np.testing.assert_array_equal(cut(cpu, case, source), opencv(case))
        np.testing.assert_array_equal(portable(case, source), opencv(case))
        del place, source
    memory.close()


@needs_sampler
def test_sampler_is_correct_from_many_threads() -> None:
    case = Case(np.random.default_rng(1).integers(0, 256, (300, 400, 3), dtype=np.uint8), CASES[1].matrix, True, 200)
    expected, wrong = opencv(case), []

    def work() -> None:
        for _ in range(10):
            if not np.array_equal(cut(cpu, case), expected):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@needs_sampler
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": np.zeros((4, 4, 4), np.uint8)}, "source must be"),
        ({"source": np.zeros((4, 4, 3), np.int8)}, "source must be"),
        ({"source": np.zeros((4, 4, 3), np.uint8)[::-1]}, "source must be"),
        ({"source": np.zeros((4, 4, 3), np.uint8)[:, ::2]}, "source must be"),
        ({"x0": -1}, "origin must lie"),
        ({"table": np.zeros((4, 5), np.int64)}, "table must be"),
        ({"table": np.zeros((3, 5), np.int32)}, "table must be"),
        ({"table": np.zeros((4, 0), np.int32)}, "table must be"),
        ({"weights": np.zeros((1024, 3, 3), np.int16)}, "weights must be"),
        ({"weights": np.zeros((1023, 4, 4), np.int16)}, "weights must be"),
        ({"out": np.zeros((5, 6, 3), np.uint8)}, r"out must be \[5, 5, 3\]"),
    ],
)
def test_sampler_refuses_arrays_of_another_shape(change: dict[str, Any], message: str) -> None:
    arguments = {
        "source": np.zeros((4, 4, 3), np.uint8),
        "x0": 0,
        "y0": 0,
        "table": np.zeros((4, 5), np.int32),
        "weights": tables.weights(True),
        "out": np.zeros((5, 5, 3), np.uint8),
    } | change
    with pytest.raises(ValueError, match=message):
        EXTENSION.warp(*arguments.values())


@needs_sampler
def test_sampler_refuses_to_write_into_read_only_memory() -> None:
    out = np.zeros((5, 5, 3), np.uint8)
    out.flags.writeable = False
    with pytest.raises((ValueError, BufferError)):
        EXTENSION.warp(np.zeros((4, 4, 3), np.uint8), 0, 0, np.zeros((4, 5), np.int32), tables.weights(True), out)


@needs_sampler
def test_variant_names_the_code_that_runs() -> None:
    assert cpu.variant() in ("avx2", "scalar")


def test_a_missing_extension_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_sampler", None)
    assert not cpu.is_available()
    assert cpu.variant() == "none"
    with pytest.raises(RuntimeError, match="C compiler"):
        cut(cpu, CASES[0])


def test_readme_table_is_the_measured_one() -> None:
    root = Path(__file__).parent.parent
    readme = (root / "kernels" / "README.md").read_text()
    result = json.loads((root / "bench" / "results" / "warp.json").read_text())
    assert result["metadata"]["commit"] in readme
    for row in result["cpu"]:
        turned = "turned" if row["turned"] else "upright"
        us, ratio = row["us_per_crop"], row["times_opencv"]
        line = f"| {row['size']} px | {row['interpolation']} | {turned} | {us['opencv']:.0f} µs | **{us['c']:.0f} µs** "
        assert f"{line}| {ratio['c']:.1f} × |" in readme
