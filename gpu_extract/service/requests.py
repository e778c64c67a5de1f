"""What a client asks for, checked: two inputs, by upload or by a root's path, and options of `extract`."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from gpu_extract.errors import InputError, UsageError, counted
from gpu_extract.options import SERVER_DECIDES, Option, Settings, options
from gpu_extract.service.folders import JobFolder
from gpu_extract.service.problems import Problem
from gpu_extract.service.unpacking import is_packed
from gpu_extract.storage.beneath import open_beneath
from gpu_extract.storage.descriptors import close_quietly
from gpu_extract.storage.inputs import open_input

OWN = frozenset(("alignments", "frames", "faces", "json", "progress", "no_update", "partial_ok", *SERVER_DECIDES))
"""Options of `extract` that the service decides for its jobs."""
MOST_UPLOADS = 100_000
"""Images that one job may take from uploads."""
MOST_SHARDS = 1000
"""Of a job: one machine cuts them all, and every answer about the job tells of each."""
SMALL_BYTES = 16 << 20
"""Of an alignments file that is no question of room."""
COPY_BYTES = 1 << 20


UPLOAD, UPLOADS, ROOT, AUTO, NUMBER = FORMS = "(upload)", "(uploads)", "(root)", "(auto)", "(number)"
"""What a value may be meant to be, which is told by what it says; of a wrong one only that is said then."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Upload(_Strict):
    """A file that was uploaded; as frames also a folder of images, as one tar."""

    upload: str = Field(description="the id of a finished upload; one that is named .tar is a folder of images")


class Uploads(_Strict):
    """Images that were uploaded."""

    uploads: list[str] = Field(description="ids of finished uploads", min_length=1, max_length=MOST_UPLOADS)


class InRoot(_Strict):
    """A file or folder of a root."""

    root: str
    path: str = Field(description="inside the root, with / between names", max_length=4096)


def _form_of_a_file(value: Any) -> str:
    return UPLOAD if _says(value, "upload") else ROOT


def _form_of_frames(value: Any) -> str:
    return UPLOADS if _says(value, "uploads") else _form_of_a_file(value)


def _says(value: Any, name: str) -> bool:
    return hasattr(value, name) or (isinstance(value, dict) and name in value)


def _form_of_shards(value: Any) -> str:
    return AUTO if isinstance(value, str) and not value.isdecimal() else NUMBER


class JobRequest(_Strict):
    """A job: an alignments file, the frames it was made from, and how to cut."""

    alignments: Annotated[Annotated[Upload, Tag(UPLOAD)] | Annotated[InRoot, Tag(ROOT)], Discriminator(_form_of_a_file)]
    frames: Annotated[
        Annotated[Upload, Tag(UPLOAD)] | Annotated[Uploads, Tag(UPLOADS)] | Annotated[InRoot, Tag(ROOT)],
        Discriminator(_form_of_frames),
    ]
    options: dict[str, Any] = Field(
        default_factory=dict, description="of gpu-extract extract, by name; GET /v1/options lists them"
    )
    shards: Annotated[
        Annotated[Literal["auto"], Tag(AUTO)] | Annotated[int, Field(ge=1, le=MOST_SHARDS), Tag(NUMBER)],
        Discriminator(_form_of_shards),
    ] = "auto"
    priority: Annotated[int, Field(ge=-100, le=100)] = Field(0, description="higher goes first")


class Uploaded(Protocol):
    """Finished uploads."""

    def claim(self, upload_id: str, folder: Path, owner: str) -> Path:
        """Give an upload's bytes a second name, in a folder, under its own safe name; returns that.

        Raises:
            Problem: where there is none of this owner, or it is not finished.
        """


