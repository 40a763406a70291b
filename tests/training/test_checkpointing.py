import errno
import random
import signal
import zipfile

import pytest
import torch

from senet.errors import StudyError
from senet.training.checkpointing import is_whole, newest, place, read_checkpoint, step_of, sweep, write_checkpoint
from tests.forked import forked


def _content(value):
    return {"step": value, "state_dict": {"weight": torch.full((1000,), float(value)), "n": torch.tensor(value)}}


def _equal(one, other):
    return one["step"] == other["step"] and all(
        torch.equal(one["state_dict"][key], other["state_dict"][key]) for key in other["state_dict"]
    )


def test_a_checkpoint_is_read_as_it_was_written(tmp_path):
    path = place(tmp_path, 3)
    write_checkpoint(_content(3), path)
    assert step_of(path) == 3
    assert is_whole(path)
    assert _equal(read_checkpoint(path), _content(3))
    assert _equal(torch.load(path, weights_only=True), _content(3))  # anyone can read it
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        assert file.comment.startswith(b"senet checkpoint, sha256 ")


def test_what_is_no_plain_value_is_not_read(tmp_path):
    path = place(tmp_path, 1)
    write_checkpoint({"module": torch.nn.Linear(1, 1)}, path)
    with pytest.raises(Exception, match="weights_only"):
        read_checkpoint(path)


def _torn(content, older, rng):
    """A file as an interrupted write may leave it: cut off, blocks that never came, older blocks, turned bits."""
    data = bytearray(content)
    kind = rng.choice(["cut", "zeros", "older", "bits", "grown", "tail"])
    block = rng.choice([1, 512, 4096])
    at = rng.randrange(0, len(data), block)
    if kind == "cut":
        del data[rng.randrange(len(data)) :]
    elif kind == "zeros":
        data[at : at + block] = bytes(len(data[at : at + block]))
    elif kind == "older":
        data[at : at + block] = older[at : at + block]
    elif kind == "bits":
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "grown":
        data += bytes(rng.randrange(1, 4096))
    else:
        data[at:] = bytes(len(data) - at)
    return bytes(data)


def test_of_a_thousand_torn_writes_none_loads_and_is_wrong(tmp_path):
    rng = random.Random(0)
    older, path = place(tmp_path, 1), place(tmp_path, 2)
    write_checkpoint(_content(1), older)
    write_checkpoint(_content(2), path)
    content, previous = path.read_bytes(), older.read_bytes()
    found = {"whole": 0, "skipped": 0}
    for _ in range(1000):
        torn = _torn(content, previous, rng)
        path.write_bytes(torn)
        search = newest(tmp_path)
        if torn == content:  # what was torn happened to be the same
            assert search.path == path
            found["whole"] += 1
            continue
        assert (search.path, search.broken) == (older, (path,))
        with pytest.raises(StudyError, match="is not whole"):
            read_checkpoint(path)
        found["skipped"] += 1
    assert found["skipped"] > 900
    assert found["skipped"] + found["whole"] == 1000


def test_the_newest_is_found_and_older_ones_are_swept(tmp_path):
    assert newest(tmp_path) == (None, ())
    for step in (9, 10, 200, 1_000_000_000):
        write_checkpoint(_content(step), place(tmp_path, step))
    (tmp_path / "checkpoints/notes.txt").write_text("mine")
    (tmp_path / "checkpoints/.senet-1.ckpt").touch()
    assert newest(tmp_path).path == place(tmp_path, 1_000_000_000)
    sweep(tmp_path)
    left = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert left == ["notes.txt", "step-000000200.ckpt", "step-1000000000.ckpt"]
    sweep(tmp_path, kept=0)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["notes.txt"]
    (tmp_path / "checkpoints/notes.txt").unlink()
    sweep(tmp_path, kept=0)
    assert not (tmp_path / "checkpoints").exists()


def _write_within(pipe, path, size):
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    said = None
    try:
        write_checkpoint({"w": torch.zeros(30_000)}, path)
    except OSError as error:
        said = type(error), error.errno
    pipe.send(said)


@pytest.mark.parametrize("short", [0, 20, 50_000])  # 20 bytes short, the digest behind the content does not fit
def test_a_file_that_cannot_grow_leaves_the_one_before(tmp_path, short):
    path = place(tmp_path, 1)
    write_checkpoint({"w": torch.zeros(30_000)}, path)
    size = path.stat().st_size
    write_checkpoint(_content(1), path)
    before = path.read_bytes()
    process, pipe = forked(_write_within, path, size - short)
    said = pipe.recv()
    process.join()
    assert process.exitcode == 0
    assert is_whole(path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    if short == 0:
        assert said is None
        assert len(read_checkpoint(path)["w"]) == 30_000
    else:
        assert said == (OSError, errno.EFBIG)
        assert path.read_bytes() == before
