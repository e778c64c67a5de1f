"""What the README shows is what happens: its session and its Python are run on the demo's clip."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from gpu_extract.cli import main
from gpu_extract.demo import run_demo

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
OF_THE_MACHINE = (
    (r"[\d.,]+ s, [\d.,]+ frames/s; the limit was \w+", "<time>"),
    (r"\(own C sampler, \w+\)|\(OpenCV [\d.]+\)", "(<sampler>)"),
)


def sessions() -> list[tuple[str, list[str]]]:
    """Each `$ gpu-extract …` of the README with the lines that follow it."""
    blocks = re.findall(r"(?:^    .*\n)+", README, re.MULTILINE)
    shown = [[line[4:] for line in block.splitlines()] for block in blocks if block.startswith("    $ gpu-extract ")]
    return [(lines[0].removeprefix("$ gpu-extract "), lines[1:]) for lines in shown]


def snippets() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader stands after `make demo`."""
    folder = tmp_path_factory.mktemp("readme")
    run_demo(folder / "demo", progress="none")
    return folder


def without_the_machine(line: str) -> str:
    for pattern, name in OF_THE_MACHINE:
        line = re.sub(pattern, name, line)
    return line


def test_the_session_prints_what_is_shown(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert sessions()
    for command, shown in sessions():
        assert main(shlex.split(command)) == 0
        said = capsys.readouterr().out.splitlines()
        assert list(map(without_the_machine, said)) == list(map(without_the_machine, shown)), command


def test_the_python_runs_after_the_session(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert snippets()
    for snippet in snippets():
        exec(compile(snippet, "README.md", "exec"), {"__name__": "readme"})
    assert capsys.readouterr().out.splitlines()[-1] == "118 faces; 0"
