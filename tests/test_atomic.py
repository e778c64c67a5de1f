"""Whole-file writes under faults: at every instant the old file or the new one."""

import errno
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from gpu_extract.errors import AlignmentsError, OutputError
from gpu_extract.storage import atomic

OLD, NEW = b"old content", [b"new ", b"", b"content" * 1000]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "ümlaut alignments.fsa"
    path.write_bytes(OLD)
    return path


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_write_whole_replaces_the_content_and_leaves_nothing_else(target: Path) -> None:
    atomic.write_whole(target, NEW)
    assert target.read_bytes() == b"".join(NEW)
    assert names(target.parent) == [target.name]


def test_write_whole_makes_a_new_file(tmp_path: Path) -> None:
    atomic.write_whole(tmp_path / "new.fsa", NEW)
    assert (tmp_path / "new.fsa").read_bytes() == b"".join(NEW)


def test_write_whole_keeps_the_mode(target: Path) -> None:
    target.chmod(0o640)
    atomic.write_whole(target, NEW)
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_write_whole_follows_a_link_and_keeps_it(target: Path, tmp_path: Path) -> None:
    link = tmp_path / "elsewhere" / "link.fsa"
    link.parent.mkdir()
    link.symlink_to(target)
    atomic.write_whole(link, NEW)
    assert link.is_symlink()
    assert target.read_bytes() == b"".join(NEW)


def test_write_whole_takes_the_longest_name(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 251 + ".fsa")
    atomic.write_whole(path, NEW)
    assert path.read_bytes() == b"".join(NEW)


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace", "chunks", "before_replace"])
@pytest.mark.parametrize("number", [0, 1])
def test_a_failing_write_leaves_the_old_file_alone(
    target: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    calls = 0

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def maybe(*arguments: Any, **keywords: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > number:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*arguments, **keywords)

        return maybe

    before_replace = failing(lambda: None) if call == "before_replace" else None
    chunks: Iterable[bytes] = NEW
    if call == "chunks":
        chunks = (failing(bytes)(chunk) for chunk in NEW)
    elif call == "replace":
        monkeypatch.setattr(Path, "replace", failing(Path.replace))
    elif call != "before_replace":
        monkeypatch.setattr(os, call, failing(getattr(os, call)))
    if number and call in ("open", "fsync", "replace", "before_replace"):
        # These come once a write (the second `open` and `fsync` are the folder's, whose failure does no harm).
        atomic.write_whole(target, chunks, before_replace=before_replace)
        assert target.read_bytes() == b"".join(NEW)
    else:
        with pytest.raises(OutputError, match=r"could not be written \(no space left on device\)"):
            atomic.write_whole(target, chunks, before_replace=before_replace)
        assert target.read_bytes() == OLD
    monkeypatch.undo()
    assert names(target.parent) == [target.name]


def test_what_before_replace_raises_arrives_unchanged(target: Path) -> None:
    def refuse() -> NoReturn:
        raise KeyError("changed")

    with pytest.raises(KeyError, match="changed"):
        atomic.write_whole(target, NEW, before_replace=refuse)
    assert target.read_bytes() == OLD
    assert names(target.parent) == [target.name]


def test_short_writes_are_completed(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:3]))
    atomic.write_whole(target, NEW)
    assert target.read_bytes() == b"".join(NEW)


def test_missing_folder_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no such file or directory"):
        atomic.write_whole(tmp_path / "nowhere" / "file.fsa", NEW)


def test_write_new_never_replaces(target: Path) -> None:
    first = atomic.write_new(target, [b"1"], suffix="_x")
    second = atomic.write_new(target, [b"2"], suffix="_x")
    assert (first.name, second.name) == ("ümlaut alignments_x.fsa", "ümlaut alignments_x(1).fsa")
    assert (first.read_bytes(), second.read_bytes(), target.read_bytes()) == (b"1", b"2", OLD)
    assert len(names(target.parent)) == 3


def test_write_new_without_hard_links(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*_: object) -> NoReturn:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_link)
    written = [atomic.write_new(target, [b"%d" % number], suffix="_x").read_bytes() for number in range(3)]
    assert written == [b"0", b"1", b"2"]
    assert len(names(target.parent)) == 4


@pytest.mark.parametrize(
    ("modern", "first", "second"),
    [
        (False, r"ümlaut alignments_\d{8}_\d{6}\.fsa", r"ümlaut alignments_\d{8}_\d{6}\(1\)\.fsa"),
        (
            True,
            r"ümlaut alignments_bk_\d{4}-\d\d-\d\d_\d\d\.\d\d\.\d\d\.fsa",
            r"ümlaut alignments_\d{4}-\d\d-\d\d_\d\d\.\d\d\.\d\d\(1\)\.fsa",
        ),
    ],
)
def test_backup_copies_are_named_as_the_programs_name_theirs(
    target: Path, monkeypatch: pytest.MonkeyPatch, modern: bool, first: str, second: str
) -> None:
    now = time.localtime()
    monkeypatch.setattr(time, "localtime", lambda: now)
    copies = [copy for copy in (atomic.backup_copy(target, modern=modern) for _ in range(2)) if copy is not None]
    assert re.fullmatch(first, copies[0].name)
    assert re.fullmatch(second, copies[1].name)
    assert [copy.read_bytes() for copy in copies] == [OLD, OLD]
    assert target.read_bytes() == OLD
    assert copies[0].stat().st_mtime_ns == target.stat().st_mtime_ns
    assert len(names(target.parent)) == 3


