"""Commands as child processes: as many as there are slots, none left behind, one retry, one line for each failure."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from senet.console.progress import Progress
from senet.console.stopping import Stopped
from senet.errors import StudyError
from senet.study.cells import children
from senet.study.cells.cell import Cell
from senet.study.cells.children import run_children
from tests.forked import forked

CELLS = [Cell("plain", 0), Cell("se", 0), Cell("plain", 1), Cell("se", 1)]


class Notes(Progress):
    def __init__(self):
        super().__init__(False)
        self.said = []

    def note(self, text):
        self.said.append(text)


def sh(script):
    return lambda cell, device: ["/bin/sh", "-c", script, cell.name, device]


def gone(pid, seconds=10.0):
    """Whether a process ends within that time; a zombie that nobody has collected has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


def until(path, lines=1, seconds=10.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if path.exists() and len(found := path.read_text().split()) >= lines:
            return found
        time.sleep(0.02)
    raise AssertionError(f"{path} was not written")


def test_each_slot_has_one_command_at_a_time(tmp_path):
    script = f"""
    mkdir {tmp_path}/at-$1 || exit 7     # two commands on one device would meet here
    echo "$0 $1" >> {tmp_path}/ran
    sleep 0.1
    rmdir {tmp_path}/at-$1
    """
    notes = Notes()
    assert run_children(CELLS, ["a", "b"], sh(script), tmp_path, notes) == {}
    ran = (tmp_path / "ran").read_text().splitlines()
    assert sorted(line.split()[0] for line in ran) == sorted(cell.name for cell in CELLS)
    assert {line.split()[1] for line in ran} == {"a", "b"}
    assert sorted(notes.said) == sorted(f"{cell.name} is trained" for cell in CELLS)


def test_what_a_child_prints_is_kept_and_its_error_is_one_line(tmp_path):
    script = "echo working; echo 'senet: error: the loss is nan at step 3' >&2; exit 2"
    failed = run_children([CELLS[1]], ["cpu"], sh(script), tmp_path, Notes())
    assert failed == {CELLS[1]: "failed: the loss is nan at step 3"}
    assert (tmp_path / "logs/se-0.txt").read_text() == "working\nsenet: error: the loss is nan at step 3\n"  # once


def test_logs_go_nowhere_else(tmp_path):
    study, outside = tmp_path / "study", tmp_path / "outside"
    (study / "logs").mkdir(parents=True)
    outside.write_text("precious")
    (study / "logs/se-0.txt").symlink_to(outside)
    (study / "logs/plain-1.txt").symlink_to(tmp_path / "nowhere")
    run_children(CELLS[1:3], ["cpu"], sh("echo working"), study, Notes())
    assert (outside.read_text(), (tmp_path / "nowhere").exists()) == ("precious", False)
    assert (study / "logs/se-0.txt").read_text() == "working\n"
    (tmp_path / "other").mkdir()
    (tmp_path / "other/logs").symlink_to(study / "logs")
    with pytest.raises(StudyError, match=r"other/logs is a link to .*logs, and a study writes only into its own"):
        run_children(CELLS, ["cpu"], sh("echo working"), tmp_path / "other", Notes())


def test_a_killed_child_is_started_once_more(tmp_path):
    once = f"[ -e {tmp_path}/$0 ] && exit 0; touch {tmp_path}/$0; kill -KILL $$"
    notes = Notes()
    assert run_children(CELLS[:1], ["cpu"], sh(once), tmp_path, notes) == {}
    assert notes.said == [
        "plain-0 was ended by SIGKILL: it is restarted and resumes",
        "plain-0 is trained",
    ]
    failed = run_children(CELLS[:2], ["cpu"], sh("[ $0 = se-0 ] || kill -SEGV $$"), tmp_path, Notes())
    assert failed == {CELLS[0]: "was ended by SIGSEGV"}


def test_another_exit_status_names_its_last_words(tmp_path):
    failed = run_children(CELLS[:1], ["cpu"], sh("echo no disk; exit 3"), tmp_path, Notes())
    assert failed[CELLS[0]].startswith("ended with exit status 3 (no disk); ")
    assert failed[CELLS[0]].endswith("logs/plain-0.txt has what it said")


def test_what_a_child_started_ends_with_it(tmp_path):
    run_children(CELLS[:1], ["cpu"], sh(f"sleep 60 & echo $! > {tmp_path}/worker"), tmp_path, Notes())
    assert gone(int((tmp_path / "worker").read_text()))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_everything_at_once_and_begins_nothing(tmp_path, number):
    script = (
        f"trap 'echo $0 >> {tmp_path}/told; exit 143' TERM; echo $$ >> {tmp_path}/pids; while :; do sleep 0.02; done"
    )
    sender = threading.Thread(target=lambda: (until(tmp_path / "pids", 2), os.kill(os.getpid(), number)))
    sender.start()
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else Stopped):
        run_children(CELLS, ["a", "b"], sh(script), tmp_path, Notes())
    sender.join()
    assert sorted((tmp_path / "told").read_text().split()) == ["plain-0", "se-0"]
    assert all(gone(int(pid)) for pid in until(tmp_path / "pids", 2))


def _parent(_, at):
    children.GRACE_S = 0.5  # for these, which do not hear SIGTERM
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it would be ignored
    script = f"trap '' TERM; sleep 60 & echo $! >> {at}/pids; echo $$ >> {at}/pids; wait"
    cells = [Cell("plain", seed) for seed in range(4)]
    run_children(cells, ["a", "b"], lambda cell, device: ["/bin/sh", "-c", script], at, Progress(False))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_a_parent_that_is_killed_leaves_no_orphans(tmp_path, number):
    parent, _ = forked(_parent, tmp_path)
    pids = until(tmp_path / "pids", 4, 60.0)
    os.kill(parent.pid, number)
    parent.join()
    assert parent.exitcode != 0
    assert all(gone(int(pid)) for pid in pids)
    assert len((tmp_path / "pids").read_text().split()) == 4  # nothing that waited has begun
