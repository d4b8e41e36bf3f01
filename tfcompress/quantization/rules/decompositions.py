"""How LiteRT runs activation functions: fused, as one operation, or spelled out in several.

A function that LiteRT's converter leaves in float is composed of operations that have integer
kernels, with a range between any two. Each composition is exact without its quantizers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from keras import activations, ops

from tfcompress.quantization.rules.axes import over_last_axis
from tfcompress.quantization.rules.registry import InnerRanges, Role

# LiteRT's integer kernels write these outputs with scale 1/256 (tanh: 1/128, the logarithm of
# softmax: 1/16), whatever the file says.
UNIT_RANGE = (0.0, 255 / 256)
TANH_RANGE = (-1.0, 127 / 128)
LOG_SOFTMAX_RANGE = (-255 / 16, 0.0)
# Both -1 and 1 have a code of their own.
CLIPPED_RANGE = (-128 / 127, 1.0)
# The logarithms of the codes of a sigmoid above and from one half.
LOG_CODE_RANGE = (-5.5451775, 0.0)
LOG_HALF_RANGE = (-0.6931472, 0.0)

Quantizer = Callable[[str], Any]


@dataclass(frozen=True)
class ActivationKind:
    """How LiteRT runs an activation function.

    Attributes:
        role: `ACTIVATION` fuses into the operation before it, `COMPUTE` is one or more operations
            of its own, `PASS_THROUGH` keeps the range, `FLOAT` has no integer form.
        fixed_range: Output range that the kernel imposes, or None.
        inner: Names of the quantizers between several operations, with their fixed ranges.
        compose: `compose(x, quantizer)` spells the function out; None for a single operation.
        deployed: The exported form where a range takes over a part of the function, or None.
        rounds: Whether a pass-through function makes values between the codes.
        reason: Why a function stays float.
    """

    role: Role
    fixed_range: tuple[float, float] | None = None
    inner: InnerRanges = field(default_factory=dict)
    compose: Callable[[Any, Quantizer], Any] | None = None
    deployed: Callable[[Any], Any] | None = None
    rounds: bool = False
    reason: str | None = None


def refused(reason: str) -> ActivationKind:
    """The kind of a function that stays float."""
    return ActivationKind(Role.FLOAT, reason=reason)


def _composed(
    compose: Callable[[Any, Quantizer], Any],
    fixed_range: tuple[float, float] | None = None,
    **inner: tuple[float, float] | None,
) -> ActivationKind:
    return ActivationKind(Role.COMPUTE, fixed_range, dict(inner), compose)


def relu(
    negative_slope: float = 0.0, max_value: float | None = None, threshold: float = 0.0
) -> ActivationKind:
    """Fused, with any cap: the output range ends where the values are cut off."""
    described = f"ReLU({max_value=}, {negative_slope=}, {threshold=})"
    if max_value is not None and max_value <= 0:
        return refused(f"{described} has no positive output")
    if threshold == 0 and negative_slope == 0:
        if max_value in (None, 6):
            return ActivationKind(Role.ACTIVATION)
        return ActivationKind(Role.ACTIVATION, (0.0, float(max_value)), deployed=ops.relu)
    if threshold == 0 and max_value is None:
        return ActivationKind(Role.COMPUTE)
    if negative_slope == 0 and max_value is None:
        return above_threshold(threshold, 0.0)
    return refused(f"{described} is no operation of LiteRT's, nor a short sequence of them")


def above_threshold(threshold: float, default_value: float) -> ActivationKind:
    """`x` above a threshold and a constant elsewhere: a comparison and a selection."""

    def compose(x: Any, quantizer: Quantizer) -> Any:
        return ops.where(x > threshold, x, ops.cast(default_value, x.dtype))

    return ActivationKind(Role.PASS_THROUGH, compose=compose, rounds=default_value != 0)


def hard_shrink(threshold: float = 0.5) -> ActivationKind:
    """Zero around zero: a comparison of the magnitude and a selection."""

    def compose(x: Any, quantizer: Quantizer) -> Any:
        magnitude = quantizer("magnitude")(ops.abs(x))
        return ops.where(magnitude > threshold, x, ops.cast(0.0, x.dtype))

    return ActivationKind(Role.PASS_THROUGH, inner={"magnitude": None}, compose=compose)


def softmax(axis: int | Sequence[int] = -1) -> ActivationKind:
    """Over other axes than the last one between transpositions."""
    axes = [axis] if isinstance(axis, int) else list(axis)
    if axes == [-1]:
        return ActivationKind(Role.COMPUTE, UNIT_RANGE)
    return _composed(lambda x, quantizer: over_last_axis(x, axes, ops.softmax), UNIT_RANGE)


def log_softmax(axis: int = -1) -> ActivationKind:
    """As softmax."""
    if axis == -1:
        return ActivationKind(Role.COMPUTE, LOG_SOFTMAX_RANGE)
    return _composed(
        lambda x, quantizer: over_last_axis(x, [axis], ops.log_softmax), LOG_SOFTMAX_RANGE
    )


def _exponential_linear(alpha: float, gain: float = 1.0, exponent: float = 1.0) -> ActivationKind:
    """`gain * (relu(x) + alpha * (exp(exponent * min(x, 0)) - 1))`."""
    depth = gain * alpha
    if depth <= 0:
        return refused(f"an exponential linear unit with alpha={alpha} has no fixed range")
    inner: InnerRanges = {"positive": None, "exponential": (0.0, 1.0), "decay": (-1.0, 0.0)}
    if exponent != 1:
        inner["exponent"] = None
    if depth != 1:
        inner["negative"] = (-depth, 0.0)

    def compose(x: Any, quantizer: Quantizer) -> Any:
        positive = quantizer("positive")(ops.relu(x if gain == 1 else x * gain))
        negative = ops.minimum(x, 0.0)
        if exponent != 1:
            negative = quantizer("exponent")(negative * exponent)
        # The ranges differ by an offset and a factor only, so that these steps keep the codes.
        negative = quantizer("decay")(quantizer("exponential")(ops.exp(negative)) - 1.0)
        if depth != 1:
            negative = quantizer("negative")(negative * depth)
        return positive + negative

    return _composed(compose, **inner)


def elu(alpha: float = 1.0) -> ActivationKind:
    """Clevert et al. 2016."""
    return _exponential_linear(alpha)


def selu() -> ActivationKind:
    """Klambauer et al. 2017."""
    return _exponential_linear(1.6732632423543772, gain=1.0507009873554805)


def celu(alpha: float = 1.0) -> ActivationKind:
    """Barron 2017."""
    return _exponential_linear(alpha, exponent=1.0 / alpha)


def _log_of_sigmoid(x: Any, quantizer: Quantizer) -> Any:
    """`log(sigmoid(abs(x)))`, whose sigmoid is at least one half and so far from zero."""
    magnitude = quantizer("magnitude")(ops.abs(x))
    return quantizer("logarithm")(ops.log(quantizer("sigmoid")(ops.sigmoid(magnitude))))


def softplus() -> ActivationKind:
    """`relu(x) - log(sigmoid(abs(x)))`."""

    def compose(x: Any, quantizer: Quantizer) -> Any:
        return quantizer("positive")(ops.relu(x)) - _log_of_sigmoid(x, quantizer)

    return _composed(
        compose, magnitude=None, sigmoid=UNIT_RANGE, logarithm=LOG_HALF_RANGE, positive=None
    )


def log_sigmoid() -> ActivationKind:
    """`min(x, 0) + log(sigmoid(abs(x)))`."""

    def compose(x: Any, quantizer: Quantizer) -> Any:
        return ops.minimum(x, 0.0) + _log_of_sigmoid(x, quantizer)

    return _composed(compose, magnitude=None, sigmoid=UNIT_RANGE, logarithm=LOG_HALF_RANGE)


def mish() -> ActivationKind:
    """`x * tanh(softplus(x))` as `-x * tanh(log(sigmoid(-x)))`; Misra 2019."""

    def compose(x: Any, quantizer: Quantizer) -> Any:
        flipped = quantizer("flipped")(x * -1.0)
        share = quantizer("sigmoid")(ops.sigmoid(flipped))
        # The lowest code of a sigmoid is zero, which has no logarithm.
        logarithm = quantizer("logarithm")(ops.log(ops.maximum(share, 1 / 256)))
        return flipped * quantizer("tanh")(ops.tanh(logarithm))

    return _composed(
        compose, flipped=None, sigmoid=UNIT_RANGE, logarithm=LOG_CODE_RANGE, tanh=TANH_RANGE
    )


def softsign() -> ActivationKind:
    """`x / (1 + abs(x))`, whose divisor is never near zero."""

    def compose(x: Any, quantizer: Quantizer) -> Any:
        return x / quantizer("divisor")(quantizer("magnitude")(ops.abs(x)) + 1.0)

    return _composed(compose, magnitude=None, divisor=None)


def squareplus(b: float = 4) -> ActivationKind:
    """`(x + sqrt(x^2 + b)) / 2`; Barron 2021."""
    if b <= 0:
        return refused(f"squareplus with b={b} takes the root of zero")

    def compose(x: Any, quantizer: Quantizer) -> Any:
        square = quantizer("shifted")(quantizer("square")(x * x) + float(b))
        root = quantizer("root")(square * quantizer("inverse")(ops.rsqrt(square)))
        return quantizer("sum")(x + root) * 0.5

    return _composed(
        compose, square=None, shifted=None, inverse=(0.0, b**-0.5), root=None, sum=None
    )


def silu() -> ActivationKind:
    """`x * sigmoid(x)`."""

    def compose(x: Any, quantizer: Quantizer) -> Any:
        return x * quantizer("sigmoid")(ops.sigmoid(x))

    return _composed(compose, sigmoid=UNIT_RANGE)


def glu(axis: int = -1) -> ActivationKind:
    """One half of the channels times the sigmoid of the other half; Dauphin et al. 2017."""

    def compose(x: Any, quantizer: Quantizer) -> Any:
        values, gates = ops.split(x, 2, axis=axis)
        return values * quantizer("sigmoid")(ops.sigmoid(gates))

    return _composed(compose, sigmoid=UNIT_RANGE)


def hard_sigmoid() -> ActivationKind:
    """`relu6(x + 3) / 6`."""

    def compose(x: Any, quantizer: Quantizer) -> Any:
        return quantizer("shifted")(ops.relu6(x + 3.0)) * (1 / 6)

    return _composed(compose, (0.0, 1.0), shifted=(0.0, 6.0))


def sparse_sigmoid() -> ActivationKind:
    """`relu6(3 x + 3) / 6`."""

    def compose(x: Any, quantizer: Quantizer) -> Any:
        return quantizer("shifted")(ops.relu6(quantizer("scaled")(x * 3.0) + 3.0)) * (1 / 6)

    return _composed(compose, (0.0, 1.0), scaled=None, shifted=(0.0, 6.0))


def hard_tanh() -> ActivationKind:
    """LiteRT's `RELU_N1_TO_1`."""
    return ActivationKind(Role.COMPUTE, CLIPPED_RANGE)


