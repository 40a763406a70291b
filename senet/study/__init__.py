"""Train networks on images, measure them, and learn honestly whether SE helped."""

from senet.study.ablation import Ablation, ablate
from senet.study.compare import compare
from senet.study.data import DataError, DataSource, open_data
from senet.study.evaluation import Evaluation, evaluate
from senet.study.excitation import Explanation, Pruned, explain, prune
from senet.study.folder import StudyError
from senet.study.predicting import Predicted, predict
from senet.study.recipe import Recipe
from senet.study.recipefile import read_recipe, recipes
from senet.study.report import Comparison
from senet.study.training import RunResult, train
from senet.study.transforms import Preprocessing

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
