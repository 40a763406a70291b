from pathlib import Path

import pytest

from senet.files.paths import expanded


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("~", "/home/me"),
        ("~/runs/x", "/home/me/runs/x"),
        (Path("~/x"), "/home/me/x"),
        ("~draft.jpg", "~draft.jpg"),  # a name that begins so is no home
        ("runs/~x", "runs/~x"),
    ],
)
def test_a_home_is_expanded_and_a_name_is_not(monkeypatch, given, found):
    monkeypatch.setenv("HOME", "/home/me")
    assert expanded(given) == Path(found)
