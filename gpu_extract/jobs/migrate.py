"""`migrate`: an alignments file of any generation as a new file of a newer one."""

from __future__ import annotations

import os
from pathlib import Path

from gpu_extract.alignments import upgrade
from gpu_extract.jobs.old_frames import check_rules, frames_of_old_file, with_notes


def migrate(
    old: str | os.PathLike[str],
    new: str | os.PathLike[str],
    *,
    to: str = "2.4",
    frames: str | os.PathLike[str] | None = None,
    match_keys: str = "exact",
) -> upgrade.Migration:
    """Write the alignments file `old`, of any generation, as the new file `new` of generation `to`.

    Args:
        old: any alignments file; it is not changed.
        new: a `.fsa` file that does not exist yet.
        to: "g6", "g7a", "g7b" or "2.0" … "2.4".
        frames: the video or folder that the file was made from. Faces of 2018 that were found in a turned frame need
            its size; and from 2.4 on the keys of a video's frames end in its extension.
        match_keys: what may differ between a key and its frame's name, see `gpu_extract.extract`; such a key becomes
            its frame's name.

    Raises:
        UsageError, InputError, AlignmentsError, OutputError: see `gpu_extract.errors`.
    """
    check_rules(match_keys, frames)
    if frames is None:
        return with_notes(upgrade.migrate(old, new, to), None)
    with frames_of_old_file(frames, match_keys) as found:
        video = Path(frames).name if found.source.kind == "video" else None
        report = upgrade.migrate(old, new, to, frame_size=found.size, video=video, new_names=found.new_names)
        return with_notes(report, found)
