"""Surfaces of a hardware decoder → crops: against the C converter and the NumPy reference, in Triton's interpreter."""

from __future__ import annotations

import os
import re
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest

from gpu_extract import kernels
from gpu_extract.kernels import reference, tables, yuv
from gpu_extract.kernels.slab import fill, lies_inside, slab_layout
from gpu_extract.patch import group_regions
from tests.helpers import module_from, turned

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")

CROPS = int(os.environ.get("CROPS", "25"))
CROPS_A_CASE = 25 if CROPS <= 25 else 50
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
NV12 = yuv.Layout()
P010 = [yuv.Layout(10, True, left, down) for left, down in product((False, True), (0, 1, 2))]
OTHERS = [yuv.Layout(bits, True, left, 0, cubic) for bits, left, cubic in product((10, 12), (False, True), (True,))]
LAYOUTS = [NV12, *P010, *OTHERS, yuv.Layout(9), yuv.Layout(12, True, True)]
FOLDER = Path(kernels.__file__).parent

needs_extension = pytest.mark.skipif(not yuv.is_available(), reason="the C extension was not built here")


@pytest.fixture(scope="module")
def interpreted() -> tuple[ModuleType, ModuleType]:
    """Second copies of `surfaces` and `warp_affine`, whose kernels run in Triton's interpreter on CPU tensors."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        surfaces, warp_affine = (
            module_from(FOLDER / f"{name}.py", f"{name}_of_surfaces") for name in ("surfaces", "warp_affine")
        )
    return surfaces, warp_affine


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


class Decoded(NamedTuple):
    """Noise as a decoder leaves it, rows longer than the picture."""

    luma_rows: np.ndarray
    luma_columns: slice
    chroma_rows: np.ndarray
    chroma_columns: slice

    @property
    def luma(self) -> np.ndarray:
        return self.luma_rows[:, self.luma_columns]

    @property
    def chroma(self) -> np.ndarray:
        """[H / 2, W / 2, 2], a copy."""
        pairs = self.chroma_rows[:, self.chroma_columns]
        return pairs.reshape(len(pairs), -1, 2)

    def bgr(self, coefficients: yuv.Coefficients, layout: yuv.Layout) -> np.ndarray:
        """As the CPU converts the same samples."""
        shift = 16 - layout.bits if layout.bits > 8 else 0
        planes = (self.luma, self.chroma[..., 0], self.chroma[..., 1])
        y, u, v = (np.ascontiguousarray(plane >> shift) for plane in planes)
        height, width = y.shape
        strides = y.strides[0], u.strides[0], v.strides[0]
        return yuv.to_bgr((y, u, v), strides, 0, 0, width, height, coefficients, layout, (height, width))

    def on(self, surfaces: ModuleType, device: str = "cpu") -> Any:
        """As the tensors of a `Surface`."""
        luma = torch.from_numpy(self.luma_rows).to(device)[:, self.luma_columns]
        chroma = torch.from_numpy(self.chroma_rows).to(device)[:, self.chroma_columns]
        return surfaces.Surface(luma, chroma.unflatten(1, (-1, 2)))


def decoded(random: np.random.Generator, height: int, width: int, layout: yuv.Layout) -> Decoded:
    """In memory that begins anywhere; the samples beyond the picture are noise too."""
    dtype, shift = (np.uint8, 0) if layout.bits == 8 else (np.uint16, 16 - layout.bits)

    def plane(rows: int) -> tuple[np.ndarray, slice]:
        start, slack = random.integers(0, 9, 2)
        whole = random.integers(0, 1 << layout.bits, (rows, start + width + slack)) << shift
        return whole.astype(dtype), slice(start, start + width)

    return Decoded(*plane(height), *plane(height // 2))


def converted(
    surfaces: ModuleType,
    pictures: list[Any],
    of: list[int],
    regions: list[tuple[int, int, int, int]],
    coefficients: yuv.Coefficients,
    layout: yuv.Layout,
    device: str = "cpu",
) -> tuple[np.ndarray, Any]:
    """The layout of a slab and the slab, pre-filled with what is no result."""
    sizes = [(y1 - y0, x1 - x0) for x0, y0, x1, y1 in regions]
    sources, n_bytes = slab_layout(sizes, [region[:2] for region in regions])
    table = surfaces.surface_table(pictures, layout)[of]
    slab = torch.full((n_bytes,), 0xEE, dtype=torch.uint8, device=device)
    there = tuple(torch.from_numpy(array).to(device) for array in (sources, table))
    surfaces.convert(slab, sources, table, there, coefficients, layout)
    return sources, slab


@needs_extension
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_the_reference_equals_the_converter_of_the_cpu(layout: yuv.Layout) -> None:
    random = np.random.default_rng(1)
    for height, width in ((8, 10), (10, 34), (34, 98)):
        picture = decoded(random, height, width, layout)
        for coefficients in yuv.COEFFICIENTS:
            expected = picture.bgr(coefficients, layout)
            assert np.array_equal(
                reference.surface_to_bgr(picture.luma, picture.chroma, coefficients, layout), expected
            )


@pytest.mark.parametrize(
    "layout",
    [pytest.param(layout, marks=[pytest.mark.slow] * (i % 4 > 0)) for i, layout in enumerate(LAYOUTS)],
    ids=str,
)
def test_rectangles_equal_the_reference_and_nothing_else_is_written(
    interpreted: tuple[ModuleType, ModuleType], layout: yuv.Layout
) -> None:
    surfaces, _ = interpreted
    random = np.random.default_rng(2)
    pictures = [decoded(random, height, width, layout) for height, width in ((8, 10), (22, 70))]
    of = [0, 0, 0, 1, 1, 1, 1, 1]
    regions = [
        *((0, 0, 10, 8), (2, 2, 8, 6), (8, 6, 10, 8)),
        *((0, 0, 70, 22), (4, 6, 66, 22), (68, 0, 70, 22), (0, 20, 70, 22), (16, 4, 18, 6)),
    ]
    coefficients = yuv.COEFFICIENTS[LAYOUTS.index(layout) % len(yuv.COEFFICIENTS)]
    whole = [reference.surface_to_bgr(picture.luma, picture.chroma, coefficients, layout) for picture in pictures]
    tensors = [picture.on(surfaces) for picture in pictures]
    sources, slab = converted(surfaces, tensors, of, regions, coefficients, layout)
    expected = np.full(len(slab), 0xEE, np.uint8)
    for source, picture, (x0, y0, x1, y1) in zip(sources, of, regions, strict=True):
        fill(expected, source, whole[picture][y0:y1, x0:x1])
    np.testing.assert_array_equal(slab.numpy(), expected)


@needs_extension
@pytest.mark.parametrize("seed", range(-(-CROPS // CROPS_A_CASE)))
def test_random_crops_of_surfaces_differ_in_no_byte_from_those_of_the_cpu(
    interpreted: tuple[ModuleType, ModuleType], seed: int
) -> None:
    """Turned, scaled 0.15 - 4, partly and wholly outside, of any range and matrix; CROPS says how many."""
    surfaces, warp_affine = interpreted
    random = np.random.default_rng([seed, 16])
    layout = NV12 if seed % 2 else LAYOUTS[1 + seed // 2 % (len(LAYOUTS) - 1)]
    coefficients = yuv.COEFFICIENTS[seed % len(yuv.COEFFICIENTS)]
    sizes = [(2 * int(h), 2 * int(w)) for h, w in random.integers(4, 40, (3, 2))]
    pictures = [decoded(random, *size, layout) for size in sizes]
    frames = [picture.bgr(coefficients, layout) for picture in pictures]
    size, K = 2 * int(random.integers(0, 8)) + 1, CROPS_A_CASE
    frame_of, cubic = random.integers(0, len(frames), K), random.random(K) < 0.5
    matrices = np.empty((K, 2, 3))
    for matrix, frame in zip(matrices, frame_of, strict=True):
        height, width = sizes[frame]
        scale = np.exp(random.uniform(np.log(0.15), np.log(4)))
        matrix[:] = turned(scale, random.uniform(0, 7), random.uniform((-8, -8), (width + 8, height + 8)), size)

    # Some crops from a rectangle of their own, the others from the whole picture.
    of, source_of = [*range(len(pictures))], frame_of.astype(np.int32)
    regions = [(0, 0, width, height) for height, width in sizes]
    for k, region in enumerate(tables.source_region(matrices, cubic, size)[:12]):
        ((x0, y0, x1, y1),), _ = group_regions(region[None], *sizes[frame_of[k]])
        source_of[k] = len(of)
        of.append(int(frame_of[k]))
        regions.append((x0 & ~1, y0 & ~1, x1 + x1 % 2, y1 + y1 % 2))
    tensors = [picture.on(surfaces) for picture in pictures]
    sources, slab = converted(surfaces, tensors, of, regions, coefficients, layout)
    table = tables.coordinate_tables(matrices, size)
    inside = lies_inside(table, cubic, source_of, sources)
    crops = torch.full((K, size, size, 3), 0xEE, dtype=torch.uint8)
    for (is_cubic, is_inside), rows in warp_affine.rows_of_kinds(cubic, inside).items():
        arrays = (sources, source_of, table, rows)
        warp_affine.launch(slab, *map(torch.from_numpy, arrays), is_cubic, is_inside, crops)
    expected = reference.warp_affine(frames, frame_of, matrices, cubic, size)
    assert np.count_nonzero(crops.numpy() != expected) == 0, f"bytes of {expected.size} that differ"
    assert expected.any()


def test_the_assembly_of_the_compiled_kernel_equals_the_reference(
    interpreted: tuple[ModuleType, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interpreter has no PTX, so the one instruction that only the compiled kernel uses is emulated here."""
    from triton.runtime import interpreter

    def create_inline_asm(
        self: Any, text: str, constraints: str, values: list[Any], types: list[Any], is_pure: bool, pack: int
    ) -> Any:
        assert (text, constraints) == ("cvt.pack.sat.u8.s32.b32 $0, $1, $2, $3;", "=r,r,r,r")
        high, low, above = (value.data.astype(np.int64) for value in values)
        word = np.clip(low, 0, 255) | np.clip(high, 0, 255) << 8 | (above & 0xFFFF) << 16
        handle = interpreter.TensorHandle(word.astype(np.uint32).view(np.int32), types[0].scalar)
        return type("Call", (), {"get_result": lambda _, i: handle})()

    surfaces, _ = interpreted
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_inline_asm", create_inline_asm)
    monkeypatch.setattr(surfaces, "INTERPRETED", surfaces.tl.constexpr(False))
    monkeypatch.setattr(surfaces, "is_interpreted", lambda: True)
    picture, coefficients = decoded(np.random.default_rng(3), 8, 22, NV12), yuv.COEFFICIENTS[6]
    sources, slab = converted(surfaces, [picture.on(surfaces)], [0], [(0, 0, 22, 8)], coefficients, NV12)
    expected = np.full(len(slab), 0xEE, np.uint8)
    fill(expected, sources[0], reference.surface_to_bgr(picture.luma, picture.chroma, coefficients, NV12))
    np.testing.assert_array_equal(slab.numpy(), expected)


