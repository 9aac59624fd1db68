"""Compare the backbones with arcface_torch's own modules: same keys, same shapes, same outputs for the same weights.

    python benchmarks/compare_arcface_torch.py INSIGHTFACE/recognition/arcface_torch

INSIGHTFACE is a checkout of github.com/deepinsight/insightface. Ends with exit status 1 when a difference exceeds 1e-5.
--record tests/golden rewrites the key lists and outputs that the test suite compares with.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

import importlib.util
import json
from argparse import Namespace
from collections.abc import Sequence

import torch
from torch import nn

from benchmarks.formula_weights import fill_by_formula, relative_difference, waves
from recognition.backbones import build_backbone
from recognition.cli import make_parser, run_command
from recognition.errors import CheckpointError, DataError
from recognition.work.files import write_text

NETWORKS = ("r18", "r50", "r100", "mbf")
RECORDED = ("r18", "mbf")
TOLERANCE = 1e-5


def compare(network: str, theirs: nn.Module) -> dict[str, float]:
    """Return the differences of outputs (evaluation and training mode) and of running statistics."""
    ours = build_backbone(network)
    fill_by_formula(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(4, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    differences = {}
    for mode in ("eval", "train"):
        with torch.no_grad():
            differences[mode] = relative_difference(
                ours.train(mode == "train")(images), theirs.train(mode == "train")(images)
            )
    differences["buffers"] = max(
        relative_difference(a.double(), b.double()) for a, b in zip(ours.buffers(), theirs.buffers())
    )
    return differences


def record(network: str, theirs: nn.Module, folder: Path) -> None:
    """Write the key list of `network`, and for some its outputs, under `folder`."""
    shapes = {key: list(tensor.shape) for key, tensor in theirs.state_dict().items()}
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(shape)}" for key, shape in shapes.items())
    write_text(folder / "arcface_torch_keys" / f"{network}.json", f"{{\n{lines}\n}}\n")
    if network in RECORDED:
        fill_by_formula(theirs)
        with torch.no_grad():
            output = theirs.eval()(waves((2, 3, 112, 112), phase=1.0))
        # Nine digits are all of a float32.
        numbers = [[float(f"{value:.9g}") for value in row] for row in output.tolist()]
        write_text(folder / "arcface_torch_outputs" / f"{network}.json", json.dumps(numbers) + "\n")


def load_arcface_torch(checkout: Path, network: str) -> nn.Module:
    """Build `network` from the modules of an arcface_torch checkout, in float32."""
    source = checkout / "backbones" / "__init__.py"
    if not source.is_file():
        raise DataError(f"{source}: not found; expected the folder recognition/arcface_torch of insightface")
    spec = importlib.util.spec_from_file_location("arcface_torch_backbones", source)
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = package
    spec.loader.exec_module(package)
    return package.get_model(network, fp16=False, num_features=512)


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser("compare_arcface_torch", __doc__)
    parser.add_argument("checkout", type=Path, help="the folder recognition/arcface_torch of insightface")
    parser.add_argument("--record", type=Path, metavar="FOLDER", help="rewrite the golden files under FOLDER")
    return run_command(parser, _run, argv)


def _run(args: Namespace) -> None:
    worst = 0.0
    for network in NETWORKS:
        theirs = load_arcface_torch(args.checkout, network)
        if args.record:
            record(network, theirs, args.record)
        differences = compare(network, theirs)
        worst = max(worst, *differences.values())
        print(network, *(f"{name} {value:.1e}" for name, value in differences.items()))
    print(f"compared {len(NETWORKS)} networks, worst relative difference {worst:.1e}")
    if worst > TOLERANCE:
        raise CheckpointError(f"{args.checkout}: outputs differ by {worst:.1e}; expected at most {TOLERANCE:.0e}")


if __name__ == "__main__":
    sys.exit(main())
