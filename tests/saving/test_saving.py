"""Networks saved and loaded again, and what their files say of them."""

import copy
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

import senet
from senet.block import SEBlock, SESpec
from senet.errors import WeightsError
from senet.export.outputs import meta_of
from senet.insertion import blocks, insert, inserted, remove
from senet.saving import create
from senet.saving.saving import load, read_metadata, save
from senet.zoo.names.naming import origin


class Own(nn.Module):
    """A residual network of the caller's own, with a tied layer and a buffer."""

    def __init__(self, channels: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn = nn.BatchNorm2d(channels)
        self.first = nn.Linear(channels, channels)
        self.second = nn.Linear(channels, channels)
        self.second.weight = self.first.weight
        self.register_buffer("mean", torch.arange(channels, dtype=torch.float64))

    def forward(self, x):
        x = self.stem(x).relu()
        x = x + self.bn(self.conv(x)).relu()
        return self.second(self.first(x.mean((2, 3))))


class Counting(nn.Linear):
    """A layer with a state of its own beside its tensors."""

    count = 0

    def get_extra_state(self):
        return torch.tensor(self.count)

    def set_extra_state(self, state):
        self.count = int(state)


def checkpointed(model):
    wrappers = pytest.importorskip("torch.distributed.algorithms._checkpoint.checkpoint_wrapper")
    wrappers.apply_activation_checkpointing(model, check_fn=lambda part: hasattr(part, "bn2"))
    return model


def partly_compiled(model):
    model.layer1[1] = torch.compile(model.layer1[1], backend="eager")
    return model


def in_fabric(model):
    fabric = pytest.importorskip("lightning.fabric", reason="lightning is not there")
    return fabric.Fabric(accelerator="cpu", devices=1).setup(model)


EXAMPLE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def trained(model):
    """The model with values that no initialisation has."""
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) * 0.1 + 0.5)
    return model


def same_state(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(
        torch.equal(one[key], other[key]) and one[key].dtype == other[key].dtype for key in one
    )


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def text_of(path):
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["senet"])


