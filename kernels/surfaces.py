"""Surfaces of a hardware decoder → the slab, on the CUDA device that they lie on: one Triton kernel, integers only.

A surface is NV12, or P010 and its like: rows of luma, and half as many of U and V in turn, of bytes, or of 16-bit words
that hold a sample in their upper bits. Rectangles of many surfaces become pieces of one slab, to the byte what `yuv`
makes of the same samples in three planes; `warp_affine.launch` then cuts crops out of it:

    sources, n_bytes = slab_layout(sizes, origins)         where each rectangle goes
    table = surface_table(surfaces)                        where each surface lies
    convert(slab, sources, table, ...)                     on the device, on the current stream, without a wait

Two launches and not one: a cubic pixel that converts what its 16 taps read takes three times the instructions of one
that finds it converted, and to convert a pixel of the rectangle takes a tenth of them (README.md has the counts).
"""

# mypy: disallow-untyped-defs=false
# (values inside a kernel have no Python type)

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl

from gpu_extract.kernels.slab import WORD
from gpu_extract.kernels.yuv import Coefficients, Layout

MAX_SOURCES = 65532  # of one launch, on the third axis of a CUDA grid
COMPILE_OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}
DEEPEST = 12  # bits; of more, 15-bit words do not hold what is computed exactly


class Surface(NamedTuple):
    """A decoded picture of even sides; both tensors on one device, rows from the top, as far apart as they like."""

    luma: torch.Tensor
    """[H, W] uint8 or uint16."""
    chroma: torch.Tensor
    """[H / 2, W / 2, 2] of the same dtype: U, V."""


@triton.jit
def _high(a, b):
    """The upper half of a product, as pmulhw gives it."""
    return (a * b) >> 16


# Triton's interpreter knows no PTX: for it, and for readers, the instruction is written out as well.
INTERPRETED = tl.constexpr(not isinstance(_high, triton.JITFunction))

# Of one program: rows, and in each so many times four pixels, three words of the slab. The interpreter takes its time
# for a program, and for a thread too.
QUADS, ROWS = (16, 64) if INTERPRETED.value else (32, 4)


@triton.jit
def _held(value):
    """An int32, held to 0 ... 255."""
    return tl.minimum(tl.maximum(value, 0), 255)


@triton.jit
def _with_two_bytes(low, high, above):
    """Two int32, each held to 0 ... 255, as the low bytes of a word, and the two low bytes of another above them."""
    if INTERPRETED:
        word = _held(low) | (_held(high) << 8) | (above << 16)
    else:
        word = tl.inline_asm_elementwise(
            "cvt.pack.sat.u8.s32.b32 $0, $1, $2, $3;", "=r,r,r,r", [high, low, above], tl.int32, is_pure=True, pack=1
        )
    return word


@triton.jit
def _four_bytes(first, second, third, fourth):
    """Four int32, each held to 0 ... 255, as the bytes of a word, the first one lowest."""
    return _with_two_bytes(first, second, _with_two_bytes(third, fourth, tl.full(first.shape, 0, tl.int32)))


@triton.jit
def _sample(address, there, SHIFT: tl.constexpr):
    return tl.load(address, mask=there, other=0).to(tl.int32) >> SHIFT


@triton.jit
def _fifteen_bits(row, column, following, there, SHIFT: tl.constexpr, LEFT: tl.constexpr):
    """U and V of a column, in 15 bits; chroma on the left one of its two pixels is weighed with that of the next."""
    u, v = _sample(row + 2 * column, there, SHIFT), _sample(row + 2 * column + 1, there, SHIFT)
    if LEFT:
        u = 3 * u + _sample(row + 2 * following, there, SHIFT)
        v = 3 * v + _sample(row + 2 * following + 1, there, SHIFT)
        u, v = u << (SHIFT - 3), v << (SHIFT - 3)
    else:
        u, v = u << (SHIFT - 1), v << (SHIFT - 1)
    return u, v


@triton.jit
def _luma_eighths(sample, SHIFT: tl.constexpr):
    """Y in eighths of a level."""
    return (sample << (SHIFT - 1)) >> 4 if SHIFT else sample << 3


@triton.jit
def _shift_of(level, step):
    """What a level of chroma adds, in levels of luma."""
    return ((level * step) >> 16) - (step >> 9)


@triton.jit
def _scaled(level, scale, zero):
    return (scale * level - zero + (1 << 15)) >> 16


