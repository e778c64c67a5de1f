"""`.yml` and `.yaml`: an option of 2018 and 2019; block style, sorted keys, tuples tagged as Python's.

The document is built here from the parser's events, without PyYAML's constructors: a file cannot name a class, nest
deep enough to overflow a stack, or multiply by aliases.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from gpu_extract.alignments.container import Document
from gpu_extract.alignments.limits import MAX_DEPTH, Limits, check_tree, reason, shown
from gpu_extract.alignments.packed import PackedArray, PackedList, plain
from gpu_extract.alignments.repeats import Repeats
from gpu_extract.errors import AlignmentsError

EXTENSIONS = (".yml", ".yaml")
TUPLE = "tag:yaml.org,2002:python/tuple"
MAX_INT_BITS = 8192  # hexadecimal numbers have no limit of Python's own, but cannot be written back then
PLAIN_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "binary")}
TEXT_TYPES = (str, int, float, bool, bytes, type(None))


def read(file: BinaryIO, stored: int, limits: Limits, label: str) -> Document:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(file)
    repeats = Repeats()
    try:
        root = _build(loader, limits.values(stored), label, repeats)
    except (yaml.YAMLError, ValueError, UnicodeError) as error:
        if "nesting" in str(error):  # libyaml since 0.2.6 has a limit of its own, and reads ahead of the events
            raise _too_deep(label) from error
        raise AlignmentsError(f"{label} is damaged: it is not proper YAML ({reason(error)}).") from error
    finally:
        loader.dispose()
    check_tree(root, TEXT_TYPES, limits.values(stored), label)
    return Document(root, repeats=repeats)


def write(document: Document) -> Iterator[bytes]:
    import yaml

    class Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
        pass

    Dumper.add_representer(tuple, lambda dumper, items: dumper.represent_sequence(TUPLE, items))
    for kind in (PackedArray, PackedList, np.ndarray):
        Dumper.add_representer(kind, lambda dumper, value: dumper.represent_data(plain(value)))
    text = io.BytesIO()
    yaml.dump(document.root, text, Dumper=Dumper, default_flow_style=False, encoding="utf-8")
    yield text.getvalue()


def _build(loader: Any, max_values: int, label: str, repeats: Repeats) -> Any:
    """The one document of `loader`, built without recursion."""
    import yaml

    anchors: dict[str, Any] = {}
    open_nodes: list[tuple[list[Any], Any]] = []  # items so far, and the event that opened the node
    done: list[Any] = []
    scalars: dict[tuple[str | None, bool, str], Any] = {}
    documents = values = 0
    while True:
        event = loader.get_event()
        if isinstance(event, yaml.StreamEndEvent):
            break
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
        elif isinstance(event, yaml.SequenceStartEvent | yaml.MappingStartEvent):
            open_nodes.append(([], event))
            if len(open_nodes) > MAX_DEPTH:
                raise _too_deep(label)
        elif isinstance(event, yaml.ScalarEvent | yaml.AliasEvent | yaml.SequenceEndEvent | yaml.MappingEndEvent):
            if isinstance(event, yaml.ScalarEvent):
                key = (event.tag, event.implicit[0], event.value)
                if key in scalars:
                    value = scalars[key]
                else:
                    value = _scalar(loader, event, label)
                    if len(scalars) < 100_000:
                        scalars[key] = value
                opened = event
            elif isinstance(event, yaml.AliasEvent):
                if event.anchor not in anchors:
                    raise AlignmentsError(
                        f"{label} is damaged: its alias {shown(event.anchor)} stands before its anchor."
                    )
                value, opened = anchors[event.anchor], None
            else:
                items, opened = open_nodes.pop()
                value = _collection(items, opened, label, repeats)
            if opened is not None and opened.anchor:
                anchors[opened.anchor] = value
            (open_nodes[-1][0] if open_nodes else done).append(value)
            values += 1
            if values > max_values:
                raise AlignmentsError(f"{label} holds too many values for its size; it looks built to exhaust memory.")
    if documents != 1 or len(done) != 1:
        raise AlignmentsError(f"{label} holds {documents} YAML documents; an alignments file is exactly one.")
    return done[0]


def _too_deep(label: str) -> AlignmentsError:
    return AlignmentsError(f"{label} nests deeper than {MAX_DEPTH} levels; alignments files nest at most 8 deep.")


def _scalar(loader: Any, event: Any, label: str) -> Any:
    import yaml

    tag = event.tag
    if tag is None or tag == "!":
        tag = loader.resolve(yaml.ScalarNode, event.value, event.implicit)
    if tag not in PLAIN_TAGS:
        raise AlignmentsError(
            f"{label} uses the YAML tag {shown(tag)}; an alignments file holds plain data and tuples only."
        )
    value = loader.construct_object(yaml.ScalarNode(tag, event.value, event.start_mark, event.end_mark))
    if type(value) is int and value.bit_length() > MAX_INT_BITS:
        raise AlignmentsError(f"{label} holds {shown(value)}; it looks built to waste time.")
    return value


def _collection(items: list[Any], opened: Any, label: str, repeats: Repeats) -> Any:
    import yaml

    if isinstance(opened, yaml.SequenceStartEvent):
        if opened.tag in (None, "!", "tag:yaml.org,2002:seq"):
            return items
        if opened.tag == TUPLE:
            return tuple(items)
    elif opened.tag in (None, "!", "tag:yaml.org,2002:map"):
        keys = items[::2]
        if not all(type(key) is str or (type(key) is int and -(1 << 31) <= key < 1 << 31) for key in keys):
            raise AlignmentsError(f"{label} has a mapping key that is neither text nor a small integer.")
        return repeats.mapping(list(zip(keys, items[1::2], strict=True)))
    raise AlignmentsError(
        f"{label} uses the YAML tag {shown(opened.tag)}; an alignments file holds plain data and tuples only."
    )
