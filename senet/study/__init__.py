"""Train networks on images, measure them, and learn honestly whether SE helped."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from senet.data.sources import DataSource, open_data
    from senet.data.transforms import Preprocessing
    from senet.errors import DataError, StudyError
    from senet.evaluation.evaluate import Evaluation, evaluate
    from senet.evaluation.predict import Predicted, predict
    from senet.recipe.choose import Recipe
    from senet.recipe.file import read_recipe, recipes
    from senet.study.ablation import Ablation, ablate
    from senet.study.comparison.compare import compare
    from senet.study.comparison.report import Comparison
    from senet.study.explanation import Explanation, Pruned, explain, prune
    from senet.study.judging.judge import judge
    from senet.study.judging.judgement import Judgement
    from senet.training.train import RunResult, train

__all__ = [
    "Ablation",
    "Comparison",
    "DataError",
    "DataSource",
    "Evaluation",
    "Explanation",
    "Judgement",
    "Predicted",
    "Preprocessing",
    "Pruned",
    "Recipe",
    "RunResult",
    "StudyError",
    "ablate",
    "compare",
    "evaluate",
    "explain",
    "judge",
    "open_data",
    "predict",
    "prune",
    "read_recipe",
    "recipes",
    "train",
]

_HOMES = {
    name: module
    for module, names in {
        "senet.data.sources": "DataSource open_data",
        "senet.data.transforms": "Preprocessing",
        "senet.errors": "DataError StudyError",
        "senet.evaluation.evaluate": "Evaluation evaluate",
        "senet.evaluation.predict": "Predicted predict",
        "senet.recipe.choose": "Recipe",
        "senet.recipe.file": "read_recipe recipes",
        "senet.study.ablation": "Ablation ablate",
        "senet.study.comparison.compare": "compare",
        "senet.study.comparison.report": "Comparison",
        "senet.study.explanation": "Explanation Pruned explain prune",
        "senet.study.judging.judge": "judge",
        "senet.study.judging.judgement": "Judgement",
        "senet.training.train": "RunResult train",
    }.items()
    for name in names.split()
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that each loads only what it needs."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
