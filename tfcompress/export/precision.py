"""Models that compute in half precision, in the float32 that TFLite files compute in."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_HALVES = ("float16", "bfloat16")


def half_types(model: Any) -> list[str]:
    """The half-precision types that layers of a Keras model compute in, sorted.

    Args:
        model: A Keras model.
    """
    from tfcompress.graph import keras_internals

    types = {str(layer.compute_dtype) for layer in keras_internals.flat_sublayers(model)}
    return sorted(types.intersection(_HALVES))


@contextmanager
def float32_layers() -> Iterator[None]:
    """New layers compute in float32 inside the block, whatever the global dtype policy is."""
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def in_float32(source: Any) -> tuple[Any, tuple[str, ...]]:
    """What was trained in half precision, as a model that computes in float32.

    LiteRT has no kernels for convolutions and products of float16 or bfloat16. Under the policies
    `mixed_float16` and `mixed_bfloat16` the variables are float32, and nothing of them is lost.

    Args:
        source: Anything; what is no Keras 3 model, or computes in float32 already, comes back as it
            is.

    Returns:
        The model, and sentences on what was done.

    Raises:
        ValueError: If the model cannot be traced, or one of its layers cannot be copied.
    """
    keras = sys.modules.get("keras")
    if keras is None or not isinstance(source, keras.Model) or not source.built:
        return source, ()
    types = half_types(source)
    if not types:
        return source, ()

    from tfcompress.graph import flatten
    from tfcompress.graph.rebuild import LayerCopies

    try:
        with float32_layers():
            model = LayerCopies(flatten(source), dtype="float32").model()
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(
            f"The model '{source.name}' computes in {' and '.join(types)}, which LiteRT cannot, "
            "and no float32 form of it could be made. Build it under the dtype policy 'float32' "
            f"and give it the trained weights. {type(error).__name__}: {error}"
        ) from error
    return model, (
        f"The model computes in {' and '.join(types)}, the file and the model that it was proven "
        "against in float32.",
    )
