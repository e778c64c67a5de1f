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

    read = safe_pickle.load(stream, stored, limits, label)
    return Document(read.root, read.protocol, numpy_2=read.numpy_2)


def write(document: Document) -> Iterator[bytes]:
    protocol = DEFAULT_PROTOCOL if document.protocol is None else document.protocol
    return pickled(document.root, protocol, numpy_2=document.numpy_2)
