"""Schemes by name, by setting and by layer."""

import json

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfcompress as tfc
from tfcompress.evaluation.litert import LiteRTModel
from tfcompress.quantization import SchemeMap, schemes
from tfcompress.quantization.calibrate import quantizers_of, wrappers_of
from tfcompress.quantization.integer_arithmetic import short_scale
from tfcompress.quantization.quantized_layer import QuantizedLayer

X = np.random.default_rng(0).normal(size=(64, 8, 8, 3)).astype("float32")


def model():
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 3, use_bias=False, name="conv_1")(x)
    x = layers.ReLU(name="relu_1")(layers.BatchNormalization(name="bn_1")(x))
    x = layers.Conv2D(8, 3, activation="relu", name="conv_2")(x)
    x = layers.Flatten(name="flat")(x)
    x = layers.Dense(8, activation="tanh", name="hidden")(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x), name="small")


def bits_of(qat):
    return {wrapper.name: wrapper.weight_bits for wrapper in wrappers_of(qat) if wrapper.kernels}


@pytest.mark.parametrize("name", sorted(schemes.SCHEMES))
def test_names_configs_and_json(name):
    scheme = schemes.get(name)
    assert scheme.name == name
    assert tfc.Scheme.from_config(json.loads(json.dumps(scheme.get_config()))) == scheme
    assert keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(scheme)) == (
        scheme
    )
    assert schemes.get(scheme.get_config()) == scheme


