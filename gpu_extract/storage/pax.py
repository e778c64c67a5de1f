"""Records of a POSIX tar header: `<length> <name>=<value>`, one a line, read strictly."""

from __future__ import annotations

import re

_RECORD = re.compile(rb"([0-9]{1,7}) ([^=\n]{1,200})=")


def records(data: bytes) -> dict[str, str] | None:
    """By name, what a header says; of bytes that are no letters the values keep what they were, as file names do.

    None where it is not understood.
    """
    found = {}
    at = 0
    while at < len(data):
        match = _RECORD.match(data, at)
        end = at + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(data) or data[end - 1 : end] != b"\n":
            return None
        value = data[match.end() : end - 1]
        found[match[2].decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        at = end
    return found
