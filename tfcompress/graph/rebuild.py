"""Making new Keras models out of a flat graph."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras

from tfcompress.graph import keras_internals
from tfcompress.graph.flat import Graph, Node, Tensor


class LayerCopies:
    """Copies of a graph's layers, one for each layer however often it is called.

    Copies keep the layer's name where it is unique in the flat graph, and take the path through the
    nested models where it is not. Weights are copied by `copy_weights` once the new model is built.

    Args:
        graph: The graph whose operations are copied.
        dtype: Dtype policy for the copies. Defaults to None: those of the originals.

    Attributes:
        pairs: Layers, each with its copy.
    """

    def __init__(self, graph: Graph, dtype: str | None = None) -> None:
        self._graph = graph
        self._dtype = dtype
        self._names = unique_names(graph)
        self._copies: dict[int, keras.Operation] = {}
        self.pairs: list[tuple[keras.layers.Layer, keras.layers.Layer]] = []

    def name(self, node: Node) -> str:
        """The name of a node's operation in the new model."""
        return self._names[id(node.operation)]

    def copy(self, node: Node) -> keras.Operation:
        """The copy of a node's operation, made at the first call."""
        operation = node.operation
        if id(operation) not in self._copies:
            copy = keras_internals.remade(operation, self.config(node))
            self._copies[id(operation)] = copy
            if isinstance(operation, keras.layers.Layer):
                self.pairs.append((operation, copy))
        return self._copies[id(operation)]

    def config(self, node: Node) -> dict[str, Any]:
        """The config that the copy of a node's operation is made from."""
        config = {**node.operation.get_config(), "name": self.name(node)}
        if self._dtype is not None and node.layer is not None:
            config = _with_policy(config, self._dtype)
            config["dtype"] = self._dtype
        return config

    def copy_weights(self) -> None:
        """Give every copied layer the values of its original.

        Raises:
            ValueError: If a copy does not have the same variables as its original.
        """
        for original, copy in self.pairs:
            copy_variables(original, copy)

    def model(self) -> keras.Model:
        """A new model of the copies, with the values of the originals."""
        model = rebuild(self._graph, lambda node, args, kwargs: self.copy(node)(*args, **kwargs))
        self.copy_weights()
        return model

    def twins(self) -> dict[int, keras.Variable]:
        """By `id(variable)` of an original, the variable of the copy, once both are built."""
        return {
            id(own): other
            for original, copy in self.pairs
            for own, other in zip(original.variables, copy.variables, strict=True)
        }

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Let the copies have their names for the new model inside the block, where it is made."""
        yield


class SharedLayers(LayerCopies):
    """A graph's own layers, for a second model that trains the very same variables."""

    def copy(self, node: Node) -> keras.Operation:
        """The node's layer itself; of an operation without state, a copy."""
        return super().copy(node) if node.layer is None else node.layer

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Rename layers of equal names inside the block, since a Functional model takes none."""
        layers = {id(node.layer): node.layer for node in self._graph.nodes if node.layer}
        names = {key: layer.name for key, layer in layers.items()}
        try:
            for key, layer in layers.items():
                layer.name = self._names[key]
            yield
        finally:
            for key, layer in layers.items():
                layer.name = names[key]


def _with_policy(config: Any, dtype: str) -> Any:
    """A config in which the layers inside a layer have another dtype policy, too."""
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy":
            return dtype
        return {key: _with_policy(value, dtype) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return type(config)(_with_policy(value, dtype) for value in config)
    return config


def copy_variables(original: keras.layers.Layer, copy: keras.layers.Layer) -> None:
    """Assign the values of all variables of `original` to those of `copy`, in order.

    What layers have besides variables is copied as well, see `copy_settings`.

    Raises:
        ValueError: If the two do not have the same variables.
    """
    if len(original.variables) != len(copy.variables):
        raise ValueError(
            f"The layer '{original.name}' ({type(original).__name__}) cannot be copied: its "
            f"`get_config` makes a layer with {len(copy.variables)} variables instead of "
            f"{len(original.variables)}."
        )
    for source, target in zip(original.variables, copy.variables, strict=True):
        # As an array: JAX would share the buffer, and training either model would delete it.
        target.assign(keras.ops.convert_to_numpy(source.value))
    copy_settings(original, copy)


def copy_settings(original: keras.layers.Layer, copy: keras.layers.Layer) -> None:
    """Give a copy what a layer, and each layer in it, has besides variables.

    That is whether it trains, and what preprocessing layers learned from data: an adapted
    `Normalization` computes with tensors that it makes of its variables, and lookups keep their
    vocabulary in a table.

    Args:
        original: A layer or model.
        copy: Its copy, whose variables have their values already.
    """
    layers = keras_internals.flat_sublayers(original), keras_internals.flat_sublayers(copy)
    for source, target in zip(*layers):
        target.trainable = source.trainable
        if hasattr(source, "save_assets"):
            # In the order in which Keras loads them.
            weights: dict[str, Any] = {}
            source.save_own_variables(weights)
            target.load_own_variables(weights)
            with tempfile.TemporaryDirectory() as folder:
                source.save_assets(folder)
                target.load_assets(folder)
        elif hasattr(target, "finalize_state") and target.variables:
            target.finalize_state()


def unique_names(graph: Graph) -> dict[int, str]:
    """Names for all operations of a graph, unique in one flat model, by `id(operation)`."""
    paths: dict[int, str] = {}
    for node in graph.nodes:
        paths.setdefault(id(node.operation), node.name.split("@")[0])
    leaves = [path.rsplit("/", 1)[-1] for path in paths.values()]
    names: dict[int, str] = {}
    taken = {tensor.name for tensor in graph.inputs}
    for key, path in paths.items():
        leaf = path.rsplit("/", 1)[-1]
        name = leaf if leaves.count(leaf) == 1 else path.replace("/", "_")
        candidate, number = name, 1
        while candidate in taken:
            candidate, number = f"{name}_{number}", number + 1
        taken.add(candidate)
        names[key] = candidate
    return names


def make_inputs(graph: Graph) -> dict[Tensor, keras.KerasTensor]:
    """New symbolic inputs like those of the graph."""
    return {
        tensor: keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)
        for tensor in graph.inputs
    }


def fill(structure: Any, values: dict[Tensor, Any]) -> Any:
    """Replace the graph's tensors in a structure of arguments by their values."""
    return keras.tree.map_structure(lambda x: values[x] if isinstance(x, Tensor) else x, structure)


