"""`quantize_aware` on models of every kind: structure, weights, masks, saving."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfcompress as tfc
from tfcompress.quantization.calibrate import quantizers_of, wrappers_of

RNG = np.random.default_rng(0)


def images(count=32, size=8, channels=3):
    return RNG.random((count, size, size, channels)).astype("float32")


def everything():
    """A model with every supported kind of layer on one path."""
    x = inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Rescaling(2.0, -1.0, name="rescale")(x)
    x = layers.Conv2D(4, 3, padding="same", use_bias=False, name="conv")(x)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.ReLU(name="first_relu")(x)
    y = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="depthwise")(x)
    y = layers.Conv2D(4, 1, groups=2, name="grouped")(y)
    y = layers.Conv2D(4, 3, dilation_rate=2, padding="same", name="dilated")(y)
    x = ops.relu(layers.Add(name="add")([x, y]))
    x = layers.AveragePooling2D(2, name="average")(x)
    z = layers.SeparableConv2D(4, 3, padding="same", activation="relu", name="separable")(x)
    x = layers.Concatenate(name="concatenate")([x, z])
    x = layers.BatchNormalization(name="lone_bn")(x)
    x = layers.Conv2DTranspose(4, 3, strides=2, padding="same", name="transpose")(x)
    x = layers.UpSampling2D(2, name="up")(x)
    x = layers.Cropping2D(4, name="crop")(x)
    x = layers.Reshape((64, 4), name="reshape")(x)
    x = layers.Conv1D(6, 3, activation="tanh", name="conv1d")(x)
    x = layers.GlobalAveragePooling1D(name="gap")(x)
    x = layers.Dropout(0.1, name="dropout")(x)
    x = layers.Dense(8, activation="sigmoid", name="hidden")(x)
    return keras.Model(inputs, layers.Dense(4, activation="softmax", name="head")(x))


def train(model, x, classes=4, epochs=1, **kwargs):
    y = np.arange(len(x)) % classes
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], **kwargs)
    model.fit(x, y, epochs=epochs, batch_size=16, verbose=0)
    return model


@pytest.fixture(scope="module")
def trained():
    """A float model with every layer, and its quantization-aware copy after an epoch."""
    keras.utils.set_random_seed(1)
    model = everything()
    x = images()
    before = [w.copy() for w in model.get_weights()]
    qat = tfc.quantize_aware(model, calibration=x, verbose=False)
    train(qat, x)
    return model, before, qat, x


def test_float_model_stays_untouched(trained):
    model, before, _, _ = trained
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    assert not quantizers_of(model)


def test_every_trainable_weight_moved(trained):
    _, _, qat, _ = trained
    fresh = tfc.quantize_aware(trained[0], verbose=False)
    for now, then in zip(qat.trainable_weights, fresh.trainable_weights, strict=True):
        assert np.any(ops.convert_to_numpy(now) != ops.convert_to_numpy(then)), now.path


def test_layers_keep_their_names_and_their_order_of_weights(trained):
    model, _, qat, _ = trained
    inner = [wrapper.layer.name for wrapper in wrappers_of(qat)]
    assert [wrapper.name for wrapper in wrappers_of(qat)] == inner
    shapes = [tuple(w.shape) for w in model.trainable_weights]
    assert [tuple(w.shape) for w in qat.trainable_weights] == shapes


def test_quantizing_switched_off_gives_the_float_model(trained):
    model, _, _, x = trained
    qat = tfc.quantize_aware(model, calibration=x, verbose=False)
    for part in [*quantizers_of(qat), *wrappers_of(qat)]:
        part.quantizing = False
    np.testing.assert_allclose(qat(x), model(x), atol=1e-6)


def test_saved_model_reloads_bit_exactly_with_its_optimizer(trained, tmp_path):
    _, _, qat, x = trained
    qat.save(tmp_path / "qat.keras")
    loaded = keras.models.load_model(tmp_path / "qat.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), qat.predict(x, verbose=0))
    for a, b in zip(loaded.optimizer.variables, qat.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b))


def test_strip_gives_a_plain_model_with_baked_kernels(trained, tmp_path):
    model, _, qat, _ = trained
    plain = tfc.strip(qat)
    kinds = {type(layer).__module__.split(".")[0] for layer in plain.layers}
    assert kinds == {"keras"}
    assert [layer.name for layer in plain.layers if layer.weights] == [
        layer.name for layer in model.layers if layer.weights
    ]
    kernel = ops.convert_to_numpy(plain.get_layer("conv").kernel)
    codes = kernel / (np.abs(kernel).max(axis=(0, 1, 2)) / 127)
    np.testing.assert_allclose(codes, np.round(codes), atol=1e-3)


@pytest.mark.parametrize("layer", ["conv", "depthwise", "separable", "transpose", "conv1d", "head"])
def test_zeros_of_a_pruned_model_are_kept_in_every_layer_form(layer):
    keras.utils.set_random_seed(2)
    model = everything()
    zeros = {}
    for variable in model.get_layer(layer).trainable_weights:
        if len(variable.shape) >= 2:
            value = ops.convert_to_numpy(variable).copy()
            value[np.abs(value) < np.median(np.abs(value))] = 0
            variable.assign(value)
            zeros[variable.path.split("/")[-1]] = value == 0
    assert zeros
    x = images()
    qat = tfc.quantize_aware(model, calibration=x, verbose=False)
    if layer == "conv":  # one training is enough: the mechanism is the same for all
        train(qat, x, epochs=2)
    plain = tfc.strip(qat)
    for variable in plain.get_layer(layer).trainable_weights:
        name = variable.path.split("/")[-1]
        if name in zeros:
            assert np.all(ops.convert_to_numpy(variable)[zeros[name]] == 0)


def test_shared_and_nested_models():
    keras.utils.set_random_seed(3)
    block = keras.Sequential(
        [keras.Input((8, 8, 4)), layers.Conv2D(4, 3, padding="same", activation="relu", name="c")],
        name="block",
    )
    inputs = keras.Input((8, 8, 4))
    x = layers.Flatten()(block(block(inputs)))
    model = keras.Model(inputs, layers.Dense(4, activation="softmax", name="c")(x))
    x = images(channels=4)
    qat = train(tfc.quantize_aware(model, verbose=False), x)
    assert [w.name for w in wrappers_of(qat)] == ["block_c", "c"]


def test_multiple_inputs_and_dict_outputs():
    a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    x = layers.Multiply()([layers.Dense(6)(a), b])
    model = keras.Model({"a": a, "b": b}, {"y": layers.Dense(2)(x), "z": layers.Dense(1)(x)})
    data = {"a": images(16, 1, 6).reshape(16, 6), "b": images(16, 1, 6).reshape(16, 6)}
    qat = tfc.quantize_aware(model, calibration=data, verbose=False)
    out, expected = qat(data), model(data)
    assert set(out) == {"y", "z"}
    for key in out:
        np.testing.assert_allclose(out[key], expected[key], atol=0.1)
    assert all(q.range is not None for q in quantizers_of(qat))


def test_mixed_precision_trains():
    keras.utils.set_random_seed(4)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        x = inputs = keras.Input((8, 8, 3))
        x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 3)(x)))
        x = layers.Dense(4, activation="softmax", dtype="float32")(layers.Flatten()(x))
        model = keras.Model(inputs, x)
    finally:
        keras.config.set_dtype_policy("float32")
    qat = tfc.quantize_aware(model, verbose=False)
    train(qat, images())
    assert np.all(np.isfinite(qat.predict(images(), verbose=0)))


def test_summary_names_what_is_left_in_float(capsys):
    inputs = keras.Input((4,))
    x = layers.Activation("sparsemax", name="sparsemax")(layers.Dense(3)(inputs))
    model = keras.Model(inputs, layers.Dense(2)(x))
    tfc.quantize_aware(model)
    printed = capsys.readouterr().out
    assert "left out: sparsemax (sparsemax sorts its input" in printed


class TestBadInput:
    """Errors say what was given and what to do."""

    def model(self):
        inputs = keras.Input((4,), name="features")
        return keras.Model(inputs, layers.Dense(2)(inputs))

    def test_unknown_scheme(self):
        with pytest.raises(ValueError, match="Did you mean 'int8'"):
            tfc.quantize_aware(self.model(), "int9")

    def test_unbuilt_model(self):
        with pytest.raises(ValueError, match="never built"):
            tfc.quantize_aware(keras.Sequential([layers.Dense(2)]))

    def test_twice(self):
        qat = tfc.quantize_aware(self.model(), verbose=False)
        with pytest.raises(ValueError, match="already"):
            tfc.quantize_aware(qat)

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (np.ones((8, 5), "float32"), "shape"),
            (np.ones((0, 4), "float32"), "no calibration samples"),
            (np.full((8, 4), np.nan, "float32"), "NaN"),
        ],
    )
    def test_calibration_data(self, data, message):
        with pytest.raises(ValueError, match=f"(?i){message}"):
            tfc.quantize_aware(self.model(), calibration=data, verbose=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["InceptionV3", "MobileNet", "MobileNetV2"])
def test_whole_networks_train_and_become_integer_files(name, tmp_path):
    shape = (75, 75, 3)
    model = getattr(keras.applications, name)(weights=None, input_shape=shape, classes=4)
    for layer in model.layers:
        # Statistics of one batch, without which a signal dies out in random weights.
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.0
    x = RNG.uniform(0, 255, (8, *shape)).astype("float32")
    model(x, training=True)
    qat = tfc.quantize_aware(model, "int8", calibration=x, verbose=False)
    qat.compile(keras.optimizers.SGD(1e-3), "sparse_categorical_crossentropy")
    assert np.isfinite(qat.train_on_batch(x, np.arange(8) % 4))
    # Random weights multiply what LiteRT's slow kernels round otherwise than XNNPACK, and the few
    # sums of more than 24 bits.
    artifact = tfc.export(qat, tmp_path / "m.tflite", calibration=x, tolerance=100)
    assert artifact.float_islands == []
    assert artifact.fidelity.max_quanta <= 3
    assert artifact.fidelity.agreement == 1


def test_initial_zeros_are_no_masks_and_zeros_of_dense_models_train():
    inputs = keras.Input((6,))
    a = layers.Dense(6, kernel_initializer="identity", name="identity")(inputs)
    model = keras.Model(inputs, layers.Dense(2, name="holes")(a))
    kernel = ops.convert_to_numpy(model.get_layer("holes").kernel)
    model.get_layer("holes").kernel.assign(np.where(np.arange(6)[:, None] < 3, 0, kernel))

    def masked(model):
        qat = tfc.quantize_aware(model, verbose=False)
        return {w.name: int(k.mask is not None) for w in wrappers_of(qat) for k in w.kernels}

    assert masked(model) == {"identity": 0, "holes": 1}
    tfc.pruning.detach_state(model)
    assert masked(model) == {"identity": 0, "holes": 0}


def test_outputs_keep_their_names_for_losses_and_targets():
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(2, 3, activation="relu", name="conv")(image)
    heads = [layers.Dense(2, name="a")(layers.Flatten()(x)), layers.Conv2D(1, 1, name="b")(x)]
    model = keras.Model(image, heads)
    qat = tfc.quantize_aware(model, calibration=images(8), verbose=False)
    assert qat.output_names == model.output_names == ["a", "b"]
    qat.compile("sgd", loss={"a": "mse", "b": "mae"}, metrics={"b": ["mse"]})
    targets = {"a": np.zeros((8, 2)), "b": np.zeros((8, 6, 6, 1))}
    history = qat.fit(images(8), targets, verbose=0).history
    assert set(history) == {"loss", "a_loss", "b_loss", "b_mse"}


def test_freezing_a_wrapper_freezes_the_layer_in_it():
    model = keras.Sequential(
        [keras.Input((8,)), layers.Dense(4, name="base"), layers.Dense(2, name="head")]
    )
    model.get_layer("base").trainable = False
    qat = tfc.quantize_aware(model, verbose=False)
    assert not qat.get_layer("base").trainable
    assert len(qat.trainable_weights) == 2
    for layer in qat.layers:
        layer.trainable = True
    assert qat.get_layer("base").layer.trainable
    assert len(qat.trainable_weights) == 4
    qat.trainable = False
    assert qat.trainable_weights == []


def test_a_batch_size_of_the_model_holds_for_calibration():
    inputs = keras.Input(batch_shape=(4, 5, 3))
    x = layers.LSTM(6, stateful=True, name="stateful")(inputs)
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    data = RNG.random((11, 5, 3)).astype("float32")
    qat = tfc.quantize_aware(model, calibration=data, verbose=False)
    assert all(quantizer.range is not None for quantizer in quantizers_of(qat))
    with pytest.raises(ValueError, match=r"takes batches of 4 samples.*Received: 3 samples"):
        tfc.quantize_aware(model, calibration=data[:3], verbose=False)
    with pytest.raises(ValueError, match="uninitialised variables"):
        tfc.convert(model, "unwritten.tflite", "float32")
