"""What the documents say of the program, from its source: the README's table of options, `docs/cli.md`, the manual, the
JSON Schemas of reports in `docs/schemas/`, and all that can go wrong (`docs/when-it-goes-wrong.md`, by
`docs/sentences.py`).

python docs/generate.py --write     # after a change of options, commands, reports, or sentences of errors
python docs/generate.py --check     # part of `make lint`: exits 1 where a document is stale
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import schemas  # noqa: E402
from sentences import when_it_goes_wrong  # noqa: E402

import gpu_extract  # noqa: E402
from gpu_extract.cli.parser import EXIT_CODES, build_parser, parsers  # noqa: E402
from gpu_extract.jobs.config import FILE_NAME  # noqa: E402
from gpu_extract.options import OneOf, Option, options  # noqa: E402

BEGIN, END = "<!-- options:begin -->", "<!-- options:end -->"
COMMON = ("help", "verbose", "quiet", "version")


def flag_cell(row: Option) -> str:
    flags = ", ".join(f"`{flag}`" for flag in row.flags[:-1])
    metavar = "" if row.metavar is None else f" {row.metavar}"
    return f"{flags}, `{row.flags[-1]}{metavar}`" if flags else f"`{row.flags[-1]}{metavar}`"


def default_cell(row: Option) -> str:
    if row.required:
        return row.usual or "required"
    if row.default is None:
        return "–"
    return "off" if row.default is False else str(row.default)


def help_cell(row: Option) -> str:
    words = [word for word in row.check.choices() if word != row.default] if isinstance(row.check, OneOf) else []
    text = f"{', '.join(f'`{word}`' for word in words)}: {row.help}" if words else row.help
    return text.replace("|", "\\|")


def options_table() -> str:
    """The options of `extract`, a row each."""
    lines = ["| flag | default | |", "|---|---|---|"]
    lines += [f"| {flag_cell(row)} | {default_cell(row)} | {help_cell(row)} |" for row in options("extract")]
    return "\n".join(lines)


def readme(text: str) -> str:
    """The README with today's table between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{options_table()}\n{END}{after}"


def reference() -> str:
    """`docs/cli.md`."""
    parts = [
        "# The command line",
        "Made by `docs/generate.py` from `gpu_extract/options.py` and `gpu_extract/cli/`: change those.",
        "Every command also takes `-h`, `-v` (say more; the traceback of an error) and `-q` (say nothing but errors).",
    ]
    for name, parser in parsers(build_parser()).items():
        description = (parser.description or "").replace("\n\n", "\n\n").strip()
        example = (parser.epilog or "").partition("\n\n")[0].removeprefix("example:\n").strip()
        parts += [f"## {name}", description, f"    {example}"]
        rows = [line for action in parser._actions if (line := action_line(action))]
        if rows:
            parts.append("\n".join(["| | |", "|---|---|", *rows]))
    parts += ["## Where values come from", origins(), "## Exit codes", code_block(EXIT_CODES)]
    return "\n\n".join(parts) + "\n"


def action_line(action: argparse.Action) -> str:
    if action.dest in COMMON or action.help is argparse.SUPPRESS:
        return ""
    metavar = "" if action.nargs == 0 else f" {action.metavar or '{' + ','.join(map(str, action.choices or ())) + '}'}"
    names = ", ".join(action.option_strings)
    named = f"`{names}{metavar}`" if names else f"`{metavar.strip()}`"
    return f"| {named} | {(action.help or '').replace('|', chr(92) + '|')} |"


