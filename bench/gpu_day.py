"""What `make gpu-check` runs: everything that is to be learnt of the GPU of this machine, from whatever lies at hand.

    python3 bench/gpu_day.py --wheels wheels                  with the machine's own Python, torch and Triton
    python3 bench/gpu_day.py --wheels wheels --allow-cpu      its rehearsal, at toy sizes, without a GPU

Needs no network and installs nothing: packages that are missing here come out of the folder of wheels into a folder for
this run alone. The C extensions are built in place; where that fails, those of the folder serve. Then each part runs in
a process of its own, with a limit in seconds, and its result is in the JSON before the next one begins. Nothing is
timed after a part that was to show that crops are equal and did not.

Exit codes: 0 all passed, 1 a part did not, 2 something that all parts need is missing, 5 no CUDA device.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
BENCH, KERNELS, RESULT = REPO / "bench", REPO / "kernels", REPO / "bench" / "results" / "gpu.json"
NO_DEVICE = 5
LEAVE_TO_THE_MACHINE = ("torch", "triton")  # a wheel of either would not fit the driver that is here
TAIL = 4000  # characters of a part's output that are kept
CUDA_TESTS = ("tests/test_cuda.py", "tests/test_kernels_triton.py", "tests/contracts/test_engine.py")
SELF_CHECK = "from gpu_extract.kernels import warp_affine; assert warp_affine.self_check('{}'); print('equal')"
SEEN_BY_NCU = (
    r"Duration|Compute \(SM\)|L1/TEX Hit|Mem Pipes Busy|Max Bandwidth|Executed Ipc Active|Issue Slots Busy|"
    r"Achieved Occ|Registers Per|One or More|Stall|bank conflict"
)


class MissingError(Exception):
    """What all parts need and is not here, as a sentence."""


@dataclass(frozen=True)
class Part:
    """A command with its limit."""

    name: str
    command: list[str]
    seconds: int
    section: Path | None = None
    """Where the command writes a result of `gpu_check`."""
    proves: bool = False
    """Shows that crops are equal."""
    timed: bool = False
    """Runs only when all that prove something passed."""
    needs: str | None = None
    """A program; without it the part is skipped, and with it a failure is no verdict on the device."""
    keeps: str = ""
    """Which lines of its output are kept, a regular expression."""


class Day:
    """One run; `result` is the JSON, which is written after every part."""

    def __init__(self, options: argparse.Namespace, work: Path) -> None:
        self.dry: bool = options.allow_cpu
        self.file: Path = options.json
        self.wheels: Path | None = options.wheels
        self.work, self.site = work, work / "site"
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(self.site), str(REPO)]),
            "PYTHONUNBUFFERED": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "TRITON_CACHE_DIR": str(work / "triton"),
            "BENCH_COMMIT": options.commit or _commit_beside(options.wheels),
        }
        self.result: dict[str, Any] = {"parts": {}, "skipped": []}

    def prepare(self) -> None:
        """Packages, C extensions and what is said of the machine.

        Raises:
            MissingError: if something cannot be had.
        """
        self.result["installed"] = install(self.wheels, self.site) if self.wheels else []
        self.result["extensions"] = self._build()
        self.result |= self._facts()
        self.write()

    def _build(self) -> str:
        """The C extensions, in place; "built", or where they come from."""
        command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
        built = subprocess.run(command, cwd=REPO, env=self.environment, capture_output=True, text=True, check=False)
        if built.returncode == 0 and self._has_extensions():
            return "built"
        for found in sorted(self.wheels.glob("*.abi3.so")) if self.wheels else ():
            shutil.copy(found, KERNELS)
        if self._has_extensions():
            return "from the folder of wheels" if self.wheels and [*self.wheels.glob("*.abi3.so")] else "found"
        reason = (built.stderr.strip().splitlines() or ["no compiler"])[-1]
        self.result["skipped"].append(f"the C extensions: they are not built here ({reason})")
        return "none"

    def _has_extensions(self) -> bool:
        code = "from gpu_extract.kernels import cpu, cutter; assert cpu.is_available() and cutter.is_available()"
        return not subprocess.run([sys.executable, "-c", code], env=self.environment, capture_output=True).returncode

    def _facts(self) -> dict[str, Any]:
        """Date, commit, versions, machine, and the device."""
        flags = ["--allow-cpu"] if self.dry else []
        command = [sys.executable, str(BENCH / "gpu_check.py"), "--facts", *flags]
        run = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        if run.returncode == NO_DEVICE:
            raise SystemExit(f"gpu_day: {run.stderr.strip().removeprefix('gpu_check: ')}")
        if run.returncode:
            raise MissingError(f"nothing can run here: {(run.stderr.strip().splitlines() or ['?'])[-1]}")
        facts: dict[str, Any] = json.loads(run.stdout)
        return facts

    def parts(self) -> list[Part]:
        """In the order of what is worth most."""
        python, device, toy = sys.executable, "cpu" if self.dry else "cuda", ["--allow-cpu"] if self.dry else []
        tests = ["tests/test_device_slots.py"] if self.dry else [*CUDA_TESTS, "-m", "cuda"]
        pytest = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "default", *tests]

        def section(name: str, seconds: int) -> Part:
            file = self.work / f"{name}.json"
            command = [python, str(BENCH / "gpu_check.py"), "--only", name, "--json", str(file), *toy]
            command += ["--seconds", str(seconds * 2 // 3)]  # a case that has begun may take its time
            timed = name in ("kernel", "end_to_end")
            return Part(name, command, seconds, file, proves=not timed, timed=timed)

        ncu = ["ncu", "--clock-control", "none", "--set", "full", "-k", "regex:_kernel", "-c", "3", "--page", "details"]
        footage = [python, str(BENCH / "make_clip.py"), "--frames", "12000"]
        check = [python, "-c", SELF_CHECK.format(device)]
        memory_check = ["compute-sanitizer", "--tool", "memcheck", *check]
        return [
            Part("doctor", [python, "-m", "gpu_extract", "doctor"], 120),
            Part("self-check", check, 120, proves=True),
            Part("tests", pytest, 400),
            section("random_crops", 180),
            section("vectors", 120),
            section("kernel", 420),
            *([] if self.dry else [Part("decoder", [python, str(BENCH / "decoders.py")], 240)]),
            *([] if self.dry else [Part("footage", footage, 400)]),
            section("end_to_end", 480),
            Part("memory check", memory_check, 180, needs="compute-sanitizer"),
            Part(
                "profile", [*ncu, python, str(BENCH / "gpu_timing.py")], 180, timed=True, needs="ncu", keeps=SEEN_BY_NCU
            ),
        ]

    def run(self) -> bool:
        """All parts; whether all of them passed."""
        equal = passed = True
        for part in self.parts():
            if part.needs is not None and shutil.which(part.needs) is None:
                self.result["skipped"].append(f"{part.name}: {part.needs} is not here")
            elif part.timed and not equal:
                self.result["skipped"].append(f"{part.name}: crops were not shown to be equal")
            else:
                well = self._run(part)
                passed &= well or part.needs is not None
                equal &= well or not part.proves
            self.write()
        return passed

    def _run(self, part: Part) -> bool:
        print(f"{part.name}: at most {part.seconds} s", file=sys.stderr, flush=True)
        began = time.monotonic()
        environment = self.environment | ({"TRITON_INTERPRET": "1"} if self.dry else {"FAIL_WITHOUT_CUDA": "1"})
        log = self.work / "log"
        with log.open("w") as out:
            process = subprocess.Popen(
                part.command, cwd=REPO, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                code: int | None = process.wait(part.seconds)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                _end_group(process)
        lines = log.read_text(errors="replace").strip().splitlines()
        said = "\n".join(line for line in lines if re.search(part.keeps, line))
        seconds = round(time.monotonic() - began, 1)
        self.result["parts"][part.name] = {"seconds": seconds, "exit_code": code, "said": said[-TAIL:]}
        if code is None:
            self.result["skipped"].append(f"{part.name}: was not done after {part.seconds} s")
        elif code:
            self.result["skipped"].append(f"{part.name}: failed, exit code {code}")
        if part.section is not None and part.section.exists():
            found = json.loads(part.section.read_text())
            self.result["skipped"] += found["skipped"]
            if part.name in found:
                self.result[part.name] = found[part.name]
        print("  ", f"exit code {code}, {seconds} s", (said.splitlines() or [""])[-1], file=sys.stderr, flush=True)
        return code == 0

    def write(self) -> None:
        """The JSON, whole at any time."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.file.with_name(f".{self.file.name}.part")
        unfinished.write_text(json.dumps(self.result, indent=1) + "\n")
        unfinished.replace(self.file)


