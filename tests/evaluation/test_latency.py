from tfcompress.evaluation.latency import WARM_UP, interleaved, median_and_p95


def test_calls_take_turns():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in ("a", "b")}
    samples = interleaved(calls, rounds=3, burst=2)
    assert order[: 2 * WARM_UP] == ["a"] * WARM_UP + ["b"] * WARM_UP
    # A turn is one uncounted call and a burst of two.
    assert order[2 * WARM_UP :] == (["a"] * 3 + ["b"] * 3) * 3
    assert {name: len(values) for name, values in samples.items()} == {"a": 6, "b": 6}
    assert all(value >= 0 for values in samples.values() for value in values)


def test_no_time_still_gives_one_sample_a_round():
    samples = interleaved({"a": lambda: None}, rounds=4, seconds=0.0)
    assert len(samples["a"]) == 4


def test_progress_is_told():
    told = []
    interleaved({"a": lambda: None}, rounds=2, advance=lambda *step: told.append(step))
    assert told == [("a", 1), ("a", 1)]


def test_median_and_p95():
    assert median_and_p95(tuple(range(101))) == (50.0, 95.0)
