"""The towers as they are served: numpy and ONNX Runtime, never torch."""
