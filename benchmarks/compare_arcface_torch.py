"""Compare the backbones with their peers' own modules: same keys, shapes, parameters, MACs, and same outputs.

    python benchmarks/compare_arcface_torch.py INSIGHTFACE/recognition/arcface_torch [--adaface ADAFACE] [--torchvision]

INSIGHTFACE is a checkout of github.com/deepinsight/insightface, whose ViT imports timm; ADAFACE one of
github.com/mk-minchul/AdaFace. Ends with exit status 1 when a difference exceeds 1e-5. --record tests/golden rewrites
the key lists, costs and outputs that the test suite compares with.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

import importlib.util
import json
from argparse import Namespace
from collections.abc import Iterator, Sequence
from types import ModuleType

import torch
from torch import nn

from benchmarks.formula_weights import fill_by_formula, relative_difference, waves
from recognition.backbones import BACKBONES, build_backbone
from recognition.backbones.profile import count_parameters, forward_flops
from recognition.cli import make_parser, run_command
from recognition.errors import CheckpointError, DataError
from recognition.work.files import write_text

ARCFACE_TORCH = (
    "r18",
    "r34",
    "r50",
    "r100",
    "r200",
    "mbf",
    "mbf_large",
    *(n for n in BACKBONES if n.startswith("vit_")),
)
ADAFACE = tuple(name for name in BACKBONES if name.startswith("ir_"))
OUR_OWN = ("vit_xs",)
RECORDED = ("r18", "mbf", "ir_18", "vit_t")
SAME_KEYS = {"vit_t_dp005_mask0": "vit_t", "vit_s_dp005_mask_0": "vit_s", "vit_b_dp005_mask_005": "vit_b"}
TOO_LARGE = ("vit_h",)
"""Of 6 GB for two of them: keys and costs alone, of the same code as the others."""
TOLERANCE = 1e-5


def compare(network: str, theirs: nn.Module) -> dict[str, float]:
    """Return the differences of outputs (evaluation and training mode) and of running statistics."""
    is_vit = network.startswith("vit_")
    off = {"drop_path": 0.0, "mask_ratio": 0.0} if is_vit else {}
    ours = build_backbone(network, **off)
    if is_vit:
        without_draws_(theirs)
    else:
        fill_by_formula(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    # BatchNorm over few images makes much of a rounding: SDPA adds in another order than softmax and two products.
    images = torch.randn(16 if is_vit else 4, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    differences = {}
    for mode in ("eval", "train"):
        with torch.no_grad():
            differences[mode] = relative_difference(
                ours.train(mode == "train")(images), theirs.train(mode == "train")(images)
            )
    # The mean of what BatchNorm has centered is 0 but for rounding: below 1 the difference itself is what counts.
    named = dict(theirs.named_buffers())
    differences["buffers"] = max(
        ((mine.double() - named[name].double()).abs().max() / named[name].double().abs().max().clamp(min=1.0)).item()
        for name, mine in ours.named_buffers()
    )
    return differences


def without_draws_(theirs: nn.Module) -> None:
    """Turn masking, dropped branches and checkpointing of arcface_torch's ViT off."""
    theirs.mask_ratio, theirs.using_checkpoint = 0, False
    for module in theirs.modules():
        if type(module).__name__ == "DropPath":
            module.drop_prob = 0.0


def cost(module: nn.Module) -> dict[str, int]:
    """Return parameters and multiply-adds of an image of a module, which moves to meta."""
    module.to("meta")
    return {"parameters": count_parameters(module), "macs": forward_flops(module, 112) // 2}


def record(network: str, theirs: nn.Module, folder: Path, keys: str) -> None:
    """Write the key list of `network` to the folder `keys`, and for some its outputs, under `folder`."""
    shapes = {key: list(tensor.shape) for key, tensor in theirs.state_dict().items()}
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(shape)}" for key, shape in shapes.items())
    write_text(folder / keys / f"{network}.json", f"{{\n{lines}\n}}\n")
    if network in RECORDED:
        fill_by_formula(theirs)
        with torch.no_grad():
            output = theirs.eval()(waves((2, 3, 112, 112), phase=1.0))
        # Nine digits are all of a float32.
        numbers = [[float(f"{value:.9g}") for value in row] for row in output.tolist()]
        write_text(folder / keys.replace("keys", "outputs") / f"{network}.json", json.dumps(numbers) + "\n")


