"""The user tower as an ONNX graph that is written node by node.

An exporter gives 77 nodes, most of which work out shapes and masks; one request of 50 events spends as long between
them as in them. Here attention, the norm behind a sum and GELU are ONNX Runtime's own operators (CPU and CUDA), and the
two tables of marks are one.

A history is padded at the right, and an event sees older ones alone: no event sees padding, so attention has no mask.
The softmax over the events of a history does not notice what is added to all of them, and its weights add up to 1: the
last bias of the block is added after it, to one vector.
"""

from pathlib import Path
from typing import Any

import numpy as np

from pipelines.model.user_tower import HEADS, UserTower

_OPSET, _IR_VERSION = 17, 9
_ORT = "com.microsoft"
_EPSILON = 1e-5
"""What `nn.LayerNorm` adds to a variance."""


def export_user_tower(tower: UserTower, target: Path) -> None:
    """Write the tower; its inputs and outputs are those of `UserTower.forward`, under their names."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    constants = _constants(tower)
    dim, n_activity = tower.activity.weight.shape
    floats, integers = TensorProto.FLOAT, TensorProto.INT64
    graph = helper.make_graph(
        _nodes(n_activity > 0),
        "user_tower",
        [
            helper.make_tensor_value_info("item_vectors", floats, ["b", "t", dim]),
            helper.make_tensor_value_info("event_types", integers, ["b", "t"]),
            helper.make_tensor_value_info("gap_buckets", integers, ["b", "t"]),
            helper.make_tensor_value_info("mask", floats, ["b", "t"]),
            helper.make_tensor_value_info("activity", floats, ["b", n_activity]),
        ],
        [
            helper.make_tensor_value_info("user_embedding", floats, ["b", dim]),
            helper.make_tensor_value_info("attention", floats, ["b", "t"]),
        ],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in constants.items()],
    )
    domains = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_ORT, 1)]
    model = helper.make_model(graph, opset_imports=domains, ir_version=_IR_VERSION)
    onnx.checker.check_model(model)
    onnx.save_model(model, target)


def _constants(tower: UserTower) -> dict[str, np.ndarray]:
    """Return what the nodes multiply with and look up; matrices are `(n_inputs, n_outputs)`."""
    weights = {name: value.detach().cpu().float().numpy() for name, value in tower.state_dict().items()}
    of = {name.removeprefix("block."): value for name, value in weights.items()}
    marks = of["event_type.weight"][:, None] + of["gap.weight"][None]
    up, pool = of["up.weight"], of["pool.weight"]
    return {
        "n_gap_buckets": np.array(len(of["gap.weight"]), np.int64),
        "marks": marks.reshape(-1, marks.shape[-1]),
        "down": of["down.weight"].T,
        "down_bias": of["down.bias"],
        "norm": of["norm_attention.weight"],
        "norm_bias": of["norm_attention.bias"],
        "attend": of["query_key_value.weight"].T,
        "attend_bias": of["query_key_value.bias"],
        "output": of["output.weight"].T,
        "output_bias": of["output.bias"],
        "second_norm": of["norm_feed_forward.weight"],
        "second_norm_bias": of["norm_feed_forward.bias"],
        "wide": of["feed_forward.0.weight"].T,
        "wide_bias": of["feed_forward.0.bias"],
        "narrow": of["feed_forward.2.weight"].T,
        "narrow_bias": of["feed_forward.2.bias"],
        "up": up.T,
        "pool": pool.T,
        "pool_mixed": (pool @ up).T,
        "gap_bias": of["gap_bias.weight"],
        "activity_weights": of["activity.weight"].T,
        "one": np.array(1, np.float32),
        "penalty": np.array(1e4, np.float32),
        "last": np.array([2], np.int64),
        "middle": np.array([1], np.int64),
    }


def _nodes(has_activity: bool) -> list[Any]:
    from onnx import helper

    def node(kind: str, inputs: str, output: str, **attributes: Any) -> Any:
        return helper.make_node(kind, inputs.split(), [output], **attributes)

    def fused(kind: str, inputs: str, output: str, **attributes: Any) -> Any:
        return node(kind, inputs, output, domain=_ORT, **attributes)

    activity = [
        node("MatMul", "activity activity_weights", "of_activity"),
        node("Add", "of_history of_activity", "user"),
    ]
    return [
        node("Mul", "event_types n_gap_buckets", "of_type"),
        node("Add", "of_type gap_buckets", "mark"),
        node("Gather", "marks mark", "marked"),
        node("Add", "item_vectors marked", "states"),
        # The block
        node("MatMul", "states down", "downed"),
        node("Add", "downed down_bias", "narrow_states"),
        node("LayerNormalization", "narrow_states norm norm_bias", "normed", epsilon=_EPSILON),
        fused("Attention", "normed attend attend_bias", "attended", num_heads=HEADS, unidirectional=1),
        node("MatMul", "attended output", "mixed_heads"),
        node("Add", "narrow_states output_bias", "residual"),
        node("Add", "mixed_heads residual", "states_again"),
        node("LayerNormalization", "states_again second_norm second_norm_bias", "normed_again", epsilon=_EPSILON),
        node("MatMul", "normed_again wide", "widened"),
        fused("BiasGelu", "widened wide_bias", "active"),
        node("MatMul", "active narrow", "narrowed"),
        node("Add", "narrowed states_again", "mixed"),
        # The sum over events
        node("MatMul", "states pool", "of_states"),
        node("MatMul", "mixed pool_mixed", "of_mixed"),
        node("Add", "of_states of_mixed", "of_both"),
        node("Gather", "gap_bias gap_buckets", "of_gap"),
        node("Add", "of_both of_gap", "of_events"),
        node("Sub", "mask one", "padding"),
        node("Mul", "padding penalty", "penalties"),
        node("Unsqueeze", "penalties last", "of_padding"),
        node("Add", "of_events of_padding", "logits"),
        node("Softmax", "logits", "shares", axis=1),
        node("Squeeze", "shares last", "attention"),
        fused("FusedMatMul", "shares states", "pooled_states", transA=1),
        fused("FusedMatMul", "shares mixed", "pooled_mixed", transA=1),
        node("Add", "pooled_mixed narrow_bias", "pooled_narrow"),
        node("MatMul", "pooled_narrow up", "upped"),
        node("Add", "pooled_states upped", "pooled"),
        node("Squeeze", "pooled middle", "of_history" if has_activity else "user"),
        *(activity if has_activity else []),
        node("LpNormalization", "user", "user_embedding", axis=-1, p=2),
    ]
