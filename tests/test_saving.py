import copy
import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import senet
from senet import fileformat
from senet.block import SESpec
from senet.insertion import blocks, insert, inserted, remove
from senet.saving import load, read_metadata, save
from senet.zoo import WeightsError, create
from senet.zoo.naming import origin


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


def rewritten(path, change):
    """The same file with another header: `change` gets it and returns what is written."""
    header = text_of(path)
    header = change(header) or header
    save_file(load_file(path), path, metadata={"senet": header if isinstance(header, str) else json.dumps(header)})
    return path


@pytest.fixture(scope="module")
def se_resnet20():
    return trained(create("se_resnet20", num_classes=3))


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

    @pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")])
    def test_wrapped_networks_are_saved_as_what_they_wrap(self, tmp_path, wrap):
        model = create("resnet20", num_classes=3)
        save(wrap(model), tmp_path / "m.safetensors")
        assert same_state(load(tmp_path / "m.safetensors"), model)

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


class TestWhatCannotBeSaved:
    def lazy(self):
        return nn.LazyLinear(2)

    def meta(self):
        return nn.Linear(2, 2, device="meta")

    def extra_state(self):
        class Extra(nn.Linear):
            def get_extra_state(self):
                return {"a": 1}

        return Extra(2, 2)

    def sparse(self):
        model = nn.Module()
        model.register_buffer("w", torch.eye(3).to_sparse())
        return model

    def option(self):
        pytest.importorskip("torchvision", reason="torchvision is not there")
        return create("torchvision:resnet18", norm_layer=nn.InstanceNorm2d)

    @pytest.mark.parametrize(
        ("kind", "message"),
        [
            ("lazy", r"weight has no values yet \(a lazy module\): run the network once"),
            ("meta", "weight is on the meta device"),
            ("extra_state", "_extra_state is a dict, not a tensor"),
            ("sparse", "w is a torch.sparse_coo tensor of torch.float32, which safetensors cannot hold"),
            ("option", "resnet18 was made with an option that no file can name: norm_layer is <class .*InstanceNorm2d"),
        ],
    )
    def test_is_an_error_and_leaves_the_old_file(self, tmp_path, kind, message):
        path = tmp_path / "m.safetensors"
        path.write_text("old")
        with pytest.raises(ValueError, match=message):
            save(getattr(self, kind)(), path)
        assert path.read_text() == "old"
        assert names(tmp_path) == ["m.safetensors"]

    def test_no_network(self, tmp_path):
        with pytest.raises(TypeError, match=r"a network to save is an nn.Module, not OrderedDict"):
            save(nn.Linear(2, 2).state_dict(), tmp_path / "m.safetensors")

    def test_no_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"the folder .*no does not exist"):
            save(nn.Linear(2, 2), tmp_path / "no" / "m.safetensors")


WRITER = """
import resource, sys, time
import torch
from torch import nn
from senet import fileformat
from senet.saving import save

how, path = sys.argv[1:]
model = nn.Linear(300, 300)
if how == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
if how == "slow":
    def slowly(temporary, state, header, write=fileformat.write):
        write(temporary, state, header)
        whole = temporary.read_bytes()
        with temporary.open("wb") as file:
            file.write(whole[: len(whole) // 2])
            file.flush()
            print("half", flush=True)
            time.sleep(60)
    fileformat.write = slowly
try:
    save(model, path)
except OSError as error:
    print(error)
"""


class TestInterrupted:
    @pytest.fixture
    def path(self, tmp_path):
        path = tmp_path / "m.safetensors"
        save(trained(nn.Linear(3, 3)), path)
        return path

    @pytest.fixture
    def content(self, path):
        return path.read_bytes()

    @pytest.fixture
    def start(self, path):
        processes = []

        def start(how):
            process = subprocess.Popen(
                [sys.executable, "-c", WRITER, how, str(path)], stdout=subprocess.PIPE, text=True, cwd=path.parent
            )
            processes.append(process)
            return process

        yield start
        for process in processes:
            process.kill()
            process.wait()
            process.stdout.close()

    def test_killed(self, path, content, start):
        process = start("slow")
        assert process.stdout.readline() == "half\n"
        assert len(names(path.parent)) == 2
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert path.read_bytes() == content
        save(nn.Linear(2, 2), path)  # what the killed one left is in nobody's way
        assert load(path, model=nn.Linear(2, 2)).weight.shape == (2, 2)

    @pytest.mark.skipif(os.name != "posix", reason="limits are POSIX")
    def test_full_disk(self, path, content, start):
        output, _ = start("full").communicate(timeout=60)
        assert "cannot write" in output
        assert "File too large" in output
        assert path.read_bytes() == content
        assert names(path.parent) == ["m.safetensors"]

    def test_writer_that_fails(self, path, content, monkeypatch):
        def failing(temporary, state, header):
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt

        monkeypatch.setattr(fileformat, "write", failing)
        with pytest.raises(KeyboardInterrupt):
            save(nn.Linear(5, 5), path)
        assert path.read_bytes() == content
        assert names(path.parent) == ["m.safetensors"]


