import dataclasses
import re
import shlex

import pytest

from senet import SESpec, __version__, cli, flags


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_explains_every_flag_and_has_examples_that_work(capsys, verb):
    with pytest.raises(SystemExit) as left:
        cli.main([verb, "--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 110
    for parameter in flags._parameters(cli.VERBS[verb]):
        positional = flags.POSITIONAL.get(parameter.name)
        name = positional.metavar if positional else flags._typed(parameter.name)
        assert re.search(rf"^  {name}\b", text, re.MULTILINE)
        assert " ".join(flags.FLAGS[parameter.name].text(verb).split()) in " ".join(text.split())
        usual = parameter.usual
        if usual is not None and usual is not False and usual is not True and not positional:
            assert f"(default: {usual})" in " ".join(text.split())
    examples = re.findall(r"^  senet (.*)$", text, re.MULTILINE)
    assert len(examples) >= 2
    for example in examples:
        words = shlex.split(example)
        assert words[0] == verb
        flags.parse(cli.VERBS, "", "", words)


def test_flags_have_one_name_and_a_help_text():
    used = {p.name for function in cli.VERBS.values() for p in flags._parameters(function)}
    assert used == set(flags.FLAGS)
    assert {field.name for field in dataclasses.fields(SESpec)} <= used


def test_the_help_of_a_training_says_what_the_recipe_does():
    from senet.recipe.choose import recipe_for

    kinds = {
        "weights": recipe_for("digits", pretrained=True),
        "digits": recipe_for("digits", pretrained=False),
        "small": recipe_for("small", pretrained=False),
        "photos": recipe_for("photos", pretrained=False),
        "context": recipe_for("context", pretrained=False),
    }
    assert (
        f"{kinds['weights'].epochs} from weights, and from scratch {kinds['digits'].epochs} for digits, "
        f"{kinds['small'].epochs} for other small images, {kinds['photos'].epochs} for photos, "
        f"{kinds['context'].epochs} for context"
    ) in flags.FLAGS["epochs"].help
    assert kinds["digits"].lr == kinds["photos"].lr == kinds["context"].lr
    assert (
        f"{kinds['weights'].lr} from weights, {kinds['digits'].lr} from scratch, {kinds['small'].lr} for small images"
    ) in flags.FLAGS["lr"].help
    assert kinds["digits"].batch_size == kinds["photos"].batch_size == kinds["context"].batch_size
    assert (
        f"{kinds['weights'].batch_size} from weights, {kinds['digits'].batch_size} from scratch, "
        f"{kinds['small'].batch_size} for small images"
    ) in flags.FLAGS["batch_size"].help
    for name in ("label_smoothing", "clip"):
        assert f"{getattr(kinds['context'], name):g} for context" in flags.FLAGS[name].help


def test_help_and_version(capsys):
    for words, part in ((["--help"], "senet sites --model"), (["--version"], f"senet {__version__} (PyTorch")):
        with pytest.raises(SystemExit) as left:
            cli.main(words)
        assert left.value.code == 0
        assert part in capsys.readouterr().out


def test_flags_come_in_the_order_of_their_texts(capsys):
    """A recipe before what replaces its values, and `--resize` before the next five that it speaks of."""
    for verb, order in {
        "train": ["recipe", "optimiser", "momentum"],
        "explore": ["data", "size", "resize", "crop", "mean", "std", "interpolation", "channels", "range"],
    }.items():
        with pytest.raises(SystemExit):
            cli.main([verb, "--help"])
        text = capsys.readouterr().out
        places = [re.search(rf"^  --{name}\b", text, re.MULTILINE).start() for name in order]
        assert places == sorted(places)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_the_help_of_a_verb_speaks_of_that_verb(capsys, verb):
    with pytest.raises(SystemExit):
        cli.main([verb, "--help"])
    text = " ".join(capsys.readouterr().out.partition("options:")[2].split())
    named = set(re.findall(r"\bfor (\w+)", text)) | set(re.findall(r"\bin (\w+),? (?:the|\d)", text))
    assert not (named & set(cli.VERBS)) - {verb}
    flags_named = set(re.findall(r"(?<![-\w])--[a-z][a-z0-9-]*", text)) - {"--debug", "--help", "--partition", "--gres"}
    own = {flags._typed(parameter.name) for parameter in flags._parameters(cli.VERBS[verb])}
    own |= {f"--no-{name[2:]}" for name in own}
    assert flags_named <= own
    assert not re.search(r"default[^()]* (\S+?) \(default: \1\)", text)
