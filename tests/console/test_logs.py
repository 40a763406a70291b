"""Other libraries' logs, turned down for a while."""

import logging

import pytest

from senet.console.logs import turned_down


def fail(inside, root):
    with turned_down("senet.tests.one", "senet.tests.other", to=logging.ERROR):
        inside += [logging.getLogger(f"senet.tests.{name}").level for name in ("one", "other")]
        inside.append(root.level)
        root.setLevel(logging.ERROR)  # as OpenVINO's converter does
        raise KeyError


def test_levels_are_put_back_also_the_root_loggers():
    one, other, root = (logging.getLogger(name) for name in ("senet.tests.one", "senet.tests.other", ""))
    one.setLevel(logging.INFO)
    before, inside = [logger.level for logger in (one, other, root)], []
    with pytest.raises(KeyError):
        fail(inside, root)
    assert inside == [logging.ERROR, logging.ERROR, before[2]]
    assert [logger.level for logger in (one, other, root)] == before
    one.setLevel(logging.NOTSET)
