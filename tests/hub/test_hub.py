"""A run goes to the Hub with its card, and comes back: by a server of the Hub's protocol on loopback."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import senet
from senet import cli, hub
from senet.errors import InputError, StudyError, WeightsError
from senet.files.hub import HubName, fetched, is_on_hub
from senet.files.run_folder import _differing
from senet.saving import read_metadata
from tests.hub.server import serving

pytest.importorskip("lightning", reason="the extra 'study' is not installed")

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ["cat", "TV/monitor"]


def write_run(
    folder: Path, *, model: str = "resnet20", home: str = "/home/jo doe/secret", make: str | None = None
) -> Path:
    """A finished run, as `train` writes it, in a second and without a training."""
    network = senet.create("resnet20", num_classes=2).eval()
    spec = senet.SESpec(reduction_ratio=4) if make is None else None
    se = senet.insert(network, torch.randn(1, 3, 32, 32), spec, make=make)
    if model != "resnet20":
        se._senet_origin["model"] = model
    data = {"name": f"{home}/photos/", "content": {"train": "8 images, 1f", "val": "4 images, 2f"}}
    settings = {
        "model": {"name": model, "content": model},
        "weights": {"name": f"{home}/mine.pth", "content": "sha256 1f"},
        "se": {"reduction_ratio": 4, "width": None, "squeeze": "avg", "start": "identity"},
        "data": data,
        "recipe": {"batch_size": 4, "epochs": 1, "lr": 0.1, "milestones": [], "nesterov": True, "se_lr": None},
    }
    if make is not None:
        settings["se"] = {"make": {"name": make, "content": "sha256 3f"}, "placement": "standard", "start": "identity"}
    preprocessing = {"size": 32, "resize": 32, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    metadata = {"classes": CLASSES, "preprocessing": preprocessing, "accuracy": 0.75, "settings": settings}
    folder.mkdir(parents=True)
    senet.save(se, folder / "model.safetensors", metadata=metadata)
    result = {
        "accuracy": 0.75,
        "split": "val",
        "images": 4,
        "loss": 0.5,
        "epochs": 1,
        "seconds": 1.0,
        "parameters": 277_000,
        "sites": [],
        "notes": [],
        "settings": settings,
        "machine": {"processor": "A CPU", "command": f"senet train {home}"},
        "bad_files": [{"name": "jo at the beach.jpg", "reason": "empty"}],
    }
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "predictions.csv").write_text("image,class\njo at the beach.jpg,cat\n")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "se-0")


@pytest.fixture
def card(run, tmp_path):
    return (hub.prepare(run, tmp_path / "up", name="hf:jo/se") / "README.md").read_text()


def test_names():
    assert HubName.parse("hf:jo/se.2") == ("jo/se.2", None)
    assert HubName.parse("hf:jo/se@v1/x") == ("jo/se", "v1/x")
    assert is_on_hub("hf:jo/se")
    assert not is_on_hub(Path("hf:jo/se"))
    for wrong in ("hf:jo", "hf:jo/se@", "hf:jo/se/x", "jo/se", "hf:jo/se@a b"):
        with pytest.raises(WeightsError, match="hf:owner/name@revision"):
            HubName.parse(wrong)


@pytest.mark.parametrize(
    ("value", "there"),
    [
        ("/home/jo/photos", "photos"),
        ("~/photos/", "photos"),
        ("../a/net.py:build", "net.py:build"),
        ("a/net.py:build", "net.py:build"),
        ("C:\\Users\\jo\\x.pth", "x.pth"),
        ("wds:/data/jo/{0..9}.tar", "wds:{0..9}.tar"),
        ("/home/jo doe/my photos", "my photos"),
        ("torchvision:CIFAR10", "torchvision:CIFAR10"),
        ("hf:jo/se", "hf:jo/se"),
        ("digits", "digits"),
        ("8 images, 1f/2f", "8 images, 1f/2f"),
        (["/a/b", 1, None, {"x": "/c/d"}], ["b", 1, None, {"x": "d"}]),
    ],
)
def test_paths_become_their_last_part(value, there):
    assert hub.bare(value) == there


def test_nothing_of_this_machine_goes_up(run, tmp_path):
    there = hub.prepare(run, tmp_path / "up")
    assert {file.name for file in there.iterdir()} == {"README.md", "model.safetensors", "result.json"}
    for file in there.iterdir():
        content = file.read_bytes()
        for word in (b"jo doe", b"secret", b"beach", str(run).encode()):
            assert word not in content, (file.name, word)


def test_names_with_a_space_are_paths_too():
    settings = {"data": {"name": "my photos/of jo", "content": "a b/c"}, "make": "my code/net.py:gate"}
    assert hub.bare(settings) == {"data": {"name": "of jo", "content": "a b/c"}, "make": "net.py:gate"}


def test_blocks_of_another_maker_go_up_without_its_folder(tmp_path):
    """Their file's name is what loads them; the card names them, and what to give."""
    code = tmp_path / "jo doe" / "secret" / "blocks.py"
    code.parent.mkdir(parents=True)
    code.write_text("from torch import nn\n\n\ndef gate(channels):\n    return nn.Conv2d(channels, channels, 1)\n")
    run = write_run(tmp_path / "runs" / "se-0", make=f"{code}:gate")
    there = hub.prepare(run, tmp_path / "up")
    for file in there.iterdir():
        assert not any(word in file.read_bytes() for word in (b"jo doe", b"secret")), file.name
    card = (there / "README.md").read_text()
    assert "# resnet20 with blocks.py:gate, trained on photos\n" in card
    assert "| `layer1.0.bn2` | 16 | blocks.py:gate |" in card
    assert 'senet.load("hf:owner/name", make=function)' in card
    assert len(senet.blocks(senet.load(there, make=f"{code}:gate"))) == 9


