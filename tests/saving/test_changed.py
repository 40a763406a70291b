"""A network that was changed after `create`: its file must not be opened as the network that it was."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn

import senet
from senet.block import SESpec
from senet.errors import ChangedWarning, WeightsError
from senet.insertion import insert
from senet.insertion.joining.synchronise import synchronise
from senet.saving import create
from senet.saving.saving import load, read_metadata, save
from senet.zoo.names.naming import ORIGIN, changed_since
from senet.zoo.names.structure import alike

EXAMPLE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def strided(model):
    model.conv1.stride = (2, 2)


def activated(model):
    model.layer1[0].relu = nn.SiLU()


def forwarded(model):
    model.layer2[0].forward = lambda x: x.repeat(1, 2, 1, 1)[..., ::2, ::2]


def reordered(model):
    first, *rest = model.layer1
    model.layer1 = nn.Sequential(*rest, first)


def doubled(module, args, output):
    return 2 * output


def tied(model):
    model.layer1[0].conv2.weight = model.layer1[0].conv1.weight


CHANGES = {
    "a hook": (lambda model: model.bn1.register_forward_hook(doubled), "bn1: BatchNorm had nothing and has hooks: do"),
    "a tie": (tied, "layer1.0.conv2: Conv2d had nothing and has weight is layer1.0.conv1.weight"),
    "a stride": (strided, "conv1: Conv2d had stride=(1, 1) and has stride=(2, 2)"),
    "an activation": (activated, "layer1.0.relu: it was ReLU() and is SiLU()"),
    "no pooling": (lambda model: setattr(model, "relu", nn.Identity()), "relu: it was ReLU() and is Identity()"),
    "a slope": (lambda model: setattr(model.bn1, "eps", 1.0), "bn1: BatchNorm had eps=1e-05 and has eps=1.0"),
    "a head": (lambda model: setattr(model, "fc", nn.Sequential(nn.Dropout(), model.fc)), "fc: it was Linear("),
    "a forward": (forwarded, "layer2.0: BasicBlock had nothing and has forward=forwarded.<locals>.<lambda>"),
}


class TestChanged:
    @pytest.mark.parametrize(("change", "words"), CHANGES.values(), ids=CHANGES)
    @pytest.mark.parametrize("name", ["resnet20", "se_resnet20"])
    def test_it_is_noticed_and_the_file_needs_the_network(self, tmp_path, name, change, words):
        model, file = create(name, num_classes=3).eval(), tmp_path / "m.safetensors"
        change(model)
        with pytest.warns(ChangedWarning) as caught:
            save(model, file)
        assert f"this {name.removeprefix('se_')} was changed after it was made: {words}" in str(caught[0].message)
        assert read_metadata(file)["model"] is None
        with pytest.raises(WeightsError, match="resnet20 that was changed after it was made: ") as error:
            load(file)
        assert words in str(error.value)
        fresh = create(name, num_classes=3).eval()
        with pytest.raises(WeightsError, match="changed by hand"):
            load(file, fresh)
        change(fresh)
        assert torch.equal(load(file, fresh)(EXAMPLE), model.eval()(EXAMPLE))

    def test_a_new_order_of_equal_blocks_is_noticed(self, tmp_path):
        model = create("resnet20", num_classes=3)
        model.layer1 = nn.Sequential(model.layer1[0], model.layer1[2], nn.Identity(), model.layer1[1])
        with pytest.warns(ChangedWarning, match="layer1: Sequential had 0 → 1 → 2 and has 0 → 1 → 2 → 3"):
            save(model, tmp_path / "m.safetensors")

    def test_it_is_noticed_in_copies_pickles_and_what_was_loaded(self, tmp_path):
        save(create("se_resnet20", num_classes=3), tmp_path / "m.safetensors")
        loaded = load(tmp_path / "m.safetensors")
        for model in (loaded, copy.deepcopy(loaded), pickle.loads(pickle.dumps(loaded))):
            assert changed_since(model) == {}
            model.conv1.padding_mode = "reflect"
            assert list(changed_since(model)) == ["conv1"]


class Counting(nn.Module):
    """A block of a person's own that counts its calls, which is no change of what it computes."""

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.stride, self.calls = stride, 0
        self.conv = nn.Conv2d(3, 4, 3, stride)

    def forward(self, x):
        self.calls += 1
        return self.conv(x).mean((2, 3))


NET = """\
from tests.saving.test_changed import Counting


def make():
    return Counting()
"""

TIED = """\
import torch
from tests.saving.test_changed import Counting


def make():
    model = Counting()
    model.head = torch.nn.Conv2d(3, 4, 3)
    model.head.weight = model.conv.weight
    return model
"""