def test_names_follow_from_the_settings():
    assert tfc.Scheme() == tfc.Scheme("int8") == schemes.get("int8")
    assert tfc.Scheme(weight_bits=4, activations="symmetric").name == "w4a8_symmetric"
    assert tfc.Scheme(observer="octav", weight_range="mse").name == "int8_mse_octav"
    assert tfc.Scheme(activations=(0, 6), power_of_two="all").name == "int8_fixed_pot_all"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight_bits": 9}, "2 to 8"),
        ({"weight_bits": True}, "2 to 8"),
        ({"activation_bits": 4}, "must be 8"),
        ({"granularity": "row"}, "per_channel"),
        ({"weight_range": "kl"}, "'octav'"),
        ({"activations": "both"}, "'symmetric'"),
        ({"activations": (1, 2)}, "must hold zero"),
        ({"activations": (1, 2, 3)}, "a range"),
        ({"observer": "histogram"}, "Unknown observer"),
        ({"power_of_two": "activations"}, "'weights'"),
        ({"learned": "lsqplus"}, "'lsq'"),
        ({"learned": "lsq", "power_of_two": "weights"}, "either"),
        ({"learned": "lsq", "weight_range": "given"}, "neither"),
        ({"arithmetic": "int32"}, "'integer'"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        tfc.Scheme(**settings)


@pytest.mark.parametrize(
    ("identifier", "message"),
    [
        ("w4a88", "Did you mean 'w4a8'"),
        ({"weight_bit": 4}, "'weight_bits'"),
        ({"conv_1": "w4a88"}, "Did you mean 'w4a8'"),
        ({"conv_1": {"default": "int8"}}, "no further maps"),
        ({"default": "int8", "conv_[": "int8"}, "regular expression"),
    ],
)
def test_bad_identifiers_are_refused(identifier, message):
    with pytest.raises(ValueError, match=message):
        schemes.get(identifier)
    with pytest.raises(TypeError, match="A scheme is"):
        schemes.get(8)


def test_layers_by_name_pattern_and_class_the_last_match_counts():
    qat = tfc.quantize_aware(
        model(),
        {"default": "int8", "Dense": "w5a8", "conv_.*": "w4a8", "conv_2": "w2a8"},
        verbose=False,
    )
    bits = bits_of(qat)
    assert (bits["conv_1"], bits["conv_2"], bits["hidden"], bits["head"]) == (4, 2, 5, 5)
    by_class = tfc.quantize_aware(
        model(), SchemeMap(entries=((layers.Conv2D, "w3a8"),)), verbose=False
    )
    assert bits_of(by_class)["conv_1"] == 3
    assert bits_of(by_class)["head"] == 8


def test_a_pattern_that_matches_nothing_names_what_is_near():
    with pytest.raises(ValueError, match="'conv_1'"):
        tfc.quantize_aware(model(), {"conv_11": "w4a8"}, verbose=False)


def test_activations_have_the_scheme_of_the_layer_that_makes_them_also_through_a_fusion():
    qat = tfc.quantize_aware(
        model(),
        {
            "conv_1": {"observer": "percentile"},
            "hidden": {"observer": "mse"},
            "image": {"activations": [-4, 4]},
        },
        verbose=False,
    )
    observer = {q.name: q.observer.name for q in quantizers_of(qat)}
    assert observer["relu_1_quantizer"] == "percentile"
    assert observer["conv_2_quantizer"] == "moving_average"
    assert observer["pre_activation"] == "mse"
    ranges = {q.name: q.fixed_range for q in quantizers_of(qat)}
    assert ranges["image_quantizer"] == (-4, 4)
    # LiteRT's own range of a tanh goes before.
    assert ranges["hidden_quantizer"] == (-1, 127 / 128)


def test_excluded_layers_stay_float_with_what_fuses_with_them():
    float_model = model()
    scheme = {"default": "int8", "conv_1": None, "head": "float"}
    plan = tfc.plan(float_model, scheme)
    skipped = {row.tensor: row.skipped.get("quantize") for row in plan.rows}
    for tensor in ("conv_1/kernel", "bn_1/gamma", "conv_1", "relu_1", "head/kernel"):
        assert skipped[tensor] == "excluded by the scheme", tensor
    assert skipped["conv_2/kernel"] is None
    qat = tfc.quantize_aware(float_model, scheme, calibration=X, verbose=False)
    assert {w.name for w in wrappers_of(qat)} == {"conv_2", "hidden"}
    for part in [*quantizers_of(qat), *wrappers_of(qat)]:
        part.quantizing = False
    np.testing.assert_allclose(qat(X), float_model(X), atol=1e-6)


def test_an_excluded_layer_that_makes_an_output_keeps_its_precision(tmp_path):
    float_model = model()
    qat = tfc.quantize_aware(float_model, {"head": None}, calibration=X, verbose=False)
    assert "head_quantizer" not in [layer.name for layer in qat.layers]
    for io in ("int8", "float32"):
        artifact = tfc.export(qat, tmp_path / "m.tflite", io=io, calibration=X)
        assert artifact.outputs[0].dtype == "float32"
        assert all("head" in name or "Partitioned" in name for name in artifact.float_islands)
        expected = ops.convert_to_numpy(qat(X))
        np.testing.assert_allclose(LiteRTModel(artifact).predict(X), expected, atol=1e-5)
    with pytest.raises(ValueError, match="input 'image' of the model cannot be left in float"):
        tfc.plan(float_model, {"default": "int8", "image": None})


def test_artifacts_name_their_schemes(tmp_path):
    for scheme, name in (("w4a8", "w4a8"), ({"head": "w4a8"}, "int8+w4a8")):
        qat = tfc.quantize_aware(model(), scheme, calibration=X, verbose=False)
        artifact = tfc.export(qat, tmp_path / "m.tflite", calibration=X)
        assert artifact.scheme == type(artifact).load(artifact.path).scheme == name
        assert f"scheme      {name}, int8" in str(artifact)


def test_default_none_quantizes_only_what_is_named():
    plan = tfc.plan(model(), {"default": None, "conv_2": "int8"})
    done = {row.tensor for row in plan.rows if "quantize" in row.actions and row.kind == "weight"}
    assert done == {"conv_2/kernel", "conv_2/bias"}


def test_plan_shows_bits_and_how_scales_are_found():
    plan = tfc.plan(model(), {"conv_1": "w4a8", "conv_2": "int8_pot", "head": {"learned": "lsq"}})
    actions = {row.tensor: row.actions.get("quantize", {}) for row in plan.rows}
    assert actions["conv_1/kernel"] == {"bits": 4, "scale": "per channel"}
    assert actions["conv_2/kernel"] == {"bits": 8, "scale": "power of two per tensor"}
    assert actions["head/kernel"]["scale"] == "lsq per channel"
    assert actions["head"] == {"bits": 8, "range": "lsq"}
    assert actions["relu_1"] == {"bits": 8, "range": "moving average"}
    assert tfc.plan(model(), "int8") == tfc.plan(model(), tfc.Scheme())


def test_weights_of_the_default_scheme_are_rounded_as_ever():
    kernel = np.random.default_rng(1).normal(size=(3, 3, 3, 8)).astype("float32")
    layer = layers.Conv2D(8, 3)
    layer.build((None, 8, 8, 3))
    layer.kernel.assign(kernel)
    wrapper = QuantizedLayer(layer)
    wrapper.build((None, 8, 8, 3))
    scale = np.abs(kernel).max(axis=(0, 1, 2)) * np.float32(1 / 127)
    scale = keras.ops.convert_to_numpy(short_scale(scale))
    np.testing.assert_array_equal(wrapper.baked_kernels()[0], np.rint(kernel / scale) * scale)


def test_layers_that_were_saved_with_bits_only_still_load():
    config = QuantizedLayer(layers.Dense(2), weight_bits=4).get_config()
    del config["scheme"]
    assert QuantizedLayer.from_config({**config, "weight_bits": 4}).scheme == tfc.Scheme(
        weight_bits=4
    )


@pytest.mark.parametrize(
    "scheme",
    ["w4a8_lsq", "int8_pact", {"weight_bits": 2, "observer": "octav", "weight_range": "octav"}],
)
def test_pruned_zeros_stay_and_files_reload_bit_exactly(scheme, tmp_path):
    pruned = model()
    for name in ("conv_1", "conv_2", "hidden"):
        kernel = pruned.get_layer(name).kernel
        value = ops.convert_to_numpy(kernel)
        kernel.assign(value * (np.abs(value) > np.quantile(np.abs(value), 0.7)))
    qat = tfc.quantize_aware(pruned, scheme, calibration=X, verbose=False)
    qat.compile(keras.optimizers.AdamW(0.01), "mse")
    schedule = tfc.callbacks.QuantizationSchedule(freeze_ranges=0.5)
    qat.fit(X, np.zeros((64, 3)), batch_size=16, epochs=2, verbose=0, callbacks=[schedule])
    for name in ("conv_1", "conv_2", "hidden"):
        zeros = ops.convert_to_numpy(pruned.get_layer(name).kernel) == 0
        wrapper = next(w for w in wrappers_of(qat) if w.name == name)
        assert not wrapper.baked_kernels()[0][zeros].any()
        assert ops.convert_to_numpy(wrapper.layer.kernel).any()
    qat.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded(X), qat(X))
    assert [w.scheme for w in wrappers_of(loaded)] == [w.scheme for w in wrappers_of(qat)]
    learned = [ops.convert_to_numpy(v) for v in qat.trainable_variables if "growth" in v.path]
    assert bool(learned) == (scheme in ("w4a8_lsq", "int8_pact"))
    assert not learned or any(np.any(value != 0) for value in learned)


