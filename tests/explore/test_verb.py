"""`senet explore`: what is typed."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from senet import cli
from senet.explore import server

pytest.importorskip("gradio", reason="the extra 'explore' is not installed")


@pytest.fixture
def explore(monkeypatch, capsys):
    """Runs the command with a server that does not serve: what it would have, and what was said."""
    opened = {}

    def serve(subjects, socket, *, ready):
        opened.update(subjects)
        ready()
        raise KeyboardInterrupt  # as Ctrl-C in the server

    monkeypatch.setattr("senet.explore.serve", serve)

    def run(*words):
        status = cli.main(["explore", *words])
        said = capsys.readouterr()
        return status, opened, said.out, said.err

    return run


def test_several_networks_each_with_its_weights(explore, saved):
    status, opened, said, error = explore("--model", "se_resnet20", saved, "--weights", "none", "--size", "24")
    assert (status, error) == (0, "")
    assert list(opened) == ["se_resnet20", saved]
    assert all(subject.preprocessing.size == 24 for subject in opened.values())
    assert "http://127.0.0.1:" in said
    assert "Ctrl-C" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model", "resnet20"), "resnet20 holds no SE block"),
        (("--model", "se_resnet20", "se_resnet20"), "names se_resnet20 twice"),
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


def test_without_gradio_it_says_what_to_install(explore, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "gradio" else find(name, *rest)
    )
    status, _, _, error = explore("--model", "se_resnet20")
    assert status == 2
    assert "[explore]'" in error


def test_gradio_is_loaded_only_to_serve():
    code = "import sys, senet.cli, senet.explore; sys.exit('gradio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0


def test_gradios_settings_are_set_aside(monkeypatch, tmp_path):
    monkeypatch.setenv("GRADIO_ALLOWED_PATHS", "/")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    with server.quiet():
        assert "GRADIO_ALLOWED_PATHS" not in os.environ
        assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
        folder = os.environ["GRADIO_TEMP_DIR"]
        assert folder != str(tmp_path)
    assert os.environ["GRADIO_ALLOWED_PATHS"] == "/"
    assert os.environ["GRADIO_TEMP_DIR"] == str(tmp_path)
    assert not Path(folder).exists()
    assert "GRADIO_ANALYTICS_ENABLED" not in os.environ
