"""`.fsa`: a zlib-compressed pickle, the only format that has been written since October 2019."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import BinaryIO

from gpu_extract.alignments.container import Document
from gpu_extract.alignments.deflate import deflated, inflated
from gpu_extract.alignments.limits import Limits
from gpu_extract.alignments.pickles import safe_pickle
from gpu_extract.alignments.pickles.pickle_writer import DEFAULT_PROTOCOL, pickled

EXTENSIONS = (".fsa",)


def read(file: BinaryIO, stored: int, limits: Limits, label: str) -> Document:
    with ExitStack() as opened:

        def stream() -> Iterator[bytes]:
            opened.close()  # or a thread might still read for the stream before
            file.seek(0)
            return opened.enter_context(closing(inflated(file, stored, limits, label)))

        read = safe_pickle.load(stream, stored, limits, label)
    return Document(read.root, read.protocol, numpy_2=read.numpy_2)


def write(document: Document) -> Iterator[bytes]:
    protocol = DEFAULT_PROTOCOL if document.protocol is None else document.protocol
    return deflated(pickled(document.root, protocol, numpy_2=document.numpy_2))
