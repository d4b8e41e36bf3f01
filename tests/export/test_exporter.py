"""`export`: from a quantization-aware model to a file that computes the same."""

import functools
import json

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfcompress as tfc
from tfcompress.evaluation.litert import LiteRTModel
from tfcompress.export import FidelityError
from tfcompress.quantization.calibrate import quantizers_of, wrappers_of

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 8, 8, 4)).astype("float32")


def single_operators(x):
    """Every supported operation on an image, each an output of its own."""
    row = layers.Reshape((64, 4))(x)
    vector = layers.GlobalAveragePooling2D()(x)

    def other():
        # A new one each time: the converter merges sums of the same two tensors into one.
        return layers.Conv2D(4, 1)(x)

    same = {"padding": "same"}
    single = layers.Conv1D(1, 1)(row)
    return {
        "conv": layers.Conv2D(6, 3, **same)(x),
        "conv_relu": layers.Conv2D(6, 3, activation="relu", **same)(x),
        "conv_relu6": layers.ReLU(6.0)(layers.Conv2D(6, 3, strides=2, **same)(x)),
        "conv_bn_relu": layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(6, 3)(x))),
        "conv_grouped": layers.Conv2D(4, 3, groups=2)(x),
        "conv_dilated": layers.Conv2D(4, 3, dilation_rate=2, **same)(x),
        # Reads the same image, so that a shift into the batch would be shared.
        "conv_dilated_again": layers.Conv2D(4, 3, dilation_rate=2, activation="relu", **same)(x),
        "conv_tanh": layers.Conv2D(4, 3, activation="tanh")(x),
        "depthwise": layers.DepthwiseConv2D(3, depth_multiplier=2)(x),
        "separable": layers.SeparableConv2D(5, 3, activation="relu")(x),
        "transpose": layers.Conv2DTranspose(5, 3, strides=2, **same)(x),
        "conv1d": layers.Conv1D(5, 3, padding="causal", dilation_rate=2, activation="relu")(row),
        "conv1d_single": layers.Conv1D(1, 3, activation="relu")(row),
        "conv1d_dilated": layers.Conv1D(5, 3, padding="causal", dilation_rate=2)(row),
        "depthwise1d_dilated": layers.DepthwiseConv1D(3, dilation_rate=2, **same)(row),
        "separable1d": layers.SeparableConv1D(5, 3)(row),
        "transpose_relu": layers.ReLU()(layers.Conv2DTranspose(5, 3, use_bias=False)(x)),
        "transpose1d": layers.Conv1DTranspose(5, 3, strides=2)(row),
        "transpose1d_relu": layers.Conv1DTranspose(5, 3, use_bias=False, activation="relu")(row),
        "transpose1d_single": layers.Conv1DTranspose(1, 3, **same)(row),
        "transpose1d_single_relu": layers.ReLU()(layers.Conv1DTranspose(1, 3, **same)(row)),
        "transpose1d_single_bn": layers.ReLU()(
            layers.BatchNormalization()(layers.Conv1DTranspose(1, 3, use_bias=False)(row))
        ),
        "add_single": layers.Add()([single, layers.Activation("sigmoid")(single)]),
        "dense": layers.Dense(7)(vector),
        "dense_rows": layers.Dense(7, activation="relu")(row),
        "dense_bn": layers.BatchNormalization()(layers.Dense(7)(vector)),
        "softmax": layers.Dense(7, activation="softmax")(vector),
        "softmax_layer": layers.Softmax()(layers.Dense(7)(vector)),
        "sigmoid": layers.Dense(7, activation="sigmoid")(vector),
        "bn_alone": layers.ReLU()(layers.BatchNormalization()(layers.MaxPooling2D(2)(x))),
        "bn_vector": layers.BatchNormalization()(layers.Dropout(0.5)(vector)),
        "rescaling": layers.Rescaling(0.3, 0.1)(x),
        "add_relu": ops.relu(layers.Add()([x, other()])),
        "add_three": layers.Add()([x, other(), x]),
        "subtract": layers.Subtract()([x, other()]),
        "multiply": x * ops.sigmoid(other()),
        "constant": x * 0.5,
        "average": layers.Average()([x, other()]),
        "max_pool": layers.MaxPooling2D(2)(x),
        "average_pool": layers.AveragePooling2D(2)(x),
        "max_pool1d": layers.MaxPooling1D(2)(row),
        "average_pool1d": layers.AveragePooling1D(2)(row),
        "global_max": layers.GlobalMaxPooling2D()(x),
        "global_average": layers.GlobalAveragePooling1D()(row),
        "flatten": layers.Flatten()(layers.Permute((2, 1, 3))(x)),
        "pad_crop": layers.Cropping2D(2)(layers.ZeroPadding2D(1)(x)),
        "upsample": layers.UpSampling2D(2)(x),
        "upsample_bilinear": layers.UpSampling2D(2, interpolation="bilinear")(x),
    }