def test_the_network_is_the_same(run, tmp_path):
    there = hub.prepare(run, tmp_path / "up")
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(senet.load(there)(x), senet.load(run)(x))
    metadata = read_metadata(there)["metadata"]
    assert metadata["classes"] == CLASSES
    assert metadata["preprocessing"] == read_metadata(run)["metadata"]["preprocessing"]


def test_the_card_says_what_it_is(card):
    yaml = pytest.importorskip("yaml")
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "senet"
    assert {"squeeze-and-excitation", "image-classification"} <= set(front["tags"])
    assert front["model-index"][0]["results"][0]["metrics"] == [{"type": "accuracy", "value": 0.75}]
    assert "# resnet20 with Squeeze-and-Excitation, trained on photos\n" in card
    assert "75.00 % of 4 pictures of photos (val) are right, after 1 epoch, with 277,000 parameters." in card
    assert 'senet.load("hf:jo/se")' in card
    assert "senet predict --model hf:jo/se --data picture.jpg" in card
    assert "| size | 32 |" in card
    assert "| mean | 0.5, 0.5, 0.5 |" in card
    assert "`cat`, `TV/monitor`" in card
    assert "| weights | mine.pth |" in card
    assert "| nesterov | yes |" in card
    assert "| se lr | none |" in card
    assert "| `layer1.0.bn2` | 16 | 4 | avg | sigmoid |" in card
    assert not re.search(r"\b(True|False|None)\b", card)
    assert "Compared with" not in card


def test_a_run_of_a_comparison_says_what_it_was_compared_with(tmp_path, paint, monkeypatch):
    data = paint({"train/cat": 4, "train/dog": 4, "val/cat": 3, "val/dog": 3})
    from senet.study import compare

    next(data.glob("train/*")).joinpath("jo at the beach.png").write_bytes(b"x")
    found = compare("resnet20", data, seeds=2, epochs=1, batch_size=4, size=16, out=tmp_path / "both", progress=False)
    card = (hub.prepare(tmp_path / "both" / "se-0", tmp_path / "up") / "README.md").read_text()
    assert "## Compared with the same network without SE" in card
    assert found.verdict in card
    assert "- 95 % interval over 2 seeds (paired t): " in card
    assert re.search(r"^\| mean ± sd \|", card, re.MULTILINE)
    assert re.search(r"^\| parameters +\|", card, re.MULTILINE)
    assert str(tmp_path) not in card
    assert "skipped" in str(found)
    assert "beach" not in card  # nor the names of pictures that were skipped
    monkeypatch.chdir(tmp_path / "both/plain-0")
    plain = (hub.prepare(".", tmp_path / "plain") / "README.md").read_text()
    assert "# resnet20, trained on " in plain
    assert "## Compared with the same network with SE" in plain
    another = shutil.copytree(tmp_path / "both/se-0", tmp_path / "both/another")
    assert "## Compared with" not in (hub.prepare(another, tmp_path / "lone") / "README.md").read_text()


