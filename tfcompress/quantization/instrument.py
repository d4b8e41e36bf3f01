"""Turning a float model into one that trains and predicts as LiteRT's integer kernels compute."""

from __future__ import annotations

import inspect
import re
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.graph import Graph, Node, Tensor, flatten
from tfcompress.graph.rebuild import LayerCopies, SharedLayers, fill, make_inputs
from tfcompress.plan import Plan
from tfcompress.pruning.masks import mask_of_zeros
from tfcompress.pruning.state import apply_masks, is_declared_dense
from tfcompress.quantization import schemes
from tfcompress.quantization.activation_quantizer import ActivationQuantizer
from tfcompress.quantization.calibrate import calibrate
from tfcompress.quantization.float_boundary import FloatBoundary
from tfcompress.quantization.placement import Member, Placement, RangeGroup
from tfcompress.quantization.plan import quantization_rows
from tfcompress.quantization.quantized_layer import QuantizedLayer
from tfcompress.quantization.rules import Role
from tfcompress.quantization.rules.operation_layer import OperationLayer
from tfcompress.quantization.scheme_assignment import SchemeAssignment


def quantize_aware(
    model: keras.Model,
    scheme: schemes.SchemeLike = "int8",
    calibration: Any = None,
    verbose: bool = True,
) -> keras.Model:
    """Make a copy of a model that is trained, evaluated and exported as an integer model.

    The copy is an ordinary Keras model: compile and fit it as any other. Weight-bearing layers are
    wrapped, and quantizers stand where LiteRT quantizes activations. The zeros of a pruned model
    stay zeros. What is left in float is printed with the reason.

    Args:
        model: A built Keras model: Sequential, Functional, nested, or subclassed with a `call` that
            can be traced. It stays as it is: the float baseline.
        scheme: A scheme or its name; or schemes by layer, such as `{"default": "int8", "stack_.*":
            "w4a8", "head": None}`, see `SchemeMap`. Defaults to `"int8"`.
        calibration: Samples from which the activation ranges start, as the scheme's observer finds
            them: an array of shape `(samples, ...)`, a dict of arrays, a `tf.data.Dataset` or any
            iterable of batches. Defaults to None: ranges start with the first training batch.
        verbose: Whether to print a summary of the plan. Defaults to True.

    Returns:
        A Functional model with the inputs and outputs of `model`, not compiled.

    Raises:
        ValueError: If `model` is not built or cannot be traced, is already quantization-aware, or
            holds weights in half precision, the scheme is not known or names layers that are not
            there, pruned weights are not zero any more because the model was trained without its
            masks, several replicas would have to train layers with activation ranges inside, or the
            calibration data do not fit the inputs.

    Reference: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference".

    Example:

    ```python
    qat = tfcompress.quantize_aware(model, "int8", calibration=x_train[:256])
    qat.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    qat.fit(x_train, y_train, epochs=2)
    artifact = tfcompress.export(qat, "model.tflite")
    ```
    """
    graph = _float_graph(model)
    assignment = SchemeAssignment(graph, schemes.get(scheme))
    placement = Placement(graph, assignment.excluded)
    copies = LayerCopies(graph)
    instrumented = _Instrumenter(graph, placement, assignment, kernel_masks(model), copies).build()
    if calibration is not None:
        calibrate(instrumented, calibration)
    if verbose:
        print(quantization_rows(graph, placement, assignment).summary())
    return instrumented


def instrument_shared(
    model: keras.Model, scheme: schemes.Scheme | schemes.SchemeMap
) -> tuple[keras.Model, Plan]:
    """Make a quantization-aware model of the very layers of a float model.

    Training either trains both. The optimizer keeps the zeros of pruned kernels, which are zeros
    quantized too, so there are no masks in it.

    Args:
        model: A built float model.
        scheme: The scheme.

    Returns:
        The model, and what was done to every tensor.

    Raises:
        ValueError: If `model` is not built or cannot be traced, is quantization-aware already, or
            holds weights in half precision.
    """
    graph = _float_graph(model)
    assignment = SchemeAssignment(graph, scheme)
    placement = Placement(graph, assignment.excluded)
    shared = _Instrumenter(graph, placement, assignment, {}, SharedLayers(graph)).build()
    return shared, quantization_rows(graph, placement, assignment)


