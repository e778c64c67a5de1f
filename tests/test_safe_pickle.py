"""The pickle reader: equal to Python's on data, deaf to everything else; the writer: readable by Python's."""

import io
import os
import pickle
import pickletools
import random
import re
import resource
import struct
import subprocess
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_extract.alignments import deflate
from gpu_extract.alignments.deflate import SMALL_STREAM, deflated, inflated
from gpu_extract.alignments.limits import Limits
from gpu_extract.alignments.packed import PackedArray, PackedList, unpack
from gpu_extract.alignments.pickles import number_lists, safe_pickle
from gpu_extract.alignments.pickles.pickle_writer import pickled
from gpu_extract.errors import AlignmentsError, UnsafePickleError
from tests.helpers import VECTORS, same

PICKLES = sorted([*VECTORS.glob("*/*.fsa"), *VECTORS.glob("*/*.p"), *VECTORS.glob("*/*.pickle")])
PICKLES = [path for path in PICKLES if not path.name.startswith("reject")]
PROTOCOLS = range(6)


def content(path: Path) -> bytes:
    raw = path.read_bytes()
    return zlib.decompress(raw) if path.suffix == ".fsa" else raw


def read(raw: bytes, *, stored: int | None = None, step: int | None = None, limits: Limits | None = None) -> Any:
    step = step or max(1, len(raw))

    def stream() -> Iterator[bytes]:
        return iter([raw[at : at + step] for at in range(0, len(raw), step)])

    return safe_pickle.load(stream, stored or len(raw), limits or Limits(), "file.fsa")[0]


def python_loads(raw: bytes) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # NumPy 2 on the older names of protocol 5 arrays
        return pickle.loads(raw)


def points(seed: int, count: int = 68, dtype: type = np.float32) -> np.ndarray:
    return (np.random.default_rng(seed).random((count, 2)) * 900).astype(dtype)


@pytest.mark.parametrize("path", PICKLES, ids=lambda path: path.name)
def test_real_files_read_as_python_reads_them(path: Path) -> None:
    raw = content(path)
    expected = python_loads(raw)
    assert same(unpack(read(raw)), expected)
    assert same(unpack(read(raw, step=1000)), expected)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("path", PICKLES[::4], ids=lambda path: path.name)
def test_real_data_in_every_protocol(path: Path, protocol: int) -> None:
    data = python_loads(content(path))
    assert same(unpack(read(pickle.dumps(data, protocol))), data)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("path", PICKLES[1::4], ids=lambda path: path.name)
def test_written_files_load_in_python_and_here(path: Path, protocol: int) -> None:
    data = python_loads(content(path))
    for tree in (read(content(path)), data):
        raw = b"".join(pickled(tree, protocol))
        assert same(pickle.loads(raw), data)  # with warnings as errors: the names are those NumPy 2 still takes
        assert same(unpack(read(raw)), data)


def test_written_files_name_the_modules_of_numpy_1() -> None:
    raw = b"".join(pickled({"a": points(1), "b": np.float64(1.5)}))
    globals_named = {
        arg for op, arg, _ in pickletools.genops(raw) if op.name == "SHORT_BINUNICODE" and "numpy" in str(arg)
    }
    assert globals_named == {"numpy.core.multiarray", "numpy"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("code", ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1", ">f4", ">i2"])
def test_every_number_type_and_layout(protocol: int, code: str) -> None:
    base = (np.random.default_rng(3).random((5, 7)) * 100).astype(code)
    data = {"c": base, "f": np.asfortranarray(base), "strided": base[::2, 1::3], "none": base[:0], "one": base[0, 0]}
    for raw in (pickle.dumps(data, protocol), b"".join(pickled(data, protocol))):
        got = unpack(read(raw))
        assert same(got, data)
    # NumPy itself turns foreign byte orders into its own when it loads.
    again = pickle.loads(b"".join(pickled(read(pickle.dumps(data, protocol)), protocol)))
    assert same(again, python_loads(pickle.dumps(data, min(protocol, 4))))
    assert again["f"].flags.f_contiguous


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=300)
    | st.binary(max_size=300),
    lambda part: (
        st.lists(part, max_size=6)
        | st.lists(part, max_size=5).map(tuple)
        | st.dictionaries(st.text(max_size=20), part, max_size=6)
    ),
    max_leaves=25,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.text(max_size=20), plain, max_size=6), st.sampled_from(PROTOCOLS))
