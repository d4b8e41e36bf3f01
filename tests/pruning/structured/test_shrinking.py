"""Goals, criteria, and what the smaller model is."""

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress as tfc
from tfcompress.graph.macs import count_macs
from tfcompress.pruning import attach_state, find_state, prunable_weights
from tfcompress.pruning.structured import find_shrinkage


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    x = image = keras.Input((8, 8, 1))
    for width in (16, 32, 48):
        x = layers.Conv2D(width, 3, padding="same", name=f"conv{width}")(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Dense(10, name="head")(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(image, x, name="net")
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def macs(model):
    return sum(count_macs(model).values())


@pytest.mark.parametrize("share", [0.5, 0.25])
def test_goals_are_met_within_two_percent(model, share):
    small = tfc.shrink(model, macs=share, round_to=1, verbose=False)
    assert 0.98 <= macs(small) / (share * macs(model)) <= 1
    small = tfc.shrink(model, parameters=share, round_to=1, verbose=False)
    assert 0.98 <= small.count_params() / (share * model.count_params()) <= 1
    small = tfc.shrink(model, parameters=5000, round_to=1, verbose=False)
    assert 4900 <= small.count_params() <= 5000
    small = tfc.shrink(model, bytes=20_000, round_to=1, verbose=False)
    assert 19_600 <= 4 * small.count_params() <= 20_000
    small = tfc.shrink(model, sparsity=share, round_to=1, verbose=False)
    shrinkage = find_shrinkage(small)
    assert shrinkage.after.channels == round(96 * (1 - share))


def test_rounding(model):
    small = tfc.shrink(model, macs=0.3, verbose=False)
    widths = [small.get_layer(f"conv{width}").filters for width in (16, 32, 48)]
    assert all(width % 8 == 0 for width in widths)
    assert macs(small) <= 0.3 * macs(model)


def test_what_was_reached_is_printed(model, capsys):
    small = tfc.shrink(model, macs=0.5)
    printed = capsys.readouterr().out
    shrinkage = find_shrinkage(small)
    assert printed.strip() == str(shrinkage)
    assert f"{shrinkage.after.macs:,}" in printed
    assert find_shrinkage(model) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"macs": 0.5, "parameters": 0.5}, "Give one of"),
        ({"macs": 0.0}, "Received: macs=0.0"),
        ({"macs": 1.5}, "Received: macs=1.5"),
        ({"sparsity": 1.0}, "Received: sparsity=1.0"),
        ({"macs": 0.5, "round_to": 0}, "Received: round_to=0"),
        ({"macs": 0.5, "criterion": "batch_norm_scale"}, "Did you mean 'batchnorm_scale'"),
        ({"macs": 0.5, "criterion": "apoz"}, "pass some as `data`"),
        ({"parameters": 10}, r"cannot be met: .* 10 channels of 'head': output 'head'"),
    ],
)
def test_bad_arguments(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        tfc.shrink(model, **arguments)


def test_criteria_find_the_channels_that_matter(model, digits):
    """Half of the channels is scaled down where each criterion looks."""
    x, y = digits.test
    kept = np.arange(0, 32, 2)
    normalization = model.layers[model.layers.index(model.get_layer("conv32")) + 1]
    dense = model.get_weights()
    scale = np.full(32, 1e-3, "float32")
    scale[kept] = 1.0
    normalization.gamma.assign(scale)
    for layer in ("conv32", "conv48"):
        kernel = model.get_layer(layer).kernel
        shape = (1, 1, 1, 32) if layer == "conv32" else (1, 1, 32, 1)
        kernel.assign(keras.ops.convert_to_numpy(kernel) * scale.reshape(shape))
    data = {"taylor": (x[:32], y[:32]), "apoz": None, "mean_activation": x[:32]}
    for criterion in ("l1", "l2", "batchnorm_scale", "mean_activation", "taylor"):
        small = tfc.shrink(
            model,
            sparsity=0.5,
            criterion=criterion,
            include="conv32",
            data=data.get(criterion),
            round_to=1,
            verbose=False,
        )
        values = keras.ops.convert_to_numpy(
            small.layers[small.layers.index(small.get_layer("conv32")) + 1].gamma
        )
        np.testing.assert_array_equal(values, np.ones(16), err_msg=criterion)
    # Always zero behind the ReLU: these have the highest percentage of zeros.
    offset = np.full(32, -10.0, "float32")
    offset[kept] = 10.0
    normalization.beta.assign(offset)
    small = tfc.shrink(
        model,
        sparsity=0.5,
        criterion="apoz",
        include="conv32",
        data=x[:32],
        round_to=1,
        verbose=False,
    )
    behind = small.layers[small.layers.index(small.get_layer("conv32")) + 1]
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(behind.beta), np.full(16, 10.0))
    model.set_weights(dense)


