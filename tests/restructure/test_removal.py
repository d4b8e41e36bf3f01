"""The shorter network."""

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.graph.macs import count_macs
from tfcompress.pruning import find_state
from tfcompress.restructure import rank_layers, remove_layers


def test_without_a_block_that_does_nothing_the_outputs_are_the_same(resnet, digits):
    model = resnet(zero_block=4)
    before = [w.copy() for w in model.get_weights()]
    shorter = remove_layers(model, digits, n=1, verbose=False)
    x = digits.test.x
    # The bias of the block is zero too, so it passes its input on.
    np.testing.assert_allclose(np.asarray(shorter(x)), np.asarray(model(x)), atol=1e-6)
    gone = {"b4_a", "b4_bn", "b4_mid", "b4_b", "b4_add"}
    assert [la.name for la in shorter.layers] == [
        la.name for la in model.layers if la.name not in gone
    ]
    for layer in shorter.layers:
        for mine, theirs in zip(layer.get_weights(), model.get_layer(layer.name).get_weights()):
            np.testing.assert_array_equal(mine, theirs)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_what_is_pruned_stays_so_in_the_shorter_network(resnet, digits):
    model = resnet(zero_block=4)
    model.compile("adam", "sparse_categorical_crossentropy")
    fit = {"x": digits.test.x, "y": digits.test.y, "batch_size": 64, "verbose": 0}
    model.fit(**fit, callbacks=[tfc.callbacks.MagnitudePruning(0.5)])
    shorter = remove_layers(model, digits, n=1, verbose=False)
    for mask in find_state(shorter).masks:
        twin = find_state(model).mask_for(model.get_layer(mask.layer_name).kernel)
        np.testing.assert_array_equal(mask.numpy(), twin.numpy())
    kept = find_state(shorter).sparsity
    assert kept > 0.3
    shorter.compile("adam", "sparse_categorical_crossentropy")
    pruning = tfc.callbacks.MagnitudePruning(0.6, begin=0.9, end=1.0)
    assert shorter.fit(**fit, epochs=2, callbacks=[pruning]).history["sparsity"][0] >= kept
    shorter.fit(**fit)
    with pytest.raises(ValueError, match="pruned weights are not zero any more"):
        tfc.strip(shorter)
    with pytest.raises(ValueError, match="pruned weights are not zero any more"):
        remove_layers(shorter, digits, n=1, verbose=False)


def test_targets_are_shares_or_numbers(resnet, digits):
    model = resnet()
    ranking = rank_layers(model, digits, samples=32)
    macs = sum(count_macs(model).values())
    shorter = remove_layers(model, macs=0.8, ranking=ranking, verbose=False)
    assert sum(count_macs(shorter).values()) <= 0.8 * macs
    one_less = remove_layers(model, n=np.int64(1), ranking=ranking, verbose=False)
    assert (
        remove_layers(
            model, parameters=one_less.count_params(), ranking=ranking, verbose=False
        ).count_params()
        == one_less.count_params()
    )
    with pytest.raises(ValueError, match="cannot be met: with all 4 parts removed"):
        remove_layers(model, parameters=10, ranking=ranking, verbose=False)
    with pytest.raises(ValueError, match="cannot be met"):
        remove_layers(model, n=5, ranking=ranking, verbose=False)


def test_removal_prints_what_it_did(resnet, digits, capsys):
    model = resnet(zero_block=5)
    shorter = remove_layers(model, digits, n=1)
    printed = capsys.readouterr().out
    assert "Removed from 'resnet': b5_add" in printed
    assert f"{model.count_params():,} → {shorter.count_params():,}" in printed


def test_a_shorter_transformer_trains_saves_and_is_shorter(transformer, tmp_path):
    model = transformer()
    x = np.random.default_rng(0).integers(0, 20, (16, 6))
    shorter = remove_layers(model, x, n=3, verbose=False)
    assert shorter.count_params() < model.count_params()
    shorter.compile("sgd", "sparse_categorical_crossentropy")
    shorter.fit(x, np.zeros(16, "int32"), verbose=0)
    shorter.save(tmp_path / "shorter.keras")
    again = keras.models.load_model(tmp_path / "shorter.keras")
    np.testing.assert_allclose(np.asarray(again(x)), np.asarray(shorter(x)), atol=1e-6)


def test_blocks_within_blocks_go_once():
    inputs = keras.Input((4,), name="x")
    inner = keras.layers.Add(name="inner")(
        [inputs, keras.layers.Dense(4, kernel_initializer="zeros", name="a")(inputs)]
    )
    outer = keras.layers.Add(name="outer")([inputs, keras.layers.Dense(4, name="b")(inner)])
    model = keras.Model(inputs, keras.layers.Dense(2, name="out")(outer))
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    ranking = rank_layers(model, x)
    assert [unit.name for unit in ranking.units] == ["inner", "outer"]
    # The outer block lies around the inner one, so it is not removed after it.
    with pytest.raises(ValueError, match="with all 1 parts removed"):
        remove_layers(model, n=2, ranking=ranking, verbose=False)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ({}, "exactly one of `n`, `parameters` and `macs`. Received: none"),
        ({"n": 1, "macs": 0.5}, "exactly one"),
        ({"n": 0.5}, "`n` must be a whole number"),
        ({"macs": 1.5}, "a float in"),
        ({"n": 1}, "`data` is needed"),
    ],
)
def test_wrong_targets_are_refused(resnet, targets, said):
    with pytest.raises(ValueError, match=said):
        remove_layers(resnet(), **targets)


def test_a_quantization_aware_model_is_refused(resnet, digits):
    qat = tfc.quantize_aware(resnet(), verbose=False)
    with pytest.raises(ValueError, match="is quantization-aware"):
        remove_layers(qat, digits, n=1)
