"""How activation ranges are learned."""

import numpy as np
import pytest
from keras import ops

from tfcompress.quantization.activation_quantizer import ActivationQuantizer, calibration_of


def batch(low, high):
    return ops.convert_to_tensor(np.linspace(low, high, 64, dtype="float32").reshape(8, 8))


def test_before_any_data_tensors_pass_through():
    quantizer = ActivationQuantizer()
    x = batch(-1, 3)
    np.testing.assert_array_equal(ops.convert_to_numpy(quantizer(x)), ops.convert_to_numpy(x))
    assert quantizer.range is None


def test_first_training_batch_sets_the_range_and_later_ones_move_it(whole_codes):
    quantizer = ActivationQuantizer(momentum=0.9)
    quantizer(batch(-1, 3), training=True)
    assert quantizer.range == whole_codes(-1, 3)
    quantizer(batch(-2, 3), training=True)
    # The average is corrected for its start: the two batches weigh 0.9 to 1.
    assert quantizer.range == whole_codes(-2.9 / 1.9, 3)
    quantizer(batch(-9, 9))  # inference
    assert quantizer.range == whole_codes(-2.9 / 1.9, 3)


def test_range_always_holds_zero(whole_codes):
    quantizer = ActivationQuantizer()
    quantizer(batch(2, 3), training=True)
    assert quantizer.range == whole_codes(0, 3)


def test_calibration_widens_and_does_not_quantize(whole_codes):
    quantizer = ActivationQuantizer()
    with calibration_of([quantizer]):
        for x in (batch(-1, 1), batch(0, 4)):
            out = quantizer(x)
            np.testing.assert_array_equal(ops.convert_to_numpy(out), ops.convert_to_numpy(x))
    assert quantizer.range == whole_codes(-1, 4)
    assert not quantizer.calibrating


def test_list_shares_one_range(whole_codes):
    quantizer = ActivationQuantizer()
    a, b = quantizer([batch(0, 1), batch(-2, 5)], training=True)
    assert quantizer.range == whole_codes(-2, 5)
    step = 7 / 255
    codes = ops.convert_to_numpy(a) / step
    np.testing.assert_allclose(codes, np.round(codes), atol=1e-3)
    assert ops.convert_to_numpy(b).max() == pytest.approx(5, abs=step)


def test_fixed_range_learns_nothing():
    quantizer = ActivationQuantizer(fixed_range=(0, 255 / 256))
    y = ops.convert_to_numpy(quantizer(batch(0, 2), training=True))
    assert quantizer.weights == []
    assert y.max() == pytest.approx(255 / 256)


def test_frozen_range_stays(whole_codes):
    quantizer = ActivationQuantizer()
    quantizer(batch(-1, 1), training=True)
    quantizer.observing = False
    quantizer(batch(-5, 5), training=True)
    assert quantizer.range == whole_codes(-1, 1)


def test_config_round_trip():
    quantizer = ActivationQuantizer(fixed_range=(-1, 1), momentum=0.5, requantized=[1])
    assert ActivationQuantizer.from_config(quantizer.get_config()).get_config() == (
        quantizer.get_config()
    )


def test_bad_momentum_is_refused():
    with pytest.raises(ValueError, match="momentum"):
        ActivationQuantizer(momentum=1.0)
