"""Compile the head's kernels for GPUs that are not here, and print what each takes of registers and shared memory.

    python benchmarks/kernels.py --architectures 80 90 120
    python benchmarks/kernels.py --architectures 86 89 100 --all --json

Needs Triton (make kernels), whose wheel has the assembler. A spill, more shared memory than the architecture has, or a
kernel without products is an error.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

import torch

from recognition.cli import make_parser, run_command
from recognition.errors import ConfigError
from recognition.heads.fused.shapes import EMBEDDING_SIZES, Shapes, shapes_for

SHARED_BYTES = {80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10, 100: 227 << 10, 120: 99 << 10}
"""What a block of an architecture may have, of NVIDIA's programming guide: "Technical Specifications"."""
_SUFFIX = {90: "a", 100: "a", 120: "a"}
_MOMENTA = {"none": (0, "*fp32"), "float32": (1, "*fp32"), "bf16": (2, "*bf16"), "int8": (3, "*i8")}
_SECOND = {"float32": "*fp32", "bf16": "*i16", "int8": "*u8"}
"""AdamW's second moment where the first is so."""
_ALIGNED = ("num_rows", "num_classes")
_TYPES = {
    **dict.fromkeys(("x", "w", "e", "shadow"), "*bf16"),
    **dict.fromkeys(("norms", "largest", "numerators", "weight", "values", "momentum_scale", "inverse_norm"), "*fp32"),
    **dict.fromkeys(("positions", "sample", "keys"), "*i64"),
    **dict.fromkeys(("num_rows", "num_classes", "each", "start"), "i32"),
    **dict.fromkeys(("limit", "shift"), "fp32"),
    **{"totals": "*fp64", "rates": "*fp32", "refused": "*i32", "first_row": "i64"},
    **{"second_scale": "*fp32", "corrections": "*fp64", "updates": "*i32"},
}


@dataclass(frozen=True)
class Variant:
    """A kernel to be compiled."""

    name: str
    embedding_size: int
    function: Any
    constants: dict[str, Any]
    warps: int
    stages: int
    types: dict[str, str]


def main(argv: Sequence[str] | None = None) -> int:
    """Compile, print the table, and return the exit status."""
    parser = make_parser("kernels", __doc__)
    parser.add_argument("--architectures", type=int, nargs="+", default=[80, 90, 120], help="%(default)s")
    parser.add_argument("--all", action="store_true", help="every embedding size and state format")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return run_command(parser, _run, argv)


def _run(args: argparse.Namespace) -> None:
    rows = [compiled(each, arch) for arch in args.architectures for each in variants(arch, is_all=args.all)]
    if args.json:
        print(json.dumps(rows))
    else:
        print("| GPU | kernel | D | registers | spilled bytes | shared KB | of |\n|---|---|---:|---:|---:|---:|---:|")
        for row in rows:
            shared = f"{row['shared'] / 1024:.0f} | {SHARED_BYTES[row['arch']] >> 10}"
            print(
                f"| {row['target']} | {row['kernel']} | {row['D']} | {row['registers']} | {row['spilled']} | {shared} |"
            )
    # A kernel without instructions for its products has been compiled to nothing.
    bad = [row for row in rows if row["spilled"] or row["shared"] > SHARED_BYTES[row["arch"]] or not row["products"]]
    if bad:
        named = "; ".join(f"{row['target']} {row['kernel']} D={row['D']}" for row in bad)
        raise ConfigError(
            f"kernels: {named}: spills, is short of shared memory, or lost its products; change heads/fused/shapes.py"
        )


def variants(arch: int, *, is_all: bool) -> Iterator[Variant]:
    """Yield what is compiled for an architecture."""
    for size in EMBEDDING_SIZES if is_all else (512, 768):
        shapes = shapes_for(divmod(arch, 10), size)
        if is_all or size == 512:
            yield from _of_pass_1(size, shapes)
        for kind, centers, momentum in itertools.product(("SGD", "AdamW"), ("float32", "bf16"), _MOMENTA):
            is_shown = (centers, momentum) in (("float32", "float32"), ("bf16", "int8"))
            if (is_all or is_shown) and (kind, momentum) != ("AdamW", "none"):
                yield _of_pass_2(kind, size, shapes, centers, momentum, sampled=False)
                if is_all or (size == 512 and centers == "float32"):
                    yield _of_pass_2(kind, size, shapes, centers, momentum, sampled=True)


