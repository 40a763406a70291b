import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import get_worker_info

from senet.data.images import ArrayImages
from senet.data.sampling import KeyedSampler, eval_loader, forking, hold, random_key, seeded, train_loader
from senet.data.sources import open_data
from senet.data.transforms import Augmentation, Preprocessing
from senet.errors import DataError


def _images(count=23, side=12):
    pixels = np.random.default_rng(0).integers(0, 255, (count, side, side, 3), dtype=np.uint8)
    return ArrayImages(pixels, [i % 3 for i in range(count)])


KINDS = [Augmentation(12, padding=2), Augmentation(8), Augmentation(12, padding=1, flip=False)]


def _batches(how, *, seed=0, epochs=(0, 1), workers=0, budget=2**29, first=0):
    loader = train_loader(hold(_images(), how, budget=budget), how, 5, seed=seed, epoch=first, workers=workers)
    found = []
    for epoch in epochs:
        loader.sampler.set_epoch(epoch)
        with forking():
            found += list(loader)
    return found


def _equal(some, others):
    assert len(some) == len(others)
    return all(torch.equal(a, b) and torch.equal(x, y) for (a, x), (b, y) in zip(some, others, strict=True))


@pytest.mark.parametrize("how", KINDS)
def test_batches_are_the_same_for_any_number_of_workers_and_in_memory_or_not(how):
    expected = _batches(how)
    assert all(pixels.shape == (5, 3, how.size, how.size) and pixels.dtype == torch.uint8 for pixels, _ in expected)
    assert len(expected) == 2 * (23 // 5)
    torch.manual_seed(12345)  # the caller's generators decide nothing
    assert _equal(expected, _batches(how, workers=2))
    assert _equal(expected, _batches(how, budget=0))


def test_batches_change_with_the_seed_and_the_epoch():
    how = KINDS[0]
    assert not _equal(_batches(how, epochs=(0,)), _batches(how, epochs=(1,)))
    assert not _equal(_batches(how, epochs=(0,)), _batches(how, epochs=(0,), seed=1))


def test_an_epoch_can_be_the_first():
    how = KINDS[0]
    held = hold(_images(), how)
    loader = train_loader(held, how, 5, seed=0, epoch=3)
    assert _equal(list(loader), _batches(how, epochs=(3,)))


def test_every_image_is_in_an_epoch_at_most_once_and_measured_exactly_once():
    loader = train_loader(hold(_images(20), KINDS[0]), KINDS[0], 5, seed=0)
    assert sorted(index for _, index in loader.sampler) == list(range(20))
    labels = torch.cat([labels for _, labels in eval_loader(hold(_images(), Preprocessing(8, 8)), 5)])
    assert labels.tolist() == _images().labels.tolist()


def test_the_sampler_lists_images_in_order_where_there_is_no_seed():
    assert list(KeyedSampler(3)) == [(0, 0), (0, 1), (0, 2)]
    assert len(KeyedSampler(3)) == 3


def test_a_batch_is_never_larger_than_the_images():
    assert [len(labels) for _, labels in train_loader(hold(_images(3), KINDS[0]), KINDS[0], 8, seed=0)] == [3]


def test_seeding_leaves_no_trace():
    before = torch.get_rng_state(), random.getstate()
    with seeded(7):
        first = torch.rand(3)
    with seeded(7):
        assert torch.equal(torch.rand(3), first)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


def test_keys_do_not_collide():
    keys = {random_key(seed, epoch, index) for seed in range(5) for epoch in range(-1, 5) for index in range(40)}
    keys |= {random_key(seed, epoch) for seed in range(5) for epoch in range(40)}
    assert len(keys) == 5 * 6 * 40 + 5 * 40
    assert all(0 <= key < 2**63 for key in keys)


def test_images_that_do_not_fit_into_memory_are_decoded_when_asked_for():
    how = Preprocessing(8, 8)
    needed = 23 * 3 * 8 * 8
    assert hold(_images(), how, budget=needed).in_memory
    assert not hold(_images(), how, budget=needed - 1).in_memory


def test_photos_of_different_sizes_are_held_as_they_are():
    class Different(ArrayImages):
        def load(self, index):
            return Image.new("RGB", (10 + index, 20), (index, 0, 0))

    images = Different(np.zeros((5, 1, 1, 3), dtype=np.uint8), [0] * 5)
    held = hold(images, Augmentation(16))
    assert held.in_memory
    assert [tuple(held[i].shape) for i in range(5)] == [(3, 20, 10 + i) for i in range(5)]
    assert [int(held[i][0].max()) for i in range(5)] == list(range(5))


def test_a_wrong_estimate_of_the_memory_gives_up():
    class Growing(ArrayImages):
        def load(self, index):
            side = 4 if index % 6 == 0 else 40  # every sixth is what the estimate sees
            return Image.new("RGB", (side, side))

    images = Growing(np.zeros((96, 1, 1, 3), dtype=np.uint8), [0] * 96)
    held = hold(images, Augmentation(40), budget=20_000)
    assert not held.in_memory
    assert held[1].shape == (3, 40, 40)


@pytest.mark.parametrize("workers", [-1, 1.5, "2"])
def test_workers_are_counted(workers):
    with pytest.raises(ValueError, match="workers is a whole number"):
        eval_loader(hold(_images(), Preprocessing(8, 8)), 5, workers=workers)


def test_workers_are_used_where_images_are_not_in_memory():
    class Telling(ArrayImages):
        def load(self, index):
            return Image.new("RGB", (8, 8), (0 if get_worker_info() is None else 1, 0, 0))

    images = Telling(np.zeros((4, 1, 1, 3), dtype=np.uint8), [0] * 4)
    with forking():
        seen = [
            int(pixels[:, 0].max())
            for budget in (0, 2**20)
            for pixels, _ in eval_loader(hold(images, Preprocessing(8, 8), budget=budget), 4)
        ]
    assert seen == [1, 0]


def test_a_broken_file_is_named_from_a_worker_too(paint):
    folder = paint({"a": 3, "b": 3})
    source = open_data(folder)
    (folder / source.train.names[2]).write_bytes(b"broken")
    for budget in (0, 2**20):
        with pytest.raises(DataError, match="cannot be read as an image"), forking():
            list(eval_loader(hold(source.train, Preprocessing(8, 8), budget=budget), 4, workers=1))
