"""Check and measure the CUDA path on the GPU of this machine: the sections that `gpu_day.py` runs one by one.

    python bench/gpu_check.py --json gpu.json
    python bench/gpu_check.py --only kernel                   one section; without it nothing is timed before equality
    python bench/gpu_check.py --allow-cpu                     a dry run at toy sizes, without a GPU

Exactness first, on random crops and on the vectors; then the kernel beside kornia, grid_sample, OpenCV on all cores
and, where it is installed, CV-CUDA; then whole runs of the command line by stage. What was skipped is named. Nothing is
timed after a crop that is not equal to the byte.

Exit codes: 0 all equal, 1 something was not or a section failed, 5 no CUDA device.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cv2
import numpy as np
from common import REPO, RESULTS, CommandError, run, run_metadata

from gpu_extract.kernels import cpu, reference

VECTORS = REPO / "tests" / "vectors"
SECONDS = 7 * 60  # after that no further case starts
END_TO_END_SECONDS = 150  # of these, kept for whole runs
FRAMES = 12_000  # of the whole runs: at a thousand a second, fewer would time the start
MEMORY = Path("/dev/shm")
FACES_BYTES = 6 << 30  # room for the faces of one run, and for the cache of what is read
NO_DEVICE = 5
FRAME_SIZES = [(1, 1), (333, 217), (108, 192), (720, 1283), (1080, 1920)]
CROP_SIZES = [16, 37, 64, 129, 256]
CROPS_EACH = 420  # of each size: 2,100 random crops in all
TO_REFERENCE = 40  # of each size, which are also compared with the NumPy reference, itself slow


SECTIONS = ("random_crops", "vectors", "kernel", "end_to_end")
TIMED = SECTIONS[2:]


class Check:
    """One run; `result` is the JSON."""

    def __init__(self, device: str, seconds: float = SECONDS) -> None:
        self.device = device
        self.dry = device == "cpu"
        self.deadline = time.monotonic() + seconds
        self.skipped: list[str] = []
        self.result: dict[str, Any] = {**run_metadata(), "dry_run": self.dry, "gpu": self.gpu()}

    def gpu(self) -> dict[str, Any]:
        import torch

        if self.dry:
            return {"name": "none (dry run)"}
        properties = torch.cuda.get_device_properties(0)
        return {
            "name": properties.name,
            "driver": _nvidia_smi("driver_version") or _loaded_driver(),
            "cuda_of_torch": torch.version.cuda,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_gb": round(properties.total_memory / 1e9, 1),
            "l2_mb": round(self.l2_bytes() / 1e6, 1),
        }

    def l2_bytes(self) -> int:
        import torch

        return 0 if self.dry else int(torch.cuda.get_device_properties(0).L2_cache_size)

    def random_crops(self) -> dict[str, Any]:
        """The kernel against the C sampler and the reference, its output poisoned before, on crops of every kind."""
        import torch

        from gpu_extract.kernels import warp_affine

        sampler = cpu if cpu.is_available() else reference
        if sampler is reference:
            self.skipped.append("random crops against the C sampler: it is not built; the reference stands in")
        count = unequal = 0
        for seed, size in enumerate(CROP_SIZES[:1] if self.dry else CROP_SIZES):
            crops = 4 if self.dry else CROPS_EACH
            case = random_crops(seed, crops, size, FRAME_SIZES[:3] if self.dry else FRAME_SIZES)
            wanted = sampler.warp_affine(*case)
            few = slice(0, TO_REFERENCE)
            frames, frame_of, matrices, cubic, _ = case
            truth = reference.warp_affine(frames, frame_of[few], matrices[few], cubic[few], size)
            for poison in (0x00, 0xFF):
                out = torch.full((crops, size, size, 3), poison, dtype=torch.uint8, device=self.device)
                got = warp_affine.warp_affine(*case, device=self.device, out=out).cpu().numpy()
                unequal += int((got != wanted).any(axis=(1, 2, 3)).sum())
                unequal += int((got[few] != truth).any(axis=(1, 2, 3)).sum())
            count += crops
        return {"crops": count, "unequal": unequal}

    def vectors(self) -> dict[str, Any]:
        """The command line on the vectors, on this device and on the CPU: every file, byte for byte, and the hashes."""
        # Not at a size of the stored hashes: to try others would take the interpreted kernel minutes.
        flags = ["-sz", "16", "-een", "2", "--replace-hashes"] if self.dry else ["-sz", "128"]
        wanted = {} if self.dry else _expected_hashes()
        with tempfile.TemporaryDirectory() as folder:
            sources = (VECTORS / "alignments" / "g6_2019-12.fsa", VECTORS / "frames")
            here = self.extract(Path(folder) / "here", *sources, "--device", self.device, *flags)
            there = self.extract(Path(folder) / "cpu", *sources, "--device", "cpu", *flags, interpret=False)
            ours, others = _files(here["faces"]), _files(there["faces"])
            pixels = {name: _sha1_of_pixels(here["faces"] / name) for name in ours}
        return {
            "faces": len(ours),
            "files_unequal_to_cpu": _differences(ours, others),
            "hashes_compared": len(wanted),
            "hashes_unequal": sum(pixels.get(name) != sha1 for name, sha1 in wanted.items()),
            "engine": here["report"]["engine_implementation"],
        }

    def kernel(self) -> dict[str, Any]:
        """Kernel times; see gpu_timing."""
        import gpu_timing

        clock = gpu_timing.Clock(self.device)
        bandwidth = gpu_timing.copy_bandwidth(clock, self.device, self.copied_bytes())
        transfers = gpu_timing.transfer_bandwidths(clock, self.device, self.copied_bytes())
        launch = gpu_timing.launch_ms(clock, self.device)
        rows = []
        for row in gpu_timing.kernel_rows(self.device, clock, bandwidth, self.l2_bytes(), self.deadline, self.skipped):
            rows.append(row)
            print("  ", row["frame"], row["faces"], "x", row["size"], row["interpolation"], row["ms"], file=sys.stderr)
        return {
            "copy_gb_per_second": round(bandwidth / 1e6, 1),
            **{f"{way}_gb_per_second": round(rate / 1e6, 1) for way, rate in transfers.items()},
            "launch_ms": round(launch, 5),
            "rows": rows,
        }

    def copied_bytes(self) -> int:
        """Half a GiB, many times any cache, or a sixteenth of a small card's memory."""
        import torch

        return 1 << 16 if self.dry else min(1 << 29, torch.cuda.get_device_properties(0).total_memory // 16)

    def end_to_end(self) -> dict[str, Any]:
        """Frames per second of the whole job by stage: this device, alone and shared, its kornia, and the CPU."""
        from make_clip import DATA, make

        with tempfile.TemporaryDirectory() as folder:
            clip = make(3, 1, 96, 128, data=Path(folder)) if self.dry else make(FRAMES, 2)
            return self._runs(clip, DATA)

    def _runs(self, clip: Any, data: Path) -> dict[str, Any]:
        runs: dict[str, Any] = {}
        faces: dict[str, dict[str, str]] = {}
        for name, words in self.jobs().items():
            if time.monotonic() > self.deadline:
                self.skipped.append(f"end to end, {name}: out of time")
                continue
            with tempfile.TemporaryDirectory(dir=_roomy_folder(data)) as folder:
                flags = ["-sz", "16" if self.dry else "256", *words]
                if not self.dry:  # libraries, files and kernels of the first time
                    self.extract(Path(folder) / "warm-up", *clip[::-1], *flags, "-een", "50")
                made = self.extract(Path(folder) / "measured", *clip[::-1], *flags, interpret=name != "cpu")
                faces[name] = {path.name: _sha1(path) for path in _paths(made["faces"])}
            keys = ("frames_per_second", "seconds", "stage_seconds", "wait_seconds", "limiting_stage")
            runs[name] = {key: made["report"][key] for key in (*keys, "engine_implementation", "device")}
        return {
            "clip": "3 frames" if self.dry else f"{FRAMES:,} frames, 1080p, 2 faces each",
            "unequal": None
            if "cpu" not in faces
            else sum(_differences(found, faces["cpu"]) for name, found in faces.items() if name != "kornia"),
            "runs": runs,
        }

    def jobs(self) -> dict[str, list[str]]:
        """Words of the runs that are timed; those on this device, but kornia's, give the files of the CPU."""
        exact = ["--device", self.device, "--engine", "exact"]
        jobs = {"exact": exact, "cpu": ["--device", "cpu", "--engine", "exact"]}
        if not self.dry:
            jobs["exact, 4 processes"] = [*exact, "--processes", "4"]
            jobs["exact, batches of 16 MiB"] = [*exact, "--batch-mb", "16"]
        if find_spec("kornia") is None:
            self.skipped.append("end to end, kornia: not installed")
        else:
            jobs["kornia"] = ["--device", self.device, "--engine", "kornia"]
        return jobs

    def extract(
        self, folder: Path, alignments: Path, frames: Path, *flags: str, interpret: bool = True
    ) -> dict[str, Any]:
        """One run of the command line; its faces folder and its report."""
        folder.mkdir()
        own = shutil.copy(alignments, folder)
        command = [sys.executable, "-m", "gpu_extract", "extract", "-a", own, "-fr", frames, "-fc", folder / "faces"]
        command += ["--progress", "none", "--json", folder / "report.json", *flags]
        before = os.environ.get("TRITON_INTERPRET")
        if not interpret:
            os.environ.pop("TRITON_INTERPRET", None)
        try:
            run(command)
        except CommandError as error:
            if "exited with 4:" not in str(error):  # the vectors hold a frame that is missing on purpose
                raise
        finally:
            if before is not None:
                os.environ["TRITON_INTERPRET"] = before
        return {"faces": folder / "faces", "report": json.loads((folder / "report.json").read_text())}

    def all(self, only: str | None = None) -> int:
        """Every section, or one; returns the exit code. One that fails is named and leaves the others their results."""
        began = time.monotonic()
        result = self.result
        wanted = SECTIONS if only is None else (only,)
        ends_by = self.deadline
        passed = equal = True
        for name in wanted:
            if name in TIMED and not equal:
                self.skipped.append("all timings: crops were not shown to be equal")
                break
            self.deadline = ends_by - (END_TO_END_SECONDS if name != wanted[-1] else 0)
            passed = self._section(name) and not unequal(result[name]) and passed
            equal = passed or (equal and name in TIMED)
        result["skipped"] = self.skipped
        result["seconds"] = round(time.monotonic() - began, 1)
        return 0 if passed else 1

    def _section(self, name: str) -> bool:
        """Run a section into the result; False if it failed."""
        method = getattr(self, name)
        print(f"{name}: {method.__doc__}", file=sys.stderr, flush=True)
        try:
            found: dict[str, Any] = method()
        except Exception as error:
            traceback.print_exc()
            self.skipped.append(f"{name}: failed, {type(error).__name__}: {(str(error) or '?').splitlines()[0]}")
            return False
        self.result[name] = found
        print("  ", {key: value for key, value in found.items() if key not in ("rows", "runs")}, file=sys.stderr)
        return True


def unequal(section: dict[str, Any]) -> int:
    """How many things of a section's result were not as they must be."""
    return sum(section.get(name) or 0 for name in ("unequal", "files_unequal_to_cpu", "hashes_unequal"))


def random_crops(
    seed: int, crops: int, size: int, sizes: list[tuple[int, int]]
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, np.ndarray, int]:
    """Arguments of warp_affine: crops of frames of noise, turned, scaled 0.15 to 4, partly and wholly outside."""
    rng = np.random.default_rng(seed)
    frames = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in sizes]
    frame_of = rng.integers(0, len(frames), crops).astype(np.int32)
    matrices = np.empty((crops, 2, 3))
    for matrix, frame in zip(matrices, frame_of, strict=True):
        angle, scale = rng.uniform(0, 2 * np.pi), np.exp(rng.uniform(np.log(0.15), np.log(4)))
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        height, width = sizes[frame]
        matrix[:] = np.c_[turn, size / 2 - turn @ rng.uniform((-8, -8), (width + 8, height + 8))]
    return frames, frame_of, matrices, rng.random(crops) < 0.6, size


