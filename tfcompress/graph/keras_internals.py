"""The only place that touches what Keras does not promise to keep.

Topology has no public reading API in Keras 3: a layer's inbound nodes mix every model that ever
called it, so a model's own nodes must come from the model. Everything here is covered by tests that
fail when Keras changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import keras
from keras.src import backend as keras_backend

# Layers inside networks of `keras.applications`, which Keras does not export.
from keras.src.applications.convnext import LayerScale as LayerScale
from keras.src.applications.convnext import StochasticDepth as StochasticDepth
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer as CustomScaleLayer
from keras.src.backend.common import global_state

# The layers that the ConvLSTM layers are made of.
from keras.src.layers.rnn.conv_lstm import ConvLSTM as ConvLSTM
from keras.src.layers.rnn.conv_lstm import ConvLSTMCell as ConvLSTMCell
from keras.src.models.functional import Functional

# Not exported by Keras, but the only way to have an object saved with a model that is no layer: a
# layer would change the model's weights, summary and file, and plain Keras could not load it.
from keras.src.saving.keras_saveable import KerasSaveable as KerasSaveable
from keras.src.saving.serialization_lib import SafeModeScope


@dataclass(frozen=True)
class Call:
    """One call of an operation as Keras recorded it.

    Attributes:
        operation: The layer or `keras.Operation` that was called.
        args: Positional arguments, `KerasTensor`s among them.
        kwargs: Keyword arguments.
        outputs: Flat list of the `KerasTensor`s that came out.
    """

    operation: keras.Operation
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[keras.KerasTensor]


def calls_of(model: keras.Model) -> Iterator[Call]:
    """Yield the calls recorded in a Functional model, producers before their consumers."""
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            if not node.is_input:
                yield Call(
                    node.operation,
                    tuple(node.arguments.args),
                    dict(node.arguments.kwargs),
                    list(node.outputs),
                )


def origin_of(tensor: keras.KerasTensor) -> tuple[keras.Operation, list[keras.KerasTensor]]:
    """The operation that made a symbolic tensor, and the tensors that it made it from."""
    history = tensor._keras_history
    node = history.operation._inbound_nodes[history.node_index]
    return history.operation, [] if node.is_input else list(node.input_tensors)


def output_structure_of(model: keras.Model) -> Any:
    """The (possibly nested) structure of `KerasTensor`s that a Functional model returns."""
    return model._outputs_struct


def input_structure_of(model: keras.Model) -> Any:
    """The (possibly nested) structure of `KerasTensor`s that a Functional model takes."""
    return model._inputs_struct


def functional_of(model: keras.Model) -> keras.Model | None:
    """The Functional graph behind `model`, or None when it has none (a subclassed model)."""
    if isinstance(model, keras.Sequential):
        return model._functional if model.built else None
    # A Functional subclass that overrides `call` does something else than its graph says.
    if isinstance(model, Functional) and type(model).call is Functional.call:
        return model
    return None


def flat_sublayers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """`layer` and all layers inside it, each once."""
    return list(dict.fromkeys(layer._flatten_layers(include_self=True, recursive=True)))


def sublayers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers directly inside a layer or model."""
    inner = layer.layers if isinstance(layer, keras.Model) else layer._layers
    return list(inner)


def deployed_part(model: keras.Model) -> keras.Model:
    """What a training is for: the student of a `keras.distillation.Distiller`, else the model."""
    if isinstance(model, keras.distillation.Distiller):
        student: keras.Model = model.student
        return student
    return model


def training_state_extras(model: keras.Model) -> list[Any]:
    """A list whose members' `state` variables are part of the model's compiled training state.

    Keras keeps seed generators there. They are in no weights, layers or files, which makes it the
    place for variables that a compiled JAX step must see change.
    """
    extras: list[Any] = model._seed_generators
    return extras


def own_trainable_variables(model: keras.Model) -> list[keras.Variable]:
    """The list of a model's trainable variables that are in none of its layers."""
    own: list[keras.Variable] = model._trainable_variables
    return own


def take_losses(layer: keras.layers.Layer) -> list[Any]:
    """The losses that a layer added in its last call, which it forgets."""
    losses = list(layer.losses)
    layer._clear_losses()
    return losses


def take_constants(layer: keras.layers.Layer) -> None:
    """Let a layer be called with other positional arguments than tensors, as operations are."""
    layer._allow_non_tensor_positional_args = True


def remade(operation: keras.Operation, config: dict[str, Any]) -> keras.Operation:
    """An operation like another one of this process, made from a config.

    Python code in it is no risk that was not taken before: the original runs here.

    Args:
        operation: The original.
        config: Its config, perhaps changed.
    """
    with SafeModeScope(False):
        copy: keras.Operation = type(operation).from_config(config)
    if isinstance(copy, keras.layers.Lambda):
        # Not what Keras makes of its byte code, which does not know the names around it.
        copy.function = operation.function
    return copy


