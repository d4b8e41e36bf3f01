"""Models wrapped by tfmot: in with equal outputs, masks and ranges, out as TFLite."""

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.evaluation.litert import LiteRTModel
from tfcompress.interop import find_transfer
from tfcompress.pruning import find_state
from tfcompress.quantization.calibrate import quantizers_of, wrappers_of


def assert_computes_the_same(model, legacy, x, ties=0.002):
    """Equal to 1e-5, but for a share of samples with a value in the middle between two codes."""
    expected = legacy(x, training=False).numpy()
    differing = np.any(np.abs(model(x) - expected) > 1e-5, axis=-1)
    assert differing.mean() <= ties


def agreement(legacy, artifact, x):
    """Share of samples for which a Keras 2 model and a file choose the same class."""
    expected = legacy.predict(x, verbose=0).argmax(-1)
    return np.mean(LiteRTModel(artifact).predict(x).argmax(-1) == expected)


@pytest.fixture(scope="module")
def pruned(tfmot, mnist_cnn, train):
    schedule = tfmot.sparsity.keras.ConstantSparsity(0.75, 0, frequency=10)
    model = tfmot.sparsity.keras.prune_low_magnitude(mnist_cnn(), pruning_schedule=schedule)
    # Until the classes are clear: quantization turns near-ties over.
    train(model, 4, [tfmot.sparsity.keras.UpdatePruningStep()])
    return model


@pytest.fixture(scope="module")
def quantized(tfmot, mnist_cnn, train):
    model = tfmot.quantization.keras.quantize_model(mnist_cnn())
    # tfmot's ranges of weights are those of the step before: some weights lie outside.
    train(model, 2)
    return model


def test_pruned(pruned, digits, tmp_path):
    masks = {}
    for wrapper in pruned.layers:
        for weight, mask, _ in getattr(wrapper, "pruning_vars", ()):
            masks[weight.name.split("/")[0].removeprefix("prune_low_magnitude_")] = mask.numpy()
            # As in the middle of an epoch, when tfmot's weights are dense.
            weight.assign_add(np.full(weight.shape, 1e-3, "float32"))
    model = tfc.from_tf_keras(pruned)
    for name, mask in masks.items():
        kernel = model.get_layer(name).kernel.numpy()
        np.testing.assert_array_equal(kernel != 0, mask != 0, err_msg=name)
    state = find_state(model)
    assert state.sparsity == pytest.approx(0.75, abs=0.01)
    expected = pruned(digits.test.x, training=False).numpy()
    np.testing.assert_allclose(model(digits.test.x), expected, atol=1e-5, rtol=1e-5)
    qat = tfc.quantize_aware(model, calibration=digits.train.x[:128], verbose=False)
    qat.compile("adam", "mse")
    qat.fit(digits.train.x[:64], np.zeros((64, 10)), verbose=0)
    zeros = [np.mean(kernel.mask.numpy() == 0) for w in wrappers_of(qat)
             for kernel in w.kernels if kernel.mask is not None]  # fmt: skip
    assert np.mean(zeros) > 0.7
    artifact = tfc.convert(pruned, tmp_path / "m.tflite", calibration=digits.train.x[:128])
    assert agreement(pruned, artifact, digits.test.x) >= 0.99
    assert max(artifact.sparsity.values()) >= 0.7


def test_clustered(tfmot, mnist_cnn, digits):
    model = tfmot.clustering.keras.cluster_weights(mnist_cnn(), number_of_clusters=8)
    for wrapper in model.layers:
        for centroids in getattr(wrapper, "cluster_centroids", {}).values():
            # As training does; the associations follow at the next call.
            centroids.assign(centroids * 1.1 + 0.01)
    rebuilt = tfc.from_tf_keras(model)
    expected = model(digits.test.x, training=False).numpy()
    np.testing.assert_allclose(rebuilt(digits.test.x), expected, atol=1e-5, rtol=1e-5)
    assert all(len(np.unique(rebuilt.get_layer(n).kernel)) <= 8 for n in ("conv", "hidden"))
    assert any(row.part == "clusters" for row in find_transfer(rebuilt))


