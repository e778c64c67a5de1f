"""Landmarks from and for other programs, as JSON.

The exchange form is that of the programs' own export job and file plugins:

    {"frame_000001.png": [{"detected": [left, top, right, bottom], "landmarks_2d": [[x, y], …]}, …], …}

Import takes that, the same without `detected` (the box is then the landmarks' own), and plain lists:

    {"frame_000001.png": [[[x, y], …], …], …}
"""

from __future__ import annotations

import itertools
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpu_extract.alignments.container import Document, container_for
from gpu_extract.alignments.document import Alignments, LandmarksOnlyError
from gpu_extract.alignments.face_table import LANDMARK_KEYS, POINT_COUNTS
from gpu_extract.alignments.limits import Limits, check_tree, reason, shown
from gpu_extract.alignments.packed import unpack
from gpu_extract.alignments.pickles.pickle_writer import DEFAULT_PROTOCOL
from gpu_extract.alignments.repeats import Repeats
from gpu_extract.errors import AlignmentsError, UsageError, counted
from gpu_extract.storage.atomic import write_free
from gpu_extract.storage.inputs import open_input, unreadable
from gpu_extract.tasks import Failure

if TYPE_CHECKING:
    from gpu_extract.alignments.upgrade import FrameSize, Migration, NewNames

WRITE_FRAMES = 256  # frames that are formatted together


def export_json(
    path: str | os.PathLike[str],
    new: str | os.PathLike[str] | None = None,
    *,
    frame_size: FrameSize | None = None,
    video: str | None = None,
    new_names: NewNames | None = None,
) -> tuple[Path, Migration]:
    """Write the landmarks of an alignments file in the exchange form; returns the new file's path and what it holds.

    Without `new` the name is `<stem>.json` beside the file, or `<stem>_1.json`, `_2`, … where that exists. With the
    file name of the `video` that the frames are from, their keys end in its extension. Faces without proper landmarks
    are left out and named in the result. Raises as `Alignments.load`; UsageError where `new` exists.
    """
    from gpu_extract.alignments.upgrade import upgraded

    alignments = Alignments.load(path)
    target = alignments.path.with_suffix(".json") if new is None else Path(new)
    if new is not None and os.path.lexists(target):
        raise UsageError(f"{target} exists; choose a new name.")
    root, report = upgraded(alignments, "2.4", frame_size=frame_size, video=video, new_names=new_names)
    others = (f"{target.stem}_{number}.json" for number in itertools.count(1)) if new is None else ()
    try:
        target = write_free(target, _formatted(root["__data__"]), or_else=others)
    except FileExistsError:
        raise UsageError(f"{target} exists; choose a new name.") from None
    report.new, report.to_generation = str(target), "exchange"
    return target, report


def import_json(path: str | os.PathLike[str], new: str | os.PathLike[str], *, strict: bool = False) -> Alignments:
    """Make an alignments file of version 2.4 from landmarks; returns it, loaded.

    Faces without proper landmarks are left out and named in `left_out`, what else a user should know in `notes`.

    Args:
        path: a JSON file in the exchange form or of plain landmark lists, 68, 98, 51 or 4 points (x, y) a face, in
            pixels of the frame with (0, 0) at the centre of the top-left pixel.
        new: a `.fsa` file that does not exist yet.
        strict: make no file if a face would be left out.

    Raises InputError where `path` cannot be read, AlignmentsError where it holds something else or, with `strict`, a
    bad face; UsageError where `new` will not do.
    """
    path, new = Path(path), Path(new)
    if new.suffix.lower() != ".fsa":
        raise UsageError(f"{new.name} is not a name for a new alignments file; such files end in .fsa.")
    if os.path.lexists(new):
        raise UsageError(f"{new} exists; choose a new name.")
    data, repeats = _read_json(path)
    if not isinstance(data, dict):
        raise AlignmentsError(
            f"{path.name} holds a {type(data).__name__}; a JSON object of frames with landmarks is wanted."
        )
    taken = _Import(path.name, repeats)
    document = taken.document(data)
    if strict and taken.left_out:
        raise AlignmentsError(f"{first_fault(path.name, taken.left_out)}; nothing was imported, as --strict asks.")
    try:
        write_free(new, container_for(new).write(document))
    except FileExistsError:
        raise UsageError(f"{new} exists; choose a new name.") from None
    made = Alignments.load(new)
    made.notes, made.left_out = taken.notes, taken.left_out
    return made


