"""Whether frames are those that an alignments file was made from: told by its stored hashes and thumbnails.

A run compares each hash that it makes with the stored one, which costs nothing. Only if none of the first ones comes
out is there a doubt, and then a few faces are cut again, at the usual sizes and with what else a hash depends on: one
that comes out proves the frames, whatever size was asked for now. So does a thumbnail that shows the same picture.
A face of one colour – a blank screen, or outside its picture – is the same in any video, and proves nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from itertools import product, starmap
from typing import Any, NamedTuple

import numpy as np

from gpu_extract.alignments import Alignments
from gpu_extract.engines.antialiased import AntialiasedEngine
from gpu_extract.engines.base import Crops, Engine
from gpu_extract.engines.pick import pick_engine
from gpu_extract.errors import FrameError, counted
from gpu_extract.face_files.encoder import encoder_for, face_hash, is_of_one_colour
from gpu_extract.frames import Frame, open_frames
from gpu_extract.geometry import crops
from gpu_extract.geometry.mean_faces import CENTERINGS, Centering
from gpu_extract.geometry.rounding import USUAL, Rounding
from gpu_extract.jobs.runs.prepare import Prepared
from gpu_extract.naming import VIDEO_FACE_EXTENSION, face_extension
from gpu_extract.options import Settings
from gpu_extract.patch import Patch
from gpu_extract.run.plan import upright_landmarks
from gpu_extract.tasks import FaceResult

ENOUGH = 16  # hashes that do not come out, until there is a doubt
PROBED_FACES = 5
PROBED_FRAMES = 40  # from the first that shows more than one colour, among which the probed faces are spread
USUAL_SIZES = (256, 512, 128, 64, 160, 192, 224, 320, 384, 96, 1024, 100, 200, 300, 400, 150, 500, 600, 768, 800, 1000)
ANY_SIZE = (*range(16, 513), *range(544, 2049, 32))
"""Tried on few faces, after the usual ones on all."""
THOROUGHLY_PROBED_FACES = 2
FORMATS = (".png", ".jpg")
"""Of face files, by the pixels that they keep."""
_HASH = re.compile("[0-9a-f]{40}")
ALIKE = 0.8  # correlation of a thumbnail and the picture that belongs to it, however often both were compressed
UNLIKE = 0.5
BLANK = 4.0  # levels of standard deviation, below which a thumbnail shows nothing to compare


class _Way(NamedTuple):
    """How a face may be cut."""

    size: int
    level: Rounding | None = None
    """How the angle of level eyes is rounded; None leaves eyes as they are."""
    centering: Centering | None = None
    """None is as the file's programs did."""
    antialias: bool = False


class Verdict(Enum):
    """What is known of the frames."""

    UNKNOWN = "unknown"
    """There is nothing to compare with, or not enough was compared yet."""
    PROVEN = "proven"
    DOUBTED = "doubted"
    """Nothing that the file stores of its faces is in these frames."""


