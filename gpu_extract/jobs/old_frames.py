"""What `migrate` and `export` need of the frames of an old file: their sizes, and the name of their video."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from gpu_extract.alignments import upgrade
from gpu_extract.frames import FrameSource, open_frames

OLD_NUMBERS = (
    "if the frames are a video's, their numbers are kept as the old programs counted them, and the landmarks as they "
    "turned them; for a variable-rate or rotated video extract with --video-timing constant --rotate on"
)

PNG_KEYS = (
    "if the frames are a video's, programs since 2024 look for keys that end in the video's extension and find none of "
    "{count:,} in .png; name the video with -fr to have them renamed"
)
FOREIGN_KEYS = "{count:,} of {frames:,} frame keys do not belong to {video} and were kept as they are"


@contextmanager
def frames_of_old_file(frames: str | os.PathLike[str]) -> Iterator[tuple[FrameSource, upgrade.FrameSize]]:
    """The source, and the function that tells the (height, width) of its frames by key."""
    # Whoever wants sizes has a file of 2018, when videos were turned as their display matrix says.
    with open_frames(frames, rotate=True) as source:

        def frame_size(name: str) -> tuple[int, int] | None:
            index = source.index_of(name)
            return source.size_of(index) if index is not None else None

        yield source, frame_size


def with_notes(report: upgrade.Migration, source: FrameSource | None) -> upgrade.Migration:
    """The report, with what to mind where the old numbering or old keys were kept."""
    if report.old_video_keys and (source is None or source.kind == "video"):
        report.notes.append(OLD_NUMBERS)
    if report.png_video_keys and source is None:
        report.notes.append(PNG_KEYS.format(count=report.png_video_keys))
    if report.foreign_keys and source is not None:
        report.notes.append(
            FOREIGN_KEYS.format(count=report.foreign_keys, frames=report.frames, video=source.path.name)
        )
    return report
