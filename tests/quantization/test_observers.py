"""What ranges observers find."""

import keras
import numpy as np
import pytest
from keras import ops

from tfcompress.quantization import observers
from tfcompress.quantization.activation_quantizer import ActivationQuantizer, calibration_of

RNG = np.random.default_rng(0)


def bell(outliers=0, size=200_000):
    """Normal values, a few of them far out."""
    values = RNG.normal(size=size).astype("float32")
    values[:outliers] = 50.0
    return values


def found(observer, values, thorough=True):
    low, high = observers.get(observer).find(ops.convert_to_tensor(values), 8, thorough)
    return float(low), float(high)


def error(values, low, high):
    """Mean squared error of rounding to an asymmetric grid of 8 bits."""
    scale = (high - low) / 255
    zero_point = np.round(-low / scale)
    codes = np.clip(np.round(values / scale) + zero_point, 0, 255)
    return np.mean(((codes - zero_point) * scale - values) ** 2)


@pytest.mark.parametrize("observer", ["min_max", "moving_average"])
def test_extremes(observer):
    values = bell(outliers=1)
    assert found(observer, values) == pytest.approx((values.min(), 50.0))


def test_percentile_leaves_out_outliers_at_both_ends():
    values = np.arange(10_001, dtype="float32") - 2000
    low, high = found({"name": "percentile", "percentile": 99.0}, values)
    assert (low, high) == pytest.approx((-1900, 7900), abs=1)
    low, high = found("percentile", bell(outliers=5))
    assert high < 6
    assert low == pytest.approx(-3.7, abs=0.3)


def test_a_sample_in_training_sees_every_channel():
    values = np.zeros((32, 64, 64, 16), "float32")
    values[..., 7] = np.linspace(0, 1, 64)
    low, high = found({"name": "percentile", "percentile": 99.9}, values, thorough=False)
    assert high == pytest.approx(1.0, abs=0.02)
    assert low == 0


@pytest.mark.parametrize("observer", ["mse", "octav"])
def test_clipping_comes_close_to_the_least_error(observer):
    values = np.random.default_rng(0).standard_t(3, size=50_000).astype("float32")
    whole = values.min(), values.max()
    shares = np.linspace(0.02, 1, 99)
    best = min(error(values, share * whole[0], share * whole[1]) for share in shares)
    achieved = error(values, *found(observer, values))
    assert achieved <= 1.06 * best
    assert achieved < 0.98 * error(values, *whole)


@pytest.mark.parametrize("observer", ["mse", "octav"])
def test_nothing_is_clipped_where_that_does_not_pay(observer):
    values = RNG.uniform(-1, 1, 20_000).astype("float32")
    low, high = found(observer, values)
    assert low == pytest.approx(-1, abs=0.05)
    assert high == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("observer", sorted(observers.OBSERVERS))
def test_all_zeros_give_an_empty_range(observer):
    assert found(observer, np.zeros((8, 8), "float32")) == (0, 0)


@pytest.mark.parametrize("jit", [False, True])
def test_all_observers_work_in_a_training_step(jit):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((6,))
    quantizers = [ActivationQuantizer(observer=name) for name in sorted(observers.OBSERVERS)]
    for quantizer in quantizers:
        x = keras.layers.Identity()(quantizer(x))
    model = keras.Model(inputs, keras.layers.Dense(1)(x))
    model.compile("sgd", "mse", jit_compile=jit)
    data = bell(size=600).reshape(100, 6)
    model.fit(data, data[:, :1], batch_size=16, epochs=1, verbose=0)
    for quantizer in quantizers:
        low, high = quantizer.range
        assert -4 < low < -1
        assert 1 < high < 4


def test_moving_average_is_corrected_for_its_start():
    quantizer = ActivationQuantizer(momentum=0.9)
    for high in (1.0, 3.0):
        quantizer(ops.convert_to_tensor([[0.0, high]]), training=True)
    # Weights 0.9 and 1 of the two batches.
    assert quantizer.range[1] == pytest.approx((0.9 * 1 + 3) / 1.9, rel=1e-5)


def test_calibration_averages_percentiles_over_batches_and_training_goes_on_from_there():
    quantizer = ActivationQuantizer(observer="percentile")
    with calibration_of([quantizer]):
        for high in (1.0, 2.0, 3.0):
            quantizer(ops.convert_to_tensor([[0.0, high]]))
    assert quantizer.range[1] == pytest.approx(2.0, abs=0.01)
    quantizer(ops.convert_to_tensor([[0.0, 6.0]]), training=True)
    assert quantizer.range[1] == pytest.approx(3.0, abs=0.05)


def test_min_max_never_shrinks(whole_codes):
    quantizer = ActivationQuantizer(observer="min_max")
    for high in (1.0, 4.0, 2.0):
        quantizer(ops.convert_to_tensor([[-high, high]]), training=True)
    assert quantizer.range == whole_codes(-4, 4)


@pytest.mark.parametrize("observer", sorted(observers.OBSERVERS))
def test_config_round_trip(observer):
    made = observers.get(observer)
    assert observers.get(made.get_config()) == made
    quantizer = ActivationQuantizer(observer=made)
    assert ActivationQuantizer.from_config(quantizer.get_config()).observer == made


@pytest.mark.parametrize(
    ("identifier", "message"),
    [
        ("percentil", "Did you mean 'percentile'"),
        ({"name": "mse", "percentile": 99}, "takes the arguments"),
        ({"percentile": 99}, "Unknown observer"),
        ({"name": "percentile", "percentile": 40}, r"\(50, 100\]"),
        ({"name": "mse", "candidates": 1}, "at least 2"),
        ({"name": "octav", "iterations": 0}, "at least 1"),
        ({"name": "min_max", "momentum": 1.0}, "momentum"),
    ],
)
def test_bad_observers_are_refused(identifier, message):
    with pytest.raises(ValueError, match=message):
        observers.get(identifier)
    with pytest.raises(TypeError, match="An observer is"):
        observers.get(3)
