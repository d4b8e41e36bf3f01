import numpy as np

from tfcompress.evaluation.output_distance import BEST_SQNR, output_distance


def test_distance_of_classes_and_numbers():
    expected = np.array([[0.0, 1.0], [1.0, 0.0], [0.2, 0.8], [0.6, 0.4]])
    seen = expected.copy()
    seen[3] = [0.45, 0.55]
    found = output_distance([expected], [seen])
    assert found.agreement == 0.75
    signal = np.square(expected - expected.mean(0)).sum()
    np.testing.assert_allclose(found.sqnr, 10 * np.log10(signal / (2 * 0.15**2)))
    assert str(found) == f"SQNR {found.sqnr:.1f} dB, same class 75.0%"
    numbers = output_distance([expected[:, :1]], [expected[:, :1]])
    assert numbers.sqnr == BEST_SQNR
    assert numbers.agreement is None
