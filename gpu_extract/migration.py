"""`migrate` with frames at hand: their sizes, and the name of their video."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

from gpu_extract.alignments import upgrade
from gpu_extract.frames import open_frames


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
        return upgrade.migrate(old, new, to)
    with ExitStack() as stack:
        source = stack.enter_context(open_frames(frames))

        def frame_size(name: str) -> tuple[int, int] | None:
            index = source.index_of(name)
            return source.size_of(index) if index is not None else None

        video = Path(frames).name if source.kind == "video" else None
        return upgrade.migrate(old, new, to, frame_size=frame_size, video=video)
