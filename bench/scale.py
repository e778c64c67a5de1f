"""What one core and one disk do, and from it how long many machines would take: bench/results/scale.json.

    python bench/scale.py                   measure and simulate: some ten minutes
    python bench/scale.py --simulate        simulate anew, from the figures in the file
    python bench/scale.py --table           print the tables of docs/scale.md
    python bench/scale.py --write           put them there

Figures of a core are processor time of processes that are held to one core. Those of a frame or a face are differences
of runs that differ in nothing else, so that no start is in them. A machine that does other work at the same time makes
all of them larger, and leaves their ratios; the file has its load.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import scale_model
from common import REPO, RESULTS, Measured, median, paired, run, run_metadata, save_json, spread, work_folder

RESULT = RESULTS / "scale.json"
DOCUMENT = REPO / "docs" / "scale.md"
BEGIN, END = "<!-- scale:begin -->\n", "<!-- scale:end -->"
PYTHON = sys.executable
FRAMES, MANY, LONG = 600, 6_000, 12_000
DISK_FILES, DISK_FILE_BYTES = 4_000, 80_000
Job = Callable[[], Measured]
TOLERANCE = 0.3
"""By which a constant of the program may differ from what is measured."""


class Bench:
    """Footage, and the runs over it."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.full = self._footage(frames=FRAMES)
        self.small = self._footage(frames=FRAMES, width=320, height=180)
        self.long = self._footage(frames=LONG, width=320, height=180)
        self.full_long = self._footage(frames=MANY)
        self.tiny = self._footage(frames=FRAMES, width=64, height=36, faces=1)
        self.many_tiny = self._footage(frames=MANY, width=64, height=36, faces=1)

    def _footage(self, **options: int) -> tuple[Path, Path]:
        flags = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        made = json.loads(run([PYTHON, REPO / "bench" / "make_clip.py", *flags]).stdout)
        return Path(made["frames"]), Path(made["alignments"])

    def with_faces(self, footage: tuple[Path, Path], each: int) -> tuple[Path, Path]:
        """The same frames with so many faces each: the first ones, again and again."""
        import pickle
        import zlib

        path = self.work / f"{each}_faces_{footage[1].parent.name}.fsa"
        if not path.exists():
            entries = pickle.loads(zlib.decompress(footage[1].read_bytes()))  # our own file
            repeated = {key: [faces[i % len(faces)] for i in range(each)] for key, faces in entries.items()}
            path.write_bytes(zlib.compress(pickle.dumps(repeated)))
        return footage[0], path

    def extract(self, footage: tuple[Path, Path], *flags: str | Path, cores: int = 1) -> Measured:
        faces = self.work / "faces"
        shutil.rmtree(faces, ignore_errors=True)
        command = [PYTHON, "-m", "gpu_extract", "extract", "-a", footage[1], "-fr", footage[0], "-fc", faces]
        return run([*command, "--no-update", "--device", "cpu", "--progress", "none", "-q", *flags], cores)

    def read(self, footage: tuple[Path, Path]) -> Measured:
        """Frames decoded by the program's own source, nothing converted; its processor time is what it prints."""
        measured = run([PYTHON, __file__, "--read", footage[0]], 1)
        return Measured(measured.seconds, float(measured.stdout), measured.peak_mb, "")

    def prepare_merge(self, name: str, footage: tuple[Path, Path]) -> None:
        """Two shards of faces of 16 px, in folders that `merge` begins from again and again."""
        folder = self.work / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        shutil.copy(footage[1], folder / "kept.fsa")
        command = [PYTHON, "-m", "gpu_extract", "extract", "-a", folder / "kept.fsa", "-fr", footage[0]]
        for shard in ("0/2", "1/2"):
            flags = ("-sz", "16", "--shard", shard, "--device", "cpu", "--progress", "none", "-q")
            run([*command, "-fc", folder / "faces", *flags])
        (folder / "receipts").mkdir()
        for path in (folder / "faces").glob(".gpu-extract.journal.*"):
            shutil.copy(path, folder / "receipts")

    def merge(self, name: str, footage: tuple[Path, Path]) -> Measured:
        folder = self.work / name
        for path in (folder / "faces").glob(".gpu-extract.journal*"):
            path.unlink()
        for path in (folder / "receipts").iterdir():
            shutil.copy(path, folder / "faces")
        shutil.copy(folder / "kept.fsa", folder / "a.fsa")
        command = [PYTHON, "-m", "gpu_extract", "merge", "-a", folder / "a.fsa", "-fr", footage[0]]
        return run([*command, "-fc", folder / "faces", "--device", "cpu", "--progress", "none", "-q"], 1)

    def fill_disk(self) -> Measured:
        """Files of the size of faces, and a wait until the disk has them."""
        folder = self.work / "files"
        folder.mkdir()
        data = os.urandom(DISK_FILE_BYTES)
        os.sync()
        began = time.perf_counter()
        for number in range(DISK_FILES):
            (folder / f"{number}.png").write_bytes(data)
        os.sync()
        seconds = time.perf_counter() - began
        shutil.rmtree(folder)
        return Measured(seconds, 0.0, 0.0, "")


