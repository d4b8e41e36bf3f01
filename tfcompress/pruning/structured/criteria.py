"""What makes a channel worth keeping: a score for each, of which the lowest are removed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tfcompress.pruning.configured import Configured, choose
from tfcompress.pruning.structured.coupling import Binding, Role
from tfcompress.pruning.structured.groups import ChannelGroup, DependencyGroups
from tfcompress.pruning.structured.measurement import TaylorMeter, measured_activity

# Positions of an axis to one number each: shape (size of the axis,).
Reading = Callable[[Binding], np.ndarray]


class ChannelCriterion(Configured, ABC):
    """Base class of criteria for whole channels.

    A criterion scores the units of each group. The scores of a group are divided by their mean
    before groups are compared, so that wide and narrow layers, and large and small weights, are
    treated alike. Subclass it, implement `scores` and `get_config`, and register the class with
    `keras.saving.register_keras_serializable`.

    Attributes:
        needs_data: Whether it measures on data.
    """

    needs_data = False

    @abstractmethod
    def scores(self, groups: DependencyGroups, data: Any = None) -> list[np.ndarray]:
        """Score the units of every group.

        Args:
            groups: The groups of a model.
            data: Data to measure on; None if the user gave none.

        Returns:
            For each group an array of shape (size of the group,), not negative.
        """

    def normalized(self, groups: DependencyGroups, data: Any = None) -> list[np.ndarray]:
        """The scores divided by the mean of their group.

        Raises:
            ValueError: If data are needed and None.
        """
        self.require_data(data)
        return [relative(values) for values in self.scores(groups, data)]

    def require_data(self, data: Any) -> None:
        """Check that there are data if the criterion measures on some.

        Raises:
            ValueError: If there are none.
        """
        if self.needs_data and data is None:
            raise ValueError(
                f"{type(self).__name__} is measured on data: pass some as `data`. "
                "Received: data=None"
            )


class _Norm(ChannelCriterion):
    """The size of a channel's weights, in all layers that make or read it."""

    def scores(self, groups: DependencyGroups, data: Any = None) -> list[np.ndarray]:
        """The mean over kernels of a channel's share in each."""
        norms = _cached(self._norm)
        return [mean_share(groups, group, _kernels(group), norms) for group in groups.groups]

    def _norm(self, binding: Binding) -> np.ndarray:
        # Reduced where the weights are: only one number a channel comes to the host.
        weight = ops.cast(binding.owner.value, "float32")
        # Without axes, a reduction would take all of them.
        reduced = self.reduce(weight, binding.others) if binding.others else ops.abs(weight)
        norms: np.ndarray = ops.convert_to_numpy(reduced)
        return norms.astype(float)

    @abstractmethod
    def reduce(self, weight: Any, axes: Sequence[int]) -> Any:
        """One number for each position along the axis that is left."""


@keras.saving.register_keras_serializable(package="tfcompress")
class ChannelL1(_Norm):
    """The sum of the magnitudes of a channel's weights, over all layers that share it.

    Reference: Li et al., "Pruning Filters for Efficient ConvNets" (2017),
    https://arxiv.org/abs/1608.08710, section 3.1; taken over whole dependency groups as in Fang et
    al. 2023, https://arxiv.org/abs/2301.12900, section 3.3.
    """

    def reduce(self, weight: Any, axes: Sequence[int]) -> Any:
        """The L1 norm."""
        return ops.sum(ops.abs(weight), axis=axes)


@keras.saving.register_keras_serializable(package="tfcompress")
class ChannelL2(_Norm):
    """The root of the sum of squares of a channel's weights, over all layers that share it.

    Reference: Fang et al., "DepGraph" (2023), https://arxiv.org/abs/2301.12900, equation 5.
    """

    def reduce(self, weight: Any, axes: Sequence[int]) -> Any:
        """The L2 norm."""
        return ops.sqrt(ops.sum(ops.square(weight), axis=axes))


@keras.saving.register_keras_serializable(package="tfcompress")
class ChannelBatchNormScale(ChannelL1):
    """The scale (gamma) of the batch normalization behind a channel, in magnitude.

    Groups without one are ranked by the L1 norm of their kernels.

    Reference: Liu et al., "Learning Efficient Convolutional Networks through Network Slimming"
    (2017), https://arxiv.org/abs/1708.06519, section 3.
    """

    def scores(self, groups: DependencyGroups, data: Any = None) -> list[np.ndarray]:
        """The mean over the batch normalizations of a group."""
        norms = _cached(self._norm)
        found = []
        for group in groups.groups:
            scales = [binding for binding, _ in group.weights if _is_scale(binding)]
            found.append(mean_share(groups, group, scales or _kernels(group), norms))
        return found


