"""The law of the arrows: imports point one way, nothing goes round in a circle, and the door stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpu_extract.demo.clip import make_clip

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "gpu_extract"
FLOORS = (
    {"conditions", "errors", "naming", "options", "patch", "plugins", "png_file", "tasks", "geometry", "kernels"},
    {"storage"},
    {"reports", "stores"},
    {"alignments", "engines", "frames"},
    {"face_files", "run"},
    {"client", "cluster", "jobs", "service"},
    {"cli", "demo", "torch", "__main__", "__init__"},
)
"""From the ground up. A room imports from floors below its own, and on the ground from others on it."""
MOST_ROOMS = 25


def modules() -> dict[str, Path]:
    """Dotted name below the package -> file; `kernels` lies beside it."""
    found = {}
    for path in [*PACKAGE.rglob("*.py"), *(PACKAGE / "kernels").glob("*.py")]:
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        found[name] = path
    return found


MODULES = modules()


def imports(path: Path) -> Iterator[str]:
    """Modules of the package that a file imports anywhere, inside functions and for types too."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name for alias in node.names if (name := _inside(alias.name)) in MODULES)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            base = _inside(node.module or "")
            if base is None:
                continue
            for alias in node.names:
                full = f"{base}.{alias.name}".lstrip(".")
                if full in MODULES:
                    yield full
                elif base:
                    yield base


def _inside(name: str) -> str | None:
    if name == "gpu_extract":
        return ""
    return name.removeprefix("gpu_extract.") if name.startswith("gpu_extract.") else None


ARROWS = {name: sorted({target for target in imports(path) if target != name}) for name, path in MODULES.items()}


def floor_of(module: str) -> int:
    room = module.partition(".")[0]
    return next(i for i, rooms in enumerate(FLOORS) if room in rooms)


def test_every_room_has_a_floor_and_there_are_not_many() -> None:
    rooms = {name.partition(".")[0] for name in MODULES}
    assert rooms == set().union(*FLOORS)
    assert len(rooms - {"__init__", "__main__"}) <= MOST_ROOMS


def test_the_reader_of_imports_reads_them() -> None:
    assert "plugins" in ARROWS["frames"]
    assert "face_files.encoder" in ARROWS["face_files.encoders.png"]
    assert "frames.images.decode" in ARROWS["frames.sources.folder"], "an import inside a function"
    assert sum(map(len, ARROWS.values())) > 200


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_arrow_points_up_or_sideways(module: str) -> None:
    room, floor = module.partition(".")[0], floor_of(module)
    for target in ARROWS[module]:
        other = target.partition(".")[0]
        if other == room or (room == "kernels" and other == "kernels"):
            continue
        below = floor_of(target) < floor or (floor == floor_of(target) == 0)
        assert below or floor == len(FLOORS) - 1, f"{module} imports {target}"
        assert room != "kernels", f"{module} imports {target}: kernels import nothing of the package around them"


def test_a_plug_in_stands_below_its_contract() -> None:
    """The contract knows its plug-ins by their folder only."""
    for folder in (
        "engines.samplers",
        "frames.sources",
        "face_files.encoders",
        "face_files.layouts",
        "alignments.containers",
        "cluster.schedulers",
    ):
        for name, targets in ARROWS.items():
            known = [target for target in targets if target.startswith(f"{folder}.")]
            assert not known or name.startswith(f"{folder}."), f"{name} knows {known}"


def test_a_service_starts_runs_and_cuts_nothing_itself() -> None:
    """Its jobs are processes of their own; what decodes or cuts is not even loaded at the door."""
    heavy = {"alignments", "engines", "face_files", "frames", "geometry", "jobs", "kernels"}
    for name, targets in ARROWS.items():
        if name.partition(".")[0] in ("client", "service"):
            assert not [target for target in targets if target.partition(".")[0] in heavy], name


