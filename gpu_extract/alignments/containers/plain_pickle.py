"""`.p` and `.pickle`: a pickle as it is, an option of 2018 and 2019."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from gpu_extract.alignments.container import Document
from gpu_extract.alignments.limits import Limits
from gpu_extract.alignments.pickles import safe_pickle
from gpu_extract.alignments.pickles.pickle_writer import DEFAULT_PROTOCOL, pickled

EXTENSIONS = (".p", ".pickle")
READ_BLOCK = 1 << 20


def read(file: BinaryIO, stored: int, limits: Limits, label: str) -> Document:
    def stream() -> Iterator[bytes]:
        file.seek(0)
        return iter(lambda: file.read(READ_BLOCK), b"")

    root, protocol = safe_pickle.load(stream, stored, limits, label)
    return Document(root, protocol)


def write(document: Document) -> Iterator[bytes]:
    return pickled(document.root, DEFAULT_PROTOCOL if document.protocol is None else document.protocol)
