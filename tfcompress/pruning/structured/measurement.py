"""Measuring channels on data: their activations, and how the loss depends on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.datasets.calibration import calibration_samples
from tfcompress.graph import Tensor
from tfcompress.graph.bypass import run_nodes
from tfcompress.graph.model_inputs import sample_specs
from tfcompress.graph.rebuild import LayerCopies
from tfcompress.pruning.structured.groups import ChannelGroup, DependencyGroups

_SAMPLES = 512
_BATCH = 32


def measured_activity(
    groups: DependencyGroups, data: Any, of_element: Callable[[Any], Any]
) -> dict[int, np.ndarray]:
    """Average a function of the activations that layers read, for each channel.

    Args:
        groups: The groups of a model.
        data: Samples, in any form that calibration data have.
        of_element: From activations to numbers of the same shape.

    Returns:
        By `id` of the binding that reads, one number for each position of its axis.
    """
    graph = groups.graph
    samples = calibration_samples(data, sample_specs(groups.model), _SAMPLES)
    arrays = list(samples.values())
    sums: dict[int, np.ndarray] = {}
    for start in range(0, len(arrays[0]), _BATCH):
        values: dict[Tensor, Any] = {
            tensor: ops.convert_to_tensor(array[start : start + _BATCH])
            for tensor, array in zip(graph.inputs, arrays, strict=True)
        }
        run_nodes(graph.nodes, values)
        for binding, tensor, axis in groups.coupling.readers:
            # A tensor inside a `TimeDistributed` layer is not among the values.
            if tensor in values:
                numbers = ops.convert_to_numpy(of_element(ops.cast(values[tensor], "float32")))
                others = tuple(i for i in range(numbers.ndim) if i != axis)
                mean = numbers.mean(axis=others) * len(numbers)
                sums[id(binding)] = sums.get(id(binding), 0) + mean
    return sums


class _GradientReader(keras.optimizers.Optimizer):
    """Notes weight times gradient of a step and changes nothing.

    An optimizer is where Keras hands out gradients in the same way on every backend.
    """

    def __init__(self) -> None:
        super().__init__(learning_rate=0.0, name="gradient_reader")

    def build(self, variables: list[Any]) -> None:
        if self.built:
            return
        super().build(variables)
        self.products = [
            self.add_variable_from_reference(variable, name="product") for variable in variables
        ]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        product = self.products[self._get_variable_index(variable)]
        self.assign(product, ops.cast(gradient * variable, product.dtype))


class TaylorMeter:
    """Measures how the loss changes, to first order, when a unit goes.

    The gradients are those of a copy, which is made and compiled once, however often a training
    asks.

    Args:
        groups: The groups of a model that is compiled.

    Raises:
        ValueError: If the model is not compiled.
    """

    def __init__(self, groups: DependencyGroups) -> None:
        model = groups.model
        if not getattr(model, "compiled", False):
            raise ValueError(
                f"The criterion 'taylor' needs the loss of '{model.name}', which is not compiled. "
                "Call `model.compile(optimizer, loss)` first."
            )
        self.groups = groups
        self._copies = LayerCopies(groups.graph)
        self._copy = self._copies.model()
        config = model.get_compile_config() or {}
        loss = keras.saving.deserialize_keras_object(config.get("loss"))
        self._reader = _GradientReader()
        self._copy.compile(
            optimizer=self._reader, loss=loss, loss_weights=config.get("loss_weights")
        )

    def measure(self, data: Any) -> list[np.ndarray]:
        """The squared change for each unit of each group, averaged over batches.

        Args:
            data: `(x, y)`, or an iterable of `(x, y)` batches.

        Raises:
            ValueError: If there are no labels.
        """
        self._copies.copy_weights()
        twins = self._copies.twins()
        totals = [np.zeros(group.size) for group in self.groups.groups]
        count = 0
        for x, y in _batches(data):
            self._copy.train_on_batch(x, y)
            count += 1
            pairs = zip(self._copy.trainable_variables, self._reader.products, strict=True)
            products = {id(variable): ops.convert_to_numpy(product) for variable, product in pairs}
            for total, group in zip(totals, self.groups.groups, strict=True):
                total += np.square(_summed(self.groups, group, twins, products))
        return [total / max(1, count) for total in totals]


def _summed(
    groups: DependencyGroups,
    group: ChannelGroup,
    twins: dict[int, keras.Variable],
    products: dict[int, np.ndarray],
) -> np.ndarray:
    sums = np.zeros(len(groups.roots))
    for binding in group.makers:
        product = products.get(id(twins.get(id(binding.owner))))
        if product is not None:
            np.add.at(sums, groups.roots[binding.channels], product.sum(axis=binding.others))
    total: np.ndarray = sums[group.units]
    return total


def _batches(data: Any) -> Iterator[tuple[Any, Any]]:
    """Samples and labels, a batch at a time.

    Raises:
        ValueError: If there are no labels.
    """
    if isinstance(data, tuple) and len(data) == 2:
        x, y = data
        for start in range(0, len(keras.tree.flatten(y)[0]), _BATCH):
            yield _part(x, start), _part(y, start)
        return
    if hasattr(data, "shape") or isinstance(data, Mapping):
        raise _unlabelled(data)
    for batch in data:
        if not isinstance(batch, (tuple, list)) or len(batch) < 2:
            raise _unlabelled(batch)
        yield batch[0], batch[1]


def _unlabelled(data: Any) -> ValueError:
    shape = f" of shape {tuple(data.shape)}" if hasattr(data, "shape") else ""
    return ValueError(
        "The criterion 'taylor' needs labels: pass `data=(x, y)`, or batches of such pairs. "
        f"Received: {type(data).__name__}{shape} without labels"
    )


def _part(arrays: Any, start: int) -> Any:
    return keras.tree.map_structure(lambda array: array[start : start + _BATCH], arrays)