@dataclass(frozen=True)
class Request:
    """A job's request, whole and checked.

    Attributes:
        alignments: where the job's own copy is, relative to its folder.
        frames: a path: absolute in a root, else relative to the job's folder.
        shown: the two as the client knows them, for a page.
        options: of `extract`, by name, with JSON values.
    """

    owner: str
    created: float
    alignments: str
    frames: str
    shown: dict[str, str]
    options: dict[str, Any]
    shards: Literal["auto"] | int
    priority: int
    asked: dict[str, Any] = field(default_factory=dict)
    """The body that the client sent, by which a second one is known as the same."""
    packed: str | None = None
    """Where the tar is, relative to the job's folder, of which the frames are made before the first step."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Request:
        """What was stored, without what a later version may have added."""
        known = {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in stored.items() if name in known})

    @property
    def is_check(self) -> bool:
        """Whether nothing is to be cut."""
        return bool(self.options.get("dry_run"))


def open_options() -> tuple[Option, ...]:
    """The options that a client may set."""
    return tuple(row for row in options("extract") if row.name not in OWN)


def checked_options(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The same by their Python names.

    Raises:
        Problem: for one that is unknown, not the client's to set, or has a value that is not allowed.
    """
    rows = {row.name: row for row in open_options()}
    found = {}
    for name, value in asked.items():
        name = name.replace("-", "_")
        if name in OWN:
            raise Problem(422, f"the option {name} is the service's to decide.")
        if name not in rows:
            raise Problem(422, f"{name} is no option; GET /v1/options lists those that are.")
        if name in found:
            raise Problem(422, f"the option {name} is given twice, with - and with _.")
        found[name] = value
    try:
        Settings(alignments=Path("a"), frames=Path("f"), faces=Path("o"), **found)
    except UsageError as error:
        raise Problem.of(error) from error
    return found


def take(
    asked: JobRequest,
    folder: JobFolder,
    owner: str,
    created: float,
    roots: Mapping[str, str],
    uploaded: Uploaded,
    *,
    room: int,
    go_on: Callable[[], None],
) -> Request:
    """Check a request and put its inputs into the job's folder, which is new.

    The alignments file is not on the disk then.

    Args:
        room: bytes that a copy of the alignments file may take; a small one is always tried.
        go_on: asked again and again while it is copied; what it raises ends that.

    Raises:
        Problem: for what cannot be had; the folder may hold some of it then.
        OutputError: if the disk refuses.
    """
    chosen = checked_options(asked.options)
    folder.inputs.mkdir(parents=True)
    shown = {}
    if isinstance(asked.alignments, Upload):
        alignments = uploaded.claim(asked.alignments.upload, folder.inputs, owner)
        _unshare(alignments, folder.path / "copy", room, go_on)
        shown["alignments"] = alignments.name
    else:
        alignments = _copied(asked.alignments, roots, folder.inputs, room, go_on)
        shown["alignments"] = f"{asked.alignments.root}:{asked.alignments.path}"
    packed = None
    if isinstance(asked.frames, InRoot):
        frames = str(in_root(asked.frames, roots))
        shown["frames"] = f"{asked.frames.root}:{asked.frames.path}"
    else:
        if alignments == folder.frames:
            raise Problem(
                422, f"the alignments file is named {alignments.name}, as no file of a job may be; rename it."
            )
        folder.frames.mkdir()
        if isinstance(asked.frames, Uploads):
            claimed = [uploaded.claim(one, folder.frames, owner) for one in asked.frames.uploads]
            place, shown["frames"] = folder.frames, counted(len(claimed), "image")
        else:
            place = uploaded.claim(asked.frames.upload, folder.frames, owner)
            shown["frames"] = place.name
            if is_packed(place.name):
                folder.frames.rename(folder.packed)
                packed, shown["frames"] = folder.packed / place.name, place.stem
                place = folder.frames
        frames = str(place.relative_to(folder.path))
    return Request(
        owner=owner,
        created=created,
        alignments=str(alignments.relative_to(folder.path)),
        frames=frames,
        shown=shown,
        options=chosen,
        shards=asked.shards,
        priority=asked.priority,
        asked=asked.model_dump(),
        packed=None if packed is None else str(packed.relative_to(folder.path)),
    )


def _unshare(path: Path, temporary: Path, room: int, go_on: Callable[[], None]) -> None:
    """A copy in the place of a file that has other names: whoever runs the job would be told of these."""
    if path.stat().st_nlink > 1:
        try:
            with open_input(path, "the alignments file") as file:
                _copy(file, temporary, room, go_on)
            temporary.replace(path)
        except OSError as error:
            raise _not_copied(error) from error


