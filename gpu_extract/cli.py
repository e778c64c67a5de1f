"""The command line: words to one library call, its result to the terminal, its error to an exit code."""

from __future__ import annotations

import argparse
import errno
import io
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TextIO

from gpu_extract import __version__
from gpu_extract.errors import (
    EXIT_OK,
    EXIT_PARTIAL,
    DeviceError,
    GpuExtractError,
    InputError,
    InterruptedRunError,
    OutputError,
    UsageError,
    printable,
)
from gpu_extract.options import (
    FINDS_ALIGNMENTS,
    SERVER_DECIDES,
    Between,
    Count,
    Folders,
    OneOf,
    OnOff,
    Option,
    ServiceSettings,
    Settings,
    option,
    options,
)
from gpu_extract.run.signals import StopOnSignal
from gpu_extract.storage.descriptors import hold_standard_streams

if TYPE_CHECKING:
    from gpu_extract.jobs.config import Value
    from gpu_extract.reports.extraction import Report

EXIT_CODES = """\
exit codes:
  0 all done      1 unexpected    2 usage      3 an input is missing or unreadable
  4 finished, but some frames or faces failed  5 device or engine not available
  6 output not writable, or disk full          7 alignments file rejected
  129 / 130 / 143 interrupted
"""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""What the system says of files that are written; anything else that nobody has put into words is an input's."""
TOO_FEW_FILES = (errno.EMFILE, errno.ENFILE)
"""What the system says, of whatever file, where it grants too few."""
NOBODY_READS = (errno.EPIPE, errno.EIO)
"""What writing to a pipe without a reader, or to a terminal that was lost, comes to."""
ADDRESS_SPACE_MB, ADDRESS_SPACE_PER_CORE_MB = 640, 64
AS_THE_RUN = "default: as the run had it"


class _Table(Protocol):
    exit_code: int

    def table(self) -> str: ...


class _Parser(argparse.ArgumentParser):
    def _print_message(self, message: str, file: Any = None) -> None:
        # Its own swallows what goes wrong, and the interpreter then complains at the end.
        _say(message, file, end="")

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help.")


