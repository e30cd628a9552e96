"""Values as Feast stores them: one `Value` a feature, with one field a type."""

from typing import Any


def proto_field(dtype: Any) -> str:
    """Return the field of Feast's `Value` that holds a type, such as `double_list_val`."""
    from feast.value_type import ValueType

    kind = dtype.to_value_type()
    return f"{ValueType(kind).name.lower()}_val"


def proto_value(value: Any, field: str) -> Any:
    """Return Feast's form of a value; null has no field set."""
    from feast.protos.feast.types.Value_pb2 import Value

    if value is None:
        return Value()
    if field.endswith("_list_val"):
        proto = Value()
        getattr(proto, field).val.extend(value)
        getattr(proto, field).SetInParent()  # an empty list is not null
        return proto
    return Value(**{field: value})
