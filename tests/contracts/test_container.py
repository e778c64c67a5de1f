"""What every container of alignments keeps (`gpu_extract/alignments/container.py`), compared with Python's libraries.

A new one gets a line in `CONTAINERS`.
"""

from __future__ import annotations

import io
import json
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml

from gpu_extract import plugins
from gpu_extract.alignments.container import Document, container_for, containers
from gpu_extract.alignments.limits import MAX_DEPTH, Limits
from gpu_extract.alignments.packed import unpack
from gpu_extract.errors import AlignmentsError
from tests.helpers import face_entry, same

FOLDER = "gpu_extract.alignments.containers"


class Backend(NamedTuple):
    extension: str
    module: str
    """In the folder of plug-ins."""
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    """Both by the library that others write and read such files with."""
    holds: str = "arrays bytes tuples"
    """What there is room for besides plain data."""
    cut_lines_are_whole: bool = False
    """A file that ends early, where a line does, is a shorter file."""

    def read(self, data: bytes, limits: Limits | None = None) -> Document:
        container = container_for(Path(f"a{self.extension}"))
        return container.read(io.BytesIO(data), len(data), limits or Limits(), "the file a")

    def written(self, document: Document) -> bytes:
        pieces = list(container_for(Path(f"a{self.extension}")).write(document))
        assert all(isinstance(piece, bytes) for piece in pieces)
        return b"".join(pieces)

    def __str__(self) -> str:
        return self.extension


def zipped(root: Any) -> bytes:
    return zlib.compress(pickle.dumps(root, 4))


def unzipped(data: bytes) -> Any:
    return pickle.loads(zlib.decompress(data))


def pickled(root: Any) -> bytes:
    return pickle.dumps(root, 4)


def as_json(root: Any) -> bytes:
    return json.dumps(root, indent=2).encode()


class TupleDumper(yaml.SafeDumper):
    pass


TupleDumper.add_representer(
    tuple, lambda dumper, items: dumper.represent_sequence("tag:yaml.org,2002:python/tuple", items)
)


def as_yaml(root: Any) -> bytes:
    made: bytes = yaml.dump(root, Dumper=TupleDumper, default_flow_style=False, encoding="utf-8")
    return made


def from_yaml(data: bytes) -> Any:
    return yaml.load(data, yaml.FullLoader)


CONTAINERS = [
    Backend(".fsa", "fsa", zipped, unzipped),
    Backend(".p", "plain_pickle", pickled, pickle.loads),
    Backend(".pickle", "plain_pickle", pickled, pickle.loads),
    Backend(".json", "json_text", as_json, json.loads, holds=""),
    Backend(".yml", "yaml_text", as_yaml, from_yaml, holds="bytes tuples", cut_lines_are_whole=True),
    Backend(".yaml", "yaml_text", as_yaml, from_yaml, holds="bytes tuples", cut_lines_are_whole=True),
]


@pytest.fixture(params=CONTAINERS, ids=str)
def backend(request: pytest.FixtureRequest) -> Backend:
    made: Backend = request.param
    return made


def plain_root() -> dict[str, Any]:
    """Nothing but what every container has room for; keys in the order of their names, as YAML files have them."""
    points = [[float(number), number / 3] for number in range(68)]
    whole = [[number, -number] for number in range(68)]
    faces = [face_entry(points, hash="a" * 40), face_entry(whole, odd=[None, True, False, -(2**60), 1.5e-300, "ü 顔"])]
    frames = {"clip_000001.png": faces, "clip_000002.png": [], "é 顔.png": faces[:1]}
    return {name: [dict(sorted(face.items())) for face in frame] for name, frame in frames.items()}


def rich_root(holds: str) -> dict[str, Any]:
    """The same with whatever a container has room for."""
    root = plain_root()
    face = root["clip_000001.png"][0]
    if "bytes" in holds:
        face["thumb"] = bytes(range(256))
    if "tuples" in holds:
        face["landmarks_xy"] = [(number, 2 * number) for number in range(68)]
        face["pair"] = (1, "a", (2.5, None))
    if "arrays" in holds:
        face["zeros"] = np.arange(136, dtype=np.float32).reshape(68, 2) / 7
        face["ints"] = np.arange(9, dtype=np.int64)
    root["clip_000001.png"][0] = dict(sorted(face.items()))
    return root


