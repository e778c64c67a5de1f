"""`migrate` and `export` with frames at hand: their sizes, and the name of their video."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpu_extract.alignments import exchange, upgrade
from gpu_extract.frames import FrameSource, open_frames

OLD_NUMBERS = (
    "if the frames are a video's, their numbers are kept as the old programs counted them, and the landmarks as they "
    "turned them; for a variable-rate or rotated video extract with --video-timing constant --rotate on"
)


def migrate(
    old: str | os.PathLike[str],
    new: str | os.PathLike[str],
    *,
    to: str = "2.4",
    frames: str | os.PathLike[str] | None = None,
) -> upgrade.Migration:
    """Write the alignments file `old`, of any generation, as the new file `new` of generation `to`.

    Args:
        old: any alignments file; it is not changed.
        new: a `.fsa` file that does not exist yet.
        to: "g6", "g7a", "g7b" or "2.0" … "2.4".
        frames: the video or folder that the file was made from. Faces of 2018 that were found in a turned frame need
            its size; and from 2.4 on the keys of a video's frames end in its extension.

    Raises:
        UsageError, InputError, AlignmentsError, OutputError: see `gpu_extract.errors`.
    """
    if frames is None:
        return _with_notes(upgrade.migrate(old, new, to), None)
    with _opened(frames) as (source, frame_size):
        video = Path(frames).name if source.kind == "video" else None
        return _with_notes(upgrade.migrate(old, new, to, frame_size=frame_size, video=video), source)


def export(
    file: str | os.PathLike[str],
    new: str | os.PathLike[str] | None = None,
    *,
    frames: str | os.PathLike[str] | None = None,
) -> upgrade.Migration:
    """Write the landmarks of the alignments file `file`, of any generation, as JSON in the exchange form.

    Args:
        file: any alignments file; it is not changed.
        new: a file that does not exist yet; by default `file`'s name with `.json`, numbered where that exists.
        frames: the video or folder that the file was made from; faces of 2018 that were found in a turned frame need
            its size.

    Raises:
        UsageError, InputError, AlignmentsError, OutputError: see `gpu_extract.errors`.
    """
    if frames is None:
        return _with_notes(exchange.export_json(file, new)[1], None)
    with _opened(frames) as (source, frame_size):
        return _with_notes(exchange.export_json(file, new, frame_size=frame_size)[1], source)


@contextmanager
def _opened(frames: str | os.PathLike[str]) -> Iterator[tuple[FrameSource, upgrade.FrameSize]]:
    # Whoever wants sizes has a file of 2018, when videos were turned as their display matrix says.
    with open_frames(frames, rotate=True) as source:

        def frame_size(name: str) -> tuple[int, int] | None:
            index = source.index_of(name)
            return source.size_of(index) if index is not None else None

        yield source, frame_size


def _with_notes(report: upgrade.Migration, source: FrameSource | None) -> upgrade.Migration:
    if report.old_video_keys and (source is None or source.kind == "video"):
        report.notes.append(OLD_NUMBERS)
    return report