def load_arcface_torch(checkout: Path, network: str) -> nn.Module:
    """Build `network` from the modules of an arcface_torch checkout, in float32."""
    source = checkout / "backbones" / "__init__.py"
    if not source.is_file():
        raise DataError(f"{source}: not found; expected the folder recognition/arcface_torch of insightface")
    package = load_module(source, "arcface_torch_backbones")
    return package.get_model(network, fp16=False, num_features=512)


def load_adaface(checkout: Path, network: str) -> nn.Module:
    """Build `network` from AdaFace's net.py, without its dropout and its last division by the norm."""
    source = checkout / "net.py"
    if not source.is_file():
        raise DataError(f"{source}: not found; expected a checkout of AdaFace")
    kind, _, layers = network.rpartition("_")
    module = load_module(source, "adaface_net").Backbone((112, 112), {"101": 100}.get(layers, int(layers)), kind)
    module.output_layer[1].p = 0.0
    module.forward = lambda images: module.output_layer(module.body(module.input_layer(images)))
    return module


def load_module(source: Path, name: str) -> ModuleType:
    """Import the module or package at `source`."""
    spec = importlib.util.spec_from_file_location(name, source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def peers(args: Namespace) -> Iterator[tuple[str, str, nn.Module]]:
    """Yield each network's name, its golden folder, and the peer's module of it."""
    for network in args.only or ARCFACE_TORCH:
        if network in ARCFACE_TORCH and network not in OUR_OWN:
            yield network, "arcface_torch_keys", load_arcface_torch(args.checkout, network)
    if args.adaface:
        for network in ADAFACE:
            yield network, "adaface_keys", load_adaface(args.adaface, network)
    if args.torchvision:
        from torchvision.models import mobilenet_v2

        yield "mobilenet_v2", "torchvision_keys", mobilenet_v2().features


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser("compare_arcface_torch", __doc__)
    parser.add_argument("checkout", type=Path, help="the folder recognition/arcface_torch of insightface")
    parser.add_argument(
        "--adaface", type=Path, metavar="FOLDER", help="compare IR and IR-SE with a checkout of AdaFace"
    )
    parser.add_argument("--torchvision", action="store_true", help="compare MobileNetV2's features with torchvision's")
    parser.add_argument("--only", nargs="+", metavar="NETWORK", help="of arcface_torch's, these alone")
    parser.add_argument("--record", type=Path, metavar="FOLDER", help="rewrite the golden files under FOLDER")
    return run_command(parser, _run, argv)


def _run(args: Namespace) -> None:
    worst, costs = 0.0, {}
    for network, keys, theirs in peers(args):
        if args.record and network not in SAME_KEYS:
            record(network, theirs, args.record, keys)
        differences = {}
        if network == "mobilenet_v2":
            differences = compare_features(theirs)
        elif network not in TOO_LARGE:
            differences = compare(network, theirs)
        worst = max(worst, *differences.values(), 0.0)
        costs[network] = cost(theirs)
        print(network, costs[network], *(f"{name} {value:.1e}" for name, value in differences.items()), flush=True)
    print(f"compared {len(costs)} networks, worst relative difference {worst:.1e}")
    if args.record:
        path = args.record / "network_costs.json"
        costs = (json.loads(path.read_text()) if path.exists() else {}) | costs
        write_text(path, json.dumps(costs, indent=1) + "\n")
    if worst > TOLERANCE:
        raise CheckpointError(f"{args.checkout}: outputs differ by {worst:.1e}; expected at most {TOLERANCE:.0e}")


def compare_features(theirs: nn.Module) -> dict[str, float]:
    """Return the differences of MobileNetV2's maps from torchvision's, which have no neck for faces."""
    ours = build_backbone("mobilenet_v2").features
    fill_by_formula(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(4, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return {
            mode: relative_difference(ours.train(mode == "train")(images), theirs.train(mode == "train")(images))
            for mode in ("eval", "train")
        }


if __name__ == "__main__":
    sys.exit(main())