def user_seconds(job: Job) -> Job:
    """The same, with the time outside of the system only: writing a file lets other threads go on."""

    def measured() -> Measured:
        before = os.times().children_user
        found = job()
        return Measured(found.seconds, os.times().children_user - before, found.peak_mb, "")

    return measured


def measure(repeats: int) -> dict[str, Any]:
    with work_folder() as work:
        bench = Bench(work)
        bench.prepare_merge("merge", bench.small)
        bench.prepare_merge("large merge", bench.long)
        one, four = bench.with_faces(bench.full, 1), bench.with_faces(bench.full, 4)
        jobs: dict[str, Job] = {
            "read 1080p": lambda: bench.read(bench.full),
            "read 320x180": lambda: bench.read(bench.long),
            "1080p, one face": lambda: bench.extract(one),
            "1080p, four faces": lambda: bench.extract(four),
            "320x180": lambda: bench.extract(bench.small, "-sz", "64"),
            "320x180, long": lambda: bench.extract(bench.long, "-sz", "64"),
            "tiny": user_seconds(lambda: bench.extract(bench.tiny, "-sz", "16")),
            "tiny, many": user_seconds(lambda: bench.extract(bench.many_tiny, "-sz", "16")),
            "one frame": lambda: bench.extract(bench.full, "-een", str(FRAMES)),
            "one frame of many": lambda: bench.extract(bench.full_long, "-een", str(MANY)),
            "merge": lambda: bench.merge("merge", bench.small),
            "large merge": lambda: bench.merge("large merge", bench.long),
            "disk": bench.fill_disk,
        }
        runs = paired(jobs, repeats)
        bench.extract(four)
        sizes = [path.stat().st_size for path in (work / "faces").glob("*.png")]
    cpu = {name: [one.cpu_seconds for one in found] for name, found in runs.items()}
    wall = {name: [one.seconds for one in found] for name, found in runs.items()}

    def between(more: str, less: str, count: int) -> float:
        return median([a - b for a, b in zip(cpu[more], cpu[less], strict=True)]) / count

    read = median(cpu["read 1080p"]) / FRAMES
    face = between("1080p, four faces", "1080p, one face", 3 * FRAMES)
    whole = between("1080p, one face", "one frame", FRAMES - 1)
    figures = {
        "read_1080p": read,
        "read_320x180": median(cpu["read 320x180"]) / LONG,
        "face": face,
        "face_bytes": sum(sizes) / len(sizes),
        "frame_besides": max(0.0, whole - read - face),
        "frame_320x180": between("320x180, long", "320x180", LONG - FRAMES),
        "interpreter": between("tiny, many", "tiny", MANY - FRAMES),
        "start": median(cpu["one frame"]),
        "look_through": between("one frame of many", "one frame", MANY - FRAMES),
        "merge_per_face": between("large merge", "merge", 2 * (LONG - FRAMES)),
        "disk_bytes_per_second": DISK_FILES * DISK_FILE_BYTES / median(wall["disk"]),
    }
    print("the runs are done; what follows is simulated", file=sys.stderr)
    runs_of = {name: {"cpu": spread(cpu[name]), "wall": spread(wall[name])} for name in jobs}
    return {"measured": figures, "repeats": repeats, "runs": runs_of}