def in_root(place: InRoot, roots: Mapping[str, str]) -> Path:
    """The real path of a root's file or folder.

    Raises:
        Problem: if there is none, or it leads out of the root.
    """
    folder = _root(place.root, roots)
    parts = [part for part in place.path.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in place.path:
        raise Problem(422, f"{place.path!r} is no path inside a root.")
    named = folder.joinpath(*parts)
    try:
        real = named.resolve(strict=True)
        mode = real.stat().st_mode
    except (OSError, RuntimeError):
        raise Problem(422, f"the root {place.root} has no {place.path!r}.") from None
    if not real.is_relative_to(folder):
        raise Problem(422, f"{place.path!r} leads out of the root {place.root}.")
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise Problem(422, f"{place.path!r} is neither a file nor a folder.")
    return real


def check_frames(request: Request, roots: Mapping[str, str]) -> None:
    """To be called before a process may read them: whoever writes in a root may have made a link of one of their names.

    Raises:
        InputError: if they lie in no root any more.
    """
    frames = Path(request.frames)
    if not frames.is_absolute():
        return
    with suppress(OSError, RuntimeError):  # links that go round in a circle lead nowhere
        real = frames.resolve()
        if any(real.is_relative_to(Path(root).resolve()) for root in roots.values()):
            return
    raise InputError(f"{request.shown['frames']!r} leads out of the roots of this service.")


def _root(name: str, roots: Mapping[str, str]) -> Path:
    if name not in roots:
        raise Problem(422, f"there is no root {name!r}; GET /v1/roots lists those there are.")
    return Path(roots[name]).resolve()


def _copied(place: InRoot, roots: Mapping[str, str], folder: Path, room: int, go_on: Callable[[], None]) -> Path:
    """A copy of a root's file: what is updated is the job's own."""
    real = in_root(place, roots)
    target = folder / real.name
    try:
        # By its real names: whoever made one of them a link meanwhile is refused.
        root = _root(place.root, roots)
        handle = open_beneath(root, str(real.relative_to(root)))
    except OSError as error:
        raise Problem(422, f"{place.path!r} cannot be read: {(error.strerror or 'it is no file').lower()}.") from error
    try:
        with open(handle, "rb", closefd=False) as source:
            _copy(source, target, room, go_on)
    except OSError as error:
        raise _not_copied(error) from error
    finally:
        close_quietly(handle)
    return target


def _copy(source: BinaryIO, target: Path, room: int, go_on: Callable[[], None]) -> None:
    """What a file has now: of one that grows meanwhile no more than there was room for."""
    left = os.fstat(source.fileno()).st_size
    if left > max(room, SMALL_BYTES):
        raise Problem(
            507,
            f"the alignments file has {left:,} bytes, and the server has room for {max(0, room):,}; try again when "
            "old jobs are gone.",
        )
    with open(target, "xb") as copy:
        while left and (block := source.read(min(COPY_BYTES, left))):
            go_on()
            copy.write(block)
            left -= len(block)


def _not_copied(error: OSError) -> Problem:
    return Problem(507, f"the alignments file could not be copied: {error.strerror}.")


def listed(place: InRoot, roots: Mapping[str, str], most: int) -> list[dict[str, Any]]:
    """What a root's folder holds: `name`, `kind` ("file" or "folder") and `bytes`, sorted; no more than `most`.

    Names that are no UTF-8 are left out: no request could say them.

    Raises:
        Problem: if it is none.
    """
    real = in_root(place, roots)
    found = []
    try:
        with os.scandir(real) as entries:
            for entry in entries:
                kind = _kind(entry)
                if kind is not None and not entry.name.startswith(".") and _is_text(entry.name):
                    nbytes = entry.stat().st_size if kind == "file" else None
                    found.append({"name": entry.name, "kind": kind, "bytes": nbytes})
                if len(found) == most:
                    break
    except OSError as error:
        raise Problem(422, f"{place.path!r} cannot be listed: {error.strerror}.") from error
    return sorted(found, key=lambda one: (one["kind"] == "file", one["name"]))


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _kind(entry: os.DirEntry[str]) -> str | None:
    try:
        if entry.is_dir():
            return "folder"
        return "file" if entry.is_file() else None
    except OSError:
        return None


def described(row: Option) -> dict[str, Any]:
    """An option for a form: name, help, default, group, and what is allowed."""
    check = row.check
    allowed: dict[str, Any] = {"type": type(check).__name__}
    for name in ("least", "most", "unit"):
        if getattr(check, name, None) is not None:
            allowed[name] = getattr(check, name)
    if choices := getattr(check, "choices", None):
        allowed["choices"] = list(choices())
    return {
        "name": row.name,
        "default": row.default,
        "help": row.help.replace("`", ""),
        "group": row.group,
        **allowed,
    }
