"""Two query towers as one: the sum of their vectors, brought to length 1.

A few layers and a table of tokens, each distilled from the same teacher, are wrong about different queries; the sum of
both is nearer to the teacher than either, and a table costs next to nothing.
"""

from pathlib import Path

_OUTPUT = "sentence_embedding"


def write_combined(deep: Path, static: bytes, target: Path) -> None:
    """Write one ONNX model that adds up two with the same inputs.

    Args:
        deep: An exported encoder.
        static: What `static_tower_model` gave, over the same vocabulary.
    """
    import onnx
    from onnx import compose, helper

    first, second = (
        compose.add_prefix(model, prefix, rename_inputs=False)
        for model, prefix in ((onnx.load(deep), "deep_"), (onnx.load_model_from_string(static), "static_"))
    )
    graph = first.graph
    graph.node.extend(second.graph.node)
    graph.initializer.extend(second.graph.initializer)
    graph.node.extend(
        [
            helper.make_node("Add", [f"deep_{_OUTPUT}", f"static_{_OUTPUT}"], ["both"]),
            helper.make_node("LpNormalization", ["both"], [_OUTPUT], axis=-1, p=2),
        ]
    )
    output = helper.make_tensor_value_info(_OUTPUT, onnx.TensorProto.FLOAT, ["n", None])
    del graph.output[:]
    graph.output.append(output)
    onnx.save_model(first, target)
