import pytest

from tfcompress.evaluation.figures import figure, verdict, write_bytes, write_delta, write_value


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("accuracy", 0.97224, "97.22"),
        ("bytes", 97_200, "97.2 kB"),
        ("bytes", 340_123, "340 kB"),
        ("bytes", 1_234_567, "1.2 MB"),
        ("parameters", 78_666, "78,666"),
        ("ratio", 3.456, "3.5x"),
        ("latency_ms", 0.021456, "0.0215"),
        ("mae", None, "-"),
    ],
)
def test_values(key, value, text):
    assert write_value(figure(key), value) == text


def test_small_files_are_in_bytes():
    assert write_bytes(999) == "999 B"


@pytest.mark.parametrize(
    ("key", "value", "baseline", "text", "which"),
    [
        ("accuracy", 0.9, 0.95, "-5.00", "worse"),
        ("accuracy", 0.95, 0.9, "+5.00", "better"),
        ("accuracy", 0.950001, 0.95, "0.00", "same"),
        ("accuracy", 0.94998, 0.95, "0.00", "same"),
        ("bytes", 25, 100, "-75%", "better"),
        ("bytes", 100_001, 100_000, "0%", "same"),
        ("bytes", 97, 100, "-3.0%", "better"),
        ("bytes", 100, 100, "0%", "same"),
        ("latency_ms", 0.0, 0.0, "", "same"),
        ("mae", 0.25, 0.2, "+0.05", "worse"),
        ("agreement", 0.9, 1.0, "", "worse"),
        ("bytes", None, 100, "", "same"),
        ("sparsity", 0.8, 0.0, "+80.00", "same"),
    ],
)
def test_deltas(key, value, baseline, text, which):
    assert write_delta(figure(key), value, baseline) == text
    assert verdict(figure(key), value, baseline) == which
