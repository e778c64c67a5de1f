"""What docs/python.md shows is run, from top to bottom, on the demo's clip."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers import demo_made_once

TEXT = (Path(__file__).parent.parent / "docs" / "python.md").read_text("utf-8")


def snippets() -> list[str]:
    return re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_every_snippet_runs(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("torch")
    demo_made_once(tmp_path_factory, tmp_path / "demo")
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert len(snippets()) > 7
    for snippet in snippets():
        exec(compile(snippet, "docs/python.md", "exec"), {"__name__": "python"})
    said = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"4 demo_\d{6}_\d", said[2])
    assert said == [
        "59 faces of 36 frames; []",
        "True",
        said[2],
        "torch.Size([32, 64, 64, 3]) cpu",
        "(64, 64, 3) None",
    ]
