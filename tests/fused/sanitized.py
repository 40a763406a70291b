"""A pytest plugin: the C is built with the address and undefined-behaviour sanitizers, and must be what runs."""

from __future__ import annotations

import pytest

from senet.fused.passes import library

library._COMMON = tuple(
    "-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined "
    "-shared -fPIC -fopenmp".split()
)
library._OWN_MACHINE = ((),)


def pytest_sessionstart(session: pytest.Session) -> None:
    if library.library() is None:
        pytest.exit("the C did not compile with sanitizers", returncode=1)
