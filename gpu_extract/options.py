"""Every option once: its name, flags, default, check, help, group, and whether it decides bytes. No NumPy here.

An option is a field of `Settings`, and its row says all that there is to say of it. From the rows come the parsers of
the commands (`cli`), the environment and the configuration file (`jobs.config`), every check, the fingerprint by which
a journal knows its run (`run.fingerprint`), the table of the README and `docs/cli.md`. A new option touches its row,
the signature of `extract` if Python is to have it too, and the place that uses it.
"""

from __future__ import annotations

import dataclasses
import operator
import os
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, SupportsIndex

from gpu_extract import plugins
from gpu_extract.errors import UsageError
from gpu_extract.naming import Url, can_be_path, located

VARIABLE_PREFIX = "GPU_EXTRACT_"
"""Of the environment variables of options."""
TOKEN_VARIABLE = f"{VARIABLE_PREFIX}TOKEN"
"""By which a server knows who asks. No option: command lines are seen by all."""
COMMANDS = (
    "extract",
    "merge",
    "verify",
    "prune",
    "reindex",
    "masks",
    "rebuild",
    "rename",
    "check",
    "doctor",
    "cluster",
    "serve",
)
"""Those whose options come from here."""
FINDS_ALIGNMENTS = ("extract", "merge", "verify", "check")
"""Those that take the alignments file of the usual name where nobody names one, see `jobs.whereabouts`."""

PATHS = "inputs and output"
WHICH = "which frames and faces"
HOW = "how faces are cut"
FILES = "files and what lies beside them"
MACHINE = "the machine"
RUN = "the run"
DOOR = "the door"
LIMITS = "limits"

SERVER_DECIDES = (
    *("device", "decoder", "devices", "processes", "workers", "batch_mb", "pinned_mb"),
    *("cache", "resume", "shard"),
)
"""Options of `extract` that a service decides for its jobs."""
OF_ONE_VIDEO = ("alignments", "frames", "cache", "shard")
"""Options of `extract` that `batch` does not take: for all its videos they cannot be the same."""
ROOT_PLACE = re.compile(r"([a-z0-9][a-z0-9_-]{0,31}):(?!//)(.+)", re.DOTALL)
"""A file or folder of a service, by the name of one of its roots and the path in it."""

KEY_RULES = ("path", "unicode", "case", "padding", "extension", "stem")
"""What may be taken away when a key is compared with the names of frames, see `run.keys`."""

TRUE_WORDS = ("1", "true", "yes", "on")
FALSE_WORDS = ("0", "false", "no", "off")
LARGEST = 2**31 - 1
"""Of whole numbers without an end of their own: what is made of them fits into what machines count with."""

MOST_THREADS = 1024
"""That cut; as `kernels/_cutter.c` has it."""


