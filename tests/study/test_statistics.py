import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from senet.study.statistics import (
    Bootstrap,
    Difference,
    bootstrap_over_images,
    differs,
    holm,
    mcnemar,
    paired_difference,
    points,
    rejected,
    to_json,
    verdict,
)

fractions = st.floats(0, 1)
pairs = st.lists(st.tuples(fractions, fractions), min_size=2, max_size=8)


def _difference(low, high, count=3):
    mean = None if low is None else (low + high) / 2
    return Difference((0.01,) * count, 0.01 if mean is None else mean, 0.001, low, high)


def _bootstrap(low, high):
    return Bootstrap((low + high) / 2, low, high, 500, 10_000)


@given(pairs)
def test_the_interval_is_that_of_a_paired_t_test(given_pairs):
    plain, se = (np.array(values) for values in zip(*given_pairs, strict=True))
    found = paired_difference(plain, se)
    assert found.mean == pytest.approx(np.mean(se - plain), abs=1e-12)
    assert found.sd == pytest.approx(np.std(se - plain, ddof=1), abs=1e-12)
    if found.low is None:
        assert found.sd == 0
        return
    expected = stats.ttest_rel(se, plain).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-6, abs=1e-9)


@given(pairs)
def test_swapping_the_networks_turns_the_interval_round(given_pairs):
    plain, se = zip(*given_pairs, strict=True)
    one, other = paired_difference(plain, se), paired_difference(se, plain)
    assert one.mean == pytest.approx(-other.mean)
    assert (one.low is None) == (other.low is None)
    if one.low is not None and other.high is not None:
        assert one.low == pytest.approx(-other.high, rel=1e-9, abs=1e-12)
    assert one.contains_zero == other.contains_zero


def test_one_seed_or_no_spread_has_no_interval():
    one = paired_difference([0.5], [0.9])
    assert (one.values, one.sd, one.low, one.high, one.contains_zero) == ((0.4,), None, None, None, None)
    none = paired_difference([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])  # 0.3 but for rounding
    assert (none.sd, none.low, none.high) == (0.0, None, None)
    assert none.mean == pytest.approx(0.3)


@pytest.mark.parametrize(("plain", "se"), [([], []), ([0.5], [0.5, 0.6]), ([math.nan], [0.5]), ([0.5], [math.inf])])
def test_what_cannot_be_compared_is_refused(plain, se):
    with pytest.raises(ValueError, match="accuracies"):
        paired_difference(plain, se)


def test_the_bootstrap_agrees_with_scipy():
    random = np.random.default_rng(0)
    plain = random.random((3, 300)) < 0.8
    se = random.random((3, 300)) < 0.86
    found = bootstrap_over_images(plain, se)
    difference = se.mean(0) - plain.mean(0)
    expected = stats.bootstrap((difference,), np.mean, n_resamples=10_000, method="percentile", rng=1)
    assert found.mean == pytest.approx(difference.mean())
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval), abs=0.004)
    assert (found.images, found.resamples) == (300, 10_000)
    assert bootstrap_over_images(plain, se) == found
    assert bootstrap_over_images(plain, se, seed=1) != found


@given(
    st.integers(1, 3).flatmap(
        lambda seeds: st.lists(st.tuples(*[st.tuples(st.booleans(), st.booleans())] * seeds), min_size=1, max_size=30)
    )
)
def test_the_bootstrap_lies_within_what_images_differ_by(images):
    right = np.array(images).transpose(2, 1, 0)
    found = bootstrap_over_images(right[0], right[1], resamples=200)
    difference = right[1].mean(0) - right[0].mean(0)
    assert difference.min() - 1e-12 <= found.low <= found.high <= difference.max() + 1e-12
    assert found.mean == pytest.approx(difference.mean(), abs=1e-12)
    other = bootstrap_over_images(right[0], right[0], resamples=200)
    assert (other.mean, other.low, other.high) == (0, 0, 0)


