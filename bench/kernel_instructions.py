"""How many machine instructions a pixel of the CUDA kernel takes, from its disassembly; needs no GPU.

    python bench/kernel_instructions.py                    the Markdown table of kernels/README.md

The kernel has one branch, for crops that reach over their source's border, and no loop: every way through its binary is
counted from the start to an exit, and the longest is given for each side of the branch. Triton's wheel brings compiler
and disassembler.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from gpu_extract.kernels import warp_affine

ARCHITECTURES = {75: "Turing", 80: "A100", 86: "Ampere", 89: "Ada", 90: "H100", 100: "B200", 120: "RTX 50"}
POINTERS = {"slab": "*i32", "sources": "*i64", "weights": "*i64", "crops": "*u8"}
NVDISASM = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"


def cubin(architecture: int, taps: int) -> bytes:
    """The kernel as the launcher has it compiled: all pointers on 16 bytes."""
    constants = {"TAPS": taps, "REVERSE": False, "TILE_X": warp_affine.TILE_X, "TILE_Y": warp_affine.TILE_Y}
    names = warp_affine._kernel.arg_names
    kinds = {"size": "i32"} | dict.fromkeys(constants, "constexpr")
    signature = {name: kinds.get(name) or POINTERS.get(name, "*i32") for name in names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if signature[name].startswith("*")}
    compiled = triton.compile(
        ASTSource(warp_affine._kernel, signature, constants, aligned),
        target=GPUTarget("cuda", architecture, 32),
        options=warp_affine.COMPILE_OPTIONS,
    )
    code: bytes = compiled.asm["cubin"]
    return code


def disassembled(code: bytes) -> list[tuple[bool, str, str]]:
    """(predicated, operation, operands) of each instruction, with branch targets as indices into this list."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        text = subprocess.run([NVDISASM, "-c", file.name], capture_output=True, text=True, check=True).stdout
    instructions, labels = [], {}
    for line in text.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(instructions)
        elif found := re.search(r"/\*[0-9a-f]{4,}\*/\s+(@!?U?P\d+\s+)?([A-Z][A-Z0-9_.]*)\s*(.*?);", line):
            instructions.append((bool(found[1]), found[2], found[3]))
    return [(p, op, re.sub(r"\.L_x_\d+", lambda m: str(labels.get(m[0], m[0])), args)) for p, op, args in instructions]


def ways(instructions: list[tuple[bool, str, str]]) -> list[int]:
    """The number of instructions on each way from the start to the last exit, ascending."""
    found = set()
    starts = [(0, 0)]
    while starts:
        at, count = starts.pop()
        while True:
            predicated, operation, operands = instructions[at]
            count += 1
            if operation == "EXIT" and not predicated:
                found.add(count)
                break
            target = re.search(r"\b\d+\b", operands) if operation.startswith("BRA") else None
            if target and predicated:
                starts.append((int(target[0]), count))
            at = int(target[0]) if target and not predicated else at + 1
    return sorted(found)


def main() -> None:
    per_thread = warp_affine.TILE_X * warp_affine.TILE_Y / (32 * warp_affine.COMPILE_OPTIONS["num_warps"])
    print("| | cubic, inside | cubic, over a border | linear, inside | linear, over a border |")
    print("|---|---|---|---|---|")
    for architecture, name in ARCHITECTURES.items():
        counts = [ways(disassembled(cubin(architecture, taps))) for taps in (4, 2)]
        cells = [f"{count / per_thread:.0f}" for pair in counts for count in (pair[0], pair[-1])]
        print(f"| sm_{architecture} ({name}) | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