def test_quantized_without_ranges_is_the_float_model(tfmot, mnist_cnn, digits):
    plain = mnist_cnn()
    quantized = tfmot.quantization.keras.quantize_model(plain)
    rebuilt = tfc.from_tf_keras(quantized)
    np.testing.assert_allclose(rebuilt(digits.test.x), plain(digits.test.x), atol=1e-5, rtol=1e-5)
    annotated = tfmot.quantization.keras.quantize_annotate_model(plain)
    rebuilt = tfc.from_tf_keras(annotated)
    np.testing.assert_allclose(rebuilt(digits.test.x), plain(digits.test.x), atol=1e-5, rtol=1e-5)


def test_quantized_with_its_ranges(quantized, digits, tmp_path):
    model = tfc.from_tf_keras(quantized, keep_ranges=True)
    known = {}
    for layer in quantized.layers:
        for weight in layer.weights:
            owner, _, name = weight.name.split(":")[0].rpartition("/")
            if name.endswith(("_min", "_max")) and "kernel" not in name:
                owner = "input" if "quantize_layer" in owner else owner.removeprefix("quant_")
                known[owner, name.rpartition("_")[2]] = float(weight)
    ranges = {quantizer.name: quantizer.range for quantizer in quantizers_of(model)}
    for owner, quantizer in {
        "input": f"{model.inputs[0].name}_quantizer",
        "conv": "conv_quantizer",
        "relu": "relu_quantizer",
        "hidden": "hidden_quantizer",
        "logits": "logits_quantizer",
    }.items():
        assert ranges[quantizer] == (known[owner, "min"], known[owner, "max"]), owner
    transfer = find_transfer(model)
    assert transfer.lost == []
    kept = {row.layer: row.note for row in transfer if row.part == "range of kernel"}
    assert "one scale in all" in kept["hidden"]
    assert "one scale for each output channel" in kept["conv"]
    limits = {row[0].name: row[2]["max_var"].numpy() for layer in quantized.layers
              for row in getattr(layer, "_weight_vars", ()) if row[2]}  # fmt: skip
    for wrapper in (w for w in wrappers_of(model) if w.kernels):
        (grid,), stored = wrapper.kernel_grids(), limits[f"{wrapper.name}/kernel:0"]
        np.testing.assert_allclose(grid.scales * 127, np.broadcast_to(stored, grid.scales.shape))
        kernel = wrapper.quantized_kernels()[0][1].numpy()
        assert np.abs(kernel).max() <= 1.000001 * stored.max()
    assert_computes_the_same(model, quantized, digits.test.x)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(again(digits.test.x), model(digits.test.x))
    # No calibration data: the file gets the ranges of the training.
    artifact = tfc.convert(quantized, tmp_path / "m.tflite")
    assert artifact.float_islands == []
    assert agreement(quantized, artifact, digits.test.x) >= 0.99


def test_ranges_that_litert_has_no_place_for(tf_keras, tfmot, digits, tmp_path):
    """Averages with a range of their own, weights that tfmot leaves in float."""
    layers = tf_keras.layers
    tf_keras.utils.set_random_seed(0)
    legacy = tf_keras.Sequential(
        [
            tf_keras.Input((8, 8, 1)),
            layers.DepthwiseConv2D(3, depth_multiplier=6, activation="relu", name="deep"),
            layers.AveragePooling2D(2, name="mean"),
            layers.Conv2D(6, 1, name="float"),
            layers.ReLU(name="relu"),
            layers.AveragePooling2D(2, 1, "same", name="padded"),
            layers.Flatten(),
            layers.Dense(5, name="logits"),
        ]
    )
    legacy = tfmot.quantization.keras.quantize_model(legacy)
    for weight in legacy.weights:
        name = weight.name.split(":")[0]
        if name.endswith(("_min", "_max")):
            high = 1.5 if "mean" in name else 2.0 if "padded" in name else 1.1
            weight.assign(weight * 0 + (high if name.endswith("max") else -0.4 * high))
        if name.endswith("kernel_min"):
            weight.assign(weight * 0 - 1.1)
    model = tfc.from_tf_keras(legacy, keep_ranges=True)
    ranges = {quantizer.name: quantizer.range for quantizer in quantizers_of(model)}
    assert ranges["mean_quantizer"] == pytest.approx((-0.6, 1.5))
    assert ranges["padded_quantizer"] == pytest.approx((-0.8, 2.0))
    lost = {(row.layer, row.part) for row in find_transfer(model).lost}
    assert lost == {("float", "float weights")}
    by_name = {layer.name: layer for layer in legacy.layers}
    upto = keras.Model(model.inputs[0], model.get_layer("mean_quantizer").output)
    expected = tf_keras.Model(legacy.inputs, by_name["quant_mean"].output)
    x = digits.test.x
    np.testing.assert_allclose(upto(x), expected(x, training=False), atol=1e-5)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(again(x), model(x))
    artifact = tfc.export(model, tmp_path / "m.tflite", calibration=x[:64])
    assert artifact.float_islands == []
    assert artifact.ops["DEPTHWISE_CONV_2D"] == 2
    assert artifact.fidelity.max_quanta <= 2


