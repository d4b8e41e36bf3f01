"""Activation functions as layers, operations and arguments of layers, and what they become."""

import keras
import numpy as np
import pytest
from keras import activations, layers, ops

import tfcompress as tfc
from tfcompress.graph import flatten
from tfcompress.quantization.placement import Placement
from tfcompress.quantization.rules import Role, rule_of
from tfcompress.quantization.rules.activations import activation_kind, activation_name

X = (np.random.default_rng(0).normal(size=(64, 4, 4, 8)) * 2).astype("float32")

# One operation of LiteRT's, so that a quantum is the bar; others are several.
SINGLE = {
    *("relu", "relu6", "softmax", "sigmoid", "tanh", "gelu", "gelu_tanh", "hard_silu"),
    *("leaky_relu", "exponential", "log_softmax", "hard_tanh", "relu_capped", "prelu"),
    *("prelu_shared", "threshold", "hard_shrink", "softmax_axis", "softmax_axes"),
}


def functions(x):
    """Every activation function, each an output of its own."""

    def own():
        # The converter merges equal operations on one tensor, also those of two ranges, and does
        # not see the patterns of these functions then.
        return layers.Conv2D(8, 1)(x)

    named = "elu selu celu softplus softsign softmax silu glu tanh tanh_shrink sigmoid "
    named += "sparse_sigmoid exponential hard_sigmoid hard_silu hard_tanh hard_shrink mish "
    named += "log_sigmoid log_softmax leaky_relu relu relu6 soft_shrink sparse_plus squareplus"
    return {
        **{name: layers.Activation(name)(x) for name in named.split()},
        "threshold": activations.threshold(x, 0.7, -1.3),
        "gelu": layers.Activation("gelu")(own()),
        "gelu_tanh": activations.gelu(own(), approximate=True),
        "relu_capped": layers.ReLU(max_value=1.5)(own()),
        "relu_threshold": layers.ReLU(threshold=0.5)(x),
        "elu_layer": layers.ELU(0.7)(x),
        "celu_op": ops.celu(x, alpha=1.7),
        "softmax_axis": layers.Softmax(axis=1)(x),
        "softmax_axes": layers.Softmax(axis=[1, 2])(x),
        "prelu": layers.PReLU("uniform")(own()),
        "prelu_shared": layers.PReLU("uniform", shared_axes=[1, 2])(own()),
        "dense_elu": layers.Dense(6, activation="elu")(x),
        "conv_mish": layers.Conv2D(5, 3, activation="mish")(x),
        "conv_capped": layers.Conv2D(5, 3, activation=layers.ReLU(max_value=1.5))(x),
        "separable_silu": layers.SeparableConv2D(5, 3, activation="silu")(x),
        "dense_hard_sigmoid": layers.Dense(6, activation="hard_sigmoid")(x),
    }


@pytest.fixture(scope="module")
def exported(converted):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 4, 8), name="image")
    model = keras.Model(inputs, functions(inputs))
    for layer in model.layers:
        if isinstance(layer, layers.PReLU):
            layer.alpha.assign(np.random.default_rng(1).uniform(-0.1, 0.4, layer.alpha.shape))
    return model, *converted(model, X)


def test_every_function_is_made_of_integer_operators(exported):
    _, _, artifact = exported
    assert artifact.float_islands == []
    assert artifact.plan_skipped == []


def test_every_function_is_within_its_quanta(exported, quanta):
    _, qat, artifact = exported
    worst = {n: q.max() for n, q in quanta(artifact, X, qat.predict(X, verbose=0)).items()}
    assert {n: q for n, q in worst.items() if q > (1 if n in SINGLE else 3) + 0.01} == {}


def test_compositions_are_close_to_the_float_functions(exported):
    model, qat, _ = exported
    expected = model.predict(X, verbose=0)
    found = qat.predict(X, verbose=0)
    errors = {
        name: float(np.abs(found[name] - values).max() / np.ptp(values))
        for name, values in expected.items()
    }
    # Jumps lie between codes of the input; the others are within a few codes of 1/255. A range that
    # ends at a cap spreads the codes of the layer before it.
    jumps = {"threshold", "hard_shrink", "relu_threshold", "conv_capped", "relu_capped"}
    assert {n: e for n, e in errors.items() if e > 0.02 and n not in jumps} == {}


