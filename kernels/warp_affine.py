"""The exact warp on a CUDA device: one Triton kernel, all crops of one interpolation in one launch.

The kernel reads uint8 pixels where they lie and writes uint8 crops; every operation on the way is an integer one, so
the bytes equal those of `reference.warp_affine`. Pieces of frames of any sizes lie in one buffer, the slab:

    sources, n_bytes = slab_layout(sizes, origins)         where each piece goes
    fill(slab, sources[i], pixels)                         on the host, in pinned memory if there is any
    launch(slab, sources, source_of, inside, ...)          on the device, on the current stream, without a wait

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

TILE_X, TILE_Y = 32, 8  # crop pixels of one program; a tile, so that the rows of a turned crop share cache lines
MAX_CROPS = 65532  # of one launch, on the third axis of a CUDA grid; four at a time, so that each part is aligned alike
COMPILE_OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}


@triton.jit
def _is_below(index, length):
    """0 <= index < length, in one comparison."""
    return index.to(tl.uint32, bitcast=True) < length.to(tl.uint32, bitcast=True)


# Triton's interpreter knows no PTX: for it, and for readers, both instructions are written out as well.
INTERPRETED = tl.constexpr(not isinstance(_is_below, triton.JITFunction))


@triton.jit
def _byte(low, high, i: tl.constexpr):
    """Byte i of two words, 0 to 3 of the low one, 4 to 7 of the high one."""
    word = low if i < 4 else high
    return (word >> (8 * (i % 4))) & 0xFF


@triton.jit
def _gathered(low, high, ORDER: tl.constexpr):
    """A word of four bytes of two others: the hexadecimal digits of ORDER, from the right, say which."""
    if INTERPRETED:
        gathered = _byte(low, high, ORDER & 15)
        for i in tl.static_range(1, 4):
            gathered |= _byte(low, high, (ORDER >> (4 * i)) & 15) << (8 * i)
    else:
        gathered = tl.inline_asm_elementwise(
            "prmt.b32 $0, $1, $2, $3;", "=r,r,r,r", [low, high, ORDER], dtype=tl.uint32, is_pure=True, pack=1
        )
    return gathered


@triton.jit
def _with_two_taps(total, pair, taps, HIGH: tl.constexpr):
    """total + two weights, int16 in `pair`, times two bytes of `taps`: the upper ones if HIGH."""
    if INTERPRETED:
        first: tl.constexpr = 2 if HIGH else 0
        total += ((pair << 16) >> 16) * _byte(taps, taps, first).to(tl.int32)
        total += (pair >> 16) * _byte(taps, taps, first + 1).to(tl.int32)
    else:
        DP2A: tl.constexpr = "dp2a.hi.s32.u32 $0, $1, $2, $3;" if HIGH else "dp2a.lo.s32.u32 $0, $1, $2, $3;"
        total = tl.inline_asm_elementwise(DP2A, "=r,r,r,r", [pair, taps, total], dtype=tl.int32, is_pure=True, pack=1)
    return total


@triton.jit
def _word(address, inside, MASKED: tl.constexpr):
    word = tl.load(address, mask=inside, other=0) if MASKED else tl.load(address)
    return word.to(tl.uint32, bitcast=True)


@triton.jit
def _shifted(low, high, bits):
    """The 32 bits that start `bits` (0 to 31) above the lowest bit of two neighbouring words."""
    return (((high.to(tl.uint64) << 32) | low.to(tl.uint64)) >> bits.to(tl.uint64)).to(tl.uint32)


@triton.jit
def _sums(source, height, stride, left, top, weight, TAPS: tl.constexpr, MASKED: tl.constexpr):
    """Weighted sums of blue, green and red over TAPS x TAPS pixels from (left, top) on, and one half to round by.

    The taps of a row are 3 * TAPS bytes that start anywhere in a word. Rows start on a word and end in zero bytes, so
    bytes of words that lie outside, or of the padding, are the zeros that taps outside the source count as.
    """
    word = (left * 3) >> 2
    bits = ((left * 3) & 3) * 8
    has0, has1 = _is_below(word, stride), _is_below(word + 1, stride)
    has2, has3 = _is_below(word + 2, stride), _is_below(word + 3, stride)
    address = source + (top * stride + word)
    blue = tl.full(left.shape, 1 << 14, tl.int32)
    green = tl.full(left.shape, 1 << 14, tl.int32)
    red = tl.full(left.shape, 1 << 14, tl.int32)
    for i in tl.static_range(TAPS):
        has_row = _is_below(top + i, height)
        word1 = _word(address + 1, has_row & has1, MASKED)
        word2 = _word(address + 2, has_row & has2, MASKED)
        a = _shifted(_word(address, has_row & has0, MASKED), word1, bits)  # BGRB
        b = _shifted(word1, word2, bits)  # GRBG
        blue_green = _gathered(a, b, 0x4130)  # two blues, two greens
        reds = _gathered(a, b, 0x0052)
        if TAPS == 4:
            c = _shifted(word2, _word(address + 3, has_row & has3, MASKED), bits)  # RBGR
            blue_green_right = _gathered(b, c, 0x6352)
            reds = _gathered(reds, c, 0x7410)
            row = tl.load(weight + i * 1024)
            pair, pair_right = row.to(tl.int32), (row >> 32).to(tl.int32)
            blue = _with_two_taps(blue, pair_right, blue_green_right, False)
            green = _with_two_taps(green, pair_right, blue_green_right, True)
            red = _with_two_taps(red, pair_right, reds, True)
        else:
            pair = (tl.load(weight) >> (32 * i)).to(tl.int32)
        blue = _with_two_taps(blue, pair, blue_green, False)
        green = _with_two_taps(green, pair, blue_green, True)
        red = _with_two_taps(red, pair, reds, False)
        address += stride
    return blue, green, red


@triton.jit
def _to_uint8(total):
    return tl.minimum(tl.maximum(total >> 15, 0), 255).to(tl.uint8)


@triton.jit(do_not_specialize=["size"])  # one binary for every size: the one that the self-check checked
def _kernel(
    slab,  # [n_words] int32: pixels of all sources, three bytes each
    sources,  # [N, 5] int64: first word, height, words a row, x0, y0
    source_of,  # [K] int32
    inside,  # [K] int32: 1 where no tap lies outside the source
    tables,  # [K, 4, S] int32: dx, dy, X0, Y0
    weights,  # [TAPS * TAPS / 4, 1024] int64: four int16 each
    rows,  # [n] int32: the crops of this launch
    crops,  # [K, S, S, 3] uint8
    size,  # S
    TAPS: tl.constexpr,  # 4 is cubic, 2 is linear
    REVERSE: tl.constexpr,  # write the channels in reverse order
    TILE_X: tl.constexpr,
    TILE_Y: tl.constexpr,
):
    x = tl.program_id(0) * TILE_X + tl.arange(0, TILE_X)
    y = tl.program_id(1) * TILE_Y + tl.arange(0, TILE_Y)
    crop = tl.load(rows + tl.program_id(2)).to(tl.int64)

    # Beyond the crop the last pixel is computed once more, which is as good a place to read as any, and not stored.
    table = tables + crop * 4 * size
    table_x, table_y = table + tl.minimum(x, size - 1), table + 2 * size + tl.minimum(y, size - 1)
    X = (tl.load(table_y)[:, None] + tl.load(table_x)[None, :]) >> 5  # [TILE_Y, TILE_X], 1/32 px
    Y = (tl.load(table_y + size)[:, None] + tl.load(table_x + size)[None, :]) >> 5
    weight = weights + ((Y & 31) * 32 + (X & 31))

    place = sources + tl.load(source_of + crop).to(tl.int64) * 5
    source = slab + tl.load(place)
    height = tl.load(place + 1).to(tl.int32)
    stride = tl.load(place + 2).to(tl.int32)
    x0 = tl.load(place + 3).to(tl.int32) + (TAPS // 2 - 1)
    y0 = tl.load(place + 4).to(tl.int32) + (TAPS // 2 - 1)
    if tl.load(inside + crop) != 0:
        blue, green, red = _sums(source, height, stride, (X >> 5) - x0, (Y >> 5) - y0, weight, TAPS, False)
    else:
        left = tl.minimum(tl.maximum(X >> 5, -32768), 32767) - x0
        top = tl.minimum(tl.maximum(Y >> 5, -32768), 32767) - y0
        blue, green, red = _sums(source, height, stride, left, top, weight, TAPS, True)

    in_crop = (y < size)[:, None] & (x < size)[None, :]
    pixel = crops + crop * size * size * 3 + (y[:, None] * size + x[None, :]) * 3
    tl.store(pixel + (2 if REVERSE else 0), _to_uint8(blue), mask=in_crop)
    tl.store(pixel + 1, _to_uint8(green), mask=in_crop)
    tl.store(pixel + (0 if REVERSE else 2), _to_uint8(red), mask=in_crop)


@cache
def _weights_on(device: torch.device, cubic: bool) -> torch.Tensor:
    """The weights on a device, [n, 1024] int64: four int16 each, those of one row if cubic."""
    fours = weights(cubic).reshape(1024, -1).view(np.int64)
    # Neighbouring pixels have neighbouring fractions: row by row, their weights share cache lines.
    return torch.from_numpy(fours.T.copy()).to(device)


def is_interpreted() -> bool:
    """Whether this module was imported under TRITON_INTERPRET=1, so that the kernel runs on CPU tensors."""
    return bool(INTERPRETED.value)


def launch(
    slab: torch.Tensor,  # [n_bytes] uint8, filled by fill()
    sources: torch.Tensor,  # [N, 5] int64, of slab_layout
    source_of: torch.Tensor,  # [K] int32, index into sources
    inside: torch.Tensor,  # [K] int32, 1 where slab.lies_inside; all 0 is as right, only slower
    tables: torch.Tensor,  # [K, 4, S] int32, of tables.coordinate_tables
    rows: torch.Tensor,  # [n] int32: the crops to cut, those of one interpolation
    cubic: bool,
    crops: torch.Tensor,  # [K, S, S, 3] uint8, written at `rows`
    reverse: bool = False,  # write the channels in reverse order: BGR frames, RGB crops
) -> None:
    """Cut the crops `rows`, all tensors on one device, on its current stream.

    Does not wait for the device, but for the first use of an interpolation on it, when its weights are uploaded.

    Raises TypeError or ValueError for a tensor of another type, shape, dtype or device. Indices on the device are not
    read back: `source_of` must lie in 0 .. N-1, `rows` in 0 .. K-1, and `inside` be true.
    """
    K, S = (tables.shape[0], tables.shape[2]) if isinstance(tables, torch.Tensor) and tables.ndim == 3 else (-1, -1)
    _check("tables", tables, (None, 4, None), torch.int32, tables)
    _check("slab", slab, (None,), torch.uint8, tables)
    _check("sources", sources, (None, 5), torch.int64, tables)
    _check("source_of", source_of, (K,), torch.int32, tables)
    _check("inside", inside, (K,), torch.int32, tables)
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
            _kernel[(triton.cdiv(S, TILE_X), triton.cdiv(S, TILE_Y), len(part))](
                slab.view(torch.int32),
                sources,
                source_of,
                inside,
                tables,
                _weights_on(tables.device, cubic),
                part,
                crops,
                S,
                TAPS=4 if cubic else 2,
                REVERSE=reverse,
                TILE_X=TILE_X,
                TILE_Y=TILE_Y,
                **COMPILE_OPTIONS,
            )


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
    inside = lies_inside(tables, cubic, source_of, layout).astype(np.int32)
    slab_there, layout_there, source_of_there, inside_there, tables_there = (
        torch.from_numpy(array).to(device) for array in (slab, layout, source_of, inside, tables)
    )
    for is_cubic in (True, False):
        rows = torch.from_numpy(np.flatnonzero(cubic == is_cubic).astype(np.int32)).to(device)
        launch(slab_there, layout_there, source_of_there, inside_there, tables_there, rows, is_cubic, out, reverse)
    return out


def self_check(device: torch.device | str = "cuda") -> bool:
    """Whether the kernel, compiled for this device, cuts small built-in crops to the byte.

    One of each interpolation lies inside its frame, one reaches over its border. Compiles the kernel where that was not
    done before (seconds; Triton caches it on disk), else takes milliseconds.
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