def test_no_rectangles_are_no_launch(interpreted: tuple[ModuleType, ModuleType]) -> None:
    sources, slab = converted(interpreted[0], [], [], [], yuv.COEFFICIENTS[0], NV12)
    assert len(sources) == 0
    assert slab.tolist() == [0xEE] * 4


@pytest.mark.parametrize(
    "region",
    [(1, 0, 9, 8), (0, 1, 8, 7), (0, 0, 12, 8), (0, 0, 10, 10), (-2, 0, 8, 8), (0, -2, 8, 8)],
    ids=str,
)
def test_refuses_rectangles_that_are_odd_or_outside(
    interpreted: tuple[ModuleType, ModuleType], region: tuple[int, int, int, int]
) -> None:
    surfaces, _ = interpreted
    picture = decoded(np.random.default_rng(4), 8, 10, NV12).on(surfaces)
    with pytest.raises(ValueError, match="must have even corners and lie inside"):
        converted(surfaces, [picture], [0], [region], yuv.COEFFICIENTS[0], NV12)


@pytest.mark.parametrize(
    "layout", [yuv.Layout(8, False), yuv.Layout(14), yuv.Layout(8, cubic=True), yuv.Layout(10, down=3)]
)
def test_refuses_a_layout_without_a_formula(interpreted: tuple[ModuleType, ModuleType], layout: yuv.Layout) -> None:
    surfaces, _ = interpreted
    with pytest.raises(ValueError, match="there is no formula for surfaces of Layout"):
        converted(surfaces, [], [], [], yuv.COEFFICIENTS[0], layout)


