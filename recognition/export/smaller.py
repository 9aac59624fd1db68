"""An ONNX graph in half the bytes (float16) or a quarter (int8), by onnxruntime's own converters."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recognition.export.onnx_graph import INPUT, quiet
from recognition.images.preprocess import to_network
from recognition.work.extras import import_extra

_CALIBRATION_BATCH = 16


def to_half(model: Any) -> Any:
    """Return the graph with weights and arithmetic in float16; images and embeddings stay float32."""
    converter = import_extra("onnxruntime.transformers.float16")
    # torch has noted every shape; onnx's own inference would have to serialize the model once more.
    return converter.convert_float_to_float16(model, keep_io_types=True, disable_shape_infer=True)


def to_int8(model: Any, images_rgb: np.ndarray) -> Any:
    """Return the graph with convolutions and dense layers in int8, their ranges from images uint8 [n, S, S, 3] RGB.

    Weights are scaled by output channel; ranges of activations are those of the images, so they must be such as the
    model will see. The other operators stay float32.
    """
    quantization = import_extra("onnxruntime.quantization")
    onnx = import_extra("onnx")
    with tempfile.TemporaryDirectory(prefix="export.") as folder, quiet():
        whole, quantized = Path(folder) / "whole.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, str(whole))
        quantization.quantize_static(
            str(whole),
            str(quantized),
            _Reader(images_rgb),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            # AVX2 adds pairs of products in 16 bits, which overflow with weights of 8 bits: 7 of them are used.
            reduce_range=True,
        )
        return onnx.load(str(quantized))


class _Reader:
    """What the quantizer draws its images from."""

    def __init__(self, images_rgb: np.ndarray) -> None:
        self._images = images_rgb
        self._start = 0

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch by the input's name, None after the last."""
        portion = self._images[self._start : self._start + _CALIBRATION_BATCH]
        self._start += len(portion)
        return {INPUT: to_network(torch.from_numpy(portion)).numpy()} if len(portion) else None
