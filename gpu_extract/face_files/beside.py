"""What lies in a faces folder and is no face: files that this program and others put there, and file managers.

`docs/formats.md#beside-the-faces` lists them.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from gpu_extract.alignments.container import containers

STAMP = r"[0-9]{4}-?[0-9]{2}-?[0-9]{2}_[0-9]{2}\.?[0-9]{2}\.?[0-9]{2}"
"""As back-ups have it, of either time, and what the programs' check jobs write."""
OF_THE_PROGRAMS = re.compile(rf".+_{STAMP}(\([0-9]+\))?\.(fsa|txt)|_duplicates/.*|.+_{STAMP}/.*", re.DOTALL)
OF_FILE_MANAGERS = re.compile(r"(.*/)?(\.DS_Store|\._.*|\.directory|[Tt]humbs\.db|[Dd]esktop\.ini)", re.DOTALL)
CONFIGURATION = "gpu-extract.toml"


def lies_beside(name: str, alignments: Path) -> bool:
    """Whether a file of a faces folder, by its name relative to it, is none that should be a face.

    Args:
        alignments: the alignments file at hand; it, its copies and its lock may lie in the folder too.
    """
    if (
        name == CONFIGURATION
        or OF_THE_PROGRAMS.fullmatch(name)
        or _is_alignments_file(name)
        or OF_FILE_MANAGERS.fullmatch(name)
    ):
        return True
    if name.count("/"):
        return False
    return name in (alignments.name, f"{alignments.name}.lock") or _is_copy(PurePosixPath(name), alignments)


def _is_alignments_file(name: str) -> bool:
    """Whether the programs call an alignments file so, of any time."""
    stem, dot, extension = name.rpartition(".")
    return dot + extension.lower() in containers() and (stem == "alignments" or stem.endswith("_alignments"))


def _is_copy(name: PurePosixPath, alignments: Path) -> bool:
    if name.suffix.lower() not in containers():
        return False
    pattern = rf"{re.escape(alignments.stem)}(_bk|_unsaved)?_{STAMP}(\([0-9]+\))?"
    return re.fullmatch(pattern, name.stem, re.DOTALL) is not None
