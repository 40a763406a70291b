import dataclasses

import pytest

from senet.study.data import open_data
from senet.study.recipe import Recipe, learning_rate_factor, recipe_for


def test_what_is_usual(paint):
    digits = open_data("digits")
    small, photos = (open_data(paint({"a": 2, "b": 2}, size=size, root=str(size[0]))) for size in ((32, 32), (70, 80)))
    assert recipe_for(digits, pretrained=False) == Recipe(64, 15, 0.05, weight_decay=5e-4)
    assert recipe_for(small, pretrained=False) == Recipe(128, 30, 0.1, weight_decay=5e-4)
    assert recipe_for(photos, pretrained=False) == Recipe(64, 60, 0.05)
    assert recipe_for(photos, pretrained=True) == recipe_for(digits, pretrained=True) == Recipe(32, 5, 0.01)


def test_what_is_given_is_taken_and_the_learning_rate_follows_the_batch():
    digits = open_data("digits")
    assert recipe_for(digits, pretrained=False, batch_size=32).lr == 0.025
    asked = {"batch_size": 32, "epochs": 2, "lr": 0.3, "se_lr": 0.1, "weight_decay": 0.0}
    found = recipe_for(digits, pretrained=False, **asked)
    assert {key: getattr(found, key) for key in asked} == asked


@pytest.mark.parametrize(
    "wrong",
    [
        *({"batch_size": 0}, {"batch_size": 2.0}, {"epochs": 0}, {"epochs": True}, {"lr": 0}, {"lr": -1}),
        *({"lr": float("nan")}, {"lr": "fast"}, {"se_lr": 0}, {"momentum": 1.0}, {"weight_decay": -1}, {"warm_up": 1}),
    ],
)
def test_numbers_that_make_no_sense_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Recipe(**{"batch_size": 8, "epochs": 1, "lr": 0.1, **wrong})


def test_the_learning_rate_rises_and_falls_to_almost_nothing():
    factors = [learning_rate_factor(step, 100, 0.1) for step in range(100)]
    assert factors[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert factors[10] == 1
    assert sorted(factors[10:], reverse=True) == factors[10:]
    assert 0 < factors[-1] < 0.001
    assert learning_rate_factor(0, 1, 0.1) == 1


def test_recipes_do_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Recipe(8, 1, 0.1).lr = 1
