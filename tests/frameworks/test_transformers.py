"""transformers: save_pretrained and from_pretrained, Auto classes, pipelines and its Trainer, without downloads."""

from __future__ import annotations

import logging

import pytest
import torch

import senet
from tests.frameworks.staying import OPEN, assert_same, differ, not_doubled, outputs, randomise, works

transformers = pytest.importorskip("transformers", reason="transformers is not installed", exc_type=ImportError)
SIZES = {"hidden_sizes": [8, 16, 32, 64], "depths": [1, 1, 2, 1], "num_labels": 3}


def resnet():
    torch.manual_seed(0)
    config = transformers.ResNetConfig(embedding_size=8, layer_type="basic", **SIZES)
    return transformers.ResNetForImageClassification(config).eval()


NETWORKS = {
    "ResNet": (resnet, 5),
    "ConvNext": (lambda: transformers.ConvNextForImageClassification(transformers.ConvNextConfig(**SIZES)), 5),
    "MobileNetV2": (
        lambda: transformers.MobileNetV2ForImageClassification(transformers.MobileNetV2Config(depth_multiplier=0.35)),
        10,
    ),
}


@pytest.fixture
def x():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def net(x):
    return senet.insert(randomise(resnet()), x, OPEN).eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_network(name, x, tmp_path, row):
    make, count = NETWORKS[name]
    row("transformers", f"{name}: insert, train, save", count)
    works(make(), x, count, tmp_path)


def test_regnet_y_has_se_already(x, row):
    row("transformers", "RegNetY: its own SE, none put behind it", 5)
    config = transformers.RegNetConfig(embedding_size=8, groups_width=8, layer_type="y", **SIZES)
    not_doubled(transformers.RegNetForImageClassification(config), x, 5)


@pytest.mark.parametrize("kind", ["ResNetForImageClassification", "AutoModelForImageClassification"])
def test_save_and_from_pretrained(net, x, kind, tmp_path, row):
    from senet.integrations.transformers import from_pretrained

    row("transformers", f"ResNet: `save_pretrained`, {kind}", 5)
    net.save_pretrained(tmp_path)
    again, info = from_pretrained(getattr(transformers, kind), tmp_path, output_loading_info=True)
    assert type(again) is transformers.ResNetForImageClassification
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert_same(outputs(again, x), outputs(net, x), outputs(senet.remove(net), x))
    again.save_pretrained(tmp_path / "again")
    assert_same(outputs(from_pretrained(type(again), tmp_path / "again"), x), outputs(net, x))
    net.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    placed = from_pretrained(type(again), tmp_path / "shards", device_map={"": "cpu"})
    assert_same(outputs(placed, x), outputs(net, x))
    half = from_pretrained(type(again), tmp_path, dtype=torch.bfloat16)
    assert_same(outputs(half.float(), x), outputs(net, x), outputs(senet.remove(net), x), 5e-2)


def test_the_body_and_the_head(net, x, tmp_path, row):
    from senet.integrations.transformers import from_pretrained

    row("transformers", "ResNet: the body of a saved network, a head on a saved body", 5)
    net.save_pretrained(tmp_path / "whole")
    body = from_pretrained(transformers.ResNetModel, tmp_path / "whole")
    assert_same(outputs(body, x), outputs(net.resnet, x), outputs(senet.remove(net).resnet, x))
    body.save_pretrained(tmp_path / "body")
    whole = from_pretrained(transformers.ResNetForImageClassification, tmp_path / "body")
    assert_same(outputs(whole.resnet, x), outputs(net.resnet, x))


def test_a_pipeline(net, tmp_path, row):
    from PIL import Image

    from senet.integrations.transformers import keeping_se

    row("transformers", "ResNet: `pipeline` within `keeping_se`", 5)
    net.save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path)
    with keeping_se():
        classify = transformers.pipeline("image-classification", model=str(tmp_path), device="cpu")
    assert len(senet.blocks(classify.model)) == 5
    assert len(classify(Image.new("RGB", (64, 64)))) == 3


def test_a_plain_class_says_that_se_is_lost(net, tmp_path):
    net.save_pretrained(tmp_path)
    with pytest.warns(senet.SEWarning, match=r"records SE at 5 places.*load it with senet\.integrations"):
        transformers.ResNetForImageClassification.from_pretrained(tmp_path)


def test_the_config_follows_the_network(net, x, tmp_path):
    from senet.integrations.transformers import from_pretrained

    net.save_pretrained(tmp_path)
    removed = senet.remove(net)
    removed.save_pretrained(tmp_path / "removed")
    plain = from_pretrained(type(net), tmp_path / "removed")
    assert not senet.blocks(plain)
    assert_same(outputs(plain, x), outputs(removed, x), outputs(net, x))


def test_the_trainer(x, tmp_path, row):
    from senet.integrations.transformers import from_pretrained

    pytest.importorskip("accelerate", reason="accelerate is not installed", exc_type=ImportError)
    row("transformers", "ResNet: Trainer, its checkpoint, `resume_from_checkpoint`", 5)
    images, labels = torch.rand(8, 3, 64, 64), torch.arange(8) % 3
    data = [{"pixel_values": image, "labels": label} for image, label in zip(images, labels, strict=True)]
    logging.getLogger("transformers").setLevel(logging.ERROR)

    def trainer(net):
        settings = transformers.TrainingArguments(
            output_dir=str(tmp_path), max_steps=3, per_device_train_batch_size=4, save_steps=2, report_to=[],
            use_cpu=True, disable_tqdm=True, learning_rate=1e-3, seed=0,
        )  # fmt: skip
        return transformers.Trainer(model=net, args=settings, train_dataset=data)

    net = senet.insert(resnet(), x, OPEN)
    before = {k: v.clone() for k, v in net.state_dict().items() if ".se.fc" in k}
    trainer(net).train()
    assert all(not torch.equal(v, net.state_dict()[k]) for k, v in before.items())
    loaded = from_pretrained(transformers.ResNetForImageClassification, tmp_path / "checkpoint-2")
    assert differ(outputs(loaded, x), outputs(senet.remove(loaded), x))
    resumed = senet.insert(resnet(), x, OPEN)
    trainer(resumed).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert_same(outputs(resumed, x), outputs(net, x), outputs(loaded, x))
