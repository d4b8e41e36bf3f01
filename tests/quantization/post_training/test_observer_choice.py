"""What the choice of an observer goes by."""

import numpy as np
import pytest

from tfcompress.quantization.post_training.observer_choice import is_clearly_lower, output_losses


def test_probabilities_are_compared_by_their_divergence():
    expected = np.array([[0.5, 0.5], [0.9, 0.1]])
    seen = np.array([[0.25, 0.75], [0.9, 0.1]])
    wanted = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    np.testing.assert_allclose(output_losses([expected], [seen]), [wanted, 0.0], atol=1e-12)
    # Codes of a softmax may be zero, and need not add up to one.
    certain = np.array([[1.0, 0.0], [1.0, 0.0]])
    assert np.all(output_losses([certain], [certain * 255 / 256]) < 1e-5)


def test_other_outputs_are_compared_by_their_squared_error():
    expected = np.array([[3.0, -1.0], [1.0, 5.0]])
    seen = expected + np.array([[0.5, 0.0], [0.0, 0.0]])
    wanted = 0.5 * 0.25 / expected.var()
    np.testing.assert_allclose(output_losses([expected], [seen]), [wanted, 0.0])
    # Several outputs count together, whatever their sizes.
    both = output_losses([expected, 1000 * expected], [seen, 1000 * seen])
    np.testing.assert_allclose(both, [2 * wanted, 0.0])


@pytest.mark.parametrize(
    ("gain", "noise", "clear"), [(0.5, 0.3, True), (0.05, 0.01, False), (0.2, 5.0, False)]
)
def test_a_gain_must_be_larger_than_chance_and_worth_it(gain, noise, clear):
    generator = np.random.default_rng(0)
    base = np.ones(200)
    assert is_clearly_lower(base - gain + noise * generator.normal(size=200), base) == clear
    assert not is_clearly_lower(base, base)