def _of_pass_1(size: int, shapes: Shapes) -> Iterator[Variant]:
    from recognition.heads.fused import pass1

    tile, chip = shapes.logits, shapes.sums
    constants = {"D": size, "ROWS": tile.rows, "CLASSES": tile.classes, "DEPTH": tile.depth}
    for wants in (True, False):
        name = "pass 1, chunks" if wants else "pass 1, sums alone"
        yield Variant(name, size, pass1._logits, {**constants, "WANTS_E": wants}, tile.warps, tile.stages, {})
    pieces = {"PIECE": pass1.PIECE, "PIECES": size // pass1.PIECE, "ROWS": chip.rows, "CLASSES": chip.classes}
    yield Variant("pass 1, on chip", size, pass1._sums_on_chip, pieces, chip.warps, chip.stages, {})


def _of_pass_2(kind: str, size: int, shapes: Shapes, centers: str, momentum: str, *, sampled: bool) -> Variant:
    from recognition.heads.fused import pass2, pass2_adamw

    is_adamw = kind == "AdamW"
    kept = {"none": None, "float32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}[momentum]
    own = torch.bfloat16 if centers == "bf16" else torch.float32
    shape = shapes.of_pass_2(is_adamw=is_adamw, centers=own, momentum=kept, sampled=sampled)
    stored_as, stored = _MOMENTA[momentum]
    rounds = centers == "bf16"
    constants = {
        **{"PIECE": pass2.PIECE, "PIECES": size // pass2.PIECE, "ROWS": shape.rows, "CLASSES": shape.classes},
        **{"ROUNDS": rounds, "COPIES": not rounds, "MOMENTS" if is_adamw else "MOMENTUM": stored_as},
        "SAMPLED": sampled,
    }
    types = {"centers": "*i16" if rounds else "*fp32", "momentum": stored, "second": _SECOND.get(momentum, "")}
    name = f"pass 2, {kind}, {centers} + {momentum}{', sampled' if sampled else ''}"
    function = pass2_adamw._descend if is_adamw else pass2._descend
    return Variant(name, size, function, constants, shape.warps, shape.stages, types)


def compiled(each: Variant, arch: int) -> dict[str, Any]:
    """Compile a kernel for an architecture; return what it takes."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = {**_TYPES, **each.types}
    names = [name for name in each.function.arg_names if name not in each.constants]
    signature = {name: types.get(name, "constexpr") for name in each.function.arg_names}
    signature |= dict.fromkeys(each.constants, "constexpr")
    aligned = [name for name in names if types[name].startswith("*") or name in _ALIGNED]
    attributes = {(each.function.arg_names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    source = ASTSource(each.function, signature, each.constants, attributes)
    options = {"num_warps": each.warps, "num_stages": each.stages}
    made = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    target = f"sm_{arch}{_SUFFIX.get(arch, '')}"
    told = _assemble(made.asm["ptx"], target, Path(triton.__file__).parent / "backends/nvidia/bin", arch)
    registers, spilled = (
        re.findall(pattern, told) for pattern in (r"Used (\d+) registers", r"(\d+) bytes spill stores")
    )
    assert registers and spilled, told
    found = {
        "registers": max(map(int, registers)),
        "spilled": max(map(int, spilled)),
        "shared": made.metadata.shared,
        "products": len(re.findall(r"\b(?:mma\.sync|wgmma\.mma_async|tcgen05\.mma)\b", made.asm["ptx"])),
    }
    return {"arch": arch, "target": target, "kernel": each.name, "D": each.embedding_size, **found}


def _assemble(ptx: str, target: str, folder: Path, arch: int) -> str:
    """Return what the assembler says of a kernel."""
    assembler = folder / ("ptxas-blackwell" if arch >= 100 else "ptxas")
    with tempfile.TemporaryDirectory() as made:
        source = Path(made) / "kernel.ptx"
        source.write_text(ptx, encoding="utf-8")
        command = [str(assembler), "-v", f"--gpu-name={target}", str(source), "-o", str(Path(made) / "kernel.cubin")]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr


if __name__ == "__main__":
    sys.exit(main())