def test_any_plain_data_goes_there_and_back(data: dict[str, Any], protocol: int) -> None:
    assert same(unpack(read(pickle.dumps(data, protocol))), data)
    raw = b"".join(pickled(data, protocol))
    assert same(pickle.loads(raw), data)
    assert same(unpack(read(raw)), data)


NUMBER_LISTS = {
    "float points": points(1).tolist(),
    "float points, not float32": points(2, dtype=np.float64).tolist(),
    "98 points": points(3, 98).tolist(),
    "1000 points": points(4, 1000).tolist(),
    "1001 points": points(5, 1001).tolist(),
    "2500 points": points(6, 2500).tolist(),
    "special floats": [[float("nan"), float("inf")], [-0.0, 1e300], [5e-324, 0.0], [-float("inf"), 3.0], [1.0, 2.0]],
    "int points": points(7, dtype=np.int32).tolist(),
    "int tuples": list(map(tuple, points(8, dtype=np.int32).tolist())),
    "negative int tuples": [(-x, 70_000 * y) for x, y in points(9, dtype=np.int32).tolist()],
    "98 int tuples": list(map(tuple, points(10, 98, np.int32).tolist())),
    "mixed": [[1, 2.0]] * 68,
    "bools": [[True, False]] * 68,
    "big ints": [[1 << 40, 2]] * 68,
    **{
        f"{n} small ints": [number % 256 for number in range(n)]
        for n in (7, 8, 999, 1000, 1001, 1002, 2000, 2001, 2137)
    },
    **{f"{n} floats": points(11, n)[:, 0].tolist() for n in (7, 8, 512, 1000, 1001, 3000)},
    "int and list": [[number % 256 for number in range(1000)], 5],
    "list of lists of ints": [[1] * 20, [2] * 20, 3],
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", NUMBER_LISTS)
def test_number_lists(name: str, protocol: int) -> None:
    # Two faces of everything, and text behind, so that memo numbers are used after the lists.
    data = {
        "a": {"points": pickle.loads(pickle.dumps(NUMBER_LISTS[name])), "late": 1},
        "b": {"points": NUMBER_LISTS[name]},
    }
    data["c"] = {"late": "late", "points": [NUMBER_LISTS[name]], "more": ("late",)}
    for raw in (pickle.dumps(data, protocol), b"".join(pickled(data, protocol))):
        tree = read(raw)
        assert same(unpack(tree), data)
        assert same(pickle.loads(b"".join(pickled(tree, protocol))), data)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("float points", "f4"), ("float points, not float32", "f8"), ("int points", "i4"), ("int tuples", "i4")],
)
def test_landmark_lists_are_packed(name: str, dtype: str) -> None:
    tree = read(pickle.dumps({"a": NUMBER_LISTS[name]}, 4))
    assert type(tree["a"]) is PackedList
    assert tree["a"].dtype == np.dtype(dtype)


def test_arrays_are_packed_with_and_without_their_shortcut() -> None:
    tree = read(pickle.dumps({"a": points(1), "b": points(2)}, 4))
    assert [type(value) for value in tree.values()] == [PackedArray, PackedArray]


@pytest.mark.parametrize("optimized", [False, True])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_of_many_kinds_in_turn(protocol: int, optimized: bool) -> None:
    kinds = [points(seed, 3 + seed, dtype) for seed, dtype in enumerate([np.float32, np.float64, np.int16] * 4)]
    data = {
        f"{turn} {n}": kind + turn for turn in range(3) for n, kind in enumerate([*kinds, np.asfortranarray(kinds[0])])
    }
    raw = pickle.dumps(data, protocol)
    assert same(unpack(read(pickletools.optimize(raw) if optimized else raw)), data)


