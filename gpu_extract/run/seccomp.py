"""A filter of system calls: those by which a process gets out of its files and into the network fail with EACCES."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from dataclasses import dataclass

_SET_SECCOMP, _FILTER = 22, 2  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
_KILL, _ALLOW = 0x80000000, 0x7FFF0000
_REFUSE, _UNKNOWN = 0x00050000 | errno.EACCES, 0x00050000 | errno.ENOSYS
_LOAD, _EQUAL, _AT_LEAST, _HAS_ANY, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER, _ARCHITECTURE, _FIRST, _SECOND = 0, 4, 16, 24
"""Where the word of a call stands that is to be compared; of arguments, the lower half, which is all of an int."""
_UNIX, _STREAM, _PACKETS, _KIND = 1, 1, 5, 0xF
_NAMESPACES = 0x7E020000  # CLONE_NEW…
_X32 = 0x40000000
_CLONE3 = 435  # of both architectures


@dataclass(frozen=True)
class _Machine:
    """Numbers of an architecture, as its kernel has them."""

    audit: int
    socket: int
    socketpair: int
    clone: int
    prlimit: int
    refused: tuple[int, ...]
    """io_uring_setup, which opens sockets too; ptrace, process_vm_readv, process_vm_writev, pidfd_getfd; bpf,
    perf_event_open; add_key, request_key, keyctl; unshare, setns; and what changes a file by its name, of which
    Landlock knows nothing: (l)chown, chmod and their kin, (l)setxattr, (l)removexattr and theirs, file_setattr."""


_MACHINES = {
    "x86_64": _Machine(
        *(0xC000003E, 41, 53, 56, 302),
        refused=(
            *(425, 101, 310, 311, 438, 321, 298, 248, 249, 250, 272, 308),
            *(92, 94, 260, 90, 268, 452, 188, 189, 463, 197, 198, 466, 469),
        ),
    ),
    "aarch64": _Machine(
        *(0xC00000B7, 198, 199, 220, 261),
        refused=(
            *(425, 117, 270, 271, 438, 280, 241, 217, 218, 219, 97, 268),
            *(54, 53, 452, 5, 6, 463, 14, 15, 466, 469),
        ),
    ),
}


def restrict(*, sockets: bool) -> None:
    """Give the calls up, for this thread and what it starts; new privileges must be ruled out.

    Sockets of programs on the same machine stay in two kinds that cannot reach what usually listens there: pairs, and
    those of packets in order, which CUDA opens for itself. Calls of another architecture end the process.

    Args:
        sockets: give up sockets as well.

    Raises:
        OSError: if the kernel refuses.
        NotImplementedError: if the machine's numbers are not known.
    """
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        raise NotImplementedError(platform.machine())
    program = _program(machine, sockets)
    code = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_SET_SECCOMP, ctypes.c_ulong(_FILTER), header, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _program(machine: _Machine, sockets: bool) -> bytes:
    """Instructions of 8 bytes; each comparison says how many to skip where it is true, and where not."""
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, machine.audit),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine is _MACHINES["x86_64"]:  # the same architecture to the filter, with other numbers
        steps += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _KILL)]
    for number in machine.refused:
        steps += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _REFUSE)]
    # Its flags are out of a filter's sight; where it is unknown, the C library takes clone.
    steps += [(_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _UNKNOWN)]
    steps += _by_first_argument(machine.clone, (_HAS_ANY, 0, 1, _NAMESPACES))
    steps += _by_first_argument(machine.prlimit, (_EQUAL, 1, 0, 0))  # limits of this process, and of no other
    if sockets:
        steps += _sockets_of(machine.socket, (_PACKETS,)) + _sockets_of(machine.socketpair, (_STREAM, _PACKETS))
    return b"".join(struct.pack("=HBBI", *step) for step in [*steps, (_RETURN, 0, 0, _ALLOW)])


def _by_first_argument(number: int, compared: tuple[int, int, int, int]) -> list[tuple[int, int, int, int]]:
    """Of a call, those that `compared` lets skip the refusal."""
    body = [(_LOAD, 0, 0, _FIRST), compared, (_RETURN, 0, 0, _REFUSE), (_RETURN, 0, 0, _ALLOW)]
    return [(_EQUAL, 0, len(body), number), *body]


def _sockets_of(number: int, types: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    """Of a call, those of the machine itself and these types."""
    compared = [(_EQUAL, len(types) - i, 0, kind) for i, kind in enumerate(types)]
    body = [
        (_LOAD, 0, 0, _FIRST),
        (_EQUAL, 0, len(types) + 2, _UNIX),
        (_LOAD, 0, 0, _SECOND),
        (_AND, 0, 0, _KIND),
        *compared,
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return [(_EQUAL, 0, len(body), number), *body]
