"""`config`: which value of every option is in force and where it comes from: flags > environment > file > default.

The file is TOML with the options' names as keys (`size = 512`, `output-layout = "by-frame"`): the one that `--config`
names, else `gpu-extract.toml` beside the alignments file, else the one in the user's configuration folder. A program
that calls this package from Python has neither environment nor file: it says what it wants.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from gpu_extract.errors import InputError, UsageError, printable
from gpu_extract.jobs.whereabouts import alignments_of, looked_for
from gpu_extract.naming import url_of
from gpu_extract.options import FINDS_ALIGNMENTS, TOKEN_VARIABLE, VARIABLE_PREFIX, Option, option, options
from gpu_extract.reports.base import JsonReport
from gpu_extract.storage.inputs import open_input, unreadable

FILE_NAME = "gpu-extract.toml"
WHAT = "the configuration file"
FLAG, DEFAULT = "flag", "default"
USUAL = "beside the frames"
"""Where an alignments file was found that nobody named."""


class Value(NamedTuple):
    """What an option is, and who says so: "flag", "default", an environment variable, or the path of a file; of an
    alignments file perhaps "beside the frames"."""

    value: Any
    origin: str


@dataclass
class Config(JsonReport):
    """The values in force. Every field is a key of the JSON."""

    SCHEMA: ClassVar[str] = "config/1"

    file: str | None
    """The configuration file that was read."""
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By option: `value` and `from`."""

    def table(self) -> str:
        """The values for a person; a required option that nobody gave is left out."""
        rows = [(name.replace("_", "-"), _shown(entry["value"]), entry["from"]) for name, entry in self.values.items()]
        widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
        lines = [f"{name:<{widths[0]}}  {value:<{widths[1]}}  {origin}" for name, value, origin in rows]
        return "\n".join(map(printable, [*lines, f"file: {self.file or 'none'}"]))


def config(
    flags: Mapping[str, Any],
    *,
    environment: Mapping[str, str] | None = None,
    file: str | os.PathLike[str] | None = None,
) -> Config:
    """The values that `extract` would take.

    Args:
        flags: options that are named, by name.
        environment: `os.environ` by default.
        file: a configuration file; by default the first of the usual ones that exists.
    """
    path = config_file(file, flags, "extract")
    found = values_in_force("extract", flags, environment=environment, file=path)
    values = {name: {"value": _plain(value), "from": origin} for name, (value, origin) in found.items()}
    return Config(None if path is None else os.fspath(path), values)


def values_in_force(
    command: str,
    flags: Mapping[str, Any],
    *,
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> dict[str, Value]:
    """By name, each option of a command that has a value.

    Raises:
        UsageError: if the environment or the file has an unknown name, or a value that is not allowed; the sentence
            says where.
        InputError: if the file cannot be read.
    """
    found = {row.name: Value(row.default, DEFAULT) for row in options(command) if not row.required}
    for layer in (_of_file(file), _of_environment(os.environ if environment is None else environment)):
        found |= {row.name: layer[row.name] for row in options(command) if row.name in layer}
    found |= {name: Value(value, FLAG) for name, value in flags.items()}
    if "alignments" not in found and (usual := _usual(command, found["frames"].value if "frames" in found else None)):
        found["alignments"] = Value(usual, USUAL)
    return {row.name: found[row.name] for row in options(command) if row.name in found}


def why_none(command: str, found: Mapping[str, Value]) -> str | None:
    """Why there is no alignments file though nobody needs to name one; None where that is not what is missing."""
    if command not in FINDS_ALIGNMENTS or "alignments" in found or "frames" not in found:
        return None
    frames = found["frames"].value
    return None if url_of(frames) else f"there is no {looked_for(Path(frames))}"


def _usual(command: str, frames: str | os.PathLike[str] | None) -> Path | None:
    """The alignments file that a command takes where nobody names one."""
    if command not in FINDS_ALIGNMENTS or frames is None or option("frames").fault(frames) or url_of(frames):
        return None
    return alignments_of(Path(frames))


def config_file(asked: str | os.PathLike[str] | None, flags: Mapping[str, Any], command: str) -> Path | None:
    """The configuration file: the one that is asked for ("" is none), or the first of the usual ones that exists.

    Args:
        flags: options that are named on the command line, of which `alignments` and `frames` count.
    """
    if asked is not None:
        return Path(asked) if asked != "" else None
    alignments = flags["alignments"] if "alignments" in flags else _usual(command, flags.get("frames"))
    folders = [] if alignments is None or url_of(alignments) else [Path(alignments).parent]
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")  # noqa: PTH111 (no home, no error)
    usual = (folder / FILE_NAME for folder in [*folders, Path(home) / "gpu-extract"])
    return next((path for path in usual if _is_there(path)), None)


def _is_there(path: Path) -> bool:
    """Whether there is anything of that name, or the system cannot tell; reading it will say what is wrong with it."""
    try:
        return os.path.lexists(path) and not path.is_dir()
    except OSError:
        return True


def _of_environment(environment: Mapping[str, str]) -> dict[str, Value]:
    rows = {row.variable: row for row in options()}
    found = {}
    for variable, text in environment.items():
        if not variable.startswith(VARIABLE_PREFIX) or variable == TOKEN_VARIABLE:
            continue
        if variable not in rows:
            raise UsageError(f"the environment variable {variable} is no option's.{_nearest(variable, rows)}")
        row = rows[variable]
        try:
            found[row.name] = Value(row.parse(text), variable)
        except UsageError as error:
            raise UsageError(f"the environment variable {variable}: {error}") from None
    return found


def _of_file(path: Path | None) -> dict[str, Value]:
    if path is None:
        return {}
    try:
        path.stat()  # a file that is missing is most often one that a flag names: no advice beyond that
    except OSError as error:
        raise InputError(f"{WHAT} {path} cannot be read: {error.strerror}.") from error
    import tomllib  # most runs have no file

    try:
        with open_input(path, WHAT) as file:
            told = tomllib.loads(file.read().decode("utf-8"))
    except OSError as error:
        raise unreadable(path, WHAT, error) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the configuration file {path} is not proper TOML: {error}.") from error
    rows = {row.label: row for row in options()}
    found = {}
    for key, value in told.items():
        label = key.replace("_", "-")
        if label not in rows:
            raise UsageError(f"{path} names {key!r}, which is no option.{_nearest(label, rows)}")
        row = rows[label]
        if fault := row.fault(value):
            raise UsageError(f"{path}: {fault}")
        found[row.name] = Value(value, os.fspath(path))
    return found


def _nearest(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {near[0]}?" if near else ""


def _plain(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    return str(value).lower() if isinstance(value, bool) else str(value)


def missing(command: str, found: Mapping[str, Value]) -> list[Option]:
    """Options that a command needs and nobody gave."""
    return [row for row in options(command) if row.default is dataclasses.MISSING and row.name not in found]