def _float_graph(model: keras.Model) -> Graph:
    graph = flatten(model)
    if any(isinstance(node.operation, ActivationQuantizer) for node in graph.nodes):
        raise ValueError(
            f"The model '{model.name}' is quantization-aware already. Give the float model it "
            "was made from, or `tfcompress.strip` it first."
        )
    halves = {str(weight.dtype) for weight in model.weights} & {"float16", "bfloat16"}
    if halves:
        raise ValueError(
            f"The model '{model.name}' holds weights in {' and '.join(sorted(halves))}, too coarse "
            "to be trained against a quantized grid. Build it under a dtype policy that keeps "
            "weights in float32, such as 'mixed_float16', and give it these with `set_weights`."
        )
    return graph


def kernel_masks(model: keras.Model) -> dict[int, np.ndarray]:
    """Masks of the pruned kernels of a model, by `id(variable)`.

    Masks come from the model's pruning state. Without one (a model that was saved and loaded), a
    kernel that holds zeros among other values is taken as pruned, see `mask_of_zeros`, unless
    `tfcompress.pruning.detach_state` said that it is not.

    Raises:
        ValueError: If pruned weights are not zero any more.
    """
    state = apply_masks(model)
    if state is not None:
        return {id(mask.variable): mask.numpy() for mask in state.masks if mask.pruned}
    masks: dict[int, np.ndarray] = {}
    if is_declared_dense(model):
        return masks
    for variable in model.trainable_variables:
        mask = mask_of_zeros(variable.value) if len(variable.shape) > 1 else None
        if mask is not None:
            masks[id(variable)] = ops.convert_to_numpy(mask)
    return masks


