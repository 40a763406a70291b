import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from senet.bench.rows import Ratio, Row, median_interval
from senet.bench.steps import largest
from senet.bench.timing import Effort, in_turn


class Clock:
    """Goes on when something runs, and not by itself."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def run(self, seconds, order, name):
        def run():
            self.now += seconds
            order.append(name)

        return run


def test_all_run_in_every_round_and_none_always_behind_the_same():
    clock, order = Clock(), []
    runs = {name: clock.run(seconds, order, name) for name, seconds in (("a", 1), ("b", 2), ("c", 4))}
    seconds = in_turn(runs, Effort(least=60, most=60, seconds=0, warm_up=0), clock)
    assert {name: set(times) for name, times in seconds.items()} == {"a": {1}, "b": {2}, "c": {4}}
    assert [len(times) for times in seconds.values()] == [60, 60, 60]
    assert order[:6] == ["a", "a", "b", "b", "c", "c"]  # to warm up
    rounds = ["".join(order[start : start + 3]) for start in range(6, len(order), 3)]
    assert set(rounds) == {"abc", "acb", "bac", "bca", "cab", "cba"}


@pytest.mark.parametrize(
    ("seconds", "run_s", "rounds"), [(60, 0.1, 101), (60, 1.0, 30), (60, 3.0, 21), (0, 1.0, 21), (5.3, 0.1, 26)]
)
def test_rounds_are_as_many_as_fit(seconds, run_s, rounds):
    clock, order = Clock(), []
    runs = {name: clock.run(run_s, order, name) for name in "ab"}
    found = in_turn(runs, Effort(least=21, most=101, seconds=seconds, warm_up=1), clock)
    assert len(found["a"]) == rounds


def test_short_runs_are_repeated():
    clock, order = Clock(), []
    runs = {"a": clock.run(0.004, order, "a"), "b": clock.run(0.008, order, "b")}
    found = in_turn(runs, Effort(least=3, most=3, seconds=0, warm_up=0), clock)
    assert len(order) == 4 + 3 * 5 * 2  # 5 × 4 ms are the 20 ms that a measurement takes at least
    assert found["a"] == pytest.approx([0.004] * 3)


def test_what_warms_up():
    clock, order = Clock(), []
    in_turn({"a": clock.run(0.5, order, "a")}, Effort(least=1, most=1, seconds=0, warm_up=2), clock)
    assert len(order) == 4 + 1


@pytest.mark.parametrize(("n", "k"), [(5, 0), (6, 1), (9, 2), (15, 4), (21, 6), (101, 41)])
def test_the_interval_of_a_median(n, k):
    """Ranks as in tables of the sign test at 5 %."""
    low, high = median_interval([float(i) for i in range(1, n + 1)])
    assert (low, high) == ((k, n + 1 - k) if k else (None, None))
    outside = sum(math.comb(n, i) for i in range(k)) / 2**n
    assert 2 * outside <= 0.05 < 2 * (outside + math.comb(n, k) / 2**n)


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=40))
def test_a_ratio_of_rounds(ratios):
    found = Ratio.of_rounds(ratios)
    assert min(ratios) <= found.value <= max(ratios)
    if found.low is not None:
        assert found.low <= found.value <= found.high
    assert (found.low is None) == (len(ratios) < 6)


def test_a_row_as_plain_values():
    row = Row("inference", "eager", 16, 0.25, {"ours": Ratio(1.02, 1.01, 1.03), "peer": Ratio(1.1)}, 21, 3.5, "x")
    assert Row.from_json(row.to_json()) == row
    assert str(row.ratios["ours"]) == "1.020 [1.010, 1.030]"
    assert str(row.ratios["peer"]) == "1.100"
    with pytest.raises(TypeError, match="strange"):
        Row.from_json({**row.to_json(), "strange": 1})


@given(st.integers(0, 300))
def test_the_largest_batch(limit):
    tried = []

    def fits(batch):
        tried.append(batch)
        return batch <= limit

    assert largest(fits, most=256) == min(limit, 256) // 16 * 16
    assert all(batch % 16 == 0 for batch in tried)
    assert len(tried) <= 9
