import numpy as np
import pytest

from tfcompress.datasets import Preprocessing


def test_apply_follows_the_documented_order():
    x = np.array([[0, 100, 255]], np.uint8)
    steps = Preprocessing(scale=1 / 255, offset=-0.5, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0))
    expected = (x / 255 - 0.5 - np.array([0.1, 0.2, 0.3])) / np.array([1, 2, 4])
    result = steps.apply(x)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=1e-6)
    assert x.dtype == np.uint8


def test_identity_returns_the_same_object():
    tokens = np.arange(6).reshape(2, 3)
    assert Preprocessing().is_identity
    assert Preprocessing().apply(tokens) is tokens
    inputs = {"a": tokens}
    assert Preprocessing().apply(inputs) is inputs


def test_dtype_alone_only_casts():
    result = Preprocessing(dtype="int32").apply(np.array([16777217], np.int64))
    assert result.dtype == np.int32
    assert result[0] == 16777217


def test_round_trip():
    steps = Preprocessing(scale=1 / 255, mean=0.5, std=[0.1, 0.2, 0.3], dtype="float32")
    config = steps.to_dict()
    assert config["std"] == [0.1, 0.2, 0.3]
    assert config["mean"] == [0.5]
    assert Preprocessing.from_dict(config) == steps


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"scal": 2.0}, "Did you mean 'scale'"),
        ({"scale": "1/255"}, "must be a number"),
        ({"scale": True}, "must be a number"),
        ({"scale": 0}, "not zero"),
        ({"offset": float("nan")}, "finite"),
        ({"std": [1.0, 0.0]}, "not zero"),
        ({"mean": []}, "one number per channel"),
        ({"mean": "0.5"}, "one number per channel"),
        ({"dtype": "text"}, "numeric NumPy type"),
        ({"version": 99}, "version"),
    ],
)
def test_bad_config(config, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing.from_dict(config)


def test_channels_must_match():
    with pytest.raises(ValueError, match="one per channel"):
        Preprocessing(mean=(0.1, 0.2)).apply(np.zeros((4, 3)))


def test_several_inputs_need_the_identity():
    with pytest.raises(ValueError, match="one input"):
        Preprocessing(scale=2.0).apply([np.zeros((2, 1)), np.zeros((2, 1))])
