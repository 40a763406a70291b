"""Measure the role of the excitation on labelled images (section 7.2 of the paper, and beyond)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import torch
from torch import Tensor, nn

from senet.block import SEBlock
from senet.console.machine import machine
from senet.console.progress import Progress
from senet.cost.cost import cost
from senet.data.sources import folder_of
from senet.errors import InputError, StudyError
from senet.evaluation.given import digest_of_tensors
from senet.evaluation.options import MeasureOptions
from senet.files.atomic import atomic_write
from senet.files.run_folder import report_folder, write_csv, write_json
from senet.insertion import (
    Hold,
    InsertionError,
    MadeBlock,
    adds_input,
    channel_dim_of,
    channels_of,
    inserted,
    untouched,
)
from senet.insertion.reading.dataflow import record
from senet.insertion.reading.layout import stage
from senet.recipe.options import known_options
from senet.report import write_page
from senet.study.explanation.explanation import Advice, BlockFindings, Effect, Explanation, StageFindings
from senet.study.explanation.pages import channel_rows, explanation_page
from senet.study.explanation.statistics import ChannelStatistics, GateStatistics
from senet.study.explanation.subject import Subject, open_subject
from senet.study.statistics import bootstrap_over_images, mcnemar

if TYPE_CHECKING:
    from senet.data.sources import DataSource
    from senet.evaluation.logits import Predictions

__all__ = ["EXPLANATION", "GATES", "check_tolerance", "explain", "explain_subject", "gate_statistics", "measured"]

EXPLANATION, GATES = "explanation.json", "gates.safetensors"


def explain(
    model: str | nn.Module,
    data: str | Path | DataSource,
    *,
    out: str | Path | None = None,
    tolerance: float = 0.001,
    progress: bool = True,
    **options: Unpack[MeasureOptions],
) -> Explanation:
    """Report what the gates of a network's SE blocks do on labelled images, and the accuracy without them.

    The network runs in eval mode. Each block is measured with its gates held at their means over
    the images, at 1, and at another image's gates. Then whole stages are measured, and then as many
    blocks together as `tolerance` allows, the least harmful first. This takes about four passes
    over the images per block.

    Args:
        model: a network's name, as in `senet.create`, a run folder or saved file, or a network. Its
            SE may come from senet, timm, torchvision, MONAI or elsewhere.
        data: `digits`, a folder of class folders, `torchvision:NAME`, or a result of `open_data`;
            unreadable images are skipped and listed.
        out: a folder for report.html, its figures and numbers, explanation.json and gates.safetensors (the means).
        tolerance: how much accuracy the advised blocks may cost together; 0.001 is the paper's 0.1 points.
        progress: whether to show progress on standard error.
        options: `weights`, `classes`, `split`, `size`, ..., as in `evaluate`: see
            `senet.evaluation.options.MeasureOptions`.

    Raises:
        StudyError: the network holds no SE, there is only one image, or the folder cannot be written.
        ValueError: data, network, weights or a number are not usable.
    """
    check_tolerance(tolerance)
    with open_subject(model, data, known_options(options, MeasureOptions, "explain")) as subject:
        folder = None if out is None else report_folder(out, folder_of(data))  # before any long work
        explanation = explain_subject(subject, tolerance=tolerance, progress=Progress(progress))
    if folder is not None:
        _write(explanation, folder)
    return explanation


def check_tolerance(tolerance: float) -> None:
    """Check a tolerated loss of accuracy.

    Raises:
        InputError: it is not a number from 0 to 1.
    """
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 <= tolerance <= 1:
        raise InputError(f"tolerance is a share of the images, from 0 to 1, not {tolerance!r}")


def explain_subject(subject: Subject, *, tolerance: float, progress: Progress) -> Explanation:
    """`explain` for an open subject, without writing files."""
    found = subject.blocks
    stages = stages_of(subject)
    of_stage: dict[int | None, list[str]] = {}
    for name, number in sorted(stages.items(), key=lambda item: (item[1] is None, item[1] or 0)):
        of_stage.setdefault(number, []).append(name)
    groups = [*((number, names) for number, names in of_stage.items() if number is not None), (None, list(found))]
    passes = 1 + 4 * len(found) + sum(map(adds_input, found.values())) + 2 * len(groups)
    with progress.steps(passes * subject.batches):
        progress.run(f"looking at {len(subject.images)} images")
        plain, gates = gate_statistics(subject, progress)
        means = {name: statistics.mean.float() for name, statistics in gates.items()}

        def effect(at: Mapping[str, Hold]) -> Effect:
            return measured(plain, subject.predict(progress, at=at))

        def gone(names: Sequence[str]) -> Effect:
            return effect({name: 0 if adds_input(found[name]) else 1 for name in names})

        costs = cost(subject.network, subject.example())
        rows = {row.name: row for row in costs.blocks}
        findings = []
        for name, block in found.items():
            progress.run(f"holding {name}")
            at_one = effect({name: 1})
            findings.append(
                BlockFindings(
                    name=name,
                    channels=channels_of(block),
                    stage=stages[name],
                    parameters=rows[name].parameters,
                    multiply_adds=rows[name].multiply_adds,
                    gates=gates[name],
                    at_mean=effect({name: means[name]}),
                    at_other=effect({name: lambda gates: gates.roll(1, 0)}),  # the next image's, in random order
                    at_one=at_one,
                    removed=gone([name]) if adds_input(block) else at_one,
                )
            )
        whole = [
            StageFindings(
                stage=number,
                blocks=tuple(names),
                parameters=sum(rows[name].parameters for name in names),
                at_mean=effect({name: means[name] for name in names}),
                removed=gone(names),
            )
            for number, names in groups
        ]
        progress.run("looking for blocks that can go")
        advice = _advise(subject, findings, means, plain, tolerance, progress)
    return Explanation(
        model=subject.model,
        data=subject.data,
        split=subject.split,
        images=len(subject.images),
        classes=subject.classes,
        top1=plain.accuracy,
        top5=plain.accuracy_of_five,
        blocks=tuple(findings),
        stages=tuple(whole),
        advice=advice,
        cost=costs,
        preprocessing=subject.preprocessing,
        notes=subject.notes,
        machine=machine(subject.device),
        network=digest_of_tensors(subject.network),
        guess=int(plain.labels.bincount().max()) / len(plain.labels),
    )


def gate_statistics(subject: Subject, progress: Progress) -> tuple[Predictions, dict[str, ChannelStatistics]]:
    """One pass over the images: the predictions, and the statistics of each block's gates."""
    position = {label: index for index, label in enumerate(subject.classes)}
    counted = {
        name: GateStatistics(channels_of(block), len(position), *_ends(block)) for name, block in subject.blocks.items()
    }

    def count(gates: Mapping[str, Tensor], labels: Tensor) -> None:
        classes = torch.tensor([position[int(label)] for label in labels])
        for name, statistics in counted.items():
            if name not in gates:
                raise StudyError(f"the SE block {name} did not run: the network passes it by")
            statistics.add(gates[name], classes)

    plain = subject.predict(progress, each=count)
    return plain, {name: statistics.take() for name, statistics in counted.items()}


