"""Fuzzes the readers of alignments files; a program of its own, and what tests/test_fuzz.py is made of.

    python tests/fuzz_alignments.py --count 200000 --seed 1     own mutations
    python tests/fuzz_alignments.py --atheris -max_total_time=600   coverage-guided, where atheris is installed

An execution reads one file of any container and, where that succeeds, does with it what a run does: geometry of all
faces, records, new hashes, the bytes to save. Only a GpuExtractError may come out. Each has a time limit, the process
a memory limit, and an audit hook ends it at the first import, call into the system, or file opened for writing that
reading data has no business with.
"""

from __future__ import annotations

import argparse
import io
import json
import pickle
import random
import resource
import signal
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).parent / "vectors" / "alignments"
EXTENSIONS = (".fsa", ".p", ".json", ".yml")
SECONDS_EACH = 5
MEMORY_BYTES = 1 << 30
FORBIDDEN_EVENTS = (
    *("exec", "compile", "import", "pickle.find_class", "code.__new__", "ctypes", "socket", "subprocess", "shutil"),
    *(
        "os.system",
        "os.exec",
        "os.posix_spawn",
        "os.fork",
        "os.spawn",
        "os.putenv",
        "os.rename",
        "os.remove",
        "os.mkdir",
    ),
    *("os.link", "os.symlink", "os.truncate", "os.chmod", "os.rmdir", "os.kill", "os.startfile", "tempfile", "urllib"),
)


def nested(depth: int, opening: bytes, closing: bytes) -> bytes:
    return opening * depth + closing * depth


def shared(levels: int, kind: Callable[[list[Any]], Any] = list) -> Any:
    """Ten times the same of ten times the same of …: 10 ** levels values in a few hundred bytes."""
    value: Any = [1]
    for _ in range(levels):
        value = kind([value] * 10)
    return value