class _Instrumenter:
    """Builds the instrumented model from a placement."""

    def __init__(
        self,
        graph: Graph,
        placement: Placement,
        assignment: SchemeAssignment,
        masks: dict[int, np.ndarray],
        copies: LayerCopies,
    ) -> None:
        self.graph = graph
        self.placement = placement
        self.assignment = assignment
        self.masks = masks
        self.copies = copies
        self._wrappers: dict[int, QuantizedLayer] = {}
        self._quantizers: dict[RangeGroup | None, ActivationQuantizer] = {}
        self._names: set[str] = set()
        # What a reader gets for a tensor: by tensor, or by (reader, tensor) where requantized.
        self._values: dict[Any, Any] = {}

    def build(self) -> keras.Model:
        inputs = make_inputs(self.graph)
        self._values.update(inputs)
        for unit in self.placement.schedule():
            if isinstance(unit, RangeGroup):
                self._quantize(unit)
            else:
                self._run(unit)
        with self.copies.naming():
            model = keras.Model(
                fill(self.graph.input_structure, inputs),
                fill(self.graph.output_structure, self._values),
                name=self.graph.model.name,
            )
        names = getattr(self.graph.model, "output_names", None)
        if names and len(names) == len(model.outputs):
            # Not those of the quantizers behind them: losses and targets go by these.
            model.output_names = list(names)
        self.copies.copy_weights()
        self._set_masks()
        for wrapper in self._wrappers.values():
            wrapper.start_scales()
        self._refuse_replicas()
        return model

    def _refuse_replicas(self) -> None:
        """Refuse ranges inside of layers where several replicas would learn them together.

        They synchronize in the middle of a call, while the layer that all replicas share computes
        with the quantized kernels of one of them.
        """
        strategy = getattr(self.graph.model, "distribute_strategy", None)
        if getattr(strategy, "num_replicas_in_sync", 1) < 2:
            return
        learning = [
            wrapper.name
            for wrapper in self._wrappers.values()
            if any(quantizer.fixed_range is None for quantizer in wrapper.inner.values())
        ]
        if learning:
            raise ValueError(
                f"{type(strategy).__name__} with several replicas cannot train layers that have "
                f"activation ranges inside: {', '.join(learning)}. Train them on one device, leave "
                "them in float (a scheme of None), or make their activations layers of their own "
                "(`layers.Softmax()` behind a `Dense` without activation)."
            )

    def _run(self, node: Node) -> None:
        values = {
            tensor: self._values.get((node, tensor), self._values.get(tensor))
            for tensor in node.inputs
        }
        operation = self._operation(node)
        args, kwargs = fill(node.args, values), fill(node.kwargs, values)
        if isinstance(operation, QuantizedLayer) and not args:
            # A wrapper knows its first input by another name than the layer.
            args = (kwargs.pop(next(iter(inspect.signature(node.operation.call).parameters))),)
        outputs = operation(*args, **kwargs)
        if self.placement.rules[node].rounds(node):
            group = self.placement.group_of(node.outputs[0])
            if group in self._quantizers:
                outputs = self._quantizers[group](outputs, follows=True)
        self._values.update(zip(node.outputs, keras.tree.flatten(outputs), strict=True))

    def _operation(self, node: Node) -> Any:
        rule = self.placement.rules[node]
        if self.placement.roles[node] is Role.FLOAT or not rule.wraps(node):
            return self.copies.copy(node)
        key = id(node.operation)
        if key not in self._wrappers:
            kernels = [kernel for kernel, _ in rule.kernels(node.operation)]
            inner = self.copies.copy(node)
            self._wrappers[key] = QuantizedLayer(
                inner if node.layer is not None else OperationLayer.of(inner, node),
                scheme=self.assignment.of_node(node),
                inner=rule.inner_quantizers(node),
                masked=[id(kernel) in self.masks for kernel in kernels],
                folded=node in self.placement.folded,
                build_config=node.operation.get_build_config() if rule.takes_named_inputs else None,
                name=self.copies.name(node),
            )
        return self._wrappers[key]

    def _quantize(self, group: RangeGroup) -> None:
        scheme = self.assignment.of_tensor(group.members[-1].tensor, self.placement.fused)
        quantizer = ActivationQuantizer(
            fixed_range=group.fixed_range or scheme.fixed_range,
            requantized=[i for i, m in enumerate(group.members) if m.reader is not None],
            name=self._unique_name(f"{group.name}_quantizer"),
            # The precision of the model's own values, whatever the global policy is.
            dtype=group.members[-1].tensor.dtype,
            **scheme.quantizer_config(),
        )
        self._quantizers[group] = quantizer
        tensors = [self._value_to_quantize(member) for member in group.members]
        outputs = [quantizer(tensors[0])] if len(tensors) == 1 else quantizer(tensors)
        for member, output in zip(group.members, outputs, strict=True):
            key: Tensor | tuple[Node, Tensor] = member.tensor
            if member.reader is not None:
                key = (member.reader, member.tensor)
            self._values[key] = output

    def _value_to_quantize(self, member: Member) -> Any:
        tensor = member.tensor
        if tensor.producer not in self.assignment.excluded or member.reader is not None:
            return self._values[tensor]
        name = self._unique_name(f"{tensor.name}_float")
        return FloatBoundary(name=name, dtype=tensor.dtype)(self._values[tensor])

    def _unique_name(self, base: str) -> str:
        base = re.sub(r"[^A-Za-z0-9_.\\>-]", "_", base)
        name, number = base, 1
        while name in self._names:
            name, number = f"{base}_{number}", number + 1
        self._names.add(name)
        return name

    def _set_masks(self) -> None:
        for node in self.graph.nodes:
            wrapper = self._wrappers.get(id(node.operation))
            if wrapper is None:
                continue
            originals = wrapper.rule.kernels(node.operation)
            for (original, _), kernel in zip(originals, wrapper.kernels, strict=True):
                if kernel.mask is not None:
                    kernel.mask.assign(self.masks[id(original)])
