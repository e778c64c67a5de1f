"""The exact warp on a CUDA device: one Triton kernel, all crops of one interpolation in one launch.

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
from gpu_extract.kernels.slab import WORD, fill, slab_layout
from gpu_extract.kernels.tables import coordinate_tables, weights

TILE_X, TILE_Y = 32, 8  # crop pixels of one program; a tile, so that the rows of a turned crop share cache lines
MAX_CROPS = 65535  # of one launch: the third axis of a CUDA grid
COMPILE_OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}


@triton.jit
def _shifted(low, high, bits):
    """The 32 bits that start `bits` (0 to 31) above the lowest bit of two neighbouring words."""
    return (((high.to(tl.uint64) << 32) | low.to(tl.uint64)) >> bits.to(tl.uint64)).to(tl.uint32)


@triton.jit
def _byte(word, index: tl.constexpr):
    return ((word >> (8 * index)) & 0xFF).to(tl.int32)


@triton.jit
def _is_below(index, length):
    """0 <= index < length, in one comparison."""
    return index.to(tl.uint32, bitcast=True) < length.to(tl.uint32, bitcast=True)


@triton.jit
def _word(address, inside):
    return tl.load(address, mask=inside, other=0).to(tl.uint32, bitcast=True)


@triton.jit
def _to_uint8(total):
    return tl.minimum(tl.maximum(total >> 15, 0), 255).to(tl.uint8)


@triton.jit(do_not_specialize=["size"])  # one binary for every size: the one that the self-check checked
def _kernel(
    slab,  # [n_words] int32: pixels of all sources, three bytes each
    sources,  # [N, 5] int64: first word, height, words a row, x0, y0
    source_of,  # [K] int32
    tables,  # [K, 4, S] int32: dx, dy, X0, Y0
    weights,  # [1024, TAPS, TAPS / 2] int32: pairs of int16
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
    in_crop = (y < size)[:, None] & (x < size)[None, :]

    table = tables + crop * 4 * size
    dx = tl.load(table + x, mask=x < size, other=0)[None, :]
    dy = tl.load(table + size + x, mask=x < size, other=0)[None, :]
    X = (tl.load(table + 2 * size + y, mask=y < size, other=0)[:, None] + dx) >> 5  # [TILE_Y, TILE_X], 1/32 px
    Y = (tl.load(table + 3 * size + y, mask=y < size, other=0)[:, None] + dy) >> 5
    weight = weights + ((Y & 31) * 32 + (X & 31)) * (TAPS * TAPS // 2)

    source = sources + tl.load(source_of + crop).to(tl.int64) * 5
    first_word = tl.load(source)
    height = tl.load(source + 1).to(tl.int32)
    stride = tl.load(source + 2).to(tl.int32)
    left = tl.minimum(tl.maximum(X >> 5, -32768), 32767) - (TAPS // 2 - 1) - tl.load(source + 3).to(tl.int32)
    top = tl.minimum(tl.maximum(Y >> 5, -32768), 32767) - (TAPS // 2 - 1) - tl.load(source + 4).to(tl.int32)

    # The taps of a row are 3 * TAPS bytes that start anywhere in a word. Rows start on a word and end in zero bytes, so
    # bytes of words that lie outside, or of the padding, are the zeros that taps outside the source count as.
    word = (left * 3) >> 2
    bits = ((left * 3) & 3) * 8
    has0 = in_crop & _is_below(word, stride)
    has1 = in_crop & _is_below(word + 1, stride)
    has2 = in_crop & _is_below(word + 2, stride)
    has3 = in_crop & _is_below(word + 3, stride)
    address = slab + (first_word + top.to(tl.int64) * stride + word)
    blue = tl.full([TILE_Y, TILE_X], 1 << 14, tl.int32)  # one half, to round by
    green = tl.full([TILE_Y, TILE_X], 1 << 14, tl.int32)
    red = tl.full([TILE_Y, TILE_X], 1 << 14, tl.int32)
    for i in tl.static_range(TAPS):
        has_row = _is_below(top + i, height)
        word1 = _word(address + 1, has_row & has1)
        word2 = _word(address + 2, has_row & has2)
        a = _shifted(_word(address, has_row & has0), word1, bits)
        b = _shifted(word1, word2, bits)
        pair = tl.load(weight + i * (TAPS // 2))
        w0, w1 = (pair << 16) >> 16, pair >> 16
        blue += w0 * _byte(a, 0) + w1 * _byte(a, 3)
        green += w0 * _byte(a, 1) + w1 * _byte(b, 0)
        red += w0 * _byte(a, 2) + w1 * _byte(b, 1)
        if TAPS == 4:
            c = _shifted(word2, _word(address + 3, has_row & has3), bits)
            pair = tl.load(weight + i * 2 + 1)
            w2, w3 = (pair << 16) >> 16, pair >> 16
            blue += w2 * _byte(b, 2) + w3 * _byte(c, 1)
            green += w2 * _byte(b, 3) + w3 * _byte(c, 2)
            red += w2 * _byte(c, 0) + w3 * _byte(c, 3)
        address += stride

    pixel = crops + ((crop * size + y[:, None]) * size + x[None, :]) * 3
    tl.store(pixel + (2 if REVERSE else 0), _to_uint8(blue), mask=in_crop)
    tl.store(pixel + 1, _to_uint8(green), mask=in_crop)
    tl.store(pixel + (0 if REVERSE else 2), _to_uint8(red), mask=in_crop)


@cache
def _weight_pairs(cubic: bool, device: torch.device) -> torch.Tensor:
    """The weights on a device, int32 [n]: two int16 of one row in each."""
    return torch.from_numpy(weights(cubic).reshape(-1).view(np.int32).copy()).to(device)


def is_interpreted() -> bool:
    """Whether this module was imported under TRITON_INTERPRET=1, so that the kernel runs on CPU tensors."""
    return not isinstance(_kernel, triton.JITFunction)


def launch(
    slab: torch.Tensor,  # [n_bytes] uint8, filled by fill()
    sources: torch.Tensor,  # [N, 5] int64, of slab_layout
    source_of: torch.Tensor,  # [K] int32, index into sources
    tables: torch.Tensor,  # [K, 4, S] int32, of tables.coordinate_tables
    rows: torch.Tensor,  # [n] int32: the crops to cut, those of one interpolation
    cubic: bool,
    crops: torch.Tensor,  # [K, S, S, 3] uint8, written at `rows`
    reverse: bool = False,  # write the channels in reverse order: BGR frames, RGB crops
) -> None:
    """Cut the crops `rows`, all tensors on one device, on its current stream; does not wait for the device.

    Raises TypeError or ValueError for a tensor of another type, shape, dtype or device. Indices on the device are not
    read back: `source_of` must lie in 0 .. N-1 and `rows` in 0 .. K-1.
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
                tables,
                _weight_pairs(cubic, tables.device),
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
    arrays = (slab, layout, source_of, coordinate_tables(crop_from_frame, size))
    slab_there, layout_there, source_of_there, tables = (torch.from_numpy(array).to(device) for array in arrays)
    for is_cubic in (True, False):
        rows = torch.from_numpy(np.flatnonzero(cubic == is_cubic).astype(np.int32)).to(device)
        launch(slab_there, layout_there, source_of_there, tables, rows, is_cubic, out, reverse)
    return out


def self_check(device: torch.device | str = "cuda") -> bool:
    """Whether the kernel, compiled for this device, cuts a small built-in crop of each interpolation to the byte.

    Compiles the kernel where that was not done before (seconds; Triton caches it on disk), else takes milliseconds.
    """
    y, x = np.mgrid[0:37, 0:53]
    frame = np.stack([(x * x + 7 * y) % 256, (x * y) % 251, 255 * ((x ^ y) & 1)], axis=2).astype(np.uint8)
    turn = np.array([[0.9, -0.5], [0.5, 0.9]])
    matrices = np.stack([np.c_[scale * turn, [9.3, -4.7]] for scale in (1.7, 1.7, 0.45, 0.45)])
    case = ([frame], np.zeros(4, dtype=np.int32), matrices, [True, False, True, False], 24)
    return np.array_equal(warp_affine(*case, device=device).cpu().numpy(), reference.warp_affine(*case))