@pytest.mark.parametrize("with_labels", ["none", "generator"])
def test_taylor_says_that_it_needs_labels(model, digits, with_labels):
    model.compile(loss="sparse_categorical_crossentropy")
    x = digits.train.x[:32]
    data = x if with_labels == "none" else (x[i : i + 8] for i in range(0, 32, 8))
    with pytest.raises(ValueError, match=r"needs labels: pass `data=\(x, y\)`.*Received: ndarray"):
        tfc.shrink(model, macs=0.5, criterion="taylor", data=data, verbose=False)


def test_random_scores_repeat(model):
    weights = [
        tfc.shrink(model, macs=0.5, criterion="random", verbose=False).get_weights()
        for _ in range(2)
    ]
    for first, second in zip(*weights, strict=True):
        np.testing.assert_array_equal(first, second)


def test_the_result_is_an_ordinary_model(model, digits, tmp_path):
    x, y = digits.train
    small = tfc.shrink(model, macs=0.5, verbose=False)
    assert type(small) is type(model)
    assert small.name == "net"
    assert [layer.name for layer in small.layers][1:] == [layer.name for layer in model.layers][1:]
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(small.predict(x[:8], verbose=0), loaded.predict(x[:8], verbose=0))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    loaded.compile(keras.optimizers.Adam(0.01), loss)
    history = loaded.fit(x[:256], y[:256], epochs=2, verbose=0).history["loss"]
    assert history[1] < history[0]
    qat = tfc.quantize_aware(loaded, "int8", calibration=x[:16], verbose=False)
    assert np.isfinite(qat.predict(x[:8], verbose=0)).all()


def test_without_a_goal_nothing_goes_from_a_dense_model(model):
    small = tfc.shrink(model, verbose=False)
    assert small.count_params() == model.count_params()


def test_frozen_layers_and_masks_of_single_weights_stay(model):
    model.get_layer("conv32").trainable = False
    targets, _ = prunable_weights(model, include="conv48")
    (mask,) = attach_state(model, targets).masks
    pruned = np.random.default_rng(0).uniform(size=mask.variable.shape) < 0.5
    mask.assign(~pruned)
    mask.apply()
    small = tfc.shrink(model, macs=0.5, verbose=False)
    assert not small.get_layer("conv32").trainable
    assert small.get_layer("conv48").trainable
    found = {m.name: m for m in find_state(small).masks}["conv48/kernel"]
    kernel = keras.ops.convert_to_numpy(small.get_layer("conv48").kernel)
    assert found.pruned == np.count_nonzero(kernel == 0) > 0
    model.get_layer("conv32").trainable = True


def test_figures_of_a_model_of_half_precision():
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(8, dtype="float16"), layers.Dense(2, dtype="float32")]
    )
    small = tfc.shrink(model, sparsity=0.5, round_to=1, verbose=False)
    assert find_shrinkage(small).before.bytes == 2 * (4 * 8 + 8) + 4 * (8 * 2 + 2)
    assert find_shrinkage(small).after.bytes == 2 * (4 * 4 + 4) + 4 * (4 * 2 + 2)
