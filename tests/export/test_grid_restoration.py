"""Grids that the converter does not find by itself, in the exported file."""

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers, ops

import tfcompress as tfc
from tfcompress.export.flatbuffer_editing import unpacked
from tfcompress.export.inspection import inspect_file
from tfcompress.quantization.calibrate import wrappers_of

SCHEMES = {
    "default": "int8",
    "conv": "w4a8",
    "folded": "int8_pot",
    "depthwise": {"weight_bits": 4, "weight_range": "octav"},
    "transposed": "int8_lsq",
    "grouped": {"weight_bits": 6, "weight_range": "mse"},
    "line": "int8_per_tensor",
    "sequence": {"power_of_two": "all", "weight_range": "mse", "observer": "percentile"},
    "dense": "w2a8",
    "separable": "w3a8",
    "shared": "w4a8",
    "symmetric": "int8_symmetric",
    "floating": None,
}


def branches():
    """A model with one branch for each kind of weight and grid, by the names of its outputs."""
    keras.utils.set_random_seed(0)
    x = keras.Input((8, 8, 8), name="image")
    line = layers.Reshape((64, 8))(x)
    folded = layers.Conv2D(10, 3, use_bias=False, name="folded")(x)
    folded = layers.ReLU()(layers.BatchNormalization(name="bn")(folded))
    floating = layers.Dense(5, name="floating")(layers.Flatten()(x))
    shared = layers.Dense(13, name="shared")
    outputs = {
        "conv": layers.Conv2D(12, 3, padding="same", name="conv")(x),
        "folded": folded,
        "depthwise": layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")(x),
        "transposed": layers.Conv2DTranspose(6, 3, strides=2, name="transposed")(x),
        "grouped": layers.Conv2D(8, 3, groups=2, name="grouped")(x),
        "line": layers.Conv1D(6, 3, name="line")(line),
        "sequence": layers.Dense(7, name="sequence")(line),
        "dense": layers.Dense(21, name="dense")(layers.Flatten()(x)),
        "separable": layers.SeparableConv2D(9, 3, name="separable")(x),
        "symmetric": layers.Conv2D(3, 1, name="symmetric")(x),
        "floating": layers.Dense(4, name="last")(floating),
        "shared": shared(layers.GlobalAveragePooling2D()(x)),
        "shared again": shared(layers.GlobalMaxPooling2D()(x)),
    }
    model = keras.Model(x, list(outputs.values()))
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if any(word in weight.path for word in ("bias", "beta", "gamma", "moving_mean")):
            weight.assign(rng.normal(scale=0.5, size=weight.shape))
    model.get_layer("conv").kernel.assign(
        ops.convert_to_numpy(model.get_layer("conv").kernel) * (np.arange(12) > 0)
    )
    return model, list(outputs)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    model, names = branches()
    x = np.random.default_rng(1).normal(size=(64, 8, 8, 8)).astype("float32")
    qat = tfc.quantize_aware(model, SCHEMES, calibration=x, verbose=False)
    path = tmp_path_factory.mktemp("grids") / "model.tflite"
    artifact = tfc.export(qat, path, calibration=x, tolerance=2)
    return qat, names, x, artifact


def weights_in_file(path):
    """By shape, the type, codes and scales of the constant weights in a file."""
    interpreter = Interpreter(str(path))
    found = {}
    for details in interpreter.get_tensor_details():
        scales = details["quantization_parameters"]["scales"]
        if len(scales) and details["dtype"] != np.int32:
            found[tuple(details["shape"])] = (details, scales)
    return found


def test_every_branch_computes_what_was_trained(exported):
    qat, names, x, artifact = exported
    interpreter = Interpreter(str(artifact.path))
    runner = interpreter.get_signature_runner()
    scale, zero = interpreter.get_input_details()[0]["quantization"]
    wanted = [np.asarray(value) for value in qat(x)]
    answers = [
        runner(image=np.clip(np.round(row / scale) + zero, -128, 127).astype("int8")[None])
        for row in x
    ]
    for number, name in enumerate(names):
        key = f"output_{number}"
        step, zero = runner.get_output_details()[key]["quantization"]
        got = (np.concatenate([a[key] for a in answers]).astype("float32") - zero) * step
        quanta = np.abs(got - wanted[number]) / step
        most, often = {"separable": (2, 0.1), "floating": (1, 0.05)}.get(name, (1, 0.05))
        assert quanta.max() <= most + 0.01, name
        assert np.mean(quanta > 0.5) <= often, name


