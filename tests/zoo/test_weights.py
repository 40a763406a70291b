import os
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from senet.block import SEBlock, SESpec
from senet.insertion import insert
from senet.saving.saving import read_metadata, save
from senet.zoo import WeightsError, classes_in, create, load_weights, read_weights


class Small(nn.Module):
    """A convolution, a normalisation, a linear classifier."""

    def __init__(self, channels: int = 4, classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3)
        self.bn = nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels, classes)

    def forward(self, x):
        return self.head(self.bn(self.conv(x)).mean((2, 3)))


class Code:
    """What a hostile pickle holds: loading it makes a file."""

    def __init__(self, witness) -> None:
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (str(self.witness),)


def written(path, state, **options):
    (save_file if path.suffix == ".safetensors" else lambda s, p: torch.save(s, p, **options))(state, path)
    return path


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


class TestRead:
    @pytest.mark.parametrize(
        ("suffix", "options"),
        [(".safetensors", {}), (".pth", {}), (".pt", {"_use_new_zipfile_serialization": False})],
    )
    def test_formats(self, tmp_path, suffix, options):
        state = Small().state_dict()
        assert same(read_weights(written(tmp_path / f"w{suffix}", state, **options)), state)

    def test_the_content_decides_not_the_name(self, tmp_path):
        state = Small().state_dict()
        save_file(state, tmp_path / "w.pth")
        torch.save(state, tmp_path / "w.safetensors")
        assert same(read_weights(tmp_path / "w.pth"), state)
        assert same(read_weights(tmp_path / "w.safetensors"), state)

    @pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
    def test_a_name_that_is_not_utf8(self, tmp_path, suffix):
        state = Small().state_dict()
        path = tmp_path / os.fsdecode(b"caf\xe9" + suffix.encode())
        written(tmp_path / f"w{suffix}", state).rename(path)
        assert same(read_weights(path), state)

    @pytest.mark.parametrize(
        "wrap",
        [
            lambda state: {"state_dict": state, "epoch": 3},
            lambda state: {"model": state, "optimizer": {}},
            lambda state: {f"module.{key}": value for key, value in state.items()},
            lambda state: {"state_dict": {f"module._orig_mod.{key}": value for key, value in state.items()}},
            lambda state: {key: nn.Parameter(value, requires_grad=False) for key, value in state.items()},
        ],
    )
    def test_wrappers_and_prefixes(self, tmp_path, wrap):
        state = Small().state_dict()
        assert same(read_weights(written(tmp_path / "w.pth", wrap(state))), state)

    def test_a_saved_network(self, tmp_path):
        model = Small()
        model.tied = model.head
        save(model, tmp_path / "saved.safetensors")
        assert same(read_weights(tmp_path / "saved.safetensors"), model.state_dict())

    def test_a_saved_networks_preprocessing_stays_with_its_weights(self, tmp_path):
        how = {"size": 8, "channels": "BGR"}
        save(Small(), tmp_path / "saved.safetensors", metadata={"preprocessing": how})
        model = Small()
        report = load_weights(model, tmp_path / "saved.safetensors")
        assert report.preprocessing == how
        save(model, tmp_path / "again.safetensors")
        assert read_metadata(tmp_path / "again.safetensors")["metadata"] == {"preprocessing": how}

    @pytest.mark.parametrize("kind", ["w.pth", "old.pth", "w.safetensors"])
    @pytest.mark.parametrize("part", [0.02, 0.5, 0.99])
    def test_truncated(self, tmp_path, kind, part):
        path = tmp_path / kind
        written(
            path,
            Small(channels=64).state_dict(),
            **({"_use_new_zipfile_serialization": False} if kind == "old.pth" else {}),
        )
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
        # an old file may end within the name of something that PyTorch needs, which then is another name
        refused = "|is refused" if kind == "old.pth" else ""
        with pytest.raises(WeightsError, match=rf"{kind} (is.* truncated or damaged{refused})"):
            read_weights(path)

    @pytest.mark.parametrize("old", [False, True])
    def test_code_is_not_run(self, tmp_path, old):
        path = tmp_path / "evil.pth"
        torch.save({"weight": Code(tmp_path / "ran")}, path, _use_new_zipfile_serialization=not old)
        with pytest.raises(
            WeightsError, match=r"evil.pth is refused: it holds more than tensors \(it asks for posix.mkdir\)"
        ):
            read_weights(path)
        path.write_bytes(pickle.dumps(Code(tmp_path / "ran")))
        with pytest.raises(WeightsError, match=r"evil.pth is refused"):
            read_weights(path)
        assert not (tmp_path / "ran").exists()

    def test_a_whole_pickled_model(self, tmp_path):
        torch.save(nn.Linear(2, 2), tmp_path / "model.pth")
        with pytest.raises(
            WeightsError, match=r"asks for torch.nn.modules.linear.Linear.*Save model.state_dict\(\) alone"
        ):
            read_weights(tmp_path / "model.pth")

    def test_bombs_and_programs(self, tmp_path):
        torch.save({"w": torch.zeros(100_000)}, tmp_path / "w.pth")
        with (
            zipfile.ZipFile(tmp_path / "w.pth") as one,
            zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as two,
        ):
            for entry in one.infolist():
                two.writestr(entry.filename, one.read(entry.filename))
        with pytest.raises(WeightsError, match=r"bomb.pth is compressed \(\d+ bytes that unpack to 40\d+\)"):
            read_weights(tmp_path / "bomb.pth")
        with zipfile.ZipFile(tmp_path / "program.pt", "w") as archive:
            archive.writestr("program/constants.pkl", b"")
        with pytest.raises(WeightsError, match="is a TorchScript program, not weights"):
            read_weights(tmp_path / "program.pt")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "is empty"),
            (
                b"<html>404</html>",
                r"begins with b'<html>404</html>': neither a .safetensors file nor one that torch.save",
            ),
            (b"version https://git-lfs.github.com/spec/v1\n", "begins with b'version https://git-lfs"),
        ],
    )
    def test_no_weights(self, tmp_path, content, message):
        (tmp_path / "w.pth").write_bytes(content)
        with pytest.raises(WeightsError, match=message):
            read_weights(tmp_path / "w.pth")

    @pytest.mark.parametrize(
        ("held", "message"),
        [
            (torch.zeros(2), "holds a Tensor, not a state dict"),
            ([torch.zeros(2)], "holds a list, not a state dict"),
            ({}, "holds no tensors"),
            (
                {"generator": {"w": torch.zeros(1)}},
                r"'generator' is a dict, not a tensor; .* under 'state_dict'",
            ),
            ({"w": torch.zeros(1), "epoch": 3}, "'epoch' is an int, not a tensor"),
            ({3: torch.zeros(1)}, "its key 3 is not a name"),
        ],
    )
    def test_not_tensors(self, tmp_path, held, message):
        torch.save(held, tmp_path / "w.pth")
        with pytest.raises(WeightsError, match=message):
            read_weights(tmp_path / "w.pth")

    def test_missing(self, tmp_path):
        with pytest.raises(WeightsError, match=r"no.pth does not exist; weights are a .safetensors"):
            read_weights(tmp_path / "no.pth")
        with pytest.raises(WeightsError, match="is not a file"):
            read_weights(tmp_path)