def without_autocast() -> AbstractContextManager[Any]:
    """A scope in which float32 variables are read as they are, also under a mixed policy."""
    scope: AbstractContextManager[Any] = keras_backend.AutocastScope(None)
    return scope


@contextmanager
def exact_additions() -> Iterator[None]:
    """Sums of two sequences of one channel are plain additions in graphs traced inside the block.

    For one sample, Keras takes a second summand of shape (1, n, 1) for a bias: of the axis before
    the last, for which the converter has no form, or of the last one if it has the same length,
    which is another sum.
    """
    import tensorflow as tf

    numpy = keras_backend.numpy
    original = numpy.add

    def add(x1: Any, x2: Any) -> Any:
        shape: Any = getattr(x2, "shape", ())
        if len(shape) == 3 and shape[-1] == 1 and getattr(x1, "dtype", None) == x2.dtype:
            return tf.add(x1, x2)
        return original(x1, x2)

    numpy.add = add
    try:
        yield
    finally:
        numpy.add = original


def is_training(layer: keras.layers.Layer) -> bool:
    """Whether a layer that is being called is called in training, also without such an argument."""
    # `layer._get_call_context()` would open one outside of a call, which nothing closes.
    context = global_state.get_global_attribute("current_call_ctx")
    return context is not None and bool(context.get_value("training"))


def step_loop(
    step: Callable[[Any, tuple[Any, ...]], tuple[tuple[Any, ...], tuple[Any, ...]]],
    sequence: Any,
    states: tuple[Any, ...],
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Run a step over a sequence in the loop that the backend has for it.

    Args:
        step: From a step's input and the states to outputs and states.
        sequence: Shape (steps, batch, ...), or a nested structure of such tensors.
        states: Initial states.

    Returns:
        The outputs of all steps, each of shape (steps, ...), and the last states.
    """
    if keras.config.backend() == "tensorflow":
        # `keras.ops.scan` has only outputs like the states there; this loop is that of Keras' RNN.
        _, outputs, last = keras_backend.rnn(
            lambda x, states: step(x, tuple(states)),
            sequence,
            states,
            time_major=True,
            # Without it Keras 3.15 stops a time-major loop after as many steps as samples.
            input_length=keras.tree.flatten(sequence)[0].shape[0] or 2**31 - 1,
        )
        return tuple(outputs), tuple(last)

    def body(states: tuple[Any, ...], x: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        outputs, states = step(x, states)
        return states, outputs

    last, outputs = keras.ops.scan(body, states, sequence)
    return outputs, last


def mask_of(tensor: Any) -> Any:
    """The Keras mask that a tensor carries, or None."""
    return keras_backend.get_keras_mask(tensor)


def set_mask(tensor: Any, mask: Any) -> None:
    """Let a tensor carry a Keras mask."""
    keras_backend.set_keras_mask(tensor, mask)


def pass_mask(layer: keras.layers.Layer, inputs: Any, outputs: Any) -> None:
    """Let outputs carry the masks that a call of `layer` would have given them."""
    if layer.supports_masking:
        masks = keras.tree.map_structure(mask_of, inputs)
        layer._set_mask_metadata(inputs, outputs, masks)


def adopt_call_signature(wrapper: keras.layers.Layer, layer: keras.layers.Layer) -> None:
    """Let a wrapper be called with the arguments of the layer in it, by their names.

    Keras takes a call apart by the signature: without it, tensors could not be mixed with flags,
    and masks and the training flag would not be handed on.
    """
    for name in (
        "_call_signature",
        "call_signature_parameters",
        "_call_has_training_arg",
        "_call_has_mask_arg",
        "_call_has_context_arg",
    ):
        setattr(wrapper, name, getattr(layer, name))


def attention_projections(layer: keras.layers.Layer) -> dict[str, keras.layers.EinsumDense]:
    """The projections in a built `MultiHeadAttention` or `GroupQueryAttention`, by their part."""
    parts = ("query", "key", "value", "output", "gate")
    found = {part: getattr(layer, f"_{part}_dense", None) for part in parts}
    return {part: dense for part, dense in found.items() if dense is not None}


def attention_dropout(layer: keras.layers.Layer) -> keras.layers.Dropout:
    """The dropout in a built `MultiHeadAttention` or `GroupQueryAttention`."""
    dropout: keras.layers.Dropout = layer._dropout_layer
    return dropout


def sliding_window(layer: keras.layers.Layer) -> int | None:
    """The window of a `MultiHeadAttention` or `GroupQueryAttention`, or None."""
    window: int | None = getattr(layer, "sliding_window", getattr(layer, "_sliding_window", None))
    return window
