"""The weights of a model, and names for them that every plan uses alike."""

from __future__ import annotations

from dataclasses import dataclass

import keras

from tfcompress.graph import keras_internals
from tfcompress.graph.flat import Graph, UntraceableModelError, flatten


@dataclass(frozen=True, eq=False)
class Weight:
    """One weight variable.

    Attributes:
        name: Path of the layer through nested models, and name of the variable in it, such as
            `"block/conv/kernel"`.
        layer: Path of the layer.
        owner: The layer.
        variable: The variable.
    """

    name: str
    layer: str
    owner: keras.layers.Layer
    variable: keras.Variable


def weights_of(model: keras.Model | Graph) -> list[Weight]:
    """Every weight of a model once, in the order in which the layers run.

    A subclassed model that cannot be traced is read in the order in which it tracks its layers.

    Args:
        model: A built Keras model, or the `Graph` of one.

    Raises:
        ValueError: If the model was never built.
    """
    try:
        nodes = (model if isinstance(model, Graph) else flatten(model)).nodes
        layers = [(node.name.split("@")[0], node.layer) for node in nodes if node.layer is not None]
    except UntraceableModelError:
        layers = [(sub.name, sub) for sub in keras_internals.flat_sublayers(model)[1:]]
    found: dict[int, Weight] = {}
    for path, layer in layers:
        for variable in layer.weights:
            # Variables of layers inside a layer carry the inner names in their path.
            inside = variable.path.split(f"{layer.name}/", 1)[-1]
            weight = Weight(f"{path}/{inside}", path, layer, variable)
            found.setdefault(id(variable), weight)
    return list(found.values())
