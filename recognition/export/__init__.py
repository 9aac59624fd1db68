"""Models into files that other programs run: ONNX, ncnn, and torch's exported programs."""