def test_compositions_without_quantizers_are_the_float_functions(exported, in_float):
    model, qat, _ = exported
    with in_float(qat):
        expected, found = model(X), qat(X)
    for name, values in expected.items():
        # LiteRT's sigmoid has no code nearer to zero than 1/256: mish is cut off there.
        tolerance = 1e-3 if "mish" in name else 2e-5
        np.testing.assert_allclose(found[name], values, atol=tolerance, err_msg=name)


def test_gradients_are_finite_at_zero_and_far_out():
    x = np.array([[-300.0, -8, -0.1, 0, 0.1, 8, 300, 1]], "float32")
    inputs = keras.Input((8,))
    model = keras.Model(inputs, functions_of_vectors(layers.Dense(8)(inputs)))
    model.layers[1].set_weights([np.eye(8, dtype="float32"), np.zeros(8, "float32")])
    qat = tfc.quantize_aware(model, calibration=x, verbose=False)
    qat.compile(keras.optimizers.SGD(1e-6), "mse")
    targets = {name: np.zeros(t.shape[1:])[None] for name, t in model.output.items()}
    qat.fit(x, targets, verbose=0)
    assert all(np.isfinite(w).all() for w in qat.get_weights())


def functions_of_vectors(x):
    names = ("elu", "selu", "celu", "softplus", "softsign", "mish", "log_sigmoid", "squareplus")
    return {name: layers.Activation(name)(x) for name in names}


def test_stripped_model_has_the_plain_operations(exported):
    model, qat, _ = exported
    plain = tfc.strip(qat)
    kinds = sorted(type(layer).__name__ for layer in model.operations)
    assert sorted(type(layer).__name__ for layer in plain.operations) == kinds


def test_saved_model_reloads_bit_exactly(exported, tmp_path):
    _, qat, _ = exported
    qat.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    expected = qat(X[:4])
    for name, values in loaded(X[:4]).items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)


class TestNames:
    """Functions, operations and layers are recognized whatever form they have."""

    @pytest.mark.parametrize(
        ("function", "name"),
        [
            (None, "linear"),
            (activations.hard_silu, "hard_silu"),
            (layers.LeakyReLU(0.1), "leaky_relu"),
            (layers.ELU(), "elu"),
            (layers.Activation("log_sigmoid"), "log_sigmoid"),
        ],
    )
    def test_name(self, function, name):
        assert activation_name(function) == name

    def test_every_function_of_keras_is_known(self):
        names = [n for n in dir(activations) if not n.startswith("_")]
        functions = {getattr(activations, n) for n in names} - {
            activations.get,
            activations.serialize,
            activations.deserialize,
            activations.threshold,
        }
        unknown = {f.__name__ for f in functions if "has no integer kernel for" in reason(f)}
        assert unknown == set()
        assert "sorts" in reason(activations.sparsemax)

    def test_a_users_function_is_not_taken_for_that_of_the_same_name(self):
        def elu(x):
            return x

        assert activation_kind(elu).role is Role.FLOAT


def reason(function):
    return activation_kind(function).reason or ""


def placed(outputs, inputs):
    return Placement(flatten(keras.Model(inputs, outputs)))


def refusal(layer, *args, **kwargs):
    x = keras.Input((4, 6))
    placement = placed(layer(x, *args, **kwargs), x)
    node = placement.graph.nodes[-1]
    assert placement.roles[node] is Role.FLOAT
    return placement.rules[node].refusal(node)


def test_refusals_name_the_reason():
    assert "sorts" in refusal(layers.Activation("sparsemax"))
    assert "sorts" in refusal(layers.Dense(3, activation="sparsemax"))
    assert "a layer of its own" in refusal(layers.Dense(3, activation="hard_shrink"))
    assert "ReLU(" in refusal(layers.ReLU(max_value=3, negative_slope=0.1))
    masked = layers.Softmax()
    x, mask = keras.Input((4, 6)), keras.Input((4, 6), dtype="bool")
    node = placed(masked(x, mask=mask), [x, mask]).graph.nodes[-1]
    assert "mask" in rule_of(masked).refusal(node)


def test_capped_relu_fuses_and_ends_its_range_at_the_cap():
    x = keras.Input((8, 8, 4), name="image")
    placement = placed(layers.ReLU(max_value=2.0)(layers.Conv2D(4, 3, name="conv")(x)), x)
    conv, relu = placement.graph.nodes
    assert conv.outputs[0] in placement.fused
    assert placement.group_of(relu.outputs[0]).fixed_range == (0.0, 2.0)
