"""What is known of each face of a folder: by its list or the JSON beside it, by its header, by the alignments file.

Nothing is decoded for it. A list (`faces.jsonl`) knows most; a header of a PNG knows the frame's size too; of faces
that have neither, the alignments file knows the landmarks, if it is at hand.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpu_extract import png_file
from gpu_extract.alignments import Alignments
from gpu_extract.alignments.generation import Traits
from gpu_extract.errors import FrameError, InputError
from gpu_extract.face_files.header import header_text, parse_text
from gpu_extract.face_files.metadata import STEM
from gpu_extract.face_files.stored import InShard, Place, content
from gpu_extract.geometry import crops
from gpu_extract.geometry.mean_faces import Centering
from gpu_extract.jobs.gallery.entries import Entry, State, recorded_as
from gpu_extract.naming import base_of, stem_of
from gpu_extract.run.fingerprint import FACES, Fingerprint, digest
from gpu_extract.storage.inputs import open_input
from gpu_extract.tasks import FaceResult

HEAD_BYTES = 1 << 16  # of a file, which hold most headers and always its size
TAIL = png_file.chunk_bytes(b"IEND", b"")
LIST = f"{STEM}.jsonl"
_FILE = re.compile(rb'\{"file":("(?:[^"\\]|\\.)*+")')
_LANDMARKS = re.compile(r"\{'alignments': \{[^{}\[\]]*?'landmarks_xy': (\[\[[-+0-9.e, \[\]]+\]\])")
_SOURCE = "'source': {"


@dataclass(slots=True)
class Particulars:
    """Of one face. What is not known is None, or NaN."""

    frame: str
    index: int
    position: int | None = None
    sha1: str | None = None
    nbytes: int | None = None
    size: tuple[int, int] | None = None
    """(width, height) of the file, pixels."""
    box_px: float = math.nan
    """Side of its crop in the frame, pixels."""
    pose: tuple[float, float, float] = (math.nan,) * 3
    """Yaw, pitch, roll in degrees; positive for a face that looks to the right of the picture, up, or that is turned
    clockwise."""
    sharpness: float = math.nan
    hash_state: str | None = None
    landmarks: np.ndarray | None = None
    """[n, 2] float64, pixels of the crop."""
    state: State = State.NONE
    fault: str = ""
    """Why it cannot be read."""


@dataclass(slots=True)
class _Cut:
    """How a face was cut, as far as one of its records tells."""

    points: np.ndarray | None = None
    """Landmarks [n, 2] float64 in frame pixels."""
    matrix: np.ndarray | None = None
    """crop_from_frame [2, 3]."""
    frame_size: tuple[int, int] | None = None
    """(height, width)."""
    version: float | None = None
    """Of the alignments file."""


class Knowledge:
    """All that a folder, and an alignments file, tell of faces."""

    def __init__(
        self,
        folder: Path,
        stored: Mapping[str, Place],
        settings: Fingerprint | None = None,
        alignments: Alignments | None = None,
    ) -> None:
        """
        Args:
            stored: the files of the folder, as `faces.stored` gives them.
            settings: of the run that the folder holds.
            alignments: that the faces were cut from.

        Raises:
            InputError: if the list cannot be read.
        """
        self._stored, self._settings, self._alignments = stored, settings or {}, alignments
        place = stored.get(LIST)
        self._list = _List(place if isinstance(place, Path) else None)
        self._rows = None if alignments is None else _Rows(alignments, self._settings.get(FACES))

    def of(self, entries: Sequence[Entry]) -> list[Particulars]:
        """What is known of some faces, some hundred at a time."""
        found = [Particulars(entry.frame, entry.index, entry.position, state=entry.state) for entry in entries]
        cuts = [self._learn(entry, about) for entry, about in zip(entries, found, strict=True)]
        self._fit(found, cuts)
        for about, cut in zip(found, cuts, strict=True):
            _place(about, cut)
        return found

    def _learn(self, entry: Entry, about: Particulars) -> _Cut:
        """Note what is written down of a face; returns how it was cut."""
        cut = _Cut()
        if entry.result is not None:
            about.sha1, about.nbytes = entry.result.sha1, entry.result.nbytes
        if entry.place is not None:
            self._look(entry.place, about, cut)
        row = self._row(entry)
        if row is not None:
            _take_row(row, about, cut)
        if (
            self._rows is not None
            and self._alignments is not None
            and cut.points is None
            and not entry.state & State.FAILED
        ):
            self._rows.take(entry, about, cut)
        return cut

    def _look(self, place: Place, about: Particulars, cut: _Cut) -> None:
        """Read the beginning of a file, and the end of a PNG."""
        try:
            head, tail, about.nbytes = _ends(place)
            about.size = _size(place, head)
            if head.startswith(png_file.SIGNATURE):
                if tail != TAIL:
                    raise FrameError("it is cut off, or something follows its end")
                _take_header(_header(place, head), about, cut)
        except (InputError, OSError) as error:
            about.state |= State.UNREADABLE
            about.fault = str(error)

    def _row(self, entry: Entry) -> dict[str, Any] | None:
        """The row of the folder's list, or the JSON beside a member of an archive."""
        if entry.place is None:
            return self._list.row(entry.name)
        if isinstance(entry.place, InShard) and (beside := self._stored.get(f"{entry.name.partition('.')[0]}.json")):
            try:
                return _object(content(beside))
            except FrameError:
                return None
        return self._list.row(recorded_as(entry.name, entry.place) if entry.result is None else entry.result.file_name)

    def _fit(self, found: list[Particulars], cuts: list[_Cut]) -> None:
        """Complete matrices and poses from landmarks, all faces of a kind at once."""
        alike: dict[tuple[int, int, Centering, bool], list[int]] = {}
        for k, (about, cut) in enumerate(zip(found, cuts, strict=True)):
            if cut.points is None or len(cut.points) not in crops.POINT_COUNTS or about.size is None:
                continue
            version = cut.version if cut.version is not None else self._version()
            centering: Centering = self._settings.get("centering") or Traits(version).centering
            if len(cut.points) == 51:
                centering = "legacy"
            alike.setdefault((len(cut.points), about.size[0], centering, version < 2), []).append(k)
        for (_, size, centering, seed), faces in alike.items():
            points = np.stack([points for k in faces if (points := cuts[k].points) is not None])
            level = bool(self._settings.get("align_eyes"))
            fitted = crops.Fit(points, size, centering, seed=seed, align_eyes=level)
            for k, matrix in zip(faces, fitted.crop_from_frame(slice(None)), strict=True):
                if cuts[k].matrix is None and np.isfinite(matrix).all():
                    cuts[k].matrix = matrix
            unknown = [i for i, k in enumerate(faces) if math.isnan(found[k].pose[0])]
            for i, (yaw, pitch, roll) in zip(unknown, crops.head_pose(points[unknown]).tolist(), strict=True):
                found[faces[i]].pose = yaw, pitch, roll

    def _version(self) -> float:
        """Of faces that do not say themselves: today's programs, or those of the alignments file."""
        return 2.4 if self._alignments is None else self._alignments.version


