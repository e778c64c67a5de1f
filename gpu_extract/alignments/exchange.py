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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gpu_extract.alignments.container import Document, container_for
from gpu_extract.alignments.document import Alignments
from gpu_extract.alignments.face_table import POINT_COUNTS
from gpu_extract.alignments.limits import Limits, reason, shown
from gpu_extract.alignments.packed import unpack
from gpu_extract.alignments.upgrade import PROTOCOL, FrameSize, Migration, box_around, current_face, upgraded
from gpu_extract.errors import AlignmentsError, InputError, UsageError
from gpu_extract.storage.atomic import write_whole

WRITE_FRAMES = 256  # frames that are formatted together


def export_json(
    path: str | os.PathLike[str], new: str | os.PathLike[str] | None = None, *, frame_size: FrameSize | None = None
) -> tuple[Path, Migration]:
    """Write the landmarks of an alignments file in the exchange form; returns the new file's path and what it holds.

    Without `new` the name is `<stem>.json` beside the file, or `<stem>_1.json`, `_2`, … where that exists. Faces
    without proper landmarks are left out and named in the result. Raises as `Alignments.load`; UsageError where `new`
    exists.
    """
    alignments = Alignments.load(path)
    target = _free_json(alignments.path) if new is None else Path(new)
    if os.path.lexists(target):
        raise UsageError(f"{target} exists; choose a new name.")
    root, report = upgraded(alignments, "2.4", frame_size=frame_size)
    report.new, report.to_generation = str(target), "exchange"
    write_whole(target, _formatted(root["__data__"]))
    return target, report


def import_json(path: str | os.PathLike[str], new: str | os.PathLike[str]) -> Alignments:
    """Make an alignments file of version 2.4 from landmarks; returns it, loaded.

    Args:
        path: a JSON file in the exchange form or of plain landmark lists, 68, 98, 51 or 4 points (x, y) a face, in
            pixels of the frame with (0, 0) at the centre of the top-left pixel.
        new: a `.fsa` file that does not exist yet.

    Raises InputError where `path` cannot be read, AlignmentsError where it holds something else, naming the frame and
    face; UsageError where `new` will not do.
    """
    path, new = Path(path), Path(new)
    if new.suffix.lower() != ".fsa":
        raise UsageError(f"{new.name} is not a name for a new alignments file; such files end in .fsa.")
    if os.path.lexists(new):
        raise UsageError(f"{new} exists; choose a new name.")
    data = _read_json(path)
    if not isinstance(data, dict):
        raise AlignmentsError(
            f"{path.name} holds a {type(data).__name__}; a JSON object of frames with landmarks is wanted."
        )
    frames: dict[str, Any] = {}
    for name, faces in data.items():
        if not isinstance(faces, list):
            raise AlignmentsError(
                f"{path.name} has no list of faces for frame {shown(name)}; see the form in the documentation."
            )
        made = [
            _imported(face, f"{path.name}, frame {shown(name)}, face {index}")
            for index, face in enumerate(_faces(faces))
        ]
        frames[name] = {"faces": made, "video_meta": {}}
    root = {"__meta__": {"version": 2.4}, "__data__": frames}
    write_whole(new, container_for(new).write(Document(root, PROTOCOL)))
    return Alignments.load(new)


def _faces(faces: list[Any]) -> list[Any]:
    """The faces of a frame; a frame's only face may stand there without a list around it."""
    if faces and isinstance(faces[0], list) and faces[0] and all(isinstance(value, int | float) for value in faces[0]):
        return [faces]
    return faces


def _imported(face: Any, where: str) -> dict[str, Any]:
    points = _points(face.get("landmarks_2d") if isinstance(face, dict) else face)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) not in POINT_COUNTS or not np.isfinite(points).all():
        allowed = ", ".join(map(str, POINT_COUNTS))
        raise AlignmentsError(f"{where}: its landmarks are not {allowed} points [x, y] of finite numbers.")
    detected = face.get("detected") if isinstance(face, dict) else None
    if detected is None:
        return current_face(box_around(points), points)
    if not isinstance(detected, list) or len(detected) != 4 or not all(_is_finite(value) for value in detected):
        raise AlignmentsError(f"{where}: its box `detected` is not [left, top, right, bottom] in numbers.")
    left, top, right, bottom = (round(value) for value in detected)
    return current_face((left, top, right - left, bottom - top), points)


def _points(landmarks: Any) -> np.ndarray:
    """Landmarks as float32 [n, 2], or an empty array where they are not lists of numbers."""
    none = np.empty(0, np.float32)
    if not isinstance(landmarks, list) or not all(isinstance(point, list) for point in landmarks):
        return none
    if not all(isinstance(value, int | float) for point in landmarks for value in point):
        return none
    try:
        with np.errstate(all="ignore"):
            return np.array(landmarks, np.float64).astype(np.float32)
    except (ValueError, OverflowError):
        return none


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1 << 62


def _read_json(path: Path) -> Any:
    try:
        if path.stat().st_size > Limits().max_bytes:
            raise AlignmentsError(f"{path.name} has {path.stat().st_size} bytes, more than any landmarks file needs.")
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError as error:
        raise InputError(f"The landmarks file {path} does not exist; check its name and folder.") from error
    except OSError as error:
        raise InputError(
            f"The landmarks file {path} could not be read ({(error.strerror or str(error)).lower()})."
        ) from error
    except (ValueError, RecursionError) as error:
        raise AlignmentsError(f"{path.name} is damaged: it is not proper JSON ({reason(error)}).") from error


def _free_json(path: Path) -> Path:
    names = itertools.chain([path.stem], (f"{path.stem}_{number}" for number in itertools.count(1)))
    return next(free for name in names if not os.path.lexists(free := path.with_name(name + ".json")))


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
