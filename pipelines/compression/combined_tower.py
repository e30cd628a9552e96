"""Two query towers as one: the sum of their vectors, brought to length 1.

A few layers and a table of tokens, each distilled from the same teacher, are wrong about different queries; the sum of
both is nearer to the teacher than either, and a table costs next to nothing. Each has a vocabulary of its own: layers
make something of a token that is rare, a table needs to have seen it more than once.
"""

from pathlib import Path

from pipelines.inference.text_encoder import TABLE_INPUT

_OUTPUT = "sentence_embedding"


def write_combined(deep: Path, table: bytes, target: Path) -> None:
    """Write one ONNX model that adds up two; the tokens of the table are an input of their own, `TABLE_INPUT`.

    Args:
        deep: An exported encoder.
        table: What `static_tower_model` gave.
    """
    import onnx
    from onnx import compose, helper

    first = compose.add_prefix(onnx.load(deep), "deep_", rename_inputs=False)
    second = compose.add_prefix(onnx.load_model_from_string(table), "table_")
    graph = first.graph
    graph.node.extend(second.graph.node)
    graph.initializer.extend(second.graph.initializer)
    graph.input.extend(value for value in second.graph.input if value.name == TABLE_INPUT)
    graph.node.extend(
        [
            helper.make_node("Add", [f"deep_{_OUTPUT}", f"table_{_OUTPUT}"], ["both"]),
            helper.make_node("LpNormalization", ["both"], [_OUTPUT], axis=-1, p=2),
        ]
    )
    output = helper.make_tensor_value_info(_OUTPUT, onnx.TensorProto.FLOAT, ["n", None])
    del graph.output[:]
    graph.output.append(output)
    onnx.save_model(first, target)
