"""Runs killed at any moment, also while they write a checkpoint, end with the very weights of one that was not.

`make chaos`; each of these takes minutes.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from senet.files.run_folder import read_csv
from senet.training.checkpointing import newest, step_of

pytestmark = [pytest.mark.long, pytest.mark.timeout(5400)]

STEPS = 220  # 10 epochs of digits
TRAIN = "train --model resnet20 --reduction-ratio 16 --data digits --epochs 10 --batch-size 64".split()
EVERY_STEP = ["--checkpoint-minutes", "0"]
ROOT = Path(__file__).resolve().parents[2]


def _start(words, **environment):
    names = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "TORCHELASTIC_"))}
    path = os.pathsep.join(filter(None, (str(ROOT), names.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        env=names | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path} | environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # so that a Ctrl-C is for the test alone
    )


def _ended(process, status=0):
    _, said = process.communicate()
    assert process.returncode == status, said
    return said


def _step(folder):
    """Steps behind the newest checkpoint by its name."""
    steps = [step_of(path) for path in (folder / "checkpoints").glob("step-*.ckpt")]
    return max(steps, default=0)


def _until(process, condition):
    while not condition():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.0005)


def _same_result(one, other):
    mine, its = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert mine.keys() == its.keys()
    assert all(mine[key].numpy().tobytes() == its[key].numpy().tobytes() for key in mine)
    rows = [[{**row, "seconds": ""} for row in read_csv(folder / "metrics.csv")] for folder in (one, other)]
    assert rows[0] == rows[1]
    assert (one / "predictions.csv").read_bytes() == (other / "predictions.csv").read_bytes()
    assert not (other / "checkpoints").exists()
    assert not list(other.glob(".senet-*"))


def test_a_run_killed_at_20_random_moments_ends_as_one_that_was_not(tmp_path):
    rng = random.Random(6)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    _ended(_start(["-m", "senet", *TRAIN, "--out", whole, "--devices", "cpu", "--workers", 2]))
    words = ["-m", "senet", *TRAIN, *EVERY_STEP, "--out", cut, "--devices", "cpu", "--workers", 2]
    writing = 0
    for number, step in enumerate(sorted(rng.sample(range(STEPS - 20), 20))):
        process = _start(words)
        _until(process, lambda step=step: _step(cut) >= step)
        if number % 2:
            _until(process, lambda: list((cut / "checkpoints").glob(".senet-*")))  # one is being written
        else:
            time.sleep(rng.uniform(0, 0.5))
        process.kill()
        process.communicate()
        interrupted = list(cut.rglob(".senet-*"))
        writing += bool(interrupted)
        assert not (cut / "result.json").exists()
        print(f"killed after step {_step(cut)}{', while writing' * bool(interrupted)}")
    assert writing >= 5
    said = _ended(_start(words))
    assert f"resumes after step {_step(cut) or ''}".strip() in said
    _same_result(whole, cut)


def _workers(agent):
    said = subprocess.run(["ps", "-o", "pid=", "--ppid", str(agent.pid)], capture_output=True, text=True, check=False)
    return [int(word) for word in said.stdout.split()]


def test_a_rank_killed_under_torchrun_with_restarts_repeats_and_loses_nothing(tmp_path):
    def words(folder):
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "--max-restarts", 5]
        return [*torchrun, "-m", "senet", *TRAIN, *EVERY_STEP, "--devices", "cpu", "--out", folder]

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    _ended(_start(words(whole)))
    process = _start(words(cut))
    for step in (30, 90, 150):
        _until(process, lambda step=step: _step(cut) >= step and len(_workers(process)) == 2)
        os.kill(_workers(process)[step % 4 // 2], signal.SIGKILL)
        _until(process, lambda step=step: len(_workers(process)) < 2)
    said = _ended(process)
    assert said.count("cut resumes after step") == 3, said
    assert [row["epoch"] for row in read_csv(cut / "metrics.csv")] == [str(epoch) for epoch in range(1, 11)]
    _same_result(whole, cut)


def test_under_slurm_its_signal_ends_with_a_checkpoint_and_the_job_goes_on(tmp_path):
    def job(folder):
        shared = {
            "SLURM_NTASKS": "2",
            "SLURM_JOB_NAME": "train",
            "SLURM_JOB_ID": "13",
            "SLURM_NODEID": "0",
            "SLURM_NNODES": "1",
            "SLURM_NODELIST": "localhost",
            "SLURM_NTASKS_PER_NODE": "2",
        }
        words = ["-m", "senet", *TRAIN, "--devices", "cpu", "--out", folder]
        return [_start(words, **shared, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank)) for rank in range(2)]

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for process in job(whole):
        _ended(process)
    tasks = job(cut)
    _until(tasks[0], lambda: _step(cut) >= 44)
    for process in tasks:
        process.send_signal(signal.SIGUSR1)
    for process in tasks:
        assert "stopped by SIGUSR1 after step" in _ended(process, 128 + signal.SIGUSR1)
    assert newest(cut).path is not None
    for process in job(cut):
        _ended(process)
    _same_result(whole, cut)


def test_our_own_processes_end_with_a_checkpoint_on_sigterm(tmp_path):
    words = ["-m", "senet", *TRAIN, "--devices", "cpu*2", "--out", tmp_path / "run"]
    process = _start(words)
    _until(process, lambda: _step(tmp_path / "run") >= 22)
    time.sleep(0.5)  # into the second epoch, of seconds
    process.send_signal(signal.SIGTERM)
    assert "stopped by SIGTERM" in _ended(process, 128 + signal.SIGTERM)
    found = newest(tmp_path / "run")
    assert found.broken == ()
    assert found.path is not None
    assert step_of(found.path) > 22
    _ended(_start(words))
