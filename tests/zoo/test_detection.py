"""Feature maps of an SE network under a detector: torchvision's Faster R-CNN with a feature pyramid."""

import pytest
import torch

from senet.insertion import blocks
from senet.zoo import create


@pytest.fixture(scope="module")
def detector():
    pytest.importorskip("torchvision", reason="torchvision is not there")
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.backbone_utils import BackboneWithFPN

    torch.manual_seed(0)
    stages = {f"layer{stage}": str(stage - 1) for stage in (1, 2, 3, 4)}
    backbone = BackboneWithFPN(create("se_resnet50", num_classes=1, width=0.25), stages, [256, 512, 1024, 2048], 64)
    return FasterRCNN(backbone, num_classes=3, min_size=64, max_size=64, box_detections_per_img=5)


def test_one_training_step_and_one_prediction(detector):
    images = [torch.rand(3, 64, 48), torch.rand(3, 48, 64)]
    targets = [
        {"boxes": torch.tensor([[4.0, 6.0, 40.0, 44.0]]), "labels": torch.tensor([1])},
        {"boxes": torch.tensor([[10.0, 5.0, 60.0, 30.0], [2.0, 2.0, 20.0, 40.0]]), "labels": torch.tensor([2, 1])},
    ]
    found = blocks(detector)
    assert len(found) == 16
    before = {name: block.fc1.weight.detach().clone() for name, block in found.items()}
    optimizer = torch.optim.SGD(detector.parameters(), lr=0.01)
    losses = detector.train()(images, targets)
    assert set(losses) == {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    loss = sum(losses.values())
    assert loss.isfinite()
    loss.backward()
    optimizer.step()
    assert all(not torch.equal(block.fc1.weight, before[name]) for name, block in found.items())  # every SE learns
    with torch.no_grad():
        predictions = detector.eval()(images)
    assert [set(p) for p in predictions] == [{"boxes", "labels", "scores"}] * 2
    assert all(p["boxes"].shape == (len(p["scores"]), 4) for p in predictions)


def test_maps_of_the_pyramid(detector):
    maps = detector.backbone(torch.rand(1, 3, 64, 64))
    assert {name: tuple(value.shape) for name, value in maps.items()} == {
        "0": (1, 64, 16, 16),
        "1": (1, 64, 8, 8),
        "2": (1, 64, 4, 4),
        "3": (1, 64, 2, 2),
        "pool": (1, 64, 1, 1),
    }