def sparse_plus() -> ActivationKind:
    """`(hard_tanh(x) + 1)^2 / 4 + relu(x - 1)`."""

    def compose(x: Any, quantizer: Quantizer) -> Any:
        shifted = quantizer("shifted")(quantizer("clipped")(ops.hard_tanh(x)) + 1.0)
        curve = quantizer("curve")(quantizer("square")(shifted * shifted) * 0.25)
        return curve + quantizer("line")(ops.relu(x - 1.0))

    return _composed(
        compose,
        clipped=CLIPPED_RANGE,
        shifted=(0.0, 2.0),
        square=(0.0, 4.0),
        curve=(0.0, 1.0),
        line=None,
    )


def tanh_shrink() -> ActivationKind:
    """`x - tanh(x)`."""

    def compose(x: Any, quantizer: Quantizer) -> Any:
        return x - quantizer("tanh")(ops.tanh(x))

    return _composed(compose, tanh=TANH_RANGE)


def soft_shrink(threshold: float = 0.5) -> ActivationKind:
    """`relu(x - threshold) - relu(-threshold - x)`."""

    def compose(x: Any, quantizer: Quantizer) -> Any:
        above = quantizer("above")(ops.relu(x - threshold))
        return above - quantizer("below")(ops.relu(-threshold - x))

    return _composed(compose, above=None, below=None)


