"""The callbacks in the `fit` of a `keras.distillation.Distiller` work on its student."""

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress as tfc
from tfcompress.callbacks import (
    MagnitudePruning,
    QuantizationAwareTraining,
    QuantizationSchedule,
    StructuredPruning,
)
from tfcompress.pruning import find_state
from tfcompress.quantization import find_twin, quantized_form
from tfcompress.quantization.calibrate import quantizers_of

STEPS = 4
X = np.random.default_rng(0).random((64, 8, 8, 1)).astype("float32")
Y = np.arange(64) % 3


def build(width, seed=0):
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input((8, 8, 1), name="image")
    x = layers.ReLU()(layers.BatchNormalization(name="bn")(layers.Conv2D(width, 3, name="conv")(x)))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(width, 3, name="top")(x))
    return keras.Model(inputs, layers.Dense(3, name="logits")(x))


def distiller(student, teacher=None):
    # `loss="kl_divergence"`, the default, is given logits where it takes probabilities.
    loss = keras.distillation.LogitsDistillation(2.0, keras.losses.KLDivergence())
    model = keras.distillation.Distiller(teacher or build(8, seed=1), student, loss)
    crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), crossentropy, jit_compile=False)
    model.build(student.input_shape)  # BackupAndRestore asks for it
    return model


def fit(model, *callbacks, epochs=2):
    arguments = {"batch_size": 16, "shuffle": False, "verbose": 0}
    return model.fit(X, Y, epochs=epochs, callbacks=list(callbacks), **arguments).history


def test_the_student_is_pruned_and_quantized_and_the_teacher_is_not(tmp_path):
    teacher, student = build(8, seed=1), build(4)
    before = teacher.get_weights()
    pruning = MagnitudePruning(0.5, end=0.4, regrow_until=0.5)
    history = fit(distiller(student, teacher), QuantizationAwareTraining(begin=0.5), pruning)

    assert {target.name for target in pruning.targets} == {
        "conv/kernel",
        "top/kernel",
        "logits/kernel",
    }
    assert history["sparsity"][-1] == find_state(student).sparsity == 0.5
    assert history["quantizing"] == [0.0, 1.0]
    assert quantized_form(student) is find_twin(student).model()
    for value, expected in zip(teacher.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, expected)
    assert find_state(teacher) is find_twin(teacher) is None
    student.save(tmp_path / "student.keras")
    loaded = keras.models.load_model(tmp_path / "student.keras")
    for mask in find_state(student).masks:
        kernel = tfc.strip(loaded).get_layer(mask.name.split("/")[0]).kernel
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(kernel) != 0, mask.numpy())


def test_channels_of_the_student_are_removed():
    student = build(8)
    fit(distiller(student), StructuredPruning(parameters=0.5, round_to=1))
    assert tfc.shrink(student).count_params() <= 0.55 * build(8).count_params()


def test_only_the_quantizers_of_the_student_are_switched():
    teacher = tfc.quantize_aware(build(8, seed=1), calibration=X)
    student = tfc.quantize_aware(build(4), calibration=X)
    seen = []
    look = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: seen.append(
            [{q.quantizing for q in quantizers_of(model)} for model in (teacher, student)]
        )
    )
    fit(distiller(student, teacher), QuantizationSchedule(begin=STEPS), look)
    assert seen[0] == [{True}, {False}]
    assert seen[-1] == [{True}, {True}]


@pytest.mark.parametrize("pruning_first", [True, False])
def test_an_interrupted_distillation_continues_exactly(tmp_path, pruning_first, kill, killed):
    def callbacks():
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
        pair = [MagnitudePruning(0.5), backup]
        return pair if pruning_first else pair[::-1]

    whole, resumed = build(4), build(4, seed=2)
    fit(distiller(whole), MagnitudePruning(0.5), epochs=4)
    with pytest.raises(killed):
        fit(distiller(build(4)), *callbacks(), kill(2 * STEPS + 2), epochs=4)
    fit(distiller(resumed), *callbacks(), epochs=4)
    assert find_state(resumed).step == 4 * STEPS
    for value, expected in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(value, expected)