def test_frozen_learned_ranges_stay():
    qat = tfc.quantize_aware(model(), "int8_lsq", calibration=X, verbose=False)
    qat.compile("adam", "mse")
    ranges = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            ranges.append([q.range for q in quantizers_of(qat)])

    schedule = tfc.callbacks.QuantizationSchedule(freeze_ranges=0.5)
    qat.fit(X, np.ones((64, 3)), batch_size=16, epochs=4, verbose=0, callbacks=[schedule, Watch()])
    assert ranges[0] != ranges[1]
    assert ranges[1] == ranges[2] == ranges[3]


def test_kernel_grids_give_the_quantized_values_back():
    for scheme in ("w4a8", "int8_pot", {"weight_bits": 5, "weight_range": "mse"}):
        qat = tfc.quantize_aware(model(), scheme, verbose=False)
        wrapper = next(w for w in wrappers_of(qat) if w.name == "conv_2")
        grid, kernel = wrapper.kernel_grids()[0], wrapper.baked_kernels()[0]
        limit = 2 ** (wrapper.weight_bits - 1) - 1
        assert np.abs(grid.codes).max() <= limit
        values = (grid.codes * grid.scales[:, None]).reshape(8, 3, 3, 8)
        np.testing.assert_allclose(values, np.moveaxis(kernel, -1, 0), rtol=1e-6)
        assert not grid.is_converters
    qat = tfc.quantize_aware(model(), verbose=False)
    assert all(grid.is_converters for w in wrappers_of(qat) for grid in w.kernel_grids())
    assert ops.convert_to_numpy(qat(X)).shape == (64, 3)