def constants(figures: dict[str, float]) -> dict[str, dict[str, float]]:
    """The constants of the program that claim to be these figures, and what they should be."""
    from gpu_extract.jobs.runs import processes
    from gpu_extract.run import shards

    read, face = figures["read_1080p"], figures["face"]
    pixels = 320 * 180 / shards.READING_PIXELS
    besides = figures["frame_320x180"] - pixels * read - 2 * face * (64 / 256) ** 2
    found = {
        "FACE_COST": (shards.FACE_COST, face / read),
        "FRAME_COST": (shards.FRAME_COST, besides / read),
        "COST_SECONDS": (processes.COST_SECONDS, read),
        "INTERPRETER_SECONDS": (processes.INTERPRETER_SECONDS, figures["interpreter"]),
    }
    return {name: {"in_the_program": has, "measured": round(should, 6)} for name, (has, should) in found.items()}


def conditions(result: dict[str, Any]) -> str:
    machine, versions = result["machine"], result["versions"]
    before, after = result["load_average"]
    busy = (
        f" The machine had other work (load {before:g} before, {after:g} after, on {machine['cores']} cores), so all "
        "figures are larger than an idle one's."
        if max(before, after) > machine["cores"]
        else ""
    )
    return (
        f"{result['date'][:10]}, {machine['cpu']}, one of {machine['cores']} cores, NumPy {versions['numpy']}, "
        f"PyAV {versions['av']}, commit {result['commit']}{' with changes' if result['uncommitted_changes'] else ''}; "
        f"medians of {result['repeats']} pairs: `python bench/scale.py`.{busy}"
    )


def measured_table(result: dict[str, Any]) -> list[str]:
    found = result["measured"]
    rows = [
        ("a frame of 1920 x 1080 (H.264) read", f"{found['read_1080p'] * 1e3:.2f} ms of one core"),
        ("a frame of 320 x 180 read", f"{found['read_320x180'] * 1e3:.2f} ms of one core"),
        ("a face of 256 px cut, compressed, written", f"{found['face'] * 1e3:.2f} ms of one core"),
        ("the rest of a frame of 1920 x 1080", f"{found['frame_besides'] * 1e3:.2f} ms of one core"),
        ("all of a frame of 320 x 180 with two faces of 64 px", f"{found['frame_320x180'] * 1e3:.2f} ms of one core"),
        ("of a frame, what one process does one after the other", f"{found['interpreter'] * 1e3:.2f} ms at most"),
        ("a process, from its start over one frame to its end", f"{found['start']:.2f} s of one core"),
        ("a packet that a shard looks at and leaves", f"{found['look_through'] * 1e6:.0f} µs of one core"),
        ("`merge`, for 100,000 faces", f"{found['merge_per_face'] * 1e5:.1f} s of one core"),
        ("a face's file", f"{found['face_bytes'] / 1e3:.0f} kB"),
        ("such files, written to the disk", f"{found['disk_bytes_per_second'] / 1e6:,.0f} MB/s"),
    ]  # fmt: skip
    return ["| measured | |", "|---|---|", *(f"| {what} | {value} |" for what, value in rows), "", conditions(result)]


