"""Measuring channels on data: their activations, and how the loss depends on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.datasets.calibration import calibration_samples
from tfcompress.graph import Node, Tensor
from tfcompress.graph.model_inputs import model_inputs
from tfcompress.graph.rebuild import LayerCopies, fill, rebuild
from tfcompress.pruning.structured.coupling import Binding, Role
from tfcompress.pruning.structured.groups import DependencyGroups

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
    specs = model_inputs(groups.model)
    samples = calibration_samples(data, [(n, s[1:], d) for n, s, d in specs], _SAMPLES)
    arrays = [samples[name] for name, _, _ in specs]
    sums: dict[int, np.ndarray] = {}
    for start in range(0, len(arrays[0]), _BATCH):
        values: dict[Tensor, Any] = {
            tensor: ops.convert_to_tensor(array[start : start + _BATCH])
            for tensor, array in zip(graph.inputs, arrays, strict=True)
        }
        for node in graph.nodes:
            outputs = _run(node, fill(node.args, values), fill(node.kwargs, values))
            values.update(zip(node.outputs, keras.tree.flatten(outputs), strict=True))
        for binding, tensor, axis in groups.coupling.readers:
            # A tensor inside a `TimeDistributed` layer is not among the values.
            if tensor in values:
                numbers = ops.convert_to_numpy(of_element(ops.cast(values[tensor], "float32")))
                others = tuple(i for i in range(numbers.ndim) if i != axis)
                mean = numbers.mean(axis=others) * len(numbers)
                sums[id(binding)] = sums.get(id(binding), 0) + mean
    return sums


def _run(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if node.layer is not None and "training" in node.layer.call_signature_parameters:
        kwargs = {**kwargs, "training": False}
    return node.operation(*args, **kwargs)


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


def measured_taylor(groups: DependencyGroups, data: Any) -> list[np.ndarray]:
    """The squared first-order change of the loss for each unit, averaged over batches.

    Args:
        groups: The groups of a model that is compiled.
        data: `(x, y)`, or an iterable of `(x, y)` batches.

    Raises:
        ValueError: If the model is not compiled.
    """
    model = groups.model
    if not getattr(model, "compiled", False):
        raise ValueError(
            f"The criterion 'taylor' needs the loss of '{model.name}', which is not compiled. Call "
            "`model.compile(optimizer, loss)` first."
        )
    copies = LayerCopies(groups.graph)
    copy = rebuild(groups.graph, lambda node, args, kwargs: copies.copy(node)(*args, **kwargs))
    copies.copy_weights()
    config = model.get_compile_config() or {}
    loss = keras.saving.deserialize_keras_object(config.get("loss"))
    reader = _GradientReader()
    copy.compile(optimizer=reader, loss=loss, loss_weights=config.get("loss_weights"))
    twins = _twins(groups, copies)
    totals = [np.zeros(group.size) for group in groups.groups]
    count = 0
    for x, y in _batches(data):
        copy.train_on_batch(x, y)
        count += 1
        products = {
            id(variable): ops.convert_to_numpy(product)
            for variable, product in zip(copy.trainable_variables, reader.products, strict=True)
        }
        for number, group in enumerate(groups.groups):
            totals[number] += np.square(_summed(groups, group, twins, products))
    return [total / max(1, count) for total in totals]


def _twins(groups: DependencyGroups, copies: LayerCopies) -> dict[int, int]:
    """The `id` of the copy of each variable."""
    return {
        id(own): id(other)
        for original, copy in copies.pairs
        for own, other in zip(original.variables, copy.variables, strict=True)
    }


def _summed(
    groups: DependencyGroups, group: Any, twins: dict[int, int], products: dict[int, np.ndarray]
) -> np.ndarray:
    sums = np.zeros(len(groups.roots))
    for binding in _makers(group):
        product = products.get(twins.get(id(binding.owner), 0))
        if product is not None:
            others = tuple(i for i in range(product.ndim) if i != binding.axis)
            np.add.at(sums, groups.roots[binding.channels], product.sum(axis=others))
    total: np.ndarray = sums[group.units]
    return total


def _makers(group: Any) -> list[Binding]:
    """Weights that make the channels: to remove these removes the channels."""
    return [binding for binding, _ in group.weights if binding.role is Role.MAKES]


def _batches(data: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(data, tuple) and len(data) == 2:
        x, y = data
        for start in range(0, len(keras.tree.flatten(y)[0]), _BATCH):
            yield _part(x, start), _part(y, start)
        return
    for x, y, *_ in data:
        yield x, y


def _part(arrays: Any, start: int) -> Any:
    return keras.tree.map_structure(lambda array: array[start : start + _BATCH], arrays)
