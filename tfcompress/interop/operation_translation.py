"""TensorFlow functions called on Keras 2 tensors, as operations of Keras 3.

Keras 2 wraps `x + y` or `tf.nn.relu(x)` into a layer of class `TFOpLambda` that holds the name of
the function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from keras import ops

from tfcompress.interop.layer_translation import UnknownLayerError


def _binary(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, y, name=None: function(x, y)


def _unary(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, name=None: function(x)


def _reduction(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda input_tensor, axis=None, keepdims=False, name=None: function(
        input_tensor, axis=axis, keepdims=keepdims
    )


def _cast(x: Any, dtype: Any, name: str | None = None) -> Any:
    return ops.cast(x, getattr(dtype, "name", dtype))


def _reshape(tensor: Any, shape: Any, name: str | None = None) -> Any:
    return ops.reshape(tensor, tuple(int(size) for size in shape))


def _transpose(a: Any, perm: Any = None, conjugate: bool = False, name: str | None = None) -> Any:
    return ops.transpose(a, perm)


def _matmul(a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False, **_: Any) -> Any:
    a = ops.swapaxes(a, -1, -2) if transpose_a else a
    return ops.matmul(a, ops.swapaxes(b, -1, -2) if transpose_b else b)


def _leaky_relu(features: Any, alpha: float = 0.2, name: str | None = None) -> Any:
    return ops.leaky_relu(features, negative_slope=alpha)


def _pad(
    tensor: Any, paddings: Any, mode: str = "CONSTANT", constant_values: Any = 0, **_: Any
) -> Any:
    value = {"constant_values": constant_values} if mode == "CONSTANT" else {}
    return ops.pad(tensor, paddings, mode.lower(), **value)


def _slice(tensor: Any, slice_spec: Any, var: Any = None) -> Any:
    entries = slice_spec if isinstance(slice_spec, list | tuple) else [slice_spec]
    return tensor[tuple(_slice_entry(entry) for entry in entries)]


def _slice_entry(entry: Any) -> Any:
    if isinstance(entry, Mapping):
        if entry == {"ellipsis": True} or "ellipsis" in entry:
            return ...
        return slice(entry["start"], entry["stop"], entry["step"])
    return entry


# By the name that Keras 2 gives a function, its equal. Arguments have TensorFlow's names.
_OPERATIONS: dict[str, Callable[..., Any]] = {
    "__operators__.add": _binary(ops.add),
    "__operators__.getitem": _slice,
    "math.add": _binary(ops.add),
    "math.subtract": _binary(ops.subtract),
    "math.multiply": _binary(ops.multiply),
    "math.divide": _binary(ops.divide),
    "math.truediv": _binary(ops.divide),
    "math.maximum": _binary(ops.maximum),
    "math.minimum": _binary(ops.minimum),
    "math.pow": _binary(ops.power),
    "math.floordiv": _binary(ops.floor_divide),
    "math.squared_difference": _binary(lambda x, y: ops.square(x - y)),
    "math.negative": _unary(ops.negative),
    "math.abs": _unary(ops.abs),
    "math.square": _unary(ops.square),
    "math.sqrt": _unary(ops.sqrt),
    "math.rsqrt": _unary(ops.rsqrt),
    "math.exp": _unary(ops.exp),
    "math.log": _unary(ops.log),
    "math.sigmoid": _unary(ops.sigmoid),
    "math.tanh": _unary(ops.tanh),
    "math.erf": _unary(ops.erf),
    "math.reduce_mean": _reduction(ops.mean),
    "math.reduce_sum": _reduction(ops.sum),
    "math.reduce_max": _reduction(ops.max),
    "math.reduce_min": _reduction(ops.min),
    "nn.relu": lambda features, name=None: ops.relu(features),
    "nn.relu6": lambda features, name=None: ops.relu6(features),
    "nn.leaky_relu": _leaky_relu,
    "nn.elu": lambda features, name=None: ops.elu(features),
    "nn.selu": lambda features, name=None: ops.selu(features),
    "nn.gelu": lambda features, approximate=False, name=None: ops.gelu(features, approximate),
    "nn.silu": lambda features, beta=1.0: ops.silu(features),
    "nn.softplus": lambda features, name=None: ops.softplus(features),
    "nn.softmax": lambda logits, axis=-1, name=None: ops.softmax(logits, axis),
    "nn.sigmoid": _unary(ops.sigmoid),
    "nn.tanh": _unary(ops.tanh),
    "cast": _cast,
    "clip_by_value": lambda t, clip_value_min, clip_value_max, name=None: ops.clip(
        t, clip_value_min, clip_value_max
    ),
    "concat": lambda values, axis, name=None: ops.concatenate(values, axis),
    "stack": lambda values, axis=0, name=None: ops.stack(values, axis),
    "expand_dims": lambda input, axis, name=None: ops.expand_dims(input, axis),
    "squeeze": lambda input, axis=None, name=None: ops.squeeze(input, axis),
    "identity": lambda input, name=None: input,
    "linalg.matmul": _matmul,
    "pad": _pad,
    "reshape": _reshape,
    "transpose": _transpose,
}  # fmt: skip


def is_operation(layer: Any) -> bool:
    """Whether a Keras 2 layer is a TensorFlow function that was called on Keras tensors."""
    return type(layer).__name__ in ("TFOpLambda", "SlicingOpLambda")


def call_operation(layer: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
    """Call the equal of a TensorFlow function on Keras 3 tensors.

    Args:
        layer: The Keras 2 layer that stands for it.
        args: Positional arguments, Keras 3 tensors among them.
        kwargs: Keyword arguments, by the names of the TensorFlow function.

    Returns:
        A Keras 3 tensor.

    Raises:
        UnknownLayerError: If the function has no equal here, or not with these arguments.
    """
    function = _OPERATIONS.get(layer.symbol.removeprefix("compat.v1."))
    if function is None:
        raise UnknownLayerError(
            f"The function tf.{layer.symbol} in '{layer.name}' has no equal here. Use a Keras "
            "layer in its place, or convert the model as it is: `tfcompress.convert` traces it. "
            f"Known: {', '.join(sorted(_OPERATIONS))}"
        )
    given = {key: value for key, value in kwargs.items() if value is not None}
    try:
        return function(*args, **given)
    except (TypeError, ValueError) as error:
        raise UnknownLayerError(
            f"The function tf.{layer.symbol} in '{layer.name}' cannot be called in Keras 3: {error}"
        ) from error
