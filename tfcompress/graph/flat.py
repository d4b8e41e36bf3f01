"""Any Keras model as one flat graph of operations; no compression technique is known here."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import keras

from tfcompress.graph import keras_internals
from tfcompress.graph.sequence_masks import is_masked


class UntraceableModelError(ValueError):
    """A subclassed model whose `call` cannot be followed symbolically."""


@dataclass(eq=False)
class Tensor:
    """A value that flows along an edge of the graph.

    Attributes:
        name: `"<node>"` or `"<node>:<index>"` of its producer; the input's name for an input.
        shape: Shape with the batch dimension first, None where it is not fixed.
        dtype: Standard dtype name, such as `"float32"`.
        producer: The node that makes it, or None for a model input.
        index: Its position among the producer's outputs.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    producer: Node | None = None
    index: int = 0

    @property
    def is_float(self) -> bool:
        """Whether it holds floating-point values."""
        return self.dtype.startswith(("float", "bfloat"))

    def __repr__(self) -> str:
        return f"<Tensor {self.name} {self.shape} {self.dtype}>"


@dataclass(eq=False)
class Node:
    """One call of one layer or operation.

    Attributes:
        name: Path through nested models, such as `"encoder/conv1"`, with `"@2"` for the second
            call of a shared layer.
        operation: The layer or `keras.Operation`; shared layers appear in several nodes.
        args: Positional arguments, with `Tensor`s in place of Keras tensors.
        kwargs: Keyword arguments, likewise.
        outputs: What it makes.
    """

    name: str
    operation: keras.Operation
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[Tensor] = field(default_factory=list)

    @cached_property
    def inputs(self) -> list[Tensor]:
        """Tensors among the arguments, in order."""
        leaves = keras.tree.flatten((self.args, self.kwargs))
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of a layer's call by name."""
        signature = inspect.signature(self.operation.call)
        return dict(signature.bind(*self.args, **self.kwargs).arguments)

    @property
    def layer(self) -> keras.layers.Layer | None:
        """The operation when it is a layer."""
        return self.operation if isinstance(self.operation, keras.layers.Layer) else None

    @property
    def type_name(self) -> str:
        """Class name of the operation."""
        return type(self.operation).__name__

    def __repr__(self) -> str:
        return f"<Node {self.name} {self.type_name}>"


@dataclass(eq=False)
class Graph:
    """A model as a list of nodes in the order in which they can run.

    Attributes:
        model: The model that was read.
        inputs: The model's inputs.
        input_structure: The inputs in the structure that the model takes.
        output_structure: The outputs in the structure that the model returns.
        nodes: Producers before consumers.
    """

    model: keras.Model
    inputs: list[Tensor]
    input_structure: Any
    output_structure: Any
    nodes: list[Node]

    @cached_property
    def outputs(self) -> list[Tensor]:
        """Flat list of the outputs."""
        return list(keras.tree.flatten(self.output_structure))

    @cached_property
    def _consumers(self) -> dict[Tensor, list[Node]]:
        table: dict[Tensor, list[Node]] = defaultdict(list)
        for node in self.nodes:
            for tensor in node.inputs:
                table[tensor].append(node)
        return table

    def consumers(self, tensor: Tensor) -> list[Node]:
        """Nodes that read `tensor`, one entry for each time that they read it."""
        return self._consumers[tensor]

    def only_consumer(self, tensor: Tensor) -> Node | None:
        """The node that reads `tensor`, if nothing else does and it is no output of the model."""
        readers = self._consumers[tensor]
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None

    @property
    def tensors(self) -> Iterator[Tensor]:
        """Inputs first, then every node's outputs."""
        yield from self.inputs
        for node in self.nodes:
            yield from node.outputs


