"""What is tried on a layer: levels of a compression method, as other values of its weights."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from tfcompress.graph import flatten
from tfcompress.pruning.masks import pruned_count, smallest_masks
from tfcompress.pruning.targets import prunable_weights
from tfcompress.quantization.placement import Placement
from tfcompress.quantization.rules import Role
from tfcompress.quantization.weight_scale import fake_quant_to_scale, weight_scale

Values = list[tuple[keras.Variable, np.ndarray]]


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """The weights of a layer that a method changes together.

    Attributes:
        name: Name of the layer, as the method's own options take it.
        variables: The weights.
        axes: For each weight, the axes of its output channels.
    """

    name: str
    variables: tuple[keras.Variable, ...]
    axes: tuple[tuple[int, ...], ...] = ()

    @property
    def size(self) -> int:
        """Number of weights."""
        return sum(math.prod(variable.shape) for variable in self.variables)


class Method(ABC):
    """One way to compress a layer, at several levels.

    Attributes:
        name: What it is called.
        levels: The levels that are tried by default, from gentle to harsh.
        heading: What a level is called in tables and plots.
    """

    name: str
    levels: tuple[float, ...]
    heading: str

    @abstractmethod
    def layers(self, model: keras.Model) -> list[LayerWeights]:
        """The layers of a model that it can be tried on, in the order of the model."""

    @abstractmethod
    def values(self, layer: LayerWeights, level: float) -> Values:
        """What the weights of a layer are at a level."""

    @abstractmethod
    def check(self, level: float) -> None:
        """Raise a `ValueError` if a level makes no sense."""

    @property
    def key(self) -> str:
        """What tells its measurements from those of other methods and settings."""
        return self.name

    @staticmethod
    @abstractmethod
    def write(level: float) -> str:
        """A level as people read it."""


class ShareMethod(Method):
    """A method whose levels are shares of what is in a layer."""

    def check(self, level: float) -> None:
        """A share in (0, 1)."""
        if not 0 < level < 1:
            raise ValueError(f"A level of {self.name!r} is a share in (0, 1). Received: {level!r}")

    @staticmethod
    def write(level: float) -> str:
        """In percent."""
        return f"{level:.0%}" if round(100 * level, 6) % 1 == 0 else f"{level:.1%}"


class Sparsity(ShareMethod):
    """Zeros in place of the smallest weights, the same share in each kernel of a layer.

    Layers are called as in `callbacks.MagnitudePruning(include=...)`.
    """

    name = "sparsity"
    levels = (0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
    heading = "sparsity"

    def layers(self, model: keras.Model) -> list[LayerWeights]:
        """Those with weights that pruning would take."""
        groups: dict[str, list[keras.Variable]] = {}
        for target in prunable_weights(model)[0]:
            groups.setdefault(target.layer_name, []).append(target.variable)
        return [LayerWeights(name, tuple(found)) for name, found in groups.items()]

    def values(self, layer: LayerWeights, level: float) -> Values:
        """Exactly the asked share is zero, ties broken by position."""
        found: Values = []
        for variable in layer.variables:
            weight = ops.convert_to_tensor(variable.value)
            count = pruned_count([math.prod(variable.shape)], level)
            masks, _ = smallest_masks([weight], [ops.ones(variable.shape, "bool")], count)
            value = ops.where(masks[0], weight, ops.zeros_like(weight))
            found.append((variable, ops.convert_to_numpy(value)))
        return found


class Bits(Method):
    """Weights rounded to the grid that `quantize_aware` puts them on.

    Below 8 bits the scale is the one of least squared error, as post-training quantization needs.
    Layers are called as in a `SchemeMap`.

    Args:
        weight_range: How the scale of fewer than 8 bits is found, see `Scheme`. Defaults to
            `"mse"`.
    """

    name = "bits"
    levels = (8, 7, 6, 5, 4, 3, 2)
    heading = "weight bits"

    def __init__(self, weight_range: str = "mse") -> None:
        self.weight_range = weight_range

    @property
    def key(self) -> str:
        """With the way in which scales are found."""
        return f"{self.name} {self.weight_range}"

    def layers(self, model: keras.Model) -> list[LayerWeights]:
        """Those whose kernels an integer file holds as integers."""
        graph = flatten(model)
        placement = Placement(graph)
        found: dict[int, LayerWeights] = {}
        for node in graph.nodes:
            if node.layer is None or placement.roles[node] is Role.FLOAT:
                continue
            kernels = placement.rules[node].kernels(node.layer)
            if kernels and id(node.layer) not in found:
                variables, axes = zip(*kernels, strict=True)
                name = node.name.split("@")[0]
                found[id(node.layer)] = LayerWeights(name, tuple(variables), tuple(axes))
        return list(found.values())

    def values(self, layer: LayerWeights, level: float) -> Values:
        """Symmetric, narrow range, a scale for each output channel."""
        bits = int(level)
        method = "max" if bits == 8 else self.weight_range
        found: Values = []
        for variable, axes in zip(layer.variables, layer.axes, strict=True):
            weight = ops.cast(variable.value, "float32")
            scale = weight_scale(weight, axes, bits, method)
            value = ops.convert_to_numpy(fake_quant_to_scale(weight, scale, bits))
            found.append((variable, value))
        return found

    def check(self, level: float) -> None:
        """A whole number from 2 to 8."""
        if level not in range(2, 9):
            raise ValueError(
                f"A level of 'bits' is a whole number from 2 to 8. Received: {level!r}"
            )

    @staticmethod
    def write(level: float) -> str:
        """As a whole number."""
        return str(int(level))
