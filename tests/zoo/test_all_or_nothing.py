"""Weights go in all or not at all: what fails on the way leaves the network as it was."""

import pytest
import torch

from senet.zoo import WeightsError, load_weights
from senet.zoo.weights.load import load_tensors
from tests.zoo.test_weights import Small, same, written

pytestmark = pytest.mark.filterwarnings("ignore:.*(nested tensors|Sparse CSR|Sparse invariant|TypedStorage|quantized)")

NOT_DENSE = {
    "is on the meta device": lambda value: value.to("meta"),
    "is a tensor of layout sparse_coo": lambda value: value.to_sparse(),
    "is a tensor of layout sparse_csr": lambda value: value.to_sparse_csr(),
    "is a nested tensor": lambda value: torch.nested.nested_tensor([value, value[:1]]),
    "is quantised": lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
}


@pytest.mark.parametrize(("words", "change"), NOT_DENSE.items(), ids=NOT_DENSE)
def test_a_tensor_that_cannot_be_copied(tmp_path, words, change):
    state, model = {key: value + 1 for key, value in Small().state_dict().items()}, Small()
    state["head.weight"] = change(state["head.weight"])
    torch.save(state, tmp_path / "w.pth")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for load in (lambda path: load_weights(model, path), lambda path: load_tensors(model, state, "w.pth")):
        with pytest.raises(WeightsError, match=rf"w\.pth( is truncated|: head\.weight {words})"):
            load(tmp_path / "w.pth")
        assert same(model.state_dict(), before)


def test_whatever_fails_on_the_way(tmp_path):
    class Refusing(Small):
        def _load_from_state_dict(self, state_dict, *rest):
            super()._load_from_state_dict(state_dict, *rest)
            rest[-1].append("not these")

    model, path = Refusing(), written(tmp_path / "w.safetensors", Small().state_dict())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=r"w\.safetensors cannot be copied into this Refusing, which is unchanged"):
        load_weights(model, path)
    assert same(model.state_dict(), before)


def test_a_number_that_no_parameter_takes(tmp_path):
    state, model = Small().state_dict(), Small()
    state["bn.weight"] = torch.zeros(4, dtype=torch.float4_e2m1fn_x2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match="the state dict cannot be copied into this Small, which is unchanged"):
        load_tensors(
            model,
            {key: value + 1 if key != "bn.weight" else value for key, value in state.items()},
            "the state dict",
        )
    assert same(model.state_dict(), before)


def test_a_network_without_values(tmp_path):
    path = written(tmp_path / "w.safetensors", Small().state_dict())
    with pytest.raises(
        WeightsError, match=r"cannot be loaded into this Small, whose conv\.weight is on the meta device"
    ):
        load_weights(Small().to("meta"), path)


def test_a_network_that_diverged_is_loaded_and_said(tmp_path, caplog):
    state = Small().state_dict()
    state["head.weight"][0], state["bn.weight"] = torch.nan, state["bn.weight"] / 0
    path = written(tmp_path / "w.safetensors", state)
    load_weights(Small(), path)
    assert caplog.messages == [f"{path}: nan or inf is in 2 tensors: bn.weight, head.weight"]


def test_a_number_too_large_for_the_networks_dtype_is_said(tmp_path, caplog):
    """As a variance may be where images are in [0, 255]."""
    state = Small().state_dict()
    state["bn.running_var"] += 1e5
    path = written(tmp_path / "w.safetensors", state)
    load_weights(Small(), path)
    load_weights(Small().half(), path)
    assert caplog.messages == [f"{path}: nan or inf is in 1 tensor: bn.running_var"]


def test_a_network_that_asks_for_the_version_of_its_modules(tmp_path):
    class Versioned(Small):
        """As torchvision's MNASNet, which refuses to load where no version is said."""

        _version = 2

        def _load_from_state_dict(self, state_dict, prefix, about, *rest):
            if about.get("version") != 2:
                raise ValueError(f"version should be 2, not {about.get('version')}")
            super()._load_from_state_dict(state_dict, prefix, about, *rest)

    model, state = Versioned(), {key: value + 1 for key, value in Small().state_dict().items()}
    load_weights(model, written(tmp_path / "w.safetensors", state))
    assert same(model.state_dict(), state)
