import dataclasses

import pytest
import torch

from senet.data.augmentation import StrongAugmentation, augmentation_of, mixing_of
from senet.data.sampling import seeded
from senet.data.sources import open_data
from senet.data.transforms import IMAGENET_MEAN, Augmentation, augmentation_for, preprocessing_for
from senet.recipe.recipe import Recipe

PIXELS = torch.full((3, 40, 40), 200, dtype=torch.uint8)
FILL = torch.tensor([round(255 * value) for value in IMAGENET_MEAN], dtype=torch.uint8)


def _views(augmentation, count=20):
    views = []
    for key in range(count):
        with seeded(key):
            views.append(augmentation(PIXELS))
    return views


def _erased(view):
    return (view == FILL.view(3, 1, 1)).all(0)


def test_a_recipe_that_adds_nothing_leaves_the_usual_augmentation():
    digits = open_data("digits")
    how = preprocessing_for(digits)
    assert augmentation_of(digits, how, Recipe(8, 1, 0.1)) == augmentation_for(digits, how)
    photos = dataclasses.replace(digits, native_size=None)
    changed = augmentation_of(photos, how, Recipe(8, 1, 0.1, crop_scale=0.08))
    assert changed == dataclasses.replace(augmentation_for(photos, how), scale=(0.08, 1.0))


def test_what_a_recipe_adds_is_in_the_augmentation():
    digits = open_data("digits")
    found = augmentation_of(
        digits, preprocessing_for(digits), Recipe(8, 1, 0.1, trivial_augment=True, random_erasing=0.5, cutout=3)
    )
    assert isinstance(found, StrongAugmentation)
    assert (found.trivial_augment, found.random_erasing, found.cutout) == (True, 0.5, 3)
    assert found.flip == digits.flip


def test_cutout_erases_one_square_that_may_reach_over_the_edge():
    views = _views(StrongAugmentation(32, padding=4, cutout=8), 200)
    sizes = set()
    for view in views:
        erased = _erased(view)
        rows, columns = erased.any(1).nonzero().flatten(), erased.any(0).nonzero().flatten()
        assert erased.sum() == len(rows) * len(columns)  # a rectangle
        assert 4 <= len(rows) <= 8
        sizes.add((len(rows), len(columns)))
        assert (view[:, ~erased] == 200).all()
    assert (8, 8) in sizes
    assert len(sizes) > 1


def test_random_erasing_erases_as_often_as_asked():
    views = _views(StrongAugmentation(32, padding=4, random_erasing=0.5), 200)
    assert 70 < sum(bool(_erased(view).any()) for view in views) < 130


def test_trivial_augment_changes_most_images_and_keeps_their_form():
    ramp = torch.arange(40 * 40 * 3).remainder(251).to(torch.uint8).view(3, 40, 40)
    plain, trivial = Augmentation(32, padding=4), StrongAugmentation(32, padding=4, trivial_augment=True)
    changed = 0
    for key in range(50):
        with seeded(key):
            before = plain(ramp)
        with seeded(key):
            after = trivial(ramp)
        assert (after.shape, after.dtype) == ((3, 32, 32), torch.uint8)
        changed += not torch.equal(before, after)
    assert changed > 25


def test_views_depend_on_the_seed_alone():
    how = StrongAugmentation(32, padding=4, trivial_augment=True, random_erasing=0.5, cutout=8)
    assert all(torch.equal(one, other) for one, other in zip(_views(how), _views(how), strict=True))


@pytest.mark.parametrize("kinds", [{"mixup": 0.5}, {"cutmix": 1.0}, {"mixup": 0.5, "cutmix": 1.0}])
def test_mixing_mixes_images_and_labels_alike(kinds):
    mix = mixing_of(Recipe(8, 1, 0.1, **kinds), 4)
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 8, 8).contiguous()
    labels = torch.arange(4)
    for key in range(10):
        with seeded(key):
            mixed, targets = mix(images, labels)
        assert targets.shape == (4, 4)
        assert torch.allclose(targets.sum(1), torch.ones(4))
        expected = targets @ torch.arange(4.0)  # each image's pixels are its label
        assert torch.allclose(mixed.mean((1, 2, 3)), expected, atol=1e-5)
        with seeded(key):
            assert torch.equal(mix(images, labels)[0], mixed)


def test_no_mixing_unless_asked():
    assert mixing_of(Recipe(8, 1, 0.1), 4) is None