class TestLoad:
    def test_all_of_them(self, tmp_path):
        state = Small().state_dict()
        model = Small()
        report = load_weights(model, written(tmp_path / "w.pth", state))
        assert same(model.state_dict(), state)
        assert (report.tensors, report.classes, report.fresh, report.without_se, report.notes) == (
            len(state),
            3,
            (),
            (),
            (),
        )
        assert str(report) == f"{tmp_path / 'w.pth'}: {len(state)} tensors loaded"

    def test_head_of_another_size(self, tmp_path):
        path = written(tmp_path / "w.pth", Small(classes=7).state_dict())
        model = Small()
        before = model.head.weight.clone()
        report = load_weights(model, path)
        assert report.fresh == ("head",)
        assert report.classes == 7
        assert report.notes == ("head: 7 classes in the file, 3 wanted: starts fresh",)
        assert torch.equal(model.head.weight, before)
        assert torch.equal(model.conv.weight, read_weights(path)["conv.weight"])
        state = {key: value.clone() for key, value in model.state_dict().items()}
        with pytest.raises(
            WeightsError, match=r"2 of another shape: head.weight \(7, 4\) in the file, \(3, 4\) in the network"
        ):
            load_weights(model, path, head="strict")
        assert same(model.state_dict(), state)
        with pytest.raises(ValueError, match="head is 'replace' or 'strict', not 'drop'"):
            load_weights(model, path, head="drop")

    def test_convolutional_and_auxiliary_heads(self, tmp_path):
        class Heads(nn.Module):
            def __init__(self, classes):
                super().__init__()
                self.aux = nn.Linear(2, classes)
                self.body = nn.Conv2d(3, 2, 1)
                self.final = nn.Conv2d(2, classes, 1)

        report = load_weights(Heads(3), written(tmp_path / "w.pth", Heads(9).state_dict()))
        assert report.fresh == ("aux", "final")
        assert report.classes == 9

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda s: s.pop("bn.weight"), r"1 missing from the file: bn.weight \(4,\)"),
            (lambda s: s.update(more=torch.zeros(2, 1)), r"1 unknown to the network: more \(2, 1\)"),
            (lambda s: s.update({"conv.bias": torch.zeros(5)}), r"conv.bias \(5,\) in the file, \(4,\) in the network"),
            (lambda s: s.update({"head.weight": torch.zeros(3, 5)}), r"head.weight \(3, 5\) in the file"),
            (
                lambda s: s.update({"conv.bias": torch.zeros(4, dtype=torch.int8)}),
                r"conv.bias \(4,\) of int8 in the file, \(4,\) in the network",
            ),
            (lambda s: s.update({"head.bias": torch.zeros(8)}), r"1 of another shape: head.bias"),
            (lambda s: s.update({"conv.weight": torch.zeros(())}), r"conv.weight \(\) in the file"),
        ],
    )
    def test_what_does_not_fit_changes_nothing(self, tmp_path, change, message):
        state = Small().state_dict()
        if "head.bias" in message:
            state["head.weight"] = torch.zeros(9, 4)  # a classifier whose parts disagree
            message = "2 of another shape: head.weight"
        change(state)
        model = Small()
        before = {key: value.clone() for key, value in model.state_dict().items()}
        with pytest.raises(WeightsError, match=message):
            load_weights(model, written(tmp_path / "w.pth", state))
        assert same(model.state_dict(), before)

    def test_another_network(self, tmp_path):
        path = written(tmp_path / "w.pth", Small(channels=6).state_dict())
        with pytest.raises(
            WeightsError, match=r"w.pth does not fit this Small, which is unchanged: \d of another shape: conv"
        ):
            load_weights(Small(), path)

    def test_old_weights_without_counters(self, tmp_path):
        """PyTorch before 0.4.1, and many published files, have no num_batches_tracked."""
        state = Small().state_dict()
        del state["bn.num_batches_tracked"]
        model = Small()
        load_weights(model, written(tmp_path / "w.pth", state))
        assert torch.equal(model.conv.weight, state["conv.weight"])

    def test_lazy(self, tmp_path):
        path = written(tmp_path / "w.pth", nn.Linear(2, 2).state_dict())
        with pytest.raises(WeightsError, match="weight has no shape yet"):
            load_weights(nn.LazyLinear(2), path)

    def test_plain_weights_into_inserted_se(self, tmp_path):
        plain = create("resnet20", num_classes=10).eval()
        x = torch.randn(2, 3, 32, 32)
        model = insert(create("resnet20", num_classes=4), x, SESpec()).eval()
        torch.save(plain.state_dict(), tmp_path / "w.pth")
        report = load_weights(model, tmp_path / "w.pth")
        assert len(report.without_se) == 9
        assert report.without_se[0] == "layer1.0.bn2.se"
        assert report.fresh == ("fc",)
        assert "9 SE blocks not in the file, left unchanged: layer1.0.bn2.se, " in str(report)
        model.fc, plain.fc = nn.Identity(), nn.Identity()
        assert torch.equal(model(x), plain(x))
        # a part of a block is no block
        state = model.state_dict()
        del state["layer1.0.bn2.se.fc1.weight"]
        with pytest.raises(WeightsError, match=r"1 missing from the file: layer1.0.bn2.se.fc1.weight"):
            load_weights(model, written(tmp_path / "part.pth", state))

    def test_se_that_the_network_was_built_with_is_not_left_out(self, tmp_path):
        model = nn.Sequential(nn.Conv2d(3, 4, 1), SEBlock(4, 2))
        state = {key: value for key, value in model.state_dict().items() if key.startswith("0.")}
        with pytest.raises(WeightsError, match=r"3 missing from the file: 1\.scale"):
            load_weights(model, written(tmp_path / "w.pth", state))

    def test_the_other_form_of_a_block(self, tmp_path):
        state = {"0.excitation.0.weight": torch.randn(2, 4, 1, 1), "0.excitation.2.weight": torch.randn(4, 2, 1, 1)}
        model = nn.Sequential(SEBlock(4, 2, scale=2.0))
        load_weights(model, written(tmp_path / "w.pth", state))
        assert torch.equal(model[0].fc1.weight, state["0.excitation.0.weight"].flatten(1))
        assert model[0].scale == 1

    def test_half_precision_weights_into_a_float_network(self, tmp_path):
        state = {
            key: value.half() if value.is_floating_point() else value for key, value in Small().state_dict().items()
        }
        model = Small()
        load_weights(model, written(tmp_path / "w.pth", state))
        assert model.conv.weight.dtype == torch.float32
        assert torch.equal(model.conv.weight, state["conv.weight"].float())