def load_any(path: str | os.PathLike[str], *, read_only: bool = False) -> Alignments:
    """An alignments file; or landmarks as `import_json` takes them, as if they had been imported.

    Args:
        read_only: see `Alignments.load`.

    Raises as `Alignments.load`; AlignmentsError where no face of such landmarks is one.
    """
    path = Path(path)
    try:
        return Alignments.load(path, read_only=read_only)
    except LandmarksOnlyError as error:
        document = error.document
    taken = _Import(path.name, document.repeats)
    made = Alignments(path, taken.document(document.root))
    made.imported, made.left_out = True, taken.left_out
    made.notes = [
        f"{path.name} holds landmarks for exchange: taken as import takes them, as version {made.version}; the file "
        "itself stays as it is.",
        *taken.notes,
    ]
    return made


class _Import:
    """Landmarks on their way into version 2.4: what is taken, and what is left out."""

    def __init__(self, label: str, repeats: Repeats) -> None:
        self._label = label
        self._repeats = repeats
        self._unknown: Counter[str] = Counter()
        self.left_out: list[Failure] = []
        self.notes: list[str] = []

    def document(self, data: dict[str, Any]) -> Document:
        """The alignments file of some frames.

        Raises AlignmentsError where it is an alignments file already, or no face of it is one.
        """
        self._refuse_alignments(data)
        self.notes += self._repeats.join(data, self._label, _faces)
        frames: dict[str, Any] = {}
        for name, faces in data.items():
            if isinstance(faces, list):
                frames[name] = {"faces": self._frame(name, _faces(faces)), "video_meta": {}}
            else:
                self.left_out.append(Failure(name, None, f"its faces are {_kind(faces)}; a list of them is wanted"))
        if self.left_out and not any(frame["faces"] for frame in frames.values()):
            raise AlignmentsError(f"{first_fault(self._label, self.left_out)}; no face is left to import.")
        self.notes += [
            f"{counted(count, 'face')} of {self._label} held {shown(key)}, for which an alignments file has no place."
            for key, count in self._unknown.items()
        ]
        return Document({"__meta__": {"version": 2.4}, "__data__": frames}, DEFAULT_PROTOCOL)

    def _frame(self, name: str, faces: list[Any]) -> list[dict[str, Any]]:
        made = []
        for index, face in enumerate(faces):
            try:
                made.append(self._face(face))
            except _NoFaceError as error:
                moved = ", so the faces after it move up by one" if index < len(faces) - 1 else ""
                self.left_out.append(Failure(name, index, f"{error}{moved}"))
        return made

    def _face(self, face: Any) -> dict[str, Any]:
        if contradictions := self._repeats.contradictions(face):
            raise _NoFaceError(f"it has {shown(contradictions[0])} twice, with two values")
        if not isinstance(face, dict):
            return _imported(None, face)
        if "landmarks_2d" not in face:
            raise _NoFaceError("it has no landmarks_2d")
        made = _imported(face.get("detected"), face["landmarks_2d"])
        self._unknown.update(face.keys() - {"detected", "landmarks_2d"})
        return made

    def _refuse_alignments(self, data: dict[str, Any]) -> None:
        """Alignments files are JSON, too; they need no import, and would lose by it."""
        faces = (face for entry in data.values() if isinstance(entry, list) for face in entry)
        first = next((face for face in faces if isinstance(face, dict)), {})
        framed = any(isinstance(entry, dict) and "faces" in entry for entry in data.values())
        if "__data__" in data or framed or not first.keys().isdisjoint(LANDMARK_KEYS):
            raise AlignmentsError(
                f"{self._label} is an alignments file already; extract takes it as it is, and migrate makes a newer "
                "one of it."
            )


def first_fault(label: str, left_out: list[Failure]) -> str:
    """What was left out first, and how much more."""
    first = left_out[0]
    where = shown(first.frame) if first.index is None else f"{shown(first.frame)}, face {first.index}"
    more = f", and {len(left_out) - 1:,} more" if len(left_out) > 1 else ""
    return f"{label}, frame {where}: {first.reason}{more}"


