import json

import pytest

from senet.console.progress import Progress
from senet.evaluation.networks import NetworkSpec
from senet.training.processes.processes import Processes, placement_of
from senet.training.train import plan_of

EARLIER = {"preprocessing": {"size": 8, "resize": 8}}


class Told(Progress):
    def __init__(self):
        super().__init__(False)
        self.lines = []

    def note(self, text):
        self.lines.append(text)


def _plan(data, out, told=None, **options):
    placement = placement_of("cpu", None, None)
    return plan_of(NetworkSpec("resnet20"), data, options, placement, Processes(), told or Told(), out)


def test_the_learning_rate_follows_the_batch_that_is_used(pictures, tmp_path):
    told = Told()
    recipe = _plan(pictures, tmp_path / "run", told).recipe  # 24 images; a batch of small ones is 128 at 0.1
    assert (recipe.batch_size, recipe.lr) == (24, pytest.approx(0.1 * 24 / 128))
    assert told.lines[0].endswith("a batch is 24, the learning rate 0.01875")
    assert told.lines[1] == f"{pictures}: 24 to train on, 8 to measure (val), 2 classes: dark, light"
    given = _plan(pictures, tmp_path / "run", batch_size=48, lr=0.3).recipe
    assert (given.batch_size, given.lr) == (24, 0.3)
    few = _plan(pictures, tmp_path / "run", batch_size=8).recipe
    assert (few.batch_size, few.lr) == (8, pytest.approx(0.1 * 8 / 128))


@pytest.mark.parametrize("run", ["study", "study/se-0"])
def test_what_an_earlier_version_began_is_planned_as_it_did(pictures, tmp_path, run):
    (tmp_path / "study").mkdir()
    (tmp_path / "study/settings.json").write_text(json.dumps(EARLIER))
    plan = _plan(pictures, tmp_path / run)
    assert (plan.recipe.batch_size, plan.recipe.lr) == (128, 0.1)
    assert plan.preprocessing.transparency is plan.augmentation.transparency is None
    new = _plan(pictures, tmp_path / "new")
    assert new.preprocessing.transparency == new.augmentation.transparency == "white"
