"""From the trained model to the files that are served: ONNX and int8."""
