"""Files that are whole at every instant: replacing writes, back-up copies, locks, snapshots.

A reader of the target sees the old bytes or the new ones, never a mixture and never nothing: new content goes to a
temporary file in the same folder, is flushed to the disk, and is renamed over the target.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import itertools
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from gpu_extract.errors import AlignmentsError, InputError, OutputError
from gpu_extract.storage.descriptors import close_quietly, closing, open_beyond_standard
from gpu_extract.storage.inputs import open_input

COPY_BLOCK = 1 << 20  # bytes read at a time
LOCK_BYTES = 32  # more than the number of a process


@dataclass(frozen=True)
class Snapshot:
    """What a file was when it was read: enough to see later whether it is still the same."""

    size: int
    mtime_ns: int
    ctime_ns: int  # of the last change of any kind, which programs cannot set back as they can the other one
    inode: int
    digest: bytes  # BLAKE2b of the content

    @classmethod
    def of(cls, status: os.stat_result, digest: bytes) -> Snapshot:
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, digest)

    def matches(self, path: Path) -> bool:
        """True while `path` holds the same bytes; they are read again only where the time stamps leave a doubt."""
        try:
            status = path.stat()
            if status.st_size != self.size:
                return False
            if Snapshot.of(status, self.digest) == self:
                return True
            return digest_of(path) == self.digest
        except (OSError, InputError):
            return False


def new_digest() -> Any:
    """The hash object that snapshots are made with."""
    return hashlib.blake2b(digest_size=32)


def digest_of(path: Path) -> bytes:
    """BLAKE2b of a file's content, 32 bytes."""
    digest = new_digest()
    with open_input(path, "The alignments file") as file:
        while block := file.read(COPY_BLOCK):
            digest.update(block)
    digested: bytes = digest.digest()
    return digested


def write_whole(path: str | Path, chunks: Iterable[bytes], *, before_replace: Callable[[], None] | None = None) -> None:
    """Write `chunks` to `path` so that `path` is the old file or the new one at every instant, also after a crash.

    The new file gets the old one's mode (and owner where permitted); a symbolic link stays a link and its target is
    replaced. `before_replace` is called when the new content is safely on the disk; what it raises stops the write.
    On any failure the temporary file is removed, the old file is untouched, and OSErrors arrive as OutputError.
    """
    target = Path(os.path.realpath(path))
    try:
        with _temporary(target, chunks) as temporary:
            if before_replace is not None:
                before_replace()
            temporary.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        message = f"{path} could not be written ({_meaning(error)}); what was there before is untouched."
        raise OutputError(message) from error


def write_new(path: str | Path, chunks: Iterable[bytes], *, suffix: str = "", numbered: str | None = None) -> Path:
    """Write `chunks` whole to a name that no file has yet: `<stem><suffix><ext>` beside `path`; returns the name.

    Where that name is taken, `<stem><numbered>(1)<ext>`, `(2)`, … are tried (`numbered` is `suffix` by default). An
    existing file is never replaced. OSErrors arrive as OutputError.
    """
    target = Path(os.path.realpath(path))
    numbered = suffix if numbered is None else numbered
    suffixes = itertools.chain([suffix], (f"{numbered}({number})" for number in itertools.count(1)))
    try:
        return _write_first(target, (target.stem + more + target.suffix for more in suffixes), chunks)
    except OSError as error:
        raise OutputError(f"A new file beside {path} could not be written ({_meaning(error)}).") from error


def write_free(path: str | Path, chunks: Iterable[bytes], *, or_else: Iterable[str] = ()) -> Path:
    """Write `chunks` whole to `path`, or else under the first of other names beside it that is free; returns the path.

    An existing file is never replaced, also one that came up meanwhile: where all names are taken, FileExistsError is
    raised. Other OSErrors arrive as OutputError.
    """
    target = Path(os.path.realpath(Path(path).parent)) / Path(path).name
    try:
        written = _write_first(target, itertools.chain([target.name], or_else), chunks)
    except FileExistsError:
        raise
    except OSError as error:
        raise OutputError(f"{path} could not be written ({_meaning(error)}).") from error
    return Path(path).with_name(written.name)


def _write_first(target: Path, names: Iterable[str], chunks: Iterable[bytes]) -> Path:
    with _temporary(target, chunks) as temporary:
        for name in names:
            candidate = target.with_name(name)
            try:
                _publish_new(temporary, candidate)
            except FileExistsError:
                continue
            sync_folder(target.parent)
            return candidate
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(target))