def _expected_hashes() -> dict[str, str]:
    """SHA-1 of each face's pixels at 128 px, from the programs of the time; they fitted mirrored landmarks wrongly."""
    expected = json.loads((VECTORS / "expected" / "seed_folder.json").read_text())
    faces = expected["runs"][0]["output_files"]
    return {name: face["sha1"] for name, face in faces.items() if name != "f_000007_0.png"}


def _differences(some: dict[str, Any], others: dict[str, Any]) -> int:
    return sum(some.get(name) != others.get(name) for name in some.keys() | others.keys())


def _paths(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in _paths(folder)}


def _sha1(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


def _roomy_folder(otherwise: Path) -> Path:
    """Where the faces of a run go: into memory where it has room for them."""
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > FACES_BYTES:
        return MEMORY
    return otherwise


def _sha1_of_pixels(path: Path) -> str:
    return hashlib.sha1(np.ascontiguousarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)).tobytes()).hexdigest()


def _nvidia_smi(field: str) -> str | None:
    try:
        query = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()
    except (OSError, subprocess.CalledProcessError, IndexError):
        return None


def _loaded_driver() -> str | None:
    """What the kernel says, where nvidia-smi did not come into the container."""
    file = Path("/proc/driver/nvidia/version")
    found = re.search(r"(?:Kernel Module|x86_64|aarch64) +(\d[\d.]+)", file.read_text()) if file.exists() else None
    return found[1] if found else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there instead of to stdout")
    parser.add_argument("--allow-cpu", action="store_true", help="without a GPU: run every section at toy sizes")
    parser.add_argument("--only", choices=SECTIONS, metavar="SECTION", help=f"one of {', '.join(SECTIONS)}")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="after which no further case starts")
    parser.add_argument("--facts", action="store_true", help="run nothing: versions, machine and device alone")
    options = parser.parse_args()
    # Before the kernel is imported: that is when Triton decides.
    import torch

    there = torch.cuda.is_available()
    if not there and not options.allow_cpu:
        why = "torch is a CPU build" if torch.version.cuda is None else "no driver or device answers"
        print(f"gpu_check: there is no CUDA device here ({why}), so nothing was measured.", file=sys.stderr)
        return NO_DEVICE
    if not there:
        if options.json is not None and RESULTS in options.json.resolve().parents:
            parser.error("a dry run measures nothing and has no place in bench/results; choose another --json")
        os.environ["TRITON_INTERPRET"] = "1"
    check = Check("cuda" if there else "cpu", options.seconds)
    if options.facts:
        print(json.dumps(check.result))
        return 0
    exit_code = check.all(options.only)
    text = json.dumps(check.result, indent=1) + "\n"
    if options.json is None:
        print(text, end="")
    else:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text)
    for line in check.skipped:
        print(f"skipped: {line}", file=sys.stderr)
    verdict = "all equal" if exit_code == 0 else "NOT EQUAL, or not shown to be"
    print(f"{verdict}, {check.result['seconds']} s", file=sys.stderr)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
