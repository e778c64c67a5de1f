"""`export` and `import`: landmarks as JSON, out of an alignments file and into one."""

from __future__ import annotations

import os

from gpu_extract.alignments import Alignments, exchange, upgrade
from gpu_extract.jobs.old_frames import frames_of_old_file, with_notes


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
        return with_notes(exchange.export_json(file, new)[1], None)
    with frames_of_old_file(frames) as (source, frame_size):
        return with_notes(exchange.export_json(file, new, frame_size=frame_size)[1], source)


def import_landmarks(landmarks: str | os.PathLike[str], new: str | os.PathLike[str]) -> Alignments:
    """Make the alignments file `new` of version 2.4 from the JSON file `landmarks`; returns it, loaded.

    Args:
        landmarks: the exchange form, or plain lists of points a frame; see `alignments.exchange`.
        new: a `.fsa` file that does not exist yet.

    Raises:
        UsageError, InputError, AlignmentsError, OutputError: see `gpu_extract.errors`.
    """
    return exchange.import_json(landmarks, new)
