"""What each value of a recipe does to a training."""

from itertools import pairwise
from pathlib import Path

import lightning.pytorch as L
import pytest
import torch
from torch import nn

from senet.block import SESpec
from senet.errors import StudyError
from senet.insertion import blocks
from senet.recipe.recipe import Recipe
from senet.saving.saving import load
from senet.training.train import train
from senet.zoo import create

SHORT = {"epochs": 2, "batch_size": 8, "lr": 0.05, "devices": "cpu", "progress": False}


class Look(L.Callback):
    """Keeps what `look` sees at the end of each step."""

    def __init__(self, look):
        self.look = look
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.seen.append(self.look(trainer, pl_module))


@pytest.fixture
def look(tiny, pictures, tmp_path):
    """look(what, option=...) -> what is seen at each step of a training with these options."""
    count = iter(range(100))

    def run(what, **options):
        watch = Look(what)
        train(tiny, pictures, out=tmp_path / f"run{next(count)}", callbacks=[watch], **{**SHORT, **options})
        return watch.seen

    return run


def _weights(trainer, module):
    return module.network.fc.weight.detach().clone()


def test_a_recipe_by_file_and_by_object_is_the_same(look, tmp_path):
    (tmp_path / "mine.yaml").write_text("batch_size: 8\nepochs: 2\nlr: 0.05\nmomentum: 0.5\n")
    own = {"batch_size": None, "epochs": None, "lr": None}
    by_file = look(_weights, recipe=tmp_path / "mine.yaml", **own)
    by_object = look(_weights, recipe=Recipe(8, 2, 0.05, momentum=0.5), **own)
    changed = look(_weights, recipe=tmp_path / "mine.yaml", momentum=0.9)
    assert torch.equal(by_file[-1], by_object[-1])
    assert not torch.equal(by_file[-1], changed[-1])


@pytest.mark.parametrize(("kind", "cls"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_the_optimiser_and_its_groups(look, kind, cls):
    seen = look(
        lambda trainer, _: (
            type(trainer.optimizers[0]),
            [(g["name"], g["weight_decay"], g["lr"]) for g in trainer.optimizers[0].param_groups],
            trainer.optimizers[0].defaults,
        ),
        optimiser=kind,
        momentum=0.8,
        nesterov=False,
        weight_decay=0.1,
        decay_norms_and_biases=False,
        se_lr=0.1,
        spec=SESpec(),
        warm_up=0.0,
    )
    found, groups, defaults = seen[0]
    assert found is cls
    assert {name: decay for name, decay, _ in groups} == {"network": 0.1, "se": 0.1, "network, no decay": 0.0}
    rates = {name: rate for name, _, rate in groups}
    assert rates["se"] == pytest.approx(2 * rates["network"])
    assert (defaults["betas"][0] if kind == "adamw" else defaults["momentum"]) == 0.8
    assert not defaults.get("nesterov", False)


def test_the_rates_are_those_of_the_schedule(look):
    def rate(trainer, _):
        return trainer.optimizers[0].param_groups[0]["lr"]  # of the step that comes

    found = look(rate, schedule="step", milestones=[0.5], lr_factor=0.1, warm_up=0.0, epochs=4)
    assert found == pytest.approx([0.05] * 5 + [0.005] * 7)


def test_frozen_statistics_stay_while_weights_learn(look):
    def norm(module):
        return module.network.blocks[0].bn1

    seen = look(
        lambda _, module: (
            module.network.blocks[0].bn1.running_mean.clone(),
            module.network.blocks[0].bn1.weight.clone(),
        ),
        freeze_statistics=0.5,
        epochs=4,
    )
    means, weights = zip(*seen, strict=True)
    moved = [not torch.equal(one, other) for one, other in pairwise(means)]
    assert moved == [True] * 5 + [False] * 6  # 12 steps, measured in between
    assert not torch.equal(weights[-1], weights[-2])


def test_the_moving_average_is_what_is_measured_and_saved(tiny, pictures, tmp_path):
    steps = Look(_weights)
    result = train(tiny, pictures, out=tmp_path / "run", ema=0.5, callbacks=[steps], **SHORT)
    average = steps.seen[0]
    for weights in steps.seen[1:]:
        average = 0.5 * average + 0.5 * weights
    saved = load(result.folder / "model.safetensors", create(tiny, num_classes=2)).fc.weight
    assert torch.allclose(saved, average, atol=1e-6)
    assert not torch.allclose(saved, steps.seen[-1], atol=1e-6)


def test_parts_of_a_batch_add_up_to_its_gradient(tiny, pictures, tmp_path):
    file = Path(tiny.removesuffix(":tiny"))
    still = "nn.Sequential(nn.Flatten(), nn.Linear(192, num_classes))"
    file.write_text(file.read_text() + f"\ndef still(num_classes=10):\n    return {still}\n")
    seen = []
    for parts in (1, 2):
        watch = Look(lambda _, module: module.network[1].weight.detach().clone())
        how = {**SHORT, "accumulate": parts, "callbacks": [watch]}
        train(f"{file}:still", pictures, out=tmp_path / f"run{parts}", **how)
        seen.append(watch.seen[parts - 1 :: parts])
    assert len(seen[0]) == len(seen[1]) == 6
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(*seen, strict=True))


def test_gradients_are_clipped(look):
    def step(norm):
        seen = look(_weights, clip=norm, momentum=0.0, weight_decay=0.0, warm_up=0.0, spec=None)
        return (seen[1] - seen[0]).norm()

    assert step(1e-3) < 1e-4 < step(None)


@pytest.mark.parametrize(("last", "expected"), [(True, torch.channels_last), (False, torch.contiguous_format)])
def test_the_memory_format(look, last, expected):
    seen = look(lambda _, m: m.network.blocks[0].conv1.weight.is_contiguous(memory_format=expected), channels_last=last)
    assert all(seen)


def test_bf16_computes_so_and_keeps_float32_weights(look):
    kinds = set()

    def what(_, module):
        def note(_module, _inputs, out):
            kinds.add(out.dtype)
            handle.remove()  # a hook that stays is part of the network, and `save` would say so

        handle = module.network.fc.register_forward_hook(note)
        return module.network.fc.weight.dtype

    assert set(look(what, precision="bf16")) == {torch.float32}
    assert torch.bfloat16 in kinds


def test_fp16_needs_a_gpu(look):
    with pytest.raises(StudyError, match="precision='16' needs a GPU"):
        look(_weights, precision="16")


@pytest.mark.parametrize("kinds", [{"mixup": 0.5}, {"cutmix": 1.0}, {"label_smoothing": 0.5}])
def test_mixed_and_smoothed_labels_teach_otherwise(look, kinds):
    plain, changed = look(_weights), look(_weights, **kinds)
    assert not torch.equal(plain[-1], changed[-1])


def test_a_compiled_network_is_checked_first_and_trains(tiny, pictures, tmp_path):
    pytest.importorskip("torch._inductor")
    calls = []

    class Count(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            calls.append(pl_module.network._compiled_call_impl is not None)

    torch._dynamo.reset()
    backend, nn.Module.compile = nn.Module.compile, lambda self: backend(self, backend="eager")
    try:
        result = train(tiny, pictures, out=tmp_path / "run", compile=True, spec=SESpec(), callbacks=[Count()], **SHORT)
    finally:
        nn.Module.compile = backend
        torch._dynamo.reset()
    assert calls
    assert all(calls)
    assert len(blocks(load(result.folder / "model.safetensors", create(tiny, num_classes=2)))) == 2
