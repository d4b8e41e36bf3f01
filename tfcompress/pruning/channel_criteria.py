"""Criteria of whole output channels: batch-norm scales, and how active a neuron is on data."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tfcompress.datasets.calibration import calibration_samples
from tfcompress.graph import Graph, Node, Tensor, flatten, keras_internals
from tfcompress.graph.model_inputs import sample_specs
from tfcompress.graph.rebuild import SharedLayers, fill, make_inputs
from tfcompress.pruning.criteria import Criterion, Measurement, Units
from tfcompress.pruning.layouts import stored_layout
from tfcompress.pruning.targets import PruningTarget

_SAMPLES = 512
_BATCH = 64

_ACTIVATIONS = (layers.Activation, layers.ReLU, layers.LeakyReLU, layers.PReLU, layers.ELU)
# `keras.ops` calls in a model, by the class that records them.
_ACTIVATION_OPERATIONS = ("Relu", "Relu6", "LeakyRelu", "Silu", "Gelu", "Elu", "HardSilu")
_RECTIFIERS = ("relu", "relu6")


class _ChannelCriterion(Criterion):
    """A criterion that reads one value for each output channel."""

    uses_channels = True

    def scores(self, units: Units) -> Any:
        """What was measured."""
        return units.channel_values


@keras.saving.register_keras_serializable(package="tfcompress")
class BatchNormScale(_ChannelCriterion):
    """The scale (gamma) of the batch normalization behind a layer, in magnitude.

    A channel that is scaled down contributes little; an L1 penalty on the scales
    (`BatchNormalization(gamma_regularizer="l1")`) makes the difference clear. Prunes whole
    channels.

    Reference: Liu et al., "Learning Efficient Convolutional Networks through Network Slimming"
    (2017), https://arxiv.org/abs/1708.06519, section 3.

    Example:

    ```python
    MagnitudePruning(sparsity=0.5, criterion="batchnorm_scale")
    ```
    """

    def measurement(
        self, model: keras.Model, targets: Sequence[PruningTarget], data: Any
    ) -> tuple[Measurement | None, dict[int, str]]:
        """Find the batch normalization behind each weight."""
        graph = flatten(model)
        scales: dict[int, keras.Variable] = {}
        refused: dict[int, str] = {}
        for target in targets:
            key = id(target.variable)
            nodes = [node for node in graph.nodes if node.layer is target.layer]
            behind = {id(n): n for node in nodes if (n := _normalization(graph, node))}
            gammas = [node.operation.gamma for node in behind.values() if node.operation.scale]
            if len(nodes) == 1 and gammas:
                scales[key] = gammas[0]
            else:
                refused[key] = "no batch normalization with a scale is behind this layer alone"
        return _Scales(scales), refused


class _Scales(Measurement):
    def __init__(self, scales: Mapping[int, keras.Variable]) -> None:
        self._scales = scales

    def read(self) -> dict[int, Any]:
        return {key: ops.abs(ops.cast(v.value, "float32")) for key, v in self._scales.items()}


class _Activity(_ChannelCriterion):
    """A criterion that runs data through the model."""

    def measurement(
        self, model: keras.Model, targets: Sequence[PruningTarget], data: Any
    ) -> tuple[Measurement | None, dict[int, str]]:
        """Find the activation behind each weight."""
        if data is None:
            raise ValueError(
                f"{type(self).__name__} measures activations and needs samples: pass "
                "`data=x_train[:512]`, in any form that calibration data have."
            )
        graph = flatten(model)
        places: dict[int, tuple[list[Node], int]] = {}
        refused: dict[int, str] = {}
        for target in targets:
            nodes = [node for node in graph.nodes if node.layer is target.layer]
            ends = [_activation(graph, node) for node in nodes]
            layout = stored_layout(target.layer, target.variable)
            reason = _unmeasurable(nodes, layout) or self.refusal(ends)
            if reason:
                refused[id(target.variable)] = reason
            else:
                first = getattr(target.layer, "data_format", "") == "channels_first"
                places[id(target.variable)] = (ends, 1 if first else -1)
        return _Activities(self, model, graph, places, data), refused

    @abstractmethod
    def of_element(self, activations: Any) -> Any:
        """A float32 value for each element, whose mean over the positions is that of a sample."""

    def of_data(self, values: np.ndarray) -> np.ndarray:
        """Scores of the channels from the values of shape `(samples, channels)`."""
        mean: np.ndarray = values.mean(axis=0)
        return mean

    def refusal(self, ends: Sequence[Node]) -> str | None:
        """Why activations of these nodes say nothing; None if they do."""
        return None


@keras.saving.register_keras_serializable(package="tfcompress")
class PositiveShare(_Activity):
    """APoZ: neurons that are zero most of the time go first.

    The score is one less the average percentage of zeros (APoZ) behind the ReLU, over samples and
    positions. Prunes whole channels, of layers with a ReLU, and needs `data`.

    Reference: Hu et al., "Network Trimming: A Data-Driven Neuron Pruning Approach towards Efficient
    Deep Architectures" (2016), https://arxiv.org/abs/1607.03250, equation 1.

    Example:

    ```python
    MagnitudePruning(sparsity=0.5, criterion="apoz", data=x_train[:512])
    ```
    """

    def of_element(self, activations: Any) -> Any:
        """1 where the neuron is active."""
        return ops.cast(activations > 0, "float32")

    def refusal(self, ends: Sequence[Node]) -> str | None:
        """Layers without a ReLU."""
        return None if all(map(_is_rectified, ends)) else "no ReLU whose zeros could be counted"


@keras.saving.register_keras_serializable(package="tfcompress")
class MeanActivation(_Activity):
    """Neurons of small output go first: the mean magnitude of their activation.

    Divided by the root mean square over the channels of the layer, so that layers compare. Prunes
    whole channels and needs `data`.

    Reference: Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient
    Inference" (2017), https://arxiv.org/abs/1611.06440, sections 2.1 and 2.2.

    Example:

    ```python
    MagnitudePruning(sparsity=0.5, criterion="mean_activation", data=x_train[:512])
    ```
    """

    def of_element(self, activations: Any) -> Any:
        """The magnitude."""
        return ops.abs(ops.cast(activations, "float32"))

    def of_data(self, values: np.ndarray) -> np.ndarray:
        """Means, relative to those of the layer."""
        mean = values.mean(axis=0)
        scale = np.sqrt(np.mean(np.square(mean)))
        return mean / scale if scale > 0 else mean


class _Activities(Measurement):
    """Runs samples through a second model of the same layers."""

    def __init__(
        self,
        criterion: _Activity,
        model: keras.Model,
        graph: Graph,
        places: Mapping[int, tuple[list[Node], int]],
        data: Any,
    ) -> None:
        self._criterion = criterion
        samples = calibration_samples(data, sample_specs(model), _SAMPLES)
        self._samples = list(samples.values())
        self._keys = list(places)
        self._model = self._observer(graph, places) if places else None

    def _observer(self, graph: Graph, places: Mapping[int, tuple[list[Node], int]]) -> keras.Model:
        layers_of = SharedLayers(graph)
        values: dict[Tensor, Any] = dict(make_inputs(graph))
        inputs = list(values.values())
        with layers_of.naming():
            for node in graph.nodes:
                outputs = layers_of.copy(node)(
                    *fill(node.args, values), **fill(node.kwargs, values)
                )
                values.update(zip(node.outputs, keras.tree.flatten(outputs), strict=True))
            observed = []
            for ends, axis in places.values():
                each = [self._per_sample(values[end.outputs[0]], axis) for end in ends]
                observed.append(each[0] if len(each) == 1 else layers.Average()(each))
            return keras.Model(inputs, observed)

    def _per_sample(self, activations: Any, axis: int) -> Any:
        rank = len(activations.shape)
        places = [i for i in range(1, rank) if i != axis % rank]
        values = self._criterion.of_element(activations)
        return ops.mean(values, axis=places) if places else values

    def read(self) -> dict[int, Any]:
        if self._model is None:
            return {}
        values = self._model.predict(self._samples, batch_size=_BATCH, verbose=0)
        values = values if isinstance(values, list) else [values]
        return {
            key: ops.convert_to_tensor(self._criterion.of_data(np.asarray(value)), "float32")
            for key, value in zip(self._keys, values, strict=True)
        }


def output_layers(model: keras.Model, candidates: Sequence[keras.layers.Layer]) -> set[int]:
    """Layers whose channels are outputs of the model, by `id`.

    Args:
        model: A built model.
        candidates: Layers that have channels; the search stops at them.

    Raises:
        UntraceableModelError: If the model's `call` cannot be traced.
    """
    graph = flatten(model)
    stops = {id(layer) for layer in candidates}
    found: set[int] = set()
    seen: set[int] = set()
    open_tensors = list(graph.outputs)
    while open_tensors:
        node = open_tensors.pop().producer
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        inner = _inner_layers(node)
        if stops & inner:
            found |= inner
        else:
            open_tensors += node.inputs
    return found


def _inner_layers(node: Node) -> set[int]:
    if node.layer is None:
        return set()
    return {id(layer) for layer in keras_internals.flat_sublayers(node.layer)}


def _normalization(graph: Graph, node: Node) -> Node | None:
    behind = graph.only_consumer(node.outputs[0])
    if behind is not None and isinstance(behind.operation, layers.BatchNormalization):
        return behind
    return None


def _activation(graph: Graph, node: Node) -> Node:
    """The node behind whose output a layer's channels are active."""
    own = getattr(node.operation, "activation", None)
    if own is not None and own is not keras.activations.linear:
        return node
    while True:
        behind = graph.only_consumer(node.outputs[0])
        if behind is None:
            return node
        if _is_activation(behind):
            return behind
        if not isinstance(behind.operation, layers.BatchNormalization):
            return node
        node = behind


def _is_activation(node: Node) -> bool:
    return isinstance(node.operation, _ACTIVATIONS) or node.type_name in _ACTIVATION_OPERATIONS


def _is_rectified(node: Node) -> bool:
    if isinstance(node.operation, layers.ReLU) or node.type_name in ("Relu", "Relu6"):
        return True
    own = getattr(node.operation, "activation", None)
    return getattr(own, "__name__", "") in _RECTIFIERS


def _unmeasurable(nodes: Sequence[Node], layout: Any) -> str | None:
    if not nodes:
        return "its activation is inside another layer, where it cannot be read"
    if layout is not None and layout.rows > 1 and layout.last:
        return "its channels lie on several axes"
    return None