class _List:
    """The rows of `faces.jsonl`, of which only the places are kept: a row has 4 KB, and there may be a million."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._at: dict[str, tuple[int, int]] = {}
        if path is None:
            return
        at = 0
        with open_input(path, "the list of faces") as file:
            for line in file:
                match = _FILE.match(line)
                name = json.loads(match[1]) if match else (_object(line) or {}).get("file")
                if isinstance(name, str):
                    self._at[name] = at, len(line)
                at += len(line)

    def row(self, name: str) -> dict[str, Any] | None:
        if self._path is None or name not in self._at:
            return None
        at, nbytes = self._at[name]
        with open_input(self._path, "the list of faces") as file:
            return _object(os.pread(file.fileno(), nbytes, at))


class _Rows:
    """Faces of an alignments file: by the rows that a run recorded, or else by the names of their files."""

    def __init__(self, alignments: Alignments, recorded: Any) -> None:
        faces = alignments.faces
        self._alignments = alignments
        self._same_file = recorded == digest(alignments)
        self._points: dict[int, np.ndarray] = {}
        for group in faces.groups:
            self._points.update(zip(group.rows.tolist(), group.points, strict=True))
        stems = [stem_of(name) for name in alignments.frame_names]
        self._named = {
            (stems[frame], index): row
            for row, (frame, index) in enumerate(zip(faces.frame.tolist(), faces.index.tolist(), strict=True))
        }

    def take(self, entry: Entry, about: Particulars, cut: _Cut) -> None:
        row = self._row(entry, entry.result)
        if row is None:
            return
        faces = self._alignments.faces
        about.frame, about.index = self._alignments.frame_names[faces.frame[row]], int(faces.index[row])
        if row in self._points and not faces.rotation[row]:  # else its points are those of a turned frame
            cut.points, cut.version = self._points[row].astype(np.float64), self._alignments.version

    def _row(self, entry: Entry, result: FaceResult | None) -> int | None:
        if self._same_file and result is not None:
            return result.row
        return self._named.get((stem_of(entry.frame), entry.index))


def _ends(place: Place) -> tuple[bytes, bytes, int]:
    """The first bytes of a file, the last as many as a PNG ends with, and how many there are."""
    path = place.shard if isinstance(place, InShard) else place
    with open_input(path, "the face") as file:
        at, nbytes = (place.at, place.nbytes) if isinstance(place, InShard) else (0, os.fstat(file.fileno()).st_size)
        head = os.pread(file.fileno(), min(HEAD_BYTES, nbytes), at)
        tail = os.pread(file.fileno(), len(TAIL), at + max(0, nbytes - len(TAIL)))
        return head, tail, nbytes


def _size(place: Place, head: bytes) -> tuple[int, int]:
    """(width, height). Raises FrameError where no image begins like that."""
    from gpu_extract.frames.images.decode import image_size

    try:
        height, width = image_size(head)
    except FrameError:
        height, width = image_size(content(place))  # a JPEG may have its size behind a long profile
    return width, height


def _header(place: Place, head: bytes) -> dict[str, Any] | None:
    """What a PNG says of itself; None where it says nothing, or nothing that can be read."""
    try:
        try:
            text = header_text(head)
        except InputError:
            text = header_text(content(place))
        return None if text is None else _parsed(text)
    except InputError:
        return None


def _parsed(text: str) -> dict[str, Any]:
    """Landmarks and source of a header. Masks, which are most of one, are passed over where it has the usual form."""
    landmarks = _LANDMARKS.match(text)
    source = text.rfind(_SOURCE)
    if landmarks and source > 0:
        try:
            points = json.loads(landmarks[1])
            said = parse_text(text[source + len(_SOURCE) - 1 : -1])
            return {"alignments": {"landmarks_xy": points}, "source": said}
        except (ValueError, RecursionError, InputError):
            pass
    return parse_text(text)


def _take_header(header: dict[str, Any] | None, about: Particulars, cut: _Cut) -> None:
    face, source = (header or {}).get("alignments"), (header or {}).get("source")
    if not isinstance(face, dict) or not isinstance(source, dict):
        return
    name, index, version = (source.get(key) for key in ("source_filename", "face_index", "alignments_version"))
    if isinstance(name, str) and name:
        about.frame = base_of(name) or name
    if isinstance(index, int) and 0 <= index < 1 << 31:
        about.index = index
    cut.points = _array(face.get("landmarks_xy"), (None, 2))
    cut.version = version if isinstance(version, float) else None
    size = _array(source.get("source_frame_dims"), (2,))
    if size is not None:
        cut.frame_size = (int(size[0]), int(size[1]))


def _take_row(row: dict[str, Any], about: Particulars, cut: _Cut) -> None:
    """A row of a list, or a JSON beside a face. Columns that it does not have stay unknown."""
    if isinstance(row.get("frame"), str):
        about.frame = row["frame"]
    if isinstance(row.get("index"), int) and 0 <= row["index"] < 1 << 31:
        about.index = row["index"]
    if isinstance(row.get("position"), int) and row["position"] >= 0:
        about.position = row["position"]
    if isinstance(row.get("hash"), str):
        about.sha1 = about.sha1 or row["hash"]
    if isinstance(row.get("hash_state"), str):
        about.hash_state = row["hash_state"]
    about.box_px = _number(row.get("side_px"))
    about.sharpness = _number(row.get("sharpness"))
    angles = _array(row.get("pose"), (3,))
    if angles is not None:
        about.pose = (float(angles[0]), float(angles[1]), float(angles[2]))
    cut.matrix = _array(row.get("matrix"), (2, 3))
    points = _array(row.get("landmarks"), (None, 2))
    cut.points = cut.points if points is None else points


def _place(about: Particulars, cut: _Cut) -> None:
    """What follows from how a face was cut."""
    if cut.matrix is None or about.size is None:
        return
    size = about.size[0]
    if math.isnan(about.box_px):
        about.box_px = float(crops.side_px(cut.matrix[None], size)[0])
    if cut.points is not None:
        about.landmarks = cut.points @ cut.matrix[:, :2].T + cut.matrix[:, 2]
    linear = cut.matrix[:, :2]
    if not np.linalg.det(linear):
        return
    middle = np.linalg.solve(linear, np.full(2, (size - 1) / 2) - cut.matrix[:, 2])
    height, width = cut.frame_size or (math.inf, math.inf)
    if (middle < 0).any() or (middle > (width, height)).any():
        about.state |= State.OUTSIDE


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _number(value: Any) -> float:
    """A finite number as float; NaN for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
        return math.nan
    return float(value)


def _array(value: Any, shape: Iterable[int | None]) -> np.ndarray | None:
    """Finite float64 of that shape (None: any length); None where the value is something else."""
    try:
        found = np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    wanted = tuple(shape)
    if found.ndim != len(wanted) or not np.isfinite(found).all() or not found.size:
        return None
    return found if all(want in (None, have) for want, have in zip(wanted, found.shape, strict=True)) else None