def measured(plain: Predictions, held: Predictions) -> Effect:
    """The effect of held gates on the accuracy, given predictions for the same images in the same order."""
    over_images = bootstrap_over_images([plain.correct.tolist()], [held.correct.tolist()])
    return Effect(
        top1=held.accuracy,
        top5=held.accuracy_of_five,
        difference=held.accuracy - plain.accuracy,
        low=over_images.low,
        high=over_images.high,
        changed=float((held.top[:, 0] != plain.top[:, 0]).float().mean()),
        p=mcnemar(plain.correct, held.correct),
    )


def stages_of(subject: Subject) -> dict[str, int | None]:
    """The stage of each block: its site's, or from the size of its input."""
    sites = {name: site for name, (site, _) in inserted(subject.network).items()}
    found: dict[str, int | None] = {}
    try:
        with untouched(subject.network):
            flow = record(subject.network, subject.example())
    except InsertionError:
        flow = None
    for name, block in subject.blocks.items():
        site = sites.get(name.rpartition(".")[0])
        calls = [] if flow is None else flow.calls_of.get(block, [])
        if site is not None:
            found[name] = site.stage
        elif flow is not None and calls and len(flow.values[calls[0].inputs[0]].shape) > 2:
            found[name] = stage(flow, flow.values[calls[0].inputs[0]].shape, channel_dim_of(block))
        else:
            found[name] = None
    return found


def _ends(block: nn.Module) -> tuple[float | None, float]:
    """The largest possible value of a block's gate, None if there is none, and the least."""
    if isinstance(block, SEBlock):
        top = float(block.scale)
        bottom = -top if block.gate_function == "tanh" else 0.0
        return None if block.gate_function == "relu" else top, bottom
    alpha = float(block.alpha) if isinstance(block, MadeBlock) else 1.0
    if alpha < 0 or not any("sigmoid" in type(module).__name__.lower() for module in block.modules()):
        return None, 0.0  # with a negative α, 1 + α (s − 1) is largest where the module's gate is 0
    return 1.0, min(0.0, 1 - alpha)


def _advise(
    subject: Subject,
    findings: Sequence[BlockFindings],
    means: Mapping[str, Tensor],
    plain: Predictions,
    tolerance: float,
    progress: Progress,
) -> Advice:
    """Hold blocks one after another, least costly first, while their joint cost stays within the tolerance."""
    least = int(plain.correct.sum()) - tolerance * len(plain.labels) - 1e-9
    chosen: list[BlockFindings] = []
    effect = measured(plain, plain)
    for block in sorted(findings, key=lambda block: (-block.at_mean.top1, -block.parameters)):
        if round(block.at_mean.top1 * len(plain.labels)) < least:
            progress.step(subject.batches, worked=False)
            continue
        held = subject.predict(progress, at={each.name: means[each.name] for each in [*chosen, block]})
        if int(held.correct.sum()) >= least:
            chosen.append(block)
            effect = measured(plain, held)
    order = [block.name for block in findings]
    return Advice(
        blocks=tuple(sorted((block.name for block in chosen), key=order.index)),
        tolerance=tolerance,
        parameters=sum(block.parameters for block in chosen),
        multiply_adds=sum(block.multiply_adds for block in chosen),
        effect=effect,
    )


def _write(explanation: Explanation, folder: Path) -> None:
    from safetensors.torch import save_file

    (folder / EXPLANATION).unlink(missing_ok=True)  # of an earlier explanation, whose other files go now
    write_page(explanation_page(explanation), folder)
    write_csv(folder / "channels.csv", channel_rows(explanation))
    with atomic_write(folder / GATES, follow=False) as temporary:
        save_file({name: mean.contiguous() for name, mean in explanation.means.items()}, temporary)
    write_json(folder / EXPLANATION, explanation.to_json())
