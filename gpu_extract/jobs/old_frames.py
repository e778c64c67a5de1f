"""What `migrate` and `export` need of the frames of an old file: their sizes and their names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from gpu_extract.alignments import upgrade
from gpu_extract.errors import InputError, UsageError
from gpu_extract.frames import FrameSource, open_frames
from gpu_extract.naming import VIDEO_FACE_EXTENSION, split_name
from gpu_extract.options import option
from gpu_extract.run.keys import Matched, match_keys

OLD_NUMBERS = (
    "if the frames are a video's, their numbers are kept as the old programs counted them, and the landmarks as they "
    "turned them; for a variable-rate or rotated video extract with --video-timing constant --rotate on"
)

PNG_KEYS = (
    "if the frames are a video's, programs since 2024 look for keys that end in the video's extension and find none of "
    "{count:,} in .png; name the video with -fr to have them renamed"
)
FOREIGN_KEYS = "frame keys that do not belong to {video} and were kept as they are: {count:,} of {frames:,}"


def check_rules(rules: str, frames: str | os.PathLike[str] | None) -> None:
    """Refuse `match_keys` that are not understood, or without frames.

    Raises:
        UsageError: for either.
    """
    row = option("match_keys")
    if fault := row.fault(rules):
        raise UsageError(fault)
    if frames is None and rules != row.default:
        raise UsageError(f"{row.label} compares keys with the names of frames; name the frames too.")


class OldFrames:
    """The frames, once the file's keys are known."""

    def __init__(self, source: FrameSource, rules: str) -> None:
        self.source = source
        self.notes: list[str] = []
        self._rules = rules
        self._matched: Matched | None = None
        self._entry_of: dict[str, int] = {}

    def new_names(self, keys: list[str]) -> dict[str, str]:
        """Of keys that name a frame by a rule only: that frame's name."""
        self._matched = matched = match_keys(keys, self.source, self._rules)
        self._entry_of = {key: entry for entry, key in enumerate(keys)}
        self.notes = [*self.source.notes, *matched.notes]
        found = {entry: self.source.name_of(index) for entry, index in matched.by_rule.items()}
        if self.source.kind == "video":  # where the target is one that has the video's own extension, it puts it there
            found = {entry: split_name(name)[0] + VIDEO_FACE_EXTENSION for entry, name in found.items()}
        return {keys[entry]: name for entry, name in found.items()}

    def size(self, key: str) -> tuple[int, int]:
        """(height, width) of a key's frame.

        Raises:
            InputError: if there is none.
        """
        assert self._matched is not None
        entry = self._entry_of[key]
        index = int(self._matched.position[entry])
        if index < 0:
            raise InputError(f"the size of the frame '{key}' is needed: {self._matched.reason(entry)}.")
        return self.source.size_of(index)


@contextmanager
def frames_of_old_file(frames: str | os.PathLike[str], rules: str) -> Iterator[OldFrames]:
    """The frames by the keys of a file; `rules` as `Settings.match_keys` has them."""
    # Whoever wants sizes has a file of 2018, when videos were turned as their display matrix says.
    with open_frames(frames, rotate=True) as source:
        yield OldFrames(source, rules)


def with_notes(report: upgrade.Migration, frames: OldFrames | None) -> upgrade.Migration:
    """The report, with how keys and frames were matched and what to mind where old numbering or keys were kept."""
    if frames is not None:
        report.notes += frames.notes
    if report.old_video_keys and (frames is None or frames.source.kind == "video"):
        report.notes.append(OLD_NUMBERS)
    if report.png_video_keys and frames is None:
        report.notes.append(PNG_KEYS.format(count=report.png_video_keys))
    if report.foreign_keys and frames is not None:
        report.notes.append(
            FOREIGN_KEYS.format(count=report.foreign_keys, frames=report.frames, video=frames.source.path.name)
        )
    return report
