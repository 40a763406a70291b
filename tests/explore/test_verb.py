"""`senet explore`: what is typed."""

import importlib.util
import subprocess
import sys

import pytest
import torch

import senet
from senet import cli

pytest.importorskip("starlette", reason="the extra 'explore' is not installed")


@pytest.fixture
def explore(monkeypatch, capsys):
    """Runs the command with a server that does not serve: what it would have, and what was said."""
    opened = {}

    def serve(subjects, socket, *, hosts, ready):
        opened.update(subjects)
        assert list(hosts) in ([], ["proxy.example"])
        ready()
        raise KeyboardInterrupt  # as Ctrl-C in the server

    monkeypatch.setattr("senet.explore.serve", serve)

    def run(*words):
        status = cli.main(["explore", *words])
        said = capsys.readouterr()
        return status, opened, said.out, said.err

    return run


def test_several_networks_each_with_its_weights(explore, saved):
    words = "--weights none --size 24 --allow-host proxy.example --model se_resnet20".split()
    status, opened, said, error = explore(*words, saved)
    assert (status, error) == (0, "")
    assert list(opened) == ["se_resnet20", saved]
    assert all(subject.preprocessing.size == 24 for subject in opened.values())
    assert "http://127.0.0.1:" in said
    assert "Ctrl-C" in said


def test_runs_of_a_network_of_ones_own_beside_each_other(explore, tiny, tmp_path):
    for name in ("one", "two"):
        network = senet.insert(senet.create(tiny), torch.zeros(1, 3, 16, 16), senet.SESpec(2))
        senet.save(network, tmp_path / f"{name}.safetensors")
    one, two = (str(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    status, _, _, error = explore("--model", "se_resnet20", one, "--size", "16")
    assert status == 2
    command = error.partition("That is: senet explore ")[2].split()
    assert command == f"--model se_resnet20 {tiny} --size 16 --weights none {one}".split()
    assert explore(*command)[0] == 0
    status, opened, _, error = explore("--model", tiny, tiny, "--weights", one, two, "--size", "16")
    assert (status, error) == (0, "")
    assert all(subject.name == name for name, subject in opened.items())
    assert list(opened)[-2:] == [f"{tiny} with {one}", f"{tiny} with {two}"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model", "resnet20"), "resnet20 holds no SE block"),
        (("--model", "se_resnet20", "se_resnet20"), "names se_resnet20 twice with the same weights"),
        (("--model", "a", "b", "c", "--weights", "x", "y"), "--weights names 2 for 3 networks"),
        (("--model", "a", "--classes", "x", "y"), "--classes names 2 for 1 network:"),
        (("--model", "se_resnet20", "--classes", "nowhere.json"), "nowhere.json cannot be read"),
        (("--model", "se_resnet20", "--port", "70000"), "port 70000"),
        ((), "senet explore needs --model"),
    ],
)
def test_what_cannot_be_opened_is_one_line(explore, words, message):
    status, opened, _, error = explore(*words)
    assert status == 2
    assert message in error
    assert error.count("\n") == 1
    assert not opened


def test_without_starlette_it_says_what_to_install(explore, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "starlette" else find(name, *rest)
    )
    status, _, _, error = explore("--model", "se_resnet20")
    assert status == 2
    assert "[explore]'" in error


def test_starlette_is_loaded_only_to_serve():
    code = "import sys, senet.cli, senet.explore; sys.exit('starlette' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
