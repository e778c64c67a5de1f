"""What a pickle may name and call: inert stand-ins for the few functions that array pickles need.

A name is an exact (module, name) pair of `GLOBALS`; what it stands for is code of this module that checks its
arguments and makes a `PackedArray`, a NumPy scalar or bytes. Nothing of NumPy's own unpickling is ever called.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu_extract.alignments.limits import shown
from gpu_extract.alignments.packed import DTYPES, PackedArray
from gpu_extract.errors import AlignmentsError, UnsafePickleError


class Marker:
    """Something that only the reader itself uses; a file that leaves one among its data is refused."""

    def __init__(self, name: str) -> None:
        self.name = name


class Dtype(Marker):
    """Stand-in for numpy.dtype: what BUILD completes with the byte order."""

    dtype: np.dtype

    @classmethod
    def named(cls, code: Any, label: str) -> Dtype:
        known = DTYPES.get(code.lstrip("<>|=")) if isinstance(code, str) else None
        if known is None:
            raise UnsafePickleError(f"{label} holds an array of type {shown(code)}; only plain numbers are read.")
        made = cls(code)
        made.dtype = known.newbyteorder(code[0]) if code[0] in "<>" else known
        return made

    def build(self, state: Any, label: str) -> None:
        if type(state) is not tuple or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise AlignmentsError(f"{label} holds an array type with an unknown description.")
        if any(part is not None for part in state[2:5]):
            raise UnsafePickleError(f"{label} holds arrays with named or nested fields; only plain numbers are read.")
        self.dtype = self.dtype.newbyteorder(state[1])


HOLE: Any = Marker("hole")  # memo entry of something inside a packed list or array
RECONSTRUCT = Marker("numpy.core.multiarray._reconstruct")
FROM_BUFFER = Marker("numpy.core.numeric._frombuffer")
SCALAR = Marker("numpy.core.multiarray.scalar")
NDARRAY = Marker("numpy.ndarray")
DTYPE = Marker("numpy.dtype")
ENCODE = Marker("_codecs.encode")
BYTES = Marker("builtins.bytes")
BYTEARRAY = Marker("builtins.bytearray")

GLOBALS = {
    ("numpy.core.multiarray", "_reconstruct"): RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): RECONSTRUCT,
    ("numpy.core.numeric", "_frombuffer"): FROM_BUFFER,
    ("numpy._core.numeric", "_frombuffer"): FROM_BUFFER,
    ("numpy.core.multiarray", "scalar"): SCALAR,
    ("numpy._core.multiarray", "scalar"): SCALAR,
    ("numpy", "ndarray"): NDARRAY,
    ("numpy", "dtype"): DTYPE,
    ("_codecs", "encode"): ENCODE,
    ("__builtin__", "bytes"): BYTES,
    ("builtins", "bytes"): BYTES,
    ("__builtin__", "bytearray"): BYTEARRAY,
    ("builtins", "bytearray"): BYTEARRAY,
}

NUMPY_2 = "numpy._core"
"""How the names of NumPy 2 begin, where NumPy 1 has numpy.core."""

MAX_DIMENSIONS = 4


def stand_in(module: Any, name: Any, label: str) -> Marker:
    """What the global `module`.`name` stands for; `label` is the file's name. Raises UnsafePickleError."""
    if not isinstance(module, str) or not isinstance(name, str):
        raise UnsafePickleError(f"{label} asks for a name that is not text, which is not data; nothing of it was run.")
    marker = GLOBALS.get((module, name))
    if marker is None:
        asked = shown(f"{module}.{name}").replace("'", "")
        raise UnsafePickleError(
            f"{label} asks for {asked}, which is not data; nothing of it was run, and it is not an alignments file to "
            "trust."
        )
    return marker


def call(function: Any, arguments: Any, label: str) -> Any:
    """What a pickle gets when it calls `function`, the instruction REDUCE."""
    if type(arguments) is not tuple or type(function) is not Marker:
        raise UnsafePickleError(f"{label} calls something that is not a function of its format.")
    if function is RECONSTRUCT and arguments[0] is NDARRAY:
        return PackedArray(b"", DTYPES["i1"], (0,))
    if function is DTYPE and len(arguments) <= 3:
        return Dtype.named(arguments[0], label)
    if function is FROM_BUFFER and len(arguments) == 4 and arguments[3] in ("C", "F"):
        raw, dtype, shape, order = arguments
        return checked_array(raw, dtype, shape, order == "F", label)
    if function is SCALAR and len(arguments) == 2:
        dtype, raw = arguments
        return checked_array(raw, dtype, (), False, label).unpack()[()]
    if function is ENCODE and len(arguments) == 2 and arguments[1] == "latin1" and type(arguments[0]) is str:
        return arguments[0].encode("latin1")
    if function in (BYTES, BYTEARRAY) and arguments == ():
        return b""
    if function is BYTEARRAY and len(arguments) == 1 and type(arguments[0]) is bytes:
        return arguments[0]
    raise UnsafePickleError(f"{label} calls {function.name} in a way that no alignments file does.")


def set_state(target: Any, state: Any, label: str) -> None:
    """What the instruction BUILD does to `target`."""
    if type(target) is Dtype:
        target.build(state, label)
    elif type(target) is PackedArray and type(state) is tuple and len(state) == 5:
        array = checked_array(state[4], state[2], state[1], state[3], label)
        target.raw, target.dtype, target.shape, target.fortran = array.raw, array.dtype, array.shape, array.fortran
    else:
        raise UnsafePickleError(f"{label} sets the state of something that is not an array.")


def checked_array(raw: Any, dtype: Any, shape: Any, fortran: Any, label: str) -> PackedArray:
    """An array of `raw`, after all the checks that NumPy would not make."""
    if type(raw) is str:
        raw = raw.encode("latin1")
    if type(dtype) is not Dtype or type(shape) is not tuple or type(raw) is not bytes:
        raise UnsafePickleError(f"{label} holds an array that is not plain numbers.")
    if len(shape) > MAX_DIMENSIONS:
        raise AlignmentsError(f"{label} holds an array of {len(shape)} dimensions; at most {MAX_DIMENSIONS} are read.")
    count = 1
    for size in shape:
        if type(size) is not int or size < 0:
            raise AlignmentsError(f"{label} is damaged: the shape of an array makes no sense.")
        count *= size
    if count * dtype.dtype.itemsize != len(raw):
        raise AlignmentsError(f"{label} is damaged: an array of shape {shape} has {len(raw)} bytes.")
    return PackedArray(raw, dtype.dtype, shape, bool(fortran))
