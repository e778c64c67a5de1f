"""Landlock of Linux: a process gives up files, TCP and signals, for itself and all that it will start."""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable

READ = 1 << 2 | 1 << 3
"""Files' bytes, folders' names."""
EXECUTE = 1 << 0
_REFER, _TRUNCATE, _USE_DEVICE = 1 << 13, 1 << 14, 1 << 15
WRITE_FILE = 1 << 1 | _TRUNCATE
"""Into files that are there."""
WRITE = READ | WRITE_FILE | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | _REFER
"""Remove, make and rename files and folders. Not: links, which others would follow, sockets, pipes and devices."""
DEVICE = READ | WRITE_FILE | _USE_DEVICE

_OF_FILES = EXECUTE | WRITE_FILE | 1 << 2 | _USE_DEVICE
_KNOWN_BITS = {1: 13, 2: 14, 3: 15, 4: 15}
_MOST_BITS = 16
"""Of rights to files: how many each version of the kernel's interface knows, from 5 on all that stand here."""
TRUNCATION, TCP, SIGNALS = 3, 4, 6
"""The versions that came with these."""
_TCP_BIND_AND_CONNECT = 0b11
_SIGNALS_AND_ABSTRACT_SOCKETS = 0b11
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # of all architectures
_ASK_VERSION, _PATH_BENEATH = 1, 1

_libc = ctypes.CDLL(None, use_errno=True)


def version() -> int:
    """Of the kernel's interface.

    Raises:
        OSError: if it has none (ENOSYS), or if it was turned off (EOPNOTSUPP).
    """
    return _call(_CREATE_RULESET, None, 0, _ASK_VERSION)


def restrict(rules: Iterable[tuple[str, int]], known: int, *, tcp: bool) -> None:
    """Leave this thread, and what it starts, what `rules` name and nothing else; new privileges must be ruled out.

    Args:
        rules: paths, of a folder with all below it, and rights; a path that is not there gives none.
        known: `version()`.
        tcp: give up TCP as well, where the kernel can.

    Raises:
        OSError: if the kernel refuses; nothing is given up then.
    """
    rights = (1 << _KNOWN_BITS.get(known, _MOST_BITS)) - 1
    ports = _TCP_BIND_AND_CONNECT if tcp and known >= TCP else 0
    scopes = _SIGNALS_AND_ABSTRACT_SOCKETS if known >= SIGNALS else 0
    attributes = struct.pack("=QQQ", rights, ports, scopes)  # older kernels take zeros where they know nothing
    ruleset = _call(_CREATE_RULESET, attributes, len(attributes), 0)
    try:
        for path, allowed in rules:
            _allow(ruleset, path, allowed & rights)
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, allowed: int) -> None:
    try:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(beneath).st_mode):
            allowed &= _OF_FILES
        _call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", allowed, beneath), 0)
    finally:
        os.close(beneath)


def _call(number: int, *arguments: int | bytes | None) -> int:
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    result: int = _libc.syscall(ctypes.c_long(number), *words)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
