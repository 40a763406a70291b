import io
import re
import sys

import pytest

from senet import cli
from senet.console import display


@pytest.mark.parametrize("words", [("sites", "--model", "resnet20"), ("cost", "--model", "resnet20")])
def test_logs_have_no_colours_wrapped_names_or_trailing_spaces(senet, monkeypatch, words):
    monkeypatch.delenv("COLUMNS", raising=False)
    lines = senet(*words)[1].splitlines()
    assert max(map(len, lines)) <= display.LOG_WIDTH  # of the tables
    assert not any("\x1b" in line or line != line.rstrip() for line in lines)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_colours(monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    assert cli.main(["sites", "--model", "resnet20"]) == 0
    assert "\x1b[36mlayer1.0.bn2" in terminal.getvalue()
    assert max(map(len, re.sub(r"\x1b\[[\d;]*m", "", terminal.getvalue()).splitlines())) <= 80


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (display.count, 0, "0"),
        (display.count, 999, "999"),
        (display.count, 1000, "1.00 k"),
        (display.count, 25_557_032, "25.56 M"),
        (display.count, 999_999, "1.00 M"),
        (display.count, 4_089_184_256, "4.09 G"),
        (display.count, 123_456, "123.5 k"),
        (display.bytes_of, 512, "512 B"),
        (display.bytes_of, 1024**2, "1.00 MiB"),
        (display.bytes_of, 1311 * 1024**2, "1.28 GiB"),
        (display.bytes_of, 1024**2 - 1, "1.00 MiB"),
        (display.share, 0, "0 %"),
        (display.share, 0.000651, "0.065 %"),
        (display.share, 0.0895, "8.9 %"),
        (display.share, 0.0999, "10 %"),
        (display.share, 0.266, "27 %"),
        (display.share, 1.5, "150 %"),
    ],
)
def test_numbers_as_people_say_them(function, value, text):
    assert function(value) == text
