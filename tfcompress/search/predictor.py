"""Running one model again and again while its weights change under it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from tfcompress.evaluation.trial_samples import TrialSamples
from tfcompress.graph.model_inputs import call_flat, model_inputs


class Predictor:
    """Predicts fixed samples with one compiled function, which reads the weights as they are.

    Args:
        model: A built Keras model. Nothing in it is changed, and nothing is added to it.
        samples: What to predict.
        batch_size: Samples a step, where the model leaves the batch open. Defaults to 128.
    """

    def __init__(self, model: keras.Model, samples: TrialSamples, batch_size: int = 128) -> None:
        fixed = model_inputs(model)[0][1][0]
        self._count = samples.count
        size = fixed or min(batch_size, self._count)
        self._batches = list(samples.batches(size))
        self._runner = _Runner(model)
        # XLA compiles longer than these runs last; JAX runs nothing compiled without it.
        self._runner.compile(jit_compile=keras.config.backend() == "jax")

    def __call__(self) -> list[np.ndarray]:
        """Return the model's outputs, each of shape `(n, ...)`, float32."""
        rows = [keras.tree.flatten(self._runner.predict_on_batch(batch)) for batch in self._batches]
        return [
            np.concatenate([np.asarray(part, "float32") for part in column])[: self._count]
            for column in zip(*rows, strict=True)
        ]


class _Runner(keras.Model):
    """Holds the compiled function, so that the model itself keeps its own."""

    def __init__(self, model: keras.Model) -> None:
        super().__init__(name="runner")
        self._inner = model

    def call(self, inputs: list[Any]) -> Any:
        return call_flat(self._inner, list(inputs))


@contextmanager
def swapped(values: Sequence[tuple[keras.Variable, np.ndarray]]) -> Iterator[None]:
    """Give variables other values inside the block; their own come back whatever happens in it.

    Args:
        values: Pairs of a variable and its value for the time being.
    """
    originals = [
        (variable, np.array(keras.ops.convert_to_numpy(variable.value))) for variable, _ in values
    ]
    try:
        for variable, value in values:
            variable.assign(value)
        yield
    finally:
        for variable, original in originals:
            variable.assign(original)