def whole(value: Any) -> int | None:
    """A whole number of any kind, NumPy's too, as an int; None where a value is none, as True is."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        return None
    try:
        return operator.index(value)
    except TypeError:  # an array of several
        return None


@dataclass(frozen=True)
class Between:
    """Whole numbers from `least` to `most`, both included; `most` None is no end."""

    least: int
    most: int | None = None
    unit: str = ""

    def fault(self, option: Option, value: Any) -> str | None:
        found = whole(value)
        if found is None:
            return f"{option.label} must be a whole number, got {value!r}."
        if found < self.least or (self.most is not None and found > self.most):
            allowed = f"{self.least} or more" if self.most is None else f"{self.least} to {self.most}"
            return f"{option.label} must be {allowed}{f' {self.unit}' if self.unit else ''}, got {value}."
        return _too_large(option, found)


@dataclass(frozen=True)
class OneOf:
    """One of some words, or of the names of the modules in a plug-in folder.

    Args:
        needs: for a word, the package without which it cannot be done, and the extra of this package that brings it.
    """

    words: tuple[str, ...] = ()
    plugins_of: str | None = None
    needs: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)

    def choices(self) -> tuple[str, ...]:
        if self.plugins_of is None:
            return self.words
        return tuple(name.replace("_", "-") for name in plugins.names(self.plugins_of))

    def fault(self, option: Option, value: Any) -> str | None:
        if not isinstance(value, str) or value not in self.choices():
            return f"{option.label} {value!r} is not understood; {', '.join(self.choices())} are."
        package, extra = self.needs.get(value, (None, ""))
        if package is not None and find_spec(package) is None:
            others = ", ".join(word for word in self.choices() if word not in self.needs)
            return f"{option.label} {value} needs {package}; install gpu-extract[{extra}], or choose {others}."
        return None


@dataclass(frozen=True)
class SomeOf:
    """One of the words that stand alone, or any of the others with commas between."""

    alone: tuple[str, ...]
    words: tuple[str, ...]

    def choices(self) -> tuple[str, ...]:
        return (*self.alone, *self.words)

    def fault(self, option: Option, value: Any) -> str | None:
        if isinstance(value, str) and (value in self.alone or all(part in self.words for part in value.split(","))):
            return None
        alone, several = " and ".join(self.alone), ", ".join(self.words)
        return f"{option.label} {value!r} is not understood; {alone} are, and {several} with commas between."


@dataclass(frozen=True)
class OnOff:
    """True or False."""

    def fault(self, option: Option, value: Any) -> str | None:
        return None if isinstance(value, bool) else f"{option.label} must be true or false, got {value!r}."


@dataclass(frozen=True)
class Count:
    """A whole number from 1 on, or one of some words."""

    words: tuple[str, ...]

    def fault(self, option: Option, value: Any) -> str | None:
        found = whole(value)
        if (found is None or found < 1) and not (isinstance(value, str) and value in self.words):
            return f"{option.label} must be 1 or more, or {' or '.join(self.words)}, got {value!r}."
        return None if found is None else _too_large(option, found)


def _too_large(option: Option, value: int) -> str | None:
    return f"{option.label} must be at most {LARGEST:,}, got {value}." if value > LARGEST else None


@dataclass(frozen=True)
class Device:
    """`auto`, `cpu`, `cuda` or `cuda:N`; whether it is there, whoever takes it finds out.

    Args:
        several: any number of them, with commas between.
    """

    several: bool = False

    def fault(self, option: Option, value: Any) -> str | None:
        names = [name.strip() for name in str(value).split(",")] if self.several else [value]
        if self.several and not (isinstance(value, str) and all(names)):
            return f"{option.label} must be names with commas between, got {value!r}."
        for name in names:
            if not isinstance(name, str) or re.fullmatch("auto|cpu|cuda(:[0-9]{1,9})?", name) is None:
                return f"device {name!r} is not understood; auto, cpu, cuda and cuda:N are."
        return None


MOST_SHARDS = 100_000


@dataclass(frozen=True)
class Part:
    """`I/N`: the part of number I, from 0, of N parts."""

    most: int = MOST_SHARDS

    def fault(self, option: Option, value: Any) -> str | None:
        parts = value.split("/") if isinstance(value, str) else []
        if len(parts) == 2 and all(part.isascii() and part.isdecimal() and len(part) < 7 for part in parts):
            number, count = map(int, parts)
            if number < count <= self.most:
                return None
        return f"{option.label} must be I/N with I from 0 to N - 1 and N up to {self.most:,}, got {value!r}."


@dataclass(frozen=True)
class Folders:
    """Names and the folders that they stand for: `NAME=DIR`, of which a user may give several."""

    def fault(self, option: Option, value: Any) -> str | None:
        pairs = value if isinstance(value, Mapping) else {}
        proper = all(
            isinstance(folder, str) and folder != "" and re.fullmatch("[a-z0-9][a-z0-9_-]{0,31}", str(name))
            for name, folder in pairs.items()
        )
        if isinstance(value, Mapping) and proper:
            return None
        got = ", ".join(f"{name}={folder}" for name, folder in pairs.items()) or repr(value)
        return f"{option.label} must be NAME=DIR, with a NAME of a to z, 0 to 9, - and _, got {got}."

    def parse(self, text: str) -> dict[str, str]:
        """Those of a text, with colons between, as the environment has them."""
        pairs = (part.partition("=") for part in text.split(os.pathsep))
        return {name: folder for name, _, folder in pairs}


@dataclass(frozen=True)
class Text:
    """Any text, or a path."""

    def fault(self, option: Option, value: Any) -> str | None:
        return None if can_be_path(value) else f"{option.label} must be a text, got {value!r}."


Check = Between | OneOf | SomeOf | OnOff | Count | Part | Folders | Device | Text


@dataclass(frozen=True)
class Option:
    """One option; made by `number`, `word`, `switch` and `text`."""

    name: str
    """As Python has it; the long flag, the environment and a file derive from it."""
    short: str | None
    check: Check
    default: Any
    """`dataclasses.MISSING` where a command needs it to be given."""
    before: Any
    """What runs did that are older than the option, where that is not its default."""
    help: str
    group: str
    decides_bytes: bool
    """Whether face files may differ by it: runs that share a faces folder agree in all such options."""
    commands: tuple[str, ...]
    metavar: str | None
    takes_callable: bool
    aliases: tuple[str, ...]
    """Flags by which the programs of the time mean the same."""
    usual: str | None
    """Where a command line finds what it needs and nobody gave, for a table; None where it does not look."""

    @property
    def label(self) -> str:
        """The name in sentences: "extract-every-n"."""
        return self.name.replace("_", "-")

    @property
    def flags(self) -> tuple[str, ...]:
        long = f"--{self.label}"
        return (long,) if self.short is None else (self.short, long)

    @property
    def opposite(self) -> str | None:
        """The flag that turns a switch off again; None for other options."""
        if not isinstance(self.check, OnOff):
            return None
        return f"--{self.label.removeprefix('no-')}" if self.label.startswith("no-") else f"--no-{self.label}"

    @property
    def variable(self) -> str:
        """The environment variable."""
        return f"{VARIABLE_PREFIX}{self.name.upper()}"

    @property
    def required(self) -> bool:
        return self.default is dataclasses.MISSING

    def fault(self, value: Any) -> str | None:
        """What is wrong with a value, as a sentence; None if nothing is."""
        if (value is None and self.default is None) or (self.takes_callable and callable(value)):
            return None
        return self.check.fault(self, value)

    def plain(self, value: Any) -> Any:
        """A value that is allowed, as all that read it know it: whole numbers as int."""
        found = whole(value) if isinstance(self.check, Between | Count) else None
        return value if found is None else found

    def parse(self, text: str) -> Any:
        """The value that a text stands for, as the environment has it.

        Raises:
            UsageError: if it stands for none.
        """
        value: Any = text
        if isinstance(self.check, Between | Count):
            value = int(text) if text.strip().removeprefix("-").isdecimal() else text
        elif isinstance(self.check, OnOff):
            words = dict.fromkeys(TRUE_WORDS, True) | dict.fromkeys(FALSE_WORDS, False)
            value = words.get(text.strip().lower(), text)
        elif isinstance(self.check, Folders):
            value = self.check.parse(text)
        if fault := self.fault(value):
            raise UsageError(fault)
        return value


def _row(check: Check, default: Any, help: str, group: str, **rest: Any) -> Any:
    rest = {"short": None, "decides_bytes": False, "commands": ("extract",), "metavar": None} | rest
    rest.setdefault("before", default)
    rest.setdefault("takes_callable", False)
    rest.setdefault("aliases", ())
    rest.setdefault("usual", None)
    row = {"check": check, "default": default, "help": help, "group": group, **rest}
    return dataclasses.field(default=default, metadata={"row": row})


def number(
    short: str | None = None,
    *,
    default: int | None,
    least: int,
    most: int | None = None,
    unit: str = "",
    metavar: str = "N",
    **rest: Any,
) -> Any:
    """A whole number; `rest` is `help`, `group`, and perhaps `decides_bytes` and `commands`, as everywhere below."""
    return _row(Between(least, most, unit), default, short=short, metavar=metavar, **rest)


def word(
    *words: str,
    default: str | None,
    plugins_of: str | None = None,
    needs: Mapping[str, tuple[str, str]] | None = None,
    **rest: Any,
) -> Any:
    """One of some words; see `OneOf`."""
    return _row(OneOf(words, plugins_of, needs or {}), default, **rest)


def words(*words: str, alone: tuple[str, ...], default: str, metavar: str, **rest: Any) -> Any:
    """One word of `alone`, or some of the others; see `SomeOf`."""
    return _row(SomeOf(alone, words), default, metavar=metavar, **rest)


def switch(short: str | None = None, **rest: Any) -> Any:
    """Off unless it is named."""
    return _row(OnOff(), False, short=short, **rest)


def count(*words: str, default: int | str, metavar: str = "N", **rest: Any) -> Any:
    """A whole number or one of some words; see `Count`."""
    return _row(Count(words), default, metavar=metavar, **rest)


def part(*, metavar: str = "I/N", **rest: Any) -> Any:
    """A part of the whole, which is the default; see `Part`."""
    return _row(Part(), None, metavar=metavar, **rest)


def text(short: str | None = None, *, default: Any = dataclasses.MISSING, metavar: str, **rest: Any) -> Any:
    """A path or another text."""
    return _row(Text(), default, short=short, metavar=metavar, **rest)


def device_name(*, default: str | None, several: bool = False, metavar: str, **rest: Any) -> Any:
    """A device, or several; see `Device`."""
    return _row(Device(several), default, metavar=metavar, **rest)


def folders(*, metavar: str = "NAME=DIR", **rest: Any) -> Any:
    """Named folders, none by default; see `Folders`."""
    return _row(Folders(), None, metavar=metavar, **rest)


ALL: Any = {"commands": ("extract", "merge", "verify", "check", "cluster")}
RUNS: Any = {"commands": ("extract", "merge", "verify", "prune", "cluster")}
BOTH: Any = {"commands": ("extract", "verify", "cluster")}
MAKES: Any = {"commands": ("extract", "merge", "cluster")}
CUTS: Any = {"commands": ("extract", "cluster")}
BYTES: Any = {"decides_bytes": True, **BOTH}
SHAPES: Any = {"decides_bytes": True, "commands": (*BOTH["commands"], "masks")}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a run was asked for, checked: a value for every option.

    Raises:
        UsageError: for a value that is not allowed, and for options that do not go together.
    """

    alignments: Path = text(
        "-a",
        aliases=("-p",),
        usual="beside the frames",
        metavar="FILE",
        help="the alignments file, of any generation, or landmarks as JSON",
        group=PATHS,
        commands=(*ALL["commands"], "prune", "reindex", "masks"),
    )
    frames: Path = text(
        "-fr",
        aliases=("-r", "-i"),
        metavar="PATH",
        help="the video or the folder of images that it was made from",
        group=PATHS,
        **ALL,
    )
    faces: Path = text(
        "-fc",
        aliases=("-c", "-o"),
        metavar="DIR",
        help="the folder of faces; `extract` creates it and refuses one that is not empty, `batch` makes one in it for "
        "each video, `verify` only reads",
        group=PATHS,
        **RUNS,
    )
    size: int = number(
        "-sz",
        aliases=("-z",),
        default=256,
        least=16,
        most=4096,
        unit="pixels",
        help="crop side in pixels, 16 to 4096",
        group=HOW,
        **SHAPES,
    )
    extract_every_n: int = number(
        "-een",
        aliases=("-N",),
        default=1,
        least=1,
        help="take frames 0, N, 2N … of the source",
        group=WHICH,
        **BYTES,
    )
    align_eyes: bool = switch("-ae", help="turn each face until its eyes are exactly level", group=HOW, **SHAPES)
    eye_angle: str = word(
        "auto",
        "libm",
        "rounded",
        default="auto",
        before="rounded",
        help="which angle `--align-eyes` takes: that of the C library which the programs of the time ran with (libm; "
        "auto), or the correctly rounded one",
        group=HOW,
        **SHAPES,
    )
    numerics: str = word(
        "auto",
        "numpy1",
        "numpy2",
        "mixed",
        default="auto",
        before="mixed",
        help="how crops are rounded: numpy1, as by the programs until November 2025, or numpy2, as since; auto: by the "
        "file; mixed: as in folders of before there was this option",
        group=HOW,
        **SHAPES,
    )
    large: bool = switch(
        "-l", help="only faces whose source box is at least `--size` pixels; as PNG", group=WHICH, **BYTES
    )
    min_size: int = number(
        default=0,
        least=0,
        most=1000,
        metavar="PERCENT",
        help="only faces whose source box is at least this percentage of `--size`",
        group=WHICH,
        **BYTES,
    )
    centering: str = word(
        "auto",
        "legacy",
        "face",
        "head",
        default="auto",
        help="what a crop is centred on; auto: legacy for files before version 2.0, head since",
        group=HOW,
        **SHAPES,
    )
    video_timing: str = word(
        "auto",
        "constant",
        "decoded",
        default="auto",
        help="how a video's frames are numbered; auto: by the file's generation",
        group=WHICH,
        decides_bytes=True,
        commands=("extract", "verify", "masks", "check", "cluster"),
    )
    match_keys: str = words(
        *KEY_RULES,
        alone=("exact", "any"),
        default="exact",
        metavar="RULES",
        help="what may differ between a key and its frame's name: path, unicode, case, padding, extension, stem, with "
        "commas between, or any",
        group=WHICH,
        decides_bytes=True,
        commands=("extract", "verify", "masks", "check", "cluster"),
    )
    rotate: str = word(
        "auto",
        "on",
        "off",
        default="auto",
        help="whether a video's display rotation and an image's EXIF orientation are followed; auto: by the file's "
        "generation",
        group=HOW,
        **SHAPES,
    )
    antialias: bool = switch(
        help="average over what a shrunken face leaves out, against shimmering", group=HOW, **BYTES
    )
    format: str = word(
        "auto",
        "png",
        "jpg",
        "webp",
        default="auto",
        help="of the face files; auto: as the file's generation did",
        group=FILES,
        **BYTES,
    )
    quality: int | None = number(
        default=None, least=1, most=100, metavar="Q", help="1 to 100, of jpg and webp", group=FILES, **BYTES
    )
    output_layout: str = word(
        plugins_of="gpu_extract.face_files.layouts",
        default="flat",
        help="one folder, nested folders past 10,000 faces, or tar shards",
        group=FILES,
        **BYTES,
    )
    metadata: str | None = word(
        "jsonl",
        "parquet",
        default=None,
        needs={"parquet": ("pyarrow", "parquet")},
        help="also write one row a face: frame, matrix, ROI, landmarks, hash, sharpness, size, pose",
        group=FILES,
        **BYTES,
    )
    refresh_thumbs: bool = switch(
        help="regenerate the thumbnails in the alignments file", group=FILES, decides_bytes=True, **CUTS
    )
    engine: str = word(
        "auto",
        "exact",
        "kornia",
        default="auto",
        help="exact, which auto takes: the same bytes everywhere; kornia: bulk float warps, within 3 levels",
        group=MACHINE,
        decides_bytes=True,
        commands=("extract", "verify", "doctor", "cluster"),
    )
    device: str = device_name(
        default="auto",
        metavar="DEVICE",
        help="auto, cpu, cuda or cuda:N",
        group=MACHINE,
        commands=("extract", "merge", "verify", "doctor", "cluster"),
    )
    decoder: str = word(
        "auto",
        "cpu",
        "cuda",
        default="auto",
        help="what decodes a video: the CPU, which auto takes, or the CUDA device that also cuts, which hides damage",
        group=MACHINE,
        **CUTS,
    )
    batch_mb: int = number(default=64, least=1, metavar="MB", help="one batch on a device", group=MACHINE, **BOTH)
    pinned_mb: int = number(
        default=512, least=1, metavar="MB", help="page-locked host memory, on CUDA", group=MACHINE, **BOTH
    )
    workers: int | None = number(
        default=None, least=1, help="threads that cut and encode; by default one a core", group=MACHINE, **BOTH
    )
    json: str | os.PathLike[str] | None = text(
        default=None,
        metavar="FILE",
        help="write the report as JSON; - is standard output",
        group=RUN,
        commands=("extract", "merge", "verify", "prune", "reindex", "masks", "rebuild", "rename", "check", "doctor"),
    )
    no_update: bool = switch(help="leave the alignments file as it is", group=RUN, **MAKES)
    replace_hashes: bool = switch(
        help="store the new hashes also where none of the stored ones comes out again, as with another video",
        group=RUN,
        **MAKES,
    )
    resume: bool = switch(help="continue an interrupted run in the same faces folder", group=RUN)
    deleted: Literal["leave-out", "restore"] = word(
        "leave-out",
        "restore",
        default="leave-out",
        help="with `--resume`, faces that are gone since the earlier run: leave them out, or make them again",
        group=RUN,
        **CUTS,
    )
    shard: str | None = part(
        help="cut only part I of N of the planned frames, 0 to N - 1; `merge` makes one run of all", group=RUN
    )
    processes: int | str = count(
        "auto",
        default=1,
        help="cut in N processes, each a shard at a time, or of a batch a video; auto: as many as pay",
        group=RUN,
    )
    devices: str | None = device_name(
        default=None,
        several=True,
        metavar="LIST",
        help="of the processes, with commas between: cuda:0,cuda:1 or cpu; by default all have `--device`, and a "
        "service takes every GPU, or one CPU",
        group=RUN,
        commands=("extract", "serve"),
    )
    cache: str | os.PathLike[str] | None = text(
        default=None,
        metavar="DIR",
        help="where what comes from a bucket is kept, and what goes there is made; by default gpu-extract in the "
        "user's folder of caches",
        group=RUN,
        **MAKES,
    )
    store: str | None = text(
        default=None,
        metavar="URL",
        help="prove with a small object below this address, which is removed, that nothing is overwritten there unseen",
        group=RUN,
        commands=("doctor",),
    )
    dry_run: bool = switch(
        help="plan and estimate space and time; write nothing",
        group=RUN,
        commands=("extract", "prune", "reindex", "rebuild", "rename"),
    )
    on_error: Literal["skip", "stop"] = word(
        "skip", "stop", default="skip", help="after a frame or face fails: go on, or end the run", group=RUN
    )
    max_errors: int | None = number(default=None, least=1, help="end the run after N failures", group=RUN)
    partial_ok: bool = switch(
        help="exit with 0, not 4, where the run finished and some frames or faces failed",
        group=RUN,
        commands=("extract", "merge"),
    )
    progress: str | Callable[[Any], None] = word(
        "auto",
        "bar",
        "plain",
        "jsonl",
        "none",
        default="auto",
        takes_callable=True,
        help="a bar on a terminal, else a line every 10 s; jsonl: counts as JSON, for programs",
        group=RUN,
        commands=("extract", "merge", "verify"),
    )

    def __post_init__(self) -> None:
        _check_each(self, _rows_of(Settings))
        for name in ("alignments", "frames", "faces"):
            object.__setattr__(self, name, located(getattr(self, name)))
        # Two ways to say one thing are one thing to the journal.
        object.__setattr__(self, "match_keys", in_order(self.match_keys))
        self._check_together()

    @property
    def urls(self) -> dict[str, Url]:
        """Those of `alignments`, `frames` and `faces` that are addresses."""
        places: dict[str, Any] = {name: getattr(self, name) for name in ("alignments", "frames", "faces")}
        return {name: place for name, place in places.items() if isinstance(place, Url)}

    @property
    def errors_allowed(self) -> int | None:
        """After how many failures the run ends."""
        return 1 if self.on_error == "stop" else self.max_errors

    def _check_together(self) -> None:
        if self.json is not None:
            check_report_place(self.json, {"alignments": self.alignments, "frames": self.frames})
        if self.workers is not None and self.workers > MOST_THREADS:
            raise UsageError(f"workers must be at most {MOST_THREADS:,}, got {self.workers}.")
        if self.quality is not None and self.format == "png":
            raise UsageError("quality is for jpg and webp; png is lossless.")
        if self.refresh_thumbs and self.no_update:
            raise UsageError("refresh-thumbs changes the alignments file; it cannot go with no-update.")
        if self.shard is not None and self.processes != 1:
            raise UsageError("a shard is cut in one process; processes divide a whole run.")
        if self.devices is not None and self.processes == 1:
            raise UsageError("devices are those of several processes; for one, device names it.")
        if self.devices is not None and self.device != "auto":
            raise UsageError("device and devices exclude each other; devices names one for each process.")
        if self.large and self.min_size not in (0, 100):
            raise UsageError(f"large means min-size 100; it cannot go with min-size {self.min_size}.")