@pytest.mark.parametrize("number", [6, 16], ids=["ndarray", "its dtype"])
def test_an_array_that_begins_as_one_before_is_read_by_what_the_memo_holds_now(number: int) -> None:
    raw = pickle.dumps([points(1), points(2), "between", points(3)], 4)
    assert same(unpack(read(raw)), python_loads(raw))
    between = b"\x8c\x07between\x94"
    assert raw.count(between) == 1
    changed = raw.replace(between, between + b"q%c" % number)  # the text takes the place of that name
    changed = changed[:3] + struct.pack("<Q", len(changed) - 11) + changed[11:]
    with pytest.raises(TypeError):
        python_loads(changed)
    with pytest.raises(AlignmentsError):
        read(changed)


LIST_PATTERNS = {
    "points": rb"P\((?:\]P\(G.{8}G.{8}e)++e(?!\()",
    "floats": rb"P\((?:G.{8})++e(?!\()",
    # A single item that is left over after full batches is appended on its own.
    "small integers": rb"P(?:\((?:K.){1000}e)*+(?:\((?:K.){1,999}+e|K.a)?(?!\(|K.a)",
}


@pytest.mark.parametrize("put", [b"\x94", b""], ids=["memo", "no memo"])
@pytest.mark.parametrize("kind", LIST_PATTERNS)
def test_lists_are_found_where_the_pattern_of_their_instructions_matches(kind: str, put: bytes) -> None:
    pattern = re.compile(LIST_PATTERNS[kind].replace(b"P", re.escape(put)), re.DOTALL)
    item = {"points": b"]" + put + b"(" + b"G12345678" * 2 + b"e", "floats": b"G12345678", "small integers": b"K1"}[
        kind
    ]
    least = (4 if kind == "points" else 16) * len(item) + 2
    rng = random.Random(7)
    outcomes = set()
    for count in (1, 3, 4, 5, 15, 16, 17, 68, 999, 1000, 1001, 1002, 2000, 2001, 2137):
        batches = [min(1000, count - at) for at in range(0, count, 1000)] if kind == "small integers" else [count]
        whole = put + b"".join(b"(" + item * batch + b"e" for batch in batches)
        single = put + b"".join(b"(" + item * batch + b"e" for batch in batches[:-1]) + item + b"a"
        for code in (whole, single) if batches[-1] == 1 and count > 1 else (whole,):
            for damage in range(40):
                raw = bytearray(code + b"K1K2.")
                for _ in range(damage and rng.choice((1, 1, 2))):
                    at = rng.choice((rng.randrange(len(raw)), rng.randrange(min(40, len(raw))), len(raw) - 6))
                    rng.choice((raw.__delitem__, lambda at, raw=raw: raw.insert(at, rng.choice(b"(]eGKa"))))(at)
                matched = pattern.match(raw)
                found = number_lists.find(bytes(raw), 0, 0)
                long_enough = matched is not None and matched.end() - len(put) >= least
                assert (found is not None) == long_enough, (count, damage)
                if found is not None:
                    assert matched is not None
                    assert found.end == matched.end()
                outcomes.add(found is not None)
    assert outcomes == {True, False}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_shared_parts_of_packed_lists(protocol: int) -> None:
    """A point of one list in another place, a list twice, an array twice: read again without packing if need be."""
    outer, ints, array = points(1).tolist(), list(map(tuple, points(2, dtype=np.int32).tolist())), points(3)
    data = {"a": outer, "b": outer[3], "c": outer, "d": ints, "e": [ints[5], ints[6]], "f": array, "g": array}
    assert same(unpack(read(pickle.dumps(data, protocol))), data)


@pytest.mark.parametrize("lookahead", [300, 1200, 5000])
@pytest.mark.parametrize("step", [1, 7, 999])
def test_any_cut_of_the_stream_reads_the_same(monkeypatch: pytest.MonkeyPatch, lookahead: int, step: int) -> None:
    monkeypatch.setattr(safe_pickle, "LOOKAHEAD", lookahead)
    data = {
        f"f{n}": {"lm": points(n).tolist(), "arr": points(n), "t": list(range(256)), "s": "x" * 300} for n in range(4)
    }
    for protocol in (2, 4):
        assert same(unpack(read(pickle.dumps(data, protocol), step=step)), data)