def test_a_network_of_a_function_is_named_and_not_promised(tmp_path):
    run = write_run(tmp_path / "run", model="/home/jo doe/net.py:build")
    there = hub.prepare(run, tmp_path / "up", name="hf:jo/own")
    card = (there / "README.md").read_text()
    assert "The plain network is made by net.py:build. That code is not here" in card
    assert 'senet.load("hf:jo/own", model=network)' in card
    assert read_metadata(there)["model"] == "net.py:build"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "needs a run's folder, and OWNER/NAME or --out"),
        (["there"], "needs a run's folder, and OWNER/NAME or --out"),
        (["nowhere", "jo/se"], "nowhere holds no finished run: senet push takes the folder of a run"),
        (["there", "se"], "a repository on the Hub is named OWNER/NAME, not 'se'"),
    ],
)
def test_mistakes_are_said_in_one_line(words, message, capsys):
    assert cli.main(["push", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1 or not words


def test_a_comparison_names_its_runs(run):
    with pytest.raises(StudyError, match=r"one of its runs such as .*se-0"):
        hub.prepare(run.parent, run.parent / "up")


def test_a_run_is_not_written_over(run):
    (run / "settings.json").write_text("{}")
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    with pytest.raises(StudyError, match="is the folder of a training or a study: choose another"):
        hub.prepare(run, run)
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before
    (run / "settings.json").unlink()


@pytest.mark.parametrize("before", [False, True], ids=["new", "again"])
def test_a_push_that_is_killed_says_so_and_can_be_repeated(run, tmp_path, monkeypatch, before):
    if before:
        hub.prepare(run, tmp_path / "up")

    def killed(_, to):
        to.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(hub, "_write_network", killed)
        with pytest.raises(KeyboardInterrupt):
            hub.prepare(run, tmp_path / "up")
    assert "This folder is not whole" in (tmp_path / "up" / "README.md").read_text()
    assert "not whole" not in (hub.prepare(run, tmp_path / "up") / "README.md").read_text()


def test_the_readme_of_a_project_is_not_written_over(run, tmp_path):
    (tmp_path / "README.md").write_text("# My project\n")
    with pytest.raises(StudyError, match=r"has README\.md, which senet push did not write: choose another folder"):
        hub.prepare(run, tmp_path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("README.md", "# My project\n")]
    for _ in range(2):  # its own files give way
        hub.prepare(run, tmp_path / "card")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accuracy": 7}, "accuracy is 7, not a finite number of at least 0 and at most 1"),
        ({"epochs": None}, "epochs is None, not a whole number"),
        ({"settings": {}}, "settings, model holds None where fields"),
    ],
)
def test_an_edited_result_is_named(run, tmp_path, change, message):
    edited = Path(shutil.copytree(run, tmp_path / "se-0"))
    result = json.loads((edited / "result.json").read_text())
    (edited / "result.json").write_text(json.dumps(result | change))
    with pytest.raises(StudyError, match=message):
        hub.prepare(edited, tmp_path / "up")
    assert not (tmp_path / "up").exists()


def test_a_folder_whose_name_is_not_utf8(tmp_path):
    run = write_run(tmp_path / "se-0", home=os.fsdecode(b"/home/caf\xe9"))
    result = json.loads((run / "result.json").read_text())
    result["settings"]["data"]["name"] = os.fsdecode(b"/home/caf\xe9")
    (run / "result.json").write_text(json.dumps(result))
    assert r"trained on caf\udce9" in (hub.prepare(run, tmp_path / "up") / "README.md").read_text()