def test_the_weights_in_the_file_are_the_trained_ones_exactly(exported):
    qat, _, _, artifact = exported
    file = weights_in_file(artifact.path)
    layer = {wrapper.name: wrapper for wrapper in wrappers_of(qat)}
    # (layer, shape in the file, axes from Keras' kernel to it, stored type)
    for name, shape, order, dtype in (
        ("line", (6, 1, 3, 8), (2, 0, 1), np.int8),
        ("sequence", (7, 8), (1, 0), np.int8),
        ("transposed", (6, 3, 3, 8), (2, 0, 1, 3), np.int8),
        ("grouped", (8, 3, 3, 4), (3, 0, 1, 2), np.int8),
    ):
        details, scales = file[shape]
        codes = Interpreter(str(artifact.path)).get_tensor(details["index"])
        assert codes.dtype == dtype
        axis = details["quantization_parameters"]["quantized_dimension"]
        if len(scales) > 1:
            scales = scales.reshape([-1 if i == axis else 1 for i in range(len(shape))])
        kernel = np.transpose(layer[name].baked_kernels()[0], order).reshape(shape)
        np.testing.assert_allclose(codes * scales, kernel, rtol=2e-6, atol=1e-9, err_msg=name)


def test_power_of_two_scales_stay_powers_of_two(exported):
    file = weights_in_file(exported[3].path)
    _, scales = file[7, 8]
    np.testing.assert_array_equal(np.log2(scales), np.round(np.log2(scales)))


def test_one_scale_for_the_tensor_is_stored_once(exported):
    _, scales = weights_in_file(exported[3].path)[6, 1, 3, 8]
    assert scales.shape == (1,)


def test_four_bits_are_packed_where_kernels_read_them(exported):
    stored = {w.shape: w for w in inspect_file(exported[3].path).weights if "int" in w.dtype}
    assert stored[12, 3, 3, 8].dtype == "int4"  # convolution
    assert stored[12, 3, 3, 8].bytes == 12 * 3 * 3 * 8 // 2
    assert stored[21, 512].dtype == "int4"  # dense
    assert stored[1, 3, 3, 16].dtype == "int8"  # depthwise
    assert stored[8, 3, 3, 4].dtype == "int8"  # 6 bits


def test_readers_of_one_weight_share_it(exported):
    graph = (model := unpacked(exported[3].path.read_bytes())).subgraphs[0]
    weights = [tensor for tensor in graph.tensors if list(tensor.shape) == [13, 8]]
    assert len({tensor.buffer for tensor in weights}) == 1
    assert len(model.buffers[weights[0].buffer].data) == 13 * 8 // 2
    # The inputs have two ranges, and so have the biases.
    biases = {
        tuple(np.asarray(tensor.quantization.scale))
        for tensor in graph.tensors
        if list(tensor.shape) == [13]
    }
    assert len(biases) == 2


def test_what_the_scheme_excludes_is_float_and_named(exported):
    artifact = exported[3]
    islands = " ".join(artifact.float_islands)
    assert "FULLY_CONNECTED" in islands
    reasons = {row["operation"]: row["reason"] for row in artifact.plan_skipped}
    assert reasons["floating"] == "excluded by the scheme"
    assert "dense" not in reasons


@pytest.mark.parametrize("scheme", ["w4a8", "int8_pot"])
def test_digits_cnn_trains_and_exports(scheme, digits, tiny_cnn, tmp_path):
    x, y = digits.train
    model = tiny_cnn(filters=8)
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=3, batch_size=32, verbose=0)
    qat = tfc.quantize_aware(model, scheme, calibration=x[:128], verbose=False)
    qat.compile(
        keras.optimizers.Adam(0.002), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    schedule = tfc.callbacks.QuantizationSchedule(freeze_batchnorm=0.5)
    qat.fit(x, y, epochs=2, batch_size=32, verbose=0, callbacks=[schedule])
    artifact = tfc.export(qat, tmp_path / "m.tflite", calibration=digits.test[0])
    assert qat.evaluate(*digits.test, verbose=0)[1] > 0.9
    assert artifact.float_islands == []
    assert artifact.fidelity.max_quanta <= 4
    assert artifact.fidelity.agreement >= 0.995
