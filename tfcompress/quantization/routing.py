"""Running a model's steps through its quantized twin."""

from __future__ import annotations

import inspect
from typing import Any

import keras

from tfcompress.graph import keras_internals
from tfcompress.quantization.twin import QuantizedTwin
from tfcompress.training_step import add_training_state, remove_training_state


class Routing:
    """Lets a model compute what its twin computes, whoever calls it.

    The `call` of the model object is replaced, and nothing else: its own training step, custom or
    not, its optimizer, loss, metrics and distribution go on as they are, on every backend.
    (Functions of a compiled clone in the place of the model's own would have to be told about each
    of these.) Functions that were traced before must be made anew afterwards.

    Args:
        model: The float model.
        twin: Its twin.
    """

    def __init__(self, model: keras.Model, twin: QuantizedTwin) -> None:
        self.model = model
        self.twin = twin

    def add_state(self) -> None:
        """Make the ranges part of the training state, which a compiled JAX step needs.

        JAX must not have a step's results pending when the state changes: read the model through
        `Callback.model` first.
        """
        if keras.backend.backend() == "jax":
            add_training_state(self.model, Routing, self.twin.variables())

    def install(self) -> None:
        """Route the model's calls to the twin."""
        object.__setattr__(self.model, "call", _TwinCall(self.model, self.twin))

    @property
    def is_used(self) -> bool:
        """Whether the model was called since it was routed."""
        call = self.model.__dict__.get("call")
        return isinstance(call, _TwinCall) and call.count > 0

    def remove(self) -> None:
        """Leave the model as it was. Also undoes what an interrupted training left behind."""
        call = self.model.__dict__.get("call")
        if isinstance(call, _TwinCall):
            object.__delattr__(self.model, "call")
        remove_training_state(self.model, Routing)


class _TwinCall:
    """Takes the arguments of a model's `call` and calls its twin."""

    def __init__(self, model: keras.Model, twin: QuantizedTwin) -> None:
        self.model = model
        self.signature = inspect.signature(model.call)
        self.twin = twin.model()
        # Their losses, such as the decay of PACT: the model does not know these layers.
        self.quantizers = [quantizer for quantizer in twin.quantizers() if quantizer.learned]
        self.count = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.count += 1
        bound = self.signature.bind(*args, **kwargs).arguments
        inputs = next(iter(bound.values()))
        known = {name: bound[name] for name in ("training", "mask") if name in bound}
        outputs = self.twin(inputs, **known)
        for quantizer in self.quantizers:
            for loss in keras_internals.take_losses(quantizer):
                # Of `Layer`: a Functional model refuses what was not there when it was made.
                keras.layers.Layer.add_loss(self.model, loss)
        return outputs
