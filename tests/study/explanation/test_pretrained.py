"""The pretrained MobileNetV3-small over the ImageNet photos: its gates by hand, and its known accuracy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from senet.console.progress import Progress
from senet.study import explain, prune
from senet.study.explanation.explain import gate_statistics
from senet.study.explanation.subject import open_subject

pytest.importorskip("timm")
NAME = "timm:tf_mobilenetv3_small_100"


@pytest.fixture
def photos(shared, imagenet100):
    """How the network is made and the photos are seen."""
    return {
        "data": imagenet100,
        "weights": shared / "weights" / "tf_mobilenetv3_small_100.imagenet1001.safetensors",
        "num_classes": 1001,
        "classes": shared / "data" / "imagenet-wnids.json",
        "class_offset": 1,
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "devices": "cpu",
    }


def test_the_gates_are_those_that_the_blocks_multiplied_by(photos):
    """By a hook on each block's last layer, whose hard sigmoid is written out here."""
    data = photos.pop("data")
    with open_subject(NAME, data, photos) as subject:
        plain, found = gate_statistics(subject, Progress(False))
        by_hand = {name: [] for name in found}
        hooks = [
            block.conv_expand.register_forward_hook(
                lambda layer, args, output, name=name: by_hand[name].append(
                    ((output.double() + 3) / 6).clamp(0, 1).flatten(1)
                )
            )
            for name, block in subject.blocks.items()
        ]
        again = subject.predict(Progress(False))
        for hook in hooks:
            hook.remove()
    assert int(plain.correct.sum()) == 77
    assert round(plain.accuracy_of_five * 100) == 93
    assert torch.equal(plain.top, again.top)
    assert len(found) == 9
    for name, gates in found.items():
        hand = torch.cat(by_hand[name]).numpy()
        assert hand.shape == (100, len(gates.mean))
        np.testing.assert_allclose(gates.mean.numpy(), hand.mean(0), atol=1e-6)
        np.testing.assert_allclose(gates.sd.numpy(), hand.std(0), atol=1e-6)
        np.testing.assert_allclose(gates.low.numpy(), hand.min(0), atol=1e-6)
        np.testing.assert_allclose(gates.high.numpy(), hand.max(0), atol=1e-6)
        assert gates.constant.tolist() == (hand.max(0) - hand.min(0) < 0.02).tolist()
        assert gates.specificity is None  # one photo of each class
    assert found["blocks.0.0.se"].saturated.all()
    assert found["blocks.3.0.se"].constant.all()


@pytest.mark.long
def test_what_docs_role_says(photos, tmp_path):
    found = explain(NAME, out=tmp_path / "explained", progress=False, **photos)
    assert found.stages[-1].at_mean.top1 == 0.33
    assert found.stages[-1].removed.top1 == 0
    assert found.advice.blocks == ("blocks.0.0.se", "blocks.2.0.se", "blocks.3.0.se")
    given = prune(NAME, advice=True, explanation=tmp_path / "explained", progress=False, **photos)
    assert given.top1_after == given.top1_predicted == found.advice.effect.top1 == 0.8
    assert given.same_predictions == 100
    assert given.blocks["blocks.0.0.se"] == "into blocks.0.0.conv_pw"