SERVE: Any = {"commands": ("serve",)}


@dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """What a service was asked for, checked.

    Raises:
        UsageError: for a value that is not allowed.
    """

    data: Path = text(
        default="/data", metavar="DIR", help="where jobs, uploads and the table are kept", group=PATHS, **SERVE
    )
    root: Mapping[str, str] | None = folders(
        help="a folder whose files jobs may name; read only; may be given several times", group=PATHS, **SERVE
    )
    host: str = text(default="127.0.0.1", metavar="ADDRESS", help="where to listen", group=DOOR, **SERVE)
    port: int = number(default=8080, least=0, most=65535, help="0 takes a free one", group=DOOR, **SERVE)
    allow_hosts: str | None = text(
        default=None,
        metavar="NAMES",
        help="names by which the service is reached, with commas between, as behind a proxy; its own always are",
        group=DOOR,
        **SERVE,
    )
    no_auth: bool = switch(help="ask nobody for a token; only on an address of this machine", group=DOOR, **SERVE)
    devices: str | None = None
    """See the row of `Settings`."""
    fallback_cpu: bool = switch(
        help="cut on the CPU, with the same bytes, what no device takes any more", group=MACHINE, **SERVE
    )
    reserve_mb: int = number(
        default=2048, least=0, metavar="MB", help="of the disk that uploads and jobs leave free", group=LIMITS, **SERVE
    )
    upload_gb: int = number(
        default=64, least=1, metavar="GB", help="the largest file that is taken", group=LIMITS, **SERVE
    )
    queue: int = number(default=1000, least=1, help="jobs of one token that may wait at a time", group=LIMITS, **SERVE)
    memory_mb: int | None = number(
        default=None,
        least=1024,
        metavar="MB",
        help="address space of a job's process, on a CPU; by default as much as the machine has memory",
        group=LIMITS,
        **SERVE,
    )
    max_seconds: int | None = number(
        default=None, least=1, metavar="S", help="that a job may run", group=LIMITS, **SERVE
    )
    keep_days: int = number(
        default=7,
        least=0,
        metavar="DAYS",
        help="after which a job that ended is removed; 0 keeps all",
        group=LIMITS,
        **SERVE,
    )

    def __post_init__(self) -> None:
        _check_each(self, (*_rows_of(ServiceSettings), option("devices")))
        object.__setattr__(self, "data", Path(self.data))


