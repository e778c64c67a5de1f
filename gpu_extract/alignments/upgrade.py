"""Older files as newer ones: the rules by which the programs upgrade their own files, without the mistakes.

The programs from version 2.2 on re-stamp any older file and keep what does not belong there, so that the current one
refuses the result. Here every face is put together anew in the keys, types and order of the wanted generation, and
whatever that generation cannot hold is counted and named.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gpu_extract.alignments.container import Document, container_for
from gpu_extract.alignments.document import Alignments
from gpu_extract.alignments.face_table import LANDMARK_KEYS
from gpu_extract.alignments.generation import Traits
from gpu_extract.alignments.limits import shown
from gpu_extract.alignments.packed import PackedArray, PackedList, unpack
from gpu_extract.alignments.rotation import legacy_rotation
from gpu_extract.errors import AlignmentsError, UsageError, counted
from gpu_extract.storage.atomic import write_free

GENERATIONS = ("g0", "g1", "g2", "g3", "g4", "g5", "g6", "g7a", "g7b", "2.0", "2.1", "2.2", "2.3", "2.4")
TARGETS = GENERATIONS[GENERATIONS.index("g6") :]  # what is written since files are `.fsa`
PROTOCOL = 4
LANDMARK_MASKS = ("components", "extended")  # drawn from landmarks by the programs themselves, whenever needed
MASK_KEYS = ("mask", "affine_matrix", "interpolator", "stored_size", "stored_centering")
OBSOLETE = {"r", "frame_dims", *LANDMARK_KEYS}
VIDEO_KEY = re.compile(r".+_[0-9]{6,}\.[^.]+", re.DOTALL)  # <stem>_<frame number><extension>

NewNames = Callable[[list[str]], dict[str, str]]  # all frame keys -> those that are to be called otherwise, and how
FrameSize = Callable[[str], tuple[int, int] | None]  # frame key -> (height, width), or None where that is not known


@dataclass
class Migration:
    """What an upgrade did, and what the new generation could not take along."""

    old: str
    new: str
    from_generation: str
    to_generation: str
    frames: int = 0
    faces: int = 0
    hashes_dropped: int = 0
    thumbnails_dropped: int = 0  # of before 2.0: they show another crop, and the programs make missing ones anew
    rotations_converted: int = 0
    frames_renamed: int = 0
    masks_dropped: dict[str, int] = field(default_factory=dict)  # by name: landmark masks, damaged records
    keys_dropped: dict[str, int] = field(default_factory=dict)  # by name: keys that the new generation does not know
    faces_dropped: list[dict[str, Any]] = field(default_factory=list)  # frame, index, reason, others_move_up
    old_video_keys: int = 0  # keys like a video's, counted as before March 2026, of which the new file does not tell
    png_video_keys: int = 0  # keys like a video's that end in .png, which programs since 2.4 do not find in a video
    foreign_keys: int = 0  # keys that are not of the video that was named, and were kept
    notes: list[str] = field(default_factory=list)  # what the new file does not say and its user must know

    def table(self) -> str:
        """The result for a person: one line, and one for each thing that was changed or left behind."""
        change = f"{self.from_generation} to {self.to_generation}"
        lines = [f"{self.new}: {counted(self.faces, 'face')} of {counted(self.frames, 'frame')}, {change}"]
        for count, one, several in (
            (
                self.hashes_dropped,
                "hash dropped; the new generation has none",
                "hashes dropped; the new generation has none",
            ),
            (
                self.thumbnails_dropped,
                "thumbnail dropped; programs make a new one",
                "thumbnails dropped; programs make new ones",
            ),
            (
                self.rotations_converted,
                "face turned back into its frame as it is",
                "faces turned back into their frames as they are",
            ),
            (
                self.frames_renamed,
                "frame key given another name, that of its frame",
                "frame keys given other names, those of their frames",
            ),
        ):
            if count:
                lines.append(f"  {counted(count, one, several)}")
        lines += [f"  {counted(count, 'mask')} {shown(name)} dropped" for name, count in self.masks_dropped.items()]
        lines += [f"  {counted(count, 'key')} {shown(name)} dropped" for name, count in self.keys_dropped.items()]
        for face in self.faces_dropped:
            moved = ", so the faces after it move up by one" if face["others_move_up"] else ""
            lines.append(f"  left out: {shown(face['frame'])} face {face['index']}: {face['reason']}{moved}")
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


def migrate(
    old: str | os.PathLike[str],
    new: str | os.PathLike[str],
    to: str = "2.4",
    *,
    frame_size: FrameSize | None = None,
    video: str | None = None,
    new_names: NewNames | None = None,
) -> Migration:
    """Write the alignments file `old`, of any generation, as the new file `new` of a newer one.

    Args:
        old: any alignments file; it is not changed.
        new: a `.fsa` file that does not exist yet.
        to: "g6", "g7a", "g7b" or "2.0" … "2.4"; 2.4 is written as lists, which is how the current program has it.
        frame_size: tells the size of frames, for faces of 2018 that were found in turned frames.
        video: file name of the video that the frames are from; from 2.4 on their keys end in its extension.
        new_names: tells which frames are to be called otherwise; it is asked before any size.

    Raises UsageError where `new` or `to` will not do, AlignmentsError where the file cannot be upgraded.
    """
    new = Path(new)
    if to not in TARGETS:
        raise UsageError(f"Alignments files cannot be migrated to {to!r}; choose one of {', '.join(TARGETS)}.")
    if new.suffix.lower() != ".fsa":
        raise UsageError(f"{new.name} is not a name for a file of generation {to}; such files end in .fsa.")
    if os.path.lexists(new):
        raise UsageError(f"{new} exists; choose a new name.")
    alignments = Alignments.load(old)
    root, report = upgraded(alignments, to, frame_size=frame_size, video=video, new_names=new_names)
    report.new = str(new)
    try:
        write_free(new, container_for(new).write(Document(root, PROTOCOL)))
    except FileExistsError:
        raise UsageError(f"{new} exists; choose a new name.") from None
    return report


def upgraded(
    alignments: Alignments,
    to: str,
    *,
    frame_size: FrameSize | None = None,
    video: str | None = None,
    new_names: NewNames | None = None,
) -> tuple[dict[str, Any], Migration]:
    """The content of `alignments` as a file of generation `to`, and what became of it; see `migrate`."""
    source = alignments.generation
    if GENERATIONS.index(to) < GENERATIONS.index(source) or (to == source != "2.4"):
        raise AlignmentsError(
            f"{alignments.path.name} is of generation {source}; it can be migrated to newer ones only, not to {to}."
        )
    report = Migration(str(alignments.path), "", source, to, frames=len(alignments.frame_names))
    names = new_names(alignments.frame_names) if new_names else {}
    upgrade = _Upgrade(alignments, to, report, frame_size)
    faces: list[list[dict[str, Any]]] = [[] for _ in alignments.frame_names]
    table = alignments.faces
    last = np.full(len(faces), -1)  # each frame's last usable face
    for group in table.groups:
        np.maximum.at(last, table.frame[group.rows], group.rows)
    for row, frame, points in _rows_with_points(alignments):
        name = alignments.frame_names[frame]
        if points is None:
            dropped = {"frame": name, "index": int(table.index[row]), "reason": table.invalid[row]}
            report.faces_dropped.append(dropped | {"others_move_up": bool(row < last[frame])})
        else:
            faces[frame].append(upgrade.face(row, name, points))
    report.faces = sum(map(len, faces))
    report.notes += alignments.notes
    if to == "2.4" and not alignments.traits.counts_decoded_frames:
        report.old_video_keys = sum(VIDEO_KEY.fullmatch(name) is not None for name in alignments.frame_names)
    frames = {}
    for number, name in enumerate(alignments.frame_names):
        renamed = names.get(name, name)
        if video and to == "2.4":
            renamed = frame_key_of_video(renamed, video)
        if renamed in frames:
            raise AlignmentsError(
                f"{alignments.path.name} has two entries that both become {shown(renamed)}; remove one."
            )
        report.frames_renamed += renamed != name
        report.foreign_keys += bool(video) and to == "2.4" and not is_key_of_video(renamed, str(video))
        report.png_video_keys += to == "2.4" and is_old_video_key(renamed)
        frames[renamed] = upgrade.frame(number, faces[number])
    report.masks_dropped, report.keys_dropped = dict(upgrade.masks_dropped), dict(+upgrade.keys_dropped)
    if to.startswith("g"):
        return frames, report
    return {"__meta__": {"version": float(to)}, "__data__": frames}, report


def frame_key_of_video(key: str, video: str) -> str:
    """A frame's key as files from 2.4 on have it: with the video's extension, where the key belongs to that video."""
    return key.rpartition(".")[0] + Path(video).suffix if is_key_of_video(key, video) else key


def is_key_of_video(key: str, video: str) -> bool:
    """Whether a frame's key begins with a video's name, whatever extension it has."""
    stem, dot, _extension = key.rpartition(".")
    return bool(dot) and stem.rpartition("_")[0] == Path(video).stem


def is_old_video_key(key: str) -> bool:
    """Whether a key may be of a video's frame as files before 2.4 have it; images may be called so, too."""
    return key.lower().endswith(".png") and VIDEO_KEY.fullmatch(key) is not None


