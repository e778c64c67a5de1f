"""`rebuild`: an alignments file from what its faces say of themselves, after the file was lost.

Faces of version 2.1 and later carry their record in their header. Older ones carry nothing: they are known by the list
of faces that their run wrote, if it did, see `listed`. What was made is proven on the way: of a header, that the record
gives it again to the byte.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from gpu_extract import png_file
from gpu_extract.alignments import Alignments
from gpu_extract.alignments.container import Document, container_for
from gpu_extract.alignments.generation import Traits
from gpu_extract.alignments.packed import unpack
from gpu_extract.alignments.upgrade import PROTOCOL, VIDEO_KEY
from gpu_extract.errors import EXIT_PARTIAL, InputError, UsageError, counted
from gpu_extract.face_files.header import PREFIX, face_header
from gpu_extract.face_files.origin import Origin, origin_of
from gpu_extract.face_files.stored import content, pixel_hash, stored_files
from gpu_extract.frames import FrameSource, open_frames
from gpu_extract.frames.images.decode import image_size
from gpu_extract.jobs.changes.listed import Listed, list_in, old_document, record_of
from gpu_extract.jobs.changes.stopped import check_completed
from gpu_extract.jobs.check import frame_count
from gpu_extract.naming import (
    FACE_EXTENSIONS,
    VIDEO_EXTENSIONS,
    base_of,
    has_extension,
    of_this_machine,
    split_name,
    stem_of,
)
from gpu_extract.options import check_report_place, option, typed
from gpu_extract.reports.base import check_target, write_report
from gpu_extract.reports.rebuilding import RebuildReport
from gpu_extract.run import journal
from gpu_extract.run.fingerprint import FACES
from gpu_extract.run.fingerprint import digest as faces_digest
from gpu_extract.run.keys import match_keys
from gpu_extract.run.pool import Pool
from gpu_extract.run.resolve import resolve_numbering
from gpu_extract.storage.atomic import write_free
from gpu_extract.storage.inputs import is_folder

IMAGES = "images"
"""The source of faces that are not a video's."""
EITHER_ROUNDING = (
    "programs of two times round the crops of such files otherwise, and no header tells which; if verify finds other "
    "pixels, its notes name the --numerics that extract has to be given, too."
)
THUMBNAILS = "headers hold no thumbnails; extract --refresh-thumbs makes them anew."
_NUMBER = re.compile(r"([0-9]{1,15})$")


def rebuild(
    faces: str | os.PathLike[str],
    new: str | os.PathLike[str],
    *,
    frames: str | os.PathLike[str] | None = None,
    source: str | None = None,
    dry_run: bool = False,
    json: str | os.PathLike[str] | None = None,
) -> RebuildReport:
    """Make an alignments file of the faces in a folder, whatever their files are called and wherever they lie in it.

    Args:
        faces: the folder. Faces of version 2.1 and later are known by their headers; older ones, and those that are no
            PNG, by the hash of their pixels in `faces.jsonl` or `faces.parquet`, if their run wrote one.
        new: a `.fsa` file that does not exist yet.
        frames: the video, or the folder of images, that the faces are from: frames without a face get an entry, too.
        source: of which video the file shall be, by its name, or "images", where the folder holds faces of several.
        dry_run: only tell what would be made.
        json: where to write the report; "-" is standard output.

    Returns:
        The report; `exit_code` is 0, or 4 if files cannot be read, or contradict each other.

    Raises:
        GpuExtractError: one of its kinds, see `gpu_extract.errors`.
    """
    if fault := option("dry_run").fault(dry_run):
        raise UsageError(fault)
    folder, file = of_this_machine(faces, "rebuild"), of_this_machine(new, "rebuild")
    footage = None if frames is None else of_this_machine(frames, "rebuild")
    if file.suffix.lower() != ".fsa":
        raise UsageError(f"{file.name} is not a name for a new alignments file; such files end in .fsa.")
    if os.path.lexists(file):
        raise UsageError(f"{file} exists; choose a new name.")
    if json is not None:
        check_report_place(json, {"new alignments file": file} | ({} if footage is None else {"frames": footage}))
        check_target(RebuildReport, json)
    if not is_folder(folder, "the faces folder"):
        raise InputError(f"there is no faces folder {folder}; name the one that the faces are in.")
    check_completed(folder)
    began = time.perf_counter()
    job = _Rebuild(folder, file, footage, source)
    document = job.document()
    if not dry_run:
        try:
            write_free(file, container_for(file).write(document))
        except FileExistsError:
            raise UsageError(f"{file} exists; choose a new name.") from None
    job.report.dry_run = dry_run
    job.report.seconds = round(time.perf_counter() - began, 3)
    if json is not None:
        write_report(job.report, json)
    return job.report


