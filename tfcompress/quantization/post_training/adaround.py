"""AdaRound: rounding that is learned."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.graph import keras_internals
from tfcompress.progress import progress_bar
from tfcompress.quantization.calibrate import wrappers_of
from tfcompress.quantization.post_training.algorithm import (
    Algorithm,
    LayerOutcome,
    Outcome,
    register,
)
from tfcompress.quantization.post_training.lockstep import Step, quantized_layers
from tfcompress.quantization.post_training.rounding import Reconstruction, Rounding
from tfcompress.quantization.substitution import substituted

# Output positions, over all samples of a batch, from which one step learns.
_POSITIONS = 1024
_SMALLEST_BATCH, _LARGEST_BATCH = 2, 32


@register("adaround")
@dataclass(frozen=True)
class AdaRound(Algorithm):
    """Learns, layer by layer, which weights are rounded up and which down.

    Rounding every weight to its nearest code is not what disturbs a layer's output least: errors
    of weights that are read together can cancel. AdaRound keeps the scales and chooses the side of
    each weight, `W~ = s * clip(floor(W / s) + h(V), n, p)`, so that the layer's output is kept:

        min over V of   || f(W x) - f(W~ x~) ||^2 + lambda * sum(1 - |2 h(V) - 1|^beta)

    with the activation function `f`, the inputs `x` of the float network and `x~` of the network
    whose layers in front are quantized and rounded already (asymmetric reconstruction), and the
    rectified sigmoid `h(V) = clip(1.2 sigmoid(V) - 0.1, 0, 1)`. Annealing `beta` lets weights move
    freely first and settles them at 0 or 1 in the end. Here the error is divided by that of
    rounding to nearest and the regularizer is a mean, so that one `lambda` fits all layers.

    A layer in which the result is no better on all samples keeps the nearest codes. Works for every
    layer with quantized kernels and one input, also recurrent and separable ones.

    Args:
        most_bits: Layers with wider weights keep the nearest codes, at which 8 bits lose next to
            nothing. Defaults to 7.
        iterations: Steps of Adam for each layer. Defaults to 1000.
        learning_rate: Of Adam. Defaults to 0.01.
        regularization: `lambda`. Defaults to 50.
        warm_up: Share of the steps before the regularizer starts. Defaults to 0.2.
        sharpness: `beta` at the start and at the end. Defaults to 20 and 2.
        seed: Seed of the order in which samples are drawn. Defaults to 0.

    Raises:
        ValueError: If an argument is not positive, or `warm_up` is not in [0, 1).

    Reference: Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training Quantization",
    equations 21 to 25.

    Example:

    ```python
    tfcompress.convert(model, "model.tflite", "w4a8", x, algorithms=["adaround"])
    ```
    """

    most_bits: int = 7
    iterations: int = 1000
    learning_rate: float = 0.01
    regularization: float = 50.0
    warm_up: float = 0.2
    sharpness: tuple[float, float] = (20.0, 2.0)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("iterations", "learning_rate", "regularization"):
            if getattr(self, name) <= 0:
                raise ValueError(f"`{name}` must be positive. Received: {getattr(self, name)}")
        if not 0 <= self.warm_up < 1:
            raise ValueError(f"`warm_up` must be in [0, 1). Received: {self.warm_up}")
        object.__setattr__(self, "sharpness", tuple(self.sharpness))

    def refine(
        self, model: keras.Model, quantized: keras.Model, samples: Mapping[str, np.ndarray]
    ) -> Outcome:
        """Round the kernels of all layers in the order of the computation."""
        rows = []
        total = self.iterations * len(wrappers_of(quantized))
        with progress_bar(total) as advance:
            for step in quantized_layers(model, quantized, samples):
                name = f"adaround {step.wrapper.name}"
                rows.append(self._round(step, partial(advance, name)))
        gains = [row.figures["decibels"] for row in rows if row.figures]
        mean = sum(gains) / len(gains) if gains else 0.0
        return Outcome(self.name, tuple(rows), f"Output error {mean:.1f} dB lower on average.")

    def _obstacle(self, step: Step) -> str:
        if step.wrapper.weight_bits > self.most_bits:
            return f"has more than {self.most_bits} bits"
        if step.obstacle:
            return step.obstacle
        if len(step.node.outputs) != 1:
            return "has several outputs"
        if not step.node.inputs[0].is_float:
            return "is looked up, not computed with"
        if keras_internals.mask_of(step.inputs[0]) is not None:
            return "gets a mask"
        return ""

    def _round(self, step: Step, advance: Callable[[int], None]) -> LayerOutcome:
        wrapper, reason = step.wrapper, self._obstacle(step)
        if reason:
            return LayerOutcome(wrapper.name, {}, reason)
        kernels = [kernel.variable for kernel in wrapper.kernels]
        roundings = [
            Rounding.of(*kernel.codes_and_scale(), wrapper.weight_bits)
            for kernel in wrapper.kernels
        ]

        def forward(inputs: Any, values: list[Any]) -> Any:
            pairs = zip(kernels, values, strict=True)
            with substituted(wrapper.layer, {id(kernel): value for kernel, value in pairs}):
                outputs = wrapper.rule.call(wrapper, inputs)
            return outputs if step.follower is None else step.follower(outputs)

        targets = [_target(step, batch) for batch in step.float_inputs]
        nearest = [rounding.nearest for rounding in roundings]
        before = _error(forward, step.inputs, targets, nearest)
        if before == 0 or not any(rounding.free.any() for rounding in roundings):
            return LayerOutcome(wrapper.name, {}, "is exact as it is")
        learned = self._learn(roundings, forward, step.inputs, targets, before, advance)
        after = _error(forward, step.inputs, targets, learned)
        better = after < before
        for kernel, value in zip(kernels, learned if better else nearest, strict=True):
            kernel.assign(value)
        # Scales that are found in the values: the largest magnitudes have their codes for sure.
        if wrapper.scheme.learned != "lsq":
            wrapper.set_scheme(replace(wrapper.scheme, weight_range="max"))
        gain = 10 * math.log10(before / max(after, 1e-30)) if better else 0.0
        changed = sum(int((a != b).sum()) for a, b in zip(learned, nearest, strict=True))
        weights = sum(value.size for value in nearest)
        return LayerOutcome(
            wrapper.name, {"decibels": gain, "changed": changed / weights if better else 0.0}
        )

    def _learn(
        self,
        roundings: list[Rounding],
        forward: Callable[[Any, list[Any]], Any],
        inputs: list[Any],
        targets: list[Any],
        error: float,
        advance: Callable[[int], None],
    ) -> list[np.ndarray]:
        model = Reconstruction(
            roundings, forward, self.iterations, self.regularization, self.warm_up, self.sharpness
        )
        model.compile(
            keras.optimizers.Adam(self.learning_rate),
            lambda wanted, seen: ops.mean(ops.square(wanted - seen)) / error,
            # XLA takes longer to compile these small steps than it saves, except on JAX.
            jit_compile=keras.backend.backend() == "jax",
        )
        watch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: advance(1))
        model.fit(
            self._batches(inputs, targets),
            steps_per_epoch=self.iterations,
            shuffle=False,
            verbose=0,
            callbacks=[watch],
        )
        return model.rounded()

    def _batches(
        self, inputs: list[Any], targets: list[Any]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        x, y = (
            np.concatenate([ops.convert_to_numpy(batch) for batch in batches])
            for batches in (inputs, targets)
        )
        positions = math.prod(y.shape[1:-1])
        size = max(_SMALLEST_BATCH, min(_POSITIONS // positions, _LARGEST_BATCH))
        size = min(size, len(x))
        generator = np.random.default_rng(self.seed)
        while True:
            chosen = generator.choice(len(x), size, replace=False)
            yield x[chosen], y[chosen]


def _target(step: Step, inputs: Any) -> Any:
    outputs = step.layer(inputs)
    return outputs if step.follower is None else step.follower(outputs)


def _error(
    forward: Callable[[Any, list[Any]], Any],
    inputs: list[Any],
    targets: list[Any],
    kernels: list[np.ndarray],
) -> float:
    values = [ops.convert_to_tensor(kernel) for kernel in kernels]
    total, count = 0.0, 0
    for given, wanted in zip(inputs, targets, strict=True):
        difference = ops.convert_to_numpy(forward(given, values)) - ops.convert_to_numpy(wanted)
        total += float(np.square(difference, dtype="float64").sum())
        count += difference.size
    return total / count