def test_refuses_tensors_that_are_no_surface(interpreted: tuple[ModuleType, ModuleType]) -> None:
    surfaces, _ = interpreted
    luma, chroma = decoded(np.random.default_rng(5), 8, 10, NV12).on(surfaces)
    for wrong, message in (
        ((luma[:7], chroma), r"luma must be rows of uint8, even many and even long, got \[7, 10\]"),
        ((luma[:, ::2], chroma), "luma must be rows"),
        ((luma.to(torch.int16), chroma), "got .* int16"),
        ((luma, chroma[:3]), r"chroma must be rows of \[4, 5, 2\] uint8, got \[3, 5, 2\] uint8"),
        ((luma, chroma.flip(2).transpose(1, 2).contiguous().transpose(1, 2)), "chroma must be rows"),
        ((luma, chroma.to("meta")), "chroma must be on cpu like luma, got meta"),
    ):
        with pytest.raises(ValueError, match=message):
            surfaces.surface_table([surfaces.Surface(*wrong)], NV12)
    with pytest.raises(ValueError, match="luma must be rows of uint16"):
        surfaces.surface_table([surfaces.Surface(luma, chroma)], P010[0])


def test_refuses_a_slab_that_is_too_small_and_tables_that_are_others(
    interpreted: tuple[ModuleType, ModuleType],
) -> None:
    surfaces, _ = interpreted
    picture = decoded(np.random.default_rng(6), 8, 10, NV12).on(surfaces)
    sources, n_bytes = slab_layout([(8, 10)])
    table = surfaces.surface_table([picture], NV12)
    there = torch.from_numpy(sources), torch.from_numpy(table)
    slab = torch.zeros(n_bytes, dtype=torch.uint8)
    for wrong, message in (
        ((slab[: n_bytes // 2], sources, table, there), "too few for its sources"),
        ((slab[1:], sources, table, there), "starts on a word"),
        ((slab, sources, table, (there[0].int(), there[1])), r"sources must be \[1, 5\] int64 on the device too"),
        ((slab, sources, table, (there[0], there[1].to("meta"))), "surfaces must be on cpu like the slab, got meta"),
        ((slab, sources[:, :4], table, there), r"sources must be \[N, 5\] int64"),
    ):
        with pytest.raises(ValueError, match=message):
            surfaces.convert(*wrong, yuv.COEFFICIENTS[0], NV12)


def kinds_of_kernels() -> list[Any]:
    """Those of the first and the last architecture for every day; the rest is for long runs."""
    kinds = {"nv12": (0, False, False), "p010": (6, True, False), "p010-cubic": (6, False, True)}
    return [
        pytest.param(
            architecture,
            kind,
            id=f"{architecture}-{name}",
            marks=[] if architecture in (ARCHITECTURES[0], ARCHITECTURES[-1]) else [pytest.mark.slow],
        )
        for architecture, (name, kind) in product(ARCHITECTURES, kinds.items())
    ]


@pytest.mark.parametrize(("architecture", "kind"), kinds_of_kernels())
def test_kernel_compiles_without_spills_or_floats(architecture: int, kind: tuple[int, bool, bool]) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from gpu_extract.kernels import surfaces
    from tests.test_kernels_triton import local_bytes

    constants = dict(zip(("SHIFT", "LEFT", "CUBIC"), kind, strict=True)) | {
        "QUADS": surfaces.QUADS,
        "ROWS": surfaces.ROWS,
    }
    types = {"slab": "*i32", "sources": "*i64", "surfaces": "*i64"} | dict.fromkeys(constants, "constexpr")
    signature = {name: types.get(name, "i32") for name in surfaces._kernel.arg_names}
    compiled = triton.compile(
        ASTSource(surfaces._kernel, signature, constants),
        target=GPUTarget("cuda", architecture, 32),
        options=surfaces.COMPILE_OPTIONS,
    )
    assert local_bytes(compiled.asm["cubin"]) == 0
    assert not re.search(r"\.b?f(16|32|64)|\bfma\.|\.local\b", compiled.asm["ptx"])


def test_the_compiled_kernel_wants_a_cuda_device() -> None:
    from gpu_extract.kernels import surfaces

    picture = decoded(np.random.default_rng(7), 8, 10, NV12).on(surfaces)
    with pytest.raises(ValueError, match=r"must be on a CUDA device, got cpu; on a CPU use kernels\.yuv"):
        converted(surfaces, [picture], [0], [(0, 0, 10, 8)], yuv.COEFFICIENTS[0], NV12)


@pytest.mark.cuda
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_compiled_kernel_equals_the_reference(layout: yuv.Layout) -> None:
    from gpu_extract.kernels import surfaces

    picture = decoded(np.random.default_rng(8), 70, 302, layout)
    for coefficients in yuv.COEFFICIENTS:
        whole = reference.surface_to_bgr(picture.luma, picture.chroma, coefficients, layout)
        tensors = [picture.on(surfaces, "cuda")]
        regions = [(0, 0, 302, 70), (6, 2, 300, 70), (2, 68, 4, 70)]
        sources, slab = converted(surfaces, tensors, [0, 0, 0], regions, coefficients, layout, "cuda")
        expected = np.full(len(slab), 0xEE, np.uint8)
        for source, (x0, y0, x1, y1) in zip(sources, regions, strict=True):
            fill(expected, source, whole[y0:y1, x0:x1])
        np.testing.assert_array_equal(slab.cpu().numpy(), expected)