def flatten(model: keras.Model) -> Graph:
    """Read a model as one flat graph, descending into nested models.

    Sequential and Functional models are read as they were built. The `call` of a subclassed model,
    also of one inside another model, is traced with symbolic inputs.

    Args:
        model: A built Keras model. It is not changed.

    Returns:
        The graph. Its nodes hold the model's own layer objects.

    Raises:
        ValueError: If `model` is not a Keras model or was never built.
        UntraceableModelError: If `call` of a subclassed model cannot be traced.

    Example:

    ```python
    for node in flatten(model).nodes:
        print(node.name, node.type_name, node.outputs[0].shape)
    ```
    """
    require_keras_model(model)
    functional = _functional(model)
    reader = _Reader()
    inputs = {
        id(keras_tensor): reader.input_tensor(keras_tensor, keras_tensor.name or f"input_{number}")
        for number, keras_tensor in enumerate(functional.inputs)
    }
    outputs = reader.descend(functional, dict(inputs), prefix="")
    return Graph(
        model=model,
        inputs=list(inputs.values()),
        input_structure=keras.tree.map_structure(
            lambda t: inputs[id(t)], keras_internals.input_structure_of(functional)
        ),
        output_structure=outputs,
        nodes=reader.nodes,
    )


def require_keras_model(model: Any) -> None:
    """Raise if something else was given in the place of a model.

    Raises:
        ValueError: If `model` is not a Keras model.
    """
    if not isinstance(model, keras.Model):
        raise ValueError(
            "Expected a Keras 3 model. "
            f"Received: {model!r} (of type {type(model).__module__}.{type(model).__qualname__})"
        )


def require_followed(model: keras.Model) -> None:
    """Raise if Keras could not follow the `call` of a subclassed model when it was first called.

    Such a model has weights, but the shapes of its inputs are not known.

    Args:
        model: A Keras model of any kind, built or not.

    Raises:
        UntraceableModelError: If it is one of these.
    """
    if keras_internals.functional_of(model) is not None or not (model.built and model.weights):
        return
    if model.get_build_config() is None:
        # Keras keeps the exception to itself where a call on values builds the layers.
        cause = (
            "Keras tried when the model was first called, and failed, as it does at a Python "
            "branch on tensor values and in code that is not made of Keras operations"
        )
        raise UntraceableModelError(_untraceable(model, cause))


