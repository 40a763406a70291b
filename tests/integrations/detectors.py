"""A twin of how ultralytics builds, trains, saves and fuses a detector, in the modules where it has these classes."""

from __future__ import annotations

import copy
import sys
import types

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


class Conv(nn.Module):
    """A convolution, a normalisation and an activation, which all of these modules share."""

    default_act = nn.SiLU()

    def __init__(self, c1, c2, k=3):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(c1, c2, k, padding=k // 2, bias=False), nn.BatchNorm2d(c2)
        self.act = self.default_act

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))

    def forward_fuse(self, x):
        return self.act(self.conv(x))


class Bottleneck(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.cv1, self.cv2 = Conv(c, c), Conv(c, c)

    def forward(self, x):
        return x + self.cv2(self.cv1(x))


class BaseModel(nn.Module):
    """Built from a dict; takes the weights that fit by name, and says nothing of the others."""

    def __init__(self, yaml, nc):
        super().__init__()
        self.yaml = {**yaml, "nc": nc}
        c = yaml["width"]
        self.model = nn.Sequential(Conv(3, c), Bottleneck(c), Bottleneck(c), nn.Conv2d(c, nc, 1))
        self.stride = torch.tensor([8.0])

    def forward(self, x):
        return self.model(x)

    def load(self, weights, verbose=True):
        source = (weights.get("ema") or weights["model"]) if isinstance(weights, dict) else weights
        ours = self.state_dict()
        found = {k: v for k, v in source.float().state_dict().items() if k in ours and v.shape == ours[k].shape}
        self.load_state_dict(found, strict=False)
        self.transferred = len(found), len(ours)

    def fuse(self):
        for m in self.modules():
            if isinstance(m, Conv) and hasattr(m, "bn"):
                m.conv = fuse_conv_bn_eval(m.conv, m.bn)
                delattr(m, "bn")
                m.forward = m.forward_fuse
        return self


class BaseTrainer:
    def __init__(self):
        self.data = {"nc": 2, "channels": 3}

    def get_model(self, cfg=None, weights=None, verbose=True):
        model = BaseModel(cfg, self.data["nc"])
        if weights:
            model.load(weights)
        return model

    def train(self, model, file, steps=3):
        """Steps of training; writes the average of the weights in half precision, the whole module pickled."""
        average = copy.deepcopy(model).eval()
        optimizer = torch.optim.SGD(model.train().parameters(), 0.05)
        for step in range(steps):
            torch.manual_seed(step)
            model(torch.rand(2, 3, 16, 16)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            for ours, theirs in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
                if ours.is_floating_point():
                    ours.lerp_(theirs.detach(), 0.5)
        torch.save({"ema": copy.deepcopy(average).half(), "model": None}, file)
        return average


class DetectionTrainer(BaseTrainer):
    pass


def load_checkpoint(file):
    """The pickled module in full precision, fused, as validation and prediction take it."""
    return torch.load(file, weights_only=False)["ema"].float().fuse().eval()


def install(monkeypatch):
    """Give these classes the names that they have in ultralytics."""
    for name, members in {
        "ultralytics": {},
        "ultralytics.engine": {},
        "ultralytics.engine.trainer": {"BaseTrainer": BaseTrainer},
        "ultralytics.models": {},
        "ultralytics.models.yolo": {},
        "ultralytics.models.yolo.detect": {"DetectionTrainer": DetectionTrainer},
        "ultralytics.nn": {},
        "ultralytics.nn.tasks": {"BaseModel": BaseModel},
    }.items():
        module = types.ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    for name, value in {"load": BaseModel.load, "_senet_watches": False}.items():
        monkeypatch.setattr(BaseModel, name, value, raising=False)  # what is put around it goes with the test
