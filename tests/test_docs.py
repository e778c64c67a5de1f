"""Documents and code say the same."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gpu_extract
from gpu_extract.cli.parser import build_parser, parsers
from gpu_extract.errors import GpuExtractError
from gpu_extract.options import options

ROOT = Path(__file__).parent.parent


def test_every_command_is_in_the_readme_and_has_an_example() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    for name, parser in parsers(build_parser()).items():
        assert f"`{name}`" in readme, name
        assert parser.epilog is not None
        assert f"gpu-extract {name}" in parser.epilog
        assert "exit codes:" in parser.epilog


def test_what_is_said_of_the_command_line_is_made_from_it() -> None:
    run = subprocess.run(
        [sys.executable, ROOT / "docs" / "generate.py", "--check"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    for row in options("extract"):
        for document in ("README.md", "docs/cli.md"):
            assert row.flags[-1] in (ROOT / document).read_text("utf-8"), (row.name, document)


def test_whoever_comes_from_other_programs_finds_each_of_their_flags() -> None:
    page = (ROOT / "docs" / "from-faceswap.md").read_text("utf-8")
    for row in options("extract"):
        for flag in row.aliases:
            assert re.search(rf"^\|.*`{flag}`.*`{row.flags[-1]}`", page, re.MULTILINE), flag


def test_every_exit_code_of_an_error_is_documented() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    told = readme[readme.index("Exit codes:") :].partition("\n\n")[0]
    stack = [GpuExtractError]
    while stack:
        kind = stack.pop()
        stack += kind.__subclasses__()
        assert re.search(rf"\b{kind.exit_code}\b", told), kind


def test_the_changelog_begins_with_this_version() -> None:
    versions = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert versions[0] == gpu_extract.__version__


def written() -> list[Path]:
    """Every source and document of the project."""
    patterns = ("*.md", "docs/*.md", "kernels/*.*", "gpu_extract/**/*.py", "bench/*.*", "tests/*.py", "tests/**/*.md")
    paths = {path for pattern in patterns for path in ROOT.glob(pattern)}
    return sorted(path for path in paths if path.suffix in (".md", ".py", ".c", ".h"))


def anchors(document: Path) -> set[str]:
    """What a link may name behind the # of a document, as GitHub makes it of the headings."""
    text = re.sub(r"^```.*?^```", "", document.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_a_table_of_flags_has_no_bar_within_a_cell() -> None:
    for line in (ROOT / "docs" / "cli.md").read_text("utf-8").splitlines():
        assert not line.startswith("|") or len(re.findall(r"(?<!\\)\|", line)) == 3, line


def test_commands_with_a_report_for_programs_are_those_that_take_its_flag() -> None:
    page = (ROOT / "docs" / "reports.md").read_text("utf-8")
    told = {name for row in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    named = parsers(build_parser()).items()
    assert told == {name for name, parser in named if "--json" in parser._option_string_actions}


def test_links_between_documents_lead_somewhere() -> None:
    documents = [path for path in written() if path.suffix == ".md"]
    assert len(documents) > 5
    for document in documents:
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", document.read_text("utf-8")):
            linked = document.parent / target if target else document
            assert linked.exists(), f"{document.name} -> {target}"
            assert not anchor or anchor in anchors(linked), f"{document.name} -> {target}#{anchor}"


def test_what_comments_point_to_is_there() -> None:
    """A section of a document in docs/, by its heading; and no specification, for the project has none."""
    pointers = 0
    for path in written():
        text = path.read_text("utf-8")
        for name, anchor in re.findall(r"docs/(\w+\.md)(?:#([\w-]+))?", text):
            document = ROOT / "docs" / name
            assert document.exists(), f"{path.name} -> {name}"
            assert not anchor or anchor in anchors(document), f"{path.name} -> {name}#{anchor}"
            pointers += bool(anchor)
        assert path == Path(__file__) or not re.search(r"\bSPEC\b", text), path
    assert pointers > 10


def test_no_document_or_source_names_a_path_of_one_machine() -> None:
    foreign = re.compile(r"(?<![\w.])/(work|root|home/\w+)/")
    for path in [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("gpu_extract/**/*.py"),
        *ROOT.glob("bench/*.py"),
    ]:
        assert not foreign.search(path.read_text("utf-8")), path


@pytest.mark.parametrize("path", sorted((ROOT / "bench" / "results").glob("*.json")), ids=lambda path: path.name)
def test_results_say_when_where_and_with_what_they_were_measured(path: Path) -> None:
    text = path.read_text("utf-8")
    assert json.loads(text)
    for word in ("date", "commit", "numpy"):
        assert f'"{word}' in text, word


def test_the_door_is_complete_and_sorted() -> None:
    assert gpu_extract.__all__ == sorted(gpu_extract.__all__)
    for name in gpu_extract.__all__:
        assert getattr(gpu_extract, name) is not None
    assert set(gpu_extract._HOME) == set(gpu_extract.__all__)


def test_the_speed_figures_of_the_readme_are_those_that_were_measured() -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("readme_table", ROOT / "bench" / "readme_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    readme = (ROOT / "README.md").read_text("utf-8")
    result = json.loads((ROOT / "bench" / "results" / "extract.json").read_text("utf-8"))
    assert module.with_part(readme, module.part(result)) == readme


def test_the_figures_of_antialiasing_are_those_of_its_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("antialias_picture", ROOT / "bench" / "antialias_picture.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "TARGET", tmp_path / "drawn.png")
    module.main()
    plain, antialiased = (float(number) for number in re.findall(r"\d+\.\d+", capsys.readouterr().out))
    page = (ROOT / "docs" / "antialias.md").read_text("utf-8")
    assert f"{plain:.1f} levels plain and {antialiased:.1f} antialiased" in page
    assert (tmp_path / "drawn.png").is_file()