def rebuild(
    graph: Graph,
    call: Callable[[Node, tuple[Any, ...], dict[str, Any]], Any],
    name: str | None = None,
) -> keras.Model:
    """Make a Functional model by running a graph on new symbolic inputs.

    Args:
        graph: The graph to run.
        call: `call(node, args, kwargs)` returns the node's outputs; the arguments hold Keras
            tensors.
        name: Name of the model. Defaults to that of the model that the graph was read from.

    Returns:
        A Functional model with the inputs and outputs of the graph.
    """
    values: dict[Tensor, Any] = dict(make_inputs(graph))
    inputs = fill(graph.input_structure, values)
    for node in graph.nodes:
        outputs = call(node, fill(node.args, values), fill(node.kwargs, values))
        values.update(zip(node.outputs, keras.tree.flatten(outputs), strict=True))
    outputs = fill(graph.output_structure, values)
    _tell_apart(outputs)
    return keras.Model(inputs, outputs, name=name or graph.model.name)


def _tell_apart(outputs: Any) -> None:
    """Rename operations of equal names, which a Functional model refuses.

    Keras counts the names that it makes up from one in every process: in a model that was loaded
    they may be taken.
    """
    operations: dict[int, keras.Operation] = {}
    waiting, seen = keras.tree.flatten(outputs), set()
    while waiting:
        tensor = waiting.pop()
        if id(tensor) not in seen:
            seen.add(id(tensor))
            operation, sources = keras_internals.origin_of(tensor)
            operations[id(operation)] = operation
            waiting += sources
    taken: set[str] = set()
    for operation in operations.values():
        name, number = operation.name, 1
        while name in taken:
            name, number = f"{operation.name}_{number}", number + 1
        if name != operation.name:
            operation.name = name
        taken.add(name)