@cache
def attacks() -> dict[str, bytes]:
    """Files that somebody built to do harm, by name; the extension says which reader they are for."""
    from gpu_extract.alignments.pickles.pickle_writer import pickled

    class Calls:
        def __init__(self, function: Any, *arguments: Any) -> None:
            self.call = function, arguments

        def __reduce__(self) -> Any:
            return self.call

    import os
    import subprocess

    face = {"x": 1, "y": 1, "w": 1, "h": 1, "landmarks_xy": [[1, 2]] * 68}
    evil = {
        "system": pickle.dumps({"f.png": [Calls(os.system, "touch /tmp/gpu-extract-was-here")]}, 2),
        "eval": pickle.dumps({"f.png": [Calls(eval, "__import__('os').system('true')")]}, 4),
        "popen": pickle.dumps(Calls(subprocess.Popen, ["true"]), 4),
        "getattr": pickle.dumps(Calls(getattr, "x", "upper"), 4),
        "import": b"cbuiltins\n__import__\n(S'os'\ntR.",
        "inst": b"(S'true'\nios\nsystem\n.",
        "obj": b"(cos\nsystem\nS'true'\no.",
        "newobj": b"\x80\x02cos\nsystem\n(S'true'\nt\x81.",
        "stack global": b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93\x94\x8c\x04true\x94\x85R.",
        "global in numpy": b"cnumpy\nload\n(S'/etc/passwd'\ntR.",
        "numpy exec": b"cnumpy.testing._private.utils\nrunstring\n(S'1'\n}tR.",
        "codecs": b"c_codecs\nlookup\n(S'zip'\ntR.",
        "extension": b"\x80\x02\x82\x01.",
        "persistent": b"Pfile\n.",
        "memo bomb": pickle.dumps({"f.png": shared(12)}, 4),
        "memo bomb of tuples": pickle.dumps({"f.png": [{"x": shared(12, tuple)}]}, 2),
        "memo bomb in a mask": pickle.dumps({"f.png": [{**face, "mask": {"a": shared(9)}}]}, 4),
        "self reference": b"\x80\x04]\x94h\x00a.",
        "dict in itself": b"\x80\x04}\x94\x8c\x01a\x94h\x00s.",
        "deep lists": b"\x80\x04" + nested(100_000, b"]", b"a") + b".",
        "deep tuples": b"\x80\x04N" + b"\x85" * 200_000 + b".",
        "deep marks": b"\x80\x04" + b"(" * 500_000 + b".",
        "huge memo": b"\x80\x04]r\xff\xff\xff\x7f.",
        "huge string": b"\x80\x04X\xff\xff\xff\x7fabc.",
        "huge string 8": b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7fabc.",
        "huge bytes": b"\x80\x05\x96" + b"\xff" * 7 + b"\x7fabc.",
        "huge frame": b"\x80\x04\x95" + b"\xff" * 7 + b"\x7f.",
        "huge int": b"\x80\x02\x8b\xff\xff\xff\x7f" + b"\xff" * 100 + b".",
        "int of a megabyte": b"I" + b"9" * 1_000_000 + b"\n.",
        "long of a megabyte": b"L" + b"9" * 1_000_000 + b"L\n.",
        "nan of a megabyte": b"F" + b"9" * 1_000_000 + b"\n.",
        "array too small": pickle.dumps({"f.png": [face]}, 4).replace(b"K\x01", b"J\xff\xff\xff\x7f", 1),
        "ends early": b"\x80\x04}",
        "nothing": b"",
        "only stop": b".",
        "hash collisions": pickle.dumps({i * (2**61 - 1): 1 for i in range(3000)}, 4),
    }
    found = {f"{name}.p": data for name, data in evil.items()}
    found |= {f"{name}.fsa": zlib.compress(data) for name, data in evil.items()}
    good = b"".join(pickled({"f.png": [face]}, 4))
    found["zeros.fsa"] = zlib.compress(bytes(100 << 20), 1)
    found["bomb of appends.fsa"] = zlib.compress(b"\x80\x04]" + b"K\x01a" * 20_000_000 + b".", 1)
    found["bomb of strings.fsa"] = zlib.compress(b"\x80\x04](" + b"\x8c\x01a" * 10_000_000 + b"e.", 1)
    found["bomb of dicts.fsa"] = zlib.compress(b"\x80\x04](" + b"}" * 30_000_000 + b"e.", 1)
    found["twice.fsa"] = zlib.compress(good) * 2
    found["cut.fsa"] = zlib.compress(good)[:-3]
    found["raw.fsa"] = good
    found["gzip.fsa"] = b"\x1f\x8b" + zlib.compress(good)[2:]
    text = {
        "deep": b"[" * 200_000,
        "deep and closed": nested(100_000, b"[", b"]"),
        "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        "int of a megabyte": b'{"f.png": [{"x": ' + b"9" * 1_000_000 + b"}]}",
        "float of a megabyte": b'{"f.png": [{"x": 1.' + b"9" * 1_000_000 + b"}]}",
        "huge exponent": b'{"f.png": [{"x": 1e999999999, "landmarks_xy": [[1e999, -1e999]]}]}',
        "duplicate keys": b'{"f.png": [], "f.png": [{"x": 1, "x": 2}], "__data__": {}, "__data__": {"f.png": []}}',
        "lone surrogate": b'{"\\ud800.png": [{}]}',
        "nul": b'{"\\u0000": [{}]}',
        "bom": b"\xef\xbb\xbf{}",
        "utf 16": '{"f.png": []}'.encode("utf-16"),
        "not utf 8": b'{"\xff": []}',
        "literal": b'"text"',
        "prototype": b'{"__proto__": [], "__class__": [], "__meta__": {"version": "os.system"}, "__data__": {}}',
        "version of a megabyte": b'{"__meta__": {"version": ' + b"9" * 4000 + b'}, "__data__": {}}',
        "version nan": b'{"__meta__": {"version": NaN}, "__data__": {}}',
        "many keys": b'{"f.png": [{' + b",".join(b'"%d": 1' % i for i in range(50_000)) + b"}]}",
    }
    found |= {f"{name}.json": data for name, data in text.items()}
    lol = b"a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + b"".join(
        b"a%d: &a%d [%s]\n" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 12)
    )
    yaml_text = {
        "billion laughs": lol,
        "python object": b"!!python/object/apply:os.system ['true']\n",
        "python name": b"f.png: !!python/name:os.system\n",
        "python module": b"f.png: !!python/module:os\n",
        "python new": b"f.png: [!!python/object/new:subprocess.Popen [[true]]]\n",
        "self reference": b"&a [*a]\n",
        "key in itself": b"&a {*a : 1}\n",
        "deep flow": b"[" * 100_000,
        "deep block": b"".join(b" " * i + b"- \n" for i in range(2000)),
        "deep mappings": b"".join(b" " * i + b"a:\n" for i in range(2000)),
        "merge": b"a: &a {x: 1}\nb: {<<: *a, <<: [*a, *a]}\n",
        "sexagesimal": b"f.png: [{x: 190:20:30:59:59:59, y: 1:1:1:1:1:1:1:1:1:1:1:1:1}]\n",
        "date": b"f.png: [{x: 2001-01-01, y: 9999-99-99}]\n",
        "binary": b"f.png: [{x: !!binary '====', y: !!binary " + b"A" * 1000 + b"}]\n",
        "huge int": b"f.png: [{x: " + b"9" * 100_000 + b"}]\n",
        "hex int": b"f.png: [{x: 0x" + b"f" * 100_000 + b", r: 0x" + b"f" * 100_000 + b"}]\n",
        "hex version": b"__meta__: {version: 0x" + b"f" * 100_000 + b"}\n__data__: {}\n",
        "two documents": b"--- {}\n--- {}\n",
        "duplicate keys": b"f.png: []\nf.png: [{}]\n",
        "set": b"!!set {a, b}\n",
        "ordered": b"!!omap [a: 1]\n",
        "tuple as key": b"? !!python/tuple [1, 2]\n: 1\n",
        "many anchors": b"".join(b"- &x%d {a: 1}\n" % i for i in range(50_000)),
        "tab": b"\t- a\n",
        "nul": b"a: \0\n",
    }
    return found | {f"{name}.yml": data for name, data in yaml_text.items()}


