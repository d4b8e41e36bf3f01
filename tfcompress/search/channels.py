"""Whole channels set to zero, as one method of a sensitivity search."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from tfcompress.pruning.structured import DependencyGroups, criteria, dependency_groups
from tfcompress.pruning.structured.zeros import channel_masks
from tfcompress.search.methods import LayerWeights, ShareMethod, Values


@dataclass(frozen=True, eq=False)
class GroupWeights(LayerWeights):
    """The weights that make the channels of a dependency group.

    Attributes:
        groups: All groups of the model.
        order: The units of the group, least important first.
    """

    groups: DependencyGroups | None = None
    order: tuple[int, ...] = ()


class Channels(ShareMethod):
    """Zeros in place of the least important channels, with all that depends on them.

    What `shrink` would remove; a level is the share of a group's channels. A layer is called after
    the layers whose channels go together.

    Args:
        criterion: What makes a channel important, see `shrink`; one that needs no data. Defaults to
            `"l1"`.
    """

    name = "channels"
    levels = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)
    heading = "channels removed"

    def __init__(self, criterion: str = "l1") -> None:
        self.criterion = criterion

    @property
    def key(self) -> str:
        """With the criterion."""
        return f"{self.name} {self.criterion}"

    def layers(self, model: keras.Model) -> list[LayerWeights]:
        """The dependency groups with more than one channel."""
        groups = dependency_groups(model)
        scores = criteria.get(self.criterion).scores(groups)
        found: list[LayerWeights] = []
        for group, values in zip(groups.groups, scores, strict=True):
            if group.size > 1:
                makers = {id(binding.owner): binding.owner for binding in group.makers}
                order = group.units[np.argsort(values, kind="stable")]
                found.append(
                    GroupWeights(
                        group.name,
                        tuple(makers.values()),
                        groups=groups,
                        order=tuple(int(unit) for unit in order),
                    )
                )
        return found

    def values(self, layer: LayerWeights, level: float) -> Values:
        """At least one channel stays."""
        if not isinstance(layer, GroupWeights) or layer.groups is None:
            raise TypeError(f"`layer` must come from `Channels.layers`. Received: {layer!r}")
        count = min(round(level * len(layer.order)), len(layer.order) - 1)
        found: Values = []
        for variable, mask in channel_masks(layer.groups, layer.order[:count], readers=False):
            if not mask.all():
                value = ops.convert_to_numpy(variable.value)
                found.append((variable, np.where(mask, value, 0).astype(value.dtype)))
        return found
