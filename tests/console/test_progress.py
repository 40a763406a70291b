import io
import re
import threading

import pytest

from senet.console.progress import Progress, alive, duration


class Terminal(io.StringIO):
    def isatty(self):
        return True


def _study(progress):
    with progress.steps(200):
        for name in ("plain-0", "se-0"):
            progress.run(name, 10)
            for epoch in range(1, 11):
                for _ in range(10):
                    progress.step()
                progress.epoch(epoch, "loss 0.5")


def test_a_log_gets_a_few_lines_with_the_time_left():
    file = io.StringIO()
    _study(Progress(file=file))
    lines = file.getvalue().splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        f"{name}, epoch {epoch} of 10" for name in ("plain-0", "se-0") for epoch in (3, 6, 9, 10)
    ]
    assert lines[0].startswith("plain-0, epoch 3 of 10: loss 0.5 (")
    assert lines[0].endswith(" left)")
    assert lines[-1] == "se-0, epoch 10 of 10: loss 0.5"


def test_a_terminal_gets_a_bar():
    file = Terminal()
    _study(Progress(file=file))
    shown = file.getvalue()
    assert "se-0, epoch 10 of 10" in shown
    assert "100%" in shown
    assert "left" in shown
    assert "loss" not in shown


def test_a_name_in_brackets_is_no_style():
    file = Terminal()
    progress = Progress(file=file)
    with progress.steps(1):
        progress.run("[bold]x[/]")
    assert "[bold]x[/]" in file.getvalue()


def test_nothing_is_shown_where_nothing_was_asked_for():
    for file in (io.StringIO(), Terminal()):
        progress = Progress(show=False, file=file)
        _study(progress)
        progress.note("note")
        assert file.getvalue() == ""


def test_steps_of_an_earlier_session_do_not_count_as_fast(monkeypatch):
    clock = iter([100.0, 110.0])  # ten seconds for the ten steps that were worked
    monkeypatch.setattr("time.monotonic", lambda: next(clock, 110.0))
    file = io.StringIO()
    progress = Progress(file=file)
    progress._begun = 100.0
    with progress.steps(100):
        progress._begun = 100.0
        progress.run("plain-0", 2)
        progress.step(50, worked=False)
        progress.step(10)
        progress.epoch(1)
    assert file.getvalue() == "plain-0, epoch 1 of 2 (40 s left)\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (8.26, "8.3 s"), (9.99, "10.0 s"), (42.4, "42 s"), (125, "2 min 5 s"), (4321, "1 h 12 min")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_a_step_without_end_is_alive_in_a_log_and_silent_where_it_is_short():
    file, told = io.StringIO(), threading.Event()
    with alive(every=1e-3, file=_Telling(file, told)) as say:
        say("converting to ONNX")
        told.wait()
    assert re.match(r"converting to ONNX, \d\.\d s so far\n", file.getvalue())
    with alive(file=(short := io.StringIO())) as say:
        say("converting to ONNX")
    assert short.getvalue() == ""


def test_a_step_without_end_runs_in_a_terminal():
    file = Terminal()
    with alive(file=file) as say:
        say("converting to ONNX")
    assert "converting to ONNX" in file.getvalue()


class _Telling(io.StringIO):
    """Tells when something was written that names a step."""

    def __init__(self, file, told):
        super().__init__()
        self.file, self.told = file, told

    def write(self, text):
        self.file.write(text)
        if "so far" in self.file.getvalue():
            self.told.set()
        return len(text)
