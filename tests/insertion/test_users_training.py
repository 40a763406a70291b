"""Networks as their users train them: hooks, parametrisations, frozen parts, Lightning's modules."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

import senet
from senet import InsertionError
from tests.insertion.networks import Residual, assert_unchanged, randomise, small_resnet


def test_forward_hooks_stay():
    model, x = randomise(small_resnet()), torch.randn(1, 3, 16, 16)
    seen: list[str] = []
    model[1].branch[4].register_forward_hook(lambda m, args, output: output * 2)
    model[2].register_forward_pre_hook(lambda m, args: seen.append("pre"))
    se = senet.insert(model, x)
    assert_unchanged(model, x, se)
    seen.clear()
    se(x)
    assert seen == ["pre"]
    back = senet.remove(se)
    assert len(back[1].branch[4]._forward_hooks) == 1


@pytest.mark.parametrize("how", ["spectral", "weight"])
def test_parametrised_layers(how):
    model, x = small_resnet(), torch.randn(1, 3, 16, 16)
    norm = {"spectral": nn.utils.parametrizations.spectral_norm, "weight": nn.utils.parametrizations.weight_norm}[how]
    unit = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), norm(nn.Conv2d(16, 16, 3, padding=1)))
    model.insert(4, Residual(unit))
    se = senet.insert(model, x)
    assert "4.branch.2.se" in senet.blocks(se)
    assert_unchanged(model, x, se)
    assert_unchanged(model, x, copy.deepcopy(se))
    assert_unchanged(model, x, senet.remove(se))
    with pytest.raises(InsertionError, match=r"scale cannot be folded into 4\.branch\.2"):
        senet.fold_start(se)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of `weight_norm`, which is old and in many networks of sound
@pytest.mark.parametrize("how", ["weight norm", "pruning"])
def test_weights_that_are_made_anew_in_each_pass(how, tmp_path):
    """PyTorch copies no such network: a file of one could not be loaded."""

    def build():
        model = randomise(small_resnet())
        change = (
            nn.utils.weight_norm if how == "weight norm" else functools.partial(prune.random_unstructured, amount=9)
        )
        change(model[1].branch[0], name="weight")
        return model

    model, x = build(), torch.randn(1, 3, 16, 16)
    se = senet.insert(model, x, senet.SESpec(start="paper"))
    assert_unchanged(model, x, senet.remove(se))
    senet.save(se, tmp_path / "net.safetensors")
    assert_unchanged(se, x, senet.load(tmp_path / "net.safetensors", build()))
    se.train()(torch.randn(2, 3, 16, 16)).sum().backward()
    assert all(parameter.grad is not None for parameter in se.parameters())
    assert not senet.blocks(senet.remove(se))


def test_parametrised_afterwards():
    se = senet.insert(small_resnet(), torch.randn(1, 3, 16, 16))
    nn.utils.parametrize.register_parametrization(se[1].branch[4], "weight", nn.Softplus())
    with pytest.raises(InsertionError, match=r"class of 1\.branch\.4 was changed"):
        senet.remove(se, inplace=True)
    assert len(senet.blocks(se)) == 3


def test_frozen_parameters_stay_frozen():
    model, x = small_resnet(), torch.randn(2, 3, 16, 16)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    se = senet.insert(model, x).train()
    se(x).sum().backward()
    learning = [name for name, parameter in se.named_parameters() if parameter.requires_grad]
    assert all(".se." in name for name in learning)
    assert len(learning) == 6


# Lightning.


@pytest.fixture
def lightning():
    return pytest.importorskip("lightning.pytorch")


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch's own, of what lightning calls
def test_lightning_module(lightning):
    class Lit(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = small_resnet()
            self.save_hyperparameters()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(senet.parameter_groups(self, 0.1), lr=0.1)

    model, x = Lit(), torch.randn(1, 3, 16, 16)
    se = senet.insert(model, x)
    assert list(senet.blocks(se)) == [f"net.{index}.branch.4.se" for index in (1, 2, 3)]
    assert_unchanged(model, x, se)
    _fit(lightning, se.train())
    assert all(block.fc2.weight.any() for block in senet.blocks(se).values())


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_lightning_configure_model(lightning):
    """Insertion where Lightning wants large models to be made."""

    class Lit(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net: nn.Module | None = None

        def configure_model(self) -> None:
            if self.net is None:
                self.net = senet.insert(small_resnet(), torch.randn(1, 3, 16, 16))

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    model = Lit()
    with pytest.raises(InsertionError, match=r"does not run on the example|has no place"):
        senet.insert(model, torch.randn(1, 3, 16, 16))
    _fit(lightning, model.train())
    assert all(block.fc2.weight.any() for block in senet.blocks(model).values())


def _fit(lightning, model: nn.Module) -> None:
    data = [(torch.randn(4, 3, 16, 16), torch.randint(5, (4,))) for _ in range(2)]
    trainer = lightning.Trainer(
        max_steps=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, torch.utils.data.DataLoader(data, batch_size=None))
