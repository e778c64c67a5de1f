"""The Triton kernel: in Triton's interpreter and through its compiler without a GPU, compiled and run with one."""

from __future__ import annotations

import ctypes
import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

from gpu_extract import kernels
from gpu_extract.kernels import reference, tables
from gpu_extract.kernels.slab import fill, lies_inside, slab_layout
from tests.helpers import made_once, module_from, turned

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")

BENCH = Path(__file__).resolve().parent.parent / "bench"
RECORDED = BENCH / "results" / "kernel_instructions.json"
OTHER_VERSIONS_REGISTERS = 8  # that another version of Triton may take more than the recorded one
CROPS = int(os.environ.get("CROPS", "25"))
CROPS_A_CASE = 25 if CROPS <= 25 else 50
SOURCE = Path(kernels.__file__).with_name("warp_affine.py")


@pytest.fixture(scope="module")
def interpreted() -> ModuleType:
    """A second copy of the module, imported so that its kernel runs in Triton's interpreter on CPU tensors."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        return module_from(SOURCE, "warp_affine_interpreted")


@pytest.fixture(scope="module")
def compiled() -> ModuleType:
    from gpu_extract.kernels import warp_affine

    return warp_affine


@pytest.fixture(scope="module")
def instructions() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCH))
        return module_from(BENCH / "kernel_instructions.py")


def random_crops(
    seed: int, K: int, size: int, sizes: list[tuple[int, int]]
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, np.ndarray, int]:
    """Arguments of warp_affine: K crops of frames of noise, turned, scaled 0.15 - 4, partly and wholly outside."""
    rng = np.random.default_rng(seed)
    frames = [rng.integers(1, 256, (h, w, 3), dtype=np.uint8) for h, w in sizes]
    frame_of = rng.integers(0, len(frames), K).astype(np.int32)
    matrices = np.empty((K, 2, 3))
    for matrix, frame in zip(matrices, frame_of, strict=True):
        angle, scale = rng.uniform(0, 2 * np.pi), np.exp(rng.uniform(np.log(0.15), np.log(4)))
        height, width = sizes[frame]
        matrix[:] = turned(scale, angle, rng.uniform((-8, -8), (width + 8, height + 8)), size)
    return frames, frame_of, matrices, rng.random(K) < 0.6, size


SMALL = random_crops(1, 40, 15, [(1, 1), (23, 31), (40, 17), (3, 2), (12, 64)])
LARGER_THAN_A_TILE = random_crops(5, 2, 69, [(33, 51), (20, 19)])  # more rows than one program cuts


@pytest.fixture(scope="module")
def launched(interpreted: ModuleType) -> None:
    """What the kernel reads is launched without a complaint."""
    interpreted.launch(**good_arguments())


@pytest.fixture(scope="module")
def small_crops(interpreted: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    def make(path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, interpreted.warp_affine(*SMALL, device="cpu").numpy())

    crops: np.ndarray = np.load(made_once(tmp_path_factory, "small_crops.npy", make))
    return crops


def test_kernel_equals_reference(small_crops: np.ndarray) -> None:
    np.testing.assert_array_equal(small_crops, reference.warp_affine(*SMALL))
    shares = [(crop == 0).all(axis=2).mean() for crop in small_crops]
    assert min(shares) == 0, "no crop lies wholly inside"
    assert max(shares) == 1, "no crop lies wholly outside"
    assert sum(0 < share < 1 for share in shares) > 5, "too few crops lie partly outside"


def test_kernel_equals_opencv(small_crops: np.ndarray) -> None:
    frames, frame_of, matrices, cubic, size = SMALL
    for crop, frame, matrix, is_cubic in zip(small_crops, frame_of, matrices, cubic, strict=True):
        flags = cv2.INTER_CUBIC if is_cubic else cv2.INTER_AREA
        np.testing.assert_array_equal(crop, cv2.warpAffine(frames[frame], matrix, (size, size), flags=flags))


def test_kernel_cuts_crops_larger_than_a_tile(interpreted: ModuleType) -> None:
    assert sorted(LARGER_THAN_A_TILE[3]) == [False, True]  # one linear, one cubic
    crops = interpreted.warp_affine(*LARGER_THAN_A_TILE, device="cpu").numpy()
    np.testing.assert_array_equal(crops, reference.warp_affine(*LARGER_THAN_A_TILE))


def tile_as_on_a_device(interpreted: ModuleType, monkeypatch: pytest.MonkeyPatch, multiprocessors: int) -> None:
    for name, value in (("TILE_X", 16), ("TILE_Y", 8), ("MOST_ROWS", 32)):
        monkeypatch.setattr(interpreted, name, value)
    monkeypatch.setattr(interpreted, "_multiprocessors", lambda device: multiprocessors)


@pytest.mark.parametrize("multiprocessors", [1, 1000])
def test_programs_of_few_rows_and_of_many_cut_the_same(
    interpreted: ModuleType, monkeypatch: pytest.MonkeyPatch, multiprocessors: int
) -> None:
    """With the tile of a device, so that a crop has several in both directions and ends within one."""
    tile_as_on_a_device(interpreted, monkeypatch, multiprocessors)
    case = random_crops(5, 2, 37, [(33, 51), (20, 19)])
    assert sorted(case[3]) == [False, True]
    assert interpreted.rows_of_a_program(1, 37, multiprocessors) == (32 if multiprocessors == 1 else 16)
    crops = interpreted.warp_affine(*case, device="cpu").numpy()
    np.testing.assert_array_equal(crops, reference.warp_affine(*case))


def test_a_launch_of_few_crops_has_programs_of_few_rows(compiled: ModuleType) -> None:
    h100 = 132
    assert (compiled.TILE_X, compiled.TILE_Y) == (16, 8)
    assert [compiled.rows_of_a_program(n, 256, h100) for n in (1, 4, 8, 16, 17, 64)] == [16, 16, 16, 32, 64, 64]
    assert [compiled.rows_of_a_program(1, size, h100) for size in (1, 16, 1024, 4096)] == [16, 16, 32, 64]
    assert compiled.rows_of_a_program(1, 256, 1) == 64
    for n, size, multiprocessors in product((1, 3, 40, 65532), (1, 63, 64, 65, 4096), (1, 40, 132)):
        assert compiled.rows_of_a_program(n, size, multiprocessors) % compiled.TILE_Y == 0


@pytest.mark.parametrize("seed", range(-(-CROPS // CROPS_A_CASE)))
def test_random_crops_of_every_kind_differ_in_no_byte(
    interpreted: ModuleType, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Many sources, odd sizes, both orders of channels; CROPS says how many crops, `make crops` asks for 10,000."""
    rng = np.random.default_rng([seed, 6])
    if seed % 10 == 9:  # slow
        tile_as_on_a_device(interpreted, monkeypatch, int(rng.choice([1, 1000])))
    sizes = [(int(rng.integers(1, most)), int(rng.integers(1, most))) for most in (8, 50, 400, 900, 900, 900, 900)]
    frames, frame_of, matrices, cubic, size = random_crops(100 + seed, CROPS_A_CASE, int(rng.integers(1, 40)), sizes)
    layout, _ = slab_layout(sizes)
    inside = lies_inside(tables.coordinate_tables(matrices, size), cubic, frame_of, layout)
    assert all(len(rows) for rows in interpreted.rows_of_kinds(cubic, inside).values())
    reverse = bool(seed % 2)
    crops = interpreted.warp_affine(frames, frame_of, matrices, cubic, size, device="cpu", reverse=reverse).numpy()
    expected = reference.warp_affine(frames, frame_of, matrices, cubic, size)[..., :: -1 if reverse else 1]
    assert np.count_nonzero(crops != expected) == 0, f"bytes of {crops.size} that differ"