def test_a_service_starts_without_what_its_children_cut_with() -> None:
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    pytest.importorskip("prometheus_client")
    code = "import gpu_extract.service.serve, sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert "gpu_extract.service.web.app" in loaded
    assert not loaded & {"numpy", "cv2", "av", "torch", "gpu_extract.alignments", "gpu_extract.frames"}


def test_no_circle() -> None:
    state: dict[str, int] = {}

    def visit(name: str, way: tuple[str, ...]) -> None:
        if state.get(name) == 2:
            return
        assert state.get(name) != 1, " -> ".join([*way[way.index(name) :], name])
        state[name] = 1
        for target in ARROWS[name]:
            if target != "__init__":
                visit(target, (*way, name))
        state[name] = 2

    for name in MODULES:
        visit(name, ())


OWN_READERS = {"frames.images.decode"}
"""It looks at the kind of a file itself."""


@pytest.mark.parametrize("module", sorted(MODULES))
def test_what_a_user_names_is_opened_by_one_function(module: str) -> None:
    """`open_input`, which refuses what is no file: another way to open a pipe waits for ever."""
    if module in OWN_READERS or module.startswith("storage."):
        return
    text = MODULES[module].read_text("utf-8")
    for call in (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)):
        called, words = ast.unparse(call.func), ast.unparse(call)
        reads = called in ("open", "io.open", "os.open") or called.endswith((".open", ".read_bytes", ".read_text"))
        if reads and not any(known in words for known in HARMLESS_OPENINGS):
            pytest.fail(f"{words} opens a file without open_input")


HARMLESS_OPENINGS = (
    *("os.devnull", "O_DIRECTORY", "O_PATH", "'/proc/"),
    *("'xb'", "'ab'", "'w+b'", "closefd=False", "av.open", "fileobj=file", "importlib", "resources.files"),
)
"""The null device, folders, names alone, what the kernel says of processes, files that are made or grow, what was
opened or looked at before, and the package's own."""


def test_help_loads_only_what_is_light() -> None:
    """By name, not by clock: no NumPy, and of this package only rooms that were chosen to be light."""
    code = (
        "import sys\nfrom gpu_extract.cli import main\n"
        "try: main(['extract', '--help'])\nexcept SystemExit: pass\n"
        "print(*sorted(sys.modules), sep='\\n', file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stderr.split())
    assert "usage: gpu-extract extract" in run.stdout
    assert not loaded & {"numpy", "torch", "cv2", "av", "yaml", "tqdm", "kornia", "tomllib", "asyncio"}
    ours = {name.removeprefix("gpu_extract.") for name in loaded if name.startswith("gpu_extract.")}
    light = {
        "cli",
        "cli.chosen",
        "cli.command",
        "cli.commands",
        "cli.commands.extract",
        "cli.output",
        "cli.parser",
        "errors",
        "naming",
        "options",
        "plugins",
        "face_files",
        "face_files.layouts",
        "run",
        "run.signals",
    }
    assert ours <= light | {"storage", "storage.descriptors"}


def test_a_run_loads_nothing_that_it_has_no_use_for(tmp_path: Path) -> None:
    """By name, not by clock: what only other jobs, other containers or a configuration file need."""
    clip = make_clip(tmp_path, frames=3)
    code = (
        "import sys\nfrom gpu_extract.cli import main\n"
        f"main(['extract', '-a', {str(clip.alignments)!r}, '-fr', {str(clip.video)!r}, '-fc', {str(tmp_path / 'f')!r},"
        " '--device', 'cpu', '--config', '', '--progress', 'none'])\n"
        "print(*sorted(sys.modules), sep='\\n', file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stderr.split())
    assert "gpu_extract.jobs.extract" in loaded
    assert not loaded & {"tarfile", "tomllib", "difflib", "secrets", "zipfile", "importlib.resources", "yaml", "torch"}
    others = {
        "jobs.runs.processes",
        "jobs.merge",
        "jobs.runs.staging",
        "run.children",
        "alignments.upgrade",
        "service",
        "client",
    }
    assert not loaded & {f"gpu_extract.{name}" for name in others}
