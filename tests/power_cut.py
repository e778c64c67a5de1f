"""A disk that forgets: what a run writes is recorded call by call, and laid out as a power cut at any moment leaves it.

The model is the worst that POSIX allows. What was written and not flushed reads as zeros, is missing, or is there. A
name that was given or taken away and not flushed is there or not, each on its own. A flush of a file keeps its data,
one of a folder its names, one of the file system both.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gpu_extract.run import journal
from gpu_extract.run.journal import opened
from gpu_extract.storage import durable
from tests.helpers import by_the_long_way


@dataclass
class Inode:
    """A file's bytes: what a reader sees, and what is on the disk."""

    data: bytearray = field(default_factory=bytearray)
    kept: bytes = b""

    def zeroed(self) -> bytes:
        """With the size that it has, and zeros for what was never flushed."""
        return self.kept + bytes(len(self.data) - len(self.kept)) if len(self.data) > len(self.kept) else self.kept


class Disk:
    """The files of one folder, as a list of calls makes them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.names: dict[str, Inode] = {}
        self.kept: dict[str, Inode] = {}
        for path in root.rglob("*"):
            if path.is_file():
                data = path.read_bytes()
                inode = Inode(bytearray(data), data)
                self.names[str(path)] = self.kept[str(path)] = inode

    def do(self, call: tuple[Any, ...]) -> None:
        match call:
            case ("open", path, inode):
                self.names[path] = inode
            case ("write", inode, data):
                inode.data += data
            case ("truncate", inode, size):
                del inode.data[size:]
            case ("rename", old, new):
                self.names[new] = self.names.pop(old)
            case ("link", old, new):
                self.names[new] = self.names[old]
            case ("unlink", path):
                self.names.pop(path, None)
            case ("flush", inode):
                inode.kept = bytes(inode.data)
            case ("flush folder", folder):
                elsewhere = {name: inode for name, inode in self.kept.items() if name.rpartition("/")[0] != folder}
                self.kept = elsewhere | {
                    name: inode for name, inode in self.names.items() if name.rpartition("/")[0] == folder
                }
            case ("flush all",):
                self.kept = dict(self.names)
                for inode in self.names.values():
                    inode.kept = bytes(inode.data)

    def after_a_cut(self, how: str, dice: random.Random) -> dict[str, bytes]:
        """Relative name -> bytes.

        Args:
            how: "zeros" keeps all names, and of the data only the journal's; "forgotten" keeps what was flushed;
                "mixed" throws dice for each name and each file.
        """
        found: dict[str, bytes] = {}
        for name in sorted({*self.names, *self.kept}):
            inode = self.names.get(name)
            if how == "forgotten" or (how == "mixed" and dice.random() < 0.5):
                inode = self.kept.get(name)
            if inode is None:
                continue
            if how == "zeros":
                data = bytes(inode.data) if name.endswith(journal.NAME) else inode.zeroed()
            elif how == "forgotten":
                data = inode.kept
            else:
                half = inode.kept + bytes(inode.data[len(inode.kept) : (len(inode.kept) + len(inode.data)) // 2])
                data = dice.choice([bytes(inode.data), inode.zeroed(), inode.kept, half])
            found[os.path.relpath(name, self.root)] = data
        return found


class Recorder:
    """Everything that this process writes below a folder, in order, while entered."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.calls = str(root), list[tuple[Any, ...]]()
        self._patch = monkeypatch
        self._lock = threading.RLock()
        self._inodes: dict[int, Inode | str] = {}
        self._by_path: dict[str, Inode] = {}

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        real = {name: getattr(os, name) for name in ("open", "write", "ftruncate", "fsync", "close", "unlink")}
        with self._patch.context() as patch:
            by_the_long_way(patch)
            for name, function in real.items():
                patch.setattr(os, name, self._wrapped(function, getattr(self, f"_{name}")))
            for name in ("rename", "replace", "link"):
                call = "link" if name == "link" else "rename"
                patch.setattr(os, name, self._wrapped(getattr(os, name), self._moved(call)))
            flush = self._wrapped(durable.sync_file_system, lambda result, folder: self.calls.append(("flush all",)))
            patch.setattr(opened, "sync_file_system", flush)
            yield

    def _wrapped(self, function: Callable[..., Any], note: Callable[..., None]) -> Callable[..., Any]:
        def wrapped(*args: Any, **named: Any) -> Any:
            with self._lock:
                result = function(*args, **named)
                note(result, *args)
                return result

        return wrapped

    def _ours(self, path: Any) -> str | None:
        name = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        return name if name.startswith(self.root + "/") or name == self.root else None

    def _open(self, descriptor: int, path: Any, flags: int, *_: Any) -> None:
        name = self._ours(path)
        self._inodes.pop(descriptor, None)
        if name is None:
            return
        if flags & os.O_DIRECTORY:
            self._inodes[descriptor] = name
            return
        if name not in self._by_path or flags & (os.O_EXCL | os.O_TRUNC):
            self._by_path[name] = Inode()
            self.calls.append(("open", name, self._by_path[name]))
        self._inodes[descriptor] = self._by_path[name]

    def _write(self, written: int, descriptor: int, data: Any) -> None:
        if descriptor in self._inodes:
            self.calls.append(("write", self._inodes[descriptor], bytes(data)[:written]))

    def _ftruncate(self, _: None, descriptor: int, size: int) -> None:
        if descriptor in self._inodes:
            self.calls.append(("truncate", self._inodes[descriptor], size))

    def _fsync(self, _: None, descriptor: int) -> None:
        of = self._inodes.get(descriptor)
        if isinstance(of, Inode):
            self.calls.append(("flush", of))
        elif of is not None:
            self.calls.append(("flush folder", of))

    def _close(self, _: None, descriptor: int) -> None:
        self._inodes.pop(descriptor, None)

    def _unlink(self, _: None, path: Any) -> None:
        if (name := self._ours(path)) is not None:
            self._by_path.pop(name, None)
            self.calls.append(("unlink", name))

    def _moved(self, call: str) -> Callable[..., None]:
        def note(_: None, old: Any, new: Any) -> None:
            source, target = self._ours(old), self._ours(new)
            assert source is not None
            assert target is not None
            self._by_path[target] = self._by_path[source] if call == "link" else self._by_path.pop(source)
            self.calls.append((call, source, target))

        return note
