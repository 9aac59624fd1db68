"""Every network gives, as a file, the embeddings that torch gives; what does not is not published."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("onnxruntime", reason="make export-tools installs onnxruntime")
onnx = pytest.importorskip("onnx", reason="make export-tools installs onnx")
pytest.importorskip("onnxscript", reason="make export-tools installs onnxscript")

from recognition.backbones import BACKBONES, build_backbone
from recognition.backbones.architecture import Architecture
from recognition.backbones.fresh import set_batch_norms
from recognition.backbones.metadata import KEY, ModelMetadata
from recognition.backbones.weights import Model, load_backbone, save_model
from recognition.embedding.embedder import Embedder
from recognition.embedding.models import load_embedder
from recognition.embedding.onnx_embedder import OnnxEmbedder
from recognition.errors import CheckpointError, ConfigError
from recognition.export.onnx_graph import MOST_BYTES, check_size, dress
from recognition.export.parity import compare, drawn_faces, require
from recognition.export.writers import LEAST_ONNX, Request, write_export
from recognition.images.preprocess import to_network
from tests.helpers.foreign_onnx import Foreign

LARGE_VITS = {name for name in BACKBONES if name.startswith(("vit_s", "vit_b", "vit_l", "vit_h"))}
BY_HAND = {"r34", "r100", "r200", "ir_34", "ir_101", "ir_se_101"} | LARGE_VITS
"""Networks of a kind that smaller ones of the list have, too large for a test: docs/measurements/export.md."""
PARITY = [
    pytest.param(name, side, marks=pytest.mark.slow if (name, side) == ("tiny", 96) else pytest.mark.long)
    for name in sorted(set(BACKBONES) - BY_HAND)
    for side in (112, 126 if name.startswith("vit") else 96)  # a ViT takes whole patches
]


def model_of(folder: Path, network: str = "tiny", side: int = 112, *, embedding_size: int = 32) -> Model:
    """A run's model with fresh weights and usable BatchNorm statistics."""
    torch.manual_seed(0)
    architecture = Architecture(network, embedding_size, side)
    module = architecture.build()
    set_batch_norms(module, to_network(torch.from_numpy(drawn_faces(8, side))))
    folder.mkdir(exist_ok=True)
    save_model(module, folder, ModelMetadata(architecture, alignment="arcface", dataset={"images": 7}))
    return load_backbone(folder)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return model_of(tmp_path_factory.mktemp("models") / "run")


@pytest.fixture(scope="module")
def exported(tiny: Model) -> Path:
    """The network as an ONNX file."""
    target = tiny.file.parent / "tiny.onnx"
    write_export(Request(tiny, target, 112))
    return target


@pytest.mark.parametrize(("network", "side"), PARITY)
def test_an_onnx_file_gives_torch_s_embeddings(network: str, side: int, tmp_path: Path) -> None:
    model = model_of(tmp_path / "run", network, side)
    export = write_export(Request(model, tmp_path / "out.onnx", side))
    assert export.agreement.least_cosine >= 0.99999
    assert export.agreement.num_images == 14, "seven one by one, and seven at once"
    faces = drawn_faces(9, side)
    found = load_embedder(str(tmp_path / "out.onnx"), batch_size=4).embed(faces)
    expected = Embedder(model.module, model=model).embed(faces)
    # Float32 sums in another order.
    assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()


@pytest.mark.slow
def test_a_file_says_what_it_is_and_nothing_of_this_machine(tiny: Model, exported: Path) -> None:
    embedder = OnnxEmbedder(exported)
    assert embedder.facts == tiny.facts
    assert (embedder.precision, embedder.image_size) == ("fp32", 112)
    graph = onnx.load(str(exported))
    texts = {entry.key: entry.value for entry in graph.metadata_props}
    about = json.loads(texts[KEY])
    assert (about["color"], about["scaling"], about["alignment"]) == ("RGB", {"mean": 127.5, "std": 127.5}, "arcface")
    assert about["fingerprint"] == tiny.facts.fingerprint
    shape = graph.graph.input[0].type.tensor_type.shape.dim
    assert (shape[0].dim_param, [size.dim_value for size in shape[1:]]) == ("batch", [3, 112, 112])
    assert [entry.version for entry in graph.opset_import if entry.domain == ""] == [18]
    assert str(Path(nn.__file__).parent).encode() not in exported.read_bytes()
    assert b".py" not in exported.read_bytes()


def test_no_node_has_a_name_that_insightface_s_loader_reads_as_a_scale(tmp_path: Path) -> None:
    foreign = Foreign("theirs", before=[("Sub", 1.0), ("Mul", 2.0)], named={"Sub": "Sub_0", "Mul": "_mulscalar0"})
    graph = onnx.load(str(foreign.write(tmp_path / "x.onnx")))
    graph.graph.node[0].doc_string = "/home/somebody"
    graph.graph.node[0].metadata_props.add(key="stack", value="/home/somebody")
    dress(graph, ModelMetadata(Architecture("tiny")), precision="fp32")
    names = [node.name for node in graph.graph.node]
    assert names == ["node_0_Sub", "node_1_Mul", "node_2_Flatten", "node_3_MatMul"]
    assert b"somebody" not in graph.SerializeToString()