def test_kernel_follows_wrapped_and_saturated_positions(interpreted: ModuleType) -> None:
    frame = np.random.default_rng(3).integers(0, 256, (9, 14, 3), dtype=np.uint8)
    matrices = np.array(
        [
            np.where(np.arange(6).reshape(2, 3) == place, value, [[1.1, 0.2, 3.0], [-0.2, 1.1, 5.0]])
            for place, value in ((0, 1e-9), (2, 7e4), (2, -1e9), (4, 0.0), (5, np.nan), (1, np.inf))
        ]
    )
    case = ([frame], [0] * 6, matrices, [True, False] * 3, 11)
    np.testing.assert_array_equal(interpreted.warp_affine(*case, device="cpu").numpy(), reference.warp_affine(*case))


@pytest.mark.parametrize("cubic", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_kernel_reads_pieces_and_nothing_around_them(interpreted: ModuleType, cubic: bool) -> None:
    """Each crop from the piece that it touches; what lies around the slab, and in it, would change the crops."""
    frames, frame_of, matrices, _, size = SMALL
    chosen = np.flatnonzero(np.array([frame.size > 9 for frame in frames])[frame_of])[:8]
    pieces, origins = [], []
    for region, frame in zip(
        tables.source_region(matrices[chosen], np.full(len(chosen), cubic), size), frame_of[chosen], strict=True
    ):
        height, width = frames[frame].shape[:2]
        x0, y0 = np.clip(region[:2], 0, [width - 1, height - 1])
        x1, y1 = np.clip(region[2:], [x0 + 1, y0 + 1], [width, height])
        pieces.append(frames[frame][y0:y1, x0:x1])
        origins.append((int(x0), int(y0)))
    layout, n_bytes = interpreted.slab_layout([piece.shape[:2] for piece in pieces], origins)
    around = np.full(n_bytes + 256, 0xEE, np.uint8)
    slab = around[128:-128]
    for place, piece in zip(layout, pieces, strict=True):
        interpreted.fill(slab, place, piece)
    expected = reference.warp_affine(frames, frame_of[chosen], matrices[chosen], [cubic] * len(chosen), size)
    for prefill in (0x00, 0xFF):
        crops = torch.full((len(chosen), size, size, 3), prefill, dtype=torch.uint8)
        interpreted.launch(
            torch.from_numpy(slab),
            torch.from_numpy(layout),
            torch.arange(len(chosen), dtype=torch.int32),
            torch.from_numpy(tables.coordinate_tables(matrices[chosen], size)),
            torch.arange(len(chosen), dtype=torch.int32),
            cubic,
            False,
            crops,
        )
        np.testing.assert_array_equal(crops.numpy(), expected)


def test_kernel_writes_only_the_crops_it_was_asked_for(interpreted: ModuleType) -> None:
    frames, frame_of, matrices, cubic, size = SMALL
    rows = np.flatnonzero(cubic)[:3].astype(np.int32)
    layout, n_bytes = interpreted.slab_layout([frame.shape[:2] for frame in frames])
    slab = np.empty(n_bytes, np.uint8)
    for place, frame in zip(layout, frames, strict=True):
        interpreted.fill(slab, place, frame)
    crops = torch.full((len(matrices), size, size, 3), 0xA5, dtype=torch.uint8)
    arrays = (slab, layout, frame_of, tables.coordinate_tables(matrices, size), rows)
    interpreted.launch(*(torch.from_numpy(array) for array in arrays), True, False, crops)
    expected = np.full(crops.shape, 0xA5, np.uint8)
    expected[rows] = reference.warp_affine(frames, frame_of[rows], matrices[rows], cubic[rows], size)
    np.testing.assert_array_equal(crops.numpy(), expected)


def test_crops_inside_their_source_are_told_from_others() -> None:
    frames, frame_of, matrices, cubic, size = random_crops(5, 300, 15, [(30, 41), (200, 333), (250, 102), (70, 67)])
    layout, _ = slab_layout([frame.shape[:2] for frame in frames])
    table = tables.coordinate_tables(matrices, size)
    found = lies_inside(table, cubic, frame_of, layout)
    for k, frame in enumerate(frame_of):
        height, width = frames[frame].shape[:2]
        width = layout[frame, 2] * 4 // 3  # what pads a row is zero, as what lies outside
        x, y = ((table[k, i + 2].astype(int)[:, None] + table[k, i][None, :]) >> 10 for i in (0, 1))
        taps = np.arange(-1, 3) if cubic[k] else np.arange(2)
        touched = [(axis[..., None] + taps, length) for axis, length in ((x, width), (y, height))]
        assert found[k] == all((where >= 0).all() and (where < length).all() for where, length in touched)
    assert 50 < found.sum() < 250


@pytest.mark.parametrize("cubic", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_crops_that_reach_to_every_border_but_not_over_it(interpreted: ModuleType, cubic: bool) -> None:
    """Rows of every length modulo a word; the spare word at the end of the slab counts for nothing."""
    sizes = (13, 14, 15, 16)
    before, after = (1, 2) if cubic else (0, 1)
    rng = np.random.default_rng(6)
    for size in sizes:
        side = size + before + after
        frame = rng.integers(1, 256, (side, side, 3), dtype=np.uint8)
        matrices = np.array([[[1.0, 0, -before], [0, 1, -before]]])
        layout, n_bytes = slab_layout([frame.shape[:2]])
        slab = np.full(n_bytes, 0xEE, np.uint8)
        fill(slab, layout[0], frame)
        table = tables.coordinate_tables(matrices, size)
        assert lies_inside(table, np.array([cubic]), np.zeros(1, int), layout).all()
        for inside in (True, False):
            crops = torch.empty((1, size, size, 3), dtype=torch.uint8)
            arrays = (slab, layout, np.zeros(1, np.int32), table, np.zeros(1, np.int32))
            interpreted.launch(*(torch.from_numpy(array) for array in arrays), cubic, inside, crops)
            np.testing.assert_array_equal(crops.numpy(), reference.warp_affine([frame], [0], matrices, [cubic], size))


def test_positions_that_wrap_or_stick_are_not_inside() -> None:
    frame = (40, 50)
    layout, _ = slab_layout([frame], [(3, 2)])
    inside = np.array([[1.0, 0, -10], [0, 1, -10]])
    shifts = [0, 40 + 2**22, 70000, np.nan, np.inf, -1e300]
    matrices = np.array([inside - [[0, 0, shift], [0, 0, 0]] for shift in shifts])
    found = lies_inside(tables.coordinate_tables(matrices, 16), np.ones(6, bool), np.zeros(6, int), layout)
    assert found.tolist() == [True] + [False] * 5
    wide, _ = slab_layout([(40, 40000)])
    sticking = tables.coordinate_tables(inside[None] - [[0, 0, 32760], [0, 0, 0]], 16)
    assert not lies_inside(sticking, np.ones(1, bool), np.zeros(1, int), wide).any()


def test_crops_are_told_apart_by_kind(interpreted: ModuleType) -> None:
    cubic, inside = np.array([True, False, True, True, False]), np.array([True, True, False, True, True])
    kinds = interpreted.rows_of_kinds(cubic, inside)
    assert {kind: rows.tolist() for kind, rows in kinds.items()} == {
        (True, True): [0, 3],
        (True, False): [2],
        (False, True): [1, 4],
        (False, False): [],
    }
    for kind, rows in kinds.items():
        assert rows.dtype == np.int32
        assert [type(value) for value in kind] == [bool, bool], "another type would compile the kernel once more"


def test_the_check_case_has_every_kind_of_crop(interpreted: ModuleType) -> None:
    (frame,), source_of, matrices, cubic, size = interpreted.check_case()
    layout, _ = slab_layout([frame.shape[:2]])
    found = lies_inside(tables.coordinate_tables(matrices, size), cubic, source_of, layout)
    assert sorted(zip(cubic.tolist(), found.tolist(), strict=True)) == [(c, f) for c in (0, 1) for f in (0, 1)]
    crops = reference.warp_affine(*interpreted.check_case())
    assert ((crops == 0).all(axis=3).mean(axis=(1, 2)) < 0.7).all(), "a crop that is mostly black checks little"


def bytes_of(word: np.ndarray) -> np.ndarray:
    """uint32 [...] -> its bytes from the low one on, int64 [..., 4]."""
    return (word.astype(np.uint32)[..., None] >> np.arange(0, 32, 8, dtype=np.uint32)).astype(np.int64) & 255


def word_of(values: np.ndarray) -> np.ndarray:
    word: np.ndarray = (values.astype(np.uint32) << np.arange(0, 32, 8, dtype=np.uint32)).sum(axis=-1, dtype=np.uint32)
    return word


def permuted(low: np.ndarray, high: np.ndarray, order: np.ndarray) -> np.ndarray:
    pair = np.concatenate(np.broadcast_arrays(bytes_of(low), bytes_of(high)), axis=-1)
    return word_of(np.take_along_axis(pair, order, axis=-1))


def run_assembly(text: str, values: list[np.ndarray]) -> list[np.ndarray]:
    """The PTX instructions of the kernel, as the PTX manual describes them, on arrays of registers."""
    name, _, operands = text.partition(" ")
    if name == "ld.global.nc.v4.b32":
        assert operands == "{$0, $1, $2, $3}, [$4];"
        (address,) = (value.astype(np.uint64) for value in values)
        assert (address % 16 == 0).all(), "a load of 16 bytes from an address that is no multiple of 16"
        words = [np.array([ctypes.c_int32.from_address(int(at) + 4 * i).value for at in address.flat], np.int32)
                 for i in range(4)]  # fmt: skip
        return [word.reshape(address.shape) for word in words]
    if name == "cvt.pack.sat.u8.s32.b32":
        assert operands == "$0, $1, $2, 0;"
        high, low = (np.clip(value.astype(np.int64), 0, 255) for value in values)
        return [word_of(np.stack([low, high, 0 * low, 0 * low], axis=-1))]
    assert operands == "$0, $1, $2, $3;"
    low, high, last = values
    if name == "prmt.b32.f4e":
        return [permuted(low, high, (last.astype(np.int64) & 3)[..., None] + np.arange(4))]
    if name == "prmt.b32":
        order = (last.astype(np.int64)[..., None] >> np.arange(0, 16, 4)) & 15
        assert (order < 8).all()  # from 8 on the sign would be copied
        return [permuted(low, high, np.broadcast_to(order, (*low.shape, 4)))]
    assert name in ("dp2a.lo.s32.u32", "dp2a.hi.s32.u32")
    weights = low.astype(np.uint32).view(np.int16).reshape(*low.shape, 2).astype(np.int64)
    taps = bytes_of(high)[..., 2:] if name == "dp2a.hi.s32.u32" else bytes_of(high)[..., :2]
    return [(last.astype(np.int64) + (weights * taps).sum(axis=-1)).astype(np.int32)]


def test_the_assembly_of_the_compiled_kernel_equals_the_reference(
    interpreted: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interpreter has no PTX, so the instructions that only the compiled kernel uses are emulated here."""
    from triton.runtime import interpreter

    seen = set()

    def create_inline_asm(
        self: Any, text: str, constraints: str, values: list[Any], types: list[Any], is_pure: bool, pack: int
    ) -> Any:
        outputs, inputs = (constraints.split(",")[: len(types)], constraints.split(",")[len(types) :])
        assert (set(outputs), len(inputs), pack) == ({"=r"}, len(values), 1)
        seen.add(text.partition(" ")[0])
        results = run_assembly(text, [np.ascontiguousarray(value.data) for value in values])
        handles = [interpreter.TensorHandle(data, type_.scalar) for data, type_ in zip(results, types, strict=True)]
        return type("Call", (), {"get_result": lambda _, i: handles[i]})()

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_inline_asm", create_inline_asm)
    monkeypatch.setattr(interpreted, "INTERPRETED", interpreted.tl.constexpr(False))
    monkeypatch.setattr(interpreted, "is_interpreted", lambda: True)
    frames, frame_of, matrices, cubic, size = SMALL
    some = slice(0, 16)
    case = (frames, frame_of[some], matrices[some], cubic[some], size)
    crops = interpreted.warp_affine(*case, device="cpu").numpy()
    np.testing.assert_array_equal(crops, reference.warp_affine(*case))
    assert interpreted.self_check("cpu")
    assert seen == {
        "prmt.b32",
        "prmt.b32.f4e",
        "dp2a.lo.s32.u32",
        "dp2a.hi.s32.u32",
        "cvt.pack.sat.u8.s32.b32",
        "ld.global.nc.v4.b32",
    }


def test_reverse_swaps_the_channels(interpreted: ModuleType, small_crops: np.ndarray) -> None:
    frames, frame_of, matrices, cubic, size = SMALL
    some = slice(0, 6)
    crops = interpreted.warp_affine(
        frames, frame_of[some], matrices[some], cubic[some], size, device="cpu", reverse=True
    )
    np.testing.assert_array_equal(crops.numpy(), small_crops[some, :, :, ::-1])


def test_no_crops_is_no_launch(interpreted: ModuleType) -> None:
    crops = interpreted.warp_affine([], [], np.empty((0, 2, 3)), [], 16, device="cpu")
    assert crops.shape == (0, 16, 16, 3)


def test_self_check_tells_a_right_kernel_from_a_wrong_one(
    interpreted: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert interpreted.self_check("cpu") is True
    right = reference.warp_affine
    monkeypatch.setattr(reference, "warp_affine", lambda *case: right(*case) ^ np.uint8(1))
    assert interpreted.self_check("cpu") is False


def test_slab_rows_start_on_words_and_end_in_zeros(interpreted: ModuleType) -> None:
    sizes = [(3, 5), (0, 4), (2, 4), (1, 1)]
    layout, n_bytes = interpreted.slab_layout(sizes, [(7, 9), (0, 0), (1, 2), (3, 4)])
    assert layout.tolist() == [[0, 3, 4, 7, 9], [12, 0, 3, 0, 0], [12, 2, 3, 1, 2], [18, 1, 1, 3, 4]]
    assert n_bytes == 4 * 20
    slab = np.full(n_bytes, 0xEE, np.uint8)
    for place, (height, width) in zip(layout, sizes, strict=True):
        interpreted.fill(slab, place, np.full((height, width, 3), width, np.uint8))
    assert slab.tolist() == 3 * ([5] * 15 + [0]) + 2 * [4] * 12 + [1, 1, 1, 0] + [0xEE] * 4


def test_an_empty_slab_has_a_word(interpreted: ModuleType) -> None:
    layout, n_bytes = interpreted.slab_layout([])
    assert layout.shape == (0, 5)
    assert n_bytes == 4


def test_fill_refuses_pixels_of_another_size(interpreted: ModuleType) -> None:
    layout, n_bytes = interpreted.slab_layout([(3, 5)])
    for pixels in (np.zeros((3, 9, 3), np.uint8), np.zeros((2, 5, 3), np.uint8), np.zeros((3, 5, 3), np.int8)):
        with pytest.raises(ValueError, match="pixels must be"):
            interpreted.fill(np.zeros(n_bytes, np.uint8), layout[0], pixels)


def good_arguments() -> dict[str, Any]:
    return {
        "slab": torch.zeros(16, dtype=torch.uint8),
        "sources": torch.zeros((1, 5), dtype=torch.int64),
        "source_of": torch.zeros(2, dtype=torch.int32),
        "tables": torch.zeros((2, 4, 6), dtype=torch.int32),
        "rows": torch.arange(2, dtype=torch.int32),
        "cubic": True,
        "inside": False,
        "crops": torch.zeros((2, 6, 6, 3), dtype=torch.uint8),
    }


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"tables": np.zeros((2, 4, 6), np.int32)}, TypeError, r"tables must be a torch tensor .*, got ndarray"),
        ({"tables": torch.zeros((2, 3, 6), dtype=torch.int32)}, ValueError, r"tables must be \[any, 4, any\] int32"),
        ({"slab": torch.zeros(16, dtype=torch.int8)}, ValueError, r"slab must be \[any\] uint8, got \[16\] int8"),
        ({"slab": torch.zeros(18, dtype=torch.uint8)}, ValueError, "whole 32-bit words, got 18 bytes"),
        ({"slab": torch.zeros(20, dtype=torch.uint8)[1:17]}, ValueError, "whole 32-bit words"),
        ({"sources": torch.zeros((1, 4), dtype=torch.int64)}, ValueError, r"sources must be \[any, 5\] int64"),
        ({"source_of": torch.zeros(3, dtype=torch.int32)}, ValueError, r"source_of must be \[2\] int32, got \[3\]"),
        ({"source_of": torch.zeros(2)}, ValueError, r"source_of must be \[2\] int32, got \[2\] float32"),
        ({"rows": torch.arange(2)}, ValueError, r"rows must be \[any\] int32, got \[2\] int64"),
        ({"crops": torch.zeros((2, 6, 5, 3), dtype=torch.uint8)}, ValueError, r"crops must be \[2, 6, 6, 3\]"),
        ({"crops": torch.zeros((2, 6, 3, 6), dtype=torch.uint8).transpose(2, 3)}, ValueError, "contiguous"),
        ({"rows": torch.empty(2, dtype=torch.int32, device="meta")}, ValueError, "rows must be on cpu"),
    ],
)
def test_launch_refuses_what_the_kernel_cannot_read(
    interpreted: ModuleType, launched: None, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        interpreted.launch(**(good_arguments() | change))


def test_launch_refuses_crops_that_32_bits_cannot_address(interpreted: ModuleType) -> None:
    size = 26755
    arguments = good_arguments() | {
        "tables": torch.empty((1, 4, size), dtype=torch.int32, device="meta"),
        "crops": torch.empty((1, size, size, 3), dtype=torch.uint8, device="meta"),
    }
    for name, length in (("slab", 16), ("source_of", 1), ("rows", 1)):
        arguments[name] = torch.empty(length, dtype=arguments[name].dtype, device="meta")
    arguments["sources"] = torch.empty((1, 5), dtype=torch.int64, device="meta")
    with pytest.raises(ValueError, match=r"smaller than 2 GiB, got size 26755"):
        interpreted.launch(**arguments)


def test_warp_affine_refuses_an_index_without_a_source(interpreted: ModuleType) -> None:
    frames, _, matrices, cubic, size = SMALL
    for frame_of in ([0, 5], [-1, 0]):
        with pytest.raises(ValueError, match=r"source_of must lie in 0 \.\. 4"):
            interpreted.warp_affine(frames, frame_of, matrices[:2], cubic[:2], size, device="cpu")
    with pytest.raises(ValueError, match=r"must be \[2\]"):
        interpreted.warp_affine(frames, [0], matrices[:2], cubic[:2], size, device="cpu")


def test_the_compiled_kernel_wants_a_cuda_device(compiled: ModuleType) -> None:
    assert not compiled.is_interpreted()
    with pytest.raises(ValueError, match="must be on a CUDA device, got cpu"):
        compiled.launch(**good_arguments())


def compile_for(instructions: ModuleType, architecture: int, taps: int, inside: bool, **options: object) -> Any:
    try:
        return instructions.compiled(architecture, taps, inside, **options)
    except RuntimeError as error:
        if "is not defined for option 'gpu-name'" in str(error):
            pytest.skip(f"Triton {triton.__version__} does not know sm_{architecture}")
        raise


def local_bytes(cubin: bytes) -> int:
    """Bytes of local memory that a thread of a cubin's kernels takes, spilled registers among them.

    Reads EIATTR_FRAME_SIZE (0x11: symbol, bytes) from the ELF sections named .nv.info; an entry there is a format and
    an attribute byte and 16 bits, which for format 4 are the length of what follows.
    """
    (table,) = struct.unpack_from("<Q", cubin, 0x28)
    entry_size, n_sections, names_index = struct.unpack_from("<HHH", cubin, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", cubin, table + i * entry_size) for i in range(n_sections)]
    frames: list[int] = []
    for name, _, _, _, start, size in sections:
        label = cubin[sections[names_index][4] + name :].split(b"\0", 1)[0]
        position = start
        while label == b".nv.info" and position < start + size:
            form, attribute, value = struct.unpack_from("<BBH", cubin, position)
            if attribute == 0x11:
                frames.append(struct.unpack_from("<II", cubin, position + 4)[1])
            position += 4 + (value if form == 4 else 0)
    assert frames, "the cubin does not say what it takes"
    return max(frames)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def kinds_of_kernels() -> Iterator[Any]:
    """The largest for every architecture, the others for the oldest and the newest; the rest is for `make soak`."""
    for architecture, binaries in json.loads(RECORDED.read_text())["kernels"].items():
        for name, recorded in binaries.items():
            every_day = name == "cubic, over a border" or architecture in ("sm_75", "sm_120")
            marks = [] if every_day else [pytest.mark.slow]
            yield pytest.param(architecture, name, recorded, id=f"{architecture}-{name}", marks=marks)


@pytest.mark.parametrize(("architecture", "name", "recorded"), list(kinds_of_kernels()))
def test_kernel_compiles_without_spills_or_floats(
    instructions: ModuleType, architecture: str, name: str, recorded: dict[str, Any]
) -> None:
    kernel = compile_for(instructions, int(architecture.removeprefix("sm_")), *instructions.BINARIES[name])
    cubin = kernel.asm["cubin"]
    assert cubin[:4] == b"\x7fELF"
    assert recorded["spilled_bytes"] == local_bytes(cubin) == 0
    assert not re.search(r"\.b?f(16|32|64)|\bfma\.|\.local\b", kernel.asm["ptx"])
    registers, spilled = instructions.registers(cubin)
    assert spilled == 0
    assert registers <= recorded["registers"] + OTHER_VERSIONS_REGISTERS


def test_local_bytes_sees_spills(instructions: ModuleType) -> None:
    cubin = compile_for(instructions, 80, 4, True, maxnreg=24).asm["cubin"]
    assert local_bytes(cubin) > 0
    assert instructions.registers(cubin) == (24, local_bytes(cubin))


def test_instructions_are_counted_by_kind_and_by_turn(instructions: ModuleType) -> None:
    loop = [
        ("S2R", ""),
        ("LDG.E.128", ""),
        ("IDP.2A.LO", ""),
        ("UIADD3", ""),
        ("BRA", "`(1)"),
        ("EXIT", ""),
        ("NOP", ""),
    ]
    counts = instructions.issued(loop, 3)
    assert counts == {"other": 2 + 3, "loads": 3, "products": 3, "uniform": 3}
    assert instructions.issued(loop, 1).total() == 6


def test_a_binary_is_measured_as_it_is_recorded(instructions: ModuleType) -> None:
    """Another version of Triton may take a few more instructions, or fewer."""
    (taps, inside), now = instructions.BINARIES["linear, inside"], json.loads(RECORDED.read_text())["kernels"]
    found, recorded = instructions.measured(80, taps, inside), now["sm_80"]["linear, inside"]
    assert found["instructions"] == pytest.approx(recorded["instructions"], rel=0.1)
    assert sum(found["of"].values()) == pytest.approx(found["instructions"], abs=0.5)
    assert 1.5 * 4 <= found["of"]["products"] <= 12
    if triton.__version__ == json.loads(RECORDED.read_text())["versions"]["triton"]:
        assert found == recorded


def test_the_table_of_the_kernels_readme_is_the_recorded_one(instructions: ModuleType) -> None:
    readme = (BENCH.parent / "kernels" / "README.md").read_text()
    assert instructions.table(json.loads(RECORDED.read_text())["kernels"]) in readme


def test_importing_kernels_imports_neither_torch_nor_triton() -> None:
    code = (
        "import sys; from gpu_extract import kernels; from gpu_extract.kernels import cpu, reference, tables;"
        "print(sorted({'torch', 'triton', 'cv2', 'gpu_extract.errors'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_kernel_is_available_only_with_a_cuda_device() -> None:
    assert kernels.is_available() == torch.cuda.is_available()


@pytest.mark.cuda
@pytest.mark.parametrize(("seed", "size"), [(11, 64), (12, 256), (13, 129)])
def test_compiled_kernel_equals_reference(compiled: ModuleType, seed: int, size: int) -> None:
    case = random_crops(seed, 60, size, [(1, 1), (108, 192), (333, 217), (240, 320)])
    crops = compiled.warp_affine(*case)
    np.testing.assert_array_equal(crops.cpu().numpy(), reference.warp_affine(*case))
    for prefill in (0x00, 0xFF):
        again = compiled.warp_affine(*case, out=torch.full_like(crops, prefill))
        assert torch.equal(crops, again)


@pytest.mark.cuda
def test_compiled_kernel_passes_its_self_check(compiled: ModuleType) -> None:
    assert compiled.self_check("cuda") is True
