"""Command lines to words: the parser of all commands, made of their modules and of the rows of the options."""

from __future__ import annotations

import argparse
import keyword
from collections.abc import Sequence
from typing import Any, NoReturn

from gpu_extract import __version__, plugins
from gpu_extract.cli.command import Command
from gpu_extract.cli.output import say
from gpu_extract.errors import UsageError
from gpu_extract.options import (
    FINDS_ALIGNMENTS,
    SERVER_DECIDES,
    Between,
    Count,
    Folders,
    OneOf,
    OnOff,
    Option,
    option,
    options,
)

EXIT_CODES = """\
exit codes:
  0 all done      1 unexpected    2 usage      3 an input is missing or unreadable
  4 finished, but some frames or faces failed  5 device or engine not available
  6 output not writable, or disk full          7 alignments file rejected
  129 / 130 / 143 interrupted
"""
FOLDER = "gpu_extract.cli.commands"
COMMANDS = (
    "extract",
    "batch",
    "merge",
    "cluster",
    "serve",
    "submit",
    "health",
    "verify",
    "prune",
    "reindex",
    "masks",
    "rebuild",
    "rename",
    "check",
    "demo",
    "migrate",
    "export",
    "import",
    "sheet",
    "report",
    "doctor",
    "config",
    "completion",
)
"""In the order in which they are listed."""
AS_THE_RUN = "default: as the run had it"


class _Parser(argparse.ArgumentParser):
    def _print_message(self, message: str, file: Any = None) -> None:
        # Its own swallows what goes wrong, and the interpreter then complains at the end.
        say(message, file, end="")

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help.")


def build_parser(given: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """The parser of all commands; of the one alone that the first of the words that are `given` calls, if it does."""
    parser = _Parser(
        prog="gpu-extract",
        description="Re-extract aligned faces from an alignments file and the frames it was made from.",
        epilog=f"example:\n  gpu-extract extract -a alignments.fsa -fr clip.mp4 -fc faces/ -sz 256\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"gpu-extract {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    for name in COMMANDS if not given or given[0] not in COMMANDS else given[:1]:
        _add_command(commands, command_of(name), whole=given is None or name in given)
    return parser


def command_of(name: str) -> Command:
    """A command by its name, from its module."""
    module = f"{name}_" if keyword.iskeyword(name) else name
    found: Command = plugins.module(FOLDER, module).COMMAND
    return found


def _add_command(commands: Any, command: Command, *, whole: bool) -> None:
    """Make it known; `whole` with its words, which nobody needs of a command that is not called."""
    parser: argparse.ArgumentParser = commands.add_parser(
        command.name,
        help=command.text.partition("\n")[0],
        description=command.text,
        epilog=f"example:\n  {command.example}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if not whole:
        return
    parser.set_defaults(command=command)
    parser.add_argument("-v", "--verbose", action="store_true", help="say more; show the traceback of an error")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors")
    aliases = {row.flags[-1]: row.aliases for row in options("extract") if row.aliases}
    for names, how in command.words:
        added = parser.add_argument(*names, **how)
        if also := aliases.get(names[-1]):
            parser.add_argument(*also, dest=added.dest, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    if command.options is not None:
        _add_options(parser, command.options, needed=command.name != "config")


def parsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parser of each command, by name."""
    found: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= action.choices
    return found


def _add_options(parser: argparse.ArgumentParser, command: str, *, needed: bool) -> None:
    """All options of a command, and `--config`. What is not named on the command line is not in the namespace.

    Args:
        needed: whether the required ones are; who only looks at options may leave them out.
    """
    groups: dict[str, Any] = {}
    for row in options(command):
        group = groups.setdefault(row.group, None) or parser.add_argument_group(row.group)
        groups[row.group] = group
        default = AS_THE_RUN if command == "verify" and row.decides_bytes else _default(row)
        if row.required and not needed:
            default = ""
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


def _number_or_word(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _default(row: Option) -> str:
    if row.required:
        return "required"
    return "" if row.default is None or row.default is False else f"default {row.default}"
