"""Rounding up or down as something that gradient descent can choose."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

# The sigmoid is stretched to this range and cut to 0 ... 1, so that it reaches both.
STRETCH = (-0.1, 1.1)


@dataclass(frozen=True, eq=False)
class Rounding:
    """A kernel between two codes, element by element.

    Args:
        floor: The lower code.
        rest: How far the value is above it, 0 to 1.
        scale: What one code is worth; broadcasts to `floor`.
        largest: Largest magnitude of a code.
        free: Which elements may be rounded to either side. The others go to the nearest code.
    """

    floor: np.ndarray
    rest: np.ndarray
    scale: np.ndarray
    largest: int
    free: np.ndarray

    @classmethod
    def of(cls, codes: np.ndarray, scale: np.ndarray, bits: int) -> Rounding:
        """Start from values in units of a code.

        Zeros stay zeros, for the sake of pruned kernels. The largest magnitude of each scale stays
        at its code: from it the scale is found again, on export too.

        Args:
            codes: The kernel divided by its scales, not rounded.
            scale: What one code is worth; broadcasts to `codes`.
            bits: Width of a code.
        """
        largest = 2 ** (bits - 1) - 1
        clipped = np.clip(codes, -largest, largest)
        shared = tuple(axis for axis, size in enumerate(scale.shape) if size == 1)
        magnitude = np.abs(codes)
        highest = magnitude.max(axis=shared or None, keepdims=True)
        # A little below the largest, as ties are equal only up to float noise.
        free = (codes != 0) & (magnitude < np.minimum(highest, largest) * (1 - 1e-5))
        floor = np.floor(clipped)
        return cls(floor, clipped - floor, scale, largest, free)

    @property
    def nearest(self) -> np.ndarray:
        """The kernel with every element at its nearest code, as other kernels are."""
        return self.values(np.rint(self.floor + self.rest) - self.floor)

    def values(self, up: np.ndarray) -> np.ndarray:
        """The kernel for a choice.

        Args:
            up: 1 where the upper code is taken, 0 where the lower one is.
        """
        up = np.where(self.free, up, np.rint(self.floor + self.rest) - self.floor)
        codes = np.clip(self.floor + up, -self.largest, self.largest)
        return np.asarray(codes * self.scale, "float32")

    def start(self) -> np.ndarray:
        """Logits at which the soft choice is the value itself."""
        low, high = STRETCH
        share = (np.clip(self.rest, 0.01, 0.99) - low) / (high - low)
        return np.asarray(np.log(share / (1 - share)), "float32")

    def soft(self, choice: Any) -> Any:
        """The kernel for a choice between 0 and 1, a tensor with gradients."""
        fixed = np.rint(self.floor + self.rest) - self.floor
        choice = ops.where(self.free, choice, np.asarray(fixed, "float32"))
        codes = ops.clip(np.asarray(self.floor, "float32") + choice, -self.largest, self.largest)
        return codes * self.scale


def soft_choice(logits: Any) -> Any:
    """The rectified sigmoid `h(V)`, equation 23 of Nagel et al. 2020."""
    low, high = STRETCH
    return ops.clip(ops.sigmoid(logits) * (high - low) + low, 0.0, 1.0)


class Reconstruction(keras.Model):
    """A layer whose kernels are rounded softly, trained to compute what the float layer computes.

    Args:
        roundings: One for each kernel.
        forward: From inputs and the kernels' values to outputs.
        steps: Training steps in all.
        strength: Weight of the regularizer against the error of rounding to the nearest code.
        warm_up: Share of the steps without the regularizer.
        sharpness: Its exponent `beta` at the start and at the end.
    """

    def __init__(
        self,
        roundings: Sequence[Rounding],
        forward: Callable[[Any, list[Any]], Any],
        steps: int,
        strength: float,
        warm_up: float,
        sharpness: tuple[float, float],
    ) -> None:
        super().__init__()
        self._roundings = tuple(roundings)
        self._forward = forward
        self._steps = steps
        self._strength = strength
        self._warm_up = warm_up
        self._sharpness = sharpness
        self.logits = [
            self.add_weight(name=f"logits_{number}", shape=rounding.floor.shape, dtype="float32")
            for number, rounding in enumerate(roundings)
        ]
        self.done = self.add_weight(
            name="done", shape=(), dtype="float32", initializer="zeros", trainable=False
        )
        for logits, rounding in zip(self.logits, roundings, strict=True):
            logits.assign(rounding.start())

    # No `training` argument: quantizers inside the layer must not observe.
    def call(self, inputs: Any) -> Any:
        """Compute the layer with its soft kernels, and add the regularizer to the losses."""
        choices = [soft_choice(logits.value) for logits in self.logits]
        self.add_loss(self._regularizer(choices))
        self.done.assign(self.done + 1.0)
        pairs = zip(self._roundings, choices, strict=True)
        return self._forward(inputs, [rounding.soft(choice) for rounding, choice in pairs])

    def _regularizer(self, choices: list[Any]) -> Any:
        """What pulls choices to 0 or 1, equation 24, as a mean over the free elements."""
        progress = (self.done.value / self._steps - self._warm_up) / (1 - self._warm_up)
        start, end = self._sharpness
        annealed = 0.5 * (1 + ops.cos(math.pi * ops.clip(progress, 0.0, 1.0)))
        beta = end + (start - end) * annealed
        total, count = 0.0, 0
        for rounding, choice in zip(self._roundings, choices, strict=True):
            distance = ops.abs(2.0 * choice - 1.0)
            # Where the distance is zero, the gradient of a power is not.
            undecided = 1.0 - ops.power(ops.maximum(distance, 1e-6), beta)
            total = total + ops.sum(ops.where(rounding.free, undecided, 0.0))
            count += int(rounding.free.sum())
        return ops.where(progress > 0, self._strength * total / max(count, 1), 0.0)

    def rounded(self) -> list[np.ndarray]:
        """The kernels with every choice made."""
        return [
            rounding.values(ops.convert_to_numpy(soft_choice(logits.value)) >= 0.5)
            for rounding, logits in zip(self._roundings, self.logits, strict=True)
        ]