class TestUnchanged:
    @pytest.mark.parametrize("name", ["se_resnet20", "torchvision:mobilenet_v2", "timm:resnet10t", "timm:seresnet50"])
    def test_what_senet_and_a_training_do_is_no_change(self, tmp_path, name):
        if ":" in name:
            pytest.importorskip(name.partition(":")[0], reason=f"{name} is not there")
        model = create(name, num_classes=3)
        if name.startswith(("torchvision", "timm:resnet")):
            model = insert(model, EXAMPLE, SESpec())
        model.train()(EXAMPLE).sum().backward()
        model = synchronise(model.to(torch.float64).to(memory_format=torch.channels_last))
        nn.init.zeros_(next(model.parameters()))
        assert changed_since(model.requires_grad_(False)) == {}
        with warnings.catch_warnings():
            warnings.simplefilter("error", ChangedWarning)
            save(model, tmp_path / "m.safetensors")
        assert read_metadata(tmp_path / "m.safetensors")["model"] == name.removeprefix("se_")

    def test_pruned_se_is_no_change(self):
        for model in (create("se_resnet20", num_classes=3), create("resnet20", num_classes=3, spec=SESpec(bias=True))):
            gates = {name: torch.ones(block.fc2.out_features) for name, block in senet.insertion.blocks(model).items()}
            for fold in (True, False):
                folded, _ = senet.insertion.fold_gates(model, EXAMPLE, gates, fold=fold)
                assert changed_since(folded) == {}

    def test_a_count_is_no_change_and_a_stride_is(self, tmp_path):
        (tmp_path / "net.py").write_text(NET)
        model = create(f"{tmp_path / 'net.py'}:make")
        model(EXAMPLE)
        assert changed_since(model) == {}
        model.stride = 2
        assert list(changed_since(model)) == [""]

    def test_timms_synchronised_normalisations_are_no_change(self):
        layers = pytest.importorskip("timm.layers", reason="timm is not there")
        model = layers.convert_sync_batchnorm(create("timm:mobilenetv2_035", num_classes=3))
        assert any(type(module).__name__ == "SyncBatchNormAct" for module in model.modules())
        assert changed_since(model) == {}

    def test_what_a_detector_writes_as_it_runs_is_no_change(self, tmp_path):
        """No R-CNN that had run, as `insert` lets it, could be loaded from its file."""
        pytest.importorskip("torchvision", reason="torchvision is not there")
        name, size = "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn", {"min_size": 64, "max_size": 64}
        model = insert(create(name, num_classes=3, **size).eval(), ([EXAMPLE[0]],))
        assert changed_since(model) == {}
        save(model, tmp_path / "m.safetensors")
        assert torch.equal(load(tmp_path / "m.safetensors")([EXAMPLE[0]])[0]["boxes"], model([EXAMPLE[0]])[0]["boxes"])
        was, now = (f"MultiScaleRoIAlign(output_size=(7, 7); scales={scales})" for scales in ("None", "(0.5, 0.25)"))
        assert alike(was, now), "of a file that an earlier version wrote"
        assert not alike(was, now.replace("7, 7", "9, 9"))

    def test_a_note_on_the_network_is_no_change(self):
        model = create("resnet20", num_classes=3)
        model.epoch, model.layer1[0].relu.name = 3, "first; of three"
        assert changed_since(model) == {}
        model.register_buffer("seen", torch.zeros(1))
        assert list(changed_since(model)) == [""]

    def test_a_wrapped_forward_is_no_change(self):
        model = create("resnet20", num_classes=3)
        model.forward = torch.autocast("cpu")(model.forward)
        assert changed_since(model) == {}

    def test_a_hook_of_a_library_is_no_change(self):
        model = create("resnet20", num_classes=3)
        model.register_forward_hook(nn.functional.relu)  # for one of a profiler's
        assert changed_since(model) == {}

    def test_a_tie_of_its_own_is_no_change_and_its_end_is(self, tmp_path):
        (tmp_path / "net.py").write_text(TIED)
        model = create(f"{tmp_path / 'net.py'}:make")
        assert changed_since(model) == changed_since(copy.deepcopy(model).double()) == {}
        model.head.weight = nn.Parameter(model.conv.weight.clone())
        assert list(changed_since(model)) == ["head"]

    def test_an_earlier_version_recorded_nothing(self, tmp_path):
        model = create("resnet20", num_classes=3)
        del model.__dict__[ORIGIN]["structure"]
        strided(model)
        save(model, tmp_path / "m.safetensors")
        assert read_metadata(tmp_path / "m.safetensors")["changed"] == {}
