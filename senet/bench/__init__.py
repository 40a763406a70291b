"""What SE costs here: the plain network, the peer's SE and ours in turn, by engine, in inference and in training."""

from senet.bench.cases import Case, cases
from senet.bench.measurement import Bench, bench
from senet.bench.rows import Ratio, Row

__all__ = ["Bench", "Case", "Ratio", "Row", "bench", "cases"]