@triton.jit
def _cubic_weight(y, i: tl.constexpr):
    """Of 4096, what the i-th of four rows of chroma counts in row y of pixels; yuv.c has them in a table."""
    even: tl.constexpr = (-115, 985, 3572, -346)[i]
    odd: tl.constexpr = (-115, 985, 3572, -346)[3 - i]
    first: tl.constexpr = (0, 0, 4432, -336)[i]
    third: tl.constexpr = (0, 959, 3473, -336)[i]
    return tl.where((y & 1) != 0, odd, tl.where(y == 0, first, tl.where(y == 2, third, even)))


@triton.jit
def _two_rows(
    chroma, pitch, y, half_height, column, following, down, there, SHIFT: tl.constexpr, LEFT: tl.constexpr
):  # fmt: skip
    """U and V of the row of chroma above row y of pixels, those of the next one, and how many quarters that counts."""
    at = tl.maximum(2 * y - down, 0)
    upper = tl.minimum(at >> 2, half_height - 1)
    lower = tl.minimum(upper + 1, half_height - 1)
    above, below = chroma + upper.to(tl.int64) * pitch, chroma + lower.to(tl.int64) * pitch
    upper_u, upper_v = _fifteen_bits(above, column, following, there, SHIFT, LEFT)
    lower_u, lower_v = _fifteen_bits(below, column, following, there, SHIFT, LEFT)
    return upper_u, upper_v, lower_u, lower_v, at & 3


@triton.jit
def _eighths(
    chroma, pitch, y, half_height, column, following, down, there, SHIFT: tl.constexpr, LEFT: tl.constexpr
):  # fmt: skip
    """U and V of a column in eighths of a level, 0 for grey, from the nearer row of chroma or the mean of two."""
    if SHIFT:
        upper_u, upper_v, lower_u, lower_v, quarters = _two_rows(
            chroma, pitch, y, half_height, column, following, down, there, SHIFT, LEFT
        )
        u = tl.where(quarters >= 2, upper_u + lower_u, 2 * upper_u) >> 5
        v = tl.where(quarters >= 2, upper_v + lower_v, 2 * upper_v) >> 5
    else:
        row = chroma + (y >> 1).to(tl.int64) * pitch
        u, v = _sample(row + 2 * column, there, 0) << 3, _sample(row + 2 * column + 1, there, 0) << 3
    return u - 1024, v - 1024


@triton.jit
def _levels(
    chroma, pitch, y, half_height, column, following, down, there,
    SHIFT: tl.constexpr, LEFT: tl.constexpr, CUBIC: tl.constexpr,
):  # fmt: skip
    """U and V of a column in whole levels, rounded after the weighted mean of the rows around row y of pixels."""
    if CUBIC:
        u, v = tl.full(there.shape, 0, tl.int32), tl.full(there.shape, 0, tl.int32)
        for i in tl.static_range(4):
            row = tl.minimum(tl.maximum(((y + 1) >> 1) - 2 + i, 0), half_height - 1)
            address = chroma + row.to(tl.int64) * pitch
            tap_u, tap_v = _fifteen_bits(address, column, following, there, SHIFT, LEFT)
            u, v = u + _cubic_weight(y, i) * tap_u, v + _cubic_weight(y, i) * tap_v
    else:
        upper_u, upper_v, lower_u, lower_v, quarters = _two_rows(
            chroma, pitch, y, half_height, column, following, down, there, SHIFT, LEFT
        )
        u = (4096 - 1024 * quarters) * upper_u + 1024 * quarters * lower_u
        v = (4096 - 1024 * quarters) * upper_v + 1024 * quarters * lower_v
    return _held((u + (1 << 18)) >> 19), _held((v + (1 << 18)) >> 19)


@triton.jit
def _by_eighths(
    one, other, u, v, luma_factor, luma_zero, blue_u, green_u, green_v, red_v, SHIFT: tl.constexpr
):  # fmt: skip
    """B, G, R of two pixels, their samples of luma given, and of the one column of chroma in eighths of a level."""
    blue, green, red = _high(u, blue_u), _high(u, green_u) + _high(v, green_v), _high(v, red_v)
    left = _high(_luma_eighths(one, SHIFT) - luma_zero, luma_factor)
    right = _high(_luma_eighths(other, SHIFT) - luma_zero, luma_factor)
    return left + blue, left + green, left + red, right + blue, right + green, right + red


