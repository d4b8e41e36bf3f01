"""Recurrent layers without loops, which the converter cannot quantize."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from tfcompress.export.model_functions import ModelFunction


class Loops:
    """How the recurrent layers of a Keras model are traced.

    Args:
        model: The model; one that is no Keras model stays as it is.
        unroll: Whether loops become single steps, which share their weights.
        fuse: Whether LSTM layers become LiteRT's one operator for them, where it has one.

    Raises:
        ValueError: If layers are to be fused in what is no Keras model.
    """

    def __init__(self, model: Any, unroll: bool, fuse: bool = False) -> None:
        import keras

        from tfcompress.graph import keras_internals

        self._layers: list[Any] = []
        if isinstance(model, keras.Model):
            self._layers = [
                layer
                for layer in keras_internals.flat_sublayers(model)
                if isinstance(layer, keras.layers.RNN)
            ]
        elif fuse:
            raise ValueError(
                "`fused_lstm` needs the layers of a Keras model: give the model itself, or its "
                f"`.keras` or `.h5` file. Received: {type(model).__name__}"
            )
        self._fused = {x.name: _FusedLoop(x) for x in self._layers if fuse and not _obstacle(x)}
        # LiteRT computes garbage where a loop comes after the operator.
        self._unrolled = [x for x in self._layers if not x.unroll and (unroll or self._fused)]
        self._fuse = fuse
        self._reason = "the converter cannot quantize a loop"
        if not unroll:
            self._reason = "LiteRT cannot run a loop behind a fused operator"

    def applied(self, function: ModelFunction) -> ModelFunction:
        """The same function without these loops, of the same weights.

        Args:
            function: What the model computes; the number of steps must be fixed where it is traced.
        """

        def run(**tensors: Any) -> Any:
            # Not around the whole export, which also traces the model for an open number of steps.
            with _unrolled(self._unrolled), _replaced(self._fused):
                return function.run(**tensors)

        return replace(function, run=run)

    def describe(self) -> list[str]:
        """Sentences on what was done when the function was traced, for the artifact."""
        fused = [name for name, loop in self._fused.items() if loop.traced]
        sentences = []
        if fused:
            sentences.append(
                f"One operator each: {_listed(fused)}. It keeps its state from one invocation to "
                "the next: call `reset_all_variables()` of the interpreter before every sequence."
            )
        if self._fuse:
            for layer in self._layers:
                reason = _obstacle(layer) or "it has a mask or an initial state"
                if layer.name not in fused:
                    sentences.append(f"'{layer.name}' is not fused: {reason}.")
        if names := [layer.name for layer in self._unrolled if layer.name not in fused]:
            sentences.append(
                f"Unrolled into single steps, since {self._reason}: {_listed(names)}. The steps "
                "share their weights."
            )
        return sentences


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _obstacle(layer: Any) -> str | None:
    """Why LiteRT's operator does not compute what a recurrent layer does, or None."""
    import keras

    if type(layer) is not keras.layers.LSTM:
        return "LiteRT has one operator for LSTM layers only"
    if layer.activation is not keras.activations.tanh:
        return "its activation is not tanh"
    if layer.recurrent_activation is not keras.activations.sigmoid:
        return "its recurrent activation is not sigmoid"
    refused = ("stateful", "return_state")
    found = [name for name in refused if getattr(layer, name)]
    found += [] if layer.use_bias else ["use_bias=False"]
    return f"the operator has no {found[0]}" if found else None


class _FusedLoop:
    """Takes the place of `inner_loop` of an LSTM layer.

    A step loop in a function with these attributes, of static shapes, with five results and its
    weights as tensors, becomes UNIDIRECTIONAL_SEQUENCE_LSTM in the converter.

    Attributes:
        layer: The layer.
        traced: Whether the layer was called with what the operator can compute.
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.traced = False

    def __call__(
        self, sequences: Any, initial_state: Any, mask: Any, training: bool = False
    ) -> Any:
        import tensorflow as tf

        state = tf.get_static_value(initial_state[0])
        starts_from_zero = state is not None and not state.any()
        if mask is not None or not starts_from_zero or None in sequences.shape:
            layer = self.layer
            return type(layer).inner_loop(layer, sequences, initial_state, mask, training)
        self.traced = True
        cell = self.layer.cell
        variables = (cell.kernel, cell.recurrent_kernel, cell.bias)
        fused = tf.function(
            _steps(sequences.shape[1]),
            autograph=False,
            experimental_attributes={
                "api_implements": f"lstm_{uuid.uuid4()}",
                "api_preferred_device": "CPU",
                "time_major": False,
                "go_backwards": False,
            },
        )
        weights = [tf.convert_to_tensor(variable.value) for variable in variables]
        if self.layer.go_backwards:
            sequences = tf.reverse(sequences, [1])
        last, outputs, *states, _ = fused(sequences, *initial_state, *weights)
        return last, outputs, states


def _steps(count: int) -> Callable[..., Any]:
    """The function that the converter knows: an LSTM of so many steps."""
    import tensorflow as tf

    def lstm(x: Any, h: Any, c: Any, kernel: Any, recurrent: Any, bias: Any) -> Any:
        steps = tf.transpose(x, (1, 0, 2))
        outputs = tf.TensorArray(tf.float32, size=count, element_shape=h.shape)

        def step(t: Any, h: Any, c: Any, outputs: Any) -> Any:
            gates = tf.matmul(steps[t], kernel) + tf.matmul(h, recurrent) + bias
            i, f, g, o = tf.split(gates, 4, 1)
            c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
            h = tf.sigmoid(o) * tf.tanh(c)
            return t + 1, h, c, outputs.write(t, h)

        _, h, c, outputs = tf.while_loop(lambda t, *_: t < count, step, (0, h, c, outputs))
        y = tf.ensure_shape(
            tf.transpose(outputs.stack(), (1, 0, 2)), (x.shape[0], count, h.shape[1])
        )
        return y[:, -1], y, h, c, tf.constant(1.0)

    return lstm


@contextmanager
def _unrolled(layers: Sequence[Any]) -> Iterator[None]:
    for layer in layers:
        layer.unroll = True
    try:
        yield
    finally:
        for layer in layers:
            layer.unroll = False


@contextmanager
def _replaced(loops: dict[str, _FusedLoop]) -> Iterator[None]:
    # Through __dict__, because attribute tracking is closed once a layer is built.
    for loop in loops.values():
        loop.layer.__dict__["inner_loop"] = loop
    try:
        yield
    finally:
        for loop in loops.values():
            del loop.layer.__dict__["inner_loop"]
