"""`.json`: the default of 2018 and 2019; UTF-8, indented by two."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any, BinaryIO

from gpu_extract.alignments.container import Document
from gpu_extract.alignments.limits import Limits, check_tree, reason
from gpu_extract.alignments.packed import PackedList, pack_points, plain
from gpu_extract.alignments.repeats import Repeats
from gpu_extract.errors import AlignmentsError

EXTENSIONS = (".json",)
JOIN = 1 << 14  # fragments that are joined into one piece


def read(file: BinaryIO, stored: int, limits: Limits, label: str) -> Document:
    repeats = Repeats()
    try:
        text = file.read().decode("utf-8-sig")
        root = json.loads(text, object_pairs_hook=lambda pairs: _pack(repeats.mapping(pairs)))
    except RecursionError:
        raise AlignmentsError(f"{label} nests too deep; alignments files nest at most 8 deep.") from None
    except ValueError as error:
        raise AlignmentsError(f"{label} is damaged: it is not proper JSON ({reason(error)}).") from error
    check_tree(root, (str, int, float, bool, type(None), PackedList), limits.values(stored), label)
    return Document(root, repeats=repeats)


def write(document: Document) -> Iterator[bytes]:
    encoder = json.JSONEncoder(indent=2, default=_plain)
    parts = encoder.iterencode(document.root)
    while text := "".join(islice(parts, JOIN)):
        yield text.encode("utf-8")


def _plain(value: Any) -> Any:
    kind = type(value)
    if (value := plain(value)) is None or type(value) is kind:
        raise AlignmentsError(
            f"A JSON file cannot hold {kind.__name__}, such as masks and thumbnails; migrate it first."
        )
    return value


def _pack(mapping: dict[str, Any]) -> dict[str, Any]:
    """Landmarks are packed as soon as their face is complete, so that only one face's lists exist at a time."""
    for key in ("landmarksXY", "landmarks_xy"):
        points = mapping.get(key)
        if type(points) is list:
            mapping[key] = pack_points(points)
    return mapping
