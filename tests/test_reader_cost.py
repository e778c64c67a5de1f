"""What a frame of a video costs the interpreter before anybody looks at its pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpu_extract.frames import FrameFailure, open_frames
from tests.helpers import Instructions, write_clip

FRAMES = 120


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("cost") / "a.mp4", FRAMES, (32, 48))


def instructions(path: Path, wanted: np.ndarray, timing: str) -> int:
    """Of Python's virtual machine, executed for a walk after its first frame."""
    with open_frames(path, timing=timing, threads=1) as source:
        frames = source.frames(wanted)
        assert not isinstance(next(frames), FrameFailure)
        with Instructions() as counted:
            rest = sum(1 for _ in frames)
    assert rest == len(wanted) - 1
    return counted.count


@pytest.mark.parametrize(("timing", "most"), [("decoded", 480), ("constant", 850)])
@pytest.mark.parametrize("step", [1, 5])
def test_a_frame_of_a_healthy_video_costs_few_instructions(clip: Path, timing: str, most: int, step: int) -> None:
    wanted = np.arange(0, FRAMES, step)
    assert instructions(clip, wanted, timing) / FRAMES < most


def test_what_counts_instructions_sees_a_walk(clip: Path) -> None:
    assert instructions(clip, np.arange(FRAMES), "decoded") > 50 * FRAMES
