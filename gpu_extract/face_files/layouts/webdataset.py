"""Numbered tar shards as the `webdataset` loaders read them: `00000.tar`, `00001.tar`, …

A run that is itself divided numbers those of each part anew, after the part's own number: `00003-00000.tar`, …

A sample is a face image and, beside it, a JSON of what is known of it. Samples lie in the order of the plan, whatever
the order of completion; a frame's faces are never divided among shards; every bit of a shard follows from the faces
alone, and each begins where the one before ended. So a run that was stopped and resumed gives the same shards as one
that was not. A shard is written under a temporary name and renamed when it is whole; frames that a killed run put into
a shard but had no time to report are recognised there and not written twice.

Loaders take what precedes the first dot of a name for the sample's key, so dots inside a frame's name are written
`%2E` (and a percent sign `%25`); the JSON has the name itself.
"""

from __future__ import annotations

import os
import re
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from gpu_extract.errors import InputError, OutputError
from gpu_extract.face_files.layout import Layout, Sidecar
from gpu_extract.face_files.metadata import json_line
from gpu_extract.storage.atomic import write_all
from gpu_extract.storage.descriptors import close_quietly, hold_standard, open_beyond_standard
from gpu_extract.storage.inputs import open_input
from gpu_extract.storage.parts import check_part, temporary_name
from gpu_extract.tasks import FrameResult, FrameTask

MAX_SAMPLES = 1000
MAX_BYTES = 1 << 28  # of one shard's images and JSONs; a single frame with more has a shard to itself
HELD_BYTES = 1 << 28  # samples that wait in memory for frames before theirs; the rest waits in an unnamed file
_OF_A_PART = re.compile(r"([0-9]{5,}-)[0-9]{5,}\.tar")
_FACE = re.compile(rb'\{"position":([0-9]+),"index":([0-9]+)')  # how a sample's JSON begins


class _Sample(NamedTuple):
    name: str
    image: bytes
    json: bytes


class _Held(NamedTuple):
    """A sample in the overflow file."""

    name: str
    at: int
    image_bytes: int
    json_bytes: int


