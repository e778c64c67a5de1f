"""The exact warp on a CUDA device: one Triton kernel, all crops of one kind in one launch, whatever their sources.

The kernel reads uint8 pixels where they lie and writes uint8 crops; every operation on the way is an integer one, so
the bytes equal those of `reference.warp_affine`. Pieces of frames of any sizes lie in one buffer, the slab:

    sources, n_bytes = slab_layout(sizes, origins)         where each piece goes
    fill(slab, sources[i], pixels)                         on the host, in pinned memory if there is any
    launch(slab, sources, source_of, tables, rows, ...)    on the device, on the current stream, without a wait

`warp_affine` does all of it for callers that are in no hurry.
"""

# mypy: disallow-untyped-defs=false
# (values inside a kernel have no Python type)

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
import triton
import triton.language as tl

from gpu_extract.kernels import reference
from gpu_extract.kernels.slab import WORD, fill, lies_inside, slab_layout
from gpu_extract.kernels.tables import coordinate_tables, weights

MOST_ROWS = 64  # of one program; fewer where a launch has too few programs to occupy the device
PROGRAMS = 4  # of a multiprocessor, at least
MULTIPROCESSORS = 64  # where the device does not tell
MAX_CROPS = 65532  # of one launch, on the third axis of a CUDA grid; four at a time, so that each part is aligned alike
COMPILE_OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}


@triton.jit
def _is_below(index, length):
    """0 <= index < length, in one comparison."""
    return index.to(tl.uint32, bitcast=True) < length.to(tl.uint32, bitcast=True)


# Triton's interpreter knows no PTX: for it, and for readers, every instruction is written out as well.
INTERPRETED = tl.constexpr(not isinstance(_is_below, triton.JITFunction))

# A program cuts two tiles of crop pixels at a time, one beside the other: a thread reads once where its row lies. With
# 16 columns a warp is 16 x 2 pixels, so that turned crops touch few cache lines. The interpreter takes its time a tile.
TILE_X, TILE_Y = (32, 32) if INTERPRETED.value else (16, 8)


@triton.jit
def _byte(word, i: tl.constexpr):
    return (word >> (8 * i)) & 0xFF


@triton.jit
def _from_byte(low, high, start):
    """The four bytes of two neighbouring words that begin at byte `start` modulo 4."""
    if INTERPRETED:
        both = (high.to(tl.uint64) << 32) | low.to(tl.uint64)
        word = (both >> ((start & 3) * 8).to(tl.uint64)).to(tl.uint32)
    else:
        word = tl.inline_asm_elementwise(
            "prmt.b32.f4e $0, $1, $2, $3;", "=r,r,r,r", [low, high, start], dtype=tl.uint32, is_pure=True, pack=1
        )
    return word


@triton.jit
def _interleaved(upper, lower, HIGH: tl.constexpr):
    """The two low bytes (HIGH: high ones) of a word, after each the same byte of the word below it in the frame."""
    if INTERPRETED:
        i: tl.constexpr = 2 if HIGH else 0
        first = _byte(upper, i) | (_byte(lower, i) << 8)
        word = first | (_byte(upper, i + 1) << 16) | (_byte(lower, i + 1) << 24)
    else:
        ORDER: tl.constexpr = 0x7362 if HIGH else 0x5140
        word = tl.inline_asm_elementwise(
            "prmt.b32 $0, $1, $2, $3;", "=r,r,r,r", [upper, lower, ORDER], dtype=tl.uint32, is_pure=True, pack=1
        )
    return word


@triton.jit
def _with_two_taps(total, pair, taps, HIGH: tl.constexpr):
    """total + two weights, int16 in `pair`, times the two low bytes (HIGH: high ones) of `taps`."""
    if INTERPRETED:
        i: tl.constexpr = 2 if HIGH else 0
        total += ((pair << 16) >> 16) * _byte(taps, i).to(tl.int32)
        total += (pair >> 16) * _byte(taps, i + 1).to(tl.int32)
    else:
        DP2A: tl.constexpr = "dp2a.hi.s32.u32 $0, $1, $2, $3;" if HIGH else "dp2a.lo.s32.u32 $0, $1, $2, $3;"
        total = tl.inline_asm_elementwise(DP2A, "=r,r,r,r", [pair, taps, total], dtype=tl.int32, is_pure=True, pack=1)
    return total


