"""Submit cells' commands as one SLURM job array."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch.distributed as dist

from senet.console.stopping import Stopped
from senet.data.signals import StopRequest
from senet.errors import StudyError
from senet.files.run_folder import own_folder
from senet.study.cells.children import LOGS
from senet.words import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from senet.console.progress import Progress
    from senet.study.cells.cell import CellOptions

__all__ = ["job_script", "submit"]

POLL_S = 10.0
"""Seconds between two queries of the queue, out of respect for its controller."""

_REPORT = "when it has ended, the same command with --report-only draws the report"

# A training writes a checkpoint one minute before its time limit, and a requeued job resumes from it.
_HEAD = """#!/bin/sh
#SBATCH --job-name=senet
#SBATCH --ntasks=1
#SBATCH --signal=B:TERM@60
#SBATCH --requeue
#SBATCH --open-mode=append
"""


def job_script(commands: Sequence[str]) -> str:
    """The array's script, in which each task executes the command of its number."""
    cases = "\n".join(f"{number}) exec {command} ;;" for number, command in enumerate(commands))
    return f'{_HEAD}case "$SLURM_ARRAY_TASK_ID" in\n{cases}\nesac\n'


def submit(commands: Sequence[str], folder: Path, options: CellOptions, shown: Progress) -> str:
    """Submit the commands as one job array and, if the options say so, wait until all tasks have ended.

    Returns:
        A message with the job's number and how to draw the report.

    Raises:
        StudyError: there is no sbatch, it refuses, or this is one of several processes.
        Stopped: a signal asked to stop waiting; the job continues.
    """
    if dist.is_initialized():
        raise StudyError("each process of torchrun or srun would submit the cells: start this command once, by itself")
    if shutil.which("sbatch") is None:
        raise StudyError("there is no sbatch here: call this where SLURM is, or see --list-cells for other schedulers")
    own_folder(folder / LOGS)
    words = [
        *("sbatch", "--parsable", f"--array=0-{len(commands) - 1}"),
        f"--output={str(folder.resolve() / LOGS).replace('%', '%%')}/slurm-%A_%a.txt",
        *shlex.split(options.sbatch or ""),
    ]
    done = subprocess.run(words, input=job_script(commands), capture_output=True, text=True, check=False)
    job = (done.stdout.strip().splitlines() or [""])[-1].partition(";")[0]
    if done.returncode or not job.isdecimal():
        said = " ".join((done.stderr or done.stdout).split()) or f"exit status {done.returncode}"
        raise StudyError(f"sbatch refused the job: {said:.500}")
    text = f"job {job} of SLURM trains {counted(len(commands), 'cell')}"
    shown.note(text)
    if options.wait:
        _wait(job)
    return f"{text}; {_REPORT}"


def _wait(job: str) -> None:
    request = StopRequest()
    with request.listening():
        while not request.number and _is_queued(job):
            end = time.monotonic() + POLL_S
            while not request.number and time.monotonic() < end:
                time.sleep(min(0.2, POLL_S))
    if request.number:
        goes_on = f"job {job} of SLURM goes on (scancel {job} stops it); {_REPORT}"
        raise Stopped(request.number, goes_on, resumable=False)  # the same command would submit its cells again


def _is_queued(job: str) -> bool:
    """Whether a task of the job is pending or running; an unanswered query counts as yes."""
    words = ["squeue", "--noheader", "--jobs", job, "--format=%i"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        raise StudyError(f"squeue cannot be asked ({error.strerror}): job {job} goes on") from error
    return bool(done.stdout.strip()) if done.returncode == 0 else "Invalid job id" not in done.stderr