def test_out_sends_nothing(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert cli.main(["push", str(run), "jo/se", "--out", str(tmp_path / "up")]) == 0
    assert "Nothing was sent" in capsys.readouterr().out
    assert 'senet.load("hf:jo/se")' in (tmp_path / "up" / "README.md").read_text()
    assert cli.main(["push", str(run), "jo/se", "--revision", "wide", "--out", str(tmp_path / "wide")]) == 0
    assert 'senet.load("hf:jo/se@wide")' in (tmp_path / "wide" / "README.md").read_text()  # as it would be pushed
    with pytest.raises(ImportError, match=r"pip install .*\[hub\]'"):
        hub.push(run, "jo/se")
    with pytest.raises(InputError, match="OWNER/NAME"):
        hub.push(run, "se")


def test_a_run_begun_with_the_name_alone_goes_on():
    def weights(content):
        return {"name": "hf:jo/se", "content": content}

    assert _differing(weights("hf:jo/se"), weights("sha256 1")) == []
    assert _differing(weights("sha256 2"), weights("sha256 1"))


SCRIPT = """
import json, sys, torch, senet
from pathlib import Path
from PIL import Image
from senet import cli, hub
from senet.errors import StudyError, WeightsError
from senet.evaluation.networks import NetworkSpec, network_of

run, other = sys.argv[1:]
assert cli.main(["push", run, "jo/se"]) == 0
first = hub.push(run, "jo/se")
assert hub.push(other, "jo/se", revision="wide").private is None
assert hub.push(other, "jo/open", public=True).private is False

x = torch.randn(1, 3, 32, 32)
assert torch.equal(senet.load("hf:jo/se")(x), senet.load(run)(x))
assert torch.equal(senet.load("hf:jo/se@wide")(x), senet.load(other)(x))
assert torch.equal(senet.load(f"hf:jo/se@{first.commit}")(x), senet.load(run)(x))
assert torch.equal(senet.create("hf:jo/se").eval()(x), senet.load(run)(x))
assert torch.equal(network_of(NetworkSpec("resnet20", "hf:jo/se")).eval()(x), senet.load(run)(x))

Image.new("RGB", (32, 32)).save("picture.png")
assert cli.main(["predict", "--model", "hf:jo/se@wide", "--data", "picture.png", "--out", "said.csv"]) == 0
assert "TV/monitor" in Path("said.csv").read_text()
for name, words in {"hf:jo/nothing": "RepositoryNotFound", "hf:jo/se@never": "RevisionNotFound"}.items():
    try:
        senet.load(name)
    except WeightsError as error:
        assert words in str(error), error
    else:
        raise AssertionError(name)
assert cli.main(["predict", "--model", "hf:jo/nothing", "--data", "picture.png"]) == 2
"""


def test_up_and_down_by_the_protocol(run, tmp_path):
    """In a process of its own, since the library reads HF_ENDPOINT when it is imported."""
    pytest.importorskip("huggingface_hub", reason="the extra 'hub' is not installed")
    torch.manual_seed(1)
    other = write_run(tmp_path / "other")
    with serving() as there:
        set_up = {
            "HF_ENDPOINT": there.url,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_TOKEN": "a token",
            "PYTHONPATH": str(ROOT),
        }
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(run), str(other)],
            env={
                **os.environ,
                **set_up,
                "HF_HUB_DISABLE_PROGRESS_BARS": "1",
                "HF_HUB_DISABLE_XET": "1",
                "HF_HUB_OFFLINE": "0",
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, (done.stdout, done.stderr, there.refused)
    assert not there.refused
    assert there.private == {"jo/se": True, "jo/open": False}
    assert set(there.states["jo/se"]["main"]) == {"README.md", "model.safetensors", "result.json"}
    assert b"hf:jo/se" in there.states["jo/se"]["main"]["README.md"]
    assert b"hf:jo/se@wide" in there.states["jo/se"]["wide"]["README.md"]
    assert "(only you and your organisation see it)" in done.stdout


def test_a_name_that_is_none_is_said_before_anything_is_asked(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WeightsError, match="hf:owner/name"):
        fetched("hf:x", ["a"])
