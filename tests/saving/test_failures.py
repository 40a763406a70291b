"""What cannot be saved, and a saving that is cut short: the old file stays as it was."""

import copy
import os
import time

import pytest
import torch
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor

from senet.files import fileformat
from senet.saving import create
from senet.saving.saving import load, save
from tests.forked import forked
from tests.saving.test_saving import names, trained


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

    def several(self):
        model = nn.Module()
        model.register_buffer("w", TwoTensor(torch.zeros(2), torch.zeros(2)))
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
            ("several", "w is a TwoTensor, which is made of several tensors, .* save the network before it is"),
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

    def test_a_block_that_was_exchanged_by_hand(self, tmp_path, se_resnet20):
        """The file would have said that there is SE, and could not have been loaded."""
        model = copy.deepcopy(se_resnet20)
        model.layer1[0].bn2.se = nn.Identity()
        with pytest.raises(ValueError, match=r"this CifarResNet lacks the SE that was joined to layer1\.0\.bn2: give"):
            save(model, tmp_path / "m.safetensors")
        assert names(tmp_path) == []

    def test_no_network(self, tmp_path):
        with pytest.raises(TypeError, match=r"a network to save is an nn.Module, not OrderedDict"):
            save(nn.Linear(2, 2).state_dict(), tmp_path / "m.safetensors")

    def test_no_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"the folder .*no does not exist"):
            save(nn.Linear(2, 2), tmp_path / "no" / "m.safetensors")


def _save(pipe, path, how):
    model = nn.Linear(300, 300)
    if how == "full":
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    if how == "slow":

        def slowly(temporary, state, header, write=fileformat.write):
            write(temporary, state, header)
            whole = temporary.read_bytes()
            with temporary.open("wb") as file:
                file.write(whole[: len(whole) // 2])
                file.flush()
                pipe.send("half")
                time.sleep(60)

        fileformat.write = slowly
    try:
        save(model, path)
    except OSError as error:
        pipe.send(str(error))


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
            process, pipe = forked(_save, path, how)
            processes.append(process)
            return process, pipe

        yield start
        for process in processes:
            process.kill()
            process.join()

    def test_killed(self, path, content, start):
        process, pipe = start("slow")
        assert pipe.recv() == "half"
        assert len(names(path.parent)) == 2
        process.kill()
        process.join()
        assert path.read_bytes() == content
        save(nn.Linear(2, 2), path)  # what the killed one left is in nobody's way
        assert load(path, model=nn.Linear(2, 2)).weight.shape == (2, 2)

    @pytest.mark.skipif(os.name != "posix", reason="limits are POSIX")
    def test_full_disk(self, path, content, start):
        process, pipe = start("full")
        assert f"cannot write into {path.parent}: File too large" in pipe.recv()
        process.join(60)
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