@triton.jit
def _by_levels(
    one, other, u, v, scale, zero, step_blue_u, step_green_u, step_green_v, step_red_v, SHIFT: tl.constexpr
):  # fmt: skip
    """The same of chroma in levels."""
    blue, red = _shift_of(u, step_blue_u), _shift_of(v, step_red_v)
    green = _shift_of(u, step_green_u) + _shift_of(v, step_green_v)
    left, right = ((one << (SHIFT - 1)) + 64) >> 7, ((other << (SHIFT - 1)) + 64) >> 7
    return (
        _scaled(left + blue, scale, zero),
        _scaled(left + green, scale, zero),
        _scaled(left + red, scale, zero),
        _scaled(right + blue, scale, zero),
        _scaled(right + green, scale, zero),
        _scaled(right + red, scale, zero),
    )


@triton.jit
def _two_pixels(
    luma, luma_pitch, chroma, chroma_pitch, x, y, height, width, down, there,
    luma_factor, luma_zero, blue_u, green_u, green_v, red_v,
    scale, zero, step_blue_u, step_green_u, step_green_v, step_red_v,
    SHIFT: tl.constexpr, LEFT: tl.constexpr, CUBIC: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """B, G, R of pixel (x, y), x even, and of the next one, not yet held to 0 ... 255."""
    column, half_height = x >> 1, height >> 1
    following = tl.minimum(column + 1, (width >> 1) - 1)
    row = luma + y.to(tl.int64) * luma_pitch + x
    one, other = _sample(row, there, SHIFT), _sample(row + 1, there, SHIFT)
    if CUBIC or LAST:
        u, v = _levels(chroma, chroma_pitch, y, half_height, column, following, down, there, SHIFT, LEFT, CUBIC)
        b0, g0, r0, b1, g1, r1 = _by_levels(
            one, other, u, v, scale, zero, step_blue_u, step_green_u, step_green_v, step_red_v, SHIFT
        )
    if not CUBIC:
        u, v = _eighths(chroma, chroma_pitch, y, half_height, column, following, down, there, SHIFT, LEFT)
        B0, G0, R0, B1, G1, R1 = _by_eighths(
            one, other, u, v, luma_factor, luma_zero, blue_u, green_u, green_v, red_v, SHIFT
        )
        if LAST:
            by_levels = y >= height - 2
            b0, g0, r0 = tl.where(by_levels, b0, B0), tl.where(by_levels, g0, G0), tl.where(by_levels, r0, R0)
            b1, g1, r1 = tl.where(by_levels, b1, B1), tl.where(by_levels, g1, G1), tl.where(by_levels, r1, R1)
        else:
            b0, g0, r0, b1, g1, r1 = B0, G0, R0, B1, G1, R1
    return b0, g0, r0, b1, g1, r1


@triton.jit
def _four_pixels(
    word, luma, luma_pitch, chroma, chroma_pitch, x, y, right, bottom, height, width, down,
    luma_factor, luma_zero, blue_u, green_u, green_v, red_v,
    scale, zero, step_blue_u, step_green_u, step_green_v, step_red_v,
    SHIFT: tl.constexpr, LEFT: tl.constexpr, CUBIC: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """Convert pixels x ... x + 3 of row y into the three words at `word`; zeros for those from `right` on."""
    there, both_there = (x < right) & (y < bottom), (x + 2 < right) & (y < bottom)
    b0, g0, r0, b1, g1, r1 = _two_pixels(
        luma, luma_pitch, chroma, chroma_pitch, x, y, height, width, down, there,
        luma_factor, luma_zero, blue_u, green_u, green_v, red_v,
        scale, zero, step_blue_u, step_green_u, step_green_v, step_red_v, SHIFT, LEFT, CUBIC, LAST,
    )  # fmt: skip
    b2, g2, r2, b3, g3, r3 = _two_pixels(
        luma, luma_pitch, chroma, chroma_pitch, x + 2, y, height, width, down, both_there,
        luma_factor, luma_zero, blue_u, green_u, green_v, red_v,
        scale, zero, step_blue_u, step_green_u, step_green_v, step_red_v, SHIFT, LEFT, CUBIC, LAST,
    )  # fmt: skip
    b2, g2 = tl.where(both_there, b2, 0), tl.where(both_there, g2, 0)
    tl.store(word, _four_bytes(b0, g0, r0, b1), mask=there)
    tl.store(word + 1, _four_bytes(g1, r1, b2, g2), mask=there)
    tl.store(word + 2, _four_bytes(r2, b3, g3, r3), mask=both_there)


_COEFFICIENTS = Coefficients._fields


@triton.jit(do_not_specialize=["down", *_COEFFICIENTS])  # one binary for all ranges and matrices
def _kernel(
    slab,  # [n_words] int32: pixels of all sources, three bytes each
    sources,  # [N, 5] int64: first word, height, words a row, x0, y0; x0, y0 and widths are even
    surfaces,  # [N, 6] int64: the address of luma, samples a row, the same of chroma, height, width
    down,  # 0, 1, 2, as of yuv.Layout
    luma_factor,
    luma_zero,
    blue_u,
    green_u,
    green_v,
    red_v,
    scale,
    zero,
    step_blue_u,
    step_green_u,
    step_green_v,
    step_red_v,
    SHIFT: tl.constexpr,  # samples are the upper 16 - SHIFT bits of 16; 0: bytes
    LEFT: tl.constexpr,
    CUBIC: tl.constexpr,
    QUADS: tl.constexpr,
    ROWS: tl.constexpr,
):
    place = sources + tl.program_id(2).to(tl.int64) * 5
    rows, stride = tl.load(place + 1).to(tl.int32), tl.load(place + 2).to(tl.int32)
    quad = tl.program_id(0) * QUADS + tl.arange(0, QUADS)[None, :]
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)[:, None]
    word = slab + tl.load(place) + (row * stride + 3 * quad)
    x0, y0 = tl.load(place + 3).to(tl.int32), tl.load(place + 4).to(tl.int32)
    x, y = x0 + 4 * quad, y0 + row
    right, bottom = x0 + stride * 4 // 3, y0 + rows  # of an even width, words a row tell how many pixels

    surface = surfaces + tl.program_id(2).to(tl.int64) * 6
    kind: tl.constexpr = tl.pointer_type(tl.uint16 if SHIFT else tl.uint8)
    luma, luma_pitch = tl.load(surface).to(kind), tl.load(surface + 1)
    chroma, chroma_pitch = tl.load(surface + 2).to(kind), tl.load(surface + 3)
    height, width = tl.load(surface + 4).to(tl.int32), tl.load(surface + 5).to(tl.int32)
    if SHIFT and y0 + tl.program_id(1) * ROWS + ROWS > height - 2:
        _four_pixels(
            word, luma, luma_pitch, chroma, chroma_pitch, x, y, right, bottom, height, width, down,
            luma_factor, luma_zero, blue_u, green_u, green_v, red_v,
            scale, zero, step_blue_u, step_green_u, step_green_v, step_red_v, SHIFT, LEFT, CUBIC, True,
        )  # fmt: skip
    else:
        _four_pixels(
            word, luma, luma_pitch, chroma, chroma_pitch, x, y, right, bottom, height, width, down,
            luma_factor, luma_zero, blue_u, green_u, green_v, red_v,
            scale, zero, step_blue_u, step_green_u, step_green_v, step_red_v, SHIFT, LEFT, CUBIC, False,
        )  # fmt: skip


def is_interpreted() -> bool:
    """Whether this module was imported under TRITON_INTERPRET=1, so that the kernel runs on CPU tensors."""
    return bool(INTERPRETED.value)


def surface_table(surfaces: Sequence[Surface], layout: Layout) -> np.ndarray:
    """Where each surface lies: [N, 6] int64 (address of luma, samples a row, the same of chroma, height, width).

    A table holds addresses: its surfaces must be kept until the device has done what reads them.

    Raises ValueError for a tensor of another shape, dtype or device than a surface of this layout has.
    """
    table = np.empty((len(surfaces), 6), dtype=np.int64)
    for line, (luma, chroma) in zip(table, surfaces, strict=True):
        H, W = luma.shape if luma.ndim == 2 else (1, 1)
        dtype = torch.uint8 if layout.bits == 8 else torch.uint16
        if H % 2 or W % 2 or not (H and W) or luma.dtype != dtype or luma.stride(1) != 1:
            raise ValueError(f"luma must be rows of {_said(dtype)}, even many and even long, got {_shape_of(luma)}")
        if tuple(chroma.shape) != (H // 2, W // 2, 2) or chroma.dtype != dtype or chroma.stride()[1:] != (2, 1):
            raise ValueError(f"chroma must be rows of [{H // 2}, {W // 2}, 2] {_said(dtype)}, got {_shape_of(chroma)}")
        if chroma.device != luma.device:
            raise ValueError(f"chroma must be on {luma.device} like luma, got {chroma.device}")
        line[:] = luma.data_ptr(), luma.stride(0), chroma.data_ptr(), chroma.stride(0), H, W
    return table


def convert(
    slab: torch.Tensor,  # [n_bytes] uint8, of the size that slab_layout asks for
    sources: np.ndarray,  # [N, 5] int64, of slab_layout: rectangles of surfaces, all corners even
    surfaces: np.ndarray,  # [N, 6] int64, rows of surface_table: which surface each is a part of
    tables: tuple[torch.Tensor, torch.Tensor],  # both of these, where they lie on the device
    coefficients: Coefficients,
    layout: Layout,
) -> None:
    """Fill the slab with BGR, without a wait for the device; all tensors and surfaces on one, on its current stream.

    Raises ValueError for a rectangle that is odd or lies outside of its surface, for a layout without a formula, and
    for a tensor of another type, shape, dtype or device.
    """
    check_layout(layout)
    _check("sources", tables[0], sources, slab)
    _check("surfaces", tables[1], surfaces, slab)
    first, heights, strides, x0, y0 = sources.T
    H, W = surfaces[:, 4:].T
    widths = strides * 4 // 3
    odd = (x0 | y0 | widths | heights) & 1
    if (odd | (x0 < 0) | (y0 < 0) | (x0 + widths > W) | (y0 + heights > H)).any():
        raise ValueError("a rectangle of a surface must have even corners and lie inside, as of yuv.to_bgr")
    if slab.dtype != torch.uint8 or slab.ndim != 1 or slab.data_ptr() % WORD:
        raise ValueError(f"slab must be [any] uint8 that starts on a word, got {_shape_of(slab)}")
    if len(sources) and WORD * int((first + heights * strides).max()) > slab.numel():
        raise ValueError(f"slab has {slab.numel()} bytes, too few for its sources; size it by slab_layout")
    if slab.device.type != ("cpu" if is_interpreted() else "cuda"):
        raise ValueError(f"tensors must be on a CUDA device, got {slab.device}; on a CPU use kernels.yuv")
    with torch.cuda.device_of(slab):
        for start in range(0, len(sources), MAX_SOURCES):
            part = slice(start, start + MAX_SOURCES)
            most_quads, most_rows = -(-int(strides[part].max()) // 3), int(heights[part].max())
            if not (most_quads and most_rows):
                continue
            _kernel[(triton.cdiv(most_quads, QUADS), triton.cdiv(most_rows, ROWS), len(sources[part]))](
                slab.view(torch.int32),
                tables[0][part],
                tables[1][part],
                layout.down,
                *coefficients,
                SHIFT=16 - layout.bits if layout.bits > 8 else 0,
                LEFT=bool(layout.left),
                CUBIC=bool(layout.cubic),
                QUADS=QUADS,
                ROWS=ROWS,
                **COMPILE_OPTIONS,
            )


def check_layout(layout: Layout) -> None:
    """Raises ValueError for one that has no formula, or is none of a surface."""
    known = not layout.cubic if layout.bits == 8 else 8 < layout.bits <= DEEPEST and 0 <= layout.down <= 2
    if not (known and layout.halved):
        raise ValueError(f"there is no formula for surfaces of {layout}")


def _check(name: str, tensor: torch.Tensor, array: np.ndarray, slab: torch.Tensor) -> None:
    """The columns of an array, int64, and the same on the device."""
    columns = 5 if name == "sources" else 6
    if array.ndim != 2 or array.shape[1] != columns or array.dtype != np.int64:
        raise ValueError(f"{name} must be [N, {columns}] int64, got {list(array.shape)} {array.dtype}")
    if tuple(tensor.shape) != array.shape or tensor.dtype != torch.int64 or not tensor.is_contiguous():
        raise ValueError(f"{name} must be {list(array.shape)} int64 on the device too, got {_shape_of(tensor)}")
    if tensor.device != slab.device:
        raise ValueError(f"{name} must be on {slab.device} like the slab, got {tensor.device}")


def _said(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _shape_of(tensor: torch.Tensor) -> str:
    return f"{list(tensor.shape)} {_said(tensor.dtype)}"
