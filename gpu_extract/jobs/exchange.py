"""`export` and `import`: landmarks as JSON, out of an alignments file and into one."""

from __future__ import annotations

import os
from pathlib import Path

from gpu_extract.alignments import Alignments, exchange, upgrade
from gpu_extract.alignments.limits import shown
from gpu_extract.errors import counted
from gpu_extract.jobs.old_frames import check_rules, frames_of_old_file, with_notes


def export(
    file: str | os.PathLike[str],
    new: str | os.PathLike[str] | None = None,
    *,
    frames: str | os.PathLike[str] | None = None,
    keep_keys: bool = False,
    match_keys: str = "exact",
) -> upgrade.Migration:
    """Write the landmarks of the alignments file `file`, of any generation, as JSON in the exchange form.

    Args:
        file: any alignments file; it is not changed.
        new: a file that does not exist yet; by default `file`'s name with `.json`, numbered where that exists.
        frames: the video or folder that the file was made from; faces of 2018 that were found in a turned frame need
            its size, and the keys of a video's frames get its extension, by which programs since 2024 know them.
        keep_keys: leave the keys of a video's frames as they are.
        match_keys: what may differ between a key and its frame's name, see `gpu_extract.extract`; such a key becomes
            its frame's name.

    Raises:
        UsageError, InputError, AlignmentsError, OutputError: see `gpu_extract.errors`.
    """
    check_rules(match_keys, frames)
    if frames is None:
        return with_notes(exchange.export_json(file, new)[1], None)
    with frames_of_old_file(frames, match_keys) as old:
        video = Path(frames).name if old.source.kind == "video" and not keep_keys else None
        report = exchange.export_json(file, new, frame_size=old.size, video=video, new_names=old.new_names)[1]
        return with_notes(report, old)


def import_landmarks(
    landmarks: str | os.PathLike[str], new: str | os.PathLike[str], *, strict: bool = False
) -> Alignments:
    """Make the alignments file `new` of version 2.4 from the JSON file `landmarks`; returns it, loaded.

    Faces that are none are left out, and named in its `left_out`.

    Args:
        landmarks: the exchange form, or plain lists of points a frame; see `alignments.exchange`.
        new: a `.fsa` file that does not exist yet.
        strict: make no file if a face would be left out.

    Raises:
        UsageError, InputError, AlignmentsError, OutputError: see `gpu_extract.errors`.
    """
    return exchange.import_json(landmarks, new, strict=strict)


def first_left_out(made: Alignments, landmarks: str | os.PathLike[str]) -> str:
    """What an import left out, in one line, for a run that prints no table."""
    count = f"{counted(len(made.left_out), 'entry', 'entries')} left out"
    return f"{count}: {exchange.first_fault(Path(landmarks).name, made.left_out)}."


def import_table(made: Alignments) -> str:
    """What an import did, for a person: one line, and one for each thing that was left out or joined."""
    faces, frames = counted(len(made.faces), "face"), counted(len(made.frame_names), "frame")
    lines = [f"{made.path}: {faces} of {frames}, version {made.version}"]
    for bad in made.left_out:
        where = shown(bad.frame) if bad.index is None else f"{shown(bad.frame)} face {bad.index}"
        lines.append(f"  left out: {where}: {bad.reason}")
    return "\n".join([*lines, *(f"  note: {note}" for note in made.notes)])
