"""Measure the cost of SE: plain, a peer's SE and ours in turn, per engine, in inference and training."""

from senet.bench.advice import Advice, Placed
from senet.bench.advising import advise
from senet.bench.cases import Case, cases
from senet.bench.measurement import Bench, bench
from senet.bench.rows import Ratio, Row

__all__ = ["Advice", "Bench", "Case", "Placed", "Ratio", "Row", "advise", "bench", "cases"]