def current_face(box: tuple[Any, Any, Any, Any], points: np.ndarray, **extra: Any) -> dict[str, Any]:
    """A face of version 2.4: box (x, y, w, h), points [n, 2] float32 as a list, and `mask`, `identity`, `thumb`."""
    x, y, w, h = box
    landmarks = PackedList(np.ascontiguousarray(points, np.float32).tobytes(), np.dtype(np.float32), points.shape)
    face = {"x": x, "y": y, "w": w, "h": h, "landmarks_xy": landmarks}
    return face | {"mask": {}, "identity": {}, "thumb": None} | extra


def box_around(points: np.ndarray) -> tuple[int, int, int, int]:
    """x, y, w, h of the smallest box around points [n, 2], rounded to whole pixels."""
    low, high = np.rint(points.min(0)), np.rint(points.max(0))
    return int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1])


def _rows_with_points(alignments: Alignments) -> Iterator[tuple[int, int, np.ndarray | None]]:
    """Every face in file order: row, frame, and points [n, 2], which are None where they are no landmarks."""
    table = alignments.faces
    group_of = np.full(len(table), -1)
    place = np.zeros(len(table), np.int64)
    for number, group in enumerate(table.groups):
        group_of[group.rows] = number
        place[group.rows] = np.arange(len(group.rows))
    for row, (frame, number, at) in enumerate(
        zip(table.frame.tolist(), group_of.tolist(), place.tolist(), strict=True)
    ):
        yield row, frame, table.groups[number].points[at] if number >= 0 else None


