"""A Dockerfile's steps, for whoever follows them without a container daemon: only what ours uses, all else is an error.

stages = parse(text)             # [Stage], in the file's order
config = Config().after(step)    # what a stage knows of itself: environment, user, entry point
Ignore(text).covers("a/b.so")    # whether .dockerignore keeps a path of the context back
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import translate
from pathlib import PurePosixPath

FLAGS: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(
        ("ARG", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "LABEL", "RUN", "STOPSIGNAL", "USER", "WORKDIR"), frozenset()
    ),
    "COPY": frozenset({"from"}),
    "HEALTHCHECK": frozenset({"interval", "timeout", "start-period", "retries"}),
}
"""Every instruction that is understood, with its flags."""

VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\}|(.?))")


class DockerfileError(ValueError):
    """A step that cannot be followed; the sentence names its line."""


@dataclass(frozen=True)
class Step:
    """One instruction: `RUN` with what the shell gets, everything else with its words still in one string."""

    line: int
    word: str
    flags: Mapping[str, str]
    text: str

    def __str__(self) -> str:
        return " ".join([self.word, *(f"--{name}={value}" for name, value in self.flags.items()), *self.text.split()])

    def fault(self, what: str) -> DockerfileError:
        return DockerfileError(f"line {self.line} of the Dockerfile: {self.word} {what}.")

    def listed(self) -> tuple[str, ...]:
        """The words of the form ["…", "…"], the only one that no shell stands between."""
        try:
            words = json.loads(self.text)
        except ValueError:
            words = None
        if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
            raise self.fault(f'is understood as a list ["…", "…"] only, not as {self.text}')
        return tuple(words)


@dataclass
class Stage:
    base: str
    name: str
    steps: list[Step] = field(default_factory=list)


def parse(text: str) -> list[Stage]:
    """The stages of a Dockerfile.

    Raises:
        DockerfileError: for an instruction, a flag or a form that is not understood.
    """
    stages: list[Stage] = []
    for step in _steps(text):
        if step.word != "FROM":
            if not stages:
                raise step.fault("stands before the first FROM")
            stages[-1].steps.append(step)
            continue
        match step.text.split():
            case [base, joint, name] if joint.upper() == "AS" and "$" not in base:
                stages.append(Stage(base, name))
            case _:
                raise step.fault(f"is understood as FROM base AS name only, not as FROM {step.text}")
    return stages


def _steps(text: str) -> Iterator[Step]:
    begun, parts = 0, list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if re.match(r"#\s*(syntax|escape|check)\s*=", stripped) and not begun:
            raise DockerfileError(f"line {number} of the Dockerfile: directives to the builder are not understood.")
        if not stripped or stripped.startswith("#"):
            continue
        begun = begun or number
        parts.append(stripped.removesuffix("\\"))
        if not stripped.endswith("\\"):
            yield _step(begun, "".join(parts))
            begun, parts = 0, []
    if parts:
        raise DockerfileError(f"line {begun} of the Dockerfile is continued, and the file ends.")


def _step(line: int, text: str) -> Step:
    word, _, rest = text.partition(" ")
    word, rest = word.upper(), rest.strip()
    if word not in FLAGS:
        raise DockerfileError(f"line {line} of the Dockerfile: {word} is not understood; {', '.join(FLAGS)} are.")
    flags = dict[str, str]()
    while match := re.match(r"--([\w-]+)=(\S+)\s+", rest):
        flags[match[1]] = match[2]
        rest = rest[match.end() :]
    step = Step(line, word, flags, rest)
    if unknown := flags.keys() - FLAGS[word]:
        raise step.fault(f"has a flag that is not understood: --{', --'.join(sorted(unknown))}")
    if not rest or rest.startswith("--"):
        raise step.fault(f"cannot be read: {text}")
    if word == "RUN" and (rest.startswith("[") or "<<" in rest):
        raise step.fault("is understood in its shell form only, without documents of its own (<<)")
    return step


@dataclass(frozen=True)
class Config:
    """What an image says of itself, beside its files."""

    env: Mapping[str, str] = field(
        default_factory=lambda: {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    )
    args: Mapping[str, str] = field(default_factory=dict)
    """Build arguments: variables of later steps of this stage, not of the container."""
    user: str = "0:0"
    workdir: str = "/"
    entrypoint: tuple[str, ...] = ()
    health: tuple[str, ...] = ()
    stop_signal: str = "SIGTERM"
    ports: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    def after(self, step: Step, given: Mapping[str, str] | None = None) -> Config:
        """As `step` leaves it; a step that changes files only leaves all as it is.

        Args:
            given: values for `ARG`, as of --build-arg.
        """
        match step.word:
            case "ARG":
                name, equals, default = step.text.partition("=")
                if not equals:
                    raise step.fault(f"needs a default: {step.text}")
                value = (given or {}).get(name, self.filled(step, default))
                return replace(self, args={**self.args, name: value})
            case "ENV":
                return replace(self, env={**self.env, **self._pairs(step)})
            case "LABEL":
                return replace(self, labels={**self.labels, **self._pairs(step)})
            case "USER":
                if not re.fullmatch(r"\d+:\d+", step.text):
                    raise step.fault(f"is understood as numbers UID:GID only, not as {step.text}")
                return replace(self, user=step.text)
            case "WORKDIR":
                return replace(self, workdir=str(PurePosixPath(self.workdir, self.filled(step, step.text))))
            case "ENTRYPOINT":
                return replace(self, entrypoint=step.listed())
            case "STOPSIGNAL":
                return replace(self, stop_signal=step.text)
            case "EXPOSE":
                return replace(self, ports=(*self.ports, *step.text.split()))
            case "HEALTHCHECK":
                kind, _, command = step.text.partition(" ")
                if kind != "CMD":
                    raise step.fault(f"is understood with CMD only, not as {step.text}")
                return replace(self, health=replace(step, text=command).listed())
        return self

    def for_next_stage(self) -> Config:
        return replace(self, args={})

    def filled(self, step: Step, text: str) -> str:
        """`text` with $NAME and ${NAME} replaced.

        Raises:
            DockerfileError: for a variable that nothing has set, and for other forms.
        """
        known = {**self.args, **self.env}

        def value(match: re.Match[str]) -> str:
            name = match[1] or match[2]
            if name not in known:
                raise step.fault(f"uses a variable that is not set before it: {match[0]}")
            return known[name]

        return VARIABLE.sub(value, text)

    def _pairs(self, step: Step) -> dict[str, str]:
        words = shlex.split(self.filled(step, step.text))
        pairs = dict(word.partition("=")[::2] for word in words if "=" in word)
        if len(pairs) != len(words):
            raise step.fault(f"is understood as NAME=value only, each name once, not as {step.text}")
        return pairs


class Ignore:
    """.dockerignore: the last line that fits a path, or a folder above it, decides; `!` takes it back in."""

    def __init__(self, text: str) -> None:
        lines = [line.strip() for line in text.splitlines()]
        self._rules = [
            (not line.startswith("!"), self._pattern(line.removeprefix("!")))
            for line in lines
            if line and not line.startswith("#")
        ]

    @staticmethod
    def _pattern(line: str) -> re.Pattern[str]:
        anywhere, name = line.startswith("**/"), line.removeprefix("**/").strip("/")
        if "**" in name or "/" in name:
            raise ValueError(f".dockerignore: {line!r} is not understood; NAME and **/NAME are, with * in them.")
        return re.compile(("(?:.*/)?" if anywhere else "") + translate(name).replace(".*", "[^/]*"))

    def covers(self, path: str) -> bool:
        """Whether the builder is not given this path, relative to the context."""
        parts = PurePosixPath(path).parts
        above = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
        covered = False
        for keeps_back, pattern in self._rules:
            if any(pattern.fullmatch(each) for each in above):
                covered = keeps_back
        return covered
