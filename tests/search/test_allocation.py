"""Budgets over layers."""

import itertools

import numpy as np
import pytest

from tfcompress.search.allocation import Option, cheapest, descend


def random_options(seed, layers=6):
    random = np.random.default_rng(seed)
    return {
        f"layer{number}": [
            Option(bits, bits * size, cost / bits**2, cost)
            for bits, size, cost in zip((8, 6, 4), random.uniform(1, 9, 3), random.uniform(0, 1, 3))
        ]
        for number in range(layers)
    }


@pytest.mark.parametrize("seed", range(5))
def test_the_choice_is_the_best_of_all(seed):
    options = random_options(seed)
    choices = list(itertools.product(*options.values()))
    sizes = [sum(option.size for option in choice) for choice in choices]
    budget = float(np.quantile(sizes, 0.3))
    best = min(
        sum(option.cost for option in choice)
        for choice, size in zip(choices, sizes)
        if size <= budget
    )
    found = cheapest(options, "cost", "size", budget)
    assert list(found) == list(options)
    assert sum(option.size for option in found.values()) <= budget
    assert sum(option.cost for option in found.values()) == pytest.approx(best, rel=1e-9)


def test_savings_may_be_written_as_negative_sizes():
    options = {
        "a": [Option(8, 0.0, 0.0, 0.0), Option(4, -100.0, 0.5, 0.0)],
        "b": [Option(8, 0.0, 0.0, 0.0), Option(4, -60.0, 0.1, 0.0)],
    }
    assert {k: v.choice for k, v in cheapest(options, "cost", "size", -50.0).items()} == {
        "a": 8,
        "b": 4,
    }
    assert {k: v.choice for k, v in cheapest(options, "cost", "size", 0.0).items()} == {
        "a": 8,
        "b": 8,
    }


def test_costs_of_any_order_of_magnitude_are_told_apart():
    options = {
        name: [Option(8, 8.0, 0.0, 0.0), Option(4, 4.0, cost, 0.0)]
        for name, cost in (("a", 3e-9), ("b", 2e-9), ("c", 4e-9))
    }
    found = cheapest(options, "cost", "size", 20.0)
    assert [name for name, option in found.items() if option.choice == 4] == ["b"]


def test_a_budget_that_cannot_be_kept_says_what_can():
    with pytest.raises(ValueError, match="the least that is possible is 7"):
        cheapest({"a": [Option(4, 7.0, 0.0, 0.0)]}, "cost", "size", 6.0)
    with pytest.raises(ValueError, match="nothing to choose from for: a"):
        cheapest({"a": []}, "cost", "size", 6.0)


def test_descent_follows_the_convex_hull():
    # The step to 1 alone is dear, but the way to 2 is cheap; and costs that fall are noise.
    curves = {"bumpy": [(0, 0), (1, 5), (2, 2)], "straight": [(0, 0), (2, 4)]}
    assert descend(curves, 2) == {"bumpy": 0.0, "straight": 2.0}
    assert descend(curves, 3) == {"bumpy": 1.0, "straight": 2.0}
    curves = {"bent": [(0, 0), (1, 5), (2, 6)], "straight": [(0, 0), (2, 8)]}
    assert descend(curves, 2) == {"bent": 2.0, "straight": 0.0}
