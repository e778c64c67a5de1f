"""Completion, in the shells themselves; those that are not installed are skipped."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpu_extract.cli import main
from gpu_extract.cli.parser import COMMANDS, build_parser, parsers
from gpu_extract.cli.shells import SCRIPTS, commands_of
from gpu_extract.options import option

SECONDS = 30.0
IN_BASH = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_gpu_extract
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def scripts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Path]:
    """What `completion` prints, in a file for each shell."""
    paths = {}
    for shell in SCRIPTS:
        assert main(["completion", shell]) == 0
        paths[shell] = tmp_path / f"completion.{shell}"
        paths[shell].write_text(capsys.readouterr().out)
    return paths


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a file, and another folder, of names that are no single word."""
    place = tmp_path / "place"
    (place / "my faces").mkdir(parents=True)
    (place / "my clip.mp4").touch()
    return place


def shell(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def in_bash(script: Path, place: Path, *words: str) -> set[str]:
    command = [shell("bash"), "--norc", "-c", IN_BASH, "bash", str(script), "gpu-extract", *words]
    run = subprocess.run(command, cwd=place, capture_output=True, text=True, check=True, timeout=SECONDS)
    assert run.stderr == ""
    return {line for line in run.stdout.splitlines() if line}


def in_fish(script: Path, place: Path, line: str) -> set[str]:
    command = [shell("fish"), "--no-config", "-c", f"source {script}; complete -C 'gpu-extract {line}'"]
    home = os.environ | {"HOME": str(script.parent), "XDG_CONFIG_HOME": str(script.parent)}
    run = subprocess.run(command, cwd=place, env=home, capture_output=True, text=True, check=True, timeout=SECONDS)
    assert run.stderr == ""
    return {line.split("\t")[0] for line in run.stdout.splitlines()}


def in_zsh(script: Path, place: Path, line: str, *expected: str) -> str:
    """What a terminal shows after a line and a tab, until all that is expected is there, in any order."""
    rc = script.parent / ".zshrc"
    rc.write_text(f"PROMPT='READY> '; unsetopt beep; autoload -Uz compinit; compinit -u -D; source {script}\n")
    environment = {"ZDOTDIR": str(script.parent), "PATH": os.environ["PATH"], "TERM": "dumb", "COLUMNS": "200"}
    command = [shell("zsh"), "-i"]
    terminal, its = pty.openpty()
    with os.fdopen(its, "r+b", buffering=0) as ends:
        started = subprocess.Popen(
            command, cwd=place, env=environment, stdin=ends, stdout=ends, stderr=ends, start_new_session=True
        )
    try:
        read_until(terminal, ("READY> ",))
        os.write(terminal, f"gpu-extract {line}\t".encode())
        return read_until(terminal, expected)
    finally:
        started.kill()
        started.wait()
        os.close(terminal)


def read_until(terminal: int, expected: tuple[str, ...]) -> str:
    said, end = "", time.monotonic() + SECONDS
    while not all(text in said for text in expected):
        assert time.monotonic() < end, said
        if select.select([terminal], [], [], 0.1)[0]:
            said += os.read(terminal, 65536).decode(errors="replace")
    return said


def test_every_flag_and_word_that_help_shows_is_known() -> None:
    found = {command.name: command for command in commands_of(build_parser())}
    assert list(found) == list(COMMANDS)
    for name, parser in parsers(build_parser()).items():
        flags = {flag for word in found[name].words for flag in word.flags}
        assert flags <= set(parser._option_string_actions)
        assert {"-h", "--help", "-q", "--verbose"} <= flags
    values = {flag: word.values for word in found["extract"].words for flag in word.flags}
    assert values["--format"] == option("format").check.choices()  # type: ignore[union-attr]
    assert values["--match-keys"] == option("match_keys").check.choices()  # type: ignore[union-attr]
    assert (values["-fr"], values["--faces"], values["--size"], values["--large"]) == ("files", "folders", None, None)
    assert "--antialias" in values
    assert "--no-antialias" not in values
    assert "-z" not in values


def test_bash_completes_commands_flags_words_files_and_folders(scripts: dict[str, Path], place: Path) -> None:
    script = scripts["bash"]
    assert in_bash(script, place, "") == {*COMMANDS, "--help", "--version"}
    assert in_bash(script, place, "ex") == {"extract", "export"}
    assert in_bash(script, place, "extract", "--out") == {"--output-layout"}
    assert in_bash(script, place, "extract", "--format", "") == {"auto", "png", "jpg", "webp"}
    assert in_bash(script, place, "extract", "--format", "=", "p") == {"png"}
    assert in_bash(script, place, "extract", "--format", "=") == {"auto", "png", "jpg", "webp"}
    assert in_bash(script, place, "extract", "-fr", "my") == {"my clip.mp4", "my faces"}
    assert in_bash(script, place, "extract", "-fc", "my") == {"my faces"}
    assert in_bash(script, place, "extract", "--size", "") == set()
    assert in_bash(script, place, "extract", "--large", "") == set()
    assert in_bash(script, place, "batch", "my") == {"my clip.mp4", "my faces"}
    assert in_bash(script, place, "demo", "my") == {"my faces"}
    assert in_bash(script, place, "completion", "") == {"bash", "zsh", "fish"}
    assert "--format" not in in_bash(script, place, "check", "--")
    assert in_bash(script, place, "nonsense", "--") == set()


def test_fish_completes_commands_flags_words_files_and_folders(scripts: dict[str, Path], place: Path) -> None:
    script = scripts["fish"]
    assert in_fish(script, place, "") == set(COMMANDS)
    assert in_fish(script, place, "ex") == {"extract", "export"}
    assert in_fish(script, place, "extract --out") == {"--output-layout"}
    assert in_fish(script, place, "extract --format ") == {"auto", "png", "jpg", "webp"}
    assert in_fish(script, place, "extract --format=p") == {"--format=png"}
    assert {"-fr", "-fc"} <= in_fish(script, place, "extract -f")
    assert {"my clip.mp4", "my faces/"} == {name.replace("\\", "") for name in in_fish(script, place, "extract -fr my")}
    assert {name.replace("\\", "") for name in in_fish(script, place, "extract -fc my")} == {"my faces/"}
    assert in_fish(script, place, "completion ") == {"bash", "zsh", "fish"}
    assert "--format" not in in_fish(script, place, "check --")


def test_zsh_completes_commands_flags_words_files_and_folders(scripts: dict[str, Path], place: Path) -> None:
    script = scripts["zsh"]
    subprocess.run([shell("zsh"), "-f", "-n", script], check=True, capture_output=True, timeout=SECONDS)
    listed = in_zsh(script, place, "ex", "extract", "export", "Write the landmarks")
    assert "doctor" not in listed
    in_zsh(script, place, "extract --out", "--output-layout")
    assert "jsonl" not in in_zsh(script, place, "extract --format ", "auto", "png", "jpg", "webp")
    assert "clip" not in in_zsh(script, place, "extract -fc my", "my\\ faces/")
    in_zsh(script, place, "extract -fr my\\ c", "my\\ clip.mp4")
    in_zsh(script, place, "completion f", "completion fish")


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_printed_without_loading_pixels(name: str) -> None:
    code = f"import sys; from gpu_extract.cli import main; main(['completion', '{name}'])\n"
    code += "print(*sorted({'numpy', 'cv2', 'av', 'torch', 'yaml', 'fastapi'} & set(sys.modules)), file=sys.stderr)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stderr == "\n"
    assert "gpu-extract" in run.stdout


def test_another_shell_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "tcsh"]) == 2
    assert "invalid choice: 'tcsh'" in capsys.readouterr().err