@dataclass
class FramesProof:
    """Compares what a run makes with what the file stores; `look` at everything, `settle` when there is a doubt."""

    made: Prepared
    settings: Settings
    verdict: Verdict = Verdict.UNKNOWN
    compared: int = 0
    """Stored hashes that were compared; none came out unless the frames are proven."""
    tried: list[str] = field(default_factory=list)
    """What was compared beside them, in phrases."""
    _settled: bool = False
    _first: int | None = None
    """Row of a face among the first that show more than one colour."""

    def __post_init__(self) -> None:
        self._black = hashlib.sha1(bytes(3 * self.settings.size**2)).hexdigest()
        self._stores_hashes = self.made.alignments.traits.stores_hashes

    def look(self, faces: Iterable[FaceResult], of_one_colour: Collection[int] = ()) -> None:
        """Compare the hashes of faces that were cut.

        Args:
            of_one_colour: rows of those that show nothing else, as far as that is known.
        """
        if self.verdict is Verdict.PROVEN or (self._first is not None and not self._stores_hashes):
            return
        for face in faces:
            if face.row in of_one_colour or face.sha1 == self._black:
                continue
            self._first = face.row if self._first is None else self._first
            stored = _hash_of(self.made.alignments, face.row)
            self.compared += stored is not None
            if stored == face.sha1:
                self.verdict = Verdict.PROVEN
                return

    @property
    def in_doubt(self) -> bool:
        """Whether it is time to ask whether these are the frames: at the first face, where the file has no hashes."""
        enough = ENOUGH if self._stores_hashes else 0
        begun = self._first is not None and self.compared >= enough
        return self.verdict is Verdict.UNKNOWN and not self._settled and begun

    def settle(self) -> None:
        """Look closer at a few faces, in frames that are read once more. Does nothing where all is known already."""
        if self.verdict is not Verdict.UNKNOWN or self._settled:
            return
        self._settled = True
        samples = [_Sample(self.made.alignments, frame, row) for frame, row in self._faces()]
        likeness = [value for sample in samples if (value := sample.likeness()) is not None]
        hashed = [sample for sample in samples if sample.is_comparable()]
        # The median: a face outside its picture is black on both sides, and looks alike wherever it comes from.
        alike = float(np.median(likeness)) if likeness else None
        if (alike is not None and alike > ALIKE) or self._comes_out(hashed):
            self.verdict = Verdict.PROVEN
        elif hashed or (alike is not None and alike < UNLIKE):
            self.verdict = Verdict.DOUBTED
        if hashed:
            self.tried.append(f"{counted(len(hashed), 'face')} at all usual sizes")
        if likeness:
            self.tried.append(counted(len(likeness), "thumbnail"))

    def _faces(self) -> Iterator[tuple[Frame, int]]:
        """A few faces that the file stores a hash or a thumbnail of, and their frames."""
        plan, alignments, numbering = self.made.plan, self.made.alignments, self.made.resolved.numbering
        known: dict[int, int] = {}
        place = 0 if self._first is None else int((plan.rows == self._first).argmax())
        begin = int(plan.starts.searchsorted(place, "right")) - 1
        for i in range(begin, min(plan.frame_count, begin + PROBED_FRAMES)):
            for row in plan.rows[plan.starts[i] : plan.starts[i + 1]].tolist():
                if _hash_of(alignments, row) is not None or alignments.record(row).get("thumb") is not None:
                    known.setdefault(int(plan.positions[i]), row)
        if not known:
            return
        chosen = np.linspace(0, len(known) - 1, min(len(known), PROBED_FACES)).astype(int)
        rows = {position: known[position] for position in np.array(sorted(known))[chosen].tolist()}
        with open_frames(
            self.settings.frames, timing=numbering.timing, rotate=numbering.rotate, pixels=numbering.pixels
        ) as source:
            for frame in source.frames(np.array(sorted(rows), np.int64)):
                if isinstance(frame, Frame):
                    yield frame, rows[frame.index]

    def _comes_out(self, samples: list[_Sample]) -> bool:
        """Whether a stored hash does at some size: as the file's programs cut faces, or with an option of today."""
        usual = dict.fromkeys((self.settings.size, *USUAL_SIZES))
        few = samples[:THOROUGHLY_PROBED_FACES]
        level = (None, Rounding(eye_angle="libm"), Rounding(eye_angle="rounded"))
        rounds = (
            (samples, starmap(_Way, product(usual, level)), ()),
            (few, starmap(_Way, product(usual, level[:2], CENTERINGS, (False, True))), FORMATS),
            (few, map(_Way, ANY_SIZE), ()),
        )
        return any(
            sample.comes_out(way, formats) for some, ways, formats in rounds for way, sample in product(ways, some)
        )

    def reason(self) -> str:
        """Why the frames are doubted, as a sentence without its end."""
        hashes = (
            "the stored hash does not come"
            if self.compared == 1
            else f"none of the {self.compared:,} stored hashes comes"
        )
        compared = f"{hashes} out again" if self.compared else "no face is alike"
        tried = f" (compared: {', '.join(self.tried)})" if self.tried else ""
        return (
            f"these do not look like the frames this file was made from: {compared}{tried}; another video or folder of "
            "the same name, a copy that was compressed again, an edit, or hashes of a run with --quality or --engine "
            "kornia may be the reason"
        )


