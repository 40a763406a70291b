"""Cells as a job array: by a stand-in for sbatch and squeue, and by a real SLURM that `make slurm` starts."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from senet import SESpec, cli
from senet.console.progress import Progress
from senet.console.stopping import Stopped
from senet.errors import StudyError
from senet.study import ablate
from senet.study.cells import slurm
from senet.study.cells.cell import CellOptions
from senet.study.cells.commands import one_line
from senet.study.cells.slurm import job_script, submit
from tests.study.cells.test_cells import FLAGS, SHORT, result

SBATCH = """#!/bin/sh
echo "$@" > arguments
cat > script
case "$*" in *refuse*) echo "sbatch: error: invalid partition" >&2; exit 1 ;; esac
for SLURM_ARRAY_TASK_ID in 0 1 2; do export SLURM_ARRAY_TASK_ID; sh script; done
echo "71;cluster"
"""
SQUEUE = """#!/bin/sh
echo . >> asked
[ "$(wc -l < asked)" -lt 3 ] && echo 71_0 && exit 0
[ -e lost ] && echo "slurm_load_jobs error: Invalid job id specified" >&2 && exit 1
exit 0
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    for name, text in (("sbatch", SBATCH), ("squeue", SQUEUE)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(slurm, "POLL_S", 0.01)
    return tmp_path


def commands(*words):
    return [one_line(["/bin/sh", "-c", 'echo "$0" >> ran', word]) for word in words]


@pytest.mark.parametrize("lost", [False, True])
def test_each_task_of_the_array_is_one_cell(stand_in, lost):
    if lost:  # the queue has forgotten a job that ended long ago
        (stand_in / "lost").touch()
    options = CellOptions(launcher="slurm", sbatch="--partition=gpu '--comment=two words'")
    said = submit(commands("a", "b 'c'", "$d"), stand_in, options, Progress(False))
    assert (stand_in / "ran").read_text().splitlines() == ["a", "b 'c'", "$d"]
    assert said.startswith("job 71 of SLURM trains 3 cells")
    assert (stand_in / "arguments").read_text().split() == [
        *("--parsable", "--array=0-2", f"--output={stand_in}/logs/slurm-%A_%a.txt"),
        *("--partition=gpu", "--comment=two", "words"),
    ]
    assert len((stand_in / "asked").read_text().splitlines()) == 3  # until the queue was empty


def test_a_per_cent_in_a_folders_name_is_none_of_sbatchs(stand_in):
    (stand_in / "50% a").mkdir()
    submit(commands("a"), stand_in / "50% a", CellOptions(launcher="slurm", wait=False), Progress(False))
    assert f"--output={stand_in}/50%% a/logs/slurm-%A_%a.txt" in (stand_in / "arguments").read_text()


def test_without_waiting_the_queue_is_not_asked(stand_in):
    submit(commands("a"), stand_in, CellOptions(launcher="slurm", wait=False), Progress(False))
    assert not (stand_in / "asked").exists()


def test_a_signal_ends_the_waiting_and_not_the_job(stand_in, monkeypatch):
    monkeypatch.setattr(slurm, "POLL_S", 30.0)
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    with pytest.raises(Stopped, match=r"job 71 of SLURM goes on \(scancel 71 stops it\); .* --report-only") as stop:
        submit(commands("a"), stand_in, CellOptions(launcher="slurm"), Progress(False))
    timer.join()
    assert not stop.value.resumable  # the same command would submit its cells again


def test_what_sbatch_has_against_it_is_one_line(stand_in, monkeypatch):
    with pytest.raises(StudyError, match="sbatch refused the job: sbatch: error: invalid partition"):
        submit(commands("a"), stand_in, CellOptions(launcher="slurm", sbatch="--refuse"), Progress(False))
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(StudyError, match="there is no sbatch here"):
        submit(commands("a"), stand_in, CellOptions(launcher="slurm"), Progress(False))


def test_several_processes_do_not_each_submit(stand_in, monkeypatch):
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    with pytest.raises(StudyError, match="each process of torchrun or srun would submit the cells"):
        submit(commands("a"), stand_in, CellOptions(launcher="slurm"), Progress(False))
    assert not (stand_in / "arguments").exists()


def test_the_script_runs_as_the_command_itself():
    script = job_script(["a", "b"])
    assert script.startswith("#!/bin/sh\n#SBATCH ")
    assert "0) exec a ;;\n1) exec b ;;" in script


def test_a_comparison_submits_what_is_not_finished(tiny, pictures, stand_in, capsys):
    (stand_in / "sbatch").write_text("#!/bin/sh\ncat > script\necho 72\n")
    words = ["compare", "--model", tiny, "--data", pictures, "--out", "out", *FLAGS]
    assert cli.main([str(word) for word in (*words, "--only", "plain", "--seed", "1")]) == 0
    capsys.readouterr()
    status = cli.main([str(word) for word in (*words, "--seeds", "2", "--launcher", "slurm", "--no-wait")])
    out = capsys.readouterr().out
    assert (status, out.splitlines()) == (
        0,
        ["job 72 of SLURM trains 3 cells; when it has ended, the same command with --report-only draws the report"],
    )
    cells = [line.split(") exec ")[1] for line in (stand_in / "script").read_text().splitlines() if ") exec " in line]
    assert [line.removesuffix(" ;;").split("--only ")[1] for line in cells] == [
        *("plain --seed 0", "se --seed 0", "se --seed 1"),
    ]


def test_cells_are_submitted_from_a_machine_without_their_devices(tiny, pictures, stand_in, capsys):
    (stand_in / "sbatch").write_text("#!/bin/sh\ncat > script\necho 72\n")
    words = ["compare", "--model", tiny, "--data", pictures, "--out", "out", *FLAGS, "--launcher", "slurm", "--no-wait"]
    several = [str(word) for word in (*words, "--devices", "cpu*2")]
    assert (cli.main(several), "a cell of a job has one: give one device" in capsys.readouterr().err) == (2, True)
    assert not (stand_in / "out").exists()
    assert cli.main([str(word) for word in (*words, "--devices", "cuda", "--precision", "16")]) == 0
    assert (stand_in / "script").read_text().count("--devices cuda --only ") == 6
    assert not (stand_in / "out/settings.json").exists()  # the first cell begins the study, on its device


CONFIGURATION = """
ClusterName=senet
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={at}/munge.socket
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={at}/state
SlurmdSpoolDir={at}/spool
SlurmctldPidFile={at}/slurmctld.pid
SlurmdPidFile={at}/slurmd.pid
SlurmctldLogFile={at}/slurmctld.log
SlurmdLogFile={at}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A SLURM of one machine with two processors, which ends with the tests."""
    if missing := [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(name) is None]:
        pytest.skip(f"needs {', '.join(missing)}: apt-get install slurmctld slurmd slurm-client munge")
    at = Path(tmp_path_factory.mktemp("slurm"))
    for folder in (at, *at.parents[:2]):
        folder.chmod(0o755)  # munge trusts no socket in a folder that others cannot read
    for name in ("state", "spool"):
        (at / name).mkdir()
    (at / "munge.key").write_bytes(os.urandom(1024))
    (at / "munge.key").chmod(0o400)
    with socket.socket() as one, socket.socket() as two:
        for each in (one, two):
            each.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1], two.getsockname()[1]]
    host = socket.gethostname().partition(".")[0]
    (at / "slurm.conf").write_text(CONFIGURATION.format(at=at, host=host, user=getpass.getuser(), ports=ports))
    files = {name: f"--{name}-file={at}/munge.{name}" for name in ("key", "pid", "log", "seed")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(at / "slurm.conf"))
        patch.setattr(slurm, "POLL_S", 0.5)
        try:
            subprocess.run(["munged", "--force", f"--socket={at}/munge.socket", *files.values()], check=True)
            subprocess.run(["slurmctld"], check=True)
            subprocess.run(["slurmd"], check=True)
            until = time.monotonic() + 30
            while "idle" not in subprocess.run(["sinfo"], capture_output=True, text=True, check=False).stdout:
                assert time.monotonic() < until, (at / "slurmctld.log").read_text()
                time.sleep(0.2)
            yield at
        finally:
            for name in ("slurmd", "slurmctld", "munge"):
                if (file := at / f"{name}.pid").exists():
                    os.kill(int(file.read_text()), signal.SIGTERM)
                    until = time.monotonic() + 30
                    while file.exists() and time.monotonic() < until:
                        time.sleep(0.1)


