"""Measure the whole job, from a command to its end, against its goals: what `make bench` runs.

    python bench/bench_extract.py                     every goal that a machine answers in minutes
    python bench/bench_extract.py --goals 1 2 --repeats 5
    python bench/bench_extract.py --goals 5 --long    memory over 20,400 frames: some minutes and 6 GB of disk
    python bench/bench_extract.py --device cuda

Writes bench/results/extract.json (another name with --name) and prints a table. Every job is a process of its own,
measured from its start to its end; jobs that are compared run in turn, and the ratio is the median over the pairs.
Nothing is reported where the faces of a job are not those of the stand-in, pixel for pixel.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

from common import (
    Measured,
    core_count,
    median,
    paired,
    ratio_of_pairs,
    run,
    run_metadata,
    save_json,
    spread,
    work_folder,
)

BENCH = Path(__file__).resolve().parent
PYTHON = sys.executable
Job = Callable[[], Measured]


class Footage(NamedTuple):
    frames: Path
    alignments: Path


class Bench:
    """The jobs that are measured, and the goals."""

    def __init__(self, work: Path, device: str, repeats: int, cores: int, long: bool) -> None:
        self.work = work
        self.device = device
        self.repeats = repeats
        self.cores = min(cores, core_count())
        self.long = long
        self.report: dict[str, Any] = {}  # of the last extract
        self.baseline: dict[str, Any] = {}  # of the last stand-in

    def footage(self, **options: Any) -> Footage:
        flags = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        made = json.loads(run([PYTHON, BENCH / "make_clip.py", *flags]).stdout)
        return Footage(Path(made["frames"]), Path(made["alignments"]))

    def extract(self, footage: Footage, *flags: str, cores: int | None = None, first_face: bool = False) -> Measured:
        """One run of gpu-extract; leaves its faces in `work/ours`."""
        faces, alignments = self._fresh("ours", footage)
        report = self.work / "report.json"
        command = [PYTHON, "-m", "gpu_extract", "extract", "-a", alignments, "-fr", footage.frames, "-fc", faces]
        command += ["-sz", "256", "--device", self.device, "--progress", "none", "--json", report, *flags]
        watch = (lambda: next(faces.glob("*.png"), None) is not None) if first_face else None
        measured = run(command, cores or self.cores, watch)
        self.report = json.loads(report.read_text())
        return measured

    def stand_in(self, footage: Footage, *flags: str, reader: str = "library") -> Measured:
        """One run of the job of 2019."""
        faces, alignments = self._fresh("baseline", footage)
        command = [PYTHON, BENCH / "baseline.py", "extract", "-a", alignments, "-fr", footage.frames, "-fc", faces]
        measured = run([*command, "-sz", "256", "--reader", reader, *flags], self.cores)
        self.baseline = json.loads(measured.stdout)
        return measured

    def decode(self, footage: Footage) -> Measured:
        """Every frame decoded, nothing kept."""
        return run([PYTHON, BENCH / "baseline.py", "decode", footage.frames], self.cores)

    def check_faces(self) -> int:
        """Compare the faces of the last two jobs pixel for pixel; returns their number."""
        ours = json.loads(run([PYTHON, BENCH / "baseline.py", "hashes", self.work / "ours" / "faces"]).stdout)
        theirs = self.baseline["hashes"]
        unequal = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        if unequal:
            raise SystemExit(f"{len(unequal)} of {len(theirs)} faces are not those of the stand-in: {unequal[:5]} …")
        return len(theirs)

    def goal_1(self) -> dict[str, Any]:
        """The job of 2019 against this one, same clip, two cores, no GPU."""
        clip = self.footage(frames=600)
        jobs: dict[str, Job] = {
            "stand-in, frames through a pipe": lambda: self.stand_in(clip, reader="pipe"),
            "stand-in, frames in the process": lambda: self.stand_in(clip),
            "gpu-extract": lambda: self.extract(clip),
        }
        measured = paired(jobs, self.repeats)
        faces = self.check_faces()
        pipe, library, ours = measured.values()
        return {
            "target": "≥ 10 × the stand-in, hashes equal face for face",
            "met": ratio_of_pairs(library, ours) >= 10,
            "measured": f"{ratio_of_pairs(pipe, ours):.1f} × with its frames through a pipe, as in 2019; "
            f"{ratio_of_pairs(library, ours):.1f} × with its frames decoded in the process; {faces:,} hashes equal",
            "ratio_pipe": round(ratio_of_pairs(pipe, ours), 3),
            "ratio_library": round(ratio_of_pairs(library, ours), 3),
            "faces_equal": faces,
            "seconds": {name: spread([one.seconds for one in runs]) for name, runs in measured.items()},
            "cpu_seconds": {name: spread([one.cpu_seconds for one in runs]) for name, runs in measured.items()},
            "stand_in_stage_seconds": self.baseline["stage_seconds"],
            **self._stages(),
        }

    def goal_2(self) -> dict[str, Any]:
        """Decoding alone against the whole job."""
        clip = self.footage(frames=600)
        measured = paired(
            {"decode": lambda: self.decode(clip), "gpu-extract": lambda: self.extract(clip)}, self.repeats
        )
        share = 1 / ratio_of_pairs(measured["gpu-extract"], measured["decode"])
        target = 0.6 if self.report["device"] == "cpu" else 0.85
        return {
            "target": f"≥ {target:.0%} of the frame rate of decoding alone",
            "met": share >= target,
            "measured": f"{share:.0%}",
            "share": round(share, 3),
            "frames_per_second": {name: spread([600 / one.seconds for one in runs]) for name, runs in measured.items()},
            "cpu_seconds": {name: spread([one.cpu_seconds for one in runs]) for name, runs in measured.items()},
            **self._stages(),
        }

    def goal_3(self) -> dict[str, Any]:
        """Folders of 1080p images against the job of 2019."""
        result: dict[str, Any] = {"target": "1080p folders: PNG ≥ 4 ×, JPEG ≥ 3 × the stand-in"}
        ratios = {}
        for kind in ("png", "jpg"):
            folder = self.footage(frames=480, folder=kind)
            jobs: dict[str, Job] = {
                "stand-in": lambda folder=folder: self.stand_in(folder),
                "gpu-extract": lambda folder=folder: self.extract(folder),
            }
            measured = paired(jobs, self.repeats)
            ratios[kind] = ratio_of_pairs(*measured.values())
            result[kind] = {
                "ratio": round(ratios[kind], 3),
                "faces_equal": self.check_faces(),
                "seconds": {name: spread([one.seconds for one in runs]) for name, runs in measured.items()},
                "stand_in_stage_seconds": self.baseline["stage_seconds"],
                **self._stages(),
            }
        result["met"] = ratios["png"] >= 4 and ratios["jpg"] >= 3
        result["measured"] = f"PNG {ratios['png']:.1f} ×, JPEG {ratios['jpg']:.1f} ×"
        return result

    def goal_4(self) -> dict[str, Any]:
        """Every fiftieth frame of a clip with a keyframe every 250 frames."""
        clip = self.footage(frames=3000)
        jobs: dict[str, Job] = {
            "decode everything": lambda: self.decode(clip),
            "gpu-extract, every 50th frame": lambda: self.extract(clip, "--extract-every-n", "50"),
            "gpu-extract, every 1000th frame": lambda: self.extract(clip, "--extract-every-n", "1000"),
            "gpu-extract, every frame": lambda: self.extract(clip),
            "stand-in, every 50th frame": lambda: self.stand_in(clip, "--extract-every-n", "50"),
        }
        measured = paired(jobs, self.repeats)
        everything, every_50, every_1000, every, stand_in = measured.values()
        ratio = ratio_of_pairs(everything, every_50)
        return {
            "target": "every 50th frame: ≥ 3 × faster than decoding everything",
            "met": ratio >= 3,
            "measured": f"{ratio:.1f} ×; every 1000th frame {ratio_of_pairs(everything, every_1000):.1f} ×. Every 50th "
            f"against extracting all: {ratio_of_pairs(every, every_50):.1f} ×, against the stand-in's every 50th: "
            f"{ratio_of_pairs(stand_in, every_50):.1f} ×",
            "ratio": round(ratio, 3),
            "seconds": {name: spread([one.seconds for one in runs]) for name, runs in measured.items()},
        }

    def goal_5(self) -> dict[str, Any]:
        """Peak memory of short and long clips."""
        peaks = {}
        for frames in (600, 20_400 if self.long else 3000):
            clip = self.footage(frames=frames)
            peaks[frames] = self.extract(clip).peak_mb
            print(f"  {frames} frames: {peaks[frames]:.0f} MB", file=sys.stderr)
        short, long = peaks.values()
        return {
            "target": "peak memory flat from 600 to 20,000 frames, under 700 MB for 1080p on a CPU",
            # a long clip has a larger alignments file: 2 kB a face
            "met": self.long and long < 700 and long < short * 1.1 + 0.01 * (max(peaks) - 600),
            "measured": ", ".join(f"{frames:,} frames {peak:.0f} MB" for frames, peak in peaks.items())
            + ("" if self.long else " (20,400 with --long)"),
            "peak_mb": {str(frames): round(peak, 1) for frames, peak in peaks.items()},
        }

    def goal_6(self) -> dict[str, Any]:
        """Start-up."""
        clip = self.footage(frames=600)
        jobs: dict[str, Job] = {
            "--help": lambda: run([PYTHON, "-m", "gpu_extract", "--help"], self.cores),
            "first face": lambda: self.extract(clip, first_face=True),
        }
        measured = paired(jobs, max(5, self.repeats))
        help_, first = (median([one.seconds for one in runs]) for runs in measured.values())
        return {
            "target": "--help under 0.3 s, first face under 2 s",
            "met": help_ < 0.3 and first < 2,
            "measured": f"--help {help_:.2f} s, first face {first:.2f} s",
            "seconds": {name: spread([one.seconds for one in runs]) for name, runs in measured.items()},
        }

    def goal_7(self) -> dict[str, Any]:
        """Frames per second by the number of cores."""
        clip = self.footage(frames=600)
        by_cores, limits = {}, {}
        for cores in (1, 2, 4, 8, 16):
            if cores <= core_count():
                runs = [self.extract(clip, cores=cores) for _ in range(self.repeats)]
                by_cores[str(cores)] = spread([600 / one.seconds for one in runs])
                limits[str(cores)] = self.report["limiting_stage"]
        rates = ", ".join(f"{cores}: {rate['median']:.0f} ({limits[cores]})" for cores, rate in by_cores.items())
        return {
            "target": "frames/s by cores, printed and plotted, with the limiting stage",
            "met": True,
            "measured": rates,
            "frames_per_second": by_cores,
            "limiting_stage": limits,
        }

    def _fresh(self, name: str, footage: Footage) -> tuple[Path, Path]:
        """An empty place for a job: its faces folder, not yet there, and its own copy of the alignments file."""
        place = self.work / name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        return place / "faces", Path(shutil.copy(footage.alignments, place))

    def _stages(self) -> dict[str, Any]:
        keys = ("stage_seconds", "wait_seconds", "limiting_stage", "engine", "engine_implementation", "device")
        return {key: self.report.get(key) for key in keys}


def _in_memory(work: Path | None) -> bool:
    """Whether the jobs wrote to memory, not to a disk."""
    return work is not None and Path("/dev/shm") in (work, *work.parents)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--goals", type=int, nargs="+", default=[1, 2, 3, 4, 5, 6, 7], choices=range(1, 8), metavar="N")
    parser.add_argument("--repeats", type=int, default=3, help="pairs to run (default 3)")
    parser.add_argument("--cores", type=int, default=2, help="cores for goals 1 to 6 (default 2)")
    parser.add_argument("--device", default="cpu", help="for gpu-extract (default cpu)")
    parser.add_argument("--long", action="store_true", help="goal 5 with 20,400 frames")
    parser.add_argument("--work", type=Path, help="where the jobs write, such as /dev/shm (default bench/data)")
    parser.add_argument("--name", default="extract", help="of the result file (default extract)")
    args = parser.parse_args()

    results = {}
    with work_folder(args.work) as work:
        bench = Bench(work, args.device, args.repeats, args.cores, args.long)
        for goal in args.goals:
            method = getattr(bench, f"goal_{goal}")
            print(f"goal {goal}: {method.__doc__}", file=sys.stderr, flush=True)
            results[str(goal)] = {"what": method.__doc__, **method()}
    path = save_json(
        args.name,
        {
            **run_metadata(),
            "cores_used": bench.cores,
            "repeats": args.repeats,
            "in_memory": _in_memory(args.work),
            "goals": results,
        },
    )
    for goal, result in results.items():
        print(f"{goal}  {'met ' if result['met'] else 'MISS'}  {result['target']}\n         {result['measured']}")
    print(f"written: bench/results/{path.name}")


if __name__ == "__main__":
    main()