class TestRoundTrip:
    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("resnet20", {"num_classes": 3}),
            ("resnet20", {"in_channels": 1}),
            ("timm:resnet10t", {"num_classes": 3, "stem_width": 16}),
            ("torchvision:mobilenet_v2", {"width_mult": 0.25}),
        ],
    )
    def test_plain(self, tmp_path, name, options):
        if ":" in name:
            pytest.importorskip(name.partition(":")[0], reason=f"{name} is not there")
        model = trained(create(name, **options))
        save(model, tmp_path / "m.safetensors")
        again = load(tmp_path / "m.safetensors")
        assert same_state(again, model)
        assert origin(again) == origin(model)
        assert not any(module.training for module in again.modules())
        assert names(tmp_path) == ["m.safetensors"]

    def test_se(self, tmp_path, se_resnet20):
        save(se_resnet20, tmp_path / "model.safetensors")
        again = load(tmp_path)  # the folder of a run
        assert same_state(again, se_resnet20)
        assert inserted(again) == inserted(se_resnet20)
        assert torch.equal(again(EXAMPLE), copy.deepcopy(se_resnet20).eval()(EXAMPLE))
        assert not blocks(remove(again))

    def test_mobilenet_with_every_kind_of_block(self, tmp_path):
        pytest.importorskip("torchvision", reason="torchvision is not there")
        spec = SESpec(width=3, squeeze="max", gate="hard_sigmoid", bias=True, placement="identity")
        plain = create("torchvision:mobilenet_v2", num_classes=4, width_mult=0.25)
        model = insert(plain, EXAMPLE, spec, where="features.1?.*").eval()
        trained(model)
        save(model, tmp_path / "m.safetensors")
        again = load(tmp_path / "m.safetensors")
        assert same_state(again, model)
        assert inserted(again) == inserted(model) != {}
        assert torch.equal(again(EXAMPLE), model(EXAMPLE))

    @pytest.mark.parametrize(
        ("now", "start"),
        [
            ({"gate": "hard_sigmoid"}, "identity"),
            ({"gate": "tanh"}, "paper"),
            ({"squeeze": "max"}, "identity"),
            ({"bias": True, "width": 3}, "identity"),
        ],
    )
    @pytest.mark.parametrize("exchanged", [False, True])
    def test_a_block_as_it_is_now(self, tmp_path, now, start, exchanged):
        model = trained(insert(Own(8), EXAMPLE, SESpec(start="identity")).eval())
        if exchanged or "bias" in now:
            model.bn.se = trained(nn.Sequential(SEBlock(8, scale=2.0, **now)))[0].eval()
        else:
            model.bn.se.squeeze = now.get("squeeze", "avg")
            model.bn.se.gate_function = now.get("gate", "sigmoid")
        save(model, tmp_path / "m.safetensors")
        again = load(tmp_path / "m.safetensors", model=Own(8))
        assert repr(again) == repr(model)
        assert torch.equal(again(EXAMPLE), model(EXAMPLE))
        assert inserted(again) == inserted(model) == {"bn": (inserted(model)["bn"][0], SESpec(**now, start=start))}

    def test_a_gate_that_no_file_can_name_is_the_one_that_was_inserted(self):
        model = insert(Own(8), EXAMPLE)
        model.bn.se.gate_function = [torch.tanh]
        assert inserted(model)["bn"][1].gate == "sigmoid"

    def test_own_network(self, tmp_path):
        plain = Own()
        model = trained(insert(plain, EXAMPLE, SESpec(2)))
        before = copy.deepcopy(plain.state_dict())
        save(model, tmp_path / "m.safetensors")
        for given in (plain, insert(plain, EXAMPLE, SESpec(3))):  # the file's SE takes the place of another
            again = load(tmp_path / "m.safetensors", model=given)
            assert same_state(again, model)
            assert inserted(again) == inserted(model)
            assert again.second.weight is again.first.weight
            assert torch.equal(again(EXAMPLE), model.eval()(EXAMPLE))
        assert not blocks(plain)
        assert plain.training
        assert all(torch.equal(value, before[key]) for key, value in plain.state_dict().items())

    def test_own_network_keeps_what_it_is(self, tmp_path, se_resnet20):
        save(se_resnet20, tmp_path / "m.safetensors")
        again = load(tmp_path / "m.safetensors", model=create("resnet20", num_classes=3))
        assert origin(again) == ("resnet20", {"num_classes": 3})
        assert same_state(again, se_resnet20)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_dtypes(self, tmp_path, se_resnet20, dtype):
        model = copy.deepcopy(se_resnet20).to(dtype)
        save(model, tmp_path / "m.safetensors")
        again = load(tmp_path / "m.safetensors")
        assert same_state(again, model)
        assert same_state(load(tmp_path / "m.safetensors", model=create("resnet20", num_classes=3)), model)

    def test_tied_tensors_are_stored_once(self, tmp_path):
        model = Own()
        save(model, tmp_path / "m.safetensors")
        assert text_of(tmp_path / "m.safetensors")["aliases"] == {"second.weight": "first.weight"}
        assert "second.weight" not in load_file(tmp_path / "m.safetensors")

    def test_views_and_memory_formats(self, tmp_path):
        model = nn.Module()
        storage = torch.arange(24.0)
        model.register_buffer("whole", storage)
        model.register_buffer("other_shape", storage.view(4, 6))
        model.register_buffer("transposed", storage.view(4, 6).t())
        model.register_buffer("part", storage[3:7])
        model.register_buffer("again", storage[3:7])
        model.register_buffer("expanded", torch.ones(1).expand(5))
        model.register_buffer("channels_last", torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last))
        model.register_buffer("conjugate", torch.randn(3, dtype=torch.complex64).conj())
        model.register_buffer("empty", torch.zeros(0, 3))
        model.register_buffer("also_empty", torch.zeros(0, 3))
        model.register_buffer("number", torch.tensor(3))
        save(model, tmp_path / "m.safetensors")
        assert text_of(tmp_path / "m.safetensors")["aliases"] == {"again": "part"}
        fresh = copy.deepcopy(model)
        for name, buffer in model.named_buffers():
            setattr(fresh, name, torch.zeros(buffer.shape, dtype=buffer.dtype))
        assert same_state(load(tmp_path / "m.safetensors", model=fresh), model)

    @pytest.mark.parametrize(
        "wrap", [nn.DataParallel, AveragedModel, lambda model: torch.compile(model, backend="eager")]
    )
    def test_wrapped_networks_are_saved_as_what_they_wrap(self, tmp_path, wrap):
        model = create("resnet20", num_classes=3)
        save(wrap(model), tmp_path / "m.safetensors")
        assert same_state(load(tmp_path / "m.safetensors"), model)

    @pytest.mark.parametrize("wrap", [checkpointed, partly_compiled, in_fabric])
    def test_wrappers_around_parts_are_not_in_the_file(self, tmp_path, se_resnet20, wrap):
        """Its sites had their names, which the network of the file has not: it could not be loaded."""
        save(wrap(copy.deepcopy(se_resnet20)), tmp_path / "m.safetensors")
        again = load(tmp_path / "m.safetensors")
        assert same_state(again, se_resnet20)
        assert inserted(again) == inserted(se_resnet20)

    def test_a_feature_extractor(self, tmp_path):
        """Which is a GraphModule without the notes that others have."""
        features = pytest.importorskip("torchvision.models.feature_extraction", reason="torchvision is not there")
        net, other = (features.create_feature_extractor(create("resnet20"), ["layer2"]) for _ in range(2))
        save(insert(net, EXAMPLE), tmp_path / "m.safetensors")
        assert torch.equal(load(tmp_path / "m.safetensors", other)(EXAMPLE)["layer2"], net.eval()(EXAMPLE)["layer2"])
        assert meta_of(net) == {}

    def test_a_file_is_loaded_into_parts_that_are_wrapped(self, tmp_path, se_resnet20):
        save(se_resnet20, tmp_path / "m.safetensors")
        again = load(tmp_path / "m.safetensors", checkpointed(create("resnet20", num_classes=3)))
        assert same_state(again, se_resnet20)
        assert torch.equal(again(EXAMPLE), copy.deepcopy(se_resnet20).eval()(EXAMPLE))

    def test_what_a_module_says_of_itself_is_given_to_it(self, tmp_path):
        model = Counting(2, 2)
        model.count = 3
        save(model, tmp_path / "m.safetensors")
        assert load(tmp_path / "m.safetensors", Counting(2, 2)).count == 3

    def test_what_was_removed_is_not_saved(self, tmp_path, se_resnet20):
        save(remove(se_resnet20), tmp_path / "m.safetensors")
        assert not blocks(load(tmp_path / "m.safetensors"))

    def test_same_model_same_file(self, tmp_path, se_resnet20):
        for name in ("a", "b"):
            save(se_resnet20, tmp_path / name)
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

    def test_leaves_random_state_and_model(self, tmp_path, se_resnet20):
        model = copy.deepcopy(se_resnet20).train()
        state = torch.get_rng_state()
        save(model, tmp_path / "m.safetensors")
        assert torch.equal(torch.get_rng_state(), state)
        assert model.training
        assert same_state(model, se_resnet20)


