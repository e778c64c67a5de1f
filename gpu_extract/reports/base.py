"""What all reports have in common: JSON with stable keys, a bound on what a table lists, and the way to a file."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, ClassVar

from gpu_extract.errors import OutputError, counted
from gpu_extract.storage.outputs import FilePath, check_output, write_output

PACKAGES = (
    "numpy",
    "opencv-python",
    "opencv-python-headless",
    "av",
    "torch",
    "kornia",
    "triton",
    "isal",
    "PyYAML",
    "tqdm",
)


WHAT = "the report"
MAX_REPORT_BYTES = 1 << 30
COMMANDS = ("extract", "verify", "check", "batch", "prune", "rename", "reindex", "rebuild", "masks", "doctor", "config")
"""Whose reports may replace one another."""
KNOWN_SHARE = 0.75  # of a report's keys make a file one, as those were before they had a schema


@dataclass
class JsonReport:
    """Its fields are the keys of its JSON, behind `schema`."""

    SCHEMA: ClassVar[str]
    """Its name and version, as "extract/1". Keys are added within a version; whoever takes one away, or has it mean
    something else, counts the version up. `docs/schemas/` has them all."""

    @classmethod
    def is_one(cls, stored: object) -> bool:
        """Whether what a file holds is a report of this kind; other versions of this program may have other keys."""
        if not isinstance(stored, dict):
            return False
        if "schema" in stored:
            return _command(stored["schema"]) == _command(cls.SCHEMA)
        keys = {field.name for field in dataclasses.fields(cls)}
        return len(keys & stored.keys()) >= KNOWN_SHARE * len(keys)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def to_json(self, *, ascii_only: bool = False) -> str:
        told = {"schema": self.SCHEMA} | self.to_dict()
        text = json.dumps(told, indent=2, ensure_ascii=ascii_only) + "\n"
        # File names that are no UTF-8 hold lone surrogates, which only JSON's own escapes can carry.
        return text.encode("utf-8", "backslashreplace").decode()


def and_more(total: int, listed: int, indent: str = "") -> list[str]:
    """The line that follows a list of which only the first `listed` of `total` are shown; none if those are all."""
    return [f"{indent}… and {total - listed:,} more; --json lists all"] if total > listed else []


def listed(title: str, what: str, names: Sequence[str], most: int) -> list[str]:
    """Lines about files: how many there are, what they are, and up to `most` of their names; none where there are none.

    Args:
        title: with the spaces behind it; the names are indented as far.
    """
    if not names:
        return []
    indent = " " * len(title)
    lines = [f"{title}{counted(len(names), 'file')} {what}", *(f"{indent}{name}" for name in names[:most])]
    return lines + and_more(len(names), most, indent)


def check_target(kind: type[JsonReport], target: FilePath, reads: Iterable[FilePath] = ()) -> None:
    """Find out before the work that its report could not be written, or would replace anything but a report.

    Args:
        kind: of the report that will be written.
        reads: files that the job reads.

    Raises:
        OutputError: if so.
    """
    if target != "-":
        check_output(target, WHAT, partial(_is_report, kind), reads)


def write_report(report: JsonReport, target: FilePath, reads: Iterable[FilePath] = ()) -> None:
    """Write the report as JSON to a file, or to standard output for "-"; see `check_target`.

    Raises:
        OutputError: if it cannot be written.
    """
    if target == "-":
        _to_standard_output(report)
    else:
        write_output(target, report.to_json().encode(), WHAT, partial(_is_report, type(report)), reads)


def _to_standard_output(report: JsonReport) -> None:
    text = report.to_json()
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = report.to_json(ascii_only=True)  # JSON has escapes of its own; those of a stream would not be JSON
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        return  # whoever reads it has seen enough
    except OSError as error:
        raise OutputError(f"{WHAT} cannot be written to standard output: {error.strerror}.") from error


def _is_report(kind: type[JsonReport], file: BinaryIO) -> bool:
    """Whether a file holds a report, of that kind or another."""
    if file.read(1) != b"{" or file.seek(0, os.SEEK_END) > MAX_REPORT_BYTES:
        return False
    file.seek(0)
    try:
        stored = json.load(file)
    except (ValueError, RecursionError):
        return False
    return _command(stored.get("schema")) in COMMANDS or kind.is_one(stored)


def _command(schema: object) -> str:
    """Whose reports have a schema, "" where that is none."""
    name, _, version = schema.partition("/") if isinstance(schema, str) else ("", "", "")
    return name if version.isdecimal() else ""


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Versions of Python, of this package, and of the libraries that are installed, without importing them.

    Where a video was opened, FFmpeg's as well: what decoded it.
    """
    found = {"python": platform.python_version(), "gpu-extract": _version("gpu-extract")}
    found |= {name: version for name in packages if (version := _version(name))}
    av = sys.modules.get("av")
    if av is not None:
        libavcodec = ".".join(map(str, av.library_versions["libavcodec"]))
        found |= {"ffmpeg": av.ffmpeg_version_info, "libavcodec": libavcodec}
    return found


def _version(package: str) -> str:
    from importlib import metadata  # a hundredth of a second that only JSON reports need

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "" if package != "gpu-extract" else _own_version()


def _own_version() -> str:
    return str(getattr(sys.modules["gpu_extract"], "__version__", ""))
