"""The content of a zlib stream (RFC 1950, 1951), in pieces, without the GIL.

Without the extension zlib does the same, at half the speed or less.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

try:
    import gpu_extract.kernels._inflate as _inflate
except ImportError:  # built only where a C compiler was at hand
    _inflate = None


def is_available() -> bool:
    """Whether the C extension was built."""
    return _inflate is not None


class Inflater:
    """One stream, read as it is needed.

    Args:
        read: gives the stream's next bytes, of any number, and none after the last; what it raises comes out of
            `inflated`. It may give bytes from behind the stream's end, too.
        portable: leave out what is particular to this processor.
    """

    def __init__(self, read: Callable[[], bytes], *, portable: bool = False) -> None:
        self._stream: Any
        if _inflate is None:
            self._stream = _Zlib(read)
        else:
            self._stream = _inflate.Stream(read, 0) if portable else _inflate.Stream(read)

    def inflated(self, size: int) -> bytes:
        """The next bytes: at least one and at most `size`, and none behind the stream's end.

        Raises:
            ValueError: if the stream is damaged, its checksum included; what was given before need not be right then.
            EOFError: if it ends too early.
        """
        piece: bytes = self._stream.inflated(size)
        return piece

    def left(self) -> int:
        """How many bytes were read that are not the stream's; to be asked behind its end."""
        count: int = self._stream.left()
        return count


class _Zlib:
    def __init__(self, read: Callable[[], bytes]) -> None:
        self._read = read
        self._object = zlib.decompressobj()

    def inflated(self, size: int) -> bytes:
        inflater = self._object
        while not inflater.eof:
            block = inflater.unconsumed_tail or self._read()
            try:
                piece = inflater.decompress(block, size)
            except zlib.error as error:
                raise ValueError(str(error)) from error
            if piece:
                return piece
            if not block:
                raise EOFError("the stream ends too early")
        return b""

    def left(self) -> int:
        return len(self._object.unused_data)
