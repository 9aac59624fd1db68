"""ONNX files as others write them: each embeds right, or is refused in one line."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="make export-tools installs onnxruntime")
onnx = pytest.importorskip("onnx", reason="make export-tools installs onnx")
from onnx import TensorProto, helper, numpy_helper

from recognition.backbones.architecture import Architecture
from recognition.backbones.metadata import KEY, ModelMetadata
from recognition.embedding.input_scale import AskedScale
from recognition.embedding.models import load_embedder
from recognition.embedding.onnx_embedder import OnnxEmbedder
from recognition.errors import ArcShardError, CheckpointError, ConfigError
from recognition.images.preprocess import PixelScale
from tests.helpers.foreign_onnx import DIMENSION, SIDE, WEIGHT, Foreign, save

IMAGENET = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
CHANNELS = (1, 3, 1, 1)
TO_PLANES = ("Transpose", {"perm": [0, 3, 1, 2]})
FLOAT = ("Cast", {"to": TensorProto.FLOAT})
LAST = ("n", SIDE, SIDE, 3)


def by_channel(values: list[float]) -> np.ndarray:
    return np.reshape(values, CHANNELS)


TAKEN = [
    Foreign("plain"),
    Foreign("the zoo's: Sub and Mul inside", before=[("Sub", 127.5), ("Mul", 1 / 128)], std=128),
    Foreign("a batch of eight", shape=(8, 3, SIDE, SIDE)),
    Foreign("channels last", shape=LAST, before=[TO_PLANES]),
    Foreign("float16", dtype=TensorProto.FLOAT16, before=[FLOAT]),
    # and ten more
    Foreign("bytes, channels last", LAST, TensorProto.UINT8, [FLOAT, TO_PLANES, ("Sub", 127.5), ("Div", 127.5)]),
    Foreign(
        "from 0 to 1, ImageNet's numbers inside",
        before=[("Sub", by_channel([0.485, 0.456, 0.406])), ("Div", by_channel([0.229, 0.224, 0.225]))],
        mean=IMAGENET[0],
        std=IMAGENET[1],
    ),
    Foreign("tensorflow's: scaled before the axes turn", LAST, before=[("Mul", 1 / 127.5), ("Sub", 1), TO_PLANES]),
    Foreign(
        "torchvision's numbers in the metadata",
        texts={"mean": "[0.485, 0.456, 0.406]", "std": "0.229 0.224 0.225"},
        mean=IMAGENET[0],
        std=IMAGENET[1],
    ),
    Foreign(
        "bytes by the metadata, BGR",
        texts={"input_mean": "0", "input_std": "1", "color": "bgr"},
        mean=0,
        std=1,
        bgr=True,
    ),
    Foreign("flags", flags={"mean": (0,) * 3, "std": (256,) * 3}, mean=0, std=256),
    Foreign("flags for the order of colors alone", flags={"color": "BGR"}, bgr=True),
    Foreign("no size is told, channels last by its first node", ("n", "h", "w", "c"), before=[TO_PLANES]),
    Foreign("no size is told", ("n", "c", "h", "w")),
    Foreign("[n, D, 1, 1]", after="maps"),
    Foreign("its norm comes first", after="norm too"),
    Foreign("one image of doubles", (1, 3, SIDE, SIDE), TensorProto.DOUBLE, [FLOAT]),
    Foreign("Constant nodes", before=[("Add", -127.5), ("Div", 128.0)], std=128, as_node=True),
    Foreign(
        "MXNet's names, a scale that no walk finds",
        before=[("Mul", np.ones((3, SIDE, SIDE)) / 128), ("Sub", 1.0)],
        mean=128,
        std=128,
        named={"Sub": "_minusscalar0", "Mul": "_mulscalar0"},
    ),
    Foreign(
        "a mean alone", before=[("Sub", by_channel([123.68, 116.78, 103.94]))], mean=[123.68, 116.78, 103.94], std=1
    ),
    Foreign("halves: from -1 to 1 made 0 to 1", before=[("Mul", 0.5), ("Add", 0.5), ("Sub", 0.5), ("Div", 0.5)]),
    Foreign("from 0 to 1, halves inside", before=[("Sub", 0.5), ("Div", 0.5)]),
    Foreign("a multiplication by one", before=[("Mul", 1.0)]),
]
REFUSED = [
    (Foreign("grayscale", ("n", 1, SIDE, SIDE)), "expected 3 channels"),
    (Foreign("a narrow picture", ("n", 3, SIDE, 12)), "expected squares"),
    (Foreign("whole numbers", dtype=TensorProto.INT64, before=[FLOAT]), r"takes tensor\(int64\); expected float"),
    (Foreign("no batch", (3, SIDE, SIDE)), r"the first of shape \[3, 16, 16\]; expected one of images"),
    (Foreign("a batch of one in its last node", after="one row"), r"gives \[1, 32\] for 4 images"),
    (Foreign("an unknown scale", before=[("Mul", 255.0)]), "which fits neither bytes nor"),
    (Foreign("half of the metadata", texts={"mean": "127.5"}), "its metadata says mean '127.5' and std None"),
    (Foreign("metadata of words", texts={"mean": "no", "std": "1"}), "expected one number or three"),
    (Foreign("a color that is none", texts={"mean": "0", "std": "1", "color": "HSV"}), "expected RGB or BGR"),
    (Foreign("an operator that nobody has", before=[("Frobnicate", {})]), "cannot be read as ONNX"),
    (Foreign("not finite", before=[("Mul", math.nan)]), "embeddings that are not finite"),
    (
        Foreign(
            "bytes and flags", LAST, TensorProto.UINT8, [FLOAT, TO_PLANES], flags={"mean": (1,) * 3, "std": (1,) * 3}
        ),
        "takes bytes",
    ),
    (Foreign("metadata of another format", texts={"arcshard": "{}"}), "metadata of format None"),
]


def images(num: int, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (num, side, side, 3), np.uint8)


@pytest.mark.parametrize("foreign", TAKEN, ids=lambda f: f.name)
def test_a_foreign_file_is_fed_as_it_asks(foreign: Foreign, tmp_path: Path) -> None:
    path, faces = foreign.write(tmp_path / "net.onnx"), images(11)
    found = load_embedder(str(path), batch_size=4, asked=AskedScale(**foreign.flags)).embed(faces)
    # float16 keeps 11 bits of a pixel; elsewhere float32 sums of 768 products.
    close = 3e-3 if foreign.dtype == TensorProto.FLOAT16 else 2e-5
    expected = foreign.expected(faces)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() <= close * np.abs(expected).max()


@pytest.mark.parametrize(("foreign", "message"), REFUSED, ids=lambda x: getattr(x, "name", ""))
def test_a_foreign_file_is_refused_in_one_line(foreign: Foreign, message: str, tmp_path: Path) -> None:
    path = foreign.write(tmp_path / "net.onnx")
    with pytest.raises(ArcShardError, match=message) as caught:
        load_embedder(str(path), asked=AskedScale(**foreign.flags)).embed(images(4))
    assert "\n" not in str(caught.value)


def test_a_file_of_ours_that_was_altered_is_refused(tmp_path: Path) -> None:
    about = ModelMetadata(Architecture("tiny", DIMENSION, 112), fingerprint="0" * 64)
    path = Foreign("ours", texts={KEY: about.to_json()}).write(tmp_path / "net.onnx")
    with pytest.raises(CheckpointError, match="takes RGB images of 16 pixels; its metadata says 112"):
        load_embedder(str(path))


def test_a_file_of_ours_is_fed_as_its_metadata_says(tmp_path: Path) -> None:
    about = ModelMetadata(
        Architecture("tiny", DIMENSION, SIDE), fingerprint="0" * 64, color="BGR", mean=100.0, std=50.0
    )
    foreign = Foreign("ours", texts={KEY: about.to_json()}, mean=100, std=50, bgr=True)
    embedder = OnnxEmbedder(foreign.write(tmp_path / "net.onnx"))
    expected = foreign.expected(images(3))
    assert np.abs(embedder.embed(images(3)) - expected).max() <= 2e-5 * np.abs(expected).max()
    assert (embedder.facts.fingerprint, embedder.facts.alignment) == ("0" * 64, "arcface")
    with pytest.raises(ConfigError, match="says itself how it is fed"):
        OnnxEmbedder(tmp_path / "net.onnx", asked=AskedScale(color="RGB"))


def test_two_inputs_are_refused(tmp_path: Path) -> None:
    shape = ["n", 3, SIDE, SIDE]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("a", "b", "sum")]
    save(
        tmp_path / "two.onnx",
        helper.make_graph([helper.make_node("Add", ["a", "b"], ["sum"])], "g", values[:2], values[2:]),
    )
    with pytest.raises(CheckpointError, match=r"two\.onnx: has 2 inputs, .* expected one of images"):
        load_embedder(str(tmp_path / "two.onnx"))


def test_two_embeddings_are_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Flatten", ["x"], ["f"])]
    nodes += [helper.make_node("MatMul", ["f", "W"], [out]) for out in ("one", "other")]
    rows = [helper.make_tensor_value_info(out, TensorProto.FLOAT, ["n", DIMENSION]) for out in ("one", "other")]
    data = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])
    save(tmp_path / "two.onnx", helper.make_graph(nodes, "g", [data], rows, [numpy_helper.from_array(WEIGHT, "W")]))
    with pytest.raises(CheckpointError, match=r"has 2 outputs .* expected one of embeddings"):
        load_embedder(str(tmp_path / "two.onnx"))


def test_another_size_is_refused_before_it_runs(tmp_path: Path) -> None:
    path = Foreign("plain").write(tmp_path / "net.onnx")
    with pytest.raises(CheckpointError, match="takes images of 16 pixels; found 9 x 9; align to its size"):
        load_embedder(str(path)).embed(images(1, 9))


def test_a_size_that_does_not_run_is_one_line_and_nothing_else(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = Foreign("no size", ("n", "c", "h", "w")).write(tmp_path / "net.onnx")
    with pytest.raises(CheckpointError, match=r"does not run on images \[1, 3, 20, 20\]"):
        load_embedder(str(path)).embed(images(1, 20))
    assert capfd.readouterr() == ("", ""), "onnxruntime prints nothing of its own"


def test_no_image_still_tells_the_dimension(tmp_path: Path) -> None:
    path = Foreign("plain").write(tmp_path / "net.onnx")
    assert load_embedder(str(path)).embed(images(0)).shape == (0, DIMENSION)


def test_flags_make_another_model_of_a_file(tmp_path: Path) -> None:
    path = Foreign("plain").write(tmp_path / "net.onnx")
    plain, bytes_ = OnnxEmbedder(path), OnnxEmbedder(path, asked=AskedScale((0,) * 3, (1,) * 3))
    assert plain.facts.fingerprint != bytes_.facts.fingerprint, "their embeddings must not be compared"
    assert plain.scale == PixelScale()
    assert plain.facts.image_size == SIDE


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"network": "r50"}, "holds its network; --network 'r50'"),
        ({"asked": {"mean": (1,) * 3}}, "--mean: given without --std"),
    ],
)
def test_flags_that_would_be_ignored_are_errors(given: dict, message: str, tmp_path: Path) -> None:
    path = Foreign("plain").write(tmp_path / "net.onnx")
    with pytest.raises(ConfigError, match=message):
        load_embedder(str(path), network=given.get("network"), asked=AskedScale(**given.get("asked", {})))


def test_scale_flags_are_for_onnx_files_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is no \.onnx file; --mean, --std and --color are for those"):
        load_embedder(str(tmp_path / "model.pt"), asked=AskedScale(color="BGR"))
