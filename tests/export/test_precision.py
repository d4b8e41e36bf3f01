from pathlib import Path

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.export import ConversionError


@pytest.fixture(params=["mixed_float16", "mixed_bfloat16"])
def policy(request):
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy("float32")


def small_model() -> keras.Model:
    keras.utils.set_random_seed(2)
    images = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, padding="same")(images)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    # Their inner layers have policies of their own.
    x = keras.layers.TimeDistributed(keras.layers.Conv1D(4, 3, activation="relu"))(x)
    x = keras.layers.Dense(3, activation="softmax")(keras.layers.Flatten()(x))
    model = keras.Model(images, x)
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


@pytest.fixture
def samples() -> np.ndarray:
    return np.random.default_rng(0).random((32, 8, 8, 3), np.float32)


def test_files_of_half_precision_models_compute_in_float32(policy, samples, tmp_path: Path):
    model = small_model()
    artifact = tfc.convert(model, tmp_path / "float.tflite", "float32", samples)
    assert artifact.fidelity.max_relative < 1e-4
    assert any(policy.removeprefix("mixed_") in note for note in artifact.notes)
    assert keras.config.dtype_policy().name == policy
    assert model.layers[1].compute_dtype == policy.removeprefix("mixed_")

    labels = np.arange(32) % 3
    pruning = tfc.callbacks.MagnitudePruning(sparsity=0.5, schedule="constant")
    model.fit(samples, labels, batch_size=8, verbose=0, callbacks=[pruning])
    model.save(tmp_path / "model.keras")
    for source in (tfc.strip(model), tmp_path / "model.keras"):
        artifact = tfc.convert(source, tmp_path / "int8.tflite", calibration=samples)
        assert artifact.float_islands == []
        assert any("proven against in float32" in note for note in artifact.notes)
        assert min(artifact.sparsity.values()) > 0.2


def test_training_in_half_precision_and_quantized(policy, samples, tmp_path: Path):
    trained = tfc.quantize_aware(small_model(), calibration=samples, verbose=False)
    trained.compile("adam", "sparse_categorical_crossentropy")
    trained.fit(samples, np.arange(32) % 3, batch_size=8, verbose=0)
    artifact = tfc.export(trained, tmp_path / "model.tflite", calibration=samples)
    assert artifact.float_islands == []
    assert artifact.fidelity.max_quanta <= 4
    assert keras.config.dtype_policy().name == policy


def test_quantizers_compute_in_the_precision_of_the_model(policy, samples):
    keras.config.set_dtype_policy("float32")
    model = small_model()
    expected = tfc.quantize_aware(model, calibration=samples, verbose=False)(samples)
    keras.config.set_dtype_policy(policy)
    seen = tfc.quantize_aware(model, calibration=samples, verbose=False)(samples)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(seen), expected)


def test_graphs_and_weights_of_half_precision_are_refused(samples, tmp_path: Path):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        small_model().export(tmp_path / "saved", verbose=False)
        keras.config.set_dtype_policy("float16")
        coarse = small_model()
    finally:
        keras.config.set_dtype_policy("float32")
    with pytest.raises(ConversionError, match=r"computes in float16 or bfloat16.*`\.keras` file"):
        tfc.convert(tmp_path / "saved", tmp_path / "model.tflite", "float32")
    with pytest.raises(ValueError, match=r"holds weights in float16.*'mixed_float16'"):
        tfc.quantize_aware(coarse)
    # Without training, the float32 form of it is quantized.
    assert tfc.convert(coarse, tmp_path / "model.tflite", "w4a8", samples).float_islands == []


def test_learned_ranges_reach_the_file_through_convert(samples, tmp_path: Path):
    trained = tfc.quantize_aware(small_model(), calibration=samples, verbose=False)
    trained.save(tmp_path / "trained.keras")
    expected = tfc.export(trained, tmp_path / "export.tflite", calibration=samples)
    for source in (trained, tmp_path / "trained.keras"):
        artifact = tfc.convert(source, tmp_path / "convert.tflite", calibration=samples)
        assert artifact.path.read_bytes() == expected.path.read_bytes()
    artifact = tfc.convert(trained, tmp_path / "float.tflite", "float32")
    assert "ROUND" not in artifact.ops
    assert any("ranges of the training are not in" in note for note in artifact.notes)
    assert tfc.convert(trained, tmp_path / "w4a8.tflite", "w4a8", samples).float_islands == []
