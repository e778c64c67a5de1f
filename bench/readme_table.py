"""The speed figures of README.md, between its bench marks, from bench/results/extract.json and nothing else.

python bench/readme_table.py             print them
python bench/readme_table.py --write     put them into README.md
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from common import REPO, RESULTS

BEGIN, END = "<!-- bench:begin -->\n", "<!-- bench:end -->"


def part(result: dict[str, Any]) -> str:
    """Every goal with what was measured, met or not."""
    machine, versions = result["machine"], result["versions"]
    rows = ["| goal | measured | |", "|---|---|---|"]
    for goal in result["goals"].values():
        rows.append(f"| {goal['target']} | {goal['measured']} | {'met' if goal['met'] else 'missed'} |")
    files = "files in memory" if result["in_memory"] else "files on disk"
    libraries = f"NumPy {versions['numpy']}, OpenCV {versions['opencv-python']}, PyAV {versions['av']}"
    where = (
        f"{result['date'][:10]}, {machine['cpu']}, {result['cores_used']} cores, {files}, {libraries}, "
        f"commit {result['commit']}; medians of {result['repeats']} pairs, whole processes: `make bench`. "
        "The footage is drawn, and the opponent is a stand-in for the job of 2019, written from its specification "
        "([what that means](bench/README.md))."
    )
    return "\n".join([*rows, "", where, "", "![stages and peers](bench/results/extract.png)", ""])


def with_part(readme: str, text: str) -> str:
    """README.md with the part in its place."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{text}{END}{after}"


def main() -> None:
    text = part(json.loads((RESULTS / "extract.json").read_text("utf-8")))
    if "--write" not in sys.argv[1:]:
        print(text)
        return
    readme = REPO / "README.md"
    readme.write_text(with_part(readme.read_text("utf-8"), text), "utf-8")


if __name__ == "__main__":
    main()
