"""Export the inference form to a file: ONNX, OpenVINO, PyTorch."""