@keras.saving.register_keras_serializable(package="tfcompress")
class ChannelRandom(ChannelCriterion):
    """Random scores: the control that a criterion has to beat.

    Args:
        seed: Seed of the scores. Defaults to 0.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def scores(self, groups: DependencyGroups, data: Any = None) -> list[np.ndarray]:
        """The same numbers at every call."""
        generator = np.random.default_rng(self.seed)
        return [generator.uniform(size=group.size) for group in groups.groups]

    def get_config(self) -> dict[str, Any]:
        """The seed."""
        return {"seed": self.seed}


@keras.saving.register_keras_serializable(package="tfcompress")
class ChannelTaylor(ChannelCriterion):
    """How much the loss changes, to first order, when a channel goes.

    The square of the sum of weight times gradient over a channel's weights, averaged over the
    batches of `data`. The model must be compiled with its loss.

    Reference: Molchanov et al., "Importance Estimation for Neural Network Pruning" (2019),
    https://arxiv.org/abs/1906.10771, equation 8.
    """

    needs_data = True

    def __init__(self) -> None:
        self._meter: TaylorMeter | None = None

    def scores(self, groups: DependencyGroups, data: Any = None) -> list[np.ndarray]:
        """The mean of squares."""
        if self._meter is None or self._meter.groups is not groups:
            self._meter = TaylorMeter(groups)
        return self._meter.measure(data)


class _Activity(ChannelCriterion):
    """What layers read from a channel when data run through the model."""

    needs_data = True

    def scores(self, groups: DependencyGroups, data: Any = None) -> list[np.ndarray]:
        """The mean over the readers of a channel's share in each."""
        activity = measured_activity(groups, data, self.of_element)
        return [
            mean_share(
                groups,
                group,
                [b for b, _ in group.weights if id(b) in activity],
                lambda binding: activity[id(binding)],
            )
            for group in groups.groups
        ]

    @abstractmethod
    def of_element(self, activations: Any) -> Any:
        """A number for each activation."""


@keras.saving.register_keras_serializable(package="tfcompress")
class ChannelMeanActivation(_Activity):
    """The mean magnitude of a channel where it is read, on `data`.

    Reference: Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient
    Inference" (2017), https://arxiv.org/abs/1611.06440, section 2.2.
    """

    def of_element(self, activations: Any) -> Any:
        """The magnitude."""
        return ops.abs(activations)


@keras.saving.register_keras_serializable(package="tfcompress")
class ChannelPositiveShare(_Activity):
    """APoZ: how often a channel is not zero where it is read, on `data`.

    Reference: Hu et al., "Network Trimming: A Data-Driven Neuron Pruning Approach towards Efficient
    Deep Architectures" (2016), https://arxiv.org/abs/1607.03250, equation 1.
    """

    def of_element(self, activations: Any) -> Any:
        """1 where it is not zero."""
        return ops.cast(activations != 0, "float32")


CRITERIA: dict[str, type[ChannelCriterion]] = {
    "l1": ChannelL1,
    "l2": ChannelL2,
    "batchnorm_scale": ChannelBatchNormScale,
    "taylor": ChannelTaylor,
    "apoz": ChannelPositiveShare,
    "mean_activation": ChannelMeanActivation,
    "random": ChannelRandom,
}


def get(identifier: str | dict[str, Any] | ChannelCriterion) -> ChannelCriterion:
    """Return the criterion that a name, a config or an object stands for.

    Args:
        identifier: `"l1"`, `"l2"`, `"batchnorm_scale"`, `"taylor"`, `"apoz"`,
            `"mean_activation"`, `"random"`, a `ChannelCriterion`, or its serialized config.

    Raises:
        ValueError: If it is none of these.
    """
    return choose(identifier, ChannelCriterion, CRITERIA, "criterion")  # type: ignore[type-abstract]


def relative(values: np.ndarray) -> np.ndarray:
    """Values divided by their mean; zeros stay."""
    mean = values.mean()
    divided: np.ndarray = values / mean if mean > 0 else values
    return divided


def mean_share(
    groups: DependencyGroups, group: ChannelGroup, bindings: Sequence[Binding], read: Reading
) -> np.ndarray:
    """The share that each unit has on several axes, averaged over these.

    Args:
        groups: All groups.
        group: The group of the units.
        bindings: The axes.
        read: A number for each position of an axis, not negative.

    Returns:
        Shape (size of the group,), of mean 1 unless all is zero.
    """
    found = np.zeros(group.size)
    for binding in bindings:
        sums = np.zeros(len(groups.roots))
        np.add.at(sums, groups.roots[binding.channels], read(binding))
        found += relative(sums[group.units])
    return found / max(1, len(bindings))


def _kernels(group: ChannelGroup) -> list[Binding]:
    wanted = (Role.MAKES, Role.READS)
    bindings = [binding for binding, _ in group.weights if binding.role in wanted]
    return [b for b in bindings if len(b.owner.shape) > 1] or bindings


def _is_scale(binding: Binding) -> bool:
    layer = binding.operation
    return isinstance(layer, layers.BatchNormalization) and binding.owner is layer.gamma


def _cached(read: Reading) -> Reading:
    known: dict[int, np.ndarray] = {}

    def cached(binding: Binding) -> np.ndarray:
        if id(binding) not in known:
            known[id(binding)] = read(binding)
        return known[id(binding)]

    return cached
