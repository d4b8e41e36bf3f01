"""When quantization starts and ranges and batch normalization freeze."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfcompress as tfc
from tfcompress.callbacks import QuantizationSchedule
from tfcompress.quantization.calibrate import quantizers_of


def build():
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(4, 3, name="conv")(x)
    x = layers.ReLU()(layers.BatchNormalization(name="bn")(x))
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))
    qat = tfc.quantize_aware(model, verbose=False)
    qat.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return qat


X = np.random.default_rng(0).random((64, 8, 8, 1)).astype("float32")
Y = np.arange(64) % 3


class Recorder(keras.callbacks.Callback):
    """Notes ranges and batch-norm statistics after every batch."""

    def __init__(self):
        super().__init__()
        self.ranges, self.means, self.quantizing = [], [], []

    def on_train_batch_end(self, batch, logs=None):
        quantizers = quantizers_of(self.model)
        self.ranges.append([q.range for q in quantizers])
        self.quantizing.append(quantizers[0].quantizing)
        self.means.append(ops.convert_to_numpy(self.model.get_layer("bn").layer.moving_mean))


def fit(qat, schedule, epochs=2, **kwargs):
    recorder = Recorder()
    qat.fit(X, Y, batch_size=16, epochs=epochs, verbose=0, callbacks=[schedule, recorder], **kwargs)
    return recorder


def test_ranges_and_batchnorm_freeze_at_their_positions():
    recorder = fit(build(), QuantizationSchedule(freeze_ranges=0.5, freeze_batchnorm=6))
    assert recorder.ranges[2] != recorder.ranges[3]
    assert recorder.ranges[3] == recorder.ranges[4] == recorder.ranges[7]
    assert np.any(recorder.means[4] != recorder.means[5])
    np.testing.assert_array_equal(recorder.means[5], recorder.means[6])
    np.testing.assert_array_equal(recorder.means[5], recorder.means[7])


def test_quantization_begins_later_and_ranges_are_observed_before():
    recorder = fit(build(), QuantizationSchedule(begin=0.5))
    assert recorder.quantizing == [False] * 3 + [True] * 5
    assert recorder.ranges[0] != recorder.ranges[1]


def test_logs_show_what_is_quantized_and_frozen(capsys):
    qat = build()
    schedule = QuantizationSchedule(begin=3, freeze_ranges=8, freeze_batchnorm=9)
    history = qat.fit(X, Y, batch_size=16, epochs=3, verbose=2, callbacks=[schedule]).history
    # Steps 4, 8 and 12 end the epochs.
    assert history["quantizing"] == [1, 1, 1]
    assert history["ranges_frozen"] == [0, 1, 1]
    assert history["batchnorm_frozen"] == [0, 0, 1]
    assert "batchnorm_frozen: 1.0000" in capsys.readouterr().out
    history = qat.fit(X, Y, batch_size=16, epochs=2, verbose=0, callbacks=[QuantizationSchedule(5)])
    assert history.history["quantizing"] == [0, 1]
    assert not {"ranges_frozen", "batchnorm_frozen"} & set(history.history)


def test_validation_is_float_before_begin():
    qat = build()
    losses = {}

    class Compare(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            losses[epoch] = logs["val_loss"]

    qat.fit(
        X,
        Y,
        batch_size=64,
        epochs=2,
        verbose=0,
        validation_data=(X, Y),
        callbacks=[QuantizationSchedule(begin=2), Compare()],
    )
    # The schedule switched after the last step; at the end everything is quantized.
    assert quantizers_of(qat)[0].quantizing
    assert losses[1] == pytest.approx(qat.evaluate(X, Y, verbose=0), rel=1e-5)


def test_resumed_training_goes_on_where_it_was():
    recorder = fit(build(), QuantizationSchedule(freeze_ranges=0.5), epochs=4, initial_epoch=2)
    assert recorder.ranges[0] == recorder.ranges[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"begin": -1}, "begin"), ({"freeze_ranges": 1.5}, "share of the training")],
)
def test_bad_positions_are_refused_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        QuantizationSchedule(**arguments)


def test_position_behind_the_end_is_refused_before_training():
    with pytest.raises(ValueError, match="ends after 8 steps"):
        fit(build(), QuantizationSchedule(freeze_ranges=9))


def test_plain_model_is_refused():
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match="quantize_aware"):
        fit(model, QuantizationSchedule())