def _check_each(settings: Settings | ServiceSettings, rows: tuple[Option, ...]) -> None:
    """
    Raises:
        UsageError: for a value that is not allowed.
    """
    for option in rows:
        value = getattr(settings, option.name)
        if fault := option.fault(value):
            raise UsageError(fault)
        object.__setattr__(settings, option.name, option.plain(value))


def as_words(settings: Settings) -> list[str]:
    """The words of a command line that ask `extract` for the same, whatever the environment and files say.

    What is None cannot be said, and a callable not either.
    """
    return words_of({row.name: getattr(settings, row.name) for row in options("extract")})


def words_of(values: Mapping[str, Any]) -> list[str]:
    """The words of a command line that give these options, by name, these values; in the order of the rows."""
    words: list[str] = []
    for row in options():
        if row.name not in values:
            continue
        value = values[row.name]
        if isinstance(row.check, OnOff):
            words.append(row.flags[-1] if value else str(row.opposite))
        elif value is not None and not callable(value):
            text = os.fspath(value) if isinstance(value, os.PathLike) else str(value)
            words += [f"{row.flags[-1]}={text}"] if text.startswith("-") else [row.flags[-1], text]
    return words


def typed(command: str, *words: str | os.PathLike[str]) -> str:
    """What to type into a shell for a command, in one line.

    Args:
        words: a path may begin with a dash, or hold what no line can show, which bash, zsh and ksh take as $'…'.
    """
    texts = [word if isinstance(word, str) else _as_place(os.fspath(word)) for word in words]
    return " ".join(["gpu-extract", command, *map(_quoted, texts)])


