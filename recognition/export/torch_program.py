"""torch's own exported program, .pt2. It is written and never read: torch unpickles parts of it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from recognition.backbones.metadata import KEY, ModelMetadata
from recognition.errors import CheckpointError
from recognition.export.onnx_graph import BATCH, quiet


def trace(module: nn.Module, side: int, *, place: Path) -> torch.export.ExportedProgram:
    """Return `module` in evaluation mode as a program for images [batch, 3, side, side] of any batch."""
    example = torch.zeros(2, 3, side, side)
    try:
        with quiet():
            program = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim(BATCH)},))
    except Exception as err:  # torch.export raises kinds of its own, one per cause and version
        reason = str(err).strip().partition("\n")[0]
        raise CheckpointError(
            f"{place}: torch cannot export the network ({reason[:200]}); expected one without control flow; see --debug"
        ) from err
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # lines of source, with their paths
    return program


def write_program(program: torch.export.ExportedProgram, path: Path, metadata: ModelMetadata) -> None:
    """Write a .pt2 whose extra file `arcshard.json` says what it is."""
    with open(path, "wb") as handle:
        torch.export.save(program, handle, extra_files={f"{KEY}.json": metadata.to_json()})