@triton.jit
def _two_bytes(low, high):
    """Two int32, each held to 0 ... 255, as the two low bytes of a word."""
    if INTERPRETED:
        held_low, held_high = tl.minimum(tl.maximum(low, 0), 255), tl.minimum(tl.maximum(high, 0), 255)
        word = (held_low | (held_high << 8)).to(tl.uint32)
    else:
        word = tl.inline_asm_elementwise(
            "cvt.pack.sat.u8.s32.b32 $0, $1, $2, 0;", "=r,r,r", [high, low], dtype=tl.uint32, is_pure=True, pack=1
        )
    return word


@triton.jit
def _pairs(address):
    """The two words at an address of int64."""
    pairs = tl.load(address)
    return pairs.to(tl.int32), (pairs >> 32).to(tl.int32)


@triton.jit
def _four_pairs(address):
    """The four words at an address of int64, a multiple of 16 bytes, in one load."""
    if INTERPRETED:
        pair0, pair1 = _pairs(address)
        pair2, pair3 = _pairs(address + 1)
    else:
        pair0, pair1, pair2, pair3 = tl.inline_asm_elementwise(
            "ld.global.nc.v4.b32 {$0, $1, $2, $3}, [$4];",
            "=r,=r,=r,=r,l",
            [address.to(tl.int64)],
            dtype=(tl.int32, tl.int32, tl.int32, tl.int32),
            is_pure=True,
            pack=1,
        )
    return pair0, pair1, pair2, pair3


@triton.jit
def _word(address, there, INSIDE: tl.constexpr):
    word = tl.load(address) if INSIDE else tl.load(address, mask=there, other=0)
    return word.to(tl.uint32, bitcast=True)


@triton.jit
def _row(address, start, column, stride, has_row, TAPS: tl.constexpr, INSIDE: tl.constexpr):
    """Three words of a row's taps, BGRB GRBG RBGR, that begin at byte `start` of word `column`; TAPS = 2: no third."""
    word0 = _word(address, has_row & _is_below(column, stride), INSIDE)
    word1 = _word(address + 1, has_row & _is_below(column + 1, stride), INSIDE)
    word2 = _word(address + 2, has_row & _is_below(column + 2, stride), INSIDE)
    third = word2
    if TAPS == 4:
        word3 = _word(address + 3, has_row & _is_below(column + 3, stride), INSIDE)
        third = _from_byte(word2, word3, start)
    return _from_byte(word0, word1, start), _from_byte(word1, word2, start), third


@triton.jit
def _with_two_columns(blue, green, red, pair, next_pair, bg, rb, gr):
    """The sums with 2 x 2 pixels more: the bytes BGR BGR of two rows interleaved, a pair of weights for each column."""
    blue = _with_two_taps(blue, pair, bg, False)
    green = _with_two_taps(green, pair, bg, True)
    red = _with_two_taps(red, pair, rb, False)
    blue = _with_two_taps(blue, next_pair, rb, True)
    green = _with_two_taps(green, next_pair, gr, False)
    red = _with_two_taps(red, next_pair, gr, True)
    return blue, green, red


@triton.jit
def _sums(source, height, stride, left, top, weight, TAPS: tl.constexpr, INSIDE: tl.constexpr):
    """Weighted sums of blue, green and red over TAPS x TAPS pixels from (left, top) on, and one half to round by.

    The taps of a row are 3 * TAPS bytes that start anywhere in a word. Rows start on a word and end in zero bytes, so
    bytes of words that lie outside, or of the padding, are the zeros that taps outside the source count as.
    """
    start = left * 3
    column = start >> 2
    address = source + (top * stride + column)
    blue = tl.full(left.shape, 1 << 14, tl.int32)
    green = tl.full(left.shape, 1 << 14, tl.int32)
    red = tl.full(left.shape, 1 << 14, tl.int32)
    for i in tl.static_range(0, TAPS, 2):
        a0, b0, c0 = _row(address, start, column, stride, _is_below(top + i, height), TAPS, INSIDE)
        address += stride
        a1, b1, c1 = _row(address, start, column, stride, _is_below(top + (i + 1), height), TAPS, INSIDE)
        address += stride
        if TAPS == 4:
            pair0, pair1, pair2, pair3 = _four_pairs(weight + i)
        else:
            pair0, pair1 = _pairs(weight)
        bg, rb, gr = _interleaved(a0, a1, False), _interleaved(a0, a1, True), _interleaved(b0, b1, False)
        blue, green, red = _with_two_columns(blue, green, red, pair0, pair1, bg, rb, gr)
        if TAPS == 4:
            bg, rb, gr = _interleaved(b0, b1, True), _interleaved(c0, c1, False), _interleaved(c0, c1, True)
            blue, green, red = _with_two_columns(blue, green, red, pair2, pair3, bg, rb, gr)
    return blue, green, red


