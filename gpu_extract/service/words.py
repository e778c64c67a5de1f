"""The command lines of a job's steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpu_extract.options import words_of
from gpu_extract.service.folders import JobFolder
from gpu_extract.service.requests import Request
from gpu_extract.service.table import CHECK, MERGE, Step

PLAN = "plan.json"
"""What a check says of a job whose shards are to be chosen."""


def report_of(step: Step, request: Request, folder: JobFolder) -> Path:
    """Where a step leaves its report."""
    if step.kind == CHECK and not request.is_check:
        return folder.path / PLAN
    return folder.report if step.count == 1 or step.kind == MERGE else folder.path / f"report-{step.number}.json"


def words_for(step: Step, request: Request, folder: JobFolder, device: str, workers: int) -> list[str]:
    """What `gpu-extract` is to be started with, whatever the environment and files say."""
    values: dict[str, Any] = {
        "alignments": folder.path / request.alignments,
        "frames": folder.path / request.frames,
        "faces": folder.faces,
        "json": report_of(step, request, folder),
        "progress": "jsonl",
        "device": device,
    }
    if step.kind == MERGE:
        values["replace_hashes"] = request.options.get("replace_hashes", False)
        return ["merge", "--config", "", *words_of(values)]
    values |= request.options | {"workers": workers}
    if step.kind == CHECK:
        values["dry_run"] = True
    else:
        values["resume"] = True
        if step.count > 1:
            values["shard"] = f"{step.number}/{step.count}"
    return ["extract", "--config", "", *words_of(values)]


def reads(request: Request, folder: JobFolder) -> tuple[str, ...]:
    """What a job's process must be able to read, beside its own folder."""
    frames = folder.path / request.frames
    return () if frames.is_relative_to(folder.path) else (str(frames),)