def _as_place(path: str) -> str:
    return f"./{path}" if path.startswith("-") else path


def _quoted(word: str) -> str:
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + "".join(_in_dollar_quotes(letter) for letter in word) + "'"


def _in_dollar_quotes(letter: str) -> str:
    if letter in "\\'":
        return f"\\{letter}"
    if letter.isprintable():
        return letter
    is_of_a_name = "\udc80" <= letter <= "\udcff"  # a byte that is no text; other halves of letters are in no name
    data = letter.encode("utf-8", "surrogateescape" if is_of_a_name else "surrogatepass")
    return "".join(f"\\{byte:03o}" for byte in data)


def in_order(rules: str) -> str:
    """The words of `--match-keys`, each once and in the order of the rows."""
    chosen = rules.split(",")
    return ",".join(rule for rule in KEY_RULES if rule in chosen) or rules


def check_report_place(json: str | os.PathLike[str], inputs: Mapping[str, str | os.PathLike[str]]) -> None:
    """Refuse a report that would replace an input.

    Raises:
        UsageError: if it would, or if that is no place for one.
    """
    if fault := option("json").fault(json):
        raise UsageError(fault)
    for name, path in inputs.items():
        if json != "-" and (os.path.realpath(json) == os.path.realpath(path) or _is_same_file(json, path)):
            raise UsageError(f"the report would replace the {name} {path}; give json another name.")


