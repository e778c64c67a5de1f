"""What a child process that reads untrusted files gives up before it reads them. Loaded at every start of one, so
nothing heavy is imported here."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from gpu_extract.errors import DeviceError

CONFINEMENT = "_GPU_EXTRACT_CONFINEMENT"
"""Environment variable of a child: its `Confinement`, as JSON."""

KEPT = {
    *("PATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV"),  # programs, such as Triton's compiler, and libraries
    *("PYTHONHOME", "PYTHONPATH", "PYTHONNOUSERSITE"),  # modules
    *("PYTHONUTF8", "LANG", "TZ"),  # the first two, with LC_*, decide which bytes a file's name has
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MALLOC_ARENA_MAX"),  # what a process takes of its machine
    *("HOME", "TMPDIR", "XDG_CACHE_HOME", "TRITON_CACHE_DIR"),  # where it would write; `environment` may say better
}
KEPT_BEGINNINGS = ("LC_", "CUDA_", "NVIDIA_")  # the latter: which devices, and where their libraries and caches are
"""Of the environment, all that a confined child is given: what the machine is like, and never keys or options."""

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store")
"""Programs and libraries."""
SETTINGS = (
    *(f"/etc/{name}" for name in ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "ld.so.preload", "alternatives")),
    *(f"/etc/{name}" for name in ("localtime", "timezone", "os-release", "mime.types", "ssl/openssl.cnf")),
    *(f"/etc/{name}" for name in ("passwd", "group", "nsswitch.conf", "nvidia", "OpenCL")),
    "/proc",
    *(f"/sys/{name}" for name in ("bus", "class", "dev", "devices", "fs/cgroup", "kernel/mm", "module")),
)
"""What libraries ask about the machine. Not all of /etc, where services keep their keys. What /proc has of processes
outside, the kernel keeps from whoever may not trace them."""
DEVICES = tuple(f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom"))
"""Not all of /dev, where root finds the disks."""
ACCELERATORS = ("nvidia*", "dxg")
SHARED_MEMORY = "/dev/shm"

OOM_SCORE = 500
"""Of 1000: where memory runs out, the kernel ends the child and not its parent."""
_NO_NEW_PRIVILEGES = 38  # PR_SET_NO_NEW_PRIVS
_CAPABILITIES = 0x20080522
"""The version of the interface."""
_OVER_FILES = 1 << 0 | 1 << 1 | 1 << 3
"""CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER: in a container, root works on files of other users."""

_active: list[str] = []


@dataclass(frozen=True)
class Confinement:
    """What a child may still do, with all that it starts. Paths are absolute; one that is not there gives no right."""

    reads: tuple[str, ...] = ()
    """Files, and folders with all below them, besides Python, its packages, and the system's libraries and devices."""
    writes: tuple[str, ...] = ()
    """The same, to be read and written. Among them must be what TMPDIR names, and the folder of an alignments file
    that is to be saved."""
    memory_bytes: int | None = None
    """Of address space, each process. None where CUDA is used, which reserves hundreds of gigabytes."""
    file_bytes: int | None = None
    """Of each file that is written."""
    open_files: int | None = None
    network: bool = False
    strict: bool = False
    """A child that cannot give up all of this ends before it reads anything."""

    def as_variable(self) -> str:
        import json

        return json.dumps(asdict(self))

    @classmethod
    def of_variable(cls, text: str) -> Confinement:
        import json

        told = json.loads(text)
        return cls(**told | {name: tuple(told[name]) for name in ("reads", "writes")})


def scrubbed(environment: Mapping[str, str]) -> dict[str, str]:
    """What of an environment a confined child is given."""
    return {name: value for name, value in environment.items() if name in KEPT or name.startswith(KEPT_BEGINNINGS)}


def active() -> list[str]:
    """What this process has given up, and what it could not with the reason, which begins with "no"; empty if it was
    not asked to."""
    return list(_active)


def confine() -> None:
    """In a child whose parent asks for it: give up what it says. To be called while there is one thread.

    Raises:
        DeviceError: if not all could be given up, and the parent is strict.
    """
    text = os.environ.pop(CONFINEMENT, None)
    if text is None:
        return
    asked = Confinement.of_variable(text)
    done, missing = _limit(asked), []
    if sys.platform == "linux":
        for step in (_go_first, _give_up_privileges, _give_up_files, _give_up_calls):
            given_up, not_given_up = step(asked)
            done += given_up
            missing += not_given_up
    else:
        missing.append("no landlock, no seccomp: this is not Linux")
    _active[:] = [*done, *missing]
    if asked.strict and missing:
        raise DeviceError(
            f"this machine does not confine a process that reads untrusted files: {'; '.join(missing)}. A kernel from "
            "6.12 on with Landlock can, and a container that lets it."
        )


_Outcome = tuple[list[str], list[str]]
"""What was given up, and what was not."""


