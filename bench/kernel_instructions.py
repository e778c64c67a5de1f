"""How many machine instructions a pixel of the CUDA kernel takes, from its disassembly; needs no GPU.

    python bench/kernel_instructions.py                    the Markdown table of kernels/README.md

A binary of the kernel is a start, one loop and an end, and does not branch otherwise; counted are the instructions that
a thread issues, divided by the pixels that it cuts, in a program whose rows all lie in the crop. Triton's wheel brings
compiler and disassembler.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import triton
from triton.backends import compiler
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from gpu_extract.kernels import warp_affine

ARCHITECTURES = {75: "Turing", 80: "A100", 86: "Ampere", 89: "Ada", 90: "H100", 100: "B200", 120: "RTX 50"}
POINTERS = {"slab": "*i32", "sources": "*i64", "weights": "*i64", "crops": "*u8"}
NVDISASM = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"


def cubin(architecture: int, taps: int, inside: bool) -> bytes:
    """The kernel as the launcher has it compiled: all pointers on 16 bytes."""
    tile = {name: getattr(warp_affine, name) for name in ("TILE_X", "TILE_Y", "TILE_ROWS")}
    constants = {"TAPS": taps, "INSIDE": inside, "REVERSE": False} | tile
    names = warp_affine._kernel.arg_names
    kinds = {"size": "i32"} | dict.fromkeys(constants, "constexpr")
    signature = {name: kinds.get(name) or POINTERS.get(name, "*i32") for name in names}
    pointers = [i for i, name in enumerate(names) if signature[name].startswith("*")]
    compiled = triton.compile(
        ASTSource(warp_affine._kernel, signature, constants, _aligned(pointers)),
        target=GPUTarget("cuda", architecture, 32),
        options=warp_affine.COMPILE_OPTIONS,
    )
    code: bytes = compiled.asm["cubin"]
    return code


def _aligned(arguments: list[int]) -> object:
    """What says that these lie on 16 bytes: a class of its own up to Triton 3.2."""
    if hasattr(compiler, "AttrsDescriptor"):
        return compiler.AttrsDescriptor.from_dict(
            {"cls": "AttrsDescriptor", "arg_properties": {"tt.divisibility": arguments}}
        )
    return {(i,): [["tt.divisibility", 16]] for i in arguments}


def disassembled(code: bytes) -> list[tuple[str, str]]:
    """(operation, operands) of each instruction, with branch targets as indices into this list."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        text = subprocess.run([NVDISASM, "-c", file.name], capture_output=True, text=True, check=True).stdout
    instructions, labels = [], {}
    for line in text.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(instructions)
        elif found := re.search(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+\s+)?([A-Z][A-Z0-9_.]*)\s*(.*?);", line):
            instructions.append((found[1], found[2]))
    return [(op, re.sub(r"\.L_x_\d+", lambda m: str(labels.get(m[0], m[0])), args)) for op, args in instructions]


def issued(instructions: list[tuple[str, str]], turns: int) -> int:
    """The number of instructions of a thread whose loop turns so many times."""
    end = max(i for i, (operation, _) in enumerate(instructions) if operation == "EXIT")
    branches = [(i, int(args.split("`(")[1].split(")")[0])) for i, (op, args) in enumerate(instructions) if "BRA" in op]
    ((last, first),) = [(i, target) for i, target in branches if target < i]
    return end + 1 + (turns - 1) * (last - first + 1)


def main() -> None:
    turns = warp_affine.TILE_ROWS // warp_affine.TILE_Y
    pixels = turns * warp_affine.TILE_X * warp_affine.TILE_Y / (32 * warp_affine.COMPILE_OPTIONS["num_warps"])
    print("| | cubic, inside | cubic, over a border | linear, inside | linear, over a border |")
    print("|---|---|---|---|---|")
    for architecture, name in ARCHITECTURES.items():
        try:
            binaries = [cubin(architecture, taps, inside) for taps in (4, 2) for inside in (True, False)]
        except RuntimeError as error:
            if "is not defined for option 'gpu-name'" not in str(error):
                raise
            print(
                f"| sm_{architecture} ({name}) | the assembler of Triton {triton.__version__} does not know it | | | |"
            )
            continue
        cells = [f"{issued(disassembled(code), turns) / pixels:.0f}" for code in binaries]
        print(f"| sm_{architecture} ({name}) | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