class _Stash:
    """Samples that wait for their turn, by (frame position, face index). Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._samples: dict[tuple[int, int], _Sample | _Held] = {}
        self._in_memory = 0
        self._overflow: IO[bytes] | None = None
        self._overflow_end = 0
        self._overflowed = 0

    def put(self, key: tuple[int, int], sample: _Sample) -> None:
        size = len(sample.image) + len(sample.json)
        with self._lock:
            if self._in_memory and self._in_memory + size > HELD_BYTES:
                self._samples[key] = self._put_aside(sample)
            else:
                self._samples[key] = sample
                self._in_memory += size

    def _put_aside(self, sample: _Sample) -> _Held:
        if self._overflow is None:
            hold_standard()
            self._overflow = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 (closed by `close`)
        at = self._overflow_end
        self._overflow.seek(at)
        write_all(self._overflow.fileno(), sample.image + sample.json)
        self._overflow_end += len(sample.image) + len(sample.json)
        self._overflowed += 1
        return _Held(sample.name, at, len(sample.image), len(sample.json))

    def pop(self, key: tuple[int, int]) -> _Sample:
        with self._lock:
            sample = self._samples.pop(key)
            if isinstance(sample, _Sample):
                self._in_memory -= len(sample.image) + len(sample.json)
                return sample
            assert self._overflow is not None
            data = _read_at(self._overflow.fileno(), sample.image_bytes + sample.json_bytes, sample.at)
            self._overflowed -= 1
            if self._overflowed == 0:
                self._overflow.truncate(0)
                self._overflow_end = 0
            return _Sample(sample.name, data[: sample.image_bytes], data[sample.image_bytes :])

    def close(self) -> None:
        with self._lock:
            self._samples.clear()
            if self._overflow is not None:
                with suppress(OSError):
                    self._overflow.close()
                self._overflow = None


class WebDataset(Layout):
    in_archives = True
    flushes = True

    def __init__(self, folder: Path, positions: np.ndarray, face_count: int, archive_prefix: str = "") -> None:
        super().__init__(folder, positions, face_count)
        self._prefix = archive_prefix
        self._waiting = [int(position) for position in reversed(positions)]  # the last is due next
        self._arrived: dict[int, FrameResult] = {}
        self._stash = _Stash(self._folder)
        shards = _in_sequence(folder, archive_prefix)
        self._number = len(shards)
        due = set(self._waiting)
        self._present = {face: name for name, faces in shards.items() for face in faces if face[0] in due}
        self._handle: int | None = None
        self._samples = self._nbytes = 0
        self._in_shard: list[FrameResult] = []

    def stem(self, frame_name: str) -> str:
        return _escaped(super().stem(frame_name))

    def place(self, task: FrameTask, k: int, name: str) -> str:
        check_part(name)
        stem, _, extension = name.rpartition(".")
        return f"{_escaped(stem)}.{extension}"

    def beside(self, task: FrameTask, k: int, place: str, sidecar: Sidecar) -> tuple[str, bytes]:
        return place.rpartition(".")[0] + ".json", sample_json(task, k, sidecar())

    def store(self, task: FrameTask, k: int, name: str, data: bytes, sidecar: Sidecar) -> str:
        member = self.place(task, k, name)
        text = sample_json(task, k, sidecar())
        self._stash.put((task.position, int(task.index[k])), _Sample(member, data, text))
        return member

    def commit(self, result: FrameResult) -> list[FrameResult]:
        self._arrived[result.task.position] = result
        done: list[FrameResult] = []
        try:
            while self._waiting and (due := self._arrived.pop(self._waiting[-1], None)) is not None:
                self._waiting.pop()
                done += self._append(due)
        except OSError as error:
            raise self._refused(error) from error
        return done

    def finish(self) -> list[FrameResult]:
        if self._waiting:  # stopped early: the resumed run writes this shard, so that it holds what it would have held
            self.abandon()
            return []
        try:
            done = self._close_shard()
        except OSError as error:
            raise self._refused(error) from error
        self.abandon()
        return done

    def abandon(self) -> None:
        self._stash.close()
        self._in_shard = []
        if self._handle is not None:
            close_quietly(self._handle)
            self._handle = None
            with suppress(OSError):
                self._temporary.unlink()

    @classmethod
    def holder(cls, folder: Path) -> Callable[[str, int], bool]:
        """A shard counts only if those before it do: each begins where the one before ended."""
        shards = whole_shards(folder)
        return lambda file_name, nbytes: file_name.partition("/")[0] in shards

    @property
    def _name(self) -> str:
        return shard_name(self._number, self._prefix)

    @property
    def _temporary(self) -> Path:
        return self._folder / temporary_name(self._name)

    def _refused(self, error: OSError) -> OutputError:
        return OutputError(f"the shard {self._name} cannot be written to {self._folder}: {error.strerror}.")

    def _append(self, result: FrameResult) -> list[FrameResult]:
        """Write a frame's samples; returns the frames of the shards that this closed."""
        done: list[FrameResult] = []
        result.faces.sort(key=lambda face: face.index)
        samples = [self._stash.pop((result.task.position, face.index)) for face in result.faces]
        if not samples:
            return [result]
        if (there := self._present.get((result.task.position, result.faces[0].index))) is not None:
            _name_container(result, there, samples)
            return [result]
        nbytes = sum(len(sample.image) + len(sample.json) for sample in samples)
        if self._samples and (self._samples + len(samples) > MAX_SAMPLES or self._nbytes + nbytes > MAX_BYTES):
            done += self._close_shard()
        if self._handle is None:
            self._handle = open_beyond_standard(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for sample in samples:
            key = sample.name.partition(".")[0]
            write_all(self._handle, tar_member(sample.name, sample.image) + tar_member(f"{key}.json", sample.json))
        _name_container(result, self._name, samples)
        self._in_shard.append(result)
        self._samples += len(samples)
        self._nbytes += nbytes
        if self._samples >= MAX_SAMPLES or self._nbytes >= MAX_BYTES:
            done += self._close_shard()
        return done

    def _close_shard(self) -> list[FrameResult]:
        """Give the open shard its name; returns its frames."""
        if self._handle is None:
            return []
        write_all(self._handle, bytes(2 * tarfile.BLOCKSIZE))
        os.fsync(self._handle)
        self._temporary.rename(self._folder / self._name)
        close_quietly(self._handle)
        self._handle = None
        _sync(self._folder)
        self._number += 1
        self._samples = self._nbytes = 0
        done, self._in_shard = self._in_shard, []
        return done


def tar_member(name: str, data: bytes) -> bytes:
    """A regular file in a tar archive: the same bytes for the same name and content, on any day for any user."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    padding = bytes(-len(data) % tarfile.BLOCKSIZE)
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape") + data + padding


def _escaped(stem: str) -> str:
    """A stem without dots, which would end the sample's key."""
    return stem.replace("%", "%25").replace(".", "%2E")


def sample_json(task: FrameTask, k: int, known: dict[str, Any]) -> bytes:
    """What lies beside the k-th face's image; `faces_in_shard` reads its beginning."""
    return json_line({"position": task.position, "index": int(task.index[k]), **known})


def whole_shards(folder: Path) -> dict[str, list[tuple[int, int]]]:
    """The faces (frame position, face index) of each shard, in each part of a run up to the first that is not whole."""
    prefixes = {found[1] for path in folder.glob("*.tar") if (found := _OF_A_PART.fullmatch(path.name))}
    return {name: faces for prefix in ("", *sorted(prefixes)) for name, faces in _in_sequence(folder, prefix).items()}


def _in_sequence(folder: Path, prefix: str) -> dict[str, list[tuple[int, int]]]:
    """Those of one prefix, from 0 up to the first that is missing or damaged."""
    shards: dict[str, list[tuple[int, int]]] = {}
    while (path := folder / shard_name(len(shards), prefix)).is_file():
        try:
            shards[path.name] = list(faces_in_shard(path))
        except OutputError:
            break
    return shards


def shard_name(number: int, prefix: str = "") -> str:
    return f"{prefix}{number:05d}.tar"


def faces_in_shard(path: Path) -> Iterator[tuple[int, int]]:
    """(frame position, face index) of a shard's samples; only headers and the beginnings of the JSONs are read.

    Raises:
        OutputError: if the shard cannot be read or is damaged.
    """
    at = 0
    try:
        with open_input(path, "the shard") as file:
            while (head := os.pread(file.fileno(), tarfile.BLOCKSIZE + 64, at))[: tarfile.BLOCKSIZE].strip(b"\0"):
                size = tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape").size
                if found := _FACE.match(head, tarfile.BLOCKSIZE):
                    yield int(found[1]), int(found[2])
                at += tarfile.BLOCKSIZE + size + -size % tarfile.BLOCKSIZE
            if not head:
                raise OutputError(f"the shard {path} of the earlier run is cut off; remove it and what follows it.")
    except (OSError, InputError, tarfile.HeaderError) as error:
        raise OutputError(f"the shard {path} of the earlier run cannot be read ({error}).") from error


def _name_container(result: FrameResult, shard: str, samples: list[_Sample]) -> None:
    result.faces = [
        replace(face, file_name=f"{shard}/{sample.name}") for face, sample in zip(result.faces, samples, strict=True)
    ]


def _sync(folder: Path) -> None:
    """Make a rename outlast a power cut, where the file system knows how."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


def _read_at(handle: int, size: int, at: int) -> bytes:
    parts = []
    while size:
        part = os.pread(handle, size, at)
        if not part:
            raise OSError(0, "samples that were put aside are gone")
        parts.append(part)
        size, at = size - len(part), at + len(part)
    return b"".join(parts)


LAYOUT = WebDataset