@dataclass(frozen=True)
class _Command:
    """One command: what runs it, what `--help` says, and its words.

    `options` names the command whose options it takes (see `gpu_extract.options`); `words` are arguments beside these,
    each as `add_argument` wants it.
    """

    name: str
    run: Callable[[argparse.Namespace], int]
    text: str
    example: str
    options: str | None = None
    words: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = ()

    def add_to(self, commands: Any, *, whole: bool) -> None:
        """Make it known; `whole` with its words, which nobody needs of a command that is not called."""
        parser: argparse.ArgumentParser = commands.add_parser(
            self.name,
            help=self.text.partition("\n")[0],
            description=self.text,
            epilog=f"example:\n  {self.example}\n\n{EXIT_CODES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if not whole:
            return
        parser.set_defaults(run=self.run)
        parser.add_argument("-v", "--verbose", action="store_true", help="say more; show the traceback of an error")
        parser.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors")
        for names, how in self.words:
            parser.add_argument(*names, **how)
        if self.options is not None:
            _add_options(parser, self.options)


def _word(*names: str, **how: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    return names, how


def _add_options(parser: argparse.ArgumentParser, command: str) -> None:
    """All options of a command, and `--config`. What is not named on the command line is not in the namespace."""
    groups: dict[str, Any] = {}
    for row in options(command):
        group = groups.setdefault(row.group, None) or parser.add_argument_group(row.group)
        groups[row.group] = group
        default = AS_THE_RUN if command == "verify" and row.decides_bytes else _default(row)
        if row.usual is not None and command in FINDS_ALIGNMENTS:
            default = f"default: {row.usual}"
        _add_option(group, row, default)
    if command == "submit":
        for name in SERVER_DECIDES:  # named, they are refused by a sentence
            _add_option(parser, option(name), None)
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="options as TOML (default: gpu-extract.toml beside the alignments file, or in the user's config folder)",
    )


def _add_option(group: Any, row: Option, default: str | None) -> None:
    """One option; `default` None hides it."""
    settled = {"dest": row.name, "default": argparse.SUPPRESS}
    text = argparse.SUPPRESS if default is None else row.help.replace("`", "") + (f" ({default})" if default else "")
    match row.check:
        case Folders():
            group.add_argument(*row.flags, action=_AddFolder, metavar=row.metavar, help=text, **settled)
        case OnOff():
            group.add_argument(*row.flags, action="store_true", help=text, **settled)
            # A switch that the environment or a file turned on can be turned off again.
            group.add_argument(row.opposite, action="store_false", help=argparse.SUPPRESS, **settled)
        case OneOf():
            group.add_argument(*row.flags, choices=row.check.choices(), help=text, **settled)
        case Between():
            group.add_argument(*row.flags, type=int, metavar=row.metavar, help=text, **settled)
        case Count():
            group.add_argument(*row.flags, type=_number_or_word, metavar=row.metavar, help=text, **settled)
        case _:
            group.add_argument(*row.flags, metavar=row.metavar, help=text, **settled)
    if row.aliases:
        kind = int if isinstance(row.check, Between) else None
        group.add_argument(*row.aliases, type=kind, help=argparse.SUPPRESS, **settled)


class _AddFolder(argparse.Action):
    """`NAME=DIR`, into a dict; for flags that may be given several times."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        name, _, folder = str(values).partition("=")
        setattr(namespace, self.dest, {**getattr(namespace, self.dest, {}), name: folder})


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < 1e9:
        raise ValueError(text)
    return seconds


def _number_or_word(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _default(row: Option) -> str:
    if row.required:
        return "required"
    return "" if row.default is None or row.default is False else f"default {row.default}"


def build_parser(given: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """The parser of all commands; if the words that are `given` are known, whole only for the one among them."""
    parser = _Parser(
        prog="gpu-extract",
        description="Re-extract aligned faces from an alignments file and the frames it was made from.",
        epilog=f"example:\n  gpu-extract extract -a alignments.fsa -fr clip.mp4 -fc faces/ -sz 256\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"gpu-extract {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    for command in COMMANDS:
        command.add_to(commands, whole=given is None or command.name in given)
    return parser


def parsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parser of each command, by name."""
    found: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= action.choices
    return found


def _flags(arguments: argparse.Namespace, command: str) -> dict[str, Any]:
    """The options that are named on the command line."""
    return {row.name: getattr(arguments, row.name) for row in options(command) if hasattr(arguments, row.name)}


def _in_force(arguments: argparse.Namespace, command: str, unneeded: Sequence[str] = ()) -> dict[str, Value]:
    """The value of every option of a command, from wherever it comes.

    Args:
        unneeded: options that the command can do without this time.

    Raises:
        UsageError: if one that the command needs is missing, or the environment or a file has what is not allowed.
    """
    from gpu_extract.jobs.config import FLAG, USUAL, Value, config_file, missing, values_in_force, why_none

    flags = _flags(arguments, command)
    found = values_in_force(command, flags, file=config_file(arguments.config, flags, command))
    if lacking := [row for row in missing(command, found) if row.name not in unneeded]:
        named = ", ".join("/".join(row.flags) for row in lacking)
        more = why_none(command, found) or f"see gpu-extract {command} --help"
        raise UsageError(f"the following arguments are required: {named}; {more}.")
    if arguments.quiet and "progress" in found:
        found["progress"] = Value("none", FLAG)
    if "alignments" in found and found["alignments"].origin == USUAL and not arguments.quiet:
        from gpu_extract.run.progress import Note, listener_for

        listener = listener_for(found["progress"].value if "progress" in found else "plain")
        listener(Note(f"the alignments file is {found['alignments'].value}, found beside the frames."))
    return found


def _values(found: dict[str, Value]) -> dict[str, Any]:
    return {name: value for name, (value, _) in found.items()}


def _extract(arguments: argparse.Namespace) -> int:
    settings = Settings(**_values(_in_force(arguments, "extract")))
    from gpu_extract.jobs.extract import run

    return _told_of_run(run(settings), arguments, settings.json)


def _told_of_run(report: Report, arguments: argparse.Namespace, json: Any) -> int:
    if not arguments.quiet:
        _say(report.table(), sys.stderr if json == "-" else sys.stdout)
    elif not report.complete:
        _say(f"gpu-extract: {report.notes[-1]}", sys.stderr)
    elif report.errors:
        _say(f"gpu-extract: {report.first_errors()}", sys.stderr)
    return report.exit_code


def _batch(arguments: argparse.Namespace) -> int:
    from gpu_extract.jobs.config import config_file, missing, values_in_force

    places = [*arguments.places, *arguments.named]
    if not places:
        raise UsageError("the following arguments are required: PLACE; see gpu-extract batch --help.")
    flags = _flags(arguments, "batch")
    first = Path(arguments.alignments_dir or places[0])
    beside = {"alignments": first / "alignments.fsa" if first.is_dir() else first}
    found = values_in_force("batch", flags, file=config_file(arguments.config, beside, "batch"))
    if missing("batch", found):
        raise UsageError("the following arguments are required: -fc/--faces; see gpu-extract batch --help.")
    values = _values(found)
    if arguments.quiet:
        values["progress"] = "none"
    from gpu_extract.jobs.batch import batch

    report = batch(places, alignments_dir=arguments.alignments_dir, recursive=arguments.recursive, **values)
    if arguments.quiet and report.exit_code != EXIT_OK:
        _say(f"gpu-extract: {printable(report.first_failure())}", sys.stderr)
    return _told(report, arguments, values["json"])


def _merge(arguments: argparse.Namespace) -> int:
    values = _values(_in_force(arguments, "merge"))
    from gpu_extract.jobs.merge import merge

    report = merge(**values)
    if report.shards_missing and arguments.quiet:
        _say(f"gpu-extract: {report.notes[-1]}", sys.stderr)
    return _told(report, arguments, values["json"])


def _cluster(arguments: argparse.Namespace) -> int:
    found = _in_force(arguments, "cluster")
    from gpu_extract.cluster.base import Work, scheduler
    from gpu_extract.jobs.config import DEFAULT

    own = {name: value for name in CLUSTER_OPTIONS if (value := getattr(arguments, name)) is not None}
    chosen = scheduler(arguments.where, own)
    values = {name: value for name, (value, origin) in found.items() if origin != DEFAULT}
    work = Work(values, arguments.shards, arguments.cpus, arguments.gpus)
    code: int = chosen.run(work, own | {"quiet": arguments.quiet}, _say)
    return code


def _verify(arguments: argparse.Namespace) -> int:
    found = _in_force(arguments, "verify")
    from gpu_extract.jobs.config import DEFAULT, FLAG
    from gpu_extract.jobs.verify import run
    from gpu_extract.naming import of_this_machine

    values = _values(found)
    of_bytes = {row.name for row in options("verify") if row.decides_bytes}
    alignments, frames, faces = (
        of_this_machine(values.pop(name), "verify") for name in ("alignments", "frames", "faces")
    )
    report = run(
        alignments,
        frames,
        faces,
        asked={name: values[name] for name in of_bytes if found[name].origin == FLAG},
        otherwise={name: values[name] for name in of_bytes if found[name].origin not in (FLAG, DEFAULT)},
        running={name: value for name, value in values.items() if name not in of_bytes},
    )
    return _told(report, arguments, values["json"])


def _prune(arguments: argparse.Namespace) -> int:
    values = _values(_in_force(arguments, "prune"))
    from gpu_extract.jobs.prune import prune

    own = {name: getattr(arguments, name) for name in PRUNE_WORDS}
    return _told(prune(**values, **own), arguments, values["json"])


def _check(arguments: argparse.Namespace) -> int:
    values = _values(_in_force(arguments, "check"))
    from gpu_extract.jobs.check import check

    return _told(check(**values), arguments, values["json"])


def _serve(arguments: argparse.Namespace) -> int:
    settings = ServiceSettings(**_values(_in_force(arguments, "serve")))
    try:
        from gpu_extract.service.serve import serve
    except ImportError as error:
        raise UsageError(f"serve needs {error.name}; install gpu-extract[serve].") from error
    return serve(settings, lambda text: _say(text, sys.stderr))


def _submit(arguments: argparse.Namespace) -> int:
    values = _values(_in_force(arguments, "submit", unneeded=() if arguments.job is None else ("alignments", "frames")))
    from gpu_extract.client.submission import submit
    from gpu_extract.client.wish import Wish, check_decides_itself

    check_decides_itself(_flags(arguments, "extract"))
    wish = Wish(url=arguments.url, values=values, **{name: getattr(arguments, name) for name in SUBMIT_WORDS})
    found = submit(wish)
    if isinstance(found, str):
        _say(found)
        return EXIT_OK
    return _told_of_run(found, arguments, values["json"])


def _health(arguments: argparse.Namespace) -> int:
    from gpu_extract.client.health import health

    port = option("port")
    url = arguments.url or f"http://127.0.0.1:{port.parse(os.environ.get(port.variable) or str(port.default))}"
    found = health(url)
    if not found.ready or not arguments.quiet:
        _say(found.line, sys.stdout if found.ready else sys.stderr)
    return EXIT_OK if found.ready else 1


def _told(report: _Table, arguments: argparse.Namespace, json: str | None) -> int:
    if not arguments.quiet:
        _say(report.table(), sys.stderr if json == "-" else sys.stdout)
    return report.exit_code


def _demo(arguments: argparse.Namespace) -> int:
    from gpu_extract.demo import run_demo

    made = run_demo(arguments.folder)
    if not arguments.quiet:
        _say(made.table())
    return made.report.exit_code


def _migrate(arguments: argparse.Namespace) -> int:
    from gpu_extract.jobs.migrate import migrate

    report = migrate(
        arguments.old, arguments.new, to=arguments.to, frames=arguments.frames, match_keys=arguments.match_keys
    )
    if not arguments.quiet:
        _say(report.table())
    return EXIT_PARTIAL if report.faces_dropped else EXIT_OK


def _export(arguments: argparse.Namespace) -> int:
    from gpu_extract.jobs.exchange import export

    report = export(
        arguments.file,
        arguments.new,
        frames=arguments.frames,
        keep_keys=arguments.keep_keys,
        match_keys=arguments.match_keys,
    )
    if not arguments.quiet:
        _say(report.table())
    return EXIT_PARTIAL if report.faces_dropped else EXIT_OK


def _import(arguments: argparse.Namespace) -> int:
    from gpu_extract.jobs.exchange import first_left_out, import_landmarks, import_table

    made = import_landmarks(arguments.landmarks, arguments.new, strict=arguments.strict)
    if not arguments.quiet:
        _say(import_table(made))
    elif made.left_out:
        _say(f"gpu-extract: {printable(first_left_out(made, arguments.landmarks))}", sys.stderr)
    return EXIT_PARTIAL if made.left_out else EXIT_OK


def _sheet(arguments: argparse.Namespace) -> int:
    from gpu_extract.jobs.sheet import contact_sheet

    sheet = contact_sheet(arguments.faces, arguments.out_png, columns=arguments.columns, cell=arguments.cell)
    if not arguments.quiet or sheet.unreadable:
        _say(sheet.table(), sys.stderr if arguments.quiet else sys.stdout)
    return sheet.exit_code


def _doctor(arguments: argparse.Namespace) -> int:
    values = _values(_in_force(arguments, "doctor"))
    from gpu_extract.jobs.doctor import Findings, examine
    from gpu_extract.reports.base import check_target, write_report

    if values["json"] is not None:
        check_target(Findings, values["json"])
    findings = examine(engine=values["engine"], device=values["device"], store=values["store"])
    if values["json"] is not None:
        write_report(findings, values["json"])
    if values["json"] != "-":
        _say(findings.table())
    return findings.exit_code


def _config(arguments: argparse.Namespace) -> int:
    from gpu_extract.jobs.config import config
    from gpu_extract.reports.base import write_report

    flags = _flags(arguments, "extract")
    target = flags.pop("json", None)
    found = config(flags, file=arguments.config)
    if target is not None:
        write_report(found, target, reads=() if found.file is None else (found.file,))
    if target != "-":
        _say(found.table())
    return EXIT_OK


MATCH_KEYS = _word(
    "--match-keys",
    metavar="RULES",
    default=option("match_keys").default,
    help=f"{option('match_keys').help}; such a key becomes its frame's name",
)
SUBMIT_WORDS = ("job", "detach", "token_file", "patience", "cancel_on_interrupt", "alignments_out", "priority")
"""Arguments of `submit` beside those of the run."""
PRUNE_WORDS = ("keep", "frames_too", "unreadable", "yes", "undo")
"""Arguments of `prune` beside its options."""
CLUSTER_OPTIONS = ("image", "parallelism", "claim", "secret", "name", "address", "in_flight")
"""Of `cluster`, beside those of the run: each belongs to one scheduler."""
COMMANDS = (
    _Command(
        "extract",
        _extract,
        "Cut every face out again, aligned, and record its hash in the alignments file.",
        "gpu-extract extract -a alignments.fsa -fr clip.mp4 -fc faces/ -sz 256",
        options="extract",
    ),
    _Command(
        "batch",
        _batch,
        "Extract the faces of many videos and folders of images, each with the alignments file beside it.\n\n"
        "Faces go to a folder for each, by its name. What is wrong with one ends no other; the report has a row for\n"
        "each, and its last line is the command that does what is left. Patterns are understood where the shell does\n"
        "not. Options are those of extract, for every video; --on-error and --max-errors end the run of one.",
        "gpu-extract batch footage/ -fc faces/ -sz 256",
        options="batch",
        words=(
            _word(
                "places",
                metavar="PLACE",
                nargs="*",
                help="a video, a folder of images, a folder of videos or of such folders, or a pattern of their names",
            ),
            _word("-r", "-i", dest="named", metavar="PLACE", action="append", default=[], help=argparse.SUPPRESS),
            _word(
                "--alignments-dir", metavar="DIR", help="where the alignments files lie (default: beside the frames)"
            ),
            _word("--recursive", action="store_true", help="look into the folders inside those folders, too"),
        ),
    ),
    _Command(
        "merge",
        _merge,
        "Make one run of all the shards in a faces folder, and save the hashes in the alignments file.\n\n"
        "Nothing is changed unless every planned frame is there, whole, or known to have failed.",
        "gpu-extract merge -a alignments.fsa -fr clip.mp4 -fc faces/",
        options="merge",
    ),
    _Command(
        "cluster",
        _cluster,
        "Run a job in shards on many machines: on Kubernetes or on Ray.\n\n"
        "k8s prints an Indexed Job of the shards and a Job that merges them, as YAML, and sends nothing.\n"
        "ray runs the shards as tasks of a Ray cluster, then merges; run it again to continue.\n"
        "Paths are those that every machine has: a bucket's or a shared disk's.",
        "gpu-extract cluster k8s -a /data/a.fsa -fr /data/clip.mp4 -fc /data/faces --shards 64 --image IMAGE \\\n"
        "      --claim footage:/data > job.yaml",
        options="cluster",
        words=(
            _word("where", metavar="WHERE", help="k8s or ray"),
            _word("--shards", metavar="N", type=int, required=True, help="in how many shards the frames are divided"),
            _word("--cpus", metavar="N", type=int, default=2, help="cores that a shard asks for (default 2)"),
            _word("--gpus", metavar="N", type=int, default=0, help="GPUs that a shard asks for (default 0)"),
            _word("--image", help="k8s: the container image"),
            _word("--parallelism", metavar="P", type=int, help="k8s: shards that run at once (default 8)"),
            _word("--claim", metavar="CLAIM:/path", help="k8s: a persistent volume claim, and where it is mounted"),
            _word("--secret", metavar="NAME", help="k8s: a secret that becomes environment variables"),
            _word("--name", help="k8s: what the names of the jobs begin with (default gpu-extract)"),
            _word("--address", help="ray: of the cluster (default auto)"),
            _word("--in-flight", metavar="M", type=int, help="ray: shards at once (default twice the room)"),
        ),
    ),
    _Command(
        "serve",
        _serve,
        "Serve this machine: take alignments files and footage over HTTP, and cut their faces.\n\n"
        "The page at its address is for people, /v1 for programs; docs/service.md tells of both.",
        "gpu-extract serve --data /data --root footage=/footage",
        options="serve",
    ),
    _Command(
        "submit",
        _submit,
        "Have a server cut the faces: upload, fetch them as they come, save the alignments file, as if it ran here.\n\n"
        "FILE and PATH are of this machine, or ROOT:path of the server: what is here by that name goes first.\n"
        "Whatever cuts it, the same command goes on where it was; how far it is stands in the user's state folder\n"
        "(XDG_STATE_HOME). Ctrl-C leaves the job running at the server, a second one ends this at once.\n"
        "The token is that of GPU_EXTRACT_TOKEN or --token-file, or stands behind the URL as the server prints it.",
        "gpu-extract submit http://gpu-box:8080 -a alignments.fsa -fr clip.mp4 -fc faces/ -sz 256",
        options="submit",
        words=(
            _word("url", metavar="URL", help="of the server"),
            _word(
                "--job", metavar="ID", help="of a job that is there already: wait for it and fetch its faces into -fc"
            ),
            _word("--detach", action="store_true", help="print the job's id when the server has it, and do not wait"),
            _word("--token-file", metavar="FILE", help="that holds the token, and nothing else"),
            _word(
                "--patience",
                metavar="S",
                type=_seconds,
                default=900.0,
                help="seconds that the server may be away before this ends (default 900)",
            ),
            _word("--cancel-on-interrupt", action="store_true", help="have Ctrl-C cancel the job at the server"),
            _word("--alignments-out", metavar="FILE", help="where to put the updated file, where that is the server's"),
            _word("--priority", metavar="N", type=int, default=0, help="-100 to 100, higher goes first (default 0)"),
        ),
    ),
    _Command(
        "health",
        _health,
        "Ask a server whether it is ready: exits with 0 where it is, with 1 and the reasons where not.",
        "gpu-extract health http://gpu-box:8080",
        words=(
            _word(
                "url",
                metavar="URL",
                nargs="?",
                help="of the server (default http://127.0.0.1, with the port of GPU_EXTRACT_PORT or 8080)",
            ),
        ),
    ),
    _Command(
        "verify",
        _verify,
        "Prove a folder of faces: cut every face again, in memory, and compare it with its file and stored hash.\n\n"
        "Options left out are those of the run that the folder's journal records. Nothing is written.",
        "gpu-extract verify -a alignments.fsa -fr clip.mp4 -fc faces/",
        options="verify",
    ),
    _Command(
        "prune",
        _prune,
        "Take faces that were deleted from the faces folder out of the alignments file; list what is extra there.\n\n"
        "A face is known by its header or hash, whatever its file is called and whichever folder it was sorted into.\n"
        "What the folder's run never cut stays in the file. A copy of the file is kept; --undo takes all of it back.",
        "gpu-extract prune -a alignments.fsa -fc faces/",
        options="prune",
        words=(
            _word(
                "--keep",
                choices=("undeleted", "present"),
                default="undeleted",
                help="all faces but those that were deleted, or only faces that are in the folder (default undeleted)",
            ),
            _word("--frames-too", action="store_true", help="frames that lose their last face leave the file, too"),
            _word(
                "--unreadable",
                choices=("keep", "delete"),
                default="keep",
                help="what becomes of the faces of files that cannot be read (default keep)",
            ),
            _word(
                "--yes", action="store_true", help="go on where so much is missing that the folder may be the wrong one"
            ),
            _word("--undo", action="store_true", help="take the last prune of this folder back"),
        ),
    ),
    _Command(
        "check",
        _check,
        "Compare an alignments file with its frames: what lacks the other, several or no faces, bad landmarks.",
        "gpu-extract check -a alignments.fsa -fr clip.mp4",
        options="check",
    ),
    _Command(
        "demo",
        _demo,
        "Draw a small clip with cartoon faces, extract them, and leave a contact sheet to look at.",
        "gpu-extract demo demo/",
        words=(_word("folder", metavar="DIR", nargs="?", default="demo", help="where to leave it all (default demo)"),),
    ),
    _Command(
        "migrate",
        _migrate,
        "Write an alignments file of any generation as a new file of a newer one.",
        "gpu-extract migrate old.json alignments.fsa --to 2.4",
        words=(
            _word("old", metavar="OLD", help="alignments file of any generation; it is not changed"),
            _word("new", metavar="NEW", help="a .fsa file that does not exist yet"),
            _word("--to", metavar="VERSION", default="2.4", help="g6, g7a, g7b or 2.0 to 2.4 (default 2.4)"),
            _word(
                "-fr",
                "--frames",
                metavar="PATH",
                help="the frames: needed for turned faces of 2018, and names a video's keys",
            ),
            MATCH_KEYS,
        ),
    ),
    _Command(
        "export",
        _export,
        "Write the landmarks of an alignments file as JSON, in the form that other programs import.",
        "gpu-extract export alignments.fsa landmarks.json",
        words=(
            _word("file", metavar="FILE", help="alignments file of any generation"),
            _word("new", metavar="NEW", nargs="?", help="the JSON file (default: FILE's name with .json)"),
            _word(
                "-fr",
                "--frames",
                metavar="PATH",
                help="the frames: needed for turned faces of 2018, and gives a video's keys its extension",
            ),
            _word("--keep-keys", action="store_true", help="leave the keys of a video's frames as they are"),
            MATCH_KEYS,
        ),
    ),
    _Command(
        "import",
        _import,
        "Make an alignments file from landmarks: the JSON exchange form, or plain lists of points a frame.",
        "gpu-extract import landmarks.json alignments.fsa",
        words=(
            _word("landmarks", metavar="LANDMARKS", help="{frame: [{landmarks_2d: …}]} or {frame: [[[x, y], …]]}"),
            _word("new", metavar="NEW", help="a .fsa file that does not exist yet"),
            _word("--strict", action="store_true", help="make no file if a face would be left out"),
        ),
    ),
    _Command(
        "sheet",
        _sheet,
        "Put the faces of a folder on one picture to look through.",
        "gpu-extract sheet faces/ sheet.png",
        words=(
            _word("faces", metavar="DIR", help="a folder of faces"),
            _word("out_png", metavar="PNG", help="the picture; further pages get _2, _3, …"),
            _word("--columns", metavar="N", type=int, help="faces in a row"),
            _word("--cell", metavar="PX", type=int, help="side of a face on the sheet"),
        ),
    ),
    _Command(
        "doctor",
        _doctor,
        "Tell what would be used on this machine, and why: versions, devices, engines, codecs.",
        "gpu-extract doctor",
        options="doctor",
    ),
    _Command(
        "config",
        _config,
        "Tell which value of every option of extract is in force, and where it comes from.\n\n"
        "Flags go before the environment (GPU_EXTRACT_SIZE=512), that before the configuration file, and that before\n"
        "the defaults.",
        "gpu-extract config -a alignments.fsa",
        options="extract",
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. No traceback reaches a user without -v."""
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    finally:
        for stream in (sys.stdout, sys.stderr):
            _let_go(stream)


def _run(given: list[str]) -> int:
    verbose = "-v" in given or "--verbose" in given
    try:
        hold_standard_streams()
        _escape_what_cannot_be_shown()
        with StopOnSignal():
            arguments = build_parser(given).parse_args(given)
            logging.basicConfig(format="%(message)s", level=logging.INFO if verbose else logging.WARNING)
            _check_address_space(arguments.run)
            code: int = arguments.run(arguments)
        return code
    except InterruptedRunError as error:
        return _fail(str(error), error.exit_code, False)
    except GpuExtractError as error:
        return _fail(str(error), error.exit_code, verbose)
    except KeyboardInterrupt:
        return _fail("interrupted.", 130, False)
    except OSError as error:
        name = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        kind: type[GpuExtractError] = InputError
        if error.errno in NO_ROOM:
            kind = OutputError
        elif error.errno in TOO_FEW_FILES:
            kind = DeviceError
        return _fail(f"{name}{(error.strerror or str(error)).lower()}.", kind.exit_code, verbose)
    except ImportError as error:
        why = "a library cannot be loaded; it is not whole, or this machine gives too little memory or too few files"
        return _fail(f"{why} ({error}).", DeviceError.exit_code, verbose)
    except MemoryError:
        return _fail("this machine ran out of memory; fewer --workers or a smaller --size need less.", 1, verbose)
    except Exception as error:  # the last resort of a program: one sentence, and the traceback for those who ask
        return _fail(f"unexpected {type(error).__name__}: {error} (run again with -v for the traceback).", 1, verbose)


def _check_address_space(run: Callable[[argparse.Namespace], int]) -> None:
    """Libraries of pixels end in a segmentation fault where they are loaded with too little.

    Raises:
        DeviceError: if the process may not have enough.
    """
    if run not in (_extract, _batch, _merge, _verify, _prune, _sheet, _demo, _doctor):
        return
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    needed = ADDRESS_SPACE_MB + ADDRESS_SPACE_PER_CORE_MB * len(os.sched_getaffinity(0))
    if limit != resource.RLIM_INFINITY and limit < needed << 20:
        raise DeviceError(
            f"this process may have {limit >> 20:,} MiB of address space (ulimit -v); OpenCV and FFmpeg need "
            f"{needed:,} MiB to be loaded at all."
        )


def _escape_what_cannot_be_shown() -> None:
    """Letters that the encoding of a terminal, a log or a pipe does not have are no reason to end."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _say(text: str, stream: TextIO | None = None, end: str = "\n") -> None:
    """Print for a person. A terminal or a reader that is gone changes nothing, nor does standard error.

    Raises:
        OutputError: if standard output is a file that takes no more.
    """
    stream = stream or sys.stdout
    try:
        print(text, file=stream, end=end, flush=True)
    except OSError as error:
        _silence(stream)
        if stream is not sys.stderr and error.errno not in NOBODY_READS:
            raise OutputError(f"standard output takes no more: {error.strerror}.") from error


def _let_go(stream: TextIO) -> None:
    """Forget what a stream did not take: the interpreter would try again at the end, and change the exit code."""
    try:
        stream.flush()
    except OSError:
        _silence(stream)


def _silence(stream: TextIO) -> None:
    """Lead a stream that takes no more to the null device, with what waits in it."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def _fail(message: str, exit_code: int, verbose: bool) -> int:
    with suppress(OSError):
        if verbose:
            traceback.print_exc()
        print(f"gpu-extract: {printable(message)}", file=sys.stderr)
    return exit_code