@dataclass(frozen=True)
class _Known:
    """A face file whose origin is known."""

    file: str
    frame: str
    index: int
    name: str
    """How the program that made it called it."""
    traits: Traits | None = None
    """Of the file that it was made from; None where it carries no header."""
    record: dict[str, Any] = field(default_factory=dict)
    is_video: bool = False
    same: bool = False
    """Whether the record gives its header again."""
    more: Sequence[str] = ()
    """What its header holds beside the record."""
    damaged: bool = False
    row: Listed | None = None
    """Of the list of faces."""

    @property
    def points(self) -> bytes:
        raw: bytes = self.record["landmarks_xy"].raw
        return raw

    @property
    def worth(self) -> tuple[float, bool, int]:
        """Of two files of one face the more telling one has the greater."""
        if self.traits is None:
            return 0.0, False, 0
        return (
            self.traits.version,
            self.traits.lists,
            sum(len(self.record.get(key, ())) for key in ("mask", "identity")),
        )

    @property
    def is_where_it_was(self) -> bool:
        return base_of(self.file) == self.name


class _Rebuild:
    """One file, from a folder as it is."""

    def __init__(self, folder: Path, new: Path, frames: Path | None, source: str | None) -> None:
        self._folder, self._new, self._frames, self._source = folder, new, frames, source
        self.report = RebuildReport(faces_folder=os.fspath(folder), new=os.fspath(new))

    def document(self) -> Document:
        """What the file shall hold.

        Raises:
            InputError: if the folder holds no face that tells where it is from, or the frames are not theirs.
            UsageError: if it holds faces of several sources, and none of them is named.
        """
        self._places = stored_files(self._folder, journal.own_names(self._folder))
        found = journal.read(self._folder)
        self._run = None if found is None else found[0]
        self._made = set() if found is None else {face.file_name for frame in found[1] for face in frame.faces}
        chosen = self._each_once(self._of_one_source(self._read()))
        document = self._composed(chosen)
        if self._frames is None:
            self.report.gaps = _gaps(list(_entries(document)))
        else:
            self._add_frames(document, self._frames)
        self._conclude(Alignments(self._new, document))
        return document

    # ---- what the files say

    def _read(self) -> list[_Known]:
        names = sorted(name for name in self._places if self._may_be_face(name))
        self.report.files = len(names)
        if not names:
            raise InputError(f"{self._folder} holds no face.")
        self._list, notes = list_in(self._folder)
        self.report.notes += notes
        with Pool() as pool:
            found = list(pool.map(self._one, names))
        known = [one for one in found if isinstance(one, _Known)]
        self.report.unreadable = [one for one in found if isinstance(one, dict)]
        hashes = {name: one for name, one in zip(names, found, strict=True) if isinstance(one, str)}
        rows = {} if self._list is None else self._list.rows_of(hashes)
        known += [_Known(name, row.frame, row.index, base_of(row.file), row=row) for name, row in rows.items()]
        for name in hashes.keys() - rows.keys():
            altered = self._list is not None and self._list.has_name(name)
            (self.report.unproven if altered else self.report.extra).append(name)
        self.report.unproven.sort()
        self.report.extra.sort()
        if not known:
            self._refuse(len(names))
        self.report.damaged = [one.file for one in known if one.damaged]
        more = Counter(key for one in known for key in one.more)
        self.report.notes += [
            f"{counted(count, 'header')} with {key!r}, for which alignments files have no place."
            for key, count in more.items()
        ]
        return known

    def _refuse(self, count: int) -> None:
        if self.report.unreadable:
            first = self.report.unreadable[0]
            raise InputError(
                f"of {counted(count, 'image')} in {self._folder} none tells where it is from; {first['file']}: "
                f"{first['reason']}"
            )
        raise InputError(
            f"of {counted(count, 'image')} in {self._folder} none tells where it is from: faces of files before "
            "version 2.1 carry no header, and no faces.jsonl or faces.parquet of theirs lies in the folder, which "
            "extract --metadata writes."
        )

    def _may_be_face(self, name: str) -> bool:
        """Whether a file of the folder is to be looked at: hidden ones are not, but where a run made them."""
        hidden = any(part[:1] in (".", "~") for part in name.split("/"))
        return has_extension(name, FACE_EXTENSIONS) and (not hidden or name in self._made)

    def _one(self, name: str) -> _Known | str | dict[str, str]:
        """A file with a header; the hash of one without, "" where nothing knows hashes; or what is wrong with it.

        Called from many threads.
        """
        try:
            data = content(self._places[name])
            origin = origin_of(data) if data.startswith(png_file.SIGNATURE) else None
            if origin is not None:
                return _of_header(name, origin, damaged=not png_file.is_whole(data))
            if self._list is not None:
                return pixel_hash(data)
            image_size(data)
            return ""
        except InputError as error:
            return {"file": name, "reason": str(error)}

    def _of_one_source(self, known: Sequence[_Known]) -> list[_Known]:
        videos = {_stem_of_video(one.frame): split_name(one.frame)[1] for one in known if one.is_video}
        groups: dict[str, list[_Known]] = defaultdict(list)
        for one in known:
            stem = _stem_of_video(one.frame)
            groups[stem if stem in videos else IMAGES].append(one)
        titles = {
            name: f"{name}{videos[name]}" if videos.get(name, "").lower() in VIDEO_EXTENSIONS else name
            for name in groups
        }
        asked = self._source
        if asked is None and self._frames is not None and len(groups) > 1:
            asked = self._frames.stem if self._frames.is_file() else IMAGES
        if asked is None and len(groups) == 1:
            asked = next(iter(groups))
        chosen = next((name for name, title in titles.items() if asked in (name, title)), None)
        if chosen is None:
            held = ", ".join(f"{title} ({len(groups[name]):,})" for name, title in sorted(titles.items()))
            if self._source is not None:
                raise UsageError(f"{self._folder} holds no face of {self._source}; those there are of {held}.")
            raise UsageError(f"{self._folder} holds faces of several sources: {held}; name one with --source.")
        self.report.source = titles[chosen]
        self._is_video = chosen in videos
        if len(groups) > 1:
            others = sum(map(len, groups.values())) - len(groups[chosen])
            self.report.notes.append(f"{counted(others, 'file')} of other sources left out.")
        return groups[chosen]

    def _each_once(self, known: Iterable[_Known]) -> list[_Known]:
        """One file of each face."""
        files: dict[tuple[str, int], list[_Known]] = defaultdict(list)
        for one in known:
            files[self._frame_of(one), one.index].append(one)
        chosen = []
        for several in files.values():
            several.sort(key=lambda one: (not one.is_where_it_was, one.file))
            first = several[0]
            alike = [
                one for one in several if one.row is not None or first.row is not None or one.points == first.points
            ]
            best = max(alike, key=lambda one: one.worth)
            chosen.append(best)
            self.report.duplicates += [{"file": one.file, "of": best.file} for one in alike if one is not best]
            self.report.contradictions += [{"file": one.file, "of": best.file} for one in several if one not in alike]
        return chosen

    def _frame_of(self, one: _Known) -> str:
        """What the keys of one frame have in common: those of a video end in one extension or another."""
        return stem_of(one.frame) if self._is_video else one.frame

    # ---- what they come to

    def _composed(self, chosen: Sequence[_Known]) -> Document:
        frames: dict[str, list[_Known]] = defaultdict(list)
        keys: dict[str, _Known] = {}
        for one in chosen:
            frame = self._frame_of(one)
            frames[frame].append(one)
            if frame not in keys or one.worth > keys[frame].worth:
                keys[frame] = one
        order = sorted(frames, key=lambda frame: _natural(keys[frame].frame))
        entries = {keys[frame].frame: sorted(frames[frame], key=lambda one: one.index) for frame in order}
        for key, faces in entries.items():
            self.report.closed_up += [
                {"file": one.file, "frame": key, "was": one.index, "index": index}
                for index, one in enumerate(faces)
                if index != one.index
            ]
        headed = [one.traits for one in chosen if one.traits is not None]
        self.report.faces_listed = sum(one.row is not None for one in chosen)
        if not headed:
            rows = {key: [one.row for one in faces if one.row is not None] for key, faces in entries.items()}
            document, self.report.faces_proven, notes = old_document(self._new, rows, self._run)
            self.report.notes += notes
            return document
        traits = max(headed, key=lambda traits: (traits.version, traits.lists))
        self._tell_versions(headed, traits)
        self.report.headers_the_same = sum(
            one.same and one.traits == traits and one.frame == key and one.index == index
            for key, faces in entries.items()
            for index, one in enumerate(faces)
        )
        data = {
            key: _entry([self._record(one, traits) for one in faces], has_meta=traits.has_identity)
            for key, faces in entries.items()
        }
        root = {"__meta__": {"version": traits.version}, "__data__": data}
        by_numpy_2 = self._run is not None and self._run.get("numerics") == "numpy2"
        if traits.may_hold_lists and not traits.lists and self._run is None:
            self.report.notes.append(EITHER_ROUNDING)
        self.report.notes.append(THUMBNAILS)
        return Document(root, PROTOCOL, numpy_2=by_numpy_2 and traits.may_hold_lists)

    def _record(self, one: _Known, traits: Traits) -> dict[str, Any]:
        if one.row is not None:
            return record_of(one.row, traits)
        if one.traits == traits:
            return one.record
        origin = origin_of(content(self._places[one.file]))
        if origin is None:
            raise InputError(f"{one.file} was changed meanwhile; begin again.")
        return origin.record(traits)

    def _tell_versions(self, headed: Sequence[Traits], traits: Traits) -> None:
        versions = Counter(f"{one.version}{' (lists)' if one.lists else ''}" for one in headed)
        if len(versions) > 1:
            told = ", ".join(f"{count:,} of {version}" for version, count in sorted(versions.items()))
            self.report.notes.append(
                f"the headers are of several versions ({told}); the file is of {traits.version}, so that nothing is "
                "lost, and an extraction gives the others headers of that."
            )
        if self.report.faces_listed:
            self.report.notes.append(
                f"{counted(self.report.faces_listed, 'face')} known by the list only, which holds no masks."
            )

    def _add_frames(self, document: Document, frames: Path) -> None:
        """An entry for each frame of the source, in its order; keys that it has not come last."""
        made = Alignments(self._new, document)
        held = made.frame_names
        numbering = resolve_numbering(made, frames)
        with open_frames(frames, timing=numbering.timing, rotate=numbering.rotate) as source:
            matched = match_keys(held, source)
            if not (matched.position >= 0).any():
                raise InputError(
                    f"none of the faces in {self._folder} is from {frames}: their frames are like {held[0]!r}, its own "
                    f"like {source.name_of(0)!r}."
                )
            at = dict(zip(matched.position.tolist(), held, strict=True))
            keys = [at.get(index) or _key(source, index, held[0]) for index in range(frame_count(source))]
            self.report.notes += [*source.notes, *matched.notes]
        self.report.gaps = _stretches(keys, set(held))
        self.report.frames_not_in_source = [key for key in held if key not in set(keys)]
        entries = _entries(document)
        before = dict(entries)
        entries.clear()
        for key in (*keys, *self.report.frames_not_in_source):
            entries[key] = before[key] if key in before else _emptied(before[held[0]])

    def _conclude(self, made: Alignments) -> None:
        report = self.report
        report.version, report.generation = made.version, made.generation
        report.faces_rebuilt, report.frames = len(made.faces), len(made.frame_names)
        report.as_the_run = self._run is not None and self._run.get(FACES) == faces_digest(made)
        if report.unreadable or report.contradictions or report.unproven:
            report.exit_code = EXIT_PARTIAL
        frames = "FRAMES" if self._frames is None else self._frames
        report.next = typed("verify", "-a", self._new, "-fr", frames, "-fc", self._folder)


