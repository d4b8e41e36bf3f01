"""Attention layers: what is computed, what the exported file computes, masks, and refusals."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfcompress as tfc
from tfcompress.quantization.calibrate import quantizers_of, wrappers_of
from tfcompress.quantization.rules.attention_masks import MASKED_DISTANCE

RNG = np.random.default_rng(0)
SAMPLES = 24
DATA = {
    "x": RNG.normal(size=(SAMPLES, 6, 8)).astype("float32"),
    "y": RNG.normal(size=(SAMPLES, 5, 8)).astype("float32"),
    "plane": RNG.normal(size=(SAMPLES, 3, 4, 8)).astype("float32"),
    "mask": RNG.random((SAMPLES, 6, 5)) > 0.4,
    "tokens": RNG.integers(1, 20, (SAMPLES, 6)).astype("int32"),
}
DATA["mask"][..., 0] = True  # something to look at in every row
DATA["tokens"][::2, 4:] = 0


def attentions():
    """Every form of attention, each an output of its own."""
    x, y = keras.Input((6, 8), name="x"), keras.Input((5, 8), name="y")
    plane = keras.Input((3, 4, 8), name="plane")
    mask = keras.Input((6, 5), dtype="bool", name="mask")
    tokens = keras.Input((6,), dtype="int32", name="tokens")
    embedded = layers.Embedding(20, 8, mask_zero=True)(tokens)
    heads = layers.MultiHeadAttention
    outputs = {
        "self": heads(2, 4, name="self")(x, x),
        "causal": heads(3, 5, dropout=0.1, name="causal")(query=x, value=x, use_causal_mask=True),
        "window": heads(2, 4, sliding_window=2, use_gate=True)(x, x),
        "grouped": layers.GroupQueryAttention(4, 4, 2)(x, x, use_causal_mask=True),
        "axes": heads(2, 4)(plane, plane),
        "columns": heads(2, 4, attention_axes=(1,))(plane, plane),
        "padded": heads(2, 4)(embedded, embedded),
        "dot": layers.Attention()([x, y]),
        "scaled": layers.Attention(use_scale=True)([x, y, layers.Dense(8)(y)]),
        "sums": layers.Attention(score_mode="concat", use_scale=True)([x, y]),
    }
    crossed = heads(2, 4, value_dim=3, output_shape=5, use_bias=False)
    outputs["cross"], outputs["cross_scores"] = crossed(
        x, y, key=y, attention_mask=mask, return_attention_scores=True
    )
    outputs["additive"], outputs["additive_scores"] = layers.AdditiveAttention()(
        [x, y], return_attention_scores=True
    )
    return keras.Model([x, y, plane, mask, tokens], outputs)


def values(model):
    """The outputs for all samples, as arrays."""
    return {name: ops.convert_to_numpy(output) for name, output in model(DATA).items()}


@pytest.fixture(scope="module")
def models():
    """The float model with biases that training would give, and its calibrated copy."""
    keras.utils.set_random_seed(0)
    model = attentions()
    for variable in model.trainable_variables:
        if variable.path.endswith("bias"):
            variable.assign(RNG.uniform(-0.5, 0.5, variable.shape))
    return model, tfc.quantize_aware(model, calibration=DATA, verbose=False)


def test_close_to_the_float_layers(models):
    model, qat = models
    expected, found = values(model), values(qat)
    for name in expected:
        error = np.abs(found[name] - expected[name]).max() / np.abs(expected[name]).max()
        assert error < 0.05, (name, error)


def test_float_arithmetic_is_that_of_the_layers(models, in_float):
    model, qat = models
    with in_float(qat):
        expected, found = model(DATA), qat(DATA)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-4, err_msg=name)


def test_saved_model_reloads_bit_exactly(models, tmp_path):
    _, qat = models
    qat.save(tmp_path / "attention.keras")
    loaded = keras.models.load_model(tmp_path / "attention.keras")
    expected, found = values(qat), values(loaded)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


def test_strip_gives_the_layers_back(models):
    model, qat = models
    plain = tfc.strip(qat)
    assert sum(isinstance(layer, layers.MultiHeadAttention) for layer in plain.layers) == 7
    assert plain.count_params() == model.count_params()


def test_every_attention_is_made_of_integer_operators(models, tmp_path, quanta):
    _, qat = models
    path = tmp_path / "attention.tflite"
    artifact = tfc.export(qat, path, io="float32", calibration=DATA, tolerance=np.inf)
    assert artifact.float_islands == []
    assert artifact.plan_skipped == []
    for name, off in quanta(artifact, DATA, values(qat)).items():
        # Without projections, the ranges of the factors are those of other layers.
        whole = name in ("additive", "dot", "scaled", "sums")
        assert off.max() < (3.01 if whole else 1.01), (name, off.max())
        assert np.mean(off > 0.5) < (0.03 if whole else 0.002), (name, np.mean(off > 0.5))


def test_masked_places_get_no_weight(models):
    _, qat = models
    scores = values(qat)["cross_scores"]
    assert np.all(scores[~np.broadcast_to(DATA["mask"][:, None], scores.shape)] == 0)


def test_a_mask_leaves_most_codes_to_the_scores(models):
    _, qat = models
    inner = {w.name: w.inner["scores"].range for w in wrappers_of(qat) if "scores" in w.inner}
    unmasked, causal = inner["self"], inner["causal"]
    assert causal[1] - causal[0] < unmasked[1] - unmasked[0] + 2 * MASKED_DISTANCE


def test_training_moves_every_weight_and_the_ranges():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6, 8))
    x = layers.MultiHeadAttention(2, 4, dropout=0.1)(inputs, inputs, use_causal_mask=True)
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(layers.Flatten()(x)))
    qat = tfc.quantize_aware(model, verbose=False)
    before = [ops.convert_to_numpy(v).copy() for v in qat.trainable_variables]
    qat.compile("adam", "sparse_categorical_crossentropy")
    qat.fit(DATA["x"], np.arange(SAMPLES) % 3, batch_size=8, verbose=0)
    for then, variable in zip(before, qat.trainable_variables, strict=True):
        # Adding the same to all keys of a query changes no softmax, up to rounding.
        if not variable.path.endswith("key/bias"):
            assert np.any(ops.convert_to_numpy(variable) != then), variable.path
    assert all(quantizer.range is not None for quantizer in quantizers_of(qat))


class Biased(layers.MultiHeadAttention):
    """Some other attention."""


def sequence_model(length):
    """A decoder block and pooling by attention, over tokens of some length, of which 0 is none."""
    keras.utils.set_random_seed(2)
    tokens = keras.Input((length,), dtype="int32", name="tokens")
    x = layers.Embedding(20, 8, mask_zero=True, name="embedding")(tokens)
    attention = layers.GroupQueryAttention(4, 4, 2, name="attention")
    x = layers.LayerNormalization(name="norm")(x + attention(x, x, use_causal_mask=True))
    x = x + layers.MultiHeadAttention(2, 4, sliding_window=2, name="near")(x, x)
    y = layers.EinsumDense("abc,cd->abd", (length, 8), "relu", bias_axes="d", name="einsum")(
        layers.Embedding(20, 8, name="unmasked")(tokens)
    )
    x = layers.RMSNormalization(name="rms")(x + y)
    x = layers.AdditiveAttention(name="additive")([x, x])
    return keras.Model(tokens, layers.Dense(3, name="out")(layers.UnitNormalization()(x)))


def test_open_lengths_are_quantized_like_fixed_ones(tmp_path):
    tokens = DATA["tokens"]
    fixed, opened = (sequence_model(length) for length in (6, None))
    opened.set_weights(fixed.get_weights())
    assert [row.tensor for row in tfc.plan(opened, "int8").left_out] == ["tokens"]
    models = [tfc.quantize_aware(m, calibration=tokens, verbose=False) for m in (fixed, opened)]
    for model in models:
        model.compile("sgd", "mse")
        model.fit(tokens, np.ones((SAMPLES, 6, 3)), batch_size=8, shuffle=False, verbose=0)
    outputs = [ops.convert_to_numpy(model(tokens)) for model in models]
    np.testing.assert_allclose(outputs[1], outputs[0], atol=1e-5)
    # Other lengths than the calibration's, too.
    assert models[1](tokens[:, :4]).shape == (SAMPLES, 4, 3)
    artifact = tfc.export(models[1], tmp_path / "open.tflite", calibration=tokens)
    assert artifact.float_islands == []
    assert artifact.fidelity.max_quanta <= 3


@pytest.mark.parametrize("case", ["float mask", "mask over axes", "subclass"])
def test_what_has_no_integer_form_is_named(case, capsys):
    x, plane = keras.Input((6, 8)), keras.Input((3, 4, 8))
    attention = layers.MultiHeadAttention(2, 4, name="attention")
    if case == "float mask":
        mask = keras.Input((6, 6))
        model = keras.Model([x, mask], attention(x, x, attention_mask=mask))
        reason = "its attention_mask is float32"
    elif case == "mask over axes":
        mask = keras.Input((3, 4, 3, 4), dtype="bool")
        model = keras.Model([plane, mask], attention(plane, plane, attention_mask=mask))
        reason = "masks have an integer form for attention over one axis"
    else:
        model = keras.Model(x, Biased(2, 4, name="attention")(x, x))
        reason = "Biased is a subclass"
    tfc.quantize_aware(model)
    assert reason in capsys.readouterr().out