def check_switches(**values: Any) -> None:
    """Refuse what is neither true nor false, by the names that Python has: "no" would be taken for a yes.

    Raises:
        UsageError: if any is.
    """
    for name, value in ((name.replace("_", "-"), value) for name, value in values.items()):
        if not isinstance(value, bool):
            raise UsageError(f"{name} must be true or false, got {value!r}.")


def _is_same_file(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    try:
        return os.path.samefile(one, other)  # noqa: PTH121 (words of a user, not yet paths)
    except OSError:
        return False


@cache
def options(command: str | None = None) -> tuple[Option, ...]:
    """The rows, in their order; those of one command where it is named."""
    if command == "submit":
        return tuple(row for row in options("extract") if row.name not in SERVER_DECIDES)
    if command == "batch":
        return tuple(row for row in options("extract") if row.name not in OF_ONE_VIDEO)
    rows = (*_rows_of(Settings), *_rows_of(ServiceSettings))
    return tuple(row for row in rows if command is None or command in row.commands)


@cache
def _rows_of(settings: type[Settings | ServiceSettings]) -> tuple[Option, ...]:
    fields = (field for field in dataclasses.fields(settings) if "row" in field.metadata)
    return tuple(Option(name=field.name, **field.metadata["row"]) for field in fields)


def option(name: str) -> Option:
    """The row of a name."""
    return next(row for row in options() if row.name == name)
