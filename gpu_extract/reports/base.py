"""What all reports have in common: JSON with stable keys, a bound on what a table lists, and the way to a file."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_extract.errors import OutputError

PACKAGES = ("numpy", "opencv-python", "av", "torch", "kornia", "triton", "deflate", "isal", "PyYAML", "tqdm")


@dataclass
class JsonReport:
    """Its fields are the keys of its JSON."""

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def to_json(self, *, ascii_only: bool = False) -> str:
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=ascii_only) + "\n"
        # File names that are no UTF-8 hold lone surrogates, which only JSON's own escapes can carry.
        return text.encode("utf-8", "backslashreplace").decode()


def and_more(total: int, listed: int, indent: str = "") -> list[str]:
    """The line that follows a list of which only the first `listed` of `total` are shown; none if those are all."""
    return [f"{indent}… and {total - listed:,} more; --json lists all"] if total > listed else []


def check_target(target: str | os.PathLike[str]) -> None:
    """Find out before the work that its report could not be written.

    Raises:
        OutputError: if the file's folder is missing or cannot be written, or a folder has its name.
    """
    path = Path(target)
    if target == "-":
        return
    if path.is_dir():
        raise OutputError(f"the report cannot be written to {path}: it is a folder.")
    if not path.parent.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise OutputError(f"the report cannot be written to {path}: its folder is missing or read-only.")


def write_report(report: JsonReport, target: str | os.PathLike[str]) -> None:
    """Write the report as JSON to a file, or to standard output for "-".

    Raises:
        OutputError: if the file cannot be written.
    """
    if target == "-":
        sys.stdout.write(report.to_json())
        return
    try:
        Path(target).write_text(report.to_json(), "utf-8")
    except OSError as error:
        raise OutputError(f"the report cannot be written to {target}: {error.strerror}.") from error


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