class TestStrangersFiles:
    @pytest.fixture
    def path(self, tmp_path, se_resnet20):
        path = tmp_path / "m.safetensors"
        save(se_resnet20, path)
        return path

    @pytest.mark.parametrize("part", [0.001, 0.5, 0.999])
    def test_truncated(self, path, part):
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
        with pytest.raises(WeightsError, match=r"m.safetensors is no whole safetensors file: truncated or damaged"):
            load(path)

    @pytest.mark.parametrize("model", [None, "given"])
    def test_tensors_that_do_not_fit(self, path, model):
        given = None if model is None else create("resnet20", num_classes=3)
        before = None if given is None else copy.deepcopy(given.state_dict())
        tensors = load_file(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        for change, message in (
            (lambda t: t.pop("fc.bias"), r"1 missing from the file: fc.bias \(3,\)"),
            (lambda t: t.update(more=torch.zeros(1)), r"1 unknown to the network: more \(1,\)"),
            (lambda t: t.update({"bn1.bias": torch.zeros(5)}), r"bn1.bias \(5,\) in the file, \(16,\) in the network"),
            (lambda t: t.pop("layer1.0.bn2.se.scale"), r"missing from the file: layer1.0.bn2.se.scale"),
            (lambda t: t.pop("bn1.num_batches_tracked"), r"missing from the file: bn1.num_batches_tracked"),
        ):
            changed = dict(tensors)
            change(changed)
            save_file(changed, path, metadata=metadata)
            with pytest.raises(WeightsError, match=message):
                load(path, model=given)
        if given is not None:
            assert all(torch.equal(value, before[key]) for key, value in given.state_dict().items())

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda h: "{", "its senet header is damaged .no JSON"),
            (lambda h: "[" * 100_000, "its senet header is damaged .no JSON"),
            (lambda h: "[]", "damaged .it is \\[\\]"),
            (lambda h: h.pop("format") and None, "its format is None"),
            (lambda h: h.update(format="1"), "its format is '1'"),
            (
                lambda h: h.update(format=2, senet="9.9"),
                "written by senet '9.9' in format 2.*reads format 1: update senet",
            ),
            (lambda h: h.pop("sites") and None, "damaged .it has \\['aliases', 'metadata'"),
            (lambda h: h.update(more=1), "damaged .it has"),
            (lambda h: h.update(model=3), "its model is 3"),
            (lambda h: h.update(options=[1]), "its options is \\[1\\]"),
            (lambda h: h.update(options={"a": {"b": 1}}), "option a is {'b': 1}"),
            (lambda h: h.update(options={"a": [[1]]}), "option a is \\[\\[1\\]\\]"),
            (lambda h: h.update(options={"a": float("inf")}), "option a is inf"),
            (lambda h: h.update(sites=[3]), "a site is 3"),
            (lambda h: h["sites"][0].update(site=[]), "a site is {'site': \\[\\]"),
            (lambda h: h.update(aliases={"a": "none"}), "'a' is tied to 'none'"),
            (lambda h: h.update(aliases={"fc.bias": "bn1.bias"}), "'fc.bias' is tied to 'bn1.bias'"),
            (lambda h: h.update(aliases={"a": ["bn1.bias"]}), "'a' is tied to \\['bn1.bias'\\]"),
        ],
    )
    def test_damaged_header(self, path, change, message):
        rewritten(path, change)
        for function in (load, read_metadata):
            with pytest.raises(WeightsError, match=message):
                function(path)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda s: s["site"].update(channels="16"), "a site has channels = '16'"),
            (lambda s: s["site"].update(channels=True), "a site has channels = True"),
            (lambda s: s["site"].update(more=1), "a site has more = 1"),
            (lambda s: s["site"].pop("rule"), "missing 1 required positional argument: 'rule'"),
            (lambda s: s["site"].update(channels=0), "layer1.0.bn2 has 0 channels"),
            (lambda s: s["site"].update(channels=10**12), "its header asks for .* where it holds 2"),
            (lambda s: s["spec"].update(width=10**12), "its header asks for"),
            (lambda s: s["spec"].update(gate="eval"), "gate is one of 'sigmoid'"),
            (lambda s: s["spec"].update(squeeze=[]), r"squeeze is one of .* not \[\]"),
            (lambda s: s["spec"].update(more=1), "unexpected keyword argument 'more'"),
            (lambda s: s["spec"].update(reduction_ratio="x"), "reduction_ratio is a whole number"),
            (
                lambda s: s["site"].update(name="layer9.0.bn2"),
                "has SE where this CifarResNet has no place: .*'layer9.0.bn2'",
            ),
            (
                lambda s: s["site"].update(name="layer1.1.bn2"),
                "has SE where .* no place: .*holds an inserted SE already",
            ),
            (lambda s: s["site"].update(name="layer1"), "no place: SE cannot be joined to layer1: it is a Sequential"),
            (lambda s: s["site"].update(position="nowhere"), "a site's position is one of"),
        ],
    )
    def test_damaged_sites(self, path, change, message):
        rewritten(path, lambda header: change(header["sites"][0]) and None)
        with pytest.raises(WeightsError, match=message):
            load(path)

    @pytest.mark.parametrize(
        ("model", "options", "message"),
        [
            (None, {}, r"does not say which network it is: make that and give it, senet.load\(path, model=...\)"),
            ("/tmp/evil.py:run", {"a": 1}, r"'/tmp/evil.py:run' with {'a': 1}; a file never makes us run code"),
            ("resnet21", {}, "says that it is 'resnet21', but there is no network 'resnet21'"),
            ("se_resnet20", {}, "its network is 'se_resnet20', where a plain one should be"),
            ("other.safetensors", {}, "says that it is 'other.safetensors', but"),
            ("x" * 5000, {}, "says that it is 'xxx"),
            ("resnet20", {"num_classes": 10**9}, "its header asks for 1000000000 where it holds 2"),
            ("resnet20", {"num_classes": "3"}, "num_classes is a whole number"),
            ("resnet20", {"depth": 56}, "multiple values for|unexpected keyword"),
            ("torchvision:resnet18", {"weights": "DEFAULT"}, "weights='DEFAULT' would fetch weights"),
            ("torchvision:fcn_resnet50", {"weights_backbone": "DEFAULT"}, "weights_backbone='DEFAULT' would fetch"),
            ("torchvision:resnet18", {"norm_layer": "os.system"}, "'str' object is not callable"),
            ("timm:resnet18", {"pretrained": True}, "pretrained=True would fetch weights"),
            ("timm:hf-hub:evil/model", {}, "timm has no network 'hf-hub:evil/model'"),
        ],
    )
    def test_networks_that_are_not_made(self, path, monkeypatch, model, options, message):
        if model is not None and ":" in model and not model.startswith("/"):
            pytest.importorskip(model.partition(":")[0], reason="it is not there")
        monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: pytest.fail("a download"))
        rewritten(path, lambda header: header.update(model=model, options=options))
        with pytest.raises(WeightsError, match=message):
            load(path)

    def test_file_function_is_loaded_into_the_network_that_is_given(self, tmp_path):
        (tmp_path / "net.py").write_text(
            "from tests.test_saving import Own\nRUNS = []\ndef build():\n    return Own()\n"
        )
        name = f"{tmp_path / 'net.py'}:build"
        model = trained(create(name))
        save(model, tmp_path / "m.safetensors")
        (tmp_path / "net.py").write_text("raise SystemExit('it was run')")
        with pytest.raises(WeightsError, match="a file never makes us run code that it names"):
            load(tmp_path / "m.safetensors")
        assert same_state(load(tmp_path / "m.safetensors", model=Own()), model)

    def test_a_model_that_is_none(self, path):
        with pytest.raises(TypeError, match=r"model is the plain network, an nn.Module, not str"):
            load(path, model="resnet20")

    def test_missing_extra(self, path, monkeypatch):
        rewritten(path, lambda header: header.update(model="timm:resnet18", options={}))
        monkeypatch.setitem(sys.modules, "timm", None)
        with pytest.raises(ImportError, match=r"pip install 'senet\[timm\]'"):
            load(path)