@pytest.mark.long
def test_an_ablation_by_a_real_slurm_is_the_ablation(cluster, tiny, pictures, tmp_path, capsys):
    ablate(tiny, pictures, out=tmp_path / "here", table="squeeze", seeds=2, **SHORT)
    words = ["ablate", "--model", tiny, "--data", pictures, "--out", tmp_path / "there", "--table", "squeeze", *FLAGS]
    status = cli.main([str(word) for word in (*words, "--seeds", "2", "--launcher", "slurm")])
    out, err = capsys.readouterr()
    assert (status, "variants of SE differ" in out) == (0, True), err
    assert result(tmp_path / "there") == result(tmp_path / "here")
    assert len(list((tmp_path / "there/logs").glob("slurm-*.txt"))) == 6


@pytest.mark.long
def test_a_cell_that_slurm_cancels_goes_on(cluster, tiny, pictures, tmp_path, capsys):
    own = {**SHORT, "epochs": 40, "spec": SESpec(2)}
    ablate(tiny, pictures, out=tmp_path / "here", table="squeeze", seeds=1, **own)
    flags = [word if word != "1" else "40" for word in FLAGS]
    words = ["ablate", "--model", tiny, "--data", pictures, "--out", tmp_path / "there", "--table", "squeeze", *flags]
    words = [str(word) for word in (*words, "--seeds", "1", "--launcher", "slurm")]
    assert cli.main([*words, "--no-wait"]) == 0
    job = capsys.readouterr().out.split()[1]
    until = time.monotonic() + 120
    while not list((tmp_path / "there").glob("*-0/checkpoints/*.ckpt")):
        assert time.monotonic() < until
        time.sleep(0.1)
    subprocess.run(["scancel", "--signal=KILL", "--full", job], check=True)
    subprocess.run(["scancel", job], check=True)
    while slurm._is_queued(job):
        time.sleep(0.2)
    assert not (tmp_path / "there/result.json").exists()
    assert cli.main(words) == 0
    assert result(tmp_path / "there") == result(tmp_path / "here")
