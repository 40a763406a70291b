import errno
import os
import stat

import pytest

from senet.files import atomic
from senet.files.atomic import atomic_write, atomic_write_all, check_writable


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("old", [None, "old"])
def test_writes(tmp_path, old):
    path = tmp_path / "result.json"
    if old is not None:
        path.write_text(old)
    with atomic_write(path) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".json"
        temporary.write_text("new")
        assert (path.read_text() if path.exists() else None) == old
    assert path.read_text() == "new"
    assert names(tmp_path) == ["result.json"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("old", [None, "old"])
def test_what_fails_leaves_the_old_file(tmp_path, error, old):
    path = tmp_path / "result.json"
    if old is not None:
        path.write_text(old)

    def write():
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert names(tmp_path) == ([] if old is None else ["result.json"])
    assert old is None or path.read_text() == old


def test_a_disk_that_fails_at_the_end(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    path.write_text("old")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"), atomic_write(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["result.json"]


def test_a_writer_that_puts_a_file_of_its_own(tmp_path):
    path = tmp_path / "a"
    with atomic_write(path) as temporary:
        temporary.unlink()
        temporary.touch(0o600)
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_permissions_and_links_are_kept(tmp_path):
    path, link = tmp_path / "a", tmp_path / "b"
    path.write_text("old")
    path.chmod(0o640)
    link.symlink_to(path)
    with atomic_write(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("no/a.json", FileNotFoundError, "cannot write .*no/a.json: the folder .*no does not exist"),
        ("file/a.json", NotADirectoryError, "file is not a folder"),
        (".", IsADirectoryError, "is a folder; give the name of a file in it"),
    ],
)
def test_where_nothing_can_be_written(tmp_path, path, error, message):
    (tmp_path / "file").touch()
    with pytest.raises(error, match=message), atomic_write(tmp_path / path):
        pytest.fail("the block ran")
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("number", "error", "message"),
    [
        (errno.EACCES, PermissionError, "cannot write .*a.json: no permission to write in"),
        (errno.EROFS, OSError, "cannot write .*a.json: Read-only file system"),
    ],
)
def test_a_folder_that_may_not_be_written(tmp_path, monkeypatch, number, error, message):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(error, match=message), atomic_write(tmp_path / "a.json"):
        pytest.fail("the block ran")


@pytest.mark.parametrize("old", [None, "old"])
def test_files_that_are_one_thing(tmp_path, old):
    paths = [tmp_path / "net.xml", tmp_path / "net.bin"]
    if old is not None:
        for path in paths:
            path.write_text(old)
    with atomic_write_all(*paths) as temporary:
        assert [path.suffix for path in temporary] == [".xml", ".bin"]
        for path in temporary:
            path.write_text("new")
        assert {path.read_text() for path in paths if path.exists()} == ({old} if old else set())
    assert [path.read_text() for path in paths] == ["new", "new"]
    assert names(tmp_path) == ["net.bin", "net.xml"]


def test_files_that_are_one_thing_and_fail(tmp_path):
    paths = [tmp_path / "net.xml", tmp_path / "net.bin"]
    for path in paths:
        path.write_text("old")

    def write():
        with atomic_write_all(*paths) as temporary:
            temporary[0].write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert [path.read_text() for path in paths] == ["old", "old"]
    assert names(tmp_path) == ["net.bin", "net.xml"]


def test_a_process_killed_between_two_files_leaves_no_pair_of_two_kinds(tmp_path, monkeypatch):
    paths = [tmp_path / "net.xml", tmp_path / "net.bin"]
    for path in paths:
        path.write_text("old")
    replaced = []

    def replace(self, target):
        replaced.append(target.name)
        if target.name == "net.xml":
            assert paths[1].read_text() == "new"
            assert not paths[0].exists()
        return self.rename(target)

    monkeypatch.setattr(type(tmp_path), "replace", replace)
    with atomic_write_all(*paths) as temporary:
        for path in temporary:
            path.write_text("new")
    assert replaced == ["net.bin", "net.xml"]


def test_what_cannot_be_written_is_told_before_the_work(tmp_path):
    (tmp_path / "old").write_text("old")
    check_writable(tmp_path / "old")
    check_writable(tmp_path / "new")
    for path, error in ((tmp_path, IsADirectoryError), (tmp_path / "no/new", FileNotFoundError)):
        with pytest.raises(error):
            check_writable(path)
    with pytest.raises(NotADirectoryError):
        check_writable(tmp_path / "old/new")
    assert names(tmp_path) == ["old"]
    assert (tmp_path / "old").read_text() == "old"


def test_a_file_that_is_read_only_is_not_replaced(tmp_path, monkeypatch):
    """As a cache of data versions protects what its links lead to."""
    path, link = tmp_path / "a", tmp_path / "b"
    path.write_text("old")
    link.symlink_to(path)
    monkeypatch.setattr(os, "access", lambda asked, _: asked != path)
    for write in (check_writable, lambda given: atomic_write(given).__enter__()):
        with pytest.raises(PermissionError, match=r"cannot write .*b: it is read-only"):
            write(link)
    assert names(tmp_path) == ["a", "b"]
    with atomic_write(link, follow=False) as temporary:  # a study's own folder: the link gives way
        temporary.write_text("new")
    assert (path.read_text(), link.read_text()) == ("old", "new")


def test_what_a_killed_writer_left_goes_without_a_signal_where_signal_0_is_ctrl_c(tmp_path, monkeypatch):
    left = tmp_path / f".senet-{os.getpid()}-{atomic._HOST}-{'0' * 16}.json"
    left.touch()
    os.utime(left, (0, 0))
    monkeypatch.setattr(atomic, "_POSIX", False)
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("a signal was sent"))
    with atomic_write(tmp_path / "a.json") as temporary:
        temporary.touch()
    assert names(tmp_path) == ["a.json"]


def test_a_pipe_or_a_device_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for write in (check_writable, lambda given: atomic_write(given).__enter__()):
        with pytest.raises(FileExistsError, match=r"cannot write .*pipe: it is not a file, but a device or a pipe"):
            write(tmp_path / "pipe")
    assert names(tmp_path) == ["pipe"]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