def perturb(model, seed=0):
    """Give biases and batch-norm statistics values that training would."""
    generator = np.random.default_rng(seed)
    for variable in model.variables:
        if len(variable.shape) == 1 and variable.dtype == "float32":
            variable.assign(generator.uniform(0.2, 1.2, variable.shape))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The model of all single operators, calibrated, and its artifact."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 4), name="image")
    model = keras.Model(inputs, single_operators(inputs))
    perturb(model)
    qat = tfc.quantize_aware(model, calibration=X, verbose=False)
    path = tmp_path_factory.mktemp("operators") / "operators.tflite"
    artifact = tfc.export(qat, path, io="float32", calibration=X, tolerance=np.inf)
    return qat, artifact


def test_every_operator_is_an_integer_operator(exported):
    _, artifact = exported
    assert artifact.float_islands == []
    assert artifact.plan_skipped == []


def test_every_operator_is_within_a_quantum(exported):
    qat, artifact = exported
    answers = LiteRTModel(artifact.path).predict(X)
    expected = qat.predict(X, verbose=0)
    # Two operators in a row, of which the second may widen what the first was off.
    chains = {"add_relu": 2, "add_three": 2, "average": 2, "conv_tanh": 4, "upsample_bilinear": 2}
    worst, off = {}, {}
    for name, answer in zip(sorted(expected), answers, strict=True):
        levels = np.unique(np.round(expected[name], 6))
        gaps = np.diff(levels)
        quanta = np.abs(answer - expected[name]) / gaps[gaps > 1e-5].min()
        worst[name], off[name] = quanta.max(), np.mean(quanta > 0.5)
    assert {name: q for name, q in worst.items() if q > chains.get(name, 1) + 0.01} == {}
    # Interpolation weights are fixed-point numbers in the kernel.
    assert off.pop("upsample_bilinear") < 0.08
    assert {name: share for name, share in off.items() if share > 0.01} == {}


def small(sparsity=None):
    keras.utils.set_random_seed(1)
    x = inputs = keras.Input((8, 8, 4), name="image")
    x = layers.Conv2D(8, 3, use_bias=False, name="conv")(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))
    model.compile("adam", "sparse_categorical_crossentropy")
    if sparsity is not None:
        callback = tfc.callbacks.MagnitudePruning(sparsity)
        model.fit(X, np.arange(64) % 3, epochs=3, batch_size=16, verbose=0, callbacks=[callback])
    return model


def test_pruned_and_quantized_model_keeps_its_zeros_in_the_file(tmp_path):
    model = small(sparsity=0.75)
    qat = tfc.quantize_aware(model, calibration=X, verbose=False)
    qat.compile("adam", "sparse_categorical_crossentropy")
    qat.fit(X, np.arange(64) % 3, epochs=2, batch_size=16, verbose=0)
    artifact = tfc.export(qat, tmp_path / "m.tflite", calibration=X, preprocessing={"scale": 2})
    assert artifact.float_islands == []
    assert artifact.fidelity.max_quanta <= 2
    assert artifact.fidelity.agreement >= 0.98
    kernels = [value for name, value in artifact.sparsity.items() if value > 0.3]
    total = 8 * 36 + 8 * 3
    zeros = sum(np.count_nonzero(w == 0) for w in (tfc.strip(qat).get_layer("conv").get_weights()))
    assert zeros / (8 * 36) >= 0.5
    assert kernels
    assert artifact.nonzeros <= artifact.parameters - int(0.75 * total) + 1
    sidecar = json.loads((tmp_path / "m.tflite.json").read_text())
    assert sidecar["preprocessing"] == {"scale": 2}
    assert tfc.Artifact.load(tmp_path / "m.tflite") == artifact


@pytest.mark.parametrize("io", ["uint8", "float32"])
def test_io_types(io, tmp_path):
    qat = tfc.quantize_aware(small(), calibration=X, verbose=False)
    artifact = tfc.export(qat, tmp_path / "m.tflite", io=io)
    assert artifact.inputs[0].dtype == io
    assert artifact.outputs[0].dtype == io
    assert artifact.float_islands == []
    assert artifact.fidelity.source == "random within the input range"