def _end_group(process: subprocess.Popen[Any]) -> None:
    """End a part with all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def install(wheels: Path, site: Path) -> list[str]:
    """Put what is missing here, of a folder of wheels, into a folder; the names of what that was.

    Raises:
        MissingError: if pip is missing or refuses.
    """
    names = sorted({re.sub(r"[-_.]+", "-", path.name.split("-")[0]).lower() for path in wheels.glob("*.whl")})
    try:
        missing = [name for name in names if name not in LEAVE_TO_THE_MACHINE and not _is_here(name)]
    except ImportError as error:
        raise MissingError("the machine's Python has no pip, which unpacks the wheels.") from error
    if {"opencv-python", "opencv-python-headless"} <= {*missing}:  # one module; this one needs no libraries of windows
        missing.remove("opencv-python")
    if not missing:
        return []
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile"]
    command += ["--find-links", str(wheels), "--target", str(site), *missing]
    environment = os.environ | {"PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if run.returncode:
        raise MissingError(f"pip cannot install {', '.join(missing)} from {wheels}:\n{run.stderr.strip()}")
    return missing


def _is_here(name: str) -> bool:
    """Whether the machine has a package, in a version that pyproject.toml allows; any build of OpenCV is OpenCV."""
    from pip._vendor.packaging.requirements import Requirement

    project = tomllib.loads((REPO / "pyproject.toml").read_text("utf-8"))
    extras = project["project"]["optional-dependencies"]
    lines = [*project["project"]["dependencies"], *extras["suite"], *project["dependency-groups"]["build"]]
    allowed = {found.name.lower(): found.specifier for found in map(Requirement, lines)}
    builds = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
    for build in builds if name in builds else (name,):
        try:
            version = importlib.metadata.version(build)
        except importlib.metadata.PackageNotFoundError:
            continue
        wanted = allowed.get("opencv-python" if name in builds else name.lower())
        if wanted is None or wanted.contains(version, prereleases=True):
            return True
    return False


def _commit_beside(wheels: Path | None) -> str:
    """What `make wheels` wrote, for a tree that came without `.git`."""
    file = wheels / "commit" if wheels and not (REPO / ".git").exists() else None
    return file.read_text().strip() if file is not None and file.exists() else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="wheels, and *.abi3.so, for what is missing here")
    parser.add_argument("--json", type=Path, metavar="FILE", default=RESULT, help="the result (default: %(default)s)")
    parser.add_argument("--commit", help="of this tree, where .git did not come along")
    parser.add_argument("--allow-cpu", action="store_true", help="without a GPU: every part at toy sizes")
    options = parser.parse_args()
    options.json = options.json.resolve()
    if options.wheels is not None:
        options.wheels = options.wheels.resolve()
        if not options.wheels.is_dir():
            parser.error(f"{options.wheels} is no folder")
    if options.allow_cpu and options.json.parent == RESULT.parent:
        parser.error("a dry run measures nothing and has no place in bench/results; choose another --json")
    with tempfile.TemporaryDirectory() as work:
        day = Day(options, Path(work))
        try:
            day.prepare()
        except MissingError as error:
            print(f"gpu_day: {error}", file=sys.stderr)
            return 2
        passed = day.run()
        command = [sys.executable, str(BENCH / "gpu_table.py"), "--json", str(options.json)]
        subprocess.run(command, env=day.environment, check=False)
    for line in day.result["skipped"]:
        print(f"skipped: {line}", file=sys.stderr)
    print(f"{'all passed' if passed else 'NOT ALL PASSED'}: {options.json}", file=sys.stderr)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
