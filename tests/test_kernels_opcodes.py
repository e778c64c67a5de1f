"""Instructions of pickles in C: they leave what those in Python leave, value for value and error for error."""

import gc
import pickle
import random
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_extract.alignments import Alignments
from gpu_extract.alignments.limits import MAX_DEPTH, Limits
from gpu_extract.alignments.packed import PackedArray, PackedList
from gpu_extract.alignments.pickles import safe_pickle
from gpu_extract.alignments.pickles.stand_ins import Marker
from gpu_extract.errors import AlignmentsError
from gpu_extract.kernels import opcodes
from tests.helpers import face_entry, write_pickled

needs_opcodes = pytest.mark.skipif(not opcodes.is_available(), reason="the instructions of pickles were not built here")
INSTRUCTIONS = b"hjKMJGN\x88\x89\x94qr\x8cXCB(}])useat\x85\x86\x87Rb.0\x95"


def trace(raw: bytes, limits: Limits | None = None) -> tuple[Any, ...]:
    """What a machine makes of a pickle, whole or up to its error: values, counts, the memo."""
    machine = safe_pickle._Machine(iter([raw]), limits or Limits(), 10_000_000, "file.fsa", packing=True)
    try:
        root = machine.run()
    except Exception as error:  # of any kind, and the same
        return type(error), str(error)
    return plain(root), machine.values, [kind_of(value) for value in machine.memo], machine.protocol


def kind_of(value: Any) -> Any:
    return value.name if isinstance(value, Marker) else type(value)


def plain(value: Any) -> Any:
    """`value` in what compares by type and bit."""
    kind = type(value)
    if kind is PackedArray:
        return kind, value.raw, value.dtype.str, value.shape, value.fortran
    if kind is PackedList:
        return kind, value.raw, value.dtype.str, value.shape, value.pair
    if kind is dict:
        return kind, [(plain(key), plain(item)) for key, item in value.items()]
    if kind is list or kind is tuple:
        return kind, [plain(item) for item in value]
    return kind, value.name if isinstance(value, Marker) else repr(value)


def in_python(patch: pytest.MonkeyPatch, raw: bytes, limits: Limits | None = None) -> tuple[Any, ...]:
    with patch.context() as patched:
        patched.setattr(opcodes, "_opcodes", None)
        return trace(raw, limits)


def file_of_everything() -> dict[str, Any]:
    """Values of every kind that files have, numbers at the edges of their instructions, lists around a batch."""
    rng = np.random.default_rng(17)
    points = (rng.random((68, 2)) * 900).astype(np.float32)
    matrix = rng.standard_normal((2, 3))
    mask = {"mask": rng.bytes(300), "affine_matrix": matrix, "stored_size": 128}
    thumbs = [rng.integers(0, 256, n).astype("u1") for n in (9, 700)]
    special = [[[float("nan"), 1e300]] * 5, [[-0.0, float("inf")]] * 5]
    return {
        "arrays": [
            points,
            points.astype(">f4"),
            np.asfortranarray(points),
            rng.bytes(255),
            np.zeros((0, 2)),
            points[0],
        ],
        "faces": [face_entry(points, mask={"components": mask}, thumb=thumb) for thumb in thumbs],
        "lists": [points.tolist(), rng.standard_normal((98, 2)).tolist(), points[:3].tolist(), matrix.tolist()],
        "special": [*special, [5e-324] * 16, [float("nan")] * 16, [1e39] * 16],
        "floats": [rng.standard_normal(n).tolist() for n in (1, 15, 16, 999, 1000, 1001, 2500)],
        "small": [[k % 256 for k in range(n)] for n in (1, 15, 16, 17, 999, 1000, 1001, 1002, 2000, 2001, 3500)],
        "ints": [0, 255, 256, 65535, 65536, -1, -(1 << 31), 1 << 31, 1 << 70, True, False, None],
        "points": [list(map(tuple, points.astype(int).tolist())), points.astype(int).tolist(), [(1, 2)] * 68],
        "texts": ["", "é", "\udcff", "x" * 300, b"", b"y" * 300],
        "containers": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), {}, [], {7: 8}, [[1, 2]] * 5],
        "nested": {str(k): [[{"a": [k]}]] for k in range(1100)},
    }


@needs_opcodes
@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("lookahead", [64, 700, safe_pickle.LOOKAHEAD])
def test_every_instruction_leaves_what_it_leaves_in_python(
    monkeypatch: pytest.MonkeyPatch, protocol: int, lookahead: int
) -> None:
    monkeypatch.setattr(safe_pickle, "LOOKAHEAD", lookahead)
    raw = pickle.dumps(file_of_everything(), protocol)
    assert trace(raw) == in_python(monkeypatch, raw)