@pytest.mark.parametrize(("there", "here"), [(5, 5), (5, 7)])
def test_classes_in(there, here):
    assert classes_in(Small(classes=there).state_dict(), Small(classes=here)) == there


def test_classes_without_a_classifier():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), SEBlock(4, 2))
    assert classes_in(model.state_dict(), model) is None


class TestRealWeights:
    @pytest.fixture
    def mobilenet(self, shared):
        pytest.importorskip("torchvision", reason="torchvision is not there")
        return shared / "weights" / "mobilenet_v2-b0353104.pth"

    def test_mobilenet(self, mobilenet):
        model = create("torchvision:mobilenet_v2")
        report = load_weights(model, mobilenet)
        assert (report.classes, report.notes) == (1000, ())
        assert same(model.state_dict(), read_weights(mobilenet) | _counters(model))

    def test_mobilenet_for_20_classes(self, mobilenet):
        model = create("torchvision:mobilenet_v2", num_classes=20)
        report = load_weights(model, mobilenet)
        assert str(report).endswith("classifier.1: 1000 classes in the file, 20 wanted: starts fresh")
        assert report.fresh == ("classifier.1",)

    def test_of_another_network(self, mobilenet):
        model = create("torchvision:resnet18")
        with pytest.raises(WeightsError, match=r"missing from the file: conv1.weight \(64, 3, 7, 7\)"):
            load_weights(model, mobilenet)

    def test_truncated(self, mobilenet, tmp_path):
        (tmp_path / "part.pth").write_bytes(mobilenet.read_bytes()[:1_000_000])
        with pytest.raises(WeightsError, match=r"part.pth is truncated or damaged"):
            read_weights(tmp_path / "part.pth")

    def test_safetensors_with_1001_classes(self, shared):
        pytest.importorskip("timm", reason="timm is not there")
        path = shared / "weights" / "tf_mobilenetv3_small_100.imagenet1001.safetensors"
        model = create("timm:tf_mobilenetv3_small_100", weights=path)
        assert model.classifier.out_features == 1001


def _counters(model):
    return {key: value for key, value in model.state_dict().items() if key.endswith("num_batches_tracked")}