def resnet8(tf_keras):
    """ResNet8 of MLPerf Tiny."""
    layers = tf_keras.layers

    def convolution(x, filters, size, strides=1, relu=True):
        x = layers.Conv2D(filters, size, strides, "same", kernel_regularizer="l2")(x)
        x = layers.BatchNormalization()(x)
        return layers.Activation("relu")(x) if relu else x

    image = tf_keras.Input((16, 16, 3), name="image")
    x = convolution(image, 16, 3)
    for filters, strides in ((16, 1), (32, 2), (64, 2)):
        y = convolution(x, filters, 3, strides)
        y = convolution(y, filters, 3, relu=False)
        if strides > 1:
            x = layers.Conv2D(filters, 1, strides, "same")(x)
        x = layers.Activation("relu")(layers.Add()([x, y]))
    x = layers.Flatten()(layers.AveragePooling2D(4)(x))
    return tf_keras.Model(image, layers.Dense(10)(x), name="resnet8")


@pytest.mark.slow
def test_resnet8(tf_keras, tfmot, tmp_path):
    """Pruned, clustered and quantized: equal outputs in, the same classes out."""
    generator = np.random.default_rng(0)
    patterns = generator.normal(size=(10, 16, 16, 3)).astype("float32")
    y = np.arange(512) % 10
    x = 2 * patterns[y] + generator.normal(size=(512, 16, 16, 3)).astype("float32")
    tf_keras.utils.set_random_seed(0)
    model = resnet8(tf_keras)

    def fit(model, rate, epochs, callbacks=()):
        loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(tf_keras.optimizers.Adam(rate), loss)
        model.fit(x, y, batch_size=64, epochs=epochs, verbose=0, callbacks=list(callbacks))

    fit(model, 2e-3, 12)
    step = tfmot.sparsity.keras.UpdatePruningStep()
    schedule = tfmot.sparsity.keras.ConstantSparsity(0.5, 0, frequency=4)
    quantized = tfmot.quantization.keras.quantize_model(model)
    # So that the ranges leave their start of -6 to 6, which takes tfmot thousands of steps.
    for layer in quantized.layers:
        for weight in layer.weights:
            if weight.name.split(":")[0].endswith(("_min", "_max")) and "kernel" not in weight.name:
                weight.assign(weight * 2.0)
    fit(quantized, 1e-4, 2)
    copy = tf_keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    pruned = tfmot.sparsity.keras.prune_low_magnitude(copy, pruning_schedule=schedule)
    fit(pruned, 5e-4, 6, [step])
    # Last, since it takes the variables out of the layers that it wraps.
    clustered = tfmot.clustering.keras.cluster_weights(model, number_of_clusters=16)
    for legacy in (pruned, clustered):
        rebuilt = tfc.from_tf_keras(legacy)
        expected = legacy.predict(x[:64], verbose=0)
        np.testing.assert_allclose(rebuilt(x[:64]), expected, atol=1e-5 * np.abs(expected).max())
        artifact = tfc.convert(legacy, tmp_path / "m.tflite", calibration=x[:128])
        assert agreement(legacy, artifact, x[:256]) >= 0.99
    artifact = tfc.convert(quantized, tmp_path / "m.tflite")
    assert artifact.float_islands == []
    rebuilt = tfc.from_tf_keras(quantized, keep_ranges=True)
    assert find_transfer(rebuilt).lost == []
    assert_computes_the_same(rebuilt, quantized, x, ties=0.01)
    assert agreement(quantized, artifact, x[:256]) >= 0.99