@pytest.mark.parametrize(
    "precision", [pytest.param("fp16", marks=pytest.mark.long), pytest.param("int8", marks=pytest.mark.slow)]
)
def test_smaller_files_stay_close_and_keep_insightface_s_rule(precision: Any, tiny: Model, tmp_path: Path) -> None:
    faces = drawn_faces(24, 112)
    target = tmp_path / "small.onnx"
    export = write_export(Request(tiny, target, 112, precision, faces=faces))
    assert export.agreement.least_cosine >= {"fp16": 0.9999, "int8": 0.97}[precision]
    assert export.num_bytes < {"fp16": 0.55, "int8": 0.35}[precision] * tiny.file.stat().st_size
    assert OnnxEmbedder(target).precision == precision
    names = [node.name for node in onnx.load(str(target)).graph.node][:8]
    assert not [name for name in names if name.startswith(("Sub", "Mul", "_minus", "_mul"))]
    assert OnnxEmbedder(target).embed(faces).shape == (24, 32)


@pytest.mark.slow
def test_a_torch_program_is_written_with_its_metadata(tiny: Model, tmp_path: Path) -> None:
    target = tmp_path / "out.pt2"
    assert write_export(Request(tiny, target, 112)).agreement.least_cosine >= LEAST_ONNX
    extra = {f"{KEY}.json": ""}
    found = torch.export.load(str(target), extra_files=extra).module()
    assert json.loads(extra[f"{KEY}.json"])["fingerprint"] == tiny.facts.fingerprint
    images = to_network(torch.from_numpy(drawn_faces(3, 112)))
    torch.testing.assert_close(found(images), tiny.module(images), rtol=1e-4, atol=1e-4)
    assert b"/backbones/" not in target.read_bytes(), "no path of the source"


@pytest.mark.parametrize(
    ("network", "precision"),
    [
        pytest.param("tiny", "fp32", marks=pytest.mark.slow),
        pytest.param("tiny", "fp16", marks=pytest.mark.long),
        pytest.param("mbf", "fp32", marks=pytest.mark.long),
        pytest.param("mbf", "fp16", marks=pytest.mark.long),
    ],
)
def test_ncnn_gives_torch_s_embeddings(network: str, precision: Any, tmp_path: Path) -> None:
    pytest.importorskip("pnnx", reason="make export-tools installs pnnx")
    pytest.importorskip("ncnn", reason="make export-tools installs ncnn")
    model = model_of(tmp_path / "run", network)
    export = write_export(Request(model, tmp_path / "out.ncnn", 112, precision))
    assert export.agreement.least_cosine >= 0.9999
    assert export.agreement.num_images == 64
    assert [path.name for path in export.paths] == ["out.ncnn.param", "out.ncnn.bin", "out.ncnn.json"]
    assert ModelMetadata.from_json(export.paths[2].read_text(), place="json").fingerprint == model.facts.fingerprint
    assert export.num_bytes < (0.6 if precision == "fp16" else 1.1) * model.file.stat().st_size


class Wrong(nn.Module):
    """A network that gives another answer for one image alone, as a traced batch does."""

    def __init__(self, inner: nn.Module, answer: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.inner, self.answer = inner, answer

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.answer(self.inner(images))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda rows: rows if len(rows) > 1 else -rows, "cosine with torch at least -1.0000000 over 14 images"),
        (lambda rows: rows if len(rows) == 1 else rows.roll(1, 0), "cosine with torch at least"),
        (lambda rows: rows[:1], r"gives \[1, 32\] where torch gives \[7, 32\]"),
        (lambda rows: rows * torch.nan, "gives embeddings that are not finite, torch's are"),
        (lambda rows: rows * 0, "cosine with torch at least 0.0000000"),
    ],
)
def test_the_gate_is_shut_for_another_answer(answer: Callable, message: str) -> None:
    right = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 32)).eval()
    wrong = Wrong(right, answer).eval()

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return wrong(torch.from_numpy(images)).numpy()

    def pass_the_gate(run: Callable) -> None:
        agreement = compare(run, right, drawn_faces(7, 16), place="x.onnx")
        require(agreement, LEAST_ONNX, place="x.onnx", advice="look")

    pass_the_gate(lambda images: right(torch.from_numpy(images)).detach().numpy())
    with pytest.raises(CheckpointError, match=message):
        pass_the_gate(run)


def test_weights_that_hold_nan_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    model = model_of(tmp_path / "run", side=32)
    next(model.module.parameters()).data[0] = torch.nan
    with pytest.raises(CheckpointError, match="the network itself gives embeddings that are not finite"):
        write_export(Request(model, tmp_path / "out" / "x.onnx", 32))
    assert not (tmp_path / "out").exists()


def test_weights_beyond_one_file_are_refused_before_the_work() -> None:
    assert MOST_BYTES < 2**31
    large = nn.Module()
    large.weight = nn.Parameter(torch.empty(650_000_000, device="meta"))
    with pytest.raises(ConfigError, match=r"x\.onnx: 2,600,000,000 bytes of weights; an ONNX file holds at most"):
        check_size(large, place=Path("x.onnx"))
    check_size(build_backbone("tiny"), place=Path("x.onnx"))