class TestMetadata:
    def test_of_a_file(self, tmp_path, se_resnet20):
        own = {"classes": ["cat", "naïve \ud83d"], "mean": (0.5, 0.25), "size": 32, "nested": {"a": [None, True]}}
        save(se_resnet20, tmp_path / "model.safetensors", metadata=own)
        found = read_metadata(tmp_path)
        assert found["metadata"] == {**own, "mean": [0.5, 0.25]}
        assert (found["model"], found["options"]) == ("resnet20", {"num_classes": 3})
        assert (found["format"], found["senet"], found["torch"]) == (1, senet.__version__, torch.__version__)
        assert found["sites"][0]["site"]["name"] == "layer1.0.bn2"
        assert found["sites"][0]["spec"]["start"] == "paper"

    @pytest.mark.parametrize(
        ("metadata", "message"),
        [
            ({"a": {"b": [1, object()]}}, r"metadata\['a'\]\['b'\]\[1\] is <object .*cannot be written as JSON"),
            ({"a": float("nan")}, r"metadata\['a'\] is nan"),
            ({3: "a"}, "metadata has the key 3; JSON's keys are strings"),
            ({"a": torch.zeros(2)}, r"metadata\['a'\] is tensor"),
            (["a"], "metadata is a mapping, not a list"),
        ],
    )
    def test_that_cannot_be_written(self, tmp_path, metadata, message):
        with pytest.raises(ValueError, match=message):
            save(nn.Linear(2, 2), tmp_path / "m.safetensors", metadata=metadata)
        assert names(tmp_path) == []

    def test_of_other_files(self, tmp_path):
        save_file({"w": torch.zeros(2)}, tmp_path / "m.safetensors")
        for function in (read_metadata, load):
            with pytest.raises(WeightsError, match=r"senet.save did not write it. Use senet.create\(NAME, weights="):
                function(tmp_path / "m.safetensors")
            with pytest.raises(WeightsError, match=r"no.safetensors does not exist; load takes a file that"):
                function(tmp_path / "no.safetensors")
            with pytest.raises(WeightsError, match=r"model.safetensors does not exist"):
                function(tmp_path)
