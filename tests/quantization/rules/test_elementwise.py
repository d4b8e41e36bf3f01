"""Arithmetic, reductions, resampling and preprocessing layers, in integers."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfcompress as tfc
from tfcompress.graph import flatten, keras_internals
from tfcompress.quantization import schemes
from tfcompress.quantization.calibrate import quantizers_of
from tfcompress.quantization.placement import Placement
from tfcompress.quantization.plan import plan_quantization
from tfcompress.quantization.rules import Role

RNG = np.random.default_rng(0)
X = (RNG.normal(size=(48, 6, 6, 4)) * 2).astype("float32")
CHANNELS = np.array([-1.3, 0.2, 0.7, 2.1], "float32")


def operations(x):
    """Every elementwise operation and resampling, each an output of its own."""

    def other(name):
        # Equal operations on one tensor are merged by the converter, whatever their ranges.
        return layers.Conv2D(4, 1, name=name)(x)

    row = layers.Reshape((36, 4))(x)
    cube = layers.Reshape((3, 2, 6, 4))(x)
    flipped = layers.RandomFlip()(x)
    return {
        "add_array": x + CHANNELS,
        "multiply_array": ops.multiply(CHANNELS, x),
        "subtract_from_array": ops.subtract(CHANNELS, x),
        "add_number": x + 0.7,
        "one_minus": 1.0 - x,
        "divide": x / 3.3,
        "negative": -x,
        "absolute": ops.abs(x),
        "square": ops.square(x),
        "power": x**2,
        "sqrt": ops.sqrt(ops.relu(x)),
        "exp": ops.exp(x * 0.25),
        "clip": ops.clip(x, -1.3, 2.2),
        "clip_positive": ops.clip(other("i"), 0, 1.7),
        "clip_six": ops.clip(x, 0, 6),
        "clip_unit": ops.clip(x, -1, 1),
        "maximum_zero": ops.maximum(x, 0.0),
        "maximum_number": ops.maximum(x, -0.9),
        "minimum_number": ops.minimum(1.1, x),
        "mean": ops.mean(x, axis=(1, 2)),
        "mean_last": ops.mean(x, axis=-1, keepdims=True),
        "sum": ops.sum(x, axis=[1, 2]),
        "max": ops.max(x, axis=-1),
        "min": ops.min(x, axis=1),
        "broadcast": x * ops.mean(x, axis=(1, 2), keepdims=True),
        "layer_maximum": layers.Maximum()([x, other("a")]),
        "layer_minimum": layers.Minimum()([x, other("b"), other("c")]),
        "layer_average": layers.Average()([x, other("d"), other("e")]),
        "layer_subtract": layers.Subtract()([x, other("f")]),
        "layer_multiply": layers.Multiply()([x, other("g"), other("h")]),
        "scaled_sum": keras_internals.CustomScaleLayer(0.17)([x, other("j")]),
        "layer_scale": keras_internals.LayerScale(0.4, 4)(x),
        "rescaling": layers.Rescaling(CHANNELS.tolist(), 0.3)(x),
        "rescaling_cube": layers.Rescaling(0.5, 0.1)(cube),
        "normalization": layers.Normalization(mean=CHANNELS, variance=[1, 4, 2, 9])(x),
        "normalization_back": layers.Normalization(mean=0.5, variance=3.0, invert=True)(x),
        "batchnorm_cube": layers.BatchNormalization()(cube),
        "resize_nearest": layers.Resizing(9, 7, interpolation="nearest")(x),
        "resize_bilinear": layers.Resizing(12, 12)(x),
        "center_crop": layers.CenterCrop(4, 4)(x),
        "up_1d": layers.UpSampling1D(3)(row),
        "up_3d": layers.UpSampling3D((2, 1, 2))(cube),
        "pad_3d": layers.ZeroPadding3D(1)(cube),
        "crop_3d": layers.Cropping3D(((0, 1), (1, 0), (2, 1)))(cube),
        "global_average_keepdims": layers.GlobalAveragePooling2D(keepdims=True)(x),
        "global_max_keepdims": layers.GlobalMaxPooling2D(keepdims=True)(x),
        "adaptive_average": layers.AdaptiveAveragePooling2D((3, 2))(x),
        "adaptive_max": layers.AdaptiveMaxPooling1D(9)(row),
        "flip": ops.flip(x, axis=2),
        "roll": ops.roll(x, 2, axis=1),
        "augmented": layers.Conv2D(3, 1)(flipped),
    }


SEVERAL = {"layer_minimum", "layer_average", "layer_multiply", "sum", "broadcast", "sqrt", "exp"}


@pytest.fixture(scope="module")
def exported(converted):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 4), name="image")
    model = keras.Model(inputs, operations(inputs))
    for variable in model.weights:
        if len(variable.shape) == 1 and variable.dtype == "float32":
            variable.assign(RNG.uniform(0.5, 1.5, variable.shape))
    return model, *converted(model, X)


def test_every_operation_is_an_integer_operator(exported):
    _, _, artifact = exported
    assert artifact.float_islands == []
    assert artifact.plan_skipped == []


def test_every_operation_is_within_its_quanta(exported, quanta):
    _, qat, artifact = exported
    worst = {n: q.max() for n, q in quanta(artifact, X, qat.predict(X, verbose=0)).items()}
    assert {n: q for n, q in worst.items() if q > (3 if n in SEVERAL else 1) + 0.01} == {}


def test_operations_are_close_to_float(exported):
    model, qat, _ = exported
    expected, found = model.predict(X, verbose=0), qat.predict(X, verbose=0)
    errors = {
        name: float(np.abs(found[name] - values).max() / np.ptp(values))
        for name, values in expected.items()
    }
    # The code next to that of zero is a large step for a root.
    assert {n: e for n, e in errors.items() if e > (0.1 if n == "sqrt" else 0.04)} == {}


def test_augmentation_acts_in_training_and_is_not_exported():
    x = keras.Input((6, 6, 4), name="image")
    model = keras.Model(x, layers.Conv2D(3, 1, name="conv")(layers.RandomFlip(name="flip")(x)))
    placement = Placement(flatten(model))
    assert [m.tensor.name for g in placement.groups for m in g.members] == ["flip", "conv"]
    plan = plan_quantization(model, schemes.get("int8"))
    row = next(row for row in plan.rows if row.layer == "flip")
    assert row.skipped == {"quantize": "acts in training only"}


def test_roots_have_finite_gradients_at_zero():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, ops.sqrt(layers.Dense(4, activation="relu")(inputs)))
    data = np.zeros((8, 4), "float32")
    qat = tfc.quantize_aware(model, calibration=np.ones((8, 4), "float32"), verbose=False)
    qat.compile("sgd", "mse")
    qat.fit(data, np.ones((8, 4)), verbose=0)
    assert all(np.isfinite(w).all() for w in qat.get_weights())


def test_constant_arrays_have_the_codes_of_the_file():
    inputs = keras.Input((4,))
    qat = tfc.quantize_aware(
        keras.Model(inputs, inputs + CHANNELS), calibration=X[0, 0], verbose=False
    )
    for quantizer in quantizers_of(qat):
        quantizer.quantizing = False
    constant = np.asarray(qat(np.zeros((1, 4), "float32")))[0]
    codes = constant / (np.ptp(CHANNELS) / 255)
    np.testing.assert_allclose(codes, np.round(codes), atol=1e-3)
    np.testing.assert_allclose(constant, CHANNELS, atol=np.ptp(CHANNELS) / 500)


@pytest.mark.parametrize(
    ("apply", "reason"),
    [
        (ops.log, "finite log"),
        (ops.rsqrt, "finite rsqrt"),
        (ops.reciprocal, "finite reciprocal"),
        (lambda x: 1.0 / x, "finite quotient"),
        (lambda x: x / CHANNELS, "reciprocal"),
        (lambda x: x**3, "exponent 2"),
        (lambda x: ops.maximum(x, CHANNELS), "array"),
        (lambda x: ops.flip(x, axis=0), "batch"),
        (layers.Resizing(3, 3, interpolation="bicubic"), "bicubic"),
        (layers.Resizing(3, 3, antialias=True), "antialias"),
        (layers.CenterCrop(8, 8), "larger than the crop"),
        (layers.AdaptiveMaxPooling2D(4), "differ in size"),
        (layers.BatchNormalization(axis=1), "axis 1"),
        (layers.Masking(), "mask the data"),
        (layers.RandomCrop(3, 3), "before they enter the model"),
        (layers.Solarization(value_range=(0, 1)), "before they enter the model"),
    ],
)
def test_refusals_name_the_reason(apply, reason):
    x = keras.Input((6, 6, 4))
    placement = Placement(flatten(keras.Model(x, apply(x))))
    node = next(n for n in placement.graph.nodes if placement.roles[n] is Role.FLOAT)
    assert reason in placement.rules[node].refusal(node)


def test_integer_images_are_rescaled_in_float():
    x = keras.Input((6, 6, 3), dtype="uint8")
    placement = Placement(flatten(keras.Model(x, layers.Rescaling(1 / 255)(x))))
    node = placement.graph.nodes[0]
    assert placement.roles[node] is Role.FLOAT
    assert "uint8" in placement.rules[node].refusal(node)
