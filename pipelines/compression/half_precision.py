"""Half precision for GPUs: weights and arithmetic in float16, inputs and outputs as they were."""

from pathlib import Path


def export_half(source: Path, target: Path) -> None:
    """Write a float16 copy of an ONNX model.

    On a GPU int8 is slower than float16 and float16 faster than float32; on a CPU float16 is converted back all the
    time, so it is for GPUs only.
    """
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = convert_float_to_float16(onnx.load(source), keep_io_types=True)
    onnx.save_model(model, target)
