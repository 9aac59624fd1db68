"""One writer for each kind of file: convert, compare with torch, and publish; or refuse and leave nothing."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from recognition.backbones.architecture import Architecture
from recognition.backbones.metadata import ModelMetadata
from recognition.backbones.weights import Model
from recognition.embedding.onnx_embedder import OnnxEmbedder
from recognition.errors import CheckpointError, ConfigError
from recognition.export.ncnn_files import NcnnNetwork, convert_to_ncnn
from recognition.export.onnx_graph import INPUT, OPSET, OUTPUT, check_size, dress, onnx_graph
from recognition.export.parity import BATCHES, Agreement, check_finite, compare, drawn_faces, require
from recognition.export.smaller import to_half, to_int8
from recognition.export.torch_program import trace, write_program
from recognition.work.files import staged
from recognition.work.onnx_session import open_onnx

Precision = Literal["fp32", "fp16", "int8"]
SUFFIXES = (".onnx", ".ncnn", ".pt2")
LEAST_ONNX, LEAST_NCNN = 0.99999, 0.9999
LEAST_HALF, LEAST_INT8 = 0.999, 0.5
"""Gates for a converter's mistakes (overflow, a lost scale), not for a loss of accuracy, which pairs measure."""
NCNN_CROPS = 64

_Check = Callable[[OnnxEmbedder], None]


@dataclass(frozen=True)
class Request:
    """What is to be written."""

    model: Model
    target: Path
    side: int
    precision: Precision = "fp32"
    opset: int = OPSET
    faces: np.ndarray | None = None
    """Images uint8 [n, side, side, 3] RGB: they set the ranges of int8, and smaller files are compared on them."""

    @property
    def metadata(self) -> ModelMetadata:
        """What the file will say of itself."""
        told = self.model.architecture
        architecture = Architecture(told.network, told.embedding_size, self.side, told.options)
        about = self.model.metadata or ModelMetadata(architecture)
        return replace(about, architecture=architecture, fingerprint=self.model.facts.fingerprint)


@dataclass(frozen=True)
class Export:
    """What was written."""

    paths: tuple[Path, ...]
    agreement: Agreement

    @property
    def num_bytes(self) -> int:
        """Size of all files together."""
        return sum(path.stat().st_size for path in self.paths)


def target_files(target: Path) -> tuple[Path, ...]:
    """Return the files that an export to `target` writes; ConfigError for an unknown kind."""
    if target.suffix not in SUFFIXES:
        raise ConfigError(f"{target}: ends in {target.suffix!r}; expected {', '.join(SUFFIXES)}; name it so")
    if target.suffix == ".ncnn":
        return tuple(target.with_name(target.name + end) for end in (".param", ".bin", ".json"))
    return (target,)


def write_export(request: Request, *, check: _Check | None = None) -> Export:
    """Write the model as `request.target` asks; errors leave nothing.

    `check` is given the finished ONNX file before it is published.
    """
    suffix, precision = request.target.suffix, request.precision
    if precision == "int8" and suffix == ".onnx" and request.faces is None:
        raise ConfigError("--precision int8: no images to take its ranges from; expected your faces; give --faces")
    if suffix != ".onnx" and (precision == "int8" or (suffix, precision) == (".pt2", "fp16")):
        raise ConfigError(
            f"--precision {precision}: {suffix} files are not written in it; expected .onnx; choose another"
        )
    if suffix == ".onnx":
        check_size(request.model.module, place=request.target)
    check_finite(request.model.module, request.side, place=str(request.model.file))
    if suffix == ".onnx":
        return _write_onnx(request, check)
    return _write_ncnn(request) if suffix == ".ncnn" else _write_program(request)


def _write_onnx(request: Request, check: _Check | None) -> Export:
    place, module = request.target, request.model.module
    graph = _smaller(onnx_graph(module, request.side, place=place, opset=request.opset), request)
    dress(graph, request.metadata, precision=request.precision)
    with staged(place) as (temporary,):
        temporary.write_bytes(graph.SerializeToString())
        agreement = _compare_onnx(temporary, request)
        if check is not None:
            check(OnnxEmbedder(temporary))
    return Export((place,), agreement)


def _smaller(graph: Any, request: Request) -> Any:
    if request.precision == "fp32":
        return graph
    if request.precision == "fp16":
        return to_half(graph)
    assert request.faces is not None, "checked before"
    return to_int8(graph, request.faces)


def _compare_onnx(path: Path, request: Request) -> Agreement:
    session = open_onnx(path, threads=torch.get_num_threads())

    def run(images: np.ndarray) -> np.ndarray:
        try:
            found: np.ndarray = session.run([OUTPUT], {INPUT: images})[0]
        except Exception as err:  # onnxruntime raises kinds of its own, one per cause
            reason = str(err).strip().partition("\n")[0]
            raise CheckpointError(
                f"{request.target}: does not run on images {list(images.shape)} ({reason[:200]}); expected any batch; "
                "nothing was written"
            ) from err
        return found

    module, place = request.model.module, str(request.target)
    if request.precision == "fp32":
        agreement = compare(run, module, drawn_faces(max(BATCHES), request.side), place=place)
        require(agreement, LEAST_ONNX, place=place, advice="the exporter changed the network")
        return agreement
    faces = drawn_faces(NCNN_CROPS, request.side) if request.faces is None else request.faces
    agreement = compare(run, module, faces[:NCNN_CROPS], place=place, batches=BATCHES)
    least = LEAST_HALF if request.precision == "fp16" else LEAST_INT8
    require(agreement, least, place=place, advice="the numbers do not fit into so few bits; choose --precision fp32")
    return agreement


def _write_ncnn(request: Request) -> Export:
    place, module = request.target, request.model.module
    targets = target_files(place)
    with tempfile.TemporaryDirectory(prefix="export.") as folder:
        files = convert_to_ncnn(module, request.side, Path(folder), half=request.precision == "fp16", place=place)
        crops = drawn_faces(NCNN_CROPS, request.side)
        agreement = compare(NcnnNetwork(*files), module, crops, place=str(place), batches=(1,))
        require(agreement, LEAST_NCNN, place=str(place), advice="pnnx changed the network")
        with staged(*targets) as temporaries:
            for file, temporary in zip(files, temporaries):
                shutil.copyfile(file, temporary)
            temporaries[-1].write_text(request.metadata.to_json() + "\n", encoding="utf-8")
    return Export(targets, agreement)


def _write_program(request: Request) -> Export:
    place, module = request.target, request.model.module
    program = trace(module, request.side, place=place)
    traced = program.module()

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            found: np.ndarray = traced(torch.from_numpy(images)).numpy()
        return found

    agreement = compare(run, module, drawn_faces(max(BATCHES), request.side), place=str(place))
    require(agreement, LEAST_ONNX, place=str(place), advice="torch.export changed the network")
    with staged(place) as (temporary,):
        write_program(program, temporary, request.metadata)
    return Export((place,), agreement)
