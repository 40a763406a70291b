"""What scores of any unit may say: the verdict's words, its false claims, and how many seeds would do."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_1samp, ttest_rel

from senet.study.judging.verdict import Measure, detectable, fixed, judged, number, places, seeds_needed
from senet.study.statistics import bootstrap_over_examples, bootstrap_over_images

ERROR = Measure("error", "", higher_is_better=False)
MAP = Measure("mAP50-95", "points")


MOVES = (0, 0.05, -0.05, 0.02, -0.02)


def test_an_error_of_11_that_becomes_9_9_is_better_by_1_1():
    plain = [11.0, 11.1, 10.9, 11.05, 10.95]
    found = judged(plain, [value - 1.1 + move for value, move in zip(plain, MOVES, strict=True)], ERROR)
    assert found.shown
    assert found.text.startswith("SE is better by 1.1 (10 %) in error: 98 % interval 1")
    assert found.text.endswith("over 5 seeds.")
    percent = judged(plain, [value - 1.1 for value in plain], Measure("error", "%", higher_is_better=False))
    assert "by 1.1 % (10 % of plain)" in percent.text
    worse = judged(plain, [value + 1.1 + move for value, move in zip(plain, MOVES, strict=True)], ERROR)
    assert worse.text.startswith("SE is worse by 1.1 (10 %) in error")
    assert worse.difference.mean == pytest.approx(1.1)  # SE − plain as it is


@pytest.mark.parametrize("scale", [1e-14, 1e-6, 1.0, 1e9])
@pytest.mark.parametrize("higher", [True, False])
def test_the_verdict_does_not_depend_on_the_unit(scale, higher):
    plain, se = [41.3, 40.9, 41.8], [42.6, 42.1, 43.2]
    found = judged([scale * x for x in plain], [scale * x for x in se], Measure("s", "", higher))
    assert found.shown
    assert f"{'better' if higher else 'worse'} by " in found.text
    assert "(3.1 %)" in found.text
    assert "points" not in found.text


def test_the_interval_is_scipys():
    rng = np.random.default_rng(1)
    plain, se = rng.normal(30, 1, 6), rng.normal(30.4, 1, 6)
    found = judged(plain, se, MAP).difference
    interval = ttest_rel(se, plain).confidence_interval(0.98)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_no_difference_says_why_and_how_many_seeds_would_show_one():
    found = judged([30.0, 31.0, 29.0, 30.5], [30.6, 30.4, 30.1, 30.7], MAP)
    assert not found.shown
    assert found.text.startswith(
        "No difference in mAP50-95 is shown: SE is better by 0.33 points (1.1 %), but the 98 %"
    )
    assert "contains zero" in found.text
    assert "With this spread, 4 seeds would show a difference of " in found.power
    assert judged([30.0], [31.0], MAP).text.endswith("one seed has no interval (SE is better by 1 points (3.3 %)).")


def test_scores_that_are_equal_in_all_plain_seeds_are_asked_about():
    found = judged([30.0] * 4, [31.0, 31.1, 31.2, 31.1], MAP)
    assert not found.shown
    assert found.notes == ("The plain scores are equal in all 4 seeds: does your training use cell.seed?",)
    assert "as if each were the same training" in found.text


def _each(rng, mean, count=400):
    return {f"e{index}": value for index, value in enumerate(rng.normal(mean, 1.0, count))}


def _means(rows):
    return [float(np.mean(list(row.values()))) for row in rows]


def test_the_scores_of_examples_are_used_where_their_mean_is_the_score():
    rng = np.random.default_rng(0)
    plain, se = [_each(rng, 10) for _ in range(3)], [_each(rng, 11) for _ in range(3)]
    found = judged(_means(plain), _means(se), Measure(), each=(plain, se))
    assert found.examples.images == 400
    assert (found.shown, found.notes) == (True, ())
    assert "over 3 seeds; " in found.text
    assert found.text.endswith(" over 400 examples.")
    other = judged([x + 1 for x in _means(plain)], _means(se), Measure(), each=(plain, se))
    assert other.examples is None
    assert "are not used: their mean (" in other.notes[0]
    fewer = [{**row} for row in se]
    del fewer[1]["e7"]
    assert "scored on different examples" in judged(_means(plain), _means(se), Measure(), each=(plain, fewer)).notes[0]
    some = judged(_means(plain), _means(se), Measure(), each=(plain, [None, *se[1:]]))
    assert "some trainings gave none" in some.notes[0]


def test_the_bootstrap_over_examples_is_that_over_images():
    rng = np.random.default_rng(0)
    plain, se = rng.random((3, 500)) < 0.8, rng.random((3, 500)) < 0.84
    one, other = bootstrap_over_examples(plain, se), bootstrap_over_images(plain, se)
    assert one.mean == pytest.approx(other.mean)
    assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=0.001)


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_false_claims_stay_under_5_percent_of_200_runs_of_plain_against_plain(seeds):
    """Four kinds of scores; each run is also looked at again with twice the seeds, as people do."""
    rng = np.random.default_rng(seeds)
    draws = {
        "normal": lambda n: rng.normal(40, 1, n),
        "heavy tails": lambda n: 40 + rng.standard_t(3, n),
        "skewed": lambda n: rng.gamma(2.0, 1.0, n),
        "accuracy of 300 images": lambda n: rng.binomial(300, 0.9, n) / 300,
    }
    for kind, draw in draws.items():
        claims = again = 0
        for _ in range(200):
            plain, second = draw(2 * seeds), draw(2 * seeds)
            first = judged(plain[:seeds], second[:seeds], Measure()).shown
            claims += first
            again += first or judged(plain, second, Measure()).shown
        assert claims < 10, kind
        assert again <= 10, kind


def test_how_many_seeds_would_do_is_what_simulation_says():
    rng = np.random.default_rng(0)
    for seeds in (3, 5, 12):
        least = detectable(seeds, 2.0)
        found = ttest_1samp(rng.normal(least, 2.0, (4000, seeds)), 0, axis=1).pvalue < 0.02
        assert found.mean() == pytest.approx(0.8, abs=0.03)
        assert seeds_needed(least * 1.001, 2.0) == seeds
    assert seeds_needed(0.0001, 2.0) is None
    assert seeds_needed(1e6, 1e-3) == 2


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.1, "1.1"), (0.0, "0"), (-0.0123, "−0.012"), (110.0, "110"), (1234.0, "1200"), (3e-9, "3e−09")],
)
def test_a_number_shows_two_digits(value, text):
    assert number(value, places(value)) == text


@pytest.mark.parametrize(
    ("value", "digits", "text"), [(0.09, 3, "0.090"), (-0.0001, 3, "0.000"), (-1.25, 1, "−1.2"), (1234.0, -2, "1200")]
)
def test_a_column_shows_all_its_places(value, digits, text):
    assert fixed(value, digits) == text
