"""timm's own utilities: freeze, reparameterisation, EMA, checkpoints, registry, SyncBatchNorm conversion."""

from __future__ import annotations

import pytest
import torch

import senet
from tests.frameworks.staying import OPEN, assert_same, not_doubled, opened, outputs, randomise, works

timm = pytest.importorskip("timm", reason="timm is not installed", exc_type=ImportError)
NETWORKS = {"resnet10t": 4, "repvit_m0_9": 26, "convnext_atto": 12, "mobilenetv2_035": 10}


@pytest.fixture(scope="module")
def x():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def make(name):
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=5)


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "mobilenetv2_035"])
def test_the_network(name, x, tmp_path, row):
    row("timm", f"{name}: insert, train, save", NETWORKS[name])
    works(make(name), x, NETWORKS[name], tmp_path)


@pytest.mark.parametrize(("name", "count"), [("seresnet50", 16), ("efficientnet_b0", 16), ("ecaresnet26t", 8)])
def test_se_that_is_there(name, count, x, row):
    row("timm", f"{name}: its own SE, none put behind it", count)
    not_doubled(make(name), x, count)


def test_freeze_and_unfreeze(x, row):
    row("timm", "resnet10t: `freeze`, `unfreeze`, `freeze_batch_norm_2d`", 4)
    net = opened(make("resnet10t"), x)
    expected, plain = outputs(net, x), outputs(senet.remove(net), x)
    timm.utils.freeze(net)
    assert_same(outputs(net, x), expected, plain)
    timm.utils.unfreeze(net)
    assert_same(outputs(net, x), expected, plain)
    assert len(senet.blocks(net)) == 4
    assert_same(outputs(timm.layers.freeze_batch_norm_2d(net), x), expected, plain)


def test_reparameterize_model(x, row):
    """repvit folds its parallel branches and replaces them: 26 to 0 before SE moved to what replaces its host."""
    row("timm", "repvit_m0_9: `reparameterize_model`", 26)
    net = opened(make("repvit_m0_9"), x)
    count = len(senet.insertion.inserted(net))
    expected, plain = outputs(net, x), outputs(senet.remove(net), x)
    fused = timm.utils.model.reparameterize_model(net)
    assert len(senet.insertion.inserted(fused)) == count
    assert_same(outputs(fused, x), expected, plain, 1e-3)


def test_sync_batch_norm(x, row):
    row("timm", "resnet10t: `convert_sync_batchnorm`", 4)
    net = opened(make("resnet10t"), x)
    expected, plain = outputs(net, x), outputs(senet.remove(net), x)
    assert_same(outputs(timm.layers.convert_sync_batchnorm(net), x), expected, plain)


def test_ema_and_the_saver(x, tmp_path, row):
    row("timm", "resnet10t: `ModelEmaV3`, `CheckpointSaver`, `resume_checkpoint`", 4)
    net = opened(make("resnet10t"), x)
    ema = timm.utils.ModelEmaV3(net, decay=0.5)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    net.train()(x).square().mean().backward()
    optimizer.step()
    ema.update(net)
    saver = timm.utils.CheckpointSaver(net, optimizer, model_ema=ema, checkpoint_dir=str(tmp_path))
    saver.save_checkpoint(0, metric=1.0)
    again = senet.insert(make("resnet10t"), x, OPEN)
    timm.models.resume_checkpoint(again, str(tmp_path / "last.pth.tar"))
    assert_same(outputs(again, x), outputs(net, x), outputs(senet.remove(net), x))
    timm.models.load_checkpoint(again, str(tmp_path / "last.pth.tar"), use_ema=True)
    assert_same(outputs(again, x), outputs(ema.module, x), outputs(net, x))


def test_a_registered_network(x, row):
    row("timm", "`register_model`, as its train script builds networks", 4)

    @timm.models.register_model
    def se_resnet10t_of_a_person(**kwargs):
        net = timm.create_model("resnet10t", **kwargs)
        return senet.insert(net, torch.zeros(1, 3, 64, 64))

    net = timm.create_model("se_resnet10t_of_a_person", pretrained=False, num_classes=7)
    assert len(senet.blocks(net)) == 4
    assert net(x).shape == (2, 7)
    assert randomise(net) is net
