import dataclasses
import re
import shlex
from importlib import resources

import pytest

from senet import cli, flags
from senet.errors import InputTypeError, StudyError
from senet.recipe.file import read_recipe
from senet.recipe.options import Options, known_options
from senet.recipe.recipe import Changes, Recipe
from senet.study import recipes
from senet.zoo import list_models


def _text(name):
    return (resources.files("senet.recipe") / "shipped" / f"{name}.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", recipes())
def test_each_recipe_opens_with_a_command_that_works_and_what_to_expect(name):
    read_recipe(name)
    head = [line[1:].strip() for line in _text(name).splitlines() if line.startswith("#")]
    commands = [line.removeprefix("senet ") for line in head if line.startswith("senet ")]
    assert commands
    for command in commands:
        verb, arguments = flags.parse(cli.VERBS, "", "", shlex.split(command))
        assert verb in ("train", "compare")
        assert arguments["recipe"] == name
        assert arguments["model"].startswith("torchvision:") or arguments["model"] in list_models()
    assert any(line.startswith("Expect") for line in head)


def test_the_help_names_every_recipe():
    assert ", ".join(recipes()[:-1]) in flags.FLAGS["recipe"].help
    assert recipes()[-1] in flags.FLAGS["recipe"].help


def test_the_papers_numbers():
    found = read_recipe("imagenet-paper")
    assert (found.batch_size, found.lr, found.epochs, found.momentum) == (1024, 0.6, 100, 0.9)
    assert [share * found.epochs for share in found.milestones] == pytest.approx([30, 60, 90])
    released = read_recipe("imagenet-released")
    assert (released.batch_size, released.lr) == (256, 0.1)
    assert released.epochs > found.epochs


def test_a_file_of_ones_own(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("batch_size: 8\nepochs: 2\nlr: 1e-3\nschedule: step\nmilestones: [0.5]\noptimiser: adamw\n")
    assert read_recipe(file) == Recipe(8, 2, 1e-3, schedule="step", milestones=(0.5,), optimiser="adamw")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("batch_size: 8\nepochs: 2", r"mine\.yaml: lr must be there"),
        ("batch_size: 8\nepochs: 2\nlr: fast", r'"lr".*float.*fast'),
        ("batch_size: 8\nepochs: 2.5\nlr: 1", r'"epochs".*int.*2\.5'),
        ("batch_size: 8\nepochs: 2\nlr: 1\nlabel_smoothin: 0.1", "no 'label_smoothin'; did you mean 'label_smoothing'"),
        ("batch_size: 8\nepochs: 2\nlr: 1\noptimiser: adam", "optimiser is one of .* did you mean 'adamw'"),
        ("batch_size: 8\nepochs: 2\nlr: 1\nschedule: step", "needs milestones"),
        ("batch_size: 8\nepochs: 2\nlr: 1\nmilestones: [0.5]", "milestones are for schedule: step, and it is cosine"),
        ("batch_size: 8\nepochs: 0\nlr: 1", "epochs is a whole number of at least 1"),
        ("batch_size: 8\nepochs: 2\nlr: 1\nlr: 2", r"mine\.yaml: it has lr twice"),
        ("just words", "recipe"),
        ("- 1\n- 2", "recipe"),
        ("a: [", "recipe"),
        ("", "it is empty"),
        ("batch_size: !!python/object/apply:os.getcwd []\nepochs: 2\nlr: 1", "recipe"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path, text, words):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(StudyError, match=words):
        read_recipe(file)


def test_a_recipe_that_is_not_there(tmp_path):
    with pytest.raises(StudyError, match=r"no recipe 'cifar-resne'.*did you mean 'cifar-resnet'"):
        read_recipe("cifar-resne")
    with pytest.raises(StudyError, match=r"missing\.yaml cannot be read \(No such file"):
        read_recipe(tmp_path / "missing.yaml")
    with pytest.raises(InputTypeError, match="a recipe is a Recipe, the name of one, or a file, not a dict"):
        read_recipe({"epochs": 3})
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(StudyError, match="cannot be read"):
        read_recipe(tmp_path / "bytes.yaml")


def test_the_same_names_everywhere():
    fields = {field.name for field in dataclasses.fields(Recipe)}
    assert set(Changes.__annotations__) == fields
    assert fields <= set(flags.FLAGS)
    assert set(Options.__annotations__) <= set(flags.FLAGS)
    with pytest.raises(TypeError, match=re.escape("train() has no option 'epoch'; did you mean 'epochs'?")):
        known_options({"epoch": 3}, Options, "train")
    with pytest.raises(TypeError, match=r"no option 'class_weights': every image counts alike; .* senet judge"):
        known_options({"class_weights": [1, 2]}, Options, "train")
    with pytest.raises(TypeError, match="no option 'zzz'"):
        known_options({"zzz": 3}, Options, "train")
