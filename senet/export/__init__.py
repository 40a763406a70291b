"""The inference form in a file: ONNX, OpenVINO, PyTorch."""