def test_given_limits_of_weights_stay_and_clip():
    given = tfc.Scheme(weight_range="given", arithmetic="float")
    assert given.name == "int8_given_float_arithmetic"
    qat = tfc.quantize_aware(model(), {"default": given}, calibration=X[:8], verbose=False)
    found = {wrapper.name: wrapper for wrapper in wrappers_of(qat)}
    conv, head = found["conv_1"], found["head"]
    kernel = ops.convert_to_numpy(conv.layer.kernel)
    largest = np.abs(kernel).max((0, 1, 2))
    # Until then: what the values show.
    np.testing.assert_allclose(conv.kernel_grids()[0].scales, largest / 127, rtol=2**-16)
    limits = largest * np.linspace(0.5, 1.2, 8, dtype="float32")
    conv.set_weight_limits(0, limits)
    head.set_weight_limits(0, 0.25)
    expected = np.clip(np.round(kernel / (limits / 127)), -127, 127) * (limits / 127)
    np.testing.assert_allclose(conv.quantized_kernels()[0][1], expected, atol=1e-6)
    np.testing.assert_allclose(conv.kernel_grids()[0].scales, limits / 127, rtol=1e-6)
    before = [ops.convert_to_numpy(wrapper.kernels[0].limit) for wrapper in (conv, head)]
    qat.compile("sgd", "mse")
    qat.fit(X, np.ones((64, 3)), epochs=1, verbose=0)
    assert not np.array_equal(kernel, conv.layer.kernel)
    for wrapper, value in zip((conv, head), before, strict=True):
        np.testing.assert_array_equal(wrapper.kernels[0].limit, value)
    with pytest.raises(ValueError, match="one limit or 8"):
        conv.set_weight_limits(0, np.ones(3))
    plain = tfc.quantize_aware(model(), verbose=False)
    with pytest.raises(ValueError, match="weight_range='given'"):
        wrappers_of(plain)[0].set_weight_limits(0, 1.0)


def test_given_limits_of_a_depthwise_kernel():
    inputs = keras.Input((6, 6, 2))
    small = keras.Model(inputs, layers.DepthwiseConv2D(3, depth_multiplier=3, name="deep")(inputs))
    qat = tfc.quantize_aware(small, {"default": {"weight_range": "given"}}, verbose=False)
    (wrapper,) = wrappers_of(qat)
    limits = np.array([0.1, 0.2, 0.3], "float32")
    wrapper.set_weight_limits(0, limits)
    kernel = ops.convert_to_numpy(wrapper.layer.kernel)
    expected = np.clip(np.round(kernel / (limits / 127)), -127, 127) * (limits / 127)
    np.testing.assert_allclose(wrapper.quantized_kernels()[0][1], expected, atol=1e-6)
