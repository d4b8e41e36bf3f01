import pytest

from tfcompress.moments import check_moment
from tfcompress.pruning.timetable import make_timetable


def updates(timetable, steps, steps_per_execution=1, start=0, last=-1):
    result = []
    for step in range(start, steps, steps_per_execution):
        if timetable.due(step, last, min(steps_per_execution, steps - step)):
            result.append(step)
            final = timetable.is_final(step, min(steps_per_execution, steps - step))
            last = max(timetable.end, timetable.last_due(step)) if final else step
    return result


def test_begin_every_frequency_and_end():
    timetable = make_timetable(10, 45, 10, epochs=5, steps_per_epoch=20)
    assert updates(timetable, 100) == [10, 20, 30, 40, 45]


def test_the_last_update_comes_before_the_last_step():
    timetable = make_timetable(0.0, 1.0, 4, epochs=1, steps_per_epoch=10)
    assert updates(timetable, 10) == [0, 4, 8, 9]
    assert timetable.is_final(9)


def test_weights_are_exchanged_after_the_end():
    timetable = make_timetable(0, 10, 4, epochs=1, steps_per_epoch=30, regrow_until=21)
    assert updates(timetable, 30) == [0, 4, 8, 10, 12, 16, 20, 21]
    assert updates(timetable, 30, start=14, last=12) == [16, 20, 21]
    with pytest.raises(ValueError, match="`regrow_until` is step 9"):
        make_timetable(0, 10, 4, epochs=1, steps_per_epoch=30, regrow_until=9)


def test_steps_per_execution():
    timetable = make_timetable(0, 20, 5, epochs=2, steps_per_epoch=12)
    assert updates(timetable, 24, steps_per_execution=8) == [0, 8, 16]
    assert timetable.is_final(16, 8)


def test_a_resumed_training_makes_the_same_updates():
    timetable = make_timetable(3, 40, 7, epochs=1, steps_per_epoch=50)
    assert updates(timetable, 50) == [3, 10, 17, 24, 31, 38, 40]
    assert updates(timetable, 50, start=20, last=17) == [24, 31, 38, 40]
    assert updates(timetable, 50, start=24, last=17) == [24, 31, 38, 40]
    assert timetable.last_due(23) == 17
    assert timetable.last_due(2) == -1
    assert timetable.last_due(99) == 40


def test_shares_of_the_training():
    timetable = make_timetable(0.25, 0.75, None, epochs=4, steps_per_epoch=100)
    assert (timetable.begin, timetable.end, timetable.total) == (100, 300, 400)
    assert timetable.progress(100) == 0.0
    assert timetable.progress(200) == 0.5
    assert timetable.progress(999) == 1.0


@pytest.mark.parametrize(
    ("steps", "frequency"), [(10, 1), (50, 1), (500, 12), (100_000, 100), (5, 1)]
)
def test_default_frequency(steps, frequency):
    timetable = make_timetable(0.0, 0.6, None, epochs=1, steps_per_epoch=steps)
    assert timetable.frequency == frequency


@pytest.mark.parametrize(
    ("begin", "end", "message"),
    [
        (0, 101, r"end after the training.*step 101.*100 steps \(5 epochs of 20\).*end=101"),
        (100, 200, r"begin after the training.*step 100.*begin=100"),
        (1.0, 1.0, "begin after the training"),
        (50, 50, r"end before it begins.*`begin` is step 50, `end` is step 50"),
        (0.7, 0.6, r"step 70, `end` is step 60.*begin=0.7, end=0.6"),
    ],
)
def test_a_schedule_that_does_not_fit(begin, end, message):
    with pytest.raises(ValueError, match=message):
        make_timetable(begin, end, None, epochs=5, steps_per_epoch=20)


def test_unknown_length():
    with pytest.raises(ValueError, match=r"whose length is unknown.*end=0.6"):
        make_timetable(0.0, 0.6, None, epochs=5, steps_per_epoch=None)
    timetable = make_timetable(0, 30, 10, epochs=None, steps_per_epoch=None)
    assert timetable.total is None
    assert updates(timetable, 100) == [0, 10, 20, 30]


def test_a_later_start():
    timetable = make_timetable(10, 50, 10, epochs=1, steps_per_epoch=100)
    assert timetable.starting_at(5) is timetable
    assert timetable.starting_at(30).progress(40) == 0.5
    with pytest.raises(ValueError, match="end at step 50, but this training of a dense model"):
        timetable.starting_at(50)


@pytest.mark.parametrize("value", [-1, -0.1, 1.5, True, "0.5", None])
def test_moments_outside_their_range(value):
    with pytest.raises(ValueError, match=f"Received: begin={value!r}"):
        check_moment("begin", value)