def seeds() -> list[tuple[str, bytes]]:
    """(extension, bytes) of small real files: the vectors' first frames, pickles not compressed."""
    from gpu_extract.alignments import Alignments
    from gpu_extract.alignments.container import Document, container_for

    found: list[tuple[str, bytes]] = []
    for path in sorted(VECTORS.iterdir()):
        if path.name.startswith(("reject", "export")):
            continue
        try:
            root = Alignments.load(path).root()
        except Exception:
            continue
        frames = root.get("__data__", root)
        for key in list(frames)[2:]:
            del frames[key]
        extension = ".p" if path.suffix in (".fsa", ".pickle") else path.suffix
        found.append((extension, b"".join(container_for(path.with_suffix(extension)).write(Document(root)))))
        if extension == ".p":
            found += [(".p", pickle.dumps(root, protocol)) for protocol in (0, 2, 5)]
    return found


TOKENS = {
    ".p": [
        *(bytes([op]) for op in range(256)),
        *(
            b"\xff\xff\xff\x7f",
            b"\xff\xff\xff\xff",
            b"\0\0\0\0",
            b"\xff" * 8,
            b"cos\nsystem\n",
            b"h\0",
            b"q\0",
            b"r\xff\0\0\0",
        ),
        *(
            b"\x8c\x0clandmarks_xy",
            b"\x8c\x04hash",
            b"\x8c\x08__data__",
            b"G\x7f\xf8" + bytes(6),
            b"G\x7f\xf0" + bytes(6),
        ),
    ],
    ".json": [
        b"[",
        b"]",
        b"{",
        b"}",
        b",",
        b":",
        b'"',
        b"\\",
        b"null",
        b"NaN",
        b"1e999",
        b"-",
        b"\\ud800",
        b"[" * 99,
        b"\xff",
    ],
    ".yml": [
        b"&a ",
        b"*a",
        b"!!python/tuple ",
        b"!",
        b"<<: ",
        b"- ",
        b": ",
        b"[",
        b"]",
        b"{",
        b"}",
        b"|",
        b"'",
        b'"',
        b"\n  ",
    ],
}
VALUES: list[Any] = [
    *(
        None,
        True,
        0,
        -1,
        2**31,
        -(2**63),
        10**400,
        0.5,
        float("nan"),
        float("inf"),
        1e308,
        "",
        "x",
        "\ud800",
        b"",
        b"\xff",
    ),
    *([], {}, (), [[]], [None] * 3, {"a": 1}, {1: 2}, [[1, 2]] * 68, [[1.5, float("nan")]] * 68, [[1, 2, 3]] * 68),
    *([[1, 2]] * 51, [["a", "b"]] * 68, [[[1]], 2], "68", {"faces": []}, [{"landmarks_xy": 5}], {"__data__": {}}),
]


