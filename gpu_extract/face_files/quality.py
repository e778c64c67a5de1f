"""How good faces are, as far as a folder of them tells: by its list of faces, by their headers, by their pixels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from gpu_extract.conditions import Kind, Value
from gpu_extract.errors import FrameError, InputError, UsageError
from gpu_extract.face_files.encoder import sha1_of
from gpu_extract.face_files.header import read_header
from gpu_extract.face_files.metadata import STEM, Row, kinds, rows_of
from gpu_extract.face_files.stored import Place, content, stored_files
from gpu_extract.geometry import crops
from gpu_extract.geometry.mean_faces import Centering
from gpu_extract.geometry.rounding import USUAL, Rounding
from gpu_extract.kernels.sharpness import sharpness
from gpu_extract.tasks import FaceResult

ANGLES = ("yaw", "pitch", "roll")
SIDES = ("size", "side_px")
KINDS: dict[str, Kind] = {
    "sharpness": "number",
    "size": "number",
    "side_px": "number",
    **dict.fromkeys(ANGLES, "number"),
    "position": "number",
    "frame": "text",
    "index": "number",
    "name": "text",
    "hash_state": "text",
}
"""What may be asked of a face: `size` is `side_px`, which is what the word means to who looks at faces; `name` is the
file's; the others are columns of a list of faces."""
AT_ONCE = 1000
HEIGHT = slice(20, 24)  # of a PNG file, where the bytes of its height are


@dataclass(frozen=True)
class Cut:
    """How the faces of a folder were cut, which their headers do not say. By default as the programs do it."""

    centering: Centering = "head"
    align_eyes: bool = False
    rounding: Rounding = USUAL


@dataclass(slots=True)
class Quality:
    """What is known of one face.

    Attributes:
        values: by their names in `KINDS`; what is not known is None.
        landmarks: [n, 2] float32, in pixels of the crop; None where they are not known, or nobody asked.
        size: side of the crop that they lie in.
    """

    values: dict[str, Value] = field(default_factory=dict)
    landmarks: np.ndarray | None = None
    size: int = 0


def qualities(
    paths: Sequence[Path], names: Iterable[str], cut: Cut, threads: int, *, landmarks: bool = False
) -> Iterator[Quality]:
    """What is known of faces, in their order; they are read only for what no list of faces tells.

    A list of faces counts for the files in its folder that were not changed after it. What it has no columns for, as it
    is of an earlier version, is computed.

    Args:
        paths: of face files.
        names: of the values that are asked for.
        threads: that read faces.
        landmarks: whether these are asked for.
    """
    wanted = frozenset(names)
    listed: dict[Path, Quality] = {}
    for folder in {path.parent for path in paths}:
        listed |= _listed(folder, {path.name for path in paths if path.parent == folder}, wanted, landmarks)

    def look(path: Path) -> Quality:
        found = listed.pop(path, None) or Quality()
        found.values["name"] = path.name
        open_values = {name for name in wanted if found.values.get(name) is None}
        if open_values or (landmarks and found.landmarks is None):
            _look_inside(path, found, open_values, cut, landmarks=landmarks)
        found.values = {name: found.values.get(name) for name in wanted}
        return found

    rest = iter(paths)
    with ThreadPoolExecutor(threads) as pool:
        while block := list(islice(rest, AT_ONCE)):
            yield from pool.map(look, block)


def _listed(folder: Path, names: set[str], wanted: frozenset[str], landmarks: bool) -> dict[Path, Quality]:
    """What the newest list of faces in a folder tells of files that it has seen; nothing where it is damaged."""
    lists = [(path.stat().st_mtime_ns, kind) for kind in kinds() if (path := folder / f"{STEM}.{kind}").is_file()]
    found: dict[Path, Quality] = {}
    if not lists:
        return found
    written, kind = max(lists)
    try:
        for row in rows_of(folder, kind):
            name = row["file"]
            if name in names and (folder / name).stat().st_mtime_ns <= written:
                found[folder / name] = _of_row(row, wanted, landmarks)
    except (InputError, UsageError, OSError, ValueError, TypeError, KeyError):
        return {}
    return found


