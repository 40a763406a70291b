"""Output that cannot be written, or shown, ends nothing."""

import io
import os
import subprocess
import sys

import pytest

import senet
from senet.console.display import Unbroken
from senet.console.progress import Progress

RUN = "import sys; from senet.cli import main; sys.exit(main(sys.argv[1:]))"
# The streams alone, for what does not run a command: the package itself imports PyTorch, which takes seconds.
OPEN = (
    "import sys, types; sys.modules['senet'] = types.ModuleType('senet');"
    f"sys.modules['senet'].__path__ = {[*senet.__path__]!r};"
    "from senet.console.streams import open_streams; open_streams();"
)


def ran(*words, **options):
    return subprocess.run([sys.executable, "-c", RUN, *words], capture_output=True, timeout=100, check=False, **options)


class Full(io.StringIO):
    def write(self, text):
        raise OSError(28, "No space left on device")


class TestUnbroken:
    @pytest.mark.parametrize("file", [Full(), None])
    def test_progress_goes_on_where_it_cannot_be_written(self, file):
        shown = Progress()
        shown._console.file = Unbroken(file)
        with shown.steps(2):
            shown.run("x", 2)
            for epoch in (1, 2):
                shown.step()
                shown.epoch(epoch)
        assert not shown._console.is_terminal

    def test_a_closed_file(self):
        file = io.StringIO()
        to = Unbroken(file)
        assert to.write("a") == 1
        file.close()
        assert to.write("bc") == 2
        assert not to.isatty()

    def test_a_pipe_that_nobody_reads(self):
        reader, writer = os.pipe()
        with os.fdopen(writer, "w") as file:
            os.close(reader)
            to = Unbroken(file)
            to.write("a" * 100_000)
            to.write("b")
            file.write("still there")  # which goes to the null device when it is closed


class TestCommand:
    def test_descriptors_that_are_closed_get_no_other_file(self, tmp_path):
        words = ["sh", "-c", f'exec "{sys.executable}" -c "$0" models resnet20 0<&- 2>&-', RUN]
        found = subprocess.run(words, capture_output=True, timeout=100, check=False)
        assert (found.returncode, found.stdout) == (0, b"resnet20\n")
        code = (
            f"{OPEN} file = open({str(tmp_path / 'x')!r}, 'w'); file.write(str(file.fileno())); file.close();"
            "print('lost', file=sys.stderr)"
        )
        subprocess.run(["sh", "-c", f'"{sys.executable}" -c "$0" 1>&- 2>&-', code], timeout=100, check=True)
        assert int((tmp_path / "x").read_text()) > 2

    def test_an_error_that_nobody_can_read(self):
        words = ["sh", "-c", f'"{sys.executable}" -c "$0" models --nothing 2>/dev/full', RUN]
        assert subprocess.run(words, timeout=100, check=False).returncode == 2

    @pytest.mark.parametrize("words", ["models resnet20", "--help"])
    def test_output_that_cannot_be_written_is_one_line(self, words):
        words = ["sh", "-c", f'"{sys.executable}" -c "$0" {words} >/dev/full', RUN]
        found = subprocess.run(words, capture_output=True, text=True, timeout=100, check=False)
        assert found.returncode == 2
        assert found.stderr == (
            "senet: error: standard output cannot be written (No space left on device): send it elsewhere\n"
        )

    def test_a_minus_sign_where_the_encoding_has_none(self):
        code = f"{OPEN} print('SE − plain = −14.48 points, 3 × 3, ±1, é, 猫 → σ, ─')"
        environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
        found = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, env=environment, timeout=100, check=True
        )
        assert found.stdout == b"SE - plain = -14.48 points, 3 x 3, +-1, e, ? -> ?, -\n"
