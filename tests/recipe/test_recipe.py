import dataclasses

import pytest

from senet.data.sources import open_data
from senet.recipe.choose import Recipe, recipe_for
from senet.recipe.options import RECIPE
from senet.recipe.recipe import Changes
from senet.training.schedules import frozen_from, learning_rate_factor


def test_what_is_usual(paint):
    digits = open_data("digits")
    small, photos = (open_data(paint({"a": 2, "b": 2}, size=size, root=str(size[0]))) for size in ((32, 32), (70, 80)))
    assert recipe_for(digits.kind, pretrained=False) == Recipe(64, 15, 0.05, weight_decay=5e-4)
    assert recipe_for(small.kind, pretrained=False) == Recipe(128, 30, 0.1, weight_decay=5e-4)
    assert recipe_for(photos.kind, pretrained=False) == Recipe(64, 60, 0.05)
    assert recipe_for(photos.kind, pretrained=True) == recipe_for(digits.kind, pretrained=True) == Recipe(32, 5, 0.01)


def test_what_is_given_is_taken_and_the_learning_rate_follows_the_batch():
    digits = open_data("digits")
    assert recipe_for(digits.kind, pretrained=False, changes={"batch_size": 32}).lr == 0.025
    asked = {"batch_size": 32, "epochs": 2, "lr": 0.3, "se_lr": 0.1, "weight_decay": 0.0}
    found = recipe_for(digits.kind, pretrained=False, changes=asked)
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
    recipe = Recipe(8, 1, 0.1)
    factors = [learning_rate_factor(step, 100, recipe) for step in range(100)]
    assert factors[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert factors[10] == 1
    assert sorted(factors[10:], reverse=True) == factors[10:]
    assert 0 < factors[-1] < 0.001
    assert learning_rate_factor(0, 1, recipe) == 1


@pytest.mark.parametrize(("steps", "rising"), [(64_000, 1920), (2000, 400), (390, 195), (1, 0)])
def test_a_short_run_warms_up_for_some_steps_too(steps, rising):
    recipe = Recipe(8, 1, 0.1, warm_up=0.03, warm_up_steps=400, schedule="step", milestones=(0.9,))
    factors = [learning_rate_factor(step, steps, recipe) for step in range(rising + 1)]
    assert factors == pytest.approx([*((step + 1) / rising for step in range(rising)), 1])


def test_recipes_do_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Recipe(8, 1, 0.1).lr = 1


def test_a_recipe_follows_the_batch_as_it_says():
    recipe = Recipe(64, 2, 0.1, se_lr=0.2)
    assert recipe.changed({"batch_size": 16}).lr == 0.025
    assert recipe.changed({"batch_size": 16}).se_lr == 0.05
    assert recipe.changed({"batch_size": 16, "lr": 0.3}).lr == 0.3
    assert recipe.changed({"batch_size": 16, "se_lr": 0.3}).se_lr == 0.3
    assert recipe.changed({"batch_size": 16, "lr_scaling": "sqrt"}).lr == 0.05
    assert recipe.changed({"batch_size": 16, "lr_scaling": "none"}).lr == 0.1
    assert recipe.changed({"epochs": None}) == recipe
    with pytest.raises(ValueError, match="no 'epoch'; did you mean 'epochs'"):
        recipe.changed({"epoch": 3})
    with pytest.raises(ValueError, match="no 'zzz': it has"):
        recipe.changed({"zzz": 3})
    for drop in ({"milestones": [0.5]}, {"lr_factor": 0.2}):
        with pytest.raises(ValueError, match=r"is for schedule='step' .*, and it is cosine"):
            recipe.changed(drop)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"accumulate": 0}, {"accumulate": 3}, {"cutout": -1}, {"clip": 0}, {"crop_scale": 1.5}, {"ema": 1.0}),
        *({"random_erasing": 1.5}, {"freeze_statistics": -1}, {"nesterov": 1}, {"optimiser": "adam"}, {"mixup": True}),
        *({"milestones": (0.6, 0.3)}, {"milestones": (0.5, 1.5)}, {"milestones": 0.5}, {"schedule": "step"}),
        *({"precision": 16}, {"lr_scaling": "linea"}, {"label_smoothing": 1}, {"lr_factor": 0}, {"cutmix": -1}),
    ],
)
def test_a_recipes_other_values_are_checked_too(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Recipe(**{"batch_size": 8, "epochs": 1, "lr": 0.1, **wrong})


def test_the_learning_rate_drops_at_milestones():
    recipe = Recipe(8, 1, 0.1, schedule="step", milestones=(0.3, 0.6, 0.9), warm_up=0.05)
    factors = [learning_rate_factor(step, 100, recipe) for step in range(100)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1])
    assert factors[29:31] == pytest.approx([1, 0.1])
    assert factors[59:61] == pytest.approx([0.1, 0.01])
    assert factors[89:91] == pytest.approx([0.01, 0.001])


def test_statistics_freeze_after_their_share():
    assert frozen_from(100, Recipe(8, 1, 0.1)) == 100
    assert frozen_from(100, Recipe(8, 1, 0.1, freeze_statistics=0.9)) == 90
    assert frozen_from(100, Recipe(8, 1, 0.1, freeze_statistics=0.0)) == 0


def test_a_knob_is_stated_once():
    """Every field says what it takes and what its flag means; the types of `Changes` are those of the fields."""
    fields = {field.name: field for field in dataclasses.fields(Recipe)}
    assert all(field.metadata["allowed"] for field in fields.values())
    assert {name for name, field in fields.items() if not field.metadata["flag"]} == {"batch_size", "epochs", "lr"}
    assert set(Changes.__annotations__) == set(fields)
    assert set(RECIPE) == {"recipe", *fields} - {"batch_size", "epochs", "lr"}


def test_a_word_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"^precision is one of 32, bf16, 16, not 'bf-16'; did you mean 'bf16'\?$"):
        Recipe(8, 1, 0.1, precision="bf-16")
