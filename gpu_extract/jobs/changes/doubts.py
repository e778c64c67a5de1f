"""Whether a faces folder may be the wrong one, or only a part of the right one, by what is missing from it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from gpu_extract.alignments import Alignments
from gpu_extract.errors import counted
from gpu_extract.geometry import crops
from gpu_extract.jobs.changes.presence import UNDELETED, Presence
from gpu_extract.naming import stem_of
from gpu_extract.run.plan import PlanOptions, crop_all

MOST_DELETED = MOST_FOREIGN = 0.5
"""Shares of the faces, and of the files, beyond which a folder may be the wrong one."""
TELLING_FRAMES = 8
"""Frames, or faces, that make a pattern of what is missing."""
TELLING_SHARE = 0.1


def doubts(alignments: Alignments, folder: Path, keep: str, found: Presence) -> Iterator[str]:
    """Why it may be the wrong folder, in phrases.

    Args:
        keep: what a prune is asked to.
        found: in it.
    """
    name, faces, gone = alignments.path.name, len(alignments.faces), len(found.gone)
    if found.foreign > MOST_FOREIGN * found.readable:
        images = f"{found.foreign:,} of the {counted(found.readable, 'image')} in {folder}"
        yield f"{images} are none of the {counted(faces, 'face')} in {name}"
    total = len(found.tellable) if keep == UNDELETED else faces
    if gone > MOST_DELETED * total:
        are = "is" if gone == 1 else "are"
        yield f"{gone:,} of {counted(total, 'face')} {are} not in {folder}, and would leave {name}"
    elif gone and found.recorded.settings is None and (pattern := _pattern(alignments, found.gone)) is not None:
        yield f"no journal tells what the run of {folder} was to cut, and it looks as if it was not all: {pattern}"


def _pattern(alignments: Alignments, rows: Sequence[int]) -> str | None:
    """The rule that what is missing follows, as if a run had passed it over."""
    faces = alignments.faces
    gone = np.zeros(len(faces), bool)
    gone[rows] = True
    held = np.unique(faces.frame[~gone])
    lost = np.setdiff1d(np.unique(faces.frame), held)
    numbers = _numbers(alignments.frame_names)
    step = _step(numbers[held])
    if len(held) >= TELLING_FRAMES and len(lost) and step > _step(numbers[np.unique(faces.frame)]):
        return f"only frames that are {step} apart have faces there"
    enough = max(TELLING_FRAMES, TELLING_SHARE * (len(held) + len(lost)))
    for side, outside in (
        ("last", numbers[lost] > numbers[held].max(initial=-1)),
        ("first", numbers[lost] < numbers[held].min(initial=np.iinfo(np.int64).max)),
    ):
        if len(held) and outside.sum() >= enough:
            return f"none of the {side} {outside.sum():,} frames has a face there"
    geometry = crop_all(alignments, PlanOptions(centering=alignments.traits.centering), {})
    box = crops.box_px(geometry.crop_from_frame, PlanOptions().size)
    usable = geometry.usable
    missing, there = box[gone & usable], box[~gone & usable]
    if len(missing) >= TELLING_FRAMES and len(there) and missing.max() < there.min():
        return f"all {len(missing):,} faces that are missing are smaller than any that is there"
    return None


def _numbers(keys: Sequence[str]) -> np.ndarray:
    """[N] int64: where frames come in their source, as far as keys tell; else their order by name."""
    found = [re.search(r"([0-9]{1,15})$", stem_of(key)) for key in keys]
    if all(found):
        return np.array([int(one[1]) for one in found if one is not None], np.int64)
    order = {key: number for number, key in enumerate(sorted(keys))}
    return np.array([order[key] for key in keys], np.int64)


def _step(numbers: np.ndarray) -> int:
    """Of which number all distances are multiples."""
    return int(np.gcd.reduce(np.diff(np.sort(numbers)))) if len(numbers) > 1 else 0
