"""Einsum layers, products of two tensors, and 3-D convolutions."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfcompress as tfc
from tfcompress.quantization.rules.contraction import Contraction

RNG = np.random.default_rng(0)
DATA = {
    "x": RNG.normal(size=(24, 6, 8)).astype("float32"),
    "y": RNG.normal(size=(24, 5, 8)).astype("float32"),
    "plane": RNG.normal(size=(24, 3, 4, 8)).astype("float32"),
    "volume": RNG.normal(size=(24, 5, 6, 7, 4)).astype("float32"),
}
# Two operators, of which the second may widen what the first was off.
CHAINS = {"softmax": 2, "tanh": 4, "conv_sigmoid": 2, "conv_relu_layer": 2, "conv_bn_relu": 2}


def products():
    """Every form of product, each an output of its own."""
    x, y, plane, volume = (keras.Input(DATA[name].shape[1:], name=name) for name in DATA)
    dense, conv = layers.EinsumDense, layers.Conv3D
    outputs = {
        "heads": dense("abc,cde->abde", (None, 3, 5), bias_axes="de")(x),
        "relu": dense("...x,xy->...y", 5, activation="relu", bias_axes="y")(plane),
        "softmax": dense("abcd,cde->aeb", (7, 3), bias_axes="e", activation="softmax")(plane),
        "bias_of_steps": dense("abc,cd->abd", (6, 5), bias_axes="bd", activation="relu")(x),
        "tanh": dense("abc,bd->adc", (5, 8), bias_axes="d", activation="tanh")(x),
        "matmul": ops.matmul(x, ops.transpose(y, (0, 2, 1))),
        "einsum": ops.einsum("bqd,bkd->bqk", x, layers.Dense(8)(y)),
        "dot": layers.Dot(2)([x, layers.Dense(8)(y)]),
        "conv": conv(5, 3, padding="same")(volume),
        "conv_strides": conv(5, (2, 3, 3), strides=(2, 2, 1), activation="relu")(volume),
        "conv_sigmoid": conv(5, 3, strides=2, padding="same", activation="sigmoid")(volume),
        "conv_groups": conv(6, (3, 2, 2), dilation_rate=2, groups=2, use_bias=False)(volume),
        "conv_bn_relu": layers.ReLU()(layers.BatchNormalization()(conv(5, 1)(volume))),
        "conv_relu_layer": layers.ReLU()(conv(5, (2, 1, 1))(volume)),
    }
    return keras.Model([x, y, plane, volume], outputs)


def values(model):
    """The outputs for all samples, as arrays."""
    return {name: ops.convert_to_numpy(output) for name, output in model(DATA).items()}


@pytest.fixture(scope="module")
def exported(converted):
    keras.utils.set_random_seed(0)
    model = products()
    for variable in model.trainable_variables:
        if variable.path.endswith("bias"):
            variable.assign(RNG.uniform(-0.5, 0.5, variable.shape))
    return model, *converted(model, DATA)


def test_every_product_is_made_of_integer_operators(exported):
    _, _, artifact = exported
    assert artifact.float_islands == []
    assert artifact.plan_skipped == []


def test_every_product_is_within_a_quantum(exported, quanta):
    _, qat, artifact = exported
    for name, off in quanta(artifact, DATA, values(qat)).items():
        assert off.max() < CHAINS.get(name, 1) + 0.01, (name, off.max())
        assert np.mean(off > 0.5) < 0.04, (name, np.mean(off > 0.5))


def test_close_to_the_float_model(exported):
    model, qat, _ = exported
    expected, found = values(model), values(qat)
    for name in expected:
        error = np.abs(found[name] - expected[name]).max() / np.abs(expected[name]).max()
        assert error < 0.05, (name, error)


def test_saved_model_reloads_bit_exactly(exported, tmp_path):
    _, qat, _ = exported
    qat.save(tmp_path / "products.keras")
    loaded = keras.models.load_model(tmp_path / "products.keras")
    expected, found = values(qat), values(loaded)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


@pytest.mark.parametrize(
    ("equation", "shape", "kernel_shape"),
    [
        ("abc,cd->abd", (2, 3, 4), (4, 5)),
        ("abc,cde->abed", (2, 3, 4), (4, 5, 6)),
        ("abcd,cde->aeb", (2, 3, 4, 5), (4, 5, 6)),
        ("abc,bd->adc", (2, 3, 4), (3, 5)),
        ("...x,xy->...y", (2, 3, 4, 5), (5, 6)),
        ("ab...,bc->ac...", (2, 3, 4, 5), (3, 6)),
        ("ab,b->a", (2, 3), (3,)),
    ],
)
def test_a_contraction_is_the_einsum(equation, shape, kernel_shape):
    x, kernel = RNG.normal(size=shape), RNG.normal(size=kernel_shape)
    found = Contraction.of(equation, len(shape))(x, ops.convert_to_tensor(kernel))
    np.testing.assert_allclose(found, np.einsum(equation, x, kernel), atol=1e-5)


def test_not_an_equation():
    with pytest.raises(ValueError, match=r"Received: 'ab->ba'"):
        Contraction.of("ab->ba", 2)


def left_out(capsys, outputs, *inputs):
    tfc.quantize_aware(keras.Model(inputs, outputs))
    return " ".join(capsys.readouterr().out.split())


def test_what_has_no_integer_form_is_named(capsys):
    x, y, volume = keras.Input((6, 8)), keras.Input((6, 8)), keras.Input((3, 4, 4, 2))
    found = left_out(
        capsys,
        [
            layers.EinsumDense("abc,bcd->abd", (6, 4))(x),
            layers.Dot(2, normalize=True)([x, y]),
            ops.matmul(x, np.ones((8, 2), "float32")),
            ops.einsum("bii->bi", ops.matmul(x, ops.transpose(y, (0, 2, 1)))),
            ops.einsum("bij,bkl->bik", x, y),
            layers.Conv3DTranspose(2, 2)(volume),
        ],
        x,
        y,
        volume,
    )
    for reason in (
        "its kernel differs along the axis 'b'",
        "Dot(normalize=True) divides by norms",
        "not a product of two computed tensors",
        "sums over an axis of one factor alone",
        "LiteRT has no integer 3-D transposed convolution",
    ):
        assert reason in found, reason
