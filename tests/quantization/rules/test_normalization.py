"""Normalization by statistics of the sample, in integers."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress as tfc
from tfcompress.graph import flatten
from tfcompress.quantization.placement import Placement
from tfcompress.quantization.rules import Role
from tfcompress.quantization.rules.normalization import UnitVector, chunk_size

RNG = np.random.default_rng(0)
# Every place of an image has a scale of its own, as the tokens of a transformer do.
X = RNG.normal(size=(48, 4, 4, 24)) * np.exp(0.3 * RNG.normal(size=(48, 4, 4, 1)))
X = (X + RNG.normal(size=24)).astype("float32")


def normalizations(x):
    """Every form of normalization, each an output of its own."""
    wide = layers.Reshape((4, 96))(x)
    return {
        "layer": layers.LayerNormalization()(x),
        "layer_small_epsilon": layers.LayerNormalization(epsilon=1e-6)(x),
        "layer_plain": layers.LayerNormalization(center=False, scale=False)(x),
        "layer_scale": layers.LayerNormalization(center=False)(x),
        "layer_axes": layers.LayerNormalization(axis=[1, 2, 3])(x),
        "layer_long": layers.LayerNormalization()(wide),
        "rms": layers.RMSNormalization()(x),
        "rms_epsilon": layers.RMSNormalization(epsilon=1e-3)(x),
        "rms_long": layers.RMSNormalization()(wide),
        "group": layers.GroupNormalization(4)(x),
        "group_one": layers.GroupNormalization(1)(x),
        "group_instance": layers.GroupNormalization(-1)(x),
        "unit": layers.UnitNormalization()(x),
        "unit_axes": layers.UnitNormalization(axis=[1, 2, 3])(x),
    }


@pytest.fixture(scope="module")
def exported(converted):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 4, 24), name="image")
    model = keras.Model(inputs, normalizations(inputs))
    for variable in model.weights:
        variable.assign(RNG.uniform(0.5, 1.5, variable.shape))
    return model, *converted(model, X)


def test_every_normalization_is_made_of_integer_operators(exported):
    _, _, artifact = exported
    assert artifact.float_islands == []
    assert artifact.plan_skipped == []
    assert artifact.ops["L2_NORMALIZATION"] >= len(normalizations(keras.Input((4, 4, 24))))


def test_file_is_within_three_quanta_of_the_model(exported, quanta):
    _, qat, artifact = exported
    worst = {n: q.max() for n, q in quanta(artifact, X, qat.predict(X, verbose=0)).items()}
    assert {n: q for n, q in worst.items() if q > (1 if n == "unit" else 3) + 0.01} == {}


def test_integers_are_close_to_float(exported):
    model, qat, _ = exported
    expected, found = model.predict(X, verbose=0), qat.predict(X, verbose=0)
    decibels = {
        name: 10 * np.log10(np.mean(values**2) / np.mean((found[name] - values) ** 2))
        for name, values in expected.items()
    }
    # Squares in 8 bits with one range, as the layer's own formula has them, reach 20 here.
    assert {n: d for n, d in decibels.items() if d < 26} == {}


def test_composition_without_quantizers_is_the_float_layer(exported, in_float):
    model, qat, _ = exported
    with in_float(qat):
        expected, found = model(X), qat(X)
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name], atol=1e-4, err_msg=name)


def test_it_trains_also_in_half_precision():
    inputs = keras.Input((4, 24))
    x = layers.LayerNormalization(dtype="mixed_float16")(inputs)
    x = layers.GroupNormalization(3, dtype="mixed_float16")(x)
    x = layers.RMSNormalization(dtype="mixed_float16")(x)
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    data = np.concatenate([X[:8, 0] * 100, np.zeros((1, 4, 24))]).astype("float32")
    qat = tfc.quantize_aware(model, calibration=data, verbose=False)
    qat.compile("adam", "mse")
    before = [w.copy() for w in model.get_weights()]
    qat.fit(data, np.ones((9, 2)), verbose=0)
    after = [np.asarray(w) for w in qat.trainable_weights]
    assert len(after) == len(before)
    assert all(np.isfinite(w).all() for w in after)


@pytest.mark.parametrize(("size", "chunk"), [(96, 8), (384, 16), (1024, 32), (67, 67), (7, 7)])
def test_chunks_and_their_number_are_about_equal(size, chunk):
    assert size % chunk_size(size) == 0
    assert chunk_size(size) in (chunk, size // chunk)


def test_long_vectors_and_those_without_a_range_take_two_levels():
    assert not UnitVector(64).two_levels
    assert UnitVector(65).two_levels
    assert UnitVector(16, epsilon=1e-3, ranged=False).two_levels
    assert UnitVector(16, epsilon=1e-3).extra == pytest.approx(np.sqrt(0.016))


@pytest.mark.parametrize(
    ("layer", "shape", "reason"),
    [
        (layers.LayerNormalization(axis=1), (4, 4, 8), "only the last axes"),
        (layers.GroupNormalization(2), (None, 8), "no fixed size"),
        (layers.GroupNormalization(2, axis=1), (4, 4, 8), "only the last axes"),
        (layers.LayerNormalization(), (5, 1), "single values"),
    ],
)
def test_refusals_name_the_reason(layer, shape, reason):
    x = keras.Input(shape)
    placement = Placement(flatten(keras.Model(x, layer(x))))
    node = placement.graph.nodes[0]
    assert placement.roles[node] is Role.FLOAT
    assert reason in placement.rules[node].refusal(node)


def test_deprecated_scaling_is_refused():
    with pytest.warns(UserWarning, match="rms_scaling"):
        layer = layers.LayerNormalization(rms_scaling=True)
    x = keras.Input((4, 8))
    with warnings.catch_warnings(action="ignore"):
        placement = Placement(flatten(keras.Model(x, layer(x))))
    node = placement.graph.nodes[0]
    assert "RMSNormalization" in placement.rules[node].refusal(node)