class _NoFaceError(Exception):
    """Why something is no face, after "frame …, face …"."""


def _faces(faces: list[Any]) -> list[Any]:
    """The faces of a frame; a frame's only face may stand there without a list around it."""
    if faces and isinstance(faces[0], list) and faces[0] and all(isinstance(value, int | float) for value in faces[0]):
        return [faces]
    return faces


def _imported(detected: Any, landmarks: Any) -> dict[str, Any]:
    from gpu_extract.alignments.upgrade import box_around, current_face  # extract does without

    points = _checked_points(landmarks)
    if detected is None:
        return current_face(box_around(points), points)
    if not isinstance(detected, list) or len(detected) != 4 or not all(_is_finite(value) for value in detected):
        raise _NoFaceError("its box `detected` is not [left, top, right, bottom] in numbers")
    left, top, right, bottom = (round(value) for value in detected)
    return current_face((left, top, right - left, bottom - top), points)


def _checked_points(landmarks: Any) -> np.ndarray:
    """Landmarks as float32 [n, 2]; raises _NoFaceError with what is wrong with them."""
    if not isinstance(landmarks, list):
        raise _NoFaceError(f"its landmarks are {_kind(landmarks)}; a list of points [x, y] is wanted")
    for number, point in enumerate(landmarks):
        if not isinstance(point, list) or len(point) != 2:
            raise _NoFaceError(f"its point {number} of {len(landmarks)} is not [x, y]")
        for value in point:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise _NoFaceError(f"its point {number} of {len(landmarks)} has {shown(value)}, which is no number")
    if len(landmarks) not in POINT_COUNTS:
        allowed = ", ".join(map(str, POINT_COUNTS))
        raise _NoFaceError(f"it has {counted(len(landmarks), 'landmark')}; sets of {allowed} are known")
    points = _points(landmarks)
    if not np.isfinite(points).all():
        raise _NoFaceError("its landmarks hold values that are not finite numbers")
    return points


def _kind(value: Any) -> str:
    """What a value of JSON is, after "its … are"."""
    if value is None:
        return "missing"
    return {str: "text", dict: "an object", list: "a list", bool: "true or false"}.get(type(value), "a number")


def _points(landmarks: list[list[float]]) -> np.ndarray:
    try:
        with np.errstate(all="ignore"):
            return np.array(landmarks, np.float64).astype(np.float32)
    except OverflowError:  # an integer that no float can hold
        return np.full((1, 2), np.inf, np.float32)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1 << 62


def _read_json(path: Path) -> tuple[Any, Repeats]:
    repeats = Repeats()
    try:
        with open_input(path, "The landmarks file") as file:
            size = os.fstat(file.fileno()).st_size
            if size > Limits().max_bytes:
                raise AlignmentsError(f"{path.name} has {size} bytes, more than any landmarks file needs.")
            data = file.read()
        root = json.loads(data.decode("utf-8-sig"), object_pairs_hook=repeats.mapping)
    except OSError as error:
        raise unreadable(path, "The landmarks file", error) from error
    except (ValueError, RecursionError) as error:
        raise AlignmentsError(f"{path.name} is damaged: it is not proper JSON ({reason(error)}).") from error
    check_tree(root, (str, int, float, bool, type(None)), Limits().values(len(data)), path.name)
    return root, repeats


def _formatted(frames: dict[str, Any]) -> Iterator[bytes]:
    """The exchange form of `frames`, indented by two as the export job writes it."""
    names = list(frames)
    if not names:
        yield b"{}"
        return
    for start in range(0, len(names), WRITE_FRAMES):
        part = {name: list(map(_exchanged, frames[name]["faces"])) for name in names[start : start + WRITE_FRAMES]}
        text = json.dumps(part, indent=2)
        yield (("{" if start == 0 else ",") + text[1:-2]).encode()
    yield b"\n}"


def _exchanged(face: dict[str, Any]) -> dict[str, Any]:
    x, y, w, h = (face[key] for key in "xywh")
    return {"detected": [round(x), round(y), round(x + w), round(y + h)], "landmarks_2d": unpack(face["landmarks_xy"])}
