"""Where a training runs, and that two processes do what one does."""

import csv
import os
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch  # noqa: F401 it reads the rank when it is imported: before a test sets one
import pytest
import torch

from senet.block import SESpec
from senet.console.command import typing_in
from senet.data.sampling import KeyedSampler, own_share, share_of
from senet.errors import InputTypeError, StudyError
from senet.evaluation.logits import Predictions
from senet.files.run_folder import read_json
from senet.insertion import blocks
from senet.saving.saving import load
from senet.training.processes.launching import _said
from senet.training.processes.processes import DeviceLayout, Processes, device_layout, joined, joined_predictions
from senet.training.train import train
from senet.zoo import create

CPU = torch.device("cpu")
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "x",
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
}
SLURM = {
    "SLURM_NTASKS": "4",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_JOB_NAME": "train",
    "SLURM_JOB_ID": "7",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_NNODES": "2",
    "SLURM_NODELIST": "node[3-4]",
}


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    for name in (*TORCHRUN, *SLURM):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        ("cpu", DeviceLayout(CPU)),
        (1, DeviceLayout(device_layout().device)),
        ("cpu*2", DeviceLayout(CPU, (0, 1))),
        ("2", DeviceLayout(CPU, (0, 1))),
        (3, DeviceLayout(CPU, (0, 1, 2))),
    ],
)
def test_where_a_training_runs(devices, expected):
    found = device_layout(devices)
    assert found == expected
    assert found.to_start == (len(expected.devices) > 1)


def test_gpus_by_number_and_by_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert device_layout() == DeviceLayout(torch.device("cuda", 0))
    assert device_layout(4) == DeviceLayout(torch.device("cuda", 0), (0, 1, 2, 3))
    assert device_layout("cuda:2,0", strategy="fsdp") == DeviceLayout(torch.device("cuda", 0), (0, 2), strategy="fsdp")
    assert device_layout("cpu*2").device == CPU
    with pytest.raises(StudyError, match="devices=5 is more than this machine has: 4"):
        device_layout(5)
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert device_layout().device == torch.device("cuda", 1)
    assert device_layout("cuda:0,1,2,3").device == torch.device("cuda", 1)
    assert device_layout("cpu").device == CPU


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"devices": "tpu"}, "devices='tpu' is not on this machine"),
        ({"devices": "cpu*0"}, "asks for no device"),
        ({"devices": 0}, "devices='0' asks for no device"),
        ({"devices": "cuda:0,1"}, "is not on this machine"),
        ({"strategy": "dp"}, "strategy is one of ddp, fsdp, not 'dp'"),
        ({"strategy": "fsdp"}, "shards a network over GPUs, and there are none here"),
        ({"nodes": 0}, "nodes is a whole number of at least 1"),
        ({"nodes": 2}, r"nodes=2: start the command on each machine with torchrun, or .* srun"),
    ],
)
def test_what_is_not_there(given, words):
    with pytest.raises(StudyError, match=words):
        device_layout(**given)


@pytest.mark.parametrize("devices", ["cuda", "cuda:1", "cuda:0,1", "gpu", "mps"])
def test_a_machine_that_does_not_train_need_not_have_the_devices(devices):
    assert device_layout(devices, strategy="fsdp", here=False) == DeviceLayout(CPU, strategy="fsdp")
    for wrong in ("tpu", "cuda:", "0"):
        with pytest.raises(StudyError, match="devices="):
            device_layout(wrong, here=False)


def test_under_torchrun(monkeypatch):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    expected = DeviceLayout(CPU, (0, 1, 2, 3), 2, launched="torchrun")
    assert device_layout() == device_layout(4, 2) == device_layout("cpu") == expected
    assert (expected.count, expected.to_start) == (8, False)
    for name, words in (("tpu", "'tpu' is nothing that the processes of torchrun"), ("cuda", "'cuda:1' is not on")):
        with pytest.raises(StudyError, match=words):
            device_layout(name)
    for given in ({"devices": 3}, {"nodes": 3}, {"devices": "cpu*2"}, {"devices": "cuda:1"}):
        with pytest.raises(StudyError, match="do not go with the 4 processes on each of 2 machines that torchrun"):
            device_layout(**given)


