import keras
import pytest

from tfcompress.graph.selection import as_patterns, matches, pattern_config, select


@pytest.fixture(scope="module")
def layers():
    return [
        keras.layers.Conv2D(2, 3, name="conv1"),
        keras.layers.Conv2D(2, 3, name="conv2"),
        keras.layers.DepthwiseConv2D(3, name="depthwise"),
        keras.layers.TimeDistributed(keras.layers.Dense(2, name="inner"), name="outer"),
        keras.layers.Dense(2, name="logits"),
    ]


def names(layers):
    return [layer.name for layer in layers]


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (None, None, ["conv1", "conv2", "depthwise", "outer", "logits"]),
        ("conv1", None, ["conv1"]),
        ("conv.", None, ["conv1", "conv2"]),
        ("Conv2D", None, ["conv1", "conv2"]),
        (keras.layers.Conv2D, "conv1", ["conv2"]),
        ("Dense", None, ["outer", "logits"]),
        ("inner", None, ["outer"]),
        (None, ["logits", keras.layers.DepthwiseConv2D], ["conv1", "conv2", "outer"]),
        ([".*"], ["Dense", "conv2"], ["conv1", "depthwise"]),
    ],
)
def test_select(layers, include, exclude, expected):
    assert names(select(layers, include, exclude)) == expected


def test_a_regular_expression_must_match_the_whole_name(layers):
    with pytest.raises(ValueError, match="`include` matches no layer"):
        select(layers, include="conv")


def test_matches_returns_the_pattern(layers):
    assert matches("conv1", layers[0], ["Dense", "conv."]) == "conv."
    assert matches("conv1", layers[0], keras.layers.Conv2D) is keras.layers.Conv2D
    assert matches("conv1", layers[0], None) is None
    assert matches("conv1", layers[0], "stem/kernel", "stem/kernel") == "stem/kernel"


def test_nearest_names_are_suggested(layers):
    with pytest.raises(ValueError, match=r"Received: exclude='logit'. Did you mean 'logits'"):
        select(layers, exclude="logit")
    with pytest.raises(ValueError, match=r"Did you mean .*'Conv2D'"):
        select(layers, include="conv2D_")
    with pytest.raises(ValueError, match=r"Layers: conv1, conv2, .*Classes: Conv2D"):
        select(layers, include="zzz")


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ([], "at least one layer"),
        ([""], "Received: '' of type str"),
        ([3], "Received: 3 of type int"),
        ("conv[", "not a valid regular expression"),
    ],
)
def test_malformed_patterns(patterns, message):
    with pytest.raises(ValueError, match=message):
        as_patterns(patterns, "include")


def test_pattern_config_names_classes():
    assert pattern_config(as_patterns(["a", keras.layers.Dense])) == ["a", "Dense"]
    assert pattern_config(None) is None
