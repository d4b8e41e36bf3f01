import pytest

from tfcompress.evaluation.short_names import clip, short_name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("net_1/conv_1/convolution", "conv"),
        ("net_1/conv_1_1/convolution;net_1/bn_1/batchnorm/mul", "conv_1"),
        ("net_1/conv_1_2/convolution", "conv_1_2"),
        ("sequential/conv2d_1/Conv2D", "conv2d_1"),
        ("conv2d_1/Conv2D", "conv2d_1"),
        # Weights of Keras models keep what they are called.
        ("block_1/conv_1/kernel", "conv_1/kernel"),
        ("conv_1/kernel", "conv_1/kernel"),
        ("kernel", "kernel"),
    ],
)
def test_short_names(name, text):
    assert short_name(name) == text


def test_clip():
    assert clip("abcdef", 4) == "abc…"