def _of_header(name: str, origin: Origin, *, damaged: bool) -> _Known:
    traits = Traits(origin.version, lists=origin.lists)
    record = origin.record(traits)
    height, width = origin.size or (0, 0)
    again = face_header(
        origin.version, unpack(record), origin.index, origin.frame, height, width, is_video=origin.is_video
    )
    return _Known(
        name,
        origin.frame,
        origin.index,
        origin.name,
        traits,
        record,
        origin.is_video,
        again == PREFIX + origin.text.encode("utf-8"),
        origin.more,
        damaged,
    )


def _entry(faces: list[dict[str, Any]], *, has_meta: bool) -> dict[str, Any]:
    return {"faces": faces, "video_meta": {}} if has_meta else {"faces": faces}


def _emptied(entry: Any) -> Any:
    """The entry of a frame without faces, in a file that has this one."""
    return [] if isinstance(entry, list) else {key: [] if key == "faces" else {} for key in entry}


def _entries(document: Document) -> dict[str, Any]:
    entries: dict[str, Any] = document.root.get("__data__", document.root)
    return entries


def _stem_of_video(key: str) -> str:
    """Of which video a key may be the frame of; the key's own stem where it has no number."""
    stem = stem_of(key)
    return stem.rpartition("_")[0] if VIDEO_KEY.fullmatch(key) else stem