def test_every_container_has_a_line() -> None:
    assert {backend.module for backend in CONTAINERS} == set(plugins.names(FOLDER))
    assert sorted(backend.extension for backend in CONTAINERS) == sorted(containers())


def test_an_unknown_extension_is_a_sentence() -> None:
    with pytest.raises(
        AlignmentsError, match=r"a\.txt does not have .*; known are \.fsa, \.json, \.p, \.pickle, \.yaml"
    ):
        container_for(Path("a.txt"))


class TestContainer:
    def test_its_module_is_found_by_its_extension_in_any_case(self, backend: Backend) -> None:
        found = container_for(Path(f"Some.{backend.extension[1:].upper()}"))
        assert found is plugins.module(FOLDER, backend.module)
        assert backend.extension in found.EXTENSIONS
        assert all(extension == extension.lower() for extension in found.EXTENSIONS)

    def test_what_others_wrote_is_read(self, backend: Backend) -> None:
        for root in (plain_root(), rich_root(backend.holds), {}):
            assert same(unpack(backend.read(backend.encode(root)).root), root)

    def test_what_is_written_others_read(self, backend: Backend) -> None:
        for root in (plain_root(), rich_root(backend.holds), {}):
            assert same(backend.decode(backend.written(Document(root))), root)

    def test_what_was_read_is_written_as_it_was(self, backend: Backend) -> None:
        """Bulk numbers that were packed come out as the type that they had."""
        root = rich_root(backend.holds)
        document = backend.read(backend.encode(root))
        written = backend.written(document)
        assert same(backend.decode(written), root)
        again = backend.read(written)
        assert same(unpack(again.root), root)
        assert again.protocol == document.protocol
        assert backend.written(again) == written

    def test_writing_changes_nothing_in_the_document(self, backend: Backend) -> None:
        root = rich_root(backend.holds)
        backend.written(Document(root))
        assert same(root, rich_root(backend.holds))

    def test_a_file_that_is_cut_anywhere_is_refused(self, backend: Backend) -> None:
        root = plain_root()
        whole = backend.encode(root)
        refused = 0
        for cut in [*range(0, len(whole) - 1, max(1, len(whole) // 97)), len(whole) - 2]:
            try:
                found = backend.read(whole[:cut]).root
            except AlignmentsError as error:
                refused += 1
                said = str(error)
            else:
                assert backend.cut_lines_are_whole, cut
                assert not same(unpack(found), root)
                continue
            assert said.startswith(("the file a ", "The file a "))
        assert refused > 3

    @pytest.mark.parametrize(
        "data",
        [b"", b"\0", b"hello", b"\x89PNG\r\n\x1a\n" + bytes(99), bytes(5000), b"\xff" * 500, zlib.compress(b"hello")],
        ids=lambda data: f"{data[:8]!r}-{len(data)}",
    )
    def test_what_is_no_such_file_is_refused_or_no_mapping(self, backend: Backend, data: bytes) -> None:
        """`hello` alone is a proper YAML file; that its root is no mapping is for the next one to say."""
        try:
            found: Any = backend.read(data).root
        except AlignmentsError:
            return
        assert backend.cut_lines_are_whole
        assert type(found) is str

    def test_a_file_of_another_container_is_refused_or_the_same(self, backend: Backend) -> None:
        """JSON is YAML too."""
        for other in CONTAINERS:
            if other.module != backend.module:
                try:
                    found = backend.read(other.encode(plain_root())).root
                except AlignmentsError:
                    continue
                assert (other.module, backend.module) == ("json_text", "yaml_text")
                assert same(unpack(found), plain_root())

    def test_it_reads_no_more_than_its_limits_allow(self, backend: Backend) -> None:
        data = backend.encode(plain_root())
        with pytest.raises(AlignmentsError, match=r"(?i)the file a .*values"):
            backend.read(data, Limits(free_values=5, values_per_byte=0))

    def test_what_nests_too_deep_is_refused(self, backend: Backend) -> None:
        def nested(levels: int) -> dict[str, Any]:
            inner: Any = 1
            for _ in range(levels):
                inner = [inner]
            return {"a.png": inner}

        assert same(unpack(backend.read(backend.encode(nested(20))).root), nested(20))
        for levels in (MAX_DEPTH + 1, 300):
            with pytest.raises(AlignmentsError, match="nests"):
                backend.read(backend.encode(nested(levels)))