@triton.jit
def _cut(
    source,
    height,
    stride,
    x0,
    y0,
    X,
    Y,
    weights,
    pixel,
    TAPS: tl.constexpr,
    INSIDE: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """Cut a tile: from the positions X, Y, in 1/1024 px, into the three bytes at `pixel`."""
    left, top = X >> 10, Y >> 10
    if not INSIDE:
        left, top = tl.minimum(tl.maximum(left, -32768), 32767), tl.minimum(tl.maximum(top, -32768), 32767)
    weight = weights + ((Y & 0x3E0) + ((X >> 5) & 31)) * (TAPS * TAPS // 4)
    blue, green, red = _sums(source, height, stride, left - x0, top - y0, weight, TAPS, INSIDE)
    blue_green, reds = _two_bytes(blue >> 15, green >> 15), _two_bytes(red >> 15, red >> 15)
    tl.store(pixel + (2 if REVERSE else 0), blue_green.to(tl.uint8))
    tl.store(pixel + 1, (blue_green >> 8).to(tl.uint8))
    tl.store(pixel + (0 if REVERSE else 2), reds.to(tl.uint8))


@triton.jit(do_not_specialize=["size", "program_rows"])  # one binary for all: the one that the self-check checked
def _kernel(
    slab,  # [n_words] int32: pixels of all sources, three bytes each
    sources,  # [N, 5] int64: first word, height, words a row, x0, y0
    source_of,  # [K] int32
    tables,  # [K, 4, S] int32: dx, dy, X0, Y0
    weights,  # [1024, TAPS * TAPS / 4] int64
    rows,  # [n] int32: the crops of this launch
    crops,  # [K, S, S, 3] uint8
    size,  # S
    program_rows,  # crop rows of one program, a multiple of TILE_Y
    TAPS: tl.constexpr,  # 4 is cubic, 2 is linear
    INSIDE: tl.constexpr,  # no tap lies outside the source
    REVERSE: tl.constexpr,  # write the channels in reverse order
    TILE_X: tl.constexpr,
    TILE_Y: tl.constexpr,
):
    crop = tl.load(rows + tl.program_id(2)).to(tl.int64)
    place = sources + tl.load(source_of + crop).to(tl.int64) * 5
    source = slab + tl.load(place)
    height, stride = tl.load(place + 1).to(tl.int32), tl.load(place + 2).to(tl.int32)
    x0 = tl.load(place + 3).to(tl.int32) + (TAPS // 2 - 1)
    y0 = tl.load(place + 4).to(tl.int32) + (TAPS // 2 - 1)

    # Beyond the crop the last pixel is cut once more.
    x = tl.program_id(0) * (2 * TILE_X) + tl.arange(0, TILE_X)
    x_left, x_right = tl.minimum(x, size - 1), tl.minimum(x + TILE_X, size - 1)
    table = tables + crop * (4 * size)
    dx_left, dy_left = tl.load(table + x_left)[None, :], tl.load(table + size + x_left)[None, :]
    dx_right, dy_right = tl.load(table + x_right)[None, :], tl.load(table + size + x_right)[None, :]
    pixel = crops + crop * (3 * size * size)
    column_left, column_right = (pixel + x_left * 3)[None, :], (pixel + x_right * 3)[None, :]
    first = tl.program_id(1) * program_rows
    last = tl.minimum(first + program_rows, size)
    while first < last:
        y = tl.minimum(first + tl.arange(0, TILE_Y), size - 1)
        X = tl.load(table + 2 * size + y)[:, None]
        Y = tl.load(table + 3 * size + y)[:, None]
        line = (y.to(tl.int64) * (3 * size))[:, None]
        left, right = column_left + line, column_right + line
        _cut(source, height, stride, x0, y0, X + dx_left, Y + dy_left, weights, left, TAPS, INSIDE, REVERSE)
        _cut(source, height, stride, x0, y0, X + dx_right, Y + dy_right, weights, right, TAPS, INSIDE, REVERSE)
        first += TILE_Y


@cache
def _weights_on(device: torch.device, cubic: bool) -> torch.Tensor:
    """The weights on a device, [1024, k * k / 4] int64: four int16 each, two columns of two rows, column by column."""
    table = weights(cubic)
    k = table.shape[1]
    fours = table.reshape(1024, k // 2, 2, k).swapaxes(2, 3).reshape(1024, -1).view(np.int64)
    return torch.from_numpy(fours).to(device)


@cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else MULTIPROCESSORS


def rows_of_a_program(n: int, size: int, multiprocessors: int) -> int:
    """Crop rows that one program cuts, of n crops: with many less is read twice, with few more programs share the work.

    Two turns of the loop at least, so that `self_check` sees it turn.
    """
    rows = MOST_ROWS
    while rows > 2 * TILE_Y and n * -(-size // (2 * TILE_X)) * -(-size // rows) < PROGRAMS * multiprocessors:
        rows //= 2
    return rows


def is_interpreted() -> bool:
    """Whether this module was imported under TRITON_INTERPRET=1, so that the kernel runs on CPU tensors."""
    return bool(INTERPRETED.value)


def launch(
    slab: torch.Tensor,  # [n_bytes] uint8, filled by fill()
    sources: torch.Tensor,  # [N, 5] int64, of slab_layout
    source_of: torch.Tensor,  # [K] int32, index into sources
    tables: torch.Tensor,  # [K, 4, S] int32, of tables.coordinate_tables
    rows: torch.Tensor,  # [n] int32: the crops to cut
    cubic: bool,
    inside: bool,  # slab.lies_inside holds for all of them; False is as right, only slower
    crops: torch.Tensor,  # [K, S, S, 3] uint8, written at `rows`
    reverse: bool = False,  # write the channels in reverse order: BGR frames, RGB crops
) -> None:
    """Cut the crops `rows`, all tensors on one device, on its current stream.

    Does not wait for the device, but for the first use of an interpolation on it, when its weights are uploaded.

    Raises TypeError or ValueError for a tensor of another type, shape, dtype or device. Indices on the device are not
    read back: `source_of` must lie in 0 .. N-1, `rows` in 0 .. K-1, and `inside` be so.
    """
    K, S = (tables.shape[0], tables.shape[2]) if isinstance(tables, torch.Tensor) and tables.ndim == 3 else (-1, -1)
    _check("tables", tables, (None, 4, None), torch.int32, tables)
    _check("slab", slab, (None,), torch.uint8, tables)
    _check("sources", sources, (None, 5), torch.int64, tables)
    _check("source_of", source_of, (K,), torch.int32, tables)
    _check("rows", rows, (None,), torch.int32, tables)
    _check("crops", crops, (K, S, S, 3), torch.uint8, tables)
    if slab.numel() % WORD or slab.data_ptr() % WORD:
        raise ValueError(f"slab must be whole 32-bit words, got {slab.numel()} bytes; size it by slab_layout")
    if 3 * S * S >= 2**31:
        raise ValueError(f"a crop must be smaller than 2 GiB, got size {S}")
    if tables.device.type != ("cpu" if is_interpreted() else "cuda"):
        raise ValueError(f"tensors must be on a CUDA device, got {tables.device}; on a CPU use kernels.cpu")
    if not len(rows) or not S:
        return
    with torch.cuda.device_of(tables):
        for part in rows.split(MAX_CROPS):
            program_rows = rows_of_a_program(len(part), S, _multiprocessors(tables.device))
            _kernel[(triton.cdiv(S, 2 * TILE_X), triton.cdiv(S, program_rows), len(part))](
                slab.view(torch.int32),
                sources,
                source_of,
                tables,
                _weights_on(tables.device, cubic),
                part,
                crops,
                S,
                program_rows,
                TAPS=4 if cubic else 2,
                INSIDE=bool(inside),
                REVERSE=bool(reverse),
                TILE_X=TILE_X,
                TILE_Y=TILE_Y,
                **COMPILE_OPTIONS,
            )


def rows_of_kinds(cubic: np.ndarray, inside: np.ndarray) -> dict[tuple[bool, bool], np.ndarray]:
    """The crops of each of the four kinds that `launch` tells apart: (cubic, inside) -> [n] int32.

    cubic, inside: [K] bool.
    """
    return {
        (is_cubic, is_inside): np.flatnonzero((cubic == is_cubic) & (inside == is_inside)).astype(np.int32)
        for is_cubic in (True, False)
        for is_inside in (True, False)
    }


def _check(name: str, tensor: object, shape: tuple[int | None, ...], dtype: torch.dtype, beside: object) -> None:
    """One sentence if a tensor is not what the kernel reads; None in `shape` is any length."""
    wanted = f"[{', '.join('any' if n is None else str(n) for n in shape)}] {str(dtype).removeprefix('torch.')}"
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{name} must be a torch tensor {wanted}, got {type(tensor).__name__}")
    fits = tensor.ndim == len(shape) and all(n in (None, m) for n, m in zip(shape, tensor.shape, strict=True))
    if not fits or tensor.dtype != dtype:
        raise ValueError(
            f"{name} must be {wanted}, got {list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
        )
    if not tensor.is_contiguous():
        raise ValueError(f"{name} must be contiguous; pass {name}.contiguous()")
    if isinstance(beside, torch.Tensor) and tensor.device != beside.device:
        raise ValueError(f"{name} must be on {beside.device} like the tables, got {tensor.device}")


def warp_affine(
    sources: Sequence[np.ndarray],  # each [h, w, 3] uint8, a piece of a frame
    source_of: Sequence[int] | np.ndarray,  # [K], index into sources
    crop_from_frame: np.ndarray,  # [K, 2, 3] float64
    cubic: Sequence[bool] | np.ndarray,  # [K]; False is linear
    size: int,  # S
    origins: Sequence[tuple[int, int]] | None = None,  # frame pixel (x, y) of each source's [0, 0]; None: all (0, 0)
    device: torch.device | str = "cuda",
    reverse: bool = False,  # write the channels in reverse order
    out: torch.Tensor | None = None,  # [K, S, S, 3] uint8 on the device; None makes one
) -> torch.Tensor:  # out
    """Cut each crop from its source, as `reference.warp_affine` does, to the byte; the sources are uploaded first.

    Raises ValueError for arrays of another shape or dtype, or an index that names no source.
    """
    device = torch.device(device)
    K = len(crop_from_frame)
    cubic, source_of = np.asarray(cubic, dtype=bool), np.asarray(source_of, dtype=np.int32)
    if cubic.shape != (K,) or source_of.shape != (K,):
        raise ValueError(
            f"source_of and cubic must be [{K}] like the matrices, got {list(source_of.shape)} and {list(cubic.shape)}"
        )
    if K and not (source_of.min() >= 0 and source_of.max() < len(sources)):
        raise ValueError(f"source_of must lie in 0 .. {len(sources) - 1}, got {source_of.min()} .. {source_of.max()}")
    layout, n_bytes = slab_layout([source.shape[:2] for source in sources], origins)
    slab = np.empty(n_bytes, dtype=np.uint8)
    for place, source in zip(layout, sources, strict=True):
        fill(slab, place, source)
    if out is None:
        out = torch.empty((K, size, size, 3), dtype=torch.uint8, device=device)
    tables = coordinate_tables(crop_from_frame, size)
    inside = lies_inside(tables, cubic, source_of, layout)
    slab_there, layout_there, source_of_there, tables_there = (
        torch.from_numpy(array).to(device) for array in (slab, layout, source_of, tables)
    )
    for (is_cubic, is_inside), rows in rows_of_kinds(cubic, inside).items():
        rows_there = torch.from_numpy(rows).to(device)
        launch(slab_there, layout_there, source_of_there, tables_there, rows_there, is_cubic, is_inside, out, reverse)
    return out


def self_check(device: torch.device | str = "cuda") -> bool:
    """Whether the kernel, compiled for this device, cuts small built-in crops to the byte: one of each kind.

    Compiles the kernel where that was not done before (seconds; Triton caches it on disk), else takes milliseconds.
    """
    case = check_case()
    return np.array_equal(warp_affine(*case, device=device).cpu().numpy(), reference.warp_affine(*case))


def check_case() -> tuple[list[np.ndarray], np.ndarray, np.ndarray, np.ndarray, int]:
    """What `self_check` cuts: sources, source_of, crop_from_frame, cubic, size as of `warp_affine`."""
    y, x = np.mgrid[0:57, 0:83]
    frame = np.stack([(x * x + 7 * y) % 256, (x * y) % 251, 255 * ((x ^ y) & 1)], axis=2).astype(np.uint8)
    turn = np.array([[0.9, -0.5], [0.5, 0.9]])
    matrices = np.stack([
        np.c_[scale * turn, 12 - scale * turn @ centre]
        for centre in ((41.3, 28.6), (2.7, 55.1))
        for scale in (1.7, 0.65)
    ])  # fmt: skip
    return [frame], np.zeros(4, dtype=np.int32), matrices, np.array([True, False, True, False]), 24
