"""fastai's and Lightning's trainers, with what they do to a network on the way."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import senet
from tests.frameworks.staying import OPEN, assert_same, differ, not_doubled, opened, outputs, randomise, works


def need(name):
    return pytest.importorskip(name, reason=f"{name} is not installed", exc_type=ImportError)


@pytest.fixture
def x():
    return torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def data(count=16):
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.rand(count, 3, 64, 64, generator=generator), torch.arange(count) % 3
    return list(zip(images, labels, strict=True))


def image(number):
    return data()[number][0]


def label(number):
    return data()[number][1]


class TestFastai:
    def learner(self, net, folder):
        fastai = need("fastai.vision.all")
        sets = fastai.Datasets(range(16), [[image], [label]], splits=[range(8), range(8, 16)])
        loaders = sets.dataloaders(bs=4, num_workers=0, device=torch.device("cpu"))
        return fastai.Learner(loaders, net, loss_func=fastai.CrossEntropyLossFlat(), path=folder)

    def test_xse_resnet_has_se_already(self, x, row):
        need("fastai")
        row("fastai", "xse_resnet18: its own SE, none put behind it", 8)
        not_doubled(need("fastai.vision.models.xresnet").xse_resnet18(n_out=3), x, 8)

    def test_the_network(self, x, tmp_path, row):
        need("fastai")
        row("fastai", "xresnet18: insert, train, save", 8)
        works(need("fastai.vision.models.xresnet").xresnet18(n_out=3), x, 8, tmp_path)

    def test_the_learner(self, x, tmp_path, row):
        models = need("fastai.vision.models.xresnet")
        fastai = need("fastai.vision.all")
        row("fastai", "xresnet18: `Learner.fit_one_cycle`, `save`, `load`, `export`, `load_learner`", 8)
        net = opened(models.xresnet18(n_out=3), x, count=8)
        before = {k: v.clone() for k, v in net.state_dict().items() if ".se.fc" in k}
        learn = self.learner(net, tmp_path)
        with learn.no_bar(), learn.no_logging():
            learn.fit_one_cycle(1, 1e-2)
        assert all(not torch.equal(v, net.state_dict()[k]) for k, v in before.items())
        trained = outputs(learn.model, x)
        learn.save("after")
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.zero_()
        learn.load("after")
        assert_same(outputs(learn.model, x), trained, outputs(senet.remove(learn.model), x))
        learn.export("learner.pkl")
        again = fastai.load_learner(tmp_path / "learner.pkl")
        assert_same(outputs(again.model, x), trained)

    def test_freezing_and_a_body(self, x, row):
        fastai = need("fastai.vision.all")
        torchvision = need("torchvision")
        row("fastai", "`create_body` and head on a resnet18 with SE", 8)
        net = opened(torchvision.models.resnet18(num_classes=3), x, count=8)
        whole = fastai.add_head(fastai.create_body(net, cut=-2), 512, 3) if hasattr(fastai, "add_head") else None
        whole = whole or nn.Sequential(fastai.create_body(net, cut=-2), fastai.create_head(512, 3))
        assert len(senet.blocks(whole)) == 8
        assert differ(outputs(whole, x), outputs(senet.remove(whole), x))


class TestLightning:
    @pytest.mark.parametrize("average", [False, True])
    def test_the_trainer(self, average, x, tmp_path, row):
        lightning = need("lightning.pytorch")
        torchvision = need("torchvision")
        row("lightning", f"resnet18: `Trainer.fit`, checkpoint{', EMAWeightAveraging' if average else ''}", 8)

        class Task(lightning.LightningModule):
            def __init__(self):
                super().__init__()
                torch.manual_seed(0)
                self.net = senet.insert(randomise(torchvision.models.resnet18(num_classes=3)), x, OPEN)

            def training_step(self, batch, _):
                images, labels = batch
                return nn.functional.cross_entropy(self.net(images), labels)

            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), 1e-2)

        callbacks = [lightning.callbacks.EMAWeightAveraging(decay=0.5)] if average else []
        trainer = lightning.Trainer(
            max_epochs=1, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, callbacks=callbacks,
            default_root_dir=tmp_path, enable_model_summary=False,
        )  # fmt: skip
        task = Task()
        before = {k: v.clone() for k, v in task.state_dict().items() if ".se.fc" in k}
        trainer.fit(task, torch.utils.data.DataLoader(data(), batch_size=8))
        assert all(not torch.equal(v, task.state_dict()[k]) for k, v in before.items())
        trainer.save_checkpoint(tmp_path / "task.ckpt")
        again = Task.load_from_checkpoint(tmp_path / "task.ckpt")
        assert_same(outputs(again.net, x), outputs(task.net, x), outputs(senet.remove(task.net), x))

    def test_sync_batchnorm(self, x, row):
        need("lightning")
        torchvision = need("torchvision")
        row("lightning", "resnet18: `sync_batchnorm=True` (`TorchSyncBatchNorm`)", 8)
        plugin = need("lightning.pytorch.plugins.layer_sync").TorchSyncBatchNorm()
        net = opened(torchvision.models.resnet18(num_classes=3), x, count=8)
        expected, plain = outputs(net, x), outputs(senet.remove(net), x)
        net = plugin.apply(net)
        assert_same(outputs(net, x), expected, plain)
        assert_same(outputs(plugin.revert(net), x), expected, plain)
