"""What the README and the guides show is what happens: their sessions and their Python are run on the demo's clip."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path

import pytest

from gpu_extract.cli import main
from tests.helpers import demo_made_once

ROOT = Path(__file__).parent.parent
GUIDES = {
    "README.md": "118 faces; 0",
    "docs/start.md": None,
    "docs/from-faceswap.md": None,
    "docs/datasets.md": "15 rows, 13 of faces of 160 px or more",
    "docs/vfx.md": "True",
}
"""Each with the last line that its Python prints."""
OF_THE_MACHINE = (
    (r"[\d.,]+ s, [\d.,]+ frames/s; the limit was \w+", "<time>"),
    (r"\(own C sampler, \w+\)|\(OpenCV [\d.]+\)", "(<sampler>)"),
    (r"_\d{8}_\d{6}\b", "_<time>"),
)


def sessions(page: str) -> list[tuple[str, list[str]]]:
    """Each `$ gpu-extract …` of a page with the lines that follow it."""
    blocks = re.findall(r"(?:^    .*\n)+", (ROOT / page).read_text("utf-8"), re.MULTILINE)
    shown = [[line[4:] for line in block.splitlines()] for block in blocks if block.startswith("    $ gpu-extract ")]
    return [(lines[0].removeprefix("$ gpu-extract "), lines[1:]) for lines in shown]


def snippets(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text("utf-8"), re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a reader stands after `make demo`."""
    demo_made_once(tmp_path_factory, tmp_path / "demo")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def without_the_machine(line: str, folder: Path) -> str:
    line = line.replace(f"{os.path.realpath(folder)}/", "…/").replace(f"{folder}/", "…/")
    for pattern, name in OF_THE_MACHINE:
        line = re.sub(pattern, name, line)
    return line


@pytest.mark.parametrize("page", GUIDES)
def test_the_session_prints_what_is_shown_and_then_the_python_runs(
    page: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sessions(page)
    for command, shown in sessions(page):
        assert main(shlex.split(command)) == 0
        captured = capsys.readouterr()
        said = [without_the_machine(line, folder) for line in (captured.err + captured.out).splitlines()]
        assert said == [without_the_machine(line, folder) for line in shown], command
    printed: list[str | None] = [None]
    for snippet in snippets(page):
        exec(compile(snippet, page, "exec"), {"__name__": "guide"})
        printed += capsys.readouterr().out.splitlines()
    assert printed[-1] == GUIDES[page]


def test_what_lists_of_faces_hold_is_told_to_whoever_makes_datasets(folder: Path) -> None:
    page = "docs/datasets.md"
    assert main(shlex.split(sessions(page)[0][0])) == 0
    text = (ROOT / page).read_text("utf-8")
    with (folder / "set" / "faces.jsonl").open(encoding="utf-8") as lines:
        for column in json.loads(next(lines)):
            assert re.search(rf"^\|.*`{column}`.*\|", text, re.MULTILINE), column
