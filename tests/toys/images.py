"""Pictures of one color, and an image encoder whose vectors can be worked out by hand: the mean of each color."""

from pathlib import Path

import onnx
from onnx import TensorProto, helper
from PIL import Image

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def write_image(path: Path, color: tuple[int, ...] | str, size: tuple[int, int] = (6, 4), mode: str = "RGB") -> Path:
    """Write a picture of one color, `size` in width and height, in the format of the path's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path)
    return path


def write_color_encoder(path: Path, *, channels: int = 3, keep: int = 0) -> Path:
    """Write an ONNX encoder for pictures of 4 × 4: float32 `(n, 3, 4, 4)` to the mean of each color, `(n, 3)`.

    Args:
        keep: 1 leaves the output with the four dimensions of its input, which is wrong.
    """
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["image"], ["vector"], axes=[2, 3], keepdims=keep)],
        "colors",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", channels, 4, 4])],
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path