def mutated_bytes(data: bytes, extension: str, others: list[bytes], rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(1 + min(int(rng.expovariate(0.5)), 12)):
        at = rng.randrange(len(out) + 1)
        kind = rng.randrange(7)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(out):
            out[at] = rng.randrange(256)
        elif kind == 2:
            out[at:at] = rng.choice(TOKENS[extension])
        elif kind == 3:
            out[at : at + rng.randrange(1, 40)] = b""
        elif kind == 4:
            start = rng.randrange(len(out) + 1)
            out[at:at] = out[start : start + rng.randrange(1, 200)]
        elif kind == 5:
            other = rng.choice(others)
            start = rng.randrange(len(other) + 1)
            out[at : at + rng.randrange(200)] = other[start : start + rng.randrange(1, 400)]
        elif kind == 6:
            token = rng.choice(TOKENS[extension])
            out[at : at + len(token)] = token
    return bytes(out)


def mutated_tree(root: Any, rng: random.Random, depth: int = 0) -> Any:
    """The tree with a value or a key somewhere replaced by one of another type."""
    if depth > 7 or rng.random() < 0.12:
        return rng.choice(VALUES)
    if isinstance(root, dict) and root:
        key = rng.choice(list(root))
        changed = dict(root)
        if rng.random() < 0.15:
            changed.pop(key)
            changed[
                rng.choice(["", "x", "__data__", "__meta__", "faces", "r", "hash", "mask", "\udcff", "../a.png"])
            ] = root[key]
        else:
            changed[key] = mutated_tree(root[key], rng, depth + 1)
        return changed
    if isinstance(root, list | tuple) and root:
        items = list(root)
        at = rng.randrange(len(items))
        items[at] = mutated_tree(items[at], rng, depth + 1)
        return items if rng.random() < 0.9 else tuple(items)
    return rng.choice(VALUES)


def serialized(tree: Any, extension: str, rng: random.Random) -> bytes | None:
    try:
        if extension == ".p":
            return pickle.dumps(tree, rng.choice([0, 2, 4, 5]))
        if extension == ".json":
            return json.dumps(tree, default=lambda value: str(value)[:50]).encode()
        import yaml

        return yaml.dump(tree, Dumper=getattr(yaml, "CDumper", yaml.Dumper), encoding="utf-8")
    except Exception:  # not every tree can be written; those are no inputs
        return None


class Mutator:
    """An endless supply of files: seeds and attacks, changed as bytes or as trees. The same ones for a seed."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._seeds = seeds()
        self._attacks = [
            (Path(name).suffix, data)
            for name, data in attacks().items()
            if len(data) < 20_000 and not name.endswith(".fsa")
        ]
        self._trees = [(extension, _tree(extension, data)) for extension, data in self._seeds[::2]]
        self._others = {e: [data for x, data in self._seeds + self._attacks if x == e] for e in EXTENSIONS[1:]}

    def next(self) -> tuple[str, bytes]:
        rng = self._rng
        data = None
        while data is None:
            if rng.random() < 0.3:
                extension, tree = rng.choice(self._trees)
                data = serialized(mutated_tree(tree, rng), extension, rng)
            else:
                extension, data = rng.choice(self._seeds if rng.random() < 0.85 else self._attacks)
                data = mutated_bytes(data, extension, self._others[extension], rng)
        if extension == ".p" and rng.random() < 0.5:
            data = zlib.compress(data, 1)
            if rng.random() < 0.1:
                data = data[: rng.randrange(len(data) + 1)]
            return ".fsa", data
        return extension, data


def _tree(extension: str, data: bytes) -> Any:
    """The plain tree of a small seed; only our own files are ever given to Python's unpickler."""
    if extension == ".p":
        return pickle.loads(data)
    if extension == ".json":
        return json.loads(data)
    import yaml

    return yaml.load(data, yaml.FullLoader)


class Executor:
    """Reads files from memory as `Alignments.load` does from the disk, and goes on as a run would."""

    def __init__(self) -> None:
        import numpy as np

        from gpu_extract.alignments import Alignments, Limits
        from gpu_extract.alignments.container import container_for
        from gpu_extract.errors import GpuExtractError
        from gpu_extract.run.plan import PlanOptions, crop_all

        self._np, self._alignments, self._limits = np, Alignments, Limits()
        self._container_for, self._error = container_for, GpuExtractError
        self._crop_all, self._options = crop_all, PlanOptions(size=64)
        self.accepted = self.refused = 0
        self.slowest = 0.0

    def __call__(self, extension: str, data: bytes) -> str | None:
        """The error's text; None where the file was accepted. Raises whatever is not a GpuExtractError."""
        began = time.perf_counter()
        try:
            self._use(extension, data)
        except self._error as error:
            self.refused += 1
            text = str(error)
            assert text, "an error without a sentence"
            assert len(text) < 2000, "an error as long as a file"
            return text
        else:
            self.accepted += 1
            return None
        finally:
            self.slowest = max(self.slowest, time.perf_counter() - began)

    def _use(self, extension: str, data: bytes) -> None:
        path = Path("fuzz" + extension)
        document = self._container_for(path).read(io.BytesIO(data), len(data), self._limits, path.name)
        loaded = self._alignments(path, document)
        np = self._np
        faces = loaded.faces
        sizes = dict.fromkeys(np.unique(faces.frame).tolist(), (240, 320))
        cut = self._crop_all(loaded, self._options, sizes)
        assert len(cut.usable) == len(faces)
        assert np.isfinite(cut.crop_from_frame[cut.usable]).all()
        for row in range(min(len(faces), 3)):
            loaded.record(row)
            loaded.stored_hash(row)
        rows = [row for row in range(len(faces)) if row not in faces.invalid]
        if loaded.traits.stores_hashes and rows:
            loaded.set_hashes(rows, ["ab" * 20] * len(rows))
        for _ in loaded.content():
            pass


def guard(folder: Path) -> Callable[[], None]:
    """From now on, end the process at whatever reading data has no business with; returns what ends the watch."""
    watching = [True]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if not watching:
            return
        if event.startswith(FORBIDDEN_EVENTS):
            if event == "import" and arguments[0] in sys.modules:
                return
            _die(f"{event} {arguments!r:.300}")
        if event == "open":
            path, mode, flags = arguments
            if isinstance(flags, int) and flags & 3 and not str(path).startswith(str(folder)):
                _die(f"open {path!r} {mode!r}")

    sys.addaudithook(hook)
    return watching.clear


def _die(what: str) -> None:
    import os

    os.write(2, f"FORBIDDEN: {what}\n".encode())
    os._exit(77)


def peak_mib() -> int:
    """Peak memory of this program alone: `ru_maxrss` would begin with that of the process that started it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def run(count: int, seed: int, seconds: float | None = None, save: Path | None = None) -> dict[str, Any]:
    """Execute mutated files; raises at the first that crashes or hangs, and leaves it in `save`."""
    mutator, executor = Mutator(seed), Executor()
    for extension, data in seeds():
        assert executor(extension, data) is None, "the seeds are real files"
    mutator.next()
    built = attacks()
    signal.signal(signal.SIGPROF, _too_long)
    began = time.perf_counter()
    by_extension = dict.fromkeys(EXTENSIONS, 0)
    done = 0
    off_guard = guard(save or Path(tempfile.gettempdir()) / "nowhere")
    harmless = []
    for name, data in built.items():
        with _guarded(off_guard, save, Path(name).suffix, data):
            if executor(Path(name).suffix, data) is None:
                harmless.append(name)
    while done < count and (seconds is None or time.perf_counter() - began < seconds):
        extension, data = mutator.next()
        with _guarded(off_guard, save, extension, data):
            executor(extension, data)
        by_extension[extension] += 1
        done += 1
    off_guard()
    return {
        "executions": done,
        "attacks": len(built),
        "harmless_attacks": harmless,
        "accepted": executor.accepted,
        "refused": executor.refused,
        "by_extension": by_extension,
        "slowest_seconds": round(executor.slowest, 3),
        "peak_mib": peak_mib(),
        "seconds": round(time.perf_counter() - began, 1),
        "seed": seed,
    }


@contextmanager
def _guarded(off_guard: Callable[[], object], save: Path | None, extension: str, data: bytes) -> Iterator[None]:
    """A bound on the processor's time; what fails is kept, and its traceback may be printed."""
    signal.setitimer(signal.ITIMER_PROF, SECONDS_EACH)
    try:
        yield
    except BaseException:
        signal.setitimer(signal.ITIMER_PROF, 0)
        off_guard()
        if save is not None:
            (save / f"crash{extension}").write_bytes(data)
        raise
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _too_long(*_: Any) -> None:
    raise TimeoutError(f"longer than {SECONDS_EACH} s of the processor's time")


def with_atheris(arguments: list[str]) -> None:
    """Coverage-guided; the first byte of an input picks the reader."""
    import atheris

    with atheris.instrument_imports(include=["gpu_extract.alignments"]):
        executor = Executor()
    corpus = Path(tempfile.mkdtemp(prefix="gpu-extract-fuzz-"))
    small = [(Path(name).suffix, data) for name, data in attacks().items() if len(data) < 20_000]
    for number, (extension, data) in enumerate([*seeds(), *small]):
        (corpus / f"{number}").write_bytes(bytes([EXTENSIONS.index(extension)]) + data)
    test: Callable[[bytes], None] = lambda data: _one(executor, data)  # noqa: E731
    atheris.Setup([sys.argv[0], str(corpus), "-rss_limit_mb=1024", f"-timeout={SECONDS_EACH}", *arguments], test)
    atheris.Fuzz()


def _one(executor: Executor, data: bytes) -> None:
    if data:
        extension = EXTENSIONS[data[0] % len(EXTENSIONS)]
        executor(extension, zlib.compress(data[1:], 1) if extension == ".fsa" else data[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--save", type=Path, help="folder for the file that crashed")
    parser.add_argument("--attack", help="only this file of the attacks")
    parser.add_argument("--atheris", action="store_true", help="further arguments go to libFuzzer")
    arguments, rest = parser.parse_known_args()
    sys.path.insert(0, str(Path(__file__).parent.parent))
    if arguments.atheris:
        with_atheris(rest)
        return
    # Address space, of which Python's libraries take some before the first file is read.
    resource.setrlimit(resource.RLIMIT_AS, (3 * MEMORY_BYTES, 3 * MEMORY_BYTES))
    print(json.dumps(run(arguments.count, arguments.seed, arguments.seconds, arguments.save)))


if __name__ == "__main__":
    main()
