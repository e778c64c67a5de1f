"""What a shell completes of a command line: scripts for bash, zsh and fish, made of the parser of all commands.

A script holds everything it needs: nothing is started when somebody presses Tab.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gpu_extract.options import Count, OneOf, SomeOf, options

FILES, FOLDERS = "files", "folders"
OF_METAVAR = {
    **dict.fromkeys(("DIR", "FOLDER"), FOLDERS),
    **dict.fromkeys(("FILE", "LANDMARKS", "NEW", "OLD", "PATH", "PLACE", "PNG"), FILES),
}
"""What the words are that stand for a value in `--help`."""


@dataclass(frozen=True)
class Word:
    """A flag, or an argument without one, and its value.

    Args:
        flags: its names; none of an argument.
        help: a line of text.
        metavar: what stands for the value in `--help`; None of a switch.
        values: the words that it may be, or `FILES`, or `FOLDERS`; None where nobody knows.
        repeats: whether an argument stands for all that follow.
    """

    flags: tuple[str, ...]
    help: str
    metavar: str | None
    values: tuple[str, ...] | str | None
    repeats: bool = False


@dataclass(frozen=True)
class Completed:
    """A command: its name, the first line of its help, and its words."""

    name: str
    help: str
    words: list[Word]

    @property
    def arguments(self) -> list[Word]:
        return [word for word in self.words if not word.flags]

    @property
    def flags(self) -> list[Word]:
        return [word for word in self.words if word.flags]


def commands_of(parser: argparse.ArgumentParser) -> list[Completed]:
    """The commands of the parser of all of them; what their help does not show is not completed."""
    (subparsers,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return [
        Completed(choice.dest, choice.help or "", list(_words(subparsers.choices[choice.dest])))
        for choice in subparsers._choices_actions
    ]


def _words(parser: argparse.ArgumentParser) -> Iterator[Word]:
    rows = {row.name: row.check for row in options()}
    for action in parser._actions:
        if action.help is argparse.SUPPRESS:
            continue
        takes_value = action.nargs != 0
        metavar = str(action.metavar or action.dest.upper()) if takes_value else None
        values: tuple[str, ...] | str | None = OF_METAVAR.get(metavar or "")
        check = rows.get(action.dest)
        if action.choices is not None:
            values = tuple(map(str, action.choices))
        elif isinstance(check, OneOf | SomeOf):
            values = check.choices()
        elif isinstance(check, Count):
            values = check.words
        yield Word(tuple(action.option_strings), action.help or "", metavar, values, action.nargs in ("*", "+"))


def bash(commands: list[Completed]) -> str:
    """A script for bash 3.2 and later."""
    flags: list[str] = []
    values: list[str] = []
    arguments: list[str] = []
    for command in commands:
        names = " ".join(name for word in command.flags for name in word.flags)
        flags.append(f"    {command.name}) flags='{names}' ;;")
        alike: dict[str, list[str]] = {}
        for word in command.flags:
            if word.metavar is not None:
                alike.setdefault(_in_bash(word), []).extend(f"{command.name}:{name}" for name in word.flags)
        values += [f"    {'|'.join(patterns)}) {offer} ;;" for offer, patterns in alike.items()]
        kinds = [word for word in command.arguments if word.values is not None]
        if kinds:  # files stand for folders, too
            word = next((word for word in kinds if word.values != FOLDERS), kinds[0])
            arguments.append(f"    {command.name}) {_in_bash(word)} ;;")
    names = " ".join(command.name for command in commands)
    return "\n".join(
        [
            "# gpu-extract: completion for bash.",
            "_gpu_extract_offer() {",
            "    local found",
            '    while IFS= read -r found; do COMPREPLY+=("$found"); done < <(compgen "$@" -- "$word")',
            "}",
            "_gpu_extract() {",
            "    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} flags=''",
            "    COMPREPLY=()",
            "    if ((COMP_CWORD == 1)); then",
            f"        _gpu_extract_offer -W '{names} --help --version'",
            "        return",
            "    fi",
            "    # --flag=value comes as three words",
            "    [[ $word == = ]] && word=''",
            "    [[ $before == = ]] && before=${COMP_WORDS[COMP_CWORD - 2]}",
            "    case ${COMP_WORDS[1]}:$before in",
            *values,
            "    *) false ;;",
            "    esac && return",
            "    case ${COMP_WORDS[1]} in",
            *flags,
            "    esac",
            "    if [[ $word == -* ]]; then",
            '        _gpu_extract_offer -W "$flags"',
            "        return",
            "    fi",
            "    case ${COMP_WORDS[1]} in",
            *arguments,
            "    esac",
            "}",
            "complete -F _gpu_extract gpu-extract",
            "",
        ]
    )


def _in_bash(word: Word) -> str:
    if word.values == FILES:
        return "compopt -o filenames 2>/dev/null; _gpu_extract_offer -f"
    if word.values == FOLDERS:
        return "compopt -o filenames 2>/dev/null; _gpu_extract_offer -d"
    return f"_gpu_extract_offer -W '{' '.join(word.values or ())}'"


def zsh(commands: list[Completed]) -> str:
    """A script for zsh, to be sourced, or to lie in its `fpath` as `_gpu-extract`."""
    cases = []
    for command in commands:
        specs = [spec for word in command.words for spec in _in_zsh(word)]
        body = " \\\n            ".join(["_arguments", *map(_quoted, specs)])
        cases.append(f"        {command.name})\n            {body}\n            ;;")
    listed = [f"        {_quoted(f'{command.name}:{_colons_escaped(command.help)}')}" for command in commands]
    return "\n".join(
        [
            "#compdef gpu-extract",
            "_gpu_extract() {",
            "    local context state line",
            "    local -a commands",
            "    commands=(",
            *listed,
            "    )",
            "    _arguments -C '(- *)'{-h,--help}'[show help]' '(- *)--version[show the version]' \\",
            "        '1:command:->command' '*::argument:->argument'",
            "    case $state in",
            "    command) _describe -t commands command commands ;;",
            "    argument)",
            "        case $words[1] in",
            *cases,
            "        esac",
            "        ;;",
            "    esac",
            "}",
            'if [[ $funcstack[1] == _gpu-extract ]]; then _gpu_extract "$@"; else compdef _gpu_extract gpu-extract; fi',
            "",
        ]
    )


def _in_zsh(word: Word) -> Iterator[str]:
    """Specifications for `_arguments`."""
    value = "" if word.metavar is None else f":{_colons_escaped(word.metavar)}:{_action_in_zsh(word)}"
    if not word.flags:
        yield f"*{value}" if word.repeats else value
    text = re.sub(r"([\[\]\\:])", r"\\\1", word.help)
    for flag in word.flags:
        others = f"({' '.join(word.flags)})" if len(word.flags) > 1 else ""
        ending = "=" if value and flag.startswith("--") else ""
        yield f"{others}{flag}{ending}[{text}]{value}"


def _action_in_zsh(word: Word) -> str:
    if word.values == FILES:
        return "_files"
    if word.values == FOLDERS:
        return "_files -/"
    return f"({' '.join(word.values)})" if word.values else " "


def _colons_escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace(":", "\\:")


def fish(commands: list[Completed]) -> str:
    """A script for fish 3 and later."""
    lines = ["# gpu-extract: completion for fish.", "complete -c gpu-extract -f"]
    first = "complete -c gpu-extract -n __fish_use_subcommand"
    lines += [f"{first} -s h -l help -d 'show help'", f"{first} -l version -d 'show the version'"]
    lines += [f"{first} -a {command.name} -d {_in_fish(command.help)}" for command in commands]
    for command in commands:
        of_it = f"complete -c gpu-extract -n '__fish_seen_subcommand_from {command.name}'"
        for word in command.words:
            names = " ".join(_flag_in_fish(flag) for flag in word.flags)
            text = f"-d {_in_fish(word.help)}" if word.flags else ""
            if word.flags or word.values is not None:
                lines.append(" ".join(part for part in (of_it, names, _value_in_fish(word), text) if part))
    return "\n".join([*lines, ""])


def _flag_in_fish(flag: str) -> str:
    if flag.startswith("--"):
        return f"-l {flag[2:]}"
    return f"-s {flag[1:]}" if len(flag) == 2 else f"-o {flag[1:]}"


def _value_in_fish(word: Word) -> str:
    if word.metavar is None:
        return ""
    if word.values == FILES:
        return "-r -F" if word.flags else "-F"
    parts = ["-x"] if word.flags else []  # with a value, which is no file
    if word.values == FOLDERS:
        parts.append("-a '(__fish_complete_directories)'")
    elif word.values:
        parts.append(f"-a {_in_fish(' '.join(word.values))}")
    return " ".join(parts)


def _in_fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _quoted(text: str) -> str:
    """As one word of bash or zsh."""
    return "'" + text.replace("'", "'\\''") + "'"


SCRIPTS: dict[str, Callable[[list[Completed]], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
"""By shell."""