def backup_copy(path: str | Path, *, modern: bool = False, digest: Any = None) -> Path | None:
    """Copy `path` to a time-stamped name beside it and return that name; None where there is no file to copy.

    `modern` picks the naming: `<stem>_bk_YYYY-mm-dd_HH.MM.SS<ext>` as programs from 2024 on have it (and without
    `_bk` but with a number in parentheses where that is taken), otherwise `<stem>_YYYYmmdd_HHMMSS<ext>`. `digest`, an
    object of hashlib, is fed what was copied.
    """
    source = Path(os.path.realpath(path))
    now = time.localtime()
    numbered = time.strftime("_%Y-%m-%d_%H.%M.%S" if modern else "_%Y%m%d_%H%M%S", now)
    try:
        if not source.exists():
            return None
        with open_input(source, "The alignments file") as file:
            blocks = _blocks(file, digest or new_digest())
            backup = write_new(source, blocks, suffix=f"_bk{numbered}" if modern else numbered, numbered=numbered)
            status = os.fstat(file.fileno())
    except OSError as error:
        raise InputError(f"{path} could not be read for its back-up copy ({_meaning(error)}).") from error
    with suppress(OSError):
        os.utime(backup, ns=(status.st_atime_ns, status.st_mtime_ns))
    return backup


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Hold `<path>.lock` so that a second run on the same file is refused while this one lasts.

    The lock belongs to the process, not to the file's existence: what a killed run leaves behind is recognised as
    stale and taken over, and its unfinished temporary files are removed. Where the folder cannot be written there is
    nothing to protect and no lock is taken. Raises AlignmentsError when another run holds the lock.
    """
    target = Path(os.path.realpath(path))
    lock = target.with_name(target.name + ".lock")
    descriptor = _acquire(lock, path)
    if descriptor is None:
        yield
        return
    try:
        for leftover in _leftovers(target):
            with suppress(OSError):
                leftover.unlink()
        yield
    finally:
        with suppress(OSError):
            lock.unlink()
        close_quietly(descriptor)


def _acquire(lock: Path, path: str | Path) -> int | None:
    while True:
        try:
            descriptor = open_beyond_standard(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
        except (PermissionError, FileNotFoundError):
            return None
        except OSError as error:
            if error.errno == errno.EROFS:
                return None
            raise OutputError(f"The lock {lock} could not be made ({_meaning(error)}).") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder before us removes its lock file: only a lock on the file that still has the name counts.
            if os.fstat(descriptor).st_ino == lock.stat().st_ino:
                if os.pread(descriptor, LOCK_BYTES, 0).strip(b"0123456789\n\0"):
                    raise OutputError(f"The lock {lock} is another program's file; give that another name.")
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"{os.getpid()}\n".encode())
                return descriptor
        except BlockingIOError:
            holder = _holder(descriptor)
            close_quietly(descriptor)
            who = f" (process {holder})" if holder.isdigit() else ""
            raise AlignmentsError(f"{path} is in use by another run{who}; wait until it has finished.") from None
        except FileNotFoundError:
            pass
        except OutputError:
            close_quietly(descriptor)
            raise
        except OSError as error:
            # Ours or a killed run's: who holds a lock has written into it, which this disk does not allow.
            with suppress(OSError):
                if os.fstat(descriptor).st_size == 0:
                    lock.unlink()
            close_quietly(descriptor)
            raise OutputError(f"The lock {lock} could not be taken ({_meaning(error)}).") from error
        close_quietly(descriptor)


def _holder(descriptor: int) -> str:
    try:
        return os.pread(descriptor, LOCK_BYTES, 0).decode("ascii", "replace").strip()
    except OSError:
        return ""


def _blocks(file: BinaryIO, digest: Any) -> Iterator[bytes]:
    while block := file.read(COPY_BLOCK):
        digest.update(block)
        yield block


@contextmanager
def _temporary(target: Path, chunks: Iterable[bytes]) -> Iterator[Path]:
    """A flushed temporary file beside `target` that holds `chunks`; gone at the end, whatever happens."""
    temporary = target.with_name(f".{target.name[:40]}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    descriptor = open_beyond_standard(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        with closing(descriptor):
            _inherit(descriptor, target)
            for chunk in chunks:
                write_all(descriptor, chunk)
            os.fsync(descriptor)
        yield temporary
    finally:
        with suppress(OSError):
            temporary.unlink()


def _publish_new(temporary: Path, candidate: Path) -> None:
    try:
        os.link(temporary, candidate)
    except FileExistsError:
        raise
    except OSError:
        # No hard links on this file system: between this look and the rename another program could take the name.
        if os.path.lexists(candidate):
            raise FileExistsError(candidate) from None
        temporary.replace(candidate)


def _leftovers(target: Path) -> Iterator[Path]:
    pattern = re.compile(rf"\.{re.escape(target.name[:40])}\.\d+-[0-9a-f]{{8}}\.tmp")
    with suppress(OSError):
        yield from [entry for entry in target.parent.iterdir() if pattern.fullmatch(entry.name)]


def _inherit(descriptor: int, target: Path) -> None:
    try:
        old = target.stat()
    except FileNotFoundError:
        return
    with suppress(OSError):
        os.fchown(descriptor, old.st_uid, old.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))


def write_all(descriptor: int, chunk: bytes) -> None:
    """Write every byte to a file descriptor."""
    view = memoryview(chunk)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_file(path: Path) -> None:
    """Wait until a file's bytes survive a power cut; raises OSError if the disk refuses."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        close_quietly(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut, where its file system can."""
    # Some network file systems refuse to sync a folder; the rename itself has succeeded by then.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _meaning(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