def test_under_slurm(monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    assert device_layout() == DeviceLayout(CPU, (0, 1), 2, launched="slurm")
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    with pytest.raises(StudyError, match="ntasks-per-node"):
        device_layout()
    monkeypatch.setenv("SLURM_JOB_NAME", "bash")  # salloc: one process, which nobody started for this
    assert device_layout() == DeviceLayout(CPU)


def test_one_process_needs_nobody():
    with joined(DeviceLayout(CPU)) as processes:
        assert processes == Processes()
        assert processes.first(lambda: 3) == 3
        assert processes.gathered("x") == ["x"]
        assert processes.summed(torch.ones(2)).tolist() == [1, 1]


@pytest.mark.parametrize(("processes", "parts"), [(1, 1), (2, 1), (2, 2), (3, 1), (4, 3)])
def test_processes_and_parts_share_the_batches_of_one(processes, parts):
    alone = list(KeyedSampler(53, 0, 2, batch_size=12))
    shared = [list(KeyedSampler(53, 0, 2, batch_size=12, rank=r, processes=processes)) for r in range(processes)]
    assert len(alone) == 48
    share = share_of(12, processes, 1, 53)
    for number in range(4):
        together = [key for own in shared for key in own[number * share : (number + 1) * share]]
        assert together == alone[number * 12 : (number + 1) * 12]
        assert [index for _, index in together] == KeyedSampler(53, 0, batch_size=12).batch(2, number)
    begun = [key for _, key in KeyedSampler(53, 0, 2, batch_size=12, begin=3, rank=processes - 1, processes=processes)]
    assert begun == [key for _, key in shared[-1][3 * share :]]
    assert share_of(12, processes, parts, 53) * processes * parts == 12


def test_the_next_epoch_begins_at_its_beginning():
    sampler = KeyedSampler(20, 0, 1, batch_size=5, begin=2)
    sampler.set_epoch(1)
    assert (len(sampler), len(list(sampler))) == (20, 10)
    sampler.set_epoch(2)
    assert len(list(sampler)) == 20


def test_a_batch_that_does_not_come_in_equal_parts():
    with pytest.raises(StudyError, match="30 does not come in equal parts for 4 devices: give a batch_size of 32"):
        share_of(30, 4, 1, 99)
    with pytest.raises(StudyError, match="30 does not come in equal parts for 4 devices: give a batch_size of 28"):
        share_of(30, 4, 1, 30)  # 32 would be capped at 30 again
    with pytest.raises(StudyError, match=r"for 2 devices and accumulate=4: give a batch_size of 8"):
        share_of(7, 2, 4, 8)
    with pytest.raises(StudyError, match=r"for 1 device and accumulate=4: there are only 3 images to train on"):
        share_of(3, 1, 4, 3)


@pytest.mark.parametrize(("length", "processes"), [(7, 1), (7, 2), (8, 3), (2, 4)])
def test_every_image_is_measured_once(length, processes):
    shares = [own_share(length, rank, processes) for rank in range(processes)]
    assert sorted(index for share in shares for index in share) == list(range(length))
    even = [own_share(length, rank, processes, even=True) for rank in range(processes)]
    assert len({len(share) for share in even}) == 1
    assert sorted(index for share in even for index in share if index >= 0) == list(range(length))


def test_predictions_of_shares_are_put_in_order():
    whole = Predictions(torch.arange(7), torch.arange(14).view(7, 2), torch.arange(14.0).view(7, 2), 3.0, 9)
    parts = [Predictions(whole.labels[r::3], whole.top[r::3], whole.probabilities[r::3], float(r), 9) for r in range(3)]
    found = joined_predictions(parts)
    assert torch.equal(found.labels, whole.labels)
    assert torch.equal(found.top, whole.top)
    assert torch.equal(found.probabilities, whole.probabilities)
    assert found.loss == pytest.approx((0 * 3 + 1 * 2 + 2 * 2) / 7)
    assert joined_predictions([whole]) is whole


DOUBLE = """

class Double(Tiny):
    def forward(self, x):
        return super().forward(x.double())

def double(num_classes=10):
    network = Double(num_classes).double()
    network.drop.p = 0.0
    return network
"""


@pytest.fixture
def double(tiny):
    """The tiny network in float64 and without dropout, in which rounding does not grow to be seen."""
    file = tiny.removesuffix(":tiny")
    with Path(file).open("a") as stream:
        stream.write(DOUBLE)
    return f"{file}:double"


def test_two_processes_give_the_losses_of_one_with_the_same_batch(double, paint, tmp_path):
    pictures = paint({"train/dark": 13, "train/light": 12, "val/dark": 4, "val/light": 3})
    asked = {"epochs": 2, "batch_size": 8, "lr": 0.05, "progress": False, "spec": SESpec(), "ema": 0.5}
    one = train(double, pictures, out=tmp_path / "one", devices="cpu", **asked)
    with typing_in("senet train 'my net'"):
        two = train(double, pictures, out=tmp_path / "two", devices="cpu*2", **asked)
    assert read_json(tmp_path / "two/result.json")["machine"]["command"] == "senet train 'my net'"
    for mine, other in zip(one.history, two.history, strict=True):
        for key in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr"):
            assert other[key] == pytest.approx(mine[key], rel=1e-9)
    assert two.correct == one.correct
    assert len(two.correct) == 7
    networks = [load(result.folder / "model.safetensors", create(double, num_classes=2)) for result in (one, two)]
    assert list(blocks(networks[1])) == list(blocks(networks[0])) == ["blocks.0.bn2.se", "blocks.1.bn2.se"]
    for (name, mine), other in zip(networks[0].state_dict().items(), networks[1].state_dict().values(), strict=True):
        assert torch.allclose(mine.double(), other.double(), rtol=1e-9, atol=1e-12), name  # running statistics too
    assert any(not torch.equal(p, q) for p, q in zip(*(n.parameters() for n in networks), strict=True))  # it was two
    with (tmp_path / "two/predictions.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 7
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == sorted(
        path.name for path in (tmp_path / "two").iterdir()
    )


def test_what_a_process_says_is_said_and_nothing_more(double, pictures, tmp_path, capfd):
    with pytest.raises(StudyError, match=r"^a batch of 7 does not come in equal parts for 2 devices: give .* 8$"):
        train(double, pictures, out=tmp_path / "run", devices="cpu*2", batch_size=7, epochs=1, progress=False)
    with pytest.raises(InputTypeError, match=r"^train cannot be passed to the processes .*lambda.*: put its"):
        train(lambda: create(double), pictures, out=tmp_path / "run", devices="cpu*2", progress=False)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("InputError: lr is a number greater than 0, not -1", r"^lr is a number greater than 0, not -1$"),
        ("KeyError: 'x'\nTraceback", r"^process 1 of the training ended \(KeyError: 'x'\); the same command resumes"),
        ("", r"^process 1 of the training ended \(exit status -9\); the same"),
        ("To enable traceback see: https://pytorch.org", r"exit status -9 \(above .* under if __name__ == '__main__':"),
    ],
)
def test_what_a_process_said_last(text, words):
    failed = SimpleNamespace(get_first_failure=lambda: (1, SimpleNamespace(message={"message": text}, exitcode=-9)))
    with pytest.raises(StudyError, match=words):
        raise _said(failed)


def test_an_srun_that_nobody_used_is_no_matter_for_a_warning(tmp_path, monkeypatch):
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    assert device_layout("cpu").launched == ""
