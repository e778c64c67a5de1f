"""Bulk numbers as they stand in a file, held as bytes: a million faces' landmarks fit in memory only this way.

A pickled array becomes a PackedArray, a long list of numbers a PackedList; `unpack` turns a tree that holds them back
into plain values. Both are immutable once built.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# The number types that an array in a file may have; never objects, records or text.
DTYPES = {code: np.dtype(code) for code in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")}


class PackedArray:
    """An ndarray: `raw` holds its elements in memory order, `fortran` says that the first index runs fastest."""

    __slots__ = ("dtype", "fortran", "raw", "shape")

    def __init__(self, raw: bytes, dtype: np.dtype, shape: tuple[int, ...], fortran: bool = False) -> None:
        self.raw = raw
        self.dtype = dtype
        self.shape = shape
        self.fortran = fortran

    @classmethod
    def of(cls, array: np.ndarray) -> PackedArray:
        if array.dtype.newbyteorder("=") not in DTYPES.values():
            raise ValueError(f"arrays of {array.dtype} cannot stand in an alignments file")
        return cls(array.tobytes(), array.dtype, array.shape)

    def unpack(self) -> np.ndarray:
        """A fresh array that can be written to."""
        order = "F" if self.fortran else "C"
        array: np.ndarray = np.frombuffer(self.raw, self.dtype).reshape(self.shape, order=order).copy(order)  # type: ignore[call-overload]
        return array


class PackedList:
    """A list of numbers [n], or of pairs [n, 2] whose pairs are lists or tuples.

    `dtype` is float32 (Python floats that all are exact float32 values), float64, uint8 or int32 (Python ints).
    """

    __slots__ = ("dtype", "pair", "raw", "shape")

    def __init__(self, raw: bytes, dtype: np.dtype, shape: tuple[int, ...], pair: type = list) -> None:
        self.raw = raw
        self.dtype = dtype
        self.shape = shape
        self.pair = pair

    def unpack(self) -> list[Any]:
        values = np.frombuffer(self.raw, self.dtype).reshape(self.shape).tolist()
        return list(map(tuple, values)) if self.pair is tuple else values


Packed = (PackedArray, PackedList)


def pack_points(points: list[Any]) -> list[Any] | PackedList:
    """`points` itself, or packed if it is a list of at least four pairs of one type, all ints or all floats."""
    if len(points) < 4:
        return points
    pair = type(points[0])
    if (pair is not list and pair is not tuple) or any(type(point) is not pair or len(point) != 2 for point in points):
        return points
    kinds = {type(value) for point in points for value in point}
    if kinds == {float}:
        wide = np.array(points, np.float64)
        with np.errstate(all="ignore"):
            narrow = wide.astype(np.float32)
        values: np.ndarray = narrow if np.array_equal(narrow, wide) else wide
    elif kinds == {int}:
        if not all(-(1 << 31) <= value < 1 << 31 for point in points for value in point):
            return points
        values = np.array(points, np.int32)
    else:
        return points
    return PackedList(values.tobytes(), values.dtype, values.shape, pair)


def plain(value: Any) -> Any:
    """A packed value, an array or a NumPy number in Python's own lists and numbers, for files that know no others."""
    value = unpack(value)
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def unpack(value: Any) -> Any:
    """`value` with every packed part replaced; containers are copied, so the result is the caller's own."""
    kind = type(value)
    if kind is PackedArray or kind is PackedList:
        return value.unpack()
    if kind is dict:
        return {key: unpack(item) for key, item in value.items()}
    if kind is list:
        return [unpack(item) for item in value]
    if kind is tuple:
        return tuple([unpack(item) for item in value])
    return value.copy() if isinstance(value, np.ndarray) else value
