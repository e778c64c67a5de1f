"""`faces`: the faces of an alignments file as arrays, for notebooks and training; nothing is written."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, SupportsIndex

import numpy as np

from gpu_extract.alignments import Alignments
from gpu_extract.alignments.exchange import load_any
from gpu_extract.engines.base import Crops, Engine
from gpu_extract.errors import FrameError, InputError, UsageError, counted, printable
from gpu_extract.face_files.face import Face
from gpu_extract.frames import Frame, FrameFailure, FrameSource
from gpu_extract.jobs.runs.prepare import engine_of, frames_of, planned
from gpu_extract.naming import of_this_machine
from gpu_extract.options import Settings, option, whole
from gpu_extract.run.pipeline import NEVER_CAME, load_regions
from gpu_extract.run.plan import Plan, with_own_crops
from gpu_extract.run.resolve import Resolved, resolve
from gpu_extract.run.rows import FaceRows
from gpu_extract.run.shard import Shard
from gpu_extract.run.shards import part_of
from gpu_extract.run.stream import CropStream, CutFrame, inherited
from gpu_extract.run.threads import available_cores
from gpu_extract.tasks import Failure

NO_FOLDER = Path(os.devnull)
"""Where faces would go."""
KEPT_BYTES = 64 << 20  # of crops of frames that were asked for one by one
AHEAD = 64  # frames of the plan that are read on to reach another one, rather than to seek anew


def faces(
    alignments: str | os.PathLike[str],
    frames: str | os.PathLike[str],
    *,
    size: int = 256,
    extract_every_n: int = 1,
    align_eyes: bool = False,
    eye_angle: str = "auto",
    numerics: str = "auto",
    large: bool = False,
    min_size: int = 0,
    centering: str = "auto",
    video_timing: str = "auto",
    match_keys: str = "exact",
    rotate: str = "auto",
    antialias: bool = False,
    engine: str = "auto",
    device: str = "auto",
    batch_mb: int = 64,
    pinned_mb: int = 512,
    workers: int | None = None,
    shard: str | None = None,
    on_error: Literal["skip", "stop"] = "skip",
) -> FaceSource:
    """The faces of an alignments file, cut from its frames as `extract` cuts them, as arrays in memory.

    >>> for face in gpu_extract.faces("clip_alignments.fsa", "clip.mp4", size=256):
    ...     model(face.rgb)

    Planned at once; frames are decoded, by threads, when it is iterated, a few ahead of whoever takes the faces.

    Args:
        alignments: alignments file of any generation, or landmarks as JSON.
        frames: the video, or the folder of images, that it was made from.
        size, extract_every_n, align_eyes, eye_angle, numerics, large, min_size, centering, video_timing, match_keys,
            rotate, antialias, engine, device, batch_mb, pinned_mb: see `gpu_extract.extract`.
        workers: threads that cut; None takes one for each core this process may use.
        shard: "I/N", part I (from 0) of N of the planned frames; see also `FaceSource.part`.
        on_error: "skip" goes on after a frame or face that fails, `FaceSource.failures` has them; "stop" raises
            FrameError.

    Raises:
        GpuExtractError: one of its kinds, see `gpu_extract.errors`.
    """
    settings = Settings(
        alignments=of_this_machine(alignments, "faces"),
        frames=of_this_machine(frames, "faces"),
        faces=NO_FOLDER,
        size=size,
        extract_every_n=extract_every_n,
        align_eyes=align_eyes,
        eye_angle=eye_angle,
        numerics=numerics,
        large=large,
        min_size=min_size,
        centering=centering,
        video_timing=video_timing,
        match_keys=match_keys,
        rotate=rotate,
        antialias=antialias,
        engine=engine,
        device=device,
        batch_mb=batch_mb,
        pinned_mb=pinned_mb,
        workers=workers,
        shard=shard,
        on_error=on_error,
    )
    parts = () if settings.shard is None else (Shard.of(settings.shard),)
    return _open(settings, parts)


@dataclass(frozen=True)
class _Planned:
    """What all that walk over some faces share."""

    settings: Settings
    parts: tuple[Shard, ...]
    alignments: Alignments
    resolved: Resolved
    plan: Plan
    names: tuple[str, ...] | None
    """Of all frames of the source, where they do not follow from numbers."""
    notes: tuple[str, ...]

    @contextmanager
    def frames(self) -> Iterator[FrameSource]:
        """The source, opened anew.

        Raises:
            InputError: if it holds other frames by now.
        """
        source, process = frames_of(self.settings, self.resolved), os.getpid()
        try:
            if self.names is not None:
                source.admit(self.names)
                if tuple(source.names() or ()) != self.names:
                    raise InputError(f"the images in '{source.path}' are others than when their faces were planned.")
            yield source
        finally:
            if os.getpid() == process:
                source.close()
            else:
                inherited.append(source)

    def part(self, shard: Shard) -> _Planned:
        with self.frames() as source:
            return replace(self, plan=part_of(self.plan, source, shard), parts=(*self.parts, shard))


def _open(settings: Settings, parts: Iterable[Shard]) -> FaceSource:
    alignments = load_any(settings.alignments, read_only=True)
    resolved = resolve(settings, alignments)
    with frames_of(settings, resolved) as source:
        _, plan = planned(settings, alignments, resolved, source, fit_ahead=False)
        found = source.names()
        notes = (*alignments.notes, *resolved.notes, *source.notes, *plan.notes)
    names = None if found is None else tuple(found)
    whole = _Planned(settings, (), alignments, resolved, plan, names, notes)
    for shard in parts:
        whole = whole.part(shard)
    return FaceSource(whole)


class FaceSource:
    """Faces in the order of the video: by the position of their frame, then by their index. A context manager.

    Iterate it, as often as wanted and from several threads: each walk has a decoder and threads of its own, which end
    with it, by a `break` too. `len` is how many faces are planned. `source[key, index]` is the face of a frame, by the
    frame's key or position, and `source[n]` the n-th one; both seek in a video.

    Attributes:
        notes: what was decided on the way and a user should know, in sentences.
    """

    def __init__(self, planned: _Planned) -> None:
        self._planned = planned
        self._plan = planned.plan
        self._rows = FaceRows(planned.alignments, planned.plan)
        self._workers = planned.settings.workers or available_cores()
        self.notes: list[str] = list(planned.notes)
        self._failures = {(failure.frame, failure.index): failure for failure in _of_plan(planned)}
        self._lock = threading.Lock()
        self._walks: set[CropStream] = set()
        self._engines: list[tuple[Engine, ExitStack]] = []
        self._single: _Single | None = None
        self._closed = False

    def __len__(self) -> int:
        return self._plan.face_count

    @cached_property
    def frames(self) -> tuple[str, ...]:
        """The keys of the planned frames, in order."""
        names = self._plan.frame_names
        return tuple(names[entry] for entry in self._plan.frame_of.tolist())

    @property
    def failures(self) -> list[Failure]:
        """Frames and faces that failed, those known from the plan first; grows while the faces are taken."""
        return list(self._failures.values())

    def part(self, number: int, count: int, *, workers: int | None = None) -> FaceSource:
        """Part `number`, from 0, of `count` of these faces; all parts together have each once.

        A part is some frames in a row, which cost about as much as those of the others.

        Args:
            workers: threads that cut; None takes as many as these faces have.

        Raises:
            UsageError: if there is no such part.
        """
        shard = f"{number}/{count}"
        if fault := option("shard").fault(shard):
            raise UsageError(fault)
        part = self._planned.part(Shard.of(shard))
        if workers is not None:
            part = replace(part, settings=replace(part.settings, workers=workers))
        return FaceSource(part)

    def __iter__(self) -> Iterator[Face]:
        self._check_open()
        if self._stops and self._failures:
            raise FrameError(_sentence(next(iter(self._failures.values()))))
        with self._engine() as engine, self._planned.frames() as source:
            stream = CropStream(self._plan, source, engine, self._workers)
            with self._lock:
                self._walks.add(stream)
            try:
                for cut in stream:
                    self._note(cut)
                    for k in cut.whole():
                        if self._closed:
                            return
                        yield self._face(cut, k)
            finally:
                stream.close()
                with self._lock:
                    self._walks.discard(stream)

    def __getitem__(self, which: SupportsIndex | tuple[str | SupportsIndex, SupportsIndex]) -> Face:
        """A face by (key or position of its frame, its index there), or by its place among all.

        Raises:
            TypeError: for anything else; slices too.
            KeyError, IndexError: if it is not planned.
            FrameError: if it cannot be cut.
        """
        self._check_open()
        i, k = self._place_of(which)
        with self._lock:
            if self._single is not None and self._single.is_inherited:
                inherited.append(self._single)
                self._single = None
            if self._single is None:
                self._single = _Single(self._planned)
            single = self._single
        cut = single.cut(i, self._engine)
        self._note(cut, stops=False)
        if k not in cut.whole():
            index = int(cut.task.index[k])
            raise FrameError(_sentence(next(one for one in cut.failures if one.index in (None, index))))
        return self._face(cut, k, copy=True)

    def close(self) -> None:
        """End all walks and their threads; safe more than once."""
        with self._lock:
            self._closed = True
            walks, engines, single = list(self._walks), self._engines, self._single
            self._engines, self._single = [], None
        for walk in walks:
            walk.close()
        if single is not None:
            single.close()
        for _, closer in engines:
            closer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[object, ...]:
        """Another process plans anew."""
        return _open, (self._planned.settings, self._planned.parts)

    @property
    def _stops(self) -> bool:
        return self._planned.settings.on_error == "stop"

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("these faces are closed.")

    @contextmanager
    def _engine(self) -> Iterator[Engine]:
        """An engine for one walk; kept for the next one, for some take seconds to make."""
        with self._lock:
            engine, closer = self._engines.pop() if self._engines else (None, ExitStack())
        if engine is None:
            notes: list[str] = []
            engine = closer.enter_context(engine_of(self._planned.settings, notes.append, notes))
            self.notes += [note for note in notes if note not in self.notes]
        fit = True
        try:
            yield engine
        except Exception:
            fit = False
            raise
        finally:
            with self._lock:
                keep = fit and not self._closed
                if keep:
                    self._engines.append((engine, closer))
            if not keep:
                closer.close()

    def _note(self, cut: CutFrame, *, stops: bool = True) -> None:
        for failure in cut.failures:
            self._failures.setdefault((failure.frame, failure.index), failure)
            if stops and self._stops:
                raise FrameError(_sentence(failure))

    def _face(self, cut: CutFrame, k: int, *, copy: bool = False) -> Face:
        task, row = cut.task, int(cut.task.rows[k])
        return Face(
            pixels=cut.crops[k].copy() if copy else cut.crops[k],
            landmarks=self._rows.landmarks(row),
            crop_from_frame=task.crop_from_frame[k].copy(),
            box=self._planned.alignments.faces.box[row].copy(),
            frame=task.name,
            position=task.position,
            index=int(task.index[k]),
            frame_size=cut.frame_size,
        )

    @cached_property
    def _frame_of_key(self) -> dict[str, int]:
        return {key: i for i, key in enumerate(self.frames)}

    def _place_of(self, which: Any) -> tuple[int, int]:
        """Its frame's place in the plan, and its own in the frame."""
        if (n := whole(which)) is not None:
            return self._nth(n)
        if isinstance(which, tuple) and len(which) == 2:
            key, index = which[0] if isinstance(which[0], str) else whole(which[0]), whole(which[1])
            if key is not None and index is not None:
                return self._find(key, index)
        raise TypeError(
            f"a face is named by its place among all, or by its frame's key or position and its index there, got "
            f"{which!r}."
        )

    def _nth(self, n: int) -> tuple[int, int]:
        count = len(self)
        if not count:
            raise IndexError("there are no faces.")
        if not -count <= n < count:
            are = "is" if count == 1 else "are"
            raise IndexError(f"there {are} {counted(count, 'face')}, from 0 to {count - 1:,}; {n:,} is none of them.")
        n %= count
        i = int(np.searchsorted(self._plan.starts, n, side="right")) - 1
        return i, n - int(self._plan.starts[i])

    def _find(self, key: str | int, index: int) -> tuple[int, int]:
        if isinstance(key, str):
            found = self._frame_of_key.get(key)
        else:
            at = int(np.searchsorted(self._plan.positions, key))
            found = at if at < self._plan.frame_count and self._plan.positions[at] == key else None
        if found is None:
            raise KeyError(self._why_no_frame(key))
        there = self._plan.index[self._plan.starts[found] : self._plan.starts[found + 1]].tolist()
        if index not in there:
            raise KeyError(f"frame {key!r} has no face {index} among those planned; it has {_listed(there)}.")
        return found, there.index(index)

    def _why_no_frame(self, key: str | int) -> str:
        if isinstance(key, str) and (why := self._plan.missing.get(key)) is not None:
            return f"frame {key!r} cannot be had: {why}"
        if isinstance(key, str) and key in self._planned.alignments.frame_names:
            return f"frame {key!r} has no face that is planned: it holds none, or the options leave them out."
        example = f"; keys are like {self.frames[0]!r}" if self._plan.frame_count else ""
        return f"no planned frame has the {'key' if isinstance(key, str) else 'position'} {key!r}{example}."


