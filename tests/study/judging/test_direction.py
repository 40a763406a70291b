"""Which scores are better is kept with a judgement's folder from the first call on."""

from senet.console.progress import Progress
from senet.study.judging.judge import _measure


def test_the_direction_is_kept_before_there_is_a_result(tmp_path):
    assert _measure(tmp_path, None, None, None, Progress(False)).higher_is_better
    assert not list(tmp_path.iterdir())
    given = _measure(tmp_path, "error", "%", False, Progress(False))
    assert _measure(tmp_path, None, None, None, Progress(False)) == given
    assert _measure(tmp_path, None, None, True, Progress(False)).higher_is_better
    assert _measure(tmp_path, None, None, None, Progress(False)).higher_is_better
