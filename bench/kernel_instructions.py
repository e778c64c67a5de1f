"""What the CUDA kernel's binaries take, from their disassembly: instructions a pixel, registers; needs no GPU.

    python bench/kernel_instructions.py                    the Markdown table of kernels/README.md
    python bench/kernel_instructions.py --write            results/kernel_instructions.json as well

A binary of the kernel is a start, one loop and an end, and does not branch otherwise; counted are the instructions that
a thread issues, divided by the pixels that it cuts, in a program whose rows all lie in the crop. Triton's wheel brings
compiler and disassembler.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import triton
from common import run_metadata, save_json
from triton.backends import compiler as backends
from triton.compiler import ASTSource

from gpu_extract.kernels import warp_affine

ARCHITECTURES = {75: "Turing", 80: "A100", 86: "Ampere", 89: "Ada", 90: "H100", 100: "B200", 120: "RTX 50"}
BINARIES = {
    f"{'cubic' if taps == 4 else 'linear'}, {'inside' if inside else 'over a border'}": (taps, inside)
    for taps, inside in product((4, 2), (True, False))
}
POINTERS = {"slab": "*i32", "sources": "*i64", "weights": "*i64", "crops": "*u8"}
NUMBERS = ("size", "program_rows")
KINDS = {
    "loads": ("LDG",),
    "stores": ("STG",),
    "permutations": ("PRMT",),
    "products": ("IDP",),
    "packed": ("I2IP",),
    "uniform": ("U", "R2UR"),
}
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def compiled(architecture: int, taps: int, inside: bool, **options: object) -> Any:
    """The kernel as the launcher has it compiled: all pointers on 16 bytes."""
    kernel = warp_affine._kernel
    names = kernel.arg_names
    constants = {"TAPS": taps, "INSIDE": inside, "REVERSE": False}
    constants |= {name: getattr(warp_affine, name) for name in ("TILE_X", "TILE_Y")}
    signature = {name: POINTERS.get(name, "*i32") for name in names if name not in constants}
    pointers = [names.index(name) for name in signature if name not in NUMBERS]
    signature |= dict.fromkeys(NUMBERS, "i32")
    if hasattr(backends, "AttrsDescriptor"):  # up to Triton 3.2
        aligned = backends.AttrsDescriptor.from_hints(dict.fromkeys(pointers, 16))
    else:
        signature |= dict.fromkeys(constants, "constexpr")
        aligned = {(i,): [["tt.divisibility", 16]] for i in pointers}
    return triton.compile(
        ASTSource(kernel, signature, constants, aligned),
        target=backends.GPUTarget("cuda", architecture, 32),
        options=warp_affine.COMPILE_OPTIONS | options,
    )


def _told_by(tool: str, code: bytes, flag: str) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        return subprocess.run([TOOLS / tool, flag, file.name], capture_output=True, text=True, check=True).stdout


def registers(code: bytes) -> tuple[int, int]:
    """Of a thread: registers, and bytes of local memory, where registers go that are too many."""
    usage = {
        name: int(number) for name, number in re.findall(r"(\w+):(\d+)", _told_by("cuobjdump", code, "-res-usage"))
    }
    return usage["REG"], usage["STACK"] + usage["LOCAL"]


def disassembled(code: bytes) -> list[tuple[str, str]]:
    """(operation, operands) of each instruction, with branch targets as indices into this list."""
    instructions: list[tuple[str, str]] = []
    labels: dict[str, int] = {}
    for line in _told_by("nvdisasm", code, "-c").splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(instructions)
        elif found := re.search(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+\s+)?([A-Z][A-Z0-9_.]*)\s*(.*?);", line):
            instructions.append((found[1], found[2]))
    return [(op, re.sub(r"\.L_x_\d+", lambda m: str(labels.get(m[0], m[0])), args)) for op, args in instructions]


def issued(instructions: list[tuple[str, str]], turns: int) -> Counter[str]:
    """How many instructions of each kind a thread issues whose loop turns so many times."""
    end = max(i for i, (operation, _) in enumerate(instructions) if operation == "EXIT")
    branches = [(i, int(args.split("`(")[1].split(")")[0])) for i, (op, args) in enumerate(instructions) if "BRA" in op]
    ((last, first),) = [(i, target) for i, target in branches if target < i]
    kinds = [_kind_of(operation) for operation, _ in instructions]
    counts = Counter(kinds[: end + 1])
    for kind in kinds[first : last + 1]:
        counts[kind] += turns - 1
    return counts


def _kind_of(operation: str) -> str:
    return next((kind for kind, starts in KINDS.items() if operation.startswith(starts)), "other")


def measured(architecture: int, taps: int, inside: bool) -> dict[str, Any]:
    """Of one binary: instructions a pixel, all and by kind, registers of a thread and bytes that did not fit them."""
    code = compiled(architecture, taps, inside).asm["cubin"]
    turns = warp_affine.MOST_ROWS // warp_affine.TILE_Y
    pixels = turns * 2 * warp_affine.TILE_X * warp_affine.TILE_Y / (32 * warp_affine.COMPILE_OPTIONS["num_warps"])
    counts = issued(disassembled(code), turns)
    n_registers, spilled = registers(code)
    return {
        "instructions": round(counts.total() / pixels, 1),
        "of": {kind: round(counts[kind] / pixels, 1) for kind in (*KINDS, "other")},
        "registers": n_registers,
        "spilled_bytes": spilled,
    }


def table(results: dict[str, dict[str, Any]]) -> str:
    """The Markdown table of kernels/README.md, of results by architecture and binary."""
    lines = [f"| | {' | '.join(BINARIES)} |", f"|---|{'---|' * len(BINARIES)}"]
    for architecture, name in ARCHITECTURES.items():
        binaries = results[f"sm_{architecture}"]
        cells = [f"{binaries[name]['instructions']:.0f} ({binaries[name]['registers']})" for name in BINARIES]
        lines.append(f"| sm_{architecture} ({name}) | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="write results/kernel_instructions.json")
    write = parser.parse_args().write
    results = {
        f"sm_{architecture}": {name: measured(architecture, *binary) for name, binary in BINARIES.items()}
        for architecture in ARCHITECTURES
    }
    print(table(results))
    if write:
        metadata = run_metadata()
        del metadata["machine"]
        save_json("kernel_instructions", metadata | {"kernels": results})


if __name__ == "__main__":
    main()
