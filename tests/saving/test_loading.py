"""`load` on files that a stranger wrote, or a disk damaged."""

import copy
import json
import os
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from senet.errors import WeightsError
from senet.saving import create
from senet.saving.saving import load, read_metadata, save
from tests.saving.test_saving import Own, same_state, text_of, trained


def rewritten(path, change):
    """The same file with another header: `change` gets it and returns what is written."""
    header = text_of(path)
    header = change(header) or header
    save_file(load_file(path), path, metadata={"senet": header if isinstance(header, str) else json.dumps(header)})
    return path


@pytest.fixture
def path(tmp_path, se_resnet20):
    path = tmp_path / "m.safetensors"
    save(se_resnet20, path)
    return path


@pytest.mark.parametrize("part", [0.001, 0.5, 0.999])
def test_truncated(path, part):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(WeightsError, match=r"m.safetensors is not a whole safetensors file: truncated or damaged"):
        load(path)


def test_a_file_that_may_not_be_read(path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", refuse)
    with pytest.raises(WeightsError, match=r"m\.safetensors cannot be read: Permission denied"):
        load(path)


def test_a_folder_whose_name_is_not_utf8(path, tmp_path, se_resnet20):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    save(se_resnet20, folder / "m.safetensors")
    assert same_state(load(folder / "m.safetensors"), load(path))
    assert read_metadata(folder / "m.safetensors") == read_metadata(path)


def test_a_network_without_values_is_refused_and_not_left_without(path):
    with pytest.raises(WeightsError, match=r"CifarResNet is on the meta device, without values: make it on the CPU"):
        load(path, create("resnet20", num_classes=3).to("meta"))


def test_a_network_that_diverged_is_loaded_and_said(path, caplog):
    load(path)
    assert caplog.messages == []
    network = load(path)
    network.get_parameter("fc.bias").data[1] = torch.nan
    save(network, path)
    load(path)
    assert caplog.messages == [f"{path}: nan or inf is in 1 tensor: fc.bias"]


@pytest.mark.parametrize("model", [None, "given"])
def test_tensors_that_do_not_fit(path, model):
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
        (lambda h: h.pop("sites") and None, "damaged .it has \\['aliases', 'changed', 'metadata'"),
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
def test_damaged_header(path, change, message):
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
def test_damaged_sites(path, change, message):
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
def test_networks_that_are_not_made(path, monkeypatch, model, options, message):
    if model is not None and ":" in model and not model.startswith("/"):
        pytest.importorskip(model.partition(":")[0], reason="it is not there")
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: pytest.fail("a download"))
    rewritten(path, lambda header: header.update(model=model, options=options))
    with pytest.raises(WeightsError, match=message):
        load(path)


def test_file_function_is_loaded_into_the_network_that_is_given(tmp_path):
    (tmp_path / "net.py").write_text(
        "from tests.saving.test_saving import Own\nRUNS = []\ndef build():\n    return Own()\n"
    )
    name = f"{tmp_path / 'net.py'}:build"
    model = trained(create(name))
    save(model, tmp_path / "m.safetensors")
    (tmp_path / "net.py").write_text("raise SystemExit('it was run')")
    with pytest.raises(WeightsError, match="a file never makes us run code that it names"):
        load(tmp_path / "m.safetensors")
    assert same_state(load(tmp_path / "m.safetensors", model=Own()), model)


def test_a_model_that_is_none(path):
    with pytest.raises(TypeError, match=r"model is the plain network, an nn.Module, not str"):
        load(path, model="resnet20")


def test_missing_extra(path, monkeypatch):
    rewritten(path, lambda header: header.update(model="timm:resnet18", options={}))
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"pip install .*\[timm\]'"):
        load(path)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("torchvision:mobilenet_v2", {"width_mult": 400.0}),
        ("torchvision:mobilenet_v2", {"width_mult": 1e300}),
        ("torchvision:mobilenet_v2", {"num_classes": 600_000, "width_mult": 8.0}),
        ("torchvision:mobilenet_v3_small", {"width_mult": 400.0}),
        ("timm:resnet10t", {"layers": [10**9, 1, 1, 1]}),
        ("timm:resnet10t", {"layers": [100_000, 1, 1, 1]}),
        ("timm:resnet10t", {"channels": [600_000, 600_000, 600_000, 600_000]}),
        ("timm:resnet10t", {"stem_width": 100_000, "base_width": 100_000}),
        ("timm:vit_tiny_patch16_224", {"img_size": 500_000}),
    ],
)
def test_a_header_that_asks_for_more_than_the_file_holds(path, name, options):
    pytest.importorskip(name.partition(":")[0], reason=f"{name} is not there")
    rewritten(path, lambda h: h.update(model=name, options=options, sites=[]))
    with pytest.raises(WeightsError, match=r"(its header asks for|, but )") as error:
        load(path)
    assert "\n" not in str(error.value)


def test_blocks_that_ask_for_more_than_the_file_holds_together(path):
    def many(header):
        site = header["sites"][0]
        site["spec"] |= {"width": 10_000, "reduction_ratio": 16}
        header["sites"] = [{**site, "site": {**site["site"], "name": f"layer1.{i}"}} for i in range(1000)]

    rewritten(path, many)
    with pytest.raises(WeightsError, match="its header asks for"):
        load(path)