def _of_row(row: Row, wanted: frozenset[str], landmarks: bool) -> Quality:
    """Raises ValueError, TypeError or KeyError where it is no such row."""
    size, matrix = int(row["size"]), np.asarray(row["matrix"], np.float64).reshape(2, 3)
    points = np.asarray(row["landmarks"], np.float64).reshape(-1, 2)
    side, pose = row.get("side_px"), row.get("pose")
    if side is None and not wanted.isdisjoint(SIDES):
        side = float(crops.side_px(matrix[None], size)[0])
    if pose is None and not wanted.isdisjoint(ANGLES):
        pose = crops.head_pose(points[None])[0].tolist()
    values: dict[str, Any] = {
        "sharpness": row.get("sharpness"),
        **dict.fromkeys(SIDES, side),
        **dict(zip(ANGLES, pose or (None, None, None), strict=True)),
        **{name: row.get(name) for name in ("position", "frame", "index", "hash_state")},
    }
    found = Quality({name: _sound(name, value) for name, value in values.items() if name in wanted})
    if landmarks:
        found.landmarks, found.size = _in_crop(points, matrix), size
    return found


def _sound(name: str, value: Any) -> Value:
    """A value if it is of its kind, else None."""
    if KINDS[name] == "text":
        return value if isinstance(value, str) else None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def _look_inside(path: Path, found: Quality, names: set[str], cut: Cut, *, landmarks: bool) -> None:
    """Add what the file itself tells."""
    from gpu_extract.frames.images.decode import decode_image, read_file

    header, data = None, b""
    with suppress(InputError):
        data = read_file(path)
        if "sharpness" in names:
            found.values["sharpness"] = sharpness(decode_image(data).pixels)
    with suppress(InputError):
        header = read_header(data)
    source, face = (header or {}).get("source"), (header or {}).get("alignments")
    if not isinstance(source, dict) or not isinstance(face, dict):
        return
    told = {"frame": source.get("source_filename"), "index": source.get("face_index")}
    points = _points(face.get("landmarks_xy"))
    if points is not None and not names.isdisjoint(ANGLES):
        told |= dict(zip(ANGLES, crops.head_pose(points[None])[0].tolist(), strict=True))
    if points is not None and (landmarks or not names.isdisjoint(SIDES)):
        _add_crop(found, told, points, int.from_bytes(data[HEIGHT]), cut, landmarks=landmarks)
    found.values |= {name: _sound(name, value) for name, value in told.items() if name in names}


def _add_crop(
    found: Quality, told: dict[str, Any], points: np.ndarray, size: int, cut: Cut, *, landmarks: bool
) -> None:
    """Add what depends on the crop, which was cut by these landmarks."""
    centering: Centering = "legacy" if len(points) == 51 else cut.centering
    fitted = crops.crop_geometry(
        points[None], size, centering, seed=False, align_eyes=cut.align_eyes, rounding=cut.rounding
    )
    if not fitted.usable[0]:
        return
    told |= dict.fromkeys(SIDES, float(crops.side_px(fitted.crop_from_frame, size)[0]))
    if landmarks and found.landmarks is None:
        found.landmarks, found.size = _in_crop(points, fitted.crop_from_frame[0]), size


def _points(value: Any) -> np.ndarray | None:
    """[n, 2] float32; None where that is no set of landmarks."""
    try:
        points = np.asarray(value, np.float32)
    except (TypeError, ValueError):
        return None
    is_set = points.ndim == 2 and points.shape[1] == 2 and len(points) in crops.POINT_COUNTS
    return points if is_set and np.isfinite(points).all() else None


def _in_crop(points: np.ndarray, crop_from_frame: np.ndarray) -> np.ndarray:
    found: np.ndarray = (points @ crop_from_frame[:, :2].T + crop_from_frame[:, 2]).astype(np.float32)
    return found


def measured(folder: Path, faces: Iterable[FaceResult], threads: int) -> Iterator[FaceResult]:
    """Faces of a run with their sharpness: what nobody measured when it was cut is read from its file.

    It stays None where the file is not there any more, or shows something else.

    Args:
        folder: where their names begin.
    """
    files: dict[str, Place] | None = None

    def look(face: FaceResult) -> FaceResult:
        if face.sharpness is not None or files is None:
            return face
        place = files.get(face.file_name) or files.get(face.file_name.partition("/")[2])
        return replace(face, sharpness=None if place is None else _sharpness(place, face.sha1))

    rest = iter(faces)
    with ThreadPoolExecutor(threads) as pool:
        while block := list(islice(rest, AT_ONCE)):
            if all(face.sharpness is not None for face in block):
                yield from block
                continue
            if files is None:
                files = stored_files(folder)
            yield from pool.map(look, block)


def _sharpness(place: Place, sha1: str) -> float | None:
    """Of a file whose pixels have that hash; None where they have not."""
    from gpu_extract.frames.images.decode import decode_image

    try:
        pixels = decode_image(content(place)).pixels
    except FrameError:
        return None
    return sharpness(pixels) if sha1_of(pixels) == sha1 else None
