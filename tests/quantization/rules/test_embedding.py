"""Embeddings: tables, their ranges, projections back, and a small transformer."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfcompress as tfc
from tfcompress.export.inspection import inspect_file
from tfcompress.quantization.calibrate import quantizers_of, wrappers_of

RNG = np.random.default_rng(0)
TOKENS = RNG.integers(1, 20, (24, 6)).astype("int32")
TOKENS[::2, 4:] = 0


def embeddings():
    """Every use of a table, each an output of its own, and a small transformer."""
    tokens = keras.Input((6,), dtype="int32", name="tokens")

    def wide(*args, kind=layers.Embedding, **kwargs):
        # A new one each time: the converter makes one table of equal ones.
        initializer = keras.initializers.RandomNormal(stddev=0.7)
        return kind(20, *args, embeddings_initializer=initializer, **kwargs)

    reversible = layers.ReversibleEmbedding
    tied = wide(8, kind=reversible, logit_soft_cap=1.0)
    untied = wide(8, kind=reversible, tie_weights=False)
    table = RNG.normal(size=(20, 4)).astype("float32")
    outputs = {
        "embedding": wide(8, name="table")(tokens),
        "dense": layers.Dense(4)(wide(8)(tokens)),
        "tied": tied(layers.Dense(8)(tied(tokens)), reverse=True),
        "untied": untied(layers.Dense(8)(untied(tokens)), reverse=True),
        "concatenated": layers.Concatenate()([wide(3)(tokens), wide(5)(tokens)]),
        "constant": ops.take(table, tokens, axis=0),
        "taken": ops.take(wide(5)(tokens), np.array([0, 2]), axis=1),
    }
    x = wide(16)(tokens)
    positions = ops.maximum(tokens * 0, np.arange(6, dtype="int32"))
    x = layers.Add()([x, layers.Embedding(6, 16)(positions)])
    for _ in range(2):
        attended = layers.MultiHeadAttention(2, 8, dropout=0.1)(x, x, use_causal_mask=True)
        x = layers.Add()([x, attended])
        x = layers.Add()([x, layers.Dense(16)(layers.Dense(32, activation="gelu")(x))])
    outputs["transformer"] = layers.Dense(3)(layers.Flatten()(x))
    return keras.Model(tokens, outputs)


def values(model):
    """The outputs for all samples, as arrays."""
    return {name: ops.convert_to_numpy(output) for name, output in model(TOKENS).items()}


@pytest.fixture(scope="module")
def exported(converted):
    keras.utils.set_random_seed(0)
    model = embeddings()
    return model, *converted(model, TOKENS)


def test_every_table_is_read_by_integer_operators(exported):
    _, _, artifact = exported
    assert artifact.float_islands == []
    assert artifact.plan_skipped == []


def test_a_table_costs_one_operator_and_no_requantization(exported):
    _, _, artifact = exported
    operators = inspect_file(artifact.path).ops
    assert operators["GATHER"] >= 9
    assert "QUANTIZE" not in operators
    # Those that `keras.ops.take` of a constant needs for negative indices.
    assert operators["SELECT"] == operators["LESS"] == 1


def test_within_quanta_of_the_model(exported, quanta):
    _, qat, artifact = exported
    bars = {"transformer": 4, "tied": 2, "untied": 2, "dense": 1}
    for name, off in quanta(artifact, TOKENS, values(qat)).items():
        assert off.max() < bars.get(name, 0) + 0.01, (name, off.max())


def test_close_to_the_float_model(exported):
    model, qat, _ = exported
    expected, found = values(model), values(qat)
    for name in expected:
        error = np.abs(found[name] - expected[name]).max() / np.abs(expected[name]).max()
        # The soft cap is steep where these logits lie.
        assert error < (0.1 if name == "tied" else 0.05), (name, error)


def test_a_table_needs_no_quantizer_behind_it(exported):
    _, qat, _ = exported
    assert not [q.name for q in quantizers_of(qat) if q.name.startswith("table")]
    table = next(w for w in wrappers_of(qat) if w.name == "table").baked_kernels()[0]
    codes = table / (np.abs(table).max() / 127)
    np.testing.assert_allclose(codes, np.round(codes), atol=1e-3)


def test_saved_model_reloads_bit_exactly(exported, tmp_path):
    _, qat, _ = exported
    qat.save(tmp_path / "embeddings.keras")
    loaded = keras.models.load_model(tmp_path / "embeddings.keras")
    expected, found = values(qat), values(loaded)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


def test_zeros_of_a_pruned_table_are_kept():
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((6,), dtype="int32"), layers.Embedding(20, 8)])
    table = ops.convert_to_numpy(model.layers[0].embeddings).copy()
    table[np.abs(table) < np.median(np.abs(table))] = 0
    model.layers[0].embeddings.assign(table)
    qat = tfc.quantize_aware(model, verbose=False)
    qat.compile("adam", "mse")
    qat.fit(TOKENS, np.ones((len(TOKENS), 6, 8)), verbose=0)
    stripped = ops.convert_to_numpy(tfc.strip(qat).layers[-1].embeddings)
    assert np.all(stripped[table == 0] == 0)
    assert np.any(stripped != table)


def test_indices_in_float_are_refused_by_name(capsys):
    inputs = keras.Input((6,))
    tfc.quantize_aware(keras.Model(inputs, layers.Dense(2)(layers.Embedding(20, 8)(inputs))))
    assert 'make the model\'s input with `dtype="int32"`' in capsys.readouterr().out
