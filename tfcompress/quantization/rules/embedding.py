"""Embeddings, and the selection of values by index."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tfcompress.graph import Node, Tensor, keras_internals
from tfcompress.quantization.activation_quantizer import ActivationQuantizer
from tfcompress.quantization.fake_quant import fake_quant_weight
from tfcompress.quantization.rules.activations import TANH_RANGE
from tfcompress.quantization.rules.channel_affine import channel_affine
from tfcompress.quantization.rules.contraction import product
from tfcompress.quantization.rules.refusals import LORA
from tfcompress.quantization.rules.registry import InnerRanges, Role, Rule, register

_KERNEL_BITS = 8


@register(layers.Embedding)
class EmbeddingRule(Rule):
    """Rows of a table that has one scale, which is also that of the output."""

    def kernels(self, layer: keras.layers.Layer) -> list[tuple[keras.Variable, tuple[int, ...]]]:
        """The table, with one scale for all rows: LiteRT reads no other."""
        return [(layer.embeddings, ())]

    def refusal(self, node: Node) -> str | None:
        """Indices in float would be quantized themselves."""
        if node.layer is not None and node.layer.lora_enabled:
            return LORA
        if any(tensor.is_float for tensor in node.inputs):
            return (
                f"its indices are {node.inputs[0].dtype}, which 8 bits would round; make the "
                'model\'s input with `dtype="int32"`'
            )
        return None

    def quantizes_output(self, node: Node, index: int) -> bool:
        """The output is on the grid of the table."""
        return True

    def output_unit(self, wrapper: Any) -> Any:
        """That of the table."""
        return ops.reshape(wrapper.kernels[0].channel_scale(), ())

    def deploy(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """A plain gather, without the operators that Keras needs for negative indices."""
        # Here, because exported forms may need TensorFlow and training must not.
        from tfcompress.export.gather import Gather

        table = wrapper.baked_kernels()[0]
        name = wrapper.deployed_name
        # The 8-bit range on whose grid the codes of the table lie, whatever their width.
        scale = float(wrapper.kernel_grids()[0].scales[0])
        quantizer = ActivationQuantizer((-128 * scale, 127 * scale), name=f"{name}_table_quantizer")
        gather = Gather(*table.shape, name=name)
        outputs = quantizer(gather(inputs))
        gather.set_weights([table])
        if wrapper.layer.mask_zero:
            keras_internals.set_mask(outputs, ops.not_equal(inputs, 0))
        return outputs


@register(layers.ReversibleEmbedding)
class ReversibleEmbeddingRule(EmbeddingRule):
    """An embedding that is also called to project back to its vocabulary.

    The table has one scale where it is read, and is rounded once more, with a scale for each token,
    where it is a kernel: LiteRT stores it twice.
    """

    def kernels(self, layer: keras.layers.Layer) -> list[tuple[keras.Variable, tuple[int, ...]]]:
        """The table, and the kernel of the projection if it is not the table."""
        kernels = super().kernels(layer)
        return kernels if layer.tie_weights else [*kernels, (layer.reverse_embeddings, (-1,))]

    def refusal(self, node: Node) -> str | None:
        """Of indices only; the projection reads floats."""
        return None if _projects(node) else super().refusal(node)

    def quantizes_output(self, node: Node, index: int) -> bool:
        """Not of the projection."""
        return not _projects(node)

    def inner_quantizers(self, node: Node) -> InnerRanges:
        """Around the hyperbolic tangent of a soft cap."""
        capped = node.operation.logit_soft_cap is not None
        return {"logits": None, "capped": TANH_RANGE} if capped else {}

    def call(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Rows of the table, or the projection."""
        if not _is_reversed(args, kwargs):
            return wrapper.layer(inputs)
        layer = wrapper.layer
        if layer.tie_weights:
            kernel = ops.transpose(layer.embeddings)
            if wrapper.quantizing:
                kernel = ops.cast(fake_quant_weight(kernel, (-1,), _KERNEL_BITS), kernel.dtype)
        else:
            kernel = layer.reverse_embeddings
        if layer.reverse_dtype is not None:
            inputs, kernel = (ops.cast(x, layer.reverse_dtype) for x in (inputs, kernel))
        return self._project(wrapper, inputs, kernel, wrapper.inner.__getitem__)

    def deploy(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The plain gather, or a fully connected operation."""
        if not _is_reversed(args, kwargs):
            return super().deploy(wrapper, inputs)
        kernels = wrapper.baked_kernels()
        kernel = kernels[0].T if wrapper.layer.tie_weights else kernels[1]
        if wrapper.layer.tie_weights:
            kernel = ops.convert_to_numpy(fake_quant_weight(kernel, (-1,), _KERNEL_BITS))
        return self._project(wrapper, inputs, kernel, wrapper.deployed_quantizer)

    def _project(self, wrapper: Any, inputs: Any, kernel: Any, quantizer: Any) -> Any:
        cap = wrapper.layer.logit_soft_cap
        if cap is None:
            return product(inputs, kernel)
        # Dividing the kernel leaves its codes as they are.
        logits = quantizer("logits")(product(inputs, kernel * (1.0 / cap)))
        capped = quantizer("capped")(ops.tanh(logits))
        if isinstance(kernel, np.ndarray):
            # A convolution, because a multiplication by 1 would be optimized away.
            return channel_affine(capped, cap, 0.0, f"{wrapper.deployed_name}_cap")
        return ops.multiply(capped, cap)


def _projects(node: Node) -> bool:
    return _is_reversed(node.args[1:], node.kwargs)


def _is_reversed(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return bool(args[0] if args else kwargs.get("reverse", False))


@register("Take")
class TakeRule(Rule):
    """`keras.ops.take`: of computed values, which keep their range, or of a constant table."""

    def role(self, node: Node) -> Role:
        """`PASS_THROUGH` of computed values; `COMPUTE`, with a range, of a constant."""
        source = node.args[0] if node.args else node.kwargs["x"]
        return Role.PASS_THROUGH if isinstance(source, Tensor) else Role.COMPUTE