def origins() -> str:
    aliases = ", ".join(f"`{flag}` `{row.flags[-1]}`" for row in options("extract") for flag in row.aliases)
    switches = ", ".join(f"`{row.opposite}`" for row in options("extract") if row.opposite is not None)
    return (
        "Flags go before the environment, that before a configuration file, and that before the defaults. "
        "`gpu-extract config` prints what is in force. The environment variable of `--output-layout` is "
        "`GPU_EXTRACT_OUTPUT_LAYOUT`; switches are `1`, `true`, `yes`, `on` or the opposite. The file is TOML with the "
        f'options\' names as keys (`output-layout = "by-frame"`): the one that `--config` names, else `{FILE_NAME}` '
        "beside the alignments file, else the one in `~/.config/gpu-extract/` (or `$XDG_CONFIG_HOME/gpu-extract/`). "
        "`batch` reads one for all its videos: that in `--alignments-dir`, or else in or beside its first PLACE. "
        "An unknown name is an error. `verify` asks the folder's journal first for whatever decides bytes. "
        f"Each switch has an opposite that turns it off again: {switches}. Flags by which the programs of the time "
        f"mean the same are understood, too: {aliases}."
    )


def manual() -> str:
    """`docs/gpu-extract.1`, for `man`."""
    parser = build_parser()
    lines = [
        f'.TH GPU\\-EXTRACT 1 "" "gpu\\-extract {gpu_extract.__version__}" "User Commands"',
        *(".SH NAME", f"gpu\\-extract \\- {roff(parser.description or '').rstrip('.')}"),
        *(".SH SYNOPSIS", ".B gpu\\-extract", ".I COMMAND", ".RI [ options ]", ".SH COMMANDS"),
    ]
    for name, command in parsers(parser).items():
        example = (command.epilog or "").partition("\n\n")[0].removeprefix("example:\n").strip()
        paragraphs = re.split(r"\n\n", (command.description or "").strip())
        lines += [f".SS {roff(name)}", *"\n.PP\n".join(map(roff, paragraphs)).splitlines()]
        lines += [".PP", ".nf", *(f"\\fB{line}\\fR" for line in roff(example).splitlines()), ".fi"]
        for action in command._actions:
            if action.dest not in COMMON and action.help is not argparse.SUPPRESS:
                lines += [".TP", entry(action), roff(action.help or "")]
    lines += [".SH ENVIRONMENT AND FILES", roff(origins().replace("`", ""))]
    codes = re.findall(r"([\d/ ]*\d) (\w.*?)(?=  |\n|$)", EXIT_CODES)
    lines += [".SH EXIT STATUS", *(line for code, text in codes for line in (".TP", f".B {code.strip()}", roff(text)))]
    return "\n".join(lines) + "\n"


def entry(action: argparse.Action) -> str:
    """The flags of an action in bold, what stands for its value in italics."""
    flags = ", ".join(f"\\fB{roff(flag)}\\fR" for flag in action.option_strings)
    value = str(action.metavar or ("" if action.nargs == 0 else "|".join(map(str, action.choices or ()))))
    return " ".join(part for part in (flags, f"\\fI{roff(value)}\\fR" if value else "") if part)


def roff(text: str) -> str:
    """Text that troff sets as it is."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join(f"\\&{line}" if line.startswith((".", "'")) else line for line in escaped.splitlines())


def code_block(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.strip().splitlines()[1:])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--write", action="store_true")
    how.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    path = ROOT / "README.md"
    wanted = {
        path: readme(path.read_text("utf-8")),
        ROOT / "docs" / "cli.md": reference(),
        ROOT / "docs" / "gpu-extract.1": manual(),
        ROOT / "docs" / "when-it-goes-wrong.md": when_it_goes_wrong(),
    }
    wanted |= {schemas.path_of(kind): json.dumps(schemas.schema_of(kind), indent=1) + "\n" for kind in schemas.kinds()}
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text("utf-8") != text]
    for path in stale:
        if arguments.write:
            path.parent.mkdir(exist_ok=True)
            path.write_text(wanted[path], "utf-8")
        else:
            print(f"{path.relative_to(ROOT)} is stale: python docs/generate.py --write", file=sys.stderr)
    return 1 if stale and arguments.check else 0


if __name__ == "__main__":
    raise SystemExit(main())