def test_values_larger_than_a_pickle_frame() -> None:
    data = {
        "a": b"m" * 100_000,
        "b": points(1).tolist(),
        "c": "t" * 70_000,
        "d": [points(n).tolist() for n in range(90)],
    }
    for protocol in PROTOCOLS:
        tree = read(pickle.dumps(data, protocol))
        assert same(unpack(tree), data)
    assert all(type(value) is PackedList for value in read(pickle.dumps(data, 4))["d"])


# ---- what is refused


def call(module: str, name: str, arguments: bytes = b"(", protocol: int = 4) -> bytes:
    return b"\x80%c" % protocol + f"c{module}\n{name}\n".encode() + arguments + b"tR."


def short(text: str) -> bytes:
    return b"\x8c%c" % len(text) + text.encode()


ARRAY_OF = b"\x80\x04cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
DTYPE_OF = b"cnumpy\ndtype\n%s\x89\x88\x87R"

UNSAFE = {
    "eval": (call("builtins", "eval", b"(V1+1\n"), "asks for builtins.eval"),
    "os.system": (call("os", "system", b"(Vid\n"), "asks for os.system"),
    "stack global": (b"\x80\x04" + short("posix") + short("system") + b"\x93.", "asks for posix.system"),
    "numpy beyond the list": (
        call("numpy.f2py.crackfortran", "getlincoef"),
        "asks for numpy.f2py.crackfortran.getlincoef",
    ),
    "numpy.load": (call("numpy", "load"), "asks for numpy.load"),
    "dotted name": (b"\x80\x04" + short("numpy") + short("dtype.type") + b"\x93.", "asks for numpy.dtype.type"),
    "name is no text": (b"\x80\x04K\x01K\x02\x93.", "name that is not text"),
    "unhashable name": (b"\x80\x04]]\x93.", "name that is not text"),
    "a name to fill the screen": (b"c" + b"m" * 100_000 + b"\nn\x1b[31m\n.", "asks for m{80}…, which"),
    "ndarray called": (call("numpy", "ndarray", b"(K\x01\x85"), "calls numpy.ndarray"),
    "huge ndarray": (b"\x80\x04cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85\x85R.", "calls numpy.ndarray"),
    "calls data": (b"\x80\x04" + short("x") + b")R.", "calls something that is not a function"),
    "calls a dtype": (b"\x80\x04" + DTYPE_OF % short("f4") + b")R.", "calls something that is not a function"),
    "object dtype": (b"\x80\x04" + DTYPE_OF % short("O8") + b".", "an array of type 'O8'"),
    "text dtype": (b"\x80\x04" + DTYPE_OF % short("U4") + b".", "an array of type 'U4'"),
    "record dtype": (
        b"\x80\x04"
        + DTYPE_OF % short("f4")
        + b"(K\x03"
        + short("<")
        + b"N"
        + short("x")
        + b"\x85NJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb.",
        "named or nested fields",
    ),
    "array of no dtype": (ARRAY_OF + b"(K\x01K\x01\x85Nh\x00C\x00tb.", None),
    "state of a dict": (b"\x80\x04}}b.", "state of something that is not an array"),
    "encode with another codec": (call("_codecs", "encode", b"(Vx\nVzlib\n"), "calls _codecs.encode"),
    "bytearray of a size": (b"\x80\x04cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.", "calls builtins.bytearray"),
    "bytes of a size": (b"\x80\x04cbuiltins\nbytes\nJ\xff\xff\xff\x7f\x85R.", "calls builtins.bytes"),
    "memo bomb": (b"\x80\x04}r\xff\xff\xff\x0f.", "memo number 268435455"),
    "text memo bomb": (b"}p268435455\n.", "memo number 268435455"),
    "persistent id": (b"\x80\x04K\x01Q.", "instruction BINPERSID"),
    "text persistent id": (b"P1\n.", "instruction PERSID"),
    "inst": (b"(ios\nsystem\n.", "instruction INST"),
    "obj": (b"\x80\x04(cbuiltins\nbytes\no.", "instruction OBJ"),
    "newobj": (b"\x80\x04cnumpy\nndarray\n)\x81.", "instruction NEWOBJ"),
    "newobj_ex": (b"\x80\x04cnumpy\nndarray\n)}\x92.", "instruction NEWOBJ_EX"),
    "extension": (b"\x80\x04\x82\x01.", "instruction EXT1"),
    "set": (b"\x80\x04\x8f.", "instruction EMPTY_SET"),
    "frozenset": (b"\x80\x04(\x91.", "instruction FROZENSET"),
    "buffer": (b"\x80\x05\x97.", "instruction NEXT_BUFFER"),
    "pop": (b"\x80\x04}}0.", "instruction POP"),
}