class _Upgrade:
    """Faces and frames of one file in the form of generation `to`."""

    def __init__(self, alignments: Alignments, to: str, report: Migration, frame_size: FrameSize | None) -> None:
        self.alignments = alignments
        self.to = to
        self.report = report
        self.frame_size = frame_size
        self.before_2 = alignments.traits.before_2
        self.target = Traits(1.0 if to.startswith("g") else float(to), to)
        self.masks_dropped: Counter[str] = Counter()
        self.keys_dropped: Counter[str] = Counter()

    def frame(self, number: int, faces: list[dict[str, Any]]) -> Any:
        if self.to == "g6":
            return faces
        stored = self.alignments.frame_extra(number)
        entry: dict[str, Any] = {"faces": faces}
        meta = stored.pop("video_meta", None)
        if meta or self.target.has_identity:
            entry["video_meta"] = _python(meta) if isinstance(meta, dict) else {}
        if self.target.may_hold_lists:
            self.keys_dropped.update(stored.keys())
            return entry
        return entry | stored

    def face(self, row: int, frame: str, points: np.ndarray) -> dict[str, Any]:
        record = self.alignments.shallow_record(row)
        box, points = self.upright(row, frame, record, points)
        mask = self.masks(record.pop("mask", None))
        identity = record.pop("identity", None)
        thumb = self.thumbnail(record.pop("thumb", None))
        stored_hash = record.pop("hash", None)
        if not self.target.stores_hashes:
            self.report.hashes_dropped += stored_hash is not None
        self.keys_dropped["frame_dims"] += "frame_dims" in record
        for key in OBSOLETE | set("xywh"):
            record.pop(key, None)
        if self.target.may_hold_lists:
            self.keys_dropped.update(record.keys())
            identity = _python(identity) if isinstance(identity, dict) else {}
            return current_face(box, points, mask=mask, identity=identity, thumb=thumb)
        x, y, w, h = box
        kept = np.float64 if points.dtype == np.float64 else np.float32
        landmarks = PackedArray(np.ascontiguousarray(points, kept).tobytes(), np.dtype(kept), points.shape)
        face: dict[str, Any] = {"x": x, "w": w, "y": y, "h": h, "landmarks_xy": landmarks}
        if self.target.stores_hashes:
            face["hash"] = stored_hash
        face["mask"] = mask
        if self.target.has_identity:
            face["identity"] = identity if isinstance(identity, dict) else {}
        if self.target.has_thumbs and (thumb is not None or not self.target.before_2):
            face["thumb"] = thumb
        return face | record

    def upright(
        self, row: int, frame: str, record: dict[str, Any], points: np.ndarray
    ) -> tuple[tuple[Any, Any, Any, Any], np.ndarray]:
        """Box and points in the frame as it is; the box made anew where the file has none."""
        box = self.alignments.faces.box[row]
        degrees = int(self.alignments.faces.rotation[row])
        if degrees == 0:
            if not np.isfinite(box).all():
                return box_around(points), points
            x, y, w, h = (_python(record[key]) for key in "xywh")
            return (x, y, w, h), points
        if not np.isfinite(box).all():
            box = np.array(box_around(points), np.float64)
        size = _pair(record.get("frame_dims")) or (self.frame_size(frame) if self.frame_size else None)
        if size is None:
            raise AlignmentsError(
                f"A face of frame {shown(frame)} was found in a frame turned by {degrees} degrees; to turn it back the "
                "size of that frame must be known, so name the frames too."
            )
        height, width = size
        points, box = legacy_rotation(points, box, degrees, height, width)
        self.report.rotations_converted += 1
        x, y, w, h = (int(value) for value in box)
        return (x, y, w, h), points

    def masks(self, stored: Any) -> dict[str, Any]:
        """Mask records with the keys of the target, centred as the old program had them."""
        masks: dict[str, Any] = {}
        for name, record in (stored if isinstance(stored, dict) else {}).items():
            if name in LANDMARK_MASKS and (self.target.may_hold_lists or (self.before_2 and not self.target.before_2)):
                self.masks_dropped[name] += 1
                continue
            if isinstance(record, dict) and "intepolator" in record:
                record = {("interpolator" if key == "intepolator" else key): value for key, value in record.items()}
            if not isinstance(record, dict) or any(record.get(key) is None for key in MASK_KEYS[:4]):
                self.masks_dropped[f"{name} (incomplete)"] += 1
                continue
            if self.before_2 and not self.target.before_2 and not self.target.masks_have_centering:
                raise AlignmentsError(
                    f"{self.alignments.path.name} has masks of before version 2.0, which versions 2.0 and 2.1 take for "
                    "differently centred ones; migrate to 2.2 or newer."
                )
            entry = {key: record[key] for key in MASK_KEYS[:4]}
            if self.target.masks_have_centering:
                entry["stored_centering"] = record.get("stored_centering") or ("legacy" if self.before_2 else "face")
            masks[name] = _python(entry) if self.target.may_hold_lists else entry
        return masks

    def thumbnail(self, stored: Any) -> Any:
        """JPEG bytes as a list from 2.4 on, as an array before."""
        if stored is None:
            return None
        if self.before_2 and not self.target.before_2:
            self.report.thumbnails_dropped += 1
            return None
        try:
            values = np.asarray(unpack(stored))
        except ValueError:
            values = np.empty(0, object)
        if values.size == 0 or values.dtype.kind not in "iu":
            self.keys_dropped["thumb (damaged)"] += 1
            return None
        raw = values.astype(np.uint8).tobytes()
        if self.target.may_hold_lists:
            return PackedList(raw, np.dtype(np.uint8), (len(raw),))
        return PackedArray(raw, np.dtype(np.uint8), (len(raw),))


def _pair(value: Any) -> tuple[int, int] | None:
    if isinstance(value, list | tuple) and len(value) == 2 and all(type(size) is int and size > 0 for size in value):
        return value[0], value[1]
    return None


def _python(value: Any) -> Any:
    """`value` in Python's own types: arrays as lists, NumPy's numbers as numbers."""
    if isinstance(value, PackedArray):
        return value.unpack().tolist()
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, dict):
        return {key: _python(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_python(item) for item in value]
    return value
