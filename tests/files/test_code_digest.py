"""A digest of code: what changes a training changes it, and nothing else does."""

from __future__ import annotations

import functools
import sys
import textwrap

import pytest

from senet.errors import InputTypeError, StudyError
from senet.files.code_digest import code_name, command_name, digest_of_code

FILE = """
import functools
import math
from dataclasses import dataclass
from pathlib import Path
import helper
from helper import scale

RATES = {"lr": 0.1, "steps": [1, 2]}
RATES["self"] = RATES

FACTOR = 7
DATA = Path("photos")

@dataclass
class Settings:
    decay: float

SETTINGS = Settings(0.5)

class Net:
    width = 4
    def forward(self, x):
        return scale(x)

    @property
    def factor(self):
        return FACTOR

@functools.cache
def inner(x):
    return math.sqrt(x)

def train(cell, more=3):
    return Net().forward(inner(RATES["lr"])) + helper.shift(more) + SETTINGS.decay + len(str(DATA))
"""
HELPER = """
def scale(x):
    return 2 * x

def shift(x):
    return x + 1
"""


@pytest.fixture
def digest(tmp_path, monkeypatch):
    """digest(file, helper) of the function `train` of such a file."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def of(text=FILE, helper=HELPER, name="train"):
        import importlib
        import linecache

        (tmp_path / "mine.py").write_text(text)
        (tmp_path / "helper.py").write_text(helper)
        for module in ("mine", "helper"):
            sys.modules.pop(module, None)
        importlib.invalidate_caches()
        linecache.clearcache()
        return digest_of_code(getattr(importlib.import_module("mine"), name))

    yield of
    for module in ("mine", "helper"):
        sys.modules.pop(module, None)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.1", "0.2"),
        ("[1, 2]", "[1, 3]"),
        ("width = 4", "width = 8"),
        ("math.sqrt(x)", "math.exp(x)"),
        ("more=3", "more=4"),
        ("scale(x)", "scale(x) + 1"),
        ("FACTOR = 7", "FACTOR = 8"),
        ("Settings(0.5)", "Settings(0.6)"),
        ('"photos"', '"pictures"'),
    ],
)
def test_what_changes_it(digest, old, new):
    assert digest() != digest(FILE.replace(old, new))


@pytest.mark.parametrize(("old", "new"), [("2 * x", "3 * x"), ("x + 1", "x + 2")])
def test_what_changes_it_in_a_file_beside(digest, old, new):
    assert digest() != digest(helper=HELPER.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [("\ndef inner", "\n# a comment\ndef inner"), ("RATES = ", "OTHER = 3\nRATES = "), ("return math", "return  math")],
)
def test_what_does_not_change_it(digest, old, new):
    assert old in FILE
    assert digest() == digest(FILE.replace(old, new))


def made(rate):
    def train(cell):
        return rate

    return train


def test_an_address_of_memory_does_not_change_it(digest):
    text = FILE + "\nKEYED = {object(): 1}\n\ndef keyed(cell):\n    return KEYED\n"
    first = digest(text, name="keyed")
    kept = sys.modules["mine"]  # with its object, so that the next one has another address
    assert digest(text, name="keyed") == first
    assert sys.modules["mine"] is not kept


def test_what_a_function_closes_over_and_is_given_counts():
    assert digest_of_code(made(1)) == digest_of_code(made(1)) != digest_of_code(made(2))
    one, two = (functools.partial(made(1), more=value) for value in (1, 2))
    assert digest_of_code(one) != digest_of_code(two)


def test_names():
    assert code_name(made(1)) == "test_code_digest.py:made.<locals>.train"
    assert command_name(made).endswith("test_code_digest.py:made")
    for function in (made(1), functools.partial(made, 1), print):
        with pytest.raises(InputTypeError, match="does not stand at the top level of one"):
            command_name(function)


def test_code_without_a_file():
    names = {}
    exec(textwrap.dedent("def train(cell):\n    return 1"), names)
    with pytest.raises(StudyError, match="the code of train cannot be read"):
        digest_of_code(names["train"])