def assumed_lines(result: dict[str, Any]) -> list[str]:
    assumed, found = result["assumed"], result["measured"]
    disk = found["disk_bytes_per_second"] / (found["face_bytes"] * assumed["faces_per_frame"])
    return [
        f"Assumed, not measured: {assumed['footage_hours']:,} hours of films of {assumed['film_hours']} h, 1080p, "
        f"{assumed['frames_per_second']} frames/s, {assumed['faces_per_frame']} face a frame; machines of "
        f"{assumed['cores']} such cores, a process a core, and a disk that takes "
        f"{assumed['disk_bytes_per_second'] / 1e9:g} GB/s (the measured one would end at "
        f"{disk:,.0f} frames/s); with a GPU that decodes "
        f"{assumed['gpu_frames_per_second']:,} frames/s, {assumed['gpu_processes']} processes; a store that takes "
        f"{assumed['store_bytes_per_second'] / 1e9:g} GB/s from all and {assumed['machine_bytes_per_second'] / 1e9:g} "
        f"GB/s from one; a new machine {assumed['new_machine_seconds']} s after one is lost, and with it all that its "
        "shards in flight had done."
    ]


def hours(value: float) -> str:
    return f"{value:,.0f} h" if value >= 10 else f"{value:.1f} h" if value >= 1 else f"{value * 60:.0f} min"


def minutes(value: float) -> str:
    return f"{value:.0f} min" if value >= 10 else f"{value:.1f} min"


def simulated_table(result: dict[str, Any]) -> list[str]:
    lines = [
        "| machines | each | limit | no losses | lost after 24 h | after 4 h | in vain | shards a film | that is |",
        "|---" * 9 + "|",
    ]
    rows = {(row["machines"], row["kind"], row["lost_after"]): row for row in result["simulation"]}
    for count, kind in dict.fromkeys((row["machines"], row["kind"]) for row in result["simulation"]):
        never, day, four = (rows[count, kind, life] for life in ("never", "24 h", "4 h"))
        best = four["by_division"][str(four["best_division"])]
        low, high = four["within_5_percent"]
        each = f"{kind}: {never['frames_per_second']:,} frames/s"
        lines.append(
            f"| {count:,} | {each} | {never['limit']} | {hours(never['hours'])} "
            f"| {hours(day['hours'])} | {hours(four['hours'])} | {best['lost_percent']:.1f}% | {low} to {high} "
            f"| {minutes(best['shard_minutes'])} |"
        )
    return lines


def part(result: dict[str, Any]) -> str:
    """What stands between the marks of docs/scale.md."""
    return "\n".join([*measured_table(result), "", *assumed_lines(result), "", *simulated_table(result), ""])


def with_part(text: str, made: str) -> str:
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{made}{END}{after}"


def read(path: Path) -> None:
    """In a process of its own: print the processor time that all frames of a video take."""
    import numpy as np

    from gpu_extract.alignments import Alignments
    from gpu_extract.frames import open_frames

    count = len(Alignments.load(path.parent / "alignments.fsa").frame_names)
    with open_frames(path) as source:
        began = time.process_time()
        for _ in source.frames(np.arange(count)):
            pass
        print(time.process_time() - began)


def _measured(repeats: int) -> dict[str, Any]:
    metadata, before = run_metadata(), os.getloadavg()[0]
    found = measure(repeats)
    return metadata | {"load_average": [round(before, 1), round(os.getloadavg()[0], 1)]} | found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--simulate", action="store_true", help="from the figures in the file")
    how.add_argument("--table", action="store_true", help="print the tables")
    how.add_argument("--write", action="store_true", help="put the tables into docs/scale.md")
    how.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read is not None:
        read(options.read)
        return
    if options.table or options.write:
        made = part(json.loads(RESULT.read_text()))
        if options.write:
            DOCUMENT.write_text(with_part(DOCUMENT.read_text("utf-8"), made), "utf-8")
        else:
            print(made)
        return
    result = json.loads(RESULT.read_text()) if options.simulate else _measured(options.repeats)
    result["constants"] = constants(result["measured"])
    result["assumed"] = scale_model.ASSUMED
    result["simulation"] = scale_model.simulation(result["measured"])
    save_json("scale", result)
    print(part(result))
    for name, one in result["constants"].items():
        off = abs(one["in_the_program"] / one["measured"] - 1)
        verdict = f"WRONG by {off:.0%}" if off > TOLERANCE else "good"
        print(f"{name}: {one['in_the_program']} in the program, {one['measured']} measured: {verdict}", file=sys.stderr)


if __name__ == "__main__":
    main()
