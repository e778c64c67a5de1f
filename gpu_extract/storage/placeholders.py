"""Files that are not there, but that something stands for: a cloud folder's placeholder, a download, a broken link."""

from __future__ import annotations

import os
from pathlib import Path

_ICLOUD = (".", ".icloud")  # before and after the name of the file that a placeholder stands for
_DOWNLOADS = (".crdownload", ".download", ".filepart", ".opdownload", ".part", ".partial")
_SHORTCUTS = (".desktop", ".lnk", ".url", ".webloc")
ENDINGS = (_ICLOUD[1], *_DOWNLOADS, *_SHORTCUTS)


def stands_for(name: str) -> tuple[str, str] | None:
    """The name of the file that a file stands for by its own name, and a phrase for "it is there, but …"."""
    ending = next((ending for ending in ENDINGS if name.lower().endswith(ending)), None)
    if ending is None:
        return None
    stem = name[: -len(ending)]
    if ending == _ICLOUD[1]:
        stem = stem.removeprefix(_ICLOUD[0])
        why = f"only as a placeholder of iCloud ({name}); download it first"
    elif ending in _DOWNLOADS:
        why = f"only as a download that did not finish ({name}); download it again"
    else:
        why = f"only as a shortcut to it ({name}); copy the file itself"
    return (stem, why) if stem else None


def why_not_there(path: str | os.PathLike[str]) -> str | None:
    """What stands for a file that is not there, as such a phrase; None where nothing does."""
    path = Path(path)
    try:
        target = os.readlink(path)  # noqa: PTH115 (a Path would change what the link says)
    except OSError:
        names = [f"{_ICLOUD[0]}{path.name}{_ICLOUD[1]}", *(path.name + ending for ending in ENDINGS[1:])]
        found = next((name for name in names if os.path.lexists(path.with_name(name))), None)
        described = stands_for(found) if found else None
        return described[1] if described else None
    advice = "; run git annex get" if "annex/objects/" in target.replace(os.sep, "/") else ""
    return f"only as a link to {target}, which is not there{advice}"