class _Reader:
    """Collects nodes while it walks through nested models."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._calls: dict[str, int] = defaultdict(int)

    def input_tensor(self, keras_tensor: keras.KerasTensor, name: str) -> Tensor:
        return Tensor(
            name, tuple(keras_tensor.shape), keras.backend.standardize_dtype(keras_tensor.dtype)
        )

    def descend(self, functional: keras.Model, known: dict[int, Any], prefix: str) -> Any:
        for call in keras_internals.calls_of(functional):
            if any(id(t) not in known for t in _keras_tensors((call.args, call.kwargs))):
                continue  # a node that feeds no output
            args, kwargs = keras.tree.map_structure(
                lambda x: known[id(x)] if isinstance(x, keras.KerasTensor) else x,
                (call.args, call.kwargs),
            )
            outputs = self._call(call, args, kwargs, prefix)
            for keras_tensor, tensor in zip(call.outputs, outputs, strict=True):
                known[id(keras_tensor)] = tensor
        return keras.tree.map_structure(
            lambda t: known[id(t)], keras_internals.output_structure_of(functional)
        )

    def _call(
        self, call: keras_internals.Call, args: tuple[Any, ...], kwargs: dict[str, Any], prefix: str
    ) -> list[Tensor]:
        operation = call.operation
        path = prefix + operation.name
        if isinstance(operation, keras.Model):
            inner = _inner_functional(operation, call)
            if inner is not None:
                tensors = [x for x in keras.tree.flatten(args) if isinstance(x, Tensor)]
                known = {id(k): t for k, t in zip(inner.inputs, tensors, strict=True)}
                return list(keras.tree.flatten(self.descend(inner, known, prefix=path + "/")))
        if isinstance(operation, keras.layers.TimeDistributed):
            inner = _steps_as_batch(operation, call)
            tensor = args[0] if args else kwargs["inputs"]
            if inner is not None and not is_masked(tensor):
                known = {id(inner.inputs[0]): tensor}
                return list(keras.tree.flatten(self.descend(inner, known, prefix=path + "/")))
        self._calls[path] += 1
        name = path if self._calls[path] == 1 else f"{path}@{self._calls[path]}"
        node = Node(name, operation, args, kwargs)
        for index, keras_tensor in enumerate(call.outputs):
            node.outputs.append(
                Tensor(
                    name if len(call.outputs) == 1 else f"{name}:{index}",
                    tuple(keras_tensor.shape),
                    keras.backend.standardize_dtype(keras_tensor.dtype),
                    node,
                    index,
                )
            )
        self.nodes.append(node)
        return node.outputs


def _keras_tensors(structure: Any) -> list[keras.KerasTensor]:
    return [x for x in keras.tree.flatten(structure) if isinstance(x, keras.KerasTensor)]


def _inner_functional(model: keras.Model, call: keras_internals.Call) -> keras.Model | None:
    """The graph of a model inside another, or None when it must stay one opaque node."""
    inner = keras_internals.functional_of(model)
    if inner is not None:
        return inner
    specs = keras.tree.map_structure(
        lambda x: (
            keras.Input(batch_shape=x.shape, dtype=x.dtype)
            if isinstance(x, keras.KerasTensor)
            else x
        ),
        call.args,
    )
    if len(specs) != 1 or any(_keras_tensors(v) for v in call.kwargs.values()):
        return None
    try:
        return trace(model, specs[0])
    except UntraceableModelError:
        return None


def _steps_as_batch(
    layer: keras.layers.TimeDistributed, call: keras_internals.Call
) -> keras.Model | None:
    """What a layer does to every step of a sequence, done to all steps as one batch.

    None when the number of steps is not fixed.
    """
    tensors = _keras_tensors((call.args, call.kwargs))
    if len(tensors) != 1 or None in tensors[0].shape[1:]:
        return None
    given = tensors[0]
    steps, shape = given.shape[1], given.shape[2:]
    inputs = keras.Input(batch_shape=given.shape, dtype=given.dtype)
    outputs = layer.layer(keras.ops.reshape(inputs, (-1, *shape)))
    return keras.Model(inputs, keras.ops.reshape(outputs, (-1, steps, *outputs.shape[1:])))


def _functional(model: keras.Model) -> keras.Model:
    functional = keras_internals.functional_of(model)
    if functional is not None:
        return functional
    if not model.built:
        raise ValueError(
            f"The model '{model.name}' was never built, so its weights and shapes are not known. "
            "Call it on a batch of data, or build it with `model.build(input_shape)`, first."
        )
    return trace(model, _symbolic_inputs(model))


def _symbolic_inputs(model: keras.Model) -> Any:
    require_followed(model)
    shapes = (model.get_build_config() or {}).get("input_shape")
    if shapes is None:
        raise UntraceableModelError(
            f"The subclassed model '{model.name}' does not know its input shape. Build it with "
            "`model.build(input_shape)`, or call it on a single batch of data, first."
        )

    def make(shape: Any, name: str | None = None) -> keras.KerasTensor:
        batch_shape = (None, *tuple(shape)[1:])
        return keras.Input(batch_shape=batch_shape, dtype=model.input_dtype, name=name)

    if isinstance(shapes, dict):
        return {key: make(shape, key) for key, shape in shapes.items()}
    if shapes and isinstance(shapes[0], (list, tuple)):
        return [make(shape) for shape in shapes]
    return make(shapes)


def trace(model: keras.Model, inputs: Any) -> keras.Model:
    """Follow the `call` of a subclassed model with symbolic inputs.

    Args:
        model: A built subclassed model.
        inputs: `keras.Input`s in the structure that its `call` takes.

    Returns:
        A Functional model over the same layer objects.

    Raises:
        UntraceableModelError: If `call` depends on values, leaves Keras operations, or returns
            something else than tensors made from its inputs.
    """
    cause = "its output does not depend on its input through Keras layers and operations"
    try:
        outputs = model.call(inputs)
        if _keras_tensors(outputs):
            traced: keras.Model = keras.Model(inputs, outputs, name=model.name)
            return traced
    except Exception as error:
        # `call` is a user's code: whatever it raises becomes the reason.
        raise UntraceableModelError(
            _untraceable(model, f"{type(error).__name__}: {error}")
        ) from error
    raise UntraceableModelError(_untraceable(model, cause))


def _untraceable(model: keras.Model, cause: str) -> str:
    return (
        f"The `call` of the subclassed model '{model.name}' ({type(model).__name__}) cannot be "
        f"traced with symbolic inputs: {cause.strip().splitlines()[0]}. Use Keras layers and "
        "`keras.ops` without Python branches on tensor values, or rebuild it as a Functional "
        "model. Its layers can still be pruned with `tfcompress.callbacks.MagnitudePruning`."
    )
