"""A folder in which one process works: the second is refused, and a killed one leaves no lock behind."""

from __future__ import annotations

import errno
import os
import signal
import time

import pytest

from senet.errors import StudyError
from senet.files import lock
from senet.files.lock import LOCK, locked
from tests.forked import forked


def _hold(pipe, folder, forks):
    os.setsid()  # a group of its own, which ends as a whole
    with locked(folder):
        if forks and os.fork() == 0:
            time.sleep(60)
        pipe.send("held")
        time.sleep(60)


def _holder(folder, forks=False):
    process, pipe = forked(_hold, folder, forks)
    assert pipe.recv() == "held"
    return process


def _end(process):
    os.killpg(process.pid, signal.SIGKILL)
    process.join()


def test_a_folder_is_held_by_one_and_then_free(tmp_path):
    with locked(tmp_path):
        words = rf"process {os.getpid()} on .* is working in .*: wait for it"
        with pytest.raises(StudyError, match=words), locked(tmp_path):
            pass
        assert (tmp_path / LOCK).exists()
    assert not (tmp_path / LOCK).exists()
    with locked(tmp_path):
        pass


def test_another_process_is_named_and_a_killed_one_leaves_no_lock(tmp_path):
    process = _holder(tmp_path)
    try:
        with pytest.raises(StudyError, match=rf"process {process.pid} on "), locked(tmp_path):
            pass
    finally:
        _end(process)
    with locked(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_was_forked_does_not_hold_the_lock_of_its_killed_parent(tmp_path):
    process = _holder(tmp_path, forks=True)
    try:
        process.kill()
        process.join()
        with locked(tmp_path):  # the worker still sleeps
            pass
    finally:
        _end(process)


def test_a_lock_that_was_removed_meanwhile_is_taken_again(tmp_path, monkeypatch):
    real, seen = lock._lock, []

    def removed(descriptor):
        real(descriptor)
        if not seen:
            (tmp_path / LOCK).unlink()  # as its holder does when it is done
        seen.append(descriptor)

    monkeypatch.setattr(lock, "_lock", removed)
    with locked(tmp_path):
        assert len(seen) == 2
        assert (tmp_path / LOCK).exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_worked_on_without(tmp_path, monkeypatch, number):
    import fcntl

    def refuse(*_):
        raise OSError(number, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path):
        pass


def test_a_folder_that_is_not_there_cannot_be_locked(tmp_path):
    with pytest.raises(StudyError, match="cannot be locked"), locked(tmp_path / "none"):
        pass
    (tmp_path / LOCK).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StudyError, match="cannot be locked"), locked(tmp_path):
        pass
    assert not (tmp_path / "elsewhere").exists()
