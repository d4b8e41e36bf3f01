"""Making the smaller model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
from keras import ops

from tfcompress.graph import Node
from tfcompress.graph.rebuild import LayerCopies, copy_settings, rebuild
from tfcompress.graph.selection import Patterns
from tfcompress.plain_numbers import plain_number
from tfcompress.pruning.state import copy_masks
from tfcompress.pruning.structured import criteria
from tfcompress.pruning.structured.cost import Cost
from tfcompress.pruning.structured.goal import ChannelGoal
from tfcompress.pruning.structured.groups import DependencyGroups, dependency_groups
from tfcompress.pruning.structured.kept import Kept
from tfcompress.pruning.structured.rules import rule_of
from tfcompress.pruning.structured.selection import ChannelSelection
from tfcompress.pruning.structured.shrinkage import Shrinkage, attach_shrinkage
from tfcompress.pruning.structured.zeros import zero_units


def shrink(
    model: keras.Model,
    *,
    macs: int | float | None = None,
    parameters: int | float | None = None,
    bytes: int | float | None = None,
    sparsity: float | None = None,
    criterion: str | dict[str, Any] | criteria.ChannelCriterion = "l1",
    include: Patterns = None,
    exclude: Patterns = None,
    round_to: int = 8,
    exact: bool = True,
    data: Any = None,
    verbose: bool = True,
) -> keras.Model:
    """Remove channels of a model physically: fewer parameters, fewer operations, lower latency.

    The least important channels of all layers together go until the goal is met as nearly as
    `round_to` allows; what depends on them goes with them (see `dependency_groups`). Fine-tune the
    result, or choose the channels during a training, with
    `tfcompress.callbacks.StructuredPruning`, and call `shrink(model)` without a goal afterwards:
    that removes exactly the channels that are zero, and changes no output.

    Args:
        model: A built Keras model. It stays as it is.
        macs: Multiply-accumulate operations that may be left: a float up to 1 is a share of the
            dense model's, an int above 1 is absolute. At most one of the four goals may be given.
        parameters: Parameters that may be left, likewise.
        bytes: Bytes of weights, in their own dtypes, that may be left, likewise.
        sparsity: Share of the channels that can go to remove, in [0, 1).
        criterion: What makes a channel important: `"l1"` or `"l2"` norm of its weights,
            `"batchnorm_scale"`, `"taylor"`, `"apoz"` and `"mean_activation"`, which need `data`,
            `"random"`, or a `ChannelCriterion`. Defaults to `"l1"`.
        include: Only channels made by these layers: names, paths in nested models, regular
            expressions, layer classes or their names, or a list of these. Defaults to None: all.
        exclude: Layers that keep all their channels; wins over `include`. Defaults to None.
        round_to: The number of channels left in a layer is a multiple of this, as fast kernels
            like it, or all. Not used without a goal. Defaults to 8.
        exact: Whether channels stay whose removal changes the others, as a layer normalization over
            them does. Defaults to True.
        data: For criteria that measure: samples in any form of calibration data; for `"taylor"`
            `(x, y)` or batches of it, and the model must be compiled. Defaults to None.
        verbose: Whether to print what was reached. Defaults to True.

    Returns:
        A new, ordinary Keras model with the weights that are left, not compiled. A Sequential model
        comes back as one; of nested models the layers come back in one flat Functional model.
        Layers keep their names. What was reached is found by
        `tfcompress.pruning.structured.find_shrinkage(model)`.

    Raises:
        ValueError: If the model was never built, the goal is out of its range or cannot be met,
            nothing can be removed, a pattern matches no layer, data are missing, or pruned weights
            are not zero any more because the model was trained without its masks.
        UntraceableModelError: If it is a subclassed model whose `call` cannot be traced.

    Example:

    ```python
    small = tfcompress.shrink(model, macs=0.5)
    small.compile("adam", loss, metrics=["accuracy"])
    small.fit(train, epochs=2)
    ```
    """
    round_to = check_round_to(round_to)
    goal = ChannelGoal.of(macs=macs, parameters=parameters, bytes=bytes, sparsity=sparsity)
    chosen = criteria.get(criterion)
    groups = dependency_groups(model, include=include, exclude=exclude, exact=exact)
    require_groups(groups)
    cost = Cost(groups)
    if goal is None:
        units = zero_units(groups)
    else:
        scores = chosen.normalized(groups, data)
        units = ChannelSelection(groups, scores, round_to, cost).choose(goal)
    smaller = without(groups, units)
    shrinkage = Shrinkage.of(groups, units, cost, goal)
    attach_shrinkage(smaller, shrinkage)
    if verbose:
        print(shrinkage)
    return smaller


def check_round_to(round_to: Any) -> int:
    """Check an argument `round_to`, and return it.

    Raises:
        ValueError: If it is not an int of at least 1.
    """
    number = plain_number(round_to)
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ValueError(
            f"`round_to` must be an int of at least 1. Received: round_to={round_to!r}"
        )
    return number


def require_groups(groups: DependencyGroups) -> None:
    """Check that something can be removed.

    Raises:
        ValueError: If nothing can, with the reasons.
    """
    if not groups.groups:
        reasons = "; ".join(f"'{p.layer}': {p.reason}" for p in groups.pinned[:8])
        raise ValueError(
            f"No channel of '{groups.model.name}' can be removed. {reasons or 'It makes none.'}"
        )


def without(groups: DependencyGroups, units: Iterable[int]) -> keras.Model:
    """Build a model without some units.

    Args:
        groups: The groups of a model.
        units: Units of these groups.

    Returns:
        A new model with the weights that are left.
    """
    kept = Kept(groups.coupling, groups.removed(units))
    copies = _SmallerLayers(groups, kept)

    def call(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        args, kwargs = rule_of(node.operation).arguments(node, kept, args, kwargs)
        return copies.copy(node)(*args, **kwargs)

    graph = groups.graph
    if _is_chain(groups):
        inputs = [
            keras.Input(batch_shape=t.shape, dtype=t.dtype, name=t.name) for t in graph.inputs
        ]
        stack = [copies.copy(node) for node in graph.nodes]
        smaller = keras.Sequential([*inputs, *stack], name=graph.model.name)
    else:
        smaller = rebuild(graph, call)
    copies.copy_weights()
    copy_masks(groups.model, smaller, copies.twins(), kept.sliced)
    return smaller


def _is_chain(groups: DependencyGroups) -> bool:
    """Whether the model is Sequential and its graph holds just its own layers."""
    model = groups.model
    if not isinstance(model, keras.Sequential):
        return False
    return [node.operation for node in groups.graph.nodes] == list(model.layers)


class _SmallerLayers(LayerCopies):
    """Copies of a graph's layers with fewer channels."""

    def __init__(self, groups: DependencyGroups, kept: Kept) -> None:
        super().__init__(groups.graph)
        self._kept = kept
        self._factors: dict[int, float] = {}

    def copy(self, node: Node) -> keras.Operation:
        """The smaller copy of a node's operation, made at the first call."""
        if id(node.operation) not in self._copies:
            self._factors.update(rule_of(node.operation).factors(node, self._kept))
        return super().copy(node)

    def config(self, node: Node) -> dict[str, Any]:
        """The config with the sizes that are left."""
        return {**super().config(node), **rule_of(node.operation).config(node, self._kept)}

    def copy_weights(self) -> None:
        """Give every copied layer what is left of its original's values.

        Raises:
            ValueError: If the shapes do not fit: the rule of the layer is wrong.
        """
        for original, copy in self.pairs:
            for source, target in zip(original.variables, copy.variables, strict=True):
                values = self._kept.sliced(source, ops.convert_to_numpy(source.value))
                if values.shape != tuple(target.shape):
                    raise ValueError(
                        f"The smaller '{copy.name}' ({type(copy).__name__}) has a variable "
                        f"'{target.name}' of shape {tuple(target.shape)}, but {values.shape} is "
                        "left of the original's: its dependency rule does not fit its config."
                    )
                target.assign(values * self._factors.get(id(source), 1))
            copy_settings(original, copy)
