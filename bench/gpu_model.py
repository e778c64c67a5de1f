"""What a GPU machine should sustain, by stage: a prediction from counts, vendors' figures and CPU stages measured here.

    python bench/gpu_model.py                     the tables of docs/gpu.md
    python bench/gpu_model.py --write             put them there

No GPU gave any of its figures; a day with one tests them (bench/README.md). Stages run side by side, so the slowest one
is the rate of the whole; cores do what is left to the CPU between them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

from common import REPO, RESULTS

DOCUMENT = REPO / "docs" / "gpu.md"
BEGIN, END = "<!-- model:begin -->\n", "<!-- model:end -->"
SOURCES = ("extract", "interpreter", "kernel_instructions")
"""The files in results/ that it is made of."""
FACES, SIZE, FRAMES = 2, 256, 600
"""Of the clip whose CPU stages are in results/extract.json, 1920 x 1080."""
REGION_BYTES = 3 * 440 * 440
"""That a face of it uploads: its square, turned, with the taps around it."""
CORES = (4, 16, 64)
BATCH_SECONDS = 0.00045
"""In which a batch holds the interpreter, on the thread that feeds the device; counted with simulated devices."""
FACES_A_BATCH = 50
"""That gather in ten milliseconds at 1,000 frames/s and more."""


class Card(NamedTuple):
    """By the vendor's data sheets."""

    name: str
    architecture: int  # sm_
    processors: int  # SMs
    hertz: float  # boost
    upload: float  # bytes a second over PCIe, of what its lanes could carry 80 %
    decoders: int  # NVDEC engines
    h264: float  # frames a second of one at 1080p, 4:2:0, 8 bits
    hevc: float


CARDS = (
    Card("T4", 75, 40, 1.59e9, 12.6e9, 2, 771, 1316),
    Card("L4", 89, 58, 2.04e9, 25.2e9, 4, 903, 1641),
    Card("H100", 90, 132, 1.755e9, 50.4e9, 7, 748, 1415),
    Card("H200", 90, 132, 1.755e9, 50.4e9, 7, 748, 1415),
)
"""NVDEC by the application note of the Video Codec SDK 13.0, which has no row for Hopper: Ampere's are taken."""
LANES = 64
"""Integer instructions that a processor finishes in a cycle; it issues up to 128 of all kinds."""
Result = Mapping[str, Any]
"""Of a file in results/."""


def stages(result: Result, held: Result) -> dict[str, float]:
    """Seconds of one core that a frame takes, by what the CPU has to do; the lock's by its threads together."""
    goal = result["goals"]["2"]
    busy = {name: seconds / FRAMES for name, seconds in goal["stage_seconds"].items()}
    return {
        "decode": goal["cpu_seconds"]["decode"]["median"] / FRAMES,
        "convert": busy["load"],
        "warp": busy["warp"],
        "finish": busy["encode"] + busy["hash"] + busy["write"],
        "lock": sum(part["median"] for part in held["milliseconds_a_frame"]["run"].values()) / 1000,
    }


def cubic_instructions(counted: Result, card: Card) -> float:
    """Of a pixel, by its disassembly; inside a region, as most are."""
    instructions: float = counted["kernels"][f"sm_{card.architecture}"]["cubic, inside"]["instructions"]
    return instructions


def rates(card: Card, cores: int, cpu: Mapping[str, float], instructions: float, *, decodes: bool) -> dict[str, float]:
    """Frames a second of each stage; decodes: whether the card does."""
    pixels = FACES * SIZE * SIZE
    left_to_cores = cpu["finish"] + (0.0 if decodes else cpu["decode"] + cpu["convert"])
    found = {
        "kernel": card.processors * LANES * card.hertz / (pixels * instructions),
        "PCIe": card.upload / (FACES * 3 * SIZE * SIZE if decodes else FACES * REGION_BYTES),
        "cores": cores / left_to_cores,
        "lock, one process": 1 / (cpu["lock"] + BATCH_SECONDS * FACES / FACES_A_BATCH),
    }
    if decodes:
        found |= {"NVDEC, one session": card.h264, "NVDEC, all engines": card.decoders * card.h264}
    return found


def limit(found: Mapping[str, float], *, processes: bool) -> tuple[str, float]:
    """The slowest stage of one process, or of as many as the machine has use for."""
    of_one = ("lock, one process", "NVDEC, one session")
    counted = {name: rate for name, rate in found.items() if not (processes and name in of_one)}
    name = min(counted, key=counted.__getitem__)
    return name, counted[name]


def part(result: Result, held: Result, counted: Result) -> str:
    """The generated part of docs/gpu.md."""
    cpu = stages(result, held)
    lines = [
        f"Measured on {result['date'][:10]} ({result['machine']['cpu']}, commit {result['commit']}), milliseconds of "
        f"one core a frame of 1080p with {FACES} faces of {SIZE} px: "
        + ", ".join(f"{name} {1000 * seconds:.2f}" for name, seconds in cpu.items())
        + ".",
        "",
        "| frames/s, H.264 1080p | cores | no GPU | GPU cuts: one process | many | and decodes: one process | many |",
        "|---|---|---|---|---|---|---|",
    ]
    for card in CARDS:
        for cores in CORES:
            alone = cores / (cpu["decode"] + cpu["convert"] + cpu["warp"] + cpu["finish"])
            cells = [f"{_rounded(alone):,}"]
            for decodes in (False, True):
                found = rates(card, cores, cpu, cubic_instructions(counted, card), decodes=decodes)
                for processes in (False, True):
                    name, rate = limit(found, processes=processes)
                    cells.append(f"{_rounded(rate):,} ({name.partition(',')[0]})")
            lines.append(f"| {card.name} | {cores} | {' | '.join(cells)} |")
    lines += [
        "",
        "| of each stage alone, frames/s | " + " | ".join(card.name for card in CARDS) + " |",
        "|---|" + "---|" * len(CARDS),
    ]
    every, copied = (
        [rates(card, 16, cpu, cubic_instructions(counted, card), decodes=decodes) for card in CARDS]
        for decodes in (True, False)
    )
    for name in ("kernel", "NVDEC, one session", "NVDEC, all engines"):
        lines.append(f"| {name} | " + " | ".join(f"{_rounded(found[name]):,}" for found in every) + " |")
    lines.append(
        "| PCIe, faces' pixels uploaded | " + " | ".join(f"{_rounded(found['PCIe']):,}" for found in copied) + " |"
    )
    return "\n".join(lines) + "\n"


def _rounded(rate: float) -> int:
    """To two digits: it is a model."""
    return int(round(rate, 2 - len(str(int(rate)))))


def with_part(text: str, made: str) -> str:
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{made}{END}{after}"


def main() -> None:
    loaded = [json.loads((RESULTS / f"{name}.json").read_text("utf-8")) for name in SOURCES]
    made = part(*loaded)
    if "--write" not in sys.argv[1:]:
        print(made)
        return
    DOCUMENT.write_text(with_part(DOCUMENT.read_text("utf-8"), made), "utf-8")


if __name__ == "__main__":
    main()