def sparsemax(axis: int = -1) -> ActivationKind:
    """Sorts, for which there is no integer kernel."""
    return refused("sparsemax sorts its input, for which LiteRT has no integer kernel")


def _operation(
    role: Role = Role.COMPUTE, fixed_range: tuple[float, float] | None = None
) -> Callable[[], ActivationKind]:
    return lambda: ActivationKind(role, fixed_range)


# By the names in `keras.activations`. The parameters of each are attributes of the operation or
# layer that applies the function.
KINDS: dict[str, Callable[..., ActivationKind]] = {
    "linear": _operation(Role.PASS_THROUGH),
    "relu": relu,
    "relu6": _operation(Role.ACTIVATION),
    "leaky_relu": _operation(),
    "gelu": _operation(),
    "hard_silu": _operation(),
    "exponential": _operation(),
    "sigmoid": _operation(fixed_range=UNIT_RANGE),
    "tanh": _operation(fixed_range=TANH_RANGE),
    "threshold": above_threshold,
    **{
        function.__name__: function
        for function in (
            *(celu, elu, glu, hard_shrink, hard_sigmoid, hard_tanh, log_sigmoid, log_softmax),
            *(mish, selu, silu, soft_shrink, softmax, softplus, softsign, sparse_plus),
            *(sparse_sigmoid, sparsemax, squareplus, tanh_shrink),
        )
    },
}

# Names of operations and layers that are not those of their functions in another spelling.
ALIASES = {"ReLU": "relu", "ELU": "elu", "LeakyReLU": "leaky_relu", "Exp": "exponential"}


def is_known(function: Any) -> bool:
    """Whether a function is one of Keras' or the backend's, not a user's of the same name."""
    module = getattr(function, "__module__", None) or ""
    own = getattr(activations, getattr(function, "__name__", ""), None) is function
    return own or module.split(".")[0] in ("keras", "tensorflow", "jax", "torch")
