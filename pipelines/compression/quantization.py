"""int8 weights for the CPU."""

import logging
from pathlib import Path


def quantize_int8(source: Path, target: Path) -> None:
    """Write an int8 copy of an exported encoder; activations are quantized while it runs.

    One scale a channel and seven-bit weights: without both, multiplications on CPUs without VNNI saturate.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from pipelines.compression.graph_fusion import fused

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # fusion and quantizer advise on the root logger
    try:
        quantize_dynamic(
            fused(source),
            str(target),
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            extra_options={"MatMulConstBOnly": True, "DefaultTensorType": onnx.TensorProto.FLOAT},
        )
    finally:
        root.setLevel(level)
