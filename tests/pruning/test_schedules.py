import keras
import pytest

from tfcompress.pruning import ConstantSparsity, CosineDecay, PolynomialDecay, PruningSchedule
from tfcompress.pruning.configured import serialize
from tfcompress.pruning.schedules import get


@pytest.mark.parametrize(
    ("schedule", "at_begin", "in_the_middle"),
    [
        (ConstantSparsity(), 0.8, 0.8),
        (PolynomialDecay(), 0.0, 0.7),
        (PolynomialDecay(initial_sparsity=0.2), 0.2, 0.725),
        (PolynomialDecay(power=1), 0.0, 0.4),
        (CosineDecay(), 0.0, 0.4),
        (CosineDecay(initial_sparsity=0.4), 0.4, 0.6),
    ],
)
def test_values(schedule, at_begin, in_the_middle):
    assert schedule(0.0, 0.8) == pytest.approx(at_begin, abs=1e-12)
    assert schedule(0.5, 0.8) == pytest.approx(in_the_middle, abs=1e-12)
    assert schedule(1.0, 0.8) == pytest.approx(0.8, abs=1e-12)


@pytest.mark.parametrize("schedule", [PolynomialDecay(), CosineDecay(0.1)])
def test_sparsity_never_falls(schedule):
    values = [schedule(step / 100, 0.9) for step in range(101)]
    assert values == sorted(values)


@pytest.mark.parametrize(
    "schedule", [ConstantSparsity(), PolynomialDecay(0.25, power=2), CosineDecay(0.5)]
)
def test_round_trip(schedule):
    assert get(serialize(schedule)) == schedule
    assert type(schedule).from_config(schedule.get_config()) == schedule
    assert get(schedule) is schedule
    assert hash(get(serialize(schedule))) == hash(schedule)
    assert eval(repr(schedule)) == schedule


def test_names():
    assert get("constant") == ConstantSparsity()
    assert get("polynomial") == PolynomialDecay()
    assert get("cosine") == CosineDecay()
    assert get("cosine") != get("polynomial")


def test_unknown_names_and_types():
    with pytest.raises(ValueError, match=r"schedule='polynomal'. Did you mean 'polynomial'"):
        get("polynomal")
    with pytest.raises(ValueError, match="Received: schedule=3 of type int"):
        get(3)
    with pytest.raises(ValueError, match="of type dict"):
        get(keras.saving.serialize_keras_object(keras.layers.Dense(2)))


@pytest.mark.parametrize("initial", [-0.1, 1.0, "a", True])
def test_initial_sparsity_outside_its_range(initial):
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        PolynomialDecay(initial_sparsity=initial)


@pytest.mark.parametrize("power", [0, -1, float("inf"), None])
def test_power_outside_its_range(power):
    with pytest.raises(ValueError, match="`power` must be above 0"):
        PolynomialDecay(power=power)


def test_initial_sparsity_above_the_final_one():
    with pytest.raises(ValueError, match=r"initial_sparsity=0.5, sparsity=0.3"):
        CosineDecay(0.5).check(0.3)


def test_own_schedule():
    class Straight(PruningSchedule):
        def __call__(self, progress, final_sparsity):
            return progress * final_sparsity

    schedule = get(Straight())
    schedule.check(0.9)
    assert schedule(0.5, 0.8) == 0.4