class _Sample:
    """A face of the file with the pixels of its frame, cut on the CPU in every way that is asked for."""

    def __init__(self, alignments: Alignments, frame: Frame, row: int) -> None:
        self._traits = alignments.traits
        self.stored_hash = _hash_of(alignments, row)
        self._thumb = alignments.record(row).get("thumb")
        name = alignments.frame_names[int(alignments.faces.frame[row])]
        self.formats = tuple(dict.fromkeys((face_extension(name).lower(), VIDEO_FACE_EXTENSION)))
        self._patch = _loaded(frame)
        self._points = self._landmarks(alignments, row)
        engine: Engine = pick_engine("exact", "cpu")[0]
        self._engines = (engine, AntialiasedEngine(engine))

    def _landmarks(self, alignments: Alignments, row: int) -> np.ndarray | None:
        """[n, 2] in the frame as it is; None where the face has none."""
        frame = int(alignments.faces.frame[row])
        sizes = {} if self._patch is None else {frame: (self._patch.height, self._patch.width)}
        for group in alignments.faces.groups:
            place = np.flatnonzero(group.rows == row)
            if len(place):
                return upright_landmarks(alignments, row, group.points[place[0]], sizes)
        return None

    def cut(self, way: _Way) -> np.ndarray | None:
        """[S, S, 3] uint8; None where there is no crop, or the same in a plainer way."""
        if self._patch is None or self._points is None:
            return None
        centering = "legacy" if len(self._points) == 51 else way.centering or self._traits.centering
        fitted = crops.crop_geometry(
            self._points[None],
            way.size,
            centering,
            seed=self._traits.before_2,
            align_eyes=way.level is not None,
            rounding=way.level or USUAL,
        )
        if not fitted.usable[0] or (way.antialias and fitted.cubic[0]):  # what grows is cut as without it
            return None
        wanted = Crops(np.zeros(1, np.int64), fitted.crop_from_frame, fitted.cubic, way.size)
        crop: np.ndarray = self._engines[way.antialias].warp([self._patch], wanted)[0]
        return crop

    def comes_out(self, way: _Way, formats: Iterable[str] = ()) -> bool:
        """Whether the stored hash does, in the file's own formats or one of these."""
        crop = self.cut(way)
        if crop is None or is_of_one_colour(crop):
            return False
        return any(
            _hash_in(crop, extension) == self.stored_hash for extension in dict.fromkeys((*self.formats, *formats))
        )

    def is_comparable(self) -> bool:
        """Whether there is a hash and a face. One of a single colour is none, if its hash is that colour's: so it would
        be in any other video."""
        crop = None if self.stored_hash is None else self.cut(_Way(USUAL_SIZES[0]))
        if crop is None or not is_of_one_colour(crop):
            return crop is not None
        return self.stored_hash not in _hashes_of_colour(crop[0, 0].tobytes(), self.formats)

    def likeness(self) -> float | None:
        """Correlation of the stored thumbnail with the face in this frame, -1 to 1; None without one to compare."""
        stored = _decoded(self._thumb)
        if stored is None:
            return None
        # Files that a later program re-stamped keep thumbnails that are centred as before.
        ways = (_Way(len(stored), centering="legacy"), _Way(len(stored), centering="head"))
        crops = [crop for way in ways if (crop := self.cut(way)) is not None]
        if all(map(_is_blank, [stored, *crops])):
            return None
        return max((_correlation(stored, crop) for crop in crops), default=None)


@lru_cache(maxsize=8)
def _hashes_of_colour(colour: bytes, formats: tuple[str, ...]) -> frozenset[str]:
    """Those that a face of this colour may have."""
    plain = {hashlib.sha1(colour * size**2).hexdigest() for size in (*USUAL_SIZES, *ANY_SIZE)}
    pixel = np.frombuffer(colour, np.uint8)
    crops = (np.ascontiguousarray(np.broadcast_to(pixel, (size, size, 3))) for size in USUAL_SIZES)
    return frozenset(plain | {_hash_in(crop, extension) for crop, extension in product(crops, formats)})


def _hash_in(crop: np.ndarray, extension: str) -> str:
    encoder = encoder_for(extension)
    return face_hash(crop, encoder, b"" if encoder.lossless else encoder.encode(crop))


def _is_blank(picture: np.ndarray) -> bool:
    return bool(picture.std((0, 1)).max() < BLANK)


def _hash_of(alignments: Alignments, row: int) -> str | None:
    """The stored hash of a face; None where the file has none, or something that is none."""
    stored = alignments.stored_hash(row) if alignments.traits.stores_hashes else None
    return stored if stored is not None and _HASH.fullmatch(stored) else None


def _loaded(frame: Frame) -> Patch | None:
    try:
        return frame.load()
    except FrameError:
        return None


def _decoded(thumb: Any) -> np.ndarray | None:
    """[S, S, 3] uint8 of a stored thumbnail; None where there is none that can be read."""
    if thumb is None:
        return None
    import cv2

    try:
        pixels = cv2.imdecode(np.asarray(thumb, np.uint8).reshape(-1), cv2.IMREAD_COLOR)
    except (cv2.error, TypeError, ValueError, OverflowError):
        return None
    square = pixels is not None and pixels.shape[0] == pixels.shape[1] >= 16
    return pixels if square else None


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Of two pictures of one size, all channels together; 0 where one of them is all of one colour."""
    a, b = (picture.astype(np.float64) - picture.mean((0, 1)) for picture in (one, other))
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm else 0.0