@pytest.mark.parametrize(
    ("plain", "se"), [([[1, 0]], [[1, 0, 1]]), ([1, 0], [1, 0]), ([[]], [[]]), ([[1], [0]], [[1]])]
)
def test_the_bootstrap_refuses_what_is_not_paired(plain, se):
    with pytest.raises(ValueError, match=r"both are \(seeds, images\)"):
        bootstrap_over_images(plain, se)


@pytest.mark.parametrize(
    ("seeds", "images", "words"),
    [
        (paired_difference([0.8], [0.9]), _bootstrap(0.05, 0.15), "one seed has no interval (SE − plain = +10.00"),
        (
            paired_difference([0.8, 0.7], [0.9, 0.8]),
            None,
            "2 seeds without spread have no interval (SE − plain = +10.00 points)",
        ),
        (
            paired_difference([0.8, 0.7], [0.9, 0.8]),
            _bootstrap(-0.05, 0.25),
            "(the same in each of 2 seeds), but the interval over 500 images, −5.00 to +25.00, contains zero",
        ),
        (_difference(-0.01, 0.03), _bootstrap(0.005, 0.02), "−1.00 to +3.00 over 3 seeds, contains zero"),
        (_difference(0.0, 0.02), _bootstrap(0.005, 0.02), "0.00 to +2.00 over 3 seeds, contains zero"),
        (_difference(0.01, 0.02), _bootstrap(-0.005, 0.03), "500 images, −0.50 to +3.00, contains zero"),
    ],
)  # fmt: skip
def test_no_difference_is_shown_where_an_interval_is_missing_or_contains_zero(seeds, images, words):
    said = verdict(seeds, images)
    assert said.startswith("There is no difference shown: ")
    assert words in said
    assert "better" not in said
    assert "worse" not in said


@pytest.mark.parametrize(
    ("seeds", "images", "expected"),
    [
        (
            _difference(0.01, 0.02),
            _bootstrap(0.005, 0.025),
            "SE is better by 1.50 points (95 % interval +1.00 to +2.00 over 3 seeds; "
            "+0.50 to +2.50 over 500 images).",
        ),
        (
            _difference(-0.02, -0.01, count=5),
            None,
            "SE is worse by 1.50 points (95 % interval −2.00 to −1.00 over 5 seeds).",
        ),
        (
            paired_difference([0.5, 0.5, 0.5], [1.0, 1.0, 1.0]),
            _bootstrap(0.45, 0.55),
            "SE is better by 50.00 points (the same in each of 3 seeds; "
            "95 % interval +45.00 to +55.00 over 500 images).",
        ),
    ],
)  # fmt: skip
def test_a_difference_is_stated_with_its_intervals(seeds, images, expected):
    assert verdict(seeds, images) == expected


ends = st.floats(-1, 1).filter(lambda x: abs(x) > 1e-9) | st.just(0.0)


@given(st.tuples(ends, ends), st.tuples(ends, ends), st.integers(2, 9))
def test_the_verdict_is_never_bolder_than_its_intervals(over_seeds, over_images, count):
    seeds, images = _difference(*sorted(over_seeds), count=count), _bootstrap(*sorted(over_images))
    said = verdict(seeds, images)
    if seeds.contains_zero or images.contains_zero:
        assert said.startswith("There is no difference shown")
        assert "better" not in said
    else:
        assert ("better" in said) == (seeds.mean > 0)
        assert ("worse" in said) == (seeds.mean < 0)


@pytest.mark.parametrize(
    ("fraction", "text"), [(0.012, "+1.20"), (-0.012, "−1.20"), (0.0, "0.00"), (-0.00001, "0.00"), (1.0, "+100.00")]
)
def test_points(fraction, text):
    assert points(fraction) == text