def test_float_operation_is_named_in_the_artifact(tmp_path):
    inputs = keras.Input((8, 8, 4))
    x = ops.sin(layers.Conv2D(4, 3)(inputs))
    model = keras.Model(inputs, layers.Conv2D(4, 3)(x))
    qat = tfc.quantize_aware(model, calibration=X, verbose=False)
    artifact = tfc.export(qat, tmp_path / "m.tflite", calibration=X)
    assert [row["type"] for row in artifact.plan_skipped] == ["Sin"]
    assert len(artifact.float_islands) == 1
    assert artifact.ops["CONV_2D"] == 2


def test_token_ids_in_float_stay_float_in_the_file(tmp_path):
    tokens = RNG.integers(0, 300, (48, 10)).astype("float32")
    stack = [keras.Input((10,)), layers.Embedding(300, 8), layers.GlobalAveragePooling1D()]
    model = keras.Sequential([*stack, layers.Dense(2, activation="softmax")])
    qat = tfc.quantize_aware(model, calibration=tokens, verbose=False)
    artifact = tfc.export(qat, tmp_path / "tokens.tflite", calibration=tokens)
    assert (artifact.inputs[0].dtype, artifact.outputs[0].dtype) == ("float32", "int8")
    assert artifact.fidelity.max_quanta <= 1


def test_what_is_no_model_and_no_tolerance_is_refused_first(tmp_path):
    path = tmp_path / "model.tflite"
    for function in (tfc.strip, lambda model: tfc.export(model, path)):
        with pytest.raises(ValueError, match=r"Expected a Keras 3 model.*builtins\.int"):
            function(3)
    for tolerance in (-1, "a", np.nan, True):
        with pytest.raises(ValueError, match=r"`tolerance` must be a number of at least 0"):
            tfc.export(small(), path, calibration=X, tolerance=tolerance)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite_are_named_and_nothing_else_is_blamed(tmp_path):
    qat = tfc.quantize_aware(small(), calibration=X, verbose=False)
    kernel = next(weight for weight in qat.weights if weight.path.endswith("head/kernel"))
    kernel.assign(np.where(np.arange(3) == 1, np.nan, kernel.numpy()))
    with pytest.raises(FidelityError) as caught:
        tfc.export(qat, tmp_path / "model.tflite", calibration=X)
    assert str(caught.value).endswith("The first weights that are not finite are 'head/kernel'.")


def test_a_signal_that_dies_out_is_told(caplog, tmp_path):
    inputs = keras.Input((4,), name="x")
    model = keras.Model(inputs, layers.Dense(2, name="head")(inputs))
    x = RNG.normal(size=(16, 4)).astype("float32")
    model.get_layer("head").kernel.assign(np.full((4, 2), 1e-9))
    qat = tfc.quantize_aware(model, calibration=x, verbose=False)
    with caplog.at_level("WARNING"):
        tfc.export(qat, tmp_path / "m.tflite", calibration=x)
    assert (
        "1 activations are zero but for a millionth, the first at 'head_quantizer'" in caplog.text
    )


class TestBadInput:
    """A failed export says why and leaves an earlier file alone."""

    def test_no_ranges(self, tmp_path):
        with pytest.raises(ValueError, match="never saw data"):
            tfc.export(tfc.quantize_aware(small(), verbose=False), tmp_path / "m.tflite")

    def test_float_model_without_calibration(self, tmp_path):
        with pytest.raises(ValueError, match="not quantization-aware"):
            tfc.export(small(), tmp_path / "m.tflite")

    def test_tolerance(self, tmp_path):
        path = tmp_path / "m.tflite"
        path.write_bytes(b"earlier")
        qat = tfc.quantize_aware(small(), calibration=X, verbose=False)
        # A model whose own quantizers are off differs from what is exported.
        for part in [*quantizers_of(qat), *wrappers_of(qat)]:
            part.quantizing = False
        qat.get_layer("head").quantizing = True
        from tfcompress.export import FidelityError

        with pytest.raises(FidelityError, match="quanta"):
            tfc.export(qat, path, calibration=X * 3, tolerance=0.2)
        assert path.read_bytes() == b"earlier"
        assert list(tmp_path.iterdir()) == [path]

    def test_regrown_weights(self, tmp_path):
        model = small(sparsity=0.5)
        model.get_layer("head").kernel.assign(np.ones((8, 3)))
        with pytest.raises(ValueError, match="not zero any more"):
            tfc.export(model, tmp_path / "m.tflite", io="float32")
        shrink = functools.partial(tfc.shrink, sparsity=0.5, round_to=1)
        for make in (tfc.strip, tfc.quantize_aware, shrink):
            with pytest.raises(ValueError, match="not zero any more"):
                make(model)

    def test_unknown_io(self, tmp_path):
        qat = tfc.quantize_aware(small(), calibration=X, verbose=False)
        with pytest.raises(ValueError, match="io"):
            tfc.export(qat, tmp_path / "m.tflite", io="int4")
