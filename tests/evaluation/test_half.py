"""Networks in half precision and in double precision are measured as they are."""

import numpy as np
import pytest
import torch
from PIL import Image

import senet
from senet.study import evaluate, explain, predict, prune


@pytest.fixture
def pictures(tmp_path):
    draw = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(3):
            pixels = draw.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{index}.png")
    return str(tmp_path / "data")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_network_of_another_dtype_is_measured(pictures, dtype):
    model = senet.create("resnet20", num_classes=2, spec=senet.SESpec()).to(dtype)
    how = {"progress": False, "size": 16}
    assert np.isfinite(evaluate(model, pictures, split="all", **how).loss)
    assert len(predict(model, pictures, **how).images) == 6
    explained = explain(model, pictures, split="all", **how)
    assert prune(model, pictures, split="all", blocks="*", explanation=explained, **how).images == 6
    assert {each.dtype for each in model.parameters()} == {dtype}
    with torch.no_grad():
        model.fc.weight.mul_(2)
    with pytest.raises(senet.errors.StudyError, match="its weights are others"):
        prune(model, pictures, split="all", blocks="*", explanation=explained, **how)
