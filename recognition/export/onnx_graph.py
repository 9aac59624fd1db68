"""A network as an ONNX graph that says what it is and names nobody's folders."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

import recognition
from recognition.backbones.metadata import KEY, ModelMetadata
from recognition.embedding.onnx_embedder import PRECISION_KEY
from recognition.errors import CheckpointError, ConfigError
from recognition.work.extras import import_extra

OPSET = 18
"""The oldest that torch's exporter writes without converting back, and the newest that programs of 2023 read."""
INPUT, OUTPUT, BATCH = "images", "embeddings", "batch"
MOST_BYTES = (1 << 31) - (1 << 20)
"""Of weights: a protobuf message ends at 2 GiB, and the graph needs some of it."""
_TRACED_BATCH = 2  # torch.export takes a batch of 1 for a constant


def check_size(module: nn.Module, *, place: Path, most_bytes: int = MOST_BYTES) -> None:
    """Raise ConfigError when the weights do not fit into one ONNX file."""
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
    if num_bytes > most_bytes:
        raise ConfigError(
            f"{place}: {num_bytes:,} bytes of weights; an ONNX file holds at most {most_bytes:,}, and weights in files "
            "beside it are refused by readers that guard against strangers; export to .pt2"
        )


def onnx_graph(module: nn.Module, side: int, *, place: Path, opset: int = OPSET) -> Any:
    """Return the ModelProto of `module` in evaluation mode: images float32 [batch, 3, side, side] -> embeddings.

    The batch is free. Raises ConfigError without the packages of the extra `export`, CheckpointError when torch cannot
    express the network.
    """
    import_extra("onnx")
    import_extra("onnxscript")
    example = torch.zeros(_TRACED_BATCH, 3, side, side)
    try:
        with quiet():
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim(BATCH)},),
                opset_version=opset,
                verbose=False,
            )
    # torch's exporter raises kinds of its own, one per cause and version.
    except Exception as err:
        reason = str(err).strip().partition("\n")[0]
        raise CheckpointError(
            f"{place}: torch cannot export the network ({reason[:200]}); expected operators that ONNX has; "
            "see --debug, or export to .pt2"
        ) from err
    assert program is not None, "torch.onnx.export(dynamo=True) returns the program"
    return program.model_proto


def dress(model: Any, metadata: ModelMetadata, *, precision: str) -> None:
    """Write into a ModelProto, in place, what it is; take out where and how it was made.

    torch notes the source lines of every node, with their paths. Nodes are numbered anew: insightface's loader feeds
    unscaled pixels to a file with node names that begin with Sub and Mul among the first eight, and no name begins so.
    """
    for number, node in enumerate(model.graph.node):
        node.name = f"node_{number}_{node.op_type}"
        node.doc_string = ""
        del node.metadata_props[:]
    for values in (model.graph.input, model.graph.output, model.graph.value_info, model.graph.initializer):
        for value in values:
            value.doc_string = ""
            del value.metadata_props[:]
    model.graph.name, model.graph.doc_string, model.doc_string = metadata.architecture.network, "", ""
    del model.graph.metadata_props[:]
    model.producer_name, model.producer_version = "arcshard", recognition.__version__
    import_extra("onnx.helper").set_model_props(model, {KEY: metadata.to_json(), PRECISION_KEY: precision})


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep off the terminal what exporters and quantizers say of their own parts, some of it by the root logger."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
