"""Which files are the pages of the site, for MkDocs, which calls `on_files` (see mkdocs.yml).

The documents link to each other as files of the repository do, `../kernels/README.md` among them, so the site has the
repository's folders: the README is its first page, `docs/` lies below it, and what a page links to comes along.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
REST = "More"
"""The part of the navigation for pages that mkdocs.yml does not name."""
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]+)")


def linked(page: Path) -> list[Path]:
    """The files that a page links to."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    targets = (Path(os.path.normpath(page.parent / target)) for target in LINK.findall(text))
    return [target for target in targets if target.is_file()]


def collected() -> list[Path]:
    """The README, the documents, and whatever they link to, also in turn; sorted."""
    found: set[Path] = set()
    waiting = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("docs/*.css")]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += linked(path) if path.suffix == ".md" else []
    return sorted(found)


def named(nav: Iterable[Any]) -> set[str]:
    """All pages in a navigation, at whatever depth."""
    found: set[str] = set()
    for entry in nav:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            found |= {value} if isinstance(value, str) else named(value)
    return found


def complete(nav: list[Any], names: Iterable[str]) -> list[Any]:
    """A navigation with all pages among these files; those that it does not name come at its end."""
    rest = [name for name in names if name.endswith(".md") and name not in named(nav)]
    return [*nav, {REST: rest}] if rest else nav


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File, Files

    paths = {path.relative_to(ROOT).as_posix(): path for path in collected()}
    of_theme = [file for file in files if not (file.abs_src_path or "").startswith(config.docs_dir)]
    config.nav = complete(config.nav, paths)
    made = [File.generated(config, name, abs_src_path=str(path)) for name, path in paths.items()]
    return Files([*of_theme, *made])


def on_post_page(output: str, **_: Any) -> str:
    """The theme's search is a dialog without a name."""
    return output.replace('role="dialog"', 'role="dialog" aria-label="Search"')
