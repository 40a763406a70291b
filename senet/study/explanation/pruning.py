"""Prune SE blocks whose gates can be constants, and measure the cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import Tensor, nn

from senet.console import display
from senet.console.progress import Progress
from senet.cost.cost import cost
from senet.errors import StudyError
from senet.evaluation.given import digest_of_tensors
from senet.evaluation.networks import how_to_load
from senet.evaluation.options import MeasureOptions
from senet.files import fileformat
from senet.files.atomic import check_writable
from senet.files.paths import expanded
from senet.files.run_folder import read_json
from senet.insertion import InlineSE, blocks, channels_of, fold_gates
from senet.insertion.rules.site import matches
from senet.recipe.options import known_options
from senet.report.table import Table
from senet.saving.saving import save
from senet.study.comparison.report import percent
from senet.study.explanation.explain import EXPLANATION, GATES, check_tolerance, explain_subject, gate_statistics
from senet.study.explanation.explanation import Explanation
from senet.study.explanation.subject import Subject, open_subject
from senet.study.statistics import points
from senet.words import counted

if TYPE_CHECKING:
    from senet.data.sources import DataSource
    from senet.evaluation.logits import Predictions

__all__ = ["Pruned", "prune"]


@dataclasses.dataclass(frozen=True)
class Pruned:
    """A pruned network with constant gates; `str()` is a report.

    Attributes:
        network: the pruned network, in eval mode on the CPU.
        blocks: the pruned blocks and the place of their gates: "into NAME" of a layer, or "held" as a constant scale.
        images: the number of images.
        top1_before: the original network's top-1 accuracy, a fraction.
        top1_predicted: top-1 accuracy with gates held at their means, as in `explain`.
        top1_after: the pruned network's measured top-1 accuracy.
        top5_before: top-5 accuracy, likewise.
        top5_predicted: top-5 accuracy, likewise.
        top5_after: top-5 accuracy, likewise.
        same_predictions: the number of images on which the pruned network gives the class predicted with held gates.
        parameters_before: the original network's parameters.
        parameters_after: the pruned network's parameters; constant scales are buffers and not counted.
        multiply_adds_before: multiply-adds for one image.
        multiply_adds_after: multiply-adds for one image.
        path: the file it was written to, or None.
        notes: remarks.
        five: whether the network has more than five classes, so that top-5 is informative.
    """

    network: nn.Module
    blocks: Mapping[str, str]
    images: int
    top1_before: float
    top1_predicted: float
    top1_after: float
    top5_before: float
    top5_predicted: float
    top5_after: float
    same_predictions: int
    parameters_before: int
    parameters_after: int
    multiply_adds_before: int
    multiply_adds_after: int
    path: Path | None
    notes: tuple[str, ...]
    five: bool = True

    def __str__(self) -> str:
        rows = [(name, where) for name, where in self.blocks.items()]
        title = f"{counted(len(rows), 'SE block')} pruned"
        saved = self.parameters_before - self.parameters_after
        added = self.multiply_adds_before - self.multiply_adds_after
        lines: list[Any] = [
            *self.notes,
            Table.of(title, ("block", "its gates, now constants"), rows, numbers=range(0)),
            Table.of(
                f"Accuracy on {self.images} images",
                ("", "before", "predicted", "after"),
                [
                    ("top-1", *map(percent, (self.top1_before, self.top1_predicted, self.top1_after))),
                    *[("top-5", *map(percent, (self.top5_before, self.top5_predicted, self.top5_after)))] * self.five,
                ],
                numbers=range(1, 4),
            ),
            f"After − before: {points(self.top1_after - self.top1_before)} points of top-1. Of {self.images} images "
            f"{self.same_predictions} get the class that was predicted with the gates held at their means.",
            f"Parameters: {self.parameters_before:,} → {self.parameters_after:,} "
            f"(−{display.share(saved / self.parameters_before)}); multiply-adds of an image: "
            f"{display.count(self.multiply_adds_before)} → {display.count(self.multiply_adds_after)} "
            f"(−{display.count(added)}).",
        ]
        if self.path is not None:
            lines.append(f"Written: {self.path}; {how_to_load(self.network, self.path)}")
        return display.plain_text(*lines, width=display.LOG_WIDTH)


def prune(
    model: str | nn.Module,
    data: str | Path | DataSource,
    *,
    blocks: str | Sequence[str] | None = None,
    advice: bool = False,
    explanation: str | Path | Explanation | None = None,
    tolerance: float = 0.001,
    out: str | Path | None = None,
    progress: bool = True,
    **options: Unpack[MeasureOptions],
) -> Pruned:
    """Replace SE blocks' gates by their means over the images, and measure the accuracy afterwards.

    Constant gates are folded into the layer before the block, or those after it, if these are
    linear in the channels (convolution, linear layer, normalisation). Otherwise they stay as a
    constant scale. The accuracy is then measured again. If folding would round even one image into
    another class, all gates stay as constant scales, which is bit for bit what was predicted.

    Args:
        model: a network's name, a run folder or saved file, or a network, which is not changed.
        data: the images for means and accuracies.
        blocks: the blocks to prune: names from `senet.blocks`, or fnmatch patterns.
        advice: instead of `blocks`: prune the blocks that `explain` advises.
        explanation: the result of `explain` for this network, or its folder. Its means and advice
            are then used instead of being measured again.
        tolerance: for `advice` without an explanation: as in `explain`.
        out: a file for the pruned network, for `senet.load`.
        progress: whether to show progress on standard error.
        options: `weights`, `classes`, `split`, `size`, ..., as in `evaluate`: see
            `senet.evaluation.options.MeasureOptions`.

    Raises:
        StudyError: not exactly one of `blocks` and `advice` is given, nothing matches, nothing is
            advised, or the explanation is of another network.
        ValueError: data, network, weights or a number are not usable.
        OSError: the file cannot be written.
    """
    if (blocks is None) == (not advice):
        raise StudyError("say what to prune: blocks (names or patterns), or advice (what explain advises)")
    check_tolerance(tolerance)
    if out is not None:
        check_writable(expanded(out))  # before any long work
    known = None if explanation is None else _known(explanation)
    shown = Progress(progress)
    with open_subject(model, data, known_options(options, MeasureOptions, "prune")) as subject:
        if known is None and advice:
            found = explain_subject(subject, tolerance=tolerance, progress=shown)
            known = found.means, list(found.advice.blocks), found.network
        with shown.steps(3 * subject.batches):
            shown.run(f"measuring {len(subject.images)} images")
            if known is None:
                plain, gates = gate_statistics(subject, shown)
                means = {name: each.mean.float() for name, each in gates.items()}
                advised: list[str] = []
            else:
                means, advised, network = known
                _check_explained(subject, means, network)
                plain = subject.predict(shown)
            names = advised if advice else _matching(subject, blocks or ())
            if not names:
                raise StudyError("no block is advised to go: name some with `blocks`, or allow more `tolerance`")
            pruned = _pruned(subject, {name: means[name] for name in names}, plain, shown)
    if out is None:
        return pruned
    path = expanded(out)
    metadata: dict[str, Any] = {"accuracy": pruned.top1_after, "pruned": dict(pruned.blocks)}
    metadata["preprocessing"] = subject.preprocessing.to_json()
    if subject.known_classes:
        metadata["classes"] = subject.known_classes
    if subject.settings:
        metadata["settings"] = subject.settings
    save(pruned.network, path, metadata=metadata)
    return dataclasses.replace(pruned, path=path)


def _pruned(subject: Subject, gates: Mapping[str, Tensor], plain: Predictions, progress: Progress) -> Pruned:
    example = subject.example()
    predicted = subject.predict(progress, at=gates)
    notes = list(subject.notes)
    network, went = fold_gates(subject.network, example, gates)
    after = subject.predict(progress, network=network)
    if not torch.equal(after.top[:, 0], predicted.top[:, 0]) or after.accuracy_of_five != predicted.accuracy_of_five:
        notes.append("folding into the weights would round an image into another class: all gates are held instead")
        network, went = fold_gates(subject.network, example, gates, fold=False)
        after = subject.predict(progress, network=network)
    before_cost, after_cost = cost(subject.network, example), cost(network, example)
    return Pruned(
        network=network.cpu(),
        blocks=went,
        images=len(subject.images),
        top1_before=plain.accuracy,
        top1_predicted=predicted.accuracy,
        top1_after=after.accuracy,
        top5_before=plain.accuracy_of_five,
        top5_predicted=predicted.accuracy_of_five,
        top5_after=after.accuracy_of_five,
        same_predictions=int((after.top[:, 0] == predicted.top[:, 0]).sum()),
        parameters_before=before_cost.parameters,
        parameters_after=after_cost.parameters,
        multiply_adds_before=before_cost.multiply_adds,
        multiply_adds_after=after_cost.multiply_adds,
        path=None,
        notes=tuple(notes),
        five=plain.classes > 5,
    )


def _known(explanation: str | Path | Explanation) -> tuple[dict[str, Tensor], list[str], str]:
    """The mean gates of an explanation, the blocks that it advises to prune, and the digest of its network."""
    if isinstance(explanation, Explanation):
        return explanation.means, list(explanation.advice.blocks), explanation.network
    folder = expanded(explanation)
    content = read_json(folder / EXPLANATION)
    try:
        means, _ = fileformat.read(folder / GATES)
        advised = list(content["advice"]["blocks"])
        if not means.keys() >= set(advised):
            raise ValueError(f"{EXPLANATION} advises blocks that {GATES} lacks")
    except (KeyError, TypeError, ValueError) as error:
        raise StudyError(f"{folder} is not a folder of explain, or damaged ({error}): run explain again") from error
    return means, advised, str(content.get("network", ""))


def _check_explained(subject: Subject, means: Mapping[str, Tensor], network: str) -> None:
    """Check that an explanation is of the subject's network; one of an earlier version shows only its blocks."""
    shapes = {name: (channels_of(block),) for name, block in subject.blocks.items()}
    if {name: tuple(mean.shape) for name, mean in means.items()} != shapes:
        raise StudyError(f"the explanation is of another network than {subject.model}: it has other SE blocks")
    if not network:
        subject.notes += ("the explanation is of an earlier version, which does not tell of which weights",)
    elif network != digest_of_tensors(subject.network):
        raise StudyError(
            f"the explanation is of another network than {subject.model}: its weights are others: explain this one"
        )


def _matching(subject: Subject, patterns: str | Sequence[str]) -> list[str]:
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    names = list(subject.blocks)
    for pattern in patterns:
        if not any(matches(name, pattern) for name in names):
            for name, block in blocks(subject.network, subject.example()).items():
                if isinstance(block, InlineSE) and matches(name, pattern):
                    raise StudyError(block.refusal())
            raise StudyError(f"blocks={pattern!r} matches none of the SE blocks, which are {', '.join(names)}")
    return [name for name in names if any(matches(name, pattern) for pattern in patterns)]