@needs_opcodes
def test_damaged_pickles_end_in_the_same_error(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(17)
    faces = {"f.png": file_of_everything()["faces"], "l": file_of_everything()["lists"]}
    seeds = [pickle.dumps(faces, protocol) for protocol in (2, 3, 4, 5)]
    read = 0
    for _ in range(1500):
        raw = bytearray(chance.choice(seeds))
        for _ in range(chance.choice((1, 2, 4))):
            at = chance.randrange(len(raw))
            kind = chance.randrange(4)
            if kind == 0:
                raw[at] = chance.choice(INSTRUCTIONS)
            elif kind == 1:
                raw[at:at] = bytes([chance.choice(INSTRUCTIONS)])
            elif kind == 2:
                del raw[at : at + chance.randrange(1, 9)]
            else:
                raw[at] = chance.randrange(256)
        limits = Limits(max_string=chance.choice((0, 7, 8, 100, *[1 << 20] * 8)))
        found = trace(bytes(raw), limits)
        assert found == in_python(monkeypatch, bytes(raw), limits)
        read += not isinstance(found[0], type)
    assert 30 < read < 1450


LONG1 = b"\x8a\x01\x05"  # rare: left to Python


@needs_opcodes
@pytest.mark.parametrize("rare", [b"K\x05", LONG1])
def test_values_and_marks_may_lie_deep(monkeypatch: pytest.MonkeyPatch, rare: bytes) -> None:
    for depth in (1, 62, 63, 64, 65, 66, 130, 200):
        for opening, closing in (
            (b"](", b"e"),
            (b"(", b"t"),
            (b"}(K\1", b"u"),
            (b"](N", rare + b"e"),
            (b"(N", rare + b"t"),
        ):
            raw = b"\x80\x04" + opening * depth + rare + closing * depth + b"."
            found = trace(raw)
            assert found == in_python(monkeypatch, raw)
            assert found[1] >= depth
    for width in (60, 63, 64, 65, 66, 300):
        for end in (b"t", b"l", b"d", b"\x85", b"\x86", b"\x87", b"a", b"s", b"e", b"u", b"\x94h\0", b"q\0h\0"):
            for target in (b"]", b"}", b""):
                raw = b"\x80\x04(" + target + b"(" + (b"K\1" + rare) * width + end + b"t."
                assert trace(raw) == in_python(monkeypatch, raw)


@needs_opcodes
def test_marks_above_the_stack_and_keys_of_any_size_end_as_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    for end in (b"t", b"u", b"e", b"l", b"d"):
        for taken in (b"NN(\x86", b"NNN(\x87", b"]N(\x86", b"}NN(ss"):
            raw = b"\x80\x04" + taken + end + b"."
            assert trace(raw) == in_python(monkeypatch, raw)
    for key in (-(1 << 31) - 1, -(1 << 31), (1 << 31) - 1, 1 << 31, -(1 << 62), 1 << 70):
        raw = pickle.dumps({key: 1, "a": 2}, 4)
        assert trace(raw) == in_python(monkeypatch, raw)


@needs_opcodes
def test_lists_of_numbers_of_changing_length_and_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = (3, 4, 5, 4, 16, 17, 16, 15, 1001, 1000, 1002, 2001)
    lists = [
        [[[k + 0.5, n + 0.25] for k in range(n)], [k + 0.125 for k in range(n)], [k % 251 for k in range(n)]]
        for n in sizes
    ]
    raws = [pickle.dumps({str(k): one for k, one in enumerate(lists)}, protocol) for protocol in (2, 4)]
    # Python's pickler that is not in C appends the last one on its own.
    raws.append(pickle._dumps({str(k): one[2] for k, one in enumerate(lists)}, 4))  # type: ignore[attr-defined]
    for raw in raws:
        found = trace(raw)
        assert found == in_python(monkeypatch, raw)
        assert len(found) == 4


@needs_opcodes
def test_no_more_shapes_are_kept_than_in_python() -> None:
    shapes = [(i, j, k) for i in range(1, 60) for j in range(1, 60) for k in range(1, 1 + 2000 // (i * j))]
    raw = pickle.dumps([np.zeros(shape, np.uint8) for shape in shapes[:10_010]], 4)
    machine = safe_pickle._Machine(iter([raw]), Limits(), 10_000_000, "file.fsa", packing=True)
    assert len(machine.run()) == 10_010
    assert len(machine.shapes) == 10_000


@needs_opcodes
def test_what_a_machine_took_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> safe_pickle._Machine:
        machine = safe_pickle._Machine(iter([raw]), Limits(), 10_000_000, "file.fsa", packing=True)
        machine.run()
        return machine

    raw = pickle.dumps([[[k + 0.5, 0.25] for k in range(77)], [[1]] * 100], 4)
    machine = run()
    (shape,) = machine.shapes.values()
    assert sys.getrefcount(shape) == 2 + 1 + 2  # as key and value, of the list, here
    tracemalloc.start()
    run()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(50):
        run()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 20_000


@needs_opcodes
def test_a_rare_instruction_costs_the_same_however_much_lies_on_the_stack() -> None:
    def seconds(before: bytes) -> float:
        raw = b"\x80\x04(" + before + LONG1 * 3000 + b"t."
        begun = time.process_time()
        assert trace(raw)[1] > 3000
        return time.process_time() - begun

    shallow = min(seconds(b"N") for _ in range(3))
    assert min(seconds(b"N" * 90_000) for _ in range(3)) < 10 * shallow + 0.3


@needs_opcodes
def test_an_instruction_is_begun_only_where_it_is_safe() -> None:
    raw = pickle.dumps([1, 2, 3], 4)[13:]  # from the MARK on
    stack: list[Any] = [[]]
    marks: list[int] = []
    done = opcodes.run(raw, 0, 2, 100, stack, marks, [], {}, safe_pickle.KINDS, safe_pickle.LIST_DTYPES)
    assert raw[: done[0]] == b"(K\x01"
    assert (done[1], stack, marks) == (0, [[], 1], [1])
    at, made = opcodes.run(raw, 3, len(raw), 100, stack, marks, [], {}, safe_pickle.KINDS, safe_pickle.LIST_DTYPES)
    assert raw[at:] == b"."
    assert (made, stack, marks) == (3, [[1, 2, 3]], [])


def test_without_the_extension_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opcodes, "_opcodes", None)
    assert not opcodes.is_available()
    assert not opcodes.is_modest({}, (), 1, 1)
    with pytest.raises(RuntimeError, match="install with a C compiler"):
        opcodes.run(b"N.", 0, 1, 100, [], [], [], {}, safe_pickle.KINDS, safe_pickle.LIST_DTYPES)


def nested(depth: int) -> dict[str, Any]:
    """`depth` containers in each other."""
    inner: Any = {}
    for _ in range(depth - 1):
        inner = {"a": inner}
    found: dict[str, Any] = inner
    return found


@needs_opcodes
def test_a_tree_is_modest_up_to_its_limits_and_no_further() -> None:
    shared = [1, 2, 3]
    tree: dict[str, Any] = {"a": shared, "b": (shared, {}), "c": None}
    types = (int, str, type(None))
    assert opcodes.is_modest(tree, types, 14, 3)  # three keys, three values, two in the tuple, six in the list
    assert not opcodes.is_modest(tree, types, 13, 3)
    assert not opcodes.is_modest(tree, types, 14, 2)
    assert not opcodes.is_modest(tree, (int, str), 14, 3)
    assert not opcodes.is_modest({"a": True}, (int, str), 14, 3)
    assert not opcodes.is_modest({"a": {1.5: 1}}, (int, str), 14, 3)
    assert opcodes.is_modest(nested(MAX_DEPTH), (str,), 1000, MAX_DEPTH)
    assert not opcodes.is_modest(nested(MAX_DEPTH + 1), (str,), 1000, MAX_DEPTH)


@pytest.mark.parametrize("depth", [MAX_DEPTH, MAX_DEPTH + 1])
def test_the_deepest_tree_that_is_read_is_the_same_without_c(monkeypatch: pytest.MonkeyPatch, depth: int) -> None:
    raw = pickle.dumps(nested(depth), 4)
    for _ in range(2):
        if depth == MAX_DEPTH:
            assert safe_pickle.load(lambda: iter([raw]), len(raw), Limits(), "file.fsa").root == nested(depth)
        else:
            with pytest.raises(AlignmentsError, match="nests deeper than 64 levels"):
                safe_pickle.load(lambda: iter([raw]), len(raw), Limits(), "file.fsa")
        monkeypatch.setattr(opcodes, "_opcodes", None)


def small_file(folder: Path) -> Path:
    points = np.zeros((68, 2), np.float32)
    return write_pickled(folder / "a.fsa", {"f.png": [face_entry(points)]})


def test_what_was_loaded_is_old_for_the_collector(tmp_path: Path) -> None:
    path = small_file(tmp_path)
    assert gc.isenabled()
    assert not gc.get_freeze_count()
    loaded = Alignments.load(path)
    assert gc.isenabled()
    assert not gc.get_freeze_count()
    assert not any(entry is loaded._records for entry in gc.get_objects(0))


def test_what_a_host_program_froze_stays_frozen(tmp_path: Path) -> None:
    path = small_file(tmp_path)
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        Alignments.load(path)
        assert gc.get_freeze_count() >= frozen - 1000  # some of it ended meanwhile
    finally:
        gc.unfreeze()
