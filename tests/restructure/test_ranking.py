"""How parts are ranked."""

import numpy as np
import pytest

from tfcompress.restructure import rank_layers


def test_a_block_that_does_nothing_ranks_first_with_no_importance(resnet, digits):
    model = resnet(zero_block=4)
    ranking = rank_layers(model, digits, samples=64)
    assert ranking.units[0].name == "b4_add"
    assert ranking.units[0].importance == pytest.approx(0, abs=1e-6)
    assert all(unit.importance > 1e-3 for unit in ranking.units[1:])
    assert ranking.samples == 64


def test_cosine_is_that_of_input_and_output(resnet, digits):
    import keras

    model = resnet()
    x = digits.train.x[:40]
    middle = keras.Model(
        model.input, [model.get_layer("b1_relu").output, model.get_layer("b2_add").output]
    )
    source, target = (np.reshape(v, (40, -1)) for v in np.asarray(middle(x)))
    cosine = (source * target).sum(1) / np.linalg.norm(source, axis=1)
    cosine /= np.linalg.norm(target, axis=1)
    ranking = rank_layers(model, x, batch_size=16)
    found = {unit.name: unit.importance for unit in ranking.units}
    assert found["b2_add"] == pytest.approx(1 - cosine.mean(), abs=1e-5)


def test_accuracy_lost_is_that_of_the_network_without_the_part(resnet, digits):
    from tfcompress.restructure import remove_layers

    model = resnet()
    x, y = digits.train.x[:64], digits.train.y[:64]
    ranking = rank_layers(model, (x, y), "accuracy", batch_size=32)
    assert ranking.metric == "accuracy lost without it"
    accuracy = (np.asarray(model(x)).argmax(1) == y).mean()
    for unit in (ranking.units[0], ranking.units[-1]):
        others = [other.name for other in ranking.units if other.name != unit.name]
        shorter = remove_layers(model, n=1, ranking=ranking, exclude=others, verbose=False)
        without = (np.asarray(shorter(x)).argmax(1) == y).mean()
        assert unit.importance == pytest.approx(accuracy - without, abs=1e-6)


def test_tokens_are_vectors_of_their_own(transformer):
    x = np.random.default_rng(0).integers(0, 20, (16, 6))
    ranking = rank_layers(transformer(), x)
    assert len(ranking.units) == 6
    assert all(-1e-6 <= unit.importance <= 2 for unit in ranking.units)


def test_a_ranking_prints_as_a_table_of_80_columns(resnet, digits):
    ranking = rank_layers(resnet(), digits, samples=32)
    assert max(map(len, str(ranking).splitlines())) <= 80
    assert list(ranking.to_frame()["name"]) == [unit.name for unit in ranking.units]
    assert "<table" in ranking._repr_html_()


def test_an_unknown_criterion_is_refused(resnet, digits):
    with pytest.raises(ValueError, match=r"'cosine', 'accuracy'\. Received: 'bi'"):
        rank_layers(resnet(), digits, "bi")