def test_backup_of_nothing_is_nothing(tmp_path: Path) -> None:
    assert atomic.backup_copy(tmp_path / "missing.fsa") is None
    assert names(tmp_path) == []


def test_backup_feeds_the_digest(target: Path) -> None:
    digest = atomic.new_digest()
    atomic.backup_copy(target, digest=digest)
    assert digest.digest() == atomic.digest_of(target)


def test_a_snapshot_sees_changes_but_not_touches(target: Path) -> None:
    status = target.stat()
    snapshot = atomic.Snapshot.of(status, atomic.digest_of(target))
    assert snapshot.matches(target)
    os.utime(target, ns=(1, 1))
    assert snapshot.matches(target)
    target.write_bytes(OLD[::-1])
    assert not snapshot.matches(target)
    target.write_bytes(OLD + b"x")
    assert not snapshot.matches(target)
    time.sleep(0.02)  # the clock of a file system is coarse
    target.write_bytes(OLD[::-1])
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert not snapshot.matches(target), "a program that sets the time back"
    target.unlink()
    assert not snapshot.matches(target)


def test_a_file_under_the_name_of_the_lock_is_no_lock(target: Path) -> None:
    lock = target.with_name(f"{target.name}.lock")
    lock.write_bytes(b"held by somebody\n")
    with pytest.raises(OutputError, match="is another program's file"), atomic.locked(target):
        pass
    assert lock.read_bytes() == b"held by somebody\n"
    for left in (b"", b"4711\n", b"4711\n\0\0", b"\0\0\0\0\0"):
        lock.write_bytes(left)
        with atomic.locked(target):
            assert lock.read_bytes() == f"{os.getpid()}\n".encode()
        assert not lock.exists()


def test_a_second_lock_is_refused_and_names_the_holder(target: Path) -> None:
    code = (
        "import sys; from gpu_extract.storage.atomic import locked\n"
        f"with locked({str(target)!r}): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        in_use = rf"in use by another run \(process {holder.pid}\)"
        with pytest.raises(AlignmentsError, match=in_use), atomic.locked(target):
            pytest.fail("two runs hold the lock")
        holder.stdin.close()
        assert holder.wait(20) == 0
    with atomic.locked(target):
        assert names(target.parent) == [target.name, target.name + ".lock"]
    assert names(target.parent) == [target.name]


def test_a_killed_runs_lock_and_leftovers_are_taken_over(target: Path) -> None:
    code = (
        "import os; from gpu_extract.storage.atomic import locked, write_whole\n"
        "def chunks():\n    yield b'half'; os.kill(os.getpid(), 9)\n"
        f"with locked({str(target)!r}): write_whole({str(target)!r}, chunks())"
    )
    killed = subprocess.run([sys.executable, "-c", code], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(names(target.parent)) == 3
    assert target.read_bytes() == OLD
    with atomic.locked(target):
        assert names(target.parent) == [target.name, target.name + ".lock"]
    assert names(target.parent) == [target.name]


def test_a_lock_can_be_taken_again_after_an_error(target: Path) -> None:
    with pytest.raises(KeyError), atomic.locked(target):
        raise KeyError
    with atomic.locked(target):
        pass


def test_where_no_lock_file_can_be_made_none_is_taken(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_arguments: object, **_keywords: object) -> NoReturn:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", read_only)
    with atomic.locked(target):
        pass
    monkeypatch.undo()
    assert names(target.parent) == [target.name]


def test_killed_at_any_moment_the_file_is_old_or_new(target: Path) -> None:
    """Runs that write 60 versions one after another are killed at random moments."""
    code = (
        "import sys; from gpu_extract.storage.atomic import write_whole, backup_copy\n"
        f"path = {str(target)!r}\n"
        "print('up', flush=True)\n"
        "for number in range(10 ** 6):\n"
        "    write_whole(path, [b'%06d' % number] * 20_000)\n"
    )
    versions = set()
    for attempt in range(12):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as run:
            assert run.stdout is not None
            run.stdout.readline()
            time.sleep(0.007 * attempt)
            run.kill()
        content = target.read_bytes()
        if content != OLD:
            assert len(content) == 120_000
            assert content == content[:6] * 20_000
            versions.add(content)
    assert versions, "no run lived long enough to write"