class _Single:
    """Frames one by one: those asked for lately are kept, and a frame just behind another is reached by reading on."""

    def __init__(self, planned: _Planned) -> None:
        self._planned, self._plan = planned, with_own_crops(planned.plan)
        self._closer = ExitStack()
        self._source = self._closer.enter_context(planned.frames())
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, CutFrame] = OrderedDict()
        self._kept_bytes = 0
        self._reading: Iterator[Frame | FrameFailure] = iter(())
        self._next = self._end = 0
        """Of the plan's frames, those that `_reading` is still to give."""

    @property
    def is_inherited(self) -> bool:
        return self._process != os.getpid()

    def cut(self, i: int, engine: Callable[[], AbstractContextManager[Engine]]) -> CutFrame:
        """All faces of the i-th frame of the plan."""
        with self._lock:
            if (kept := self._kept.get(i)) is not None:
                self._kept.move_to_end(i)
                return kept
            with engine() as mine:
                cut = self._cut(i, mine)
            self._kept[i] = cut
            self._kept_bytes += cut.crops.nbytes
            while self._kept_bytes > KEPT_BYTES and len(self._kept) > 1:
                self._kept_bytes -= self._kept.popitem(last=False)[1].crops.nbytes
            return cut

    def close(self) -> None:
        with self._lock:
            self._closer.close()

    def _cut(self, i: int, engine: Engine) -> CutFrame:
        task, size = self._plan.task(i), self._plan.size
        failures = list(task.failed.values())
        nothing = np.empty((0, size, size, 3), np.uint8)
        frame = self._frame(i)
        if isinstance(frame, FrameFailure):
            return CutFrame(task, nothing, [Failure(task.name, None, frame.reason)], (0, 0))
        try:
            patches, patch_of = load_regions(frame, task.region)
        except FrameError as error:
            return CutFrame(task, nothing, [Failure(task.name, None, str(error))], (0, 0))
        crops = engine.warp(patches, Crops(patch_of, task.crop_from_frame, task.cubic, size))
        return CutFrame(task, crops, failures, (frame.height, frame.width))

    def _frame(self, i: int) -> Frame | FrameFailure:
        positions = self._plan.positions
        if not self._next <= i < self._end:
            self._next, self._end = i, min(i + AHEAD, len(positions))
            self._reading = self._source.frames(positions[self._next : self._end])
        for frame in self._reading:
            self._next = int(np.searchsorted(positions, frame.index)) + 1
            if frame.index == positions[i]:
                return frame
        self._end = 0
        return FrameFailure(int(positions[i]), self._plan.task(i).name, NEVER_CAME)


def _of_plan(planned: _Planned) -> Iterator[Failure]:
    """What is known to fail before a frame is read."""
    plan = planned.plan
    yield from plan.failures
    if plan.missing:
        counts = np.bincount(planned.alignments.faces.frame, minlength=len(plan.frame_names)).tolist()
        faces_of = dict(zip(plan.frame_names, counts, strict=True))
        for name, reason in plan.missing.items():
            yield Failure(name, None, reason, faces_of[name])


def _sentence(failure: Failure) -> str:
    face = "" if failure.index is None else f" face {failure.index}"
    return printable(f"{failure.frame}{face}: {failure.reason}")


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:10])) + (" …" if len(numbers) > 10 else "")
