"""Train networks on images, measure them, and learn honestly whether SE helped."""

from senet.data.sources import (
    DataSource,
    open_data,
)
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
from senet.training.train import RunResult, train

__all__ = [
    "Ablation",
    "Comparison",
    "DataError",
    "DataSource",
    "Evaluation",
    "Explanation",
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
    "open_data",
    "predict",
    "prune",
    "read_recipe",
    "recipes",
    "train",
]