def test_plain_values_say_null_where_there_is_no_interval():
    written = json.loads(json.dumps(to_json(paired_difference([0.5], [0.75]), _bootstrap(-0.1, 0.1))))
    assert (written["mean"], written["low"], written["high"], written["sd"]) == (0.25, None, None, None)
    assert written["per_seed"] == [0.25]
    assert written["images"] == dataclasses.asdict(_bootstrap(-0.1, 0.1))


def test_equal_differences_in_every_seed_are_shown_by_the_images():
    plain = np.tile(np.arange(500) % 2 == 0, (2, 1))
    found = paired_difference([0.5, 0.5], [1.0, 1.0])
    over_images = bootstrap_over_images(plain, np.ones_like(plain))
    assert differs(found, over_images)
    assert verdict(found, over_images).startswith("SE is better by 50.00 points (the same in each of 2 seeds; ")
    assert not differs(found, bootstrap_over_images(plain, plain))
    assert not differs(found)
    assert not differs(paired_difference([0.5], [1.0]), over_images)  # one seed shows nothing


def test_holm_agrees_with_the_textbook():
    """Corrected p against a direct computation, intervals against the tests that they belong to."""
    from scipy.stats import ttest_rel

    random = np.random.default_rng(0)
    base = random.normal(0.9, 0.01, 6).tolist()
    pairs = {
        name: (base, (np.array(base) + random.normal(shift, 0.004, 6)).tolist())
        for name, shift in zip("abcde", (0.03, 0.012, 0.006, 0, 0), strict=True)
    }
    found = holm(pairs)
    p = {name: ttest_rel(*each).pvalue for name, each in pairs.items()}
    order = sorted(p, key=p.get)
    running, standing = 0.0, True
    for rank, name in enumerate(order):
        running = max(running, min(1.0, p[name] * (5 - rank)))
        assert found[name].p == pytest.approx(p[name])
        assert found[name].p_corrected == pytest.approx(running)
        standing = standing and p[name] <= 0.05 / (5 - rank)
        assert found[name].shown == standing == (found[name].p_corrected <= 0.05)
        assert found[name].difference.contains_zero is not standing
    assert 0 < sum(each.shown for each in found.values()) < 5
    assert list(found) == list(pairs)
    assert found["a"].difference.confidence == pytest.approx(0.99)
    assert {each.comparisons for each in found.values()} == {5}


def test_holm_without_intervals():
    found = holm({"one": ([0.9], [0.8]), "other": ([0.7], [0.7])})
    assert not any(each.shown for each in found.values())
    assert found["one"].p_corrected is None
    still = holm({"same": ([0.5, 0.6], [0.6, 0.7]), "real": ([0.5, 0.6, 0.55], [0.61, 0.702, 0.653])})
    assert still["same"].p is None
    assert still["same"].difference.confidence == 0.975  # the interval over images is held to it
    assert still["real"].p_corrected == pytest.approx(2 * still["real"].p)  # both are counted
    assert holm({}) == {}


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (4, 0), (6, 0), (7, 1), (3, 12), (40, 38)])
def test_mcnemar_is_scipys_exact_test(lost, won):
    before = [True] * lost + [False] * won + [True] * 20 + [False] * 5
    after = [False] * lost + [True] * won + [True] * 20 + [False] * 5
    expected = stats.binomtest(lost, lost + won).pvalue if lost + won else 1
    assert mcnemar(before, after) == pytest.approx(expected)


def test_what_holm_rejects_of_p_values():
    assert rejected({"a": 0.01, "b": 0.04, "c": 0.02}) == {"a", "b", "c"}
    assert rejected({"a": 0.01, "b": 0.04, "c": 0.03}) == {"a"}
    assert rejected({}) == set()


def test_a_difference_that_is_shown_is_not_said_to_be_nothing():
    found = verdict(
        paired_difference([0.9] * 3, [0.90001, 0.900014, 0.900012]), Bootstrap(1.2e-5, 1e-6, 2e-5, 9, 10000)
    )
    assert found.startswith("SE is better by 0.0012 points (95 % interval +0.0007 to +0.0017 over 3 seeds; +0.0001 to")