def nested(levels: int) -> bytes:
    """`levels` tuples, each holding the one before twice."""
    raw = b"\x80\x04)\x94"
    for _ in range(levels):
        raw += b"h\x00\x86q\x00"
    return raw + b"."


DAMAGED = {
    "empty": (b"", "truncated"),
    "only a header": (b"\x80\x04", "truncated"),
    "no stop": (b"\x80\x04}", "truncated"),
    "short text": (b"\x80\x04X\x10\x00\x00\x00abc.", "truncated"),
    "short bytes": (b"\x80\x04C\xffabc.", "truncated"),
    "endless line": (b"Vabc", "truncated"),
    "future protocol": (b"\x80\x09}.", "protocol 9"),
    "unknown instruction": (b"\x80\x04\xff.", "unknown instruction 0xff"),
    "empty stack": (b"\x80\x04.", "loose ends"),
    "two values": (b"\x80\x04}}.", "loose ends"),
    "open mark": (b"\x80\x04(}.", "loose ends"),
    "trailing bytes": (b"\x80\x04}.x", "after the end"),
    "second pickle": (b"\x80\x04}.\x80\x04}.", "after the end"),
    "unknown memo": (b"\x80\x04h\x07.", "makes no sense"),
    "no mark": (b"\x80\x04}u.", "makes no sense"),
    "odd items": (b"\x80\x04}(K\x01u.", "makes no sense"),
    "items of a list": (b"\x80\x04](K\x01K\x02u.", "no dict"),
    "append to a dict": (b"\x80\x04}K\x01a.", "no list"),
    "tuple of nothing": (b"\x80\x04\x87.", "takes more than it has"),
    "list as key": (b"\x80\x04}]K\x01s.", "dict key"),
    "tuple as key": (b"\x80\x04})K\x01s.", "dict key"),
    "bad utf-8": (b"\x80\x04\x8c\x02\xff\xfe.", "makes no sense"),
    "bad int": (b"Iabc\n.", "makes no sense"),
    "int of many digits": (b"I" + b"9" * 5000 + b"\n.", "makes no sense"),
    "huge text": (b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b".", "at most"),
    "huge bytes": (b"\x80\x04B\xff\xff\xff\xff.", "at most"),
    "huge long": (b"\x80\x04\x8b\x00\x00\x00\x10.", "waste time"),
    "negative shape": (
        ARRAY_OF + b"(K\x01J\xff\xff\xff\xff\x85" + DTYPE_OF % short("f4") + b"\x89C\x00tb.", "shape of an array"),
    "wrong size": (ARRAY_OF + b"(K\x01K\x05\x85" + DTYPE_OF % short("f4") + b"\x89C\x04abcdtb.", "has 4 bytes"),
    "huge shape": (
        ARRAY_OF + b"(K\x01" + b"J\xff\xff\xff\x7f" * 2 + b"\x86" + DTYPE_OF % short("f4") + b"\x89C\x00tb.", "0 bytes"),  # noqa: E501
    "global as data": (b"\x80\x04cnumpy\nndarray\n\x85.", "not plain data"),
    "dtype as data": (b"\x80\x04]" + DTYPE_OF % short("f4") + b"a.", "not plain data"),
    "in itself": (b"\x80\x04]\x94h\x00a.", "nests deeper than 64"),
    "deep lists": (b"\x80\x04" + b"]" * 50_000 + b"a" * 49_999 + b".", "nests deeper than 64"),
    "deep tuples": (b"\x80\x04)" + b"\x85" * 300_000 + b".", "nests deeper than 64"),
    "deep dicts": (b"\x80\x04" + b"}K\x01" * 40_000 + b"}" + b"s" * 40_000 + b".", "nests deeper than 64"),
    "shared tuples": (nested(60), "more than|too many"),
    "shared deep tuples": (nested(25), "more than|too many"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNSAFE)
def test_whatever_is_not_data_is_refused_by_name(name: str) -> None:
    raw, message = UNSAFE[name]
    with pytest.raises(UnsafePickleError if message else AlignmentsError, match=message):
        read(raw)


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_a_sentence(name: str) -> None:
    raw, message = DAMAGED[name]
    began = time.process_time()
    with pytest.raises(AlignmentsError, match=message) as caught:
        read(raw)
    assert time.process_time() - began < 5
    assert not isinstance(caught.value, UnsafePickleError)


# Beginning, what is repeated, and how often: 60 MiB each, in a file of some 60 KiB.
BOMBS = {
    "lists": (b"\x80\x04](", b"]", 60 << 20),
    "appended lists": (b"\x80\x04]", b"]a", 30 << 20),
    "memo": (b"\x80\x04}", b"\x94", 60 << 20),
    "puts": (b"\x80\x04}", b"q\x00", 30 << 20),
    "marks": (b"\x80\x04", b"(", 60 << 20),
    "protocols": (b"", b"\x80\x04", 30 << 20),
    "frames": (b"\x80\x04", b"\x95" + bytes(8), 6 << 20),
    "tuples": (b"\x80\x04)", b"\x85", 60 << 20),
    "floats": (b"\x80\x04](", b"G\x00\x00\x00\x00\x00\x00\x00\x01", 6 << 20),
    "texts": (b"\x80\x04](", b"\x8c\x01a", 20 << 20),
    "repeated references": (b"\x80\x04]\x94", b"h\x00a", 20 << 20),
    "packed lists": (b"\x80\x04]", b"](" + b"K\x01" * 8 + b"ea", 3 << 20),
    "nested dicts": (b"\x80\x04", b"}K\x01", 20 << 20),
}


def bombs_in_a_small_process() -> None:
    """Run by the test below in a process whose memory is limited."""
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    for name, (head, unit, count) in BOMBS.items():
        packed = zlib.compress(head + unit * count, 1)
        began = time.perf_counter()
        file = io.BytesIO(packed)

        def stream(file: io.BytesIO = file, packed: bytes = packed) -> Iterator[bytes]:
            file.seek(0)
            return inflated(file, len(packed), Limits(), "bomb.fsa")

        try:
            safe_pickle.load(stream, len(packed), Limits(), "bomb.fsa")
        except AlignmentsError as error:
            print(f"{name}: {time.perf_counter() - began:.2f} {error}")
        else:
            print(f"{name}: was read")


@pytest.mark.slow
def test_bombs_stay_below_a_gigabyte_and_five_seconds() -> None:
    code = (
        "import importlib.util as u, sys; spec = u.spec_from_file_location('bombs', sys.argv[1]);"
        "module = u.module_from_spec(spec); spec.loader.exec_module(module); module.bombs_in_a_small_process()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, __file__], capture_output=True, text=True, check=False, timeout=300
    )
    lines = done.stdout.splitlines()
    assert len(lines) == len(BOMBS), done.stdout + done.stderr
    for line in lines:
        assert "was read" not in line
        assert float(line.split(": ")[1].split()[0]) < 5, line


# ---- the compressed stream


def inflate(raw: bytes, limits: Limits | None = None) -> bytes:
    return b"".join(inflated(io.BytesIO(raw), len(raw), limits or Limits(), "file.fsa"))


@pytest.mark.parametrize("size", [0, 1, 100_000, SMALL_STREAM + 5_000_000])
def test_streams_are_what_zlib_writes_and_reads(size: int) -> None:
    data = np.random.default_rng(size).integers(0, 60, size, np.uint8).tobytes()
    raw = b"".join(deflated(data[at : at + 999_983] for at in range(0, size, 999_983)))
    assert raw[:2] == b"\x78\x9c"
    assert zlib.decompress(raw) == data
    assert inflate(raw) == data
    assert inflate(zlib.compress(data, 9)) == data


def test_without_isal_the_streams_are_the_same_to_their_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deflate, "fast", None)
    data = os.urandom(SMALL_STREAM // 2) * 3
    raw = b"".join(deflated([data, data]))
    assert raw[:2] == b"\x78\x9c"
    assert zlib.decompress(raw) == data * 2 == inflate(raw)
    with pytest.raises(AlignmentsError, match="cannot be read"):
        inflate(b"x" + raw)


@pytest.fixture(params=[False, True], ids=["here", "ahead"])
def by_a_thread(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether streams of these tests are large enough for a thread."""
    monkeypatch.setattr(deflate, "LARGE_FILE", 0 if request.param else 1 << 40)
    if request.param:
        monkeypatch.setattr(deflate, "FIRST_READ_BLOCK", 1 << 14)
        monkeypatch.setattr(deflate, "LARGEST_READ_BLOCK", 1 << 18)
        monkeypatch.setattr(deflate, "LARGE_INFLATE_BLOCK", 3 << 18)
    return bool(request.param)


def inflating() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == deflate.THREAD]


@pytest.mark.parametrize("size", [0, 1, 5_000_000])
def test_streams_that_a_thread_inflates(by_a_thread: bool, size: int) -> None:
    data = np.random.default_rng(size).integers(0, 60, size, np.uint8).tobytes()
    raw = zlib.compress(data, 1)
    pieces = inflated(io.BytesIO(raw), len(raw), Limits(), "file.fsa")
    found = [next(pieces, b"")]
    assert bool(inflating()) == (by_a_thread and size > 1 << 20)
    found += pieces
    assert not inflating()
    assert b"".join(found) == data
    assert max(map(len, found)) <= max(deflate.INFLATE_BLOCK, deflate.LARGE_INFLATE_BLOCK)


def test_a_stream_that_is_given_up_has_no_thread_left(by_a_thread: bool) -> None:
    file = io.BytesIO(zlib.compress(os.urandom(20_000_000), 0))
    for _ in range(3):
        pieces = inflated(file, 20_000_000, Limits(), "file.fsa")
        next(pieces)
        assert bool(inflating()) == by_a_thread
        pieces.close()
        assert not inflating()
        at = file.tell()
        time.sleep(0.01)
        assert file.tell() == at
        file.seek(0)


@pytest.mark.parametrize("usual", [0.005, 0.00002, 0.03])
def test_how_often_threads_take_turns_is_what_it_was_when_the_last_stream_ends(by_a_thread: bool, usual: float) -> None:
    before = sys.getswitchinterval()
    raw = zlib.compress(os.urandom(3_000_000), 0)
    try:
        sys.setswitchinterval(usual)
        one, other = (inflated(io.BytesIO(raw), len(raw), Limits(), "file.fsa") for _ in range(2))
        next(one)
        next(other)
        meanwhile = min(usual, deflate.HANDOVER_SECONDS) if by_a_thread else usual
        assert sys.getswitchinterval() == pytest.approx(meanwhile)
        one.close()
        assert sys.getswitchinterval() == pytest.approx(meanwhile)
        assert len(b"".join(other)) > 0
        assert sys.getswitchinterval() == pytest.approx(usual)
        one = inflated(io.BytesIO(raw), len(raw), Limits(), "file.fsa")
        next(one)
        sys.setswitchinterval(0.002)  # a host program's own wish
        one.close()
        assert sys.getswitchinterval() == pytest.approx(0.002)
    finally:
        sys.setswitchinterval(before)


def test_where_no_thread_is_to_be_had_the_stream_is_inflated_here(
    by_a_thread: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    data = os.urandom(3_000_000)
    assert inflate(zlib.compress(data, 1)) == data


@pytest.mark.parametrize("cut", [0, 1, 2, 10, -5, -4, -1])
@pytest.mark.usefixtures("by_a_thread")
def test_truncated_streams(cut: int) -> None:
    raw = zlib.compress(os.urandom(3_000_000))
    with pytest.raises(AlignmentsError, match="truncated"):
        inflate(raw[:cut])


@pytest.mark.usefixtures("by_a_thread")
def test_damaged_streams() -> None:
    raw = bytearray(zlib.compress(os.urandom(3_000_000)))
    raw[-2] ^= 1
    with pytest.raises(AlignmentsError, match="cannot be read"):
        inflate(bytes(raw))
    with pytest.raises(AlignmentsError, match="cannot be read"):
        inflate(b"\x80\x04}.")


@pytest.mark.parametrize("tail", [b"x", b"x" * 1_000_000])
@pytest.mark.usefixtures("by_a_thread")
def test_bytes_after_the_stream(tail: bytes) -> None:
    with pytest.raises(AlignmentsError, match="bytes after its end"):
        inflate(zlib.compress(os.urandom(3_000_000)) + tail)


@pytest.mark.usefixtures("by_a_thread")
def test_zip_bombs_stop_early() -> None:
    deflater = zlib.compressobj(9, wbits=-15)
    zeros = bytes(1 << 20)
    block = deflater.compress(zeros) + deflater.flush(zlib.Z_FULL_FLUSH)  # after it nothing refers back: it repeats
    checksum = 1
    for _ in range(300):
        checksum = zlib.adler32(zeros, checksum)
    raw = b"\x78\xda" + 300 * block + deflater.flush() + checksum.to_bytes(4, "big")
    with pytest.raises(AlignmentsError, match=r"inflates to more than 7\d{7}"):
        inflate(raw)
    with pytest.raises(AlignmentsError, match="inflates to more than 1000000"):
        inflate(raw, Limits(max_bytes=1_000_000))
    assert len(inflate(raw, Limits(max_ratio=2000))) == 300 << 20


# ---- mutations


def mutated(original: bytes, chance: random.Random) -> bytes:
    raw = bytearray(original)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(raw))
        kind = chance.randrange(5)
        if kind == 0:
            raw[at] = chance.randrange(256)
        elif kind == 1:
            raw[at] ^= 1 << chance.randrange(8)
        elif kind == 2:
            del raw[at : at + chance.randint(1, 20)]
        elif kind == 3:
            raw[at:at] = raw[at - chance.randint(0, 40) : at]
        else:
            raw[at] = chance.choice(b"()]}.0123RbcihjqrtueaspQ\x80\x81\x82\x85\x86\x87\x88\x8c\x93\x94\x95")
        raw = raw or bytearray(b".")
    return bytes(raw)


def fuzz(runs: int, seed: int) -> dict[str, int]:
    """`runs` mutated pickles: each is read or refused, and nothing but data comes out."""
    chance = random.Random(seed)
    seeds = [content(path) for path in PICKLES]
    small = [pickle.dumps(python_loads(raw)[next(iter(python_loads(raw)))], chance.randrange(6)) for raw in seeds]
    outcomes = {"read": 0, "refused": 0}
    for _ in range(runs):
        raw = mutated(chance.choice(small), chance)
        began = time.process_time()
        try:
            tree = read(raw)
        except AlignmentsError:
            outcomes["refused"] += 1
        else:
            outcomes["read"] += 1
            raw = b"".join(pickled({"root": tree}))
            assert same(unpack(read(raw))["root"], unpack(tree))
        assert time.process_time() - began < 5
    return outcomes


def test_mutated_files_are_read_or_refused() -> None:
    outcomes = fuzz(1500, 1)
    assert min(outcomes.values()) > 50


@pytest.mark.slow
def test_many_mutated_files_are_read_or_refused() -> None:
    assert min(fuzz(100_000, 2).values()) > 1000