def _key(source: FrameSource, index: int, example: str) -> str:
    """A frame's key; a video's ends as the others of its file do."""
    name = source.name_of(index)
    return split_name(name)[0] + split_name(example)[1] if source.kind == "video" else name


def _natural(key: str) -> tuple[str, int, str]:
    """Frames in the order of their numbers, where these have more digits in the end."""
    stem = stem_of(key)
    number = _NUMBER.search(stem)
    return (stem[: number.start()], int(number[1]), key) if number else (stem, -1, key)


def _gaps(keys: Sequence[str]) -> list[dict[str, Any]]:
    """Numbers that are missing between those of keys that are alike but for them."""
    numbers: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for key in keys:
        stem, extension = split_name(key)
        if (number := _NUMBER.search(stem)) is not None:
            numbers[stem[: number.start()], extension].append((int(number[1]), len(number[1])))
    gaps = []
    for (prefix, extension), found in sorted(numbers.items()):
        found.sort()
        step = int(np.gcd.reduce(np.diff([number for number, _ in found]))) or 1
        for (before, digits), (after, _) in pairwise(found):
            if after - before > step:
                first, last = (f"{prefix}{number:0{digits}d}{extension}" for number in (before + step, after - step))
                gaps.append({"first": first, "last": last, "count": (after - before) // step - 1})
    return gaps


def _stretches(keys: Sequence[str], held: set[str]) -> list[dict[str, Any]]:
    """Runs of keys that are not held."""
    return [
        {"first": run[0], "last": run[-1], "count": len(run)}
        for lacking, some in groupby(keys, key=lambda key: key not in held)
        if lacking and (run := list(some))
    ]