def _limit(asked: Confinement) -> list[str]:
    import resource

    _lower(resource.RLIMIT_CORE, 0)
    done = []
    if asked.memory_bytes is not None:
        done.append(f"memory {_size(_lower(resource.RLIMIT_AS, asked.memory_bytes))}")
    if asked.file_bytes is not None:
        done.append(f"files of {_size(_lower(resource.RLIMIT_FSIZE, asked.file_bytes))}")
    if asked.open_files is not None:
        done.append(f"{_lower(resource.RLIMIT_NOFILE, asked.open_files):,} open files")
    return done


def _lower(kind: int, most: int) -> int:
    """Set a limit for good, unless it is lower already; returns it."""
    import resource

    _, hard = resource.getrlimit(kind)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))
    return most


def _size(nbytes: int) -> str:
    return f"{nbytes / 2**30:.3g} GiB" if nbytes >= 1 << 30 else f"{nbytes / 2**20:.3g} MiB"


def _go_first(asked: Confinement) -> _Outcome:
    try:
        descriptor = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
        try:
            if int(os.read(descriptor, 16)) < OOM_SCORE:
                os.write(descriptor, b"%d" % OOM_SCORE)
        finally:
            os.close(descriptor)
    except OSError as error:
        return [], [f"no first to end where memory runs out: {error.strerror}"]
    return ["first to end where memory runs out"], []


def _give_up_privileges(asked: Confinement) -> _Outcome:
    """Programs that run as their owner, and root's powers but those over files."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVILEGES, *map(ctypes.c_ulong, (1, 0, 0, 0))):
        return [], [f"no end to new privileges: {os.strerror(ctypes.get_errno())}"]
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; then their upper halves
    if libc.capget(header, sets) == 0:
        for i in range(6):
            sets[i] &= _OVER_FILES if i < 2 else 0
        if libc.capset(header, sets) == 0:
            return ["privileges: those over files" if sets[1] else "privileges: none"], []
    return [], [f"no privileges given up: {os.strerror(ctypes.get_errno())}"]


def _give_up_files(asked: Confinement) -> _Outcome:
    from gpu_extract.run import landlock

    try:
        known = landlock.version()
        landlock.restrict(_rules(asked), known, tcp=not asked.network)
    except OSError as error:
        why = {
            errno.ENOSYS: "the kernel was built without it, or a container forbids it",
            errno.EOPNOTSUPP: "it is turned off where the kernel was started",
        }
        return [], [f"no landlock: {why.get(error.errno or 0, error.strerror)}"]
    words, missing = ["files"], []
    if known < landlock.TRUNCATION:
        missing.append(f"no landlock {landlock.TRUNCATION}: files elsewhere can be emptied")
    if known >= landlock.TCP and not asked.network:
        words.append("tcp")
    if known >= landlock.SIGNALS:
        words.append("signals")
    else:
        missing.append(f"no landlock {landlock.SIGNALS}: other processes of this user can be sent signals")
    return [f"landlock {known}: {', '.join(words)}"], missing


def _give_up_calls(asked: Confinement) -> _Outcome:
    from gpu_extract.run import seccomp

    try:
        seccomp.restrict(sockets=not asked.network)
    except NotImplementedError as error:
        return [], [f"no seccomp: the numbers of {error} are not known"]
    except OSError as error:
        return [], [f"no seccomp: {error.strerror}"]
    return [f"seccomp: no {'' if asked.network else 'sockets, '}io_uring, ptrace, namespaces, chmod"], []


def _rules(asked: Confinement) -> Iterator[tuple[str, int]]:
    """Paths, and what is left of the rights to them."""
    from gpu_extract.run import landlock

    read, run = landlock.READ, landlock.READ | landlock.EXECUTE
    yield from ((path, run) for path in (*SYSTEM, sys.prefix, sys.base_prefix, *_libraries(asked)))
    yield from ((path, read) for path in (*SETTINGS, *asked.reads))
    yield from ((path, landlock.DEVICE) for path in DEVICES)
    yield from ((path, landlock.WRITE) for path in asked.writes)
    accelerators = [os.fspath(path) for pattern in ACCELERATORS for path in Path("/dev").glob(pattern)]
    if accelerators:
        yield from ((path, landlock.DEVICE) for path in accelerators)
        yield SHARED_MEMORY, landlock.WRITE
        # CUDA names its threads in /proc and fails with error 304 where it cannot. Children of this process have
        # folders of their own there, which no rule can name yet; root could write the kernel's settings as well.
        yield "/proc" if os.geteuid() else "/proc/self", landlock.WRITE_FILE


def _libraries(asked: Confinement) -> Iterator[str]:
    """Where modules and libraries are looked for, but no folder with homes or jobs in it: it may be the current one."""
    package = Path(__file__).resolve().parents[1]
    yield from map(os.fspath, (package, package / "kernels"))
    home = os.path.expanduser("~")  # noqa: PTH111 (no home, no error)
    others = [Path(os.path.realpath(path)) for path in (home, *asked.reads, *asked.writes)]
    for entry in map(Path, (*sys.path, *os.environ.get("LD_LIBRARY_PATH", "").split(":"))):
        if entry.is_absolute() and not any(path.is_relative_to(os.path.realpath(entry)) for path in others):
            yield os.fspath(entry)
