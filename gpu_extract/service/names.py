"""Names that users give to what they send: words for the eye, of which a file name is made that can do no harm."""

from __future__ import annotations

import unicodedata

from gpu_extract.naming import base_of, split_name

MOST_BYTES = 200
"""Of UTF-8; file systems take 255, and programs add endings."""
NAMELESS = "upload"
_RESERVED = frozenset(
    ("con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10)))
)
"""Devices on Windows, with any extension, for folders that it shares."""
_HARMFUL = frozenset(("Cc", "Cs", "Zl", "Zp"))
"""Categories: control letters, halves of letters, ends of lines. Spaces of all widths and joiners are in real names."""
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""They turn the direction of what is read, and so hide an extension."""


def safe_name(text: str) -> str:
    """The name itself wherever it is harmless: a video's name is part of its frames' names.

    The result has no separators, no control letters, no dot at its beginning, is no device's name, is at most
    `MOST_BYTES` long and never empty.
    """
    name = "".join("_" if _is_harmful(letter) else letter for letter in base_of(text)).lstrip(".")
    if name.partition(".")[0].rstrip().lower() in _RESERVED:
        name = f"_{name}"
    return _shortened(name) if name.strip() else NAMELESS


def _is_harmful(letter: str) -> bool:
    return letter in _TURNING or unicodedata.category(letter) in _HARMFUL


def _shortened(name: str) -> str:
    """The stem loses its end; what is called an extension and is longer than any is part of it."""
    if len(name.encode()) <= MOST_BYTES:
        return name
    stem, extension = split_name(name)
    if len(extension.encode()) > MOST_BYTES // 4:
        stem, extension = name, ""
    return stem.encode()[: MOST_BYTES - len(extension.encode())].decode("utf-8", "ignore") + extension
