"""The report of a comparison, and of several comparisons on one page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.cost import tables
from senet.cost.cost import BlockCost, Cost
from senet.data import unreadable as badfiles
from senet.errors import InputError, StudyError
from senet.files.paths import expanded
from senet.files.records import Record
from senet.files.run_folder import METRICS, RESULT, read_csv, read_json, report_folder
from senet.report import (
    COLOURS,
    Cell,
    Chart,
    Column,
    Page,
    Section,
    Series,
    Table,
    Text,
    cell,
    drawing,
    forest,
    write_page,
)
from senet.report.figures import short
from senet.study.comparison.plots import learning_curves
from senet.study.comparison.report import Comparison, Trained, interval, percent
from senet.study.facts import facts_of, page_of_several
from senet.study.figures import paired_figure
from senet.study.statistics import Bootstrap, Difference, paired_difference, points
from senet.words import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure

    from senet.study.judging.judgement import Judgement

__all__ = ["comparison_page", "read_comparison", "several_page", "write_comparison", "write_several"]


def write_comparison(comparison: Comparison) -> Path:
    """Write report.html with its figures and numbers into the comparison's folder; return its path."""
    return write_page(comparison_page(comparison), comparison.folder)


def comparison_page(comparison: Comparison) -> Page:
    """The page of one comparison."""
    return Page(
        f"{comparison.model} on {comparison.data}: without and with {comparison.block}",
        _said(comparison),
        [
            *_sections(comparison, ""),
            Section("Settings and machine", facts_of(comparison.settings, comparison.machine)),
        ],
        str(comparison.machine.get("command", "")),
    )


def _said(comparison: Comparison) -> list[str]:
    """The outcome, and what is to be known of the images and the networks."""
    return [*comparison.lead, *comparison.notes, *badfiles.listed(comparison.skipped)]


def several_page(comparisons: Sequence[Comparison]) -> Page:
    """Several comparisons on one page: first side by side, then each in detail.

    Raises:
        ValueError: there are none.
    """
    if not comparisons:
        raise InputError("a page of comparisons needs at least one")
    names = _names(comparisons)
    blocks = {each.block for each in comparisons}
    block = blocks.pop() if len(blocks) == 1 else "the block"
    columns = [
        Column("comparison", number=False),
        Column("seeds"),
        *_mean_columns("plain", "accuracy, the mean over seeds"),
        *_mean_columns(f"with {block}"),
        Column(f"{block} − plain (points)", csv=f"{block} − plain (fraction)"),
        Column(f"{block} − plain, sd (fraction)", shown=False),
        *_interval_columns("95 % interval over seeds"),
        *_interval_columns("95 % interval over images"),
        Column("parameters added", csv="parameters added (fraction)"),
        Column("multiply-adds added", csv="multiply-adds added (fraction)"),
        Column(f"training time, {block} / plain"),
        Column("network", number=False),
        Column("images", number=False),
    ]
    rows: list[list[Any]] = [
        [
            name,
            len(each.plain.accuracy),
            cell(each.plain.mean, percent(each.plain.mean)),
            each.plain.sd,
            cell(each.se.mean, percent(each.se.mean)),
            each.se.sd,
            cell(each.difference.mean, points(each.difference.mean)),
            each.difference.sd,
            *_interval_cells(each.difference),
            *_interval_cells(each.over_images),
            _added(each.plain.cost.parameters, each.se.cost.parameters),
            _added(each.plain.cost.multiply_adds, each.se.cost.multiply_adds),
            cell(each.time_ratio, f"{each.time_ratio:.2f} ×"),
            each.model,
            f"{each.data} ({each.split}: {each.images})",
        ]
        for name, each in zip(names, comparisons, strict=True)
    ]
    data = [
        {
            "comparison": name,
            "difference (fraction)": each.difference.mean,
            "low over seeds (fraction)": each.difference.low,
            "high over seeds (fraction)": each.difference.high,
            "low over images (fraction)": each.over_images.low,
            "high over images (fraction)": each.over_images.high,
        }
        for name, each in zip(names, comparisons, strict=True)
    ]
    overview = Section(
        "Side by side",
        [
            Table("comparisons", "Accuracy and cost", columns, rows),
            Chart(
                "differences", f"{block} − plain, with 95 % intervals", _differences(names, comparisons, block), data
            ),
            *(Text(f"{name}: {line}") for name, each in zip(names, comparisons, strict=True) for line in _said(each)),
        ],
    )
    parts = [_sections(each, f"{number}_") for number, each in enumerate(comparisons)]
    return page_of_several("comparison", overview, names, comparisons, parts)


def write_several(folders: Sequence[str | Path], out: str | Path) -> Path:
    """Write report.html of several finished studies, with its figures and numbers, into a new folder.

    Args:
        folders: folders of `compare`, or all of `judge`.
        out: the report's folder, created if missing.

    Returns:
        The HTML file's path.

    Raises:
        StudyError: a folder holds neither kind, the kinds are mixed, or `out` belongs to a study or
            cannot be made.
    """
    page = _page_of([expanded(folder) for folder in folders])
    return write_page(page, report_folder(out))


def _page_of(folders: Sequence[Path]) -> Page:
    results = {folder: Record(folder / RESULT, read_json(folder / RESULT)).fields for folder in folders}
    judged = [folder for folder, found in results.items() if found.get("study") == "judge"]
    if not judged:
        return several_page([read_comparison(folder) for folder in folders])
    if other := next((folder for folder in folders if folder not in judged), None):
        raise StudyError(
            f"{judged[0]} is of judge and {other} is not: draw comparisons and judgements on pages of their own"
        )
    from senet.study.judging.several import judgements_page, read_judgement

    judgements = [read_judgement(folder) for folder in folders]
    return judgements_page(judgements, _names(judgements))


def read_comparison(folder: str | Path) -> Comparison:
    """Read a finished comparison from its folder.

    Raises:
        StudyError: it holds none.
    """
    folder = expanded(folder)
    found = read_json(folder / RESULT)
    if not {"plain", "se"} <= set(found):
        raise StudyError(f"{folder} holds no finished comparison: give folders that compare wrote, or that judge wrote")
    record = Record(folder / RESULT, found)
    settings, machine = (record.record(name).fields for name in ("settings", "machine"))
    for arm in ("plain", "se"):
        record.record(arm).numbers("accuracy", 0, 1)
        record.record(arm).numbers("seconds", 0)
    if "seeds" in found:  # earlier versions wrote none
        seeds = record.numbers("seeds", 0)
        for arm in ("plain", "se"):
            if len(seeds) != len(found[arm]["accuracy"]):
                raise StudyError(
                    f"{folder / RESULT} names {counted(len(seeds), 'seed')} and holds "
                    f"{len(found[arm]['accuracy'])} accuracies of {arm}: it was edited, and cannot be read"
                )
    try:
        metrics = read_csv(folder / METRICS)
        column = next(name for name in metrics[0] if name.endswith("_accuracy") and not name.startswith("train"))
        difference = paired_difference(found["plain"]["accuracy"], found["se"]["accuracy"])
        if list(difference.values) != found["difference"]["per_seed"]:
            raise ValueError("its differences are not those of its accuracies")
        comparison = Comparison(
            folder=folder,
            model=found["model"],
            data=found["data"],
            split=found["split"],
            images=found["images"],
            monitored=column.removesuffix("_accuracy"),
            plain=_trained(found, metrics, "plain"),
            se=_trained(found, metrics, "se"),
            difference=difference,
            over_images=Bootstrap(**found["difference"]["images"]),
            verdict=found["verdict"],
            latency_ratio=found["latency_ratio"],
            sites=(),
            notes=tuple(found["notes"]),
            skipped=badfiles.from_json(found.get("bad_files", ())),
            settings=settings,
            machine=machine,
            seeds=tuple(found.get("seeds", ())),
            missing=tuple(found.get("missing", ())),
        )
        str(comparison)  # edited values show when they are drawn
        lengths = {len(history) for arm in (comparison.plain, comparison.se) for history in arm.histories}
        if len(lengths) != 1 or not min(lengths) or "train_loss" not in metrics[0]:
            raise ValueError(f"{METRICS} does not hold the same epochs of every run")
    except (AttributeError, KeyError, TypeError, ValueError, StopIteration, IndexError, ZeroDivisionError) as error:
        raise StudyError(f"{folder} holds no finished comparison ({type(error).__name__}: {error})") from error
    return comparison


def _trained(found: Mapping[str, Any], metrics: Sequence[Mapping[str, str]], arm: str) -> Trained:
    fields = dict(found["cost"][arm])
    fields["blocks"] = tuple(BlockCost(**block) for block in fields["blocks"])
    seeds = found.get("seeds", range(len(found[arm]["accuracy"])))
    histories = tuple(
        tuple(
            {key: float(value) for key, value in row.items() if key not in ("arm", "seed")}
            for row in metrics
            if row["arm"] == arm and int(row["seed"]) == seed
        )
        for seed in seeds
    )
    return Trained(tuple(found[arm]["accuracy"]), tuple(found[arm]["seconds"]), Cost(**fields), histories)


def _sections(comparison: Comparison, prefix: str) -> list[Section]:
    seeds = [
        {"seed": seed, "plain (fraction)": plain, f"with {comparison.block} (fraction)": se}
        for seed, plain, se in zip(comparison.numbers, comparison.plain.accuracy, comparison.se.accuracy, strict=True)
    ]
    with drawing():
        curves = learning_curves(comparison)
    xlabel = f"accuracy with {comparison.block} − plain, {comparison.split} images (points)"
    differences = paired_figure(
        comparison.numbers, comparison.difference, comparison.over_images, "images", xlabel=xlabel, scale=100
    )
    return [
        Section(
            "Accuracy",
            [
                _means(comparison, f"{prefix}means"),
                comparison.accuracy_table(
                    f"Accuracy on {comparison.split} ({comparison.images} images), last epoch", f"{prefix}accuracy"
                ),
                Chart(f"{prefix}difference", "Difference, seed by seed and in the mean", differences, seeds),
            ],
        ),
        Section("Training", [Chart(f"{prefix}learning_curves", "How both learnt", curves, comparison.rows())]),
        Section("Cost", [_cost(comparison, prefix), Text(f"{comparison.times}.")]),
    ]


def _cost(comparison: Comparison, prefix: str) -> Table:
    plain, se = comparison.plain.cost, comparison.se.cost
    counts = (
        ("parameters", plain.parameters, se.parameters),
        ("multiply-adds", plain.multiply_adds, se.multiply_adds),
        ("rescaling (multiplications beside these)", plain.rescaling, se.rescaling),
        ("activations kept for the backward pass (bytes)", plain.activation_bytes, se.activation_bytes),
    )
    rows: list[list[Any]] = [
        [what, *(cell(value, f"{value:,}") for value in values), _added(*values)] for what, *values in counts
    ]
    if se.latency_ratio is not None:
        ratio = cell(se.latency_ratio, f"{se.latency_ratio:.3f}")
        rows.append(["time of a forward pass, measured in turn", 1, ratio, _added(1, se.latency_ratio)])
    columns = [Column("of one image", number=False), Column("plain")]
    columns += [Column(f"with {comparison.block}"), Column("difference", csv="difference (fraction)")]
    return Table(f"{prefix}cost", "Cost", columns, rows)


def _added(plain: float, se: float) -> Any:
    return cell(se / plain - 1, tables.more(plain, se)) if plain else None


def _means(comparison: Comparison, name: str) -> Table:
    """The means over seeds with standard deviations, and both intervals of the difference."""
    columns = [
        Column("", number=False, csv="what"),
        Column("mean over seeds", csv="mean (fraction)"),
        Column("sd", csv="sd (fraction)"),
        *_interval_columns("95 % interval"),
    ]
    plain, se, seeds, images = comparison.plain, comparison.se, comparison.difference, comparison.over_images
    count = counted(len(seeds.values), "seed")
    no_interval = [Cell("–"), cell(None), cell(None)]
    rows: list[list[Any]] = [
        *(
            [what, cell(arm.mean, percent(arm.mean)), _sd(arm.sd), *no_interval]
            for what, arm in (("plain", plain), (f"with {comparison.block}", se))
        ),
        *(
            [
                f"{comparison.block} − plain, over {what}",
                cell(of.mean, f"{points(of.mean)} points"),
                _sd(sd),
                *_interval_cells(of),
            ]
            for what, of, sd in (
                (f"{count} (paired t)", seeds, seeds.sd),
                (f"{images.images} images (paired bootstrap)", images, None),
            )
        ),
    ]
    return Table(name, "Means", columns, rows)


def _sd(sd: float | None) -> Cell:
    return cell(sd, None if sd is None else f"{100 * sd:.2f}")


def _mean_columns(what: str, help_: str = "") -> list[Column]:
    return [Column(f"{what} (%)", csv=f"{what} (fraction)", help=help_), Column(f"{what}, sd (fraction)", shown=False)]


def _interval_columns(what: str) -> list[Column]:
    """Columns for an interval: in points on a page, and its two ends as fractions in the CSV."""
    return [
        Column(f"{what} (points)", number=False, csv=""),
        *(Column(f"{what}, {end} (fraction)", shown=False) for end in ("low", "high")),
    ]


def _interval_cells(of: Difference | Bootstrap) -> list[Cell]:
    return [Cell(interval(of)), cell(of.low), cell(of.high)]


def _names(comparisons: Sequence[Comparison | Judgement]) -> list[str]:
    """The folders' names, with as many path components as distinguish them."""
    paths = [each.folder.resolve() for each in comparisons]
    for parts in range(1, 8):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{number + 1}: {path.name}" for number, path in enumerate(paths)]


def _differences(names: Sequence[str], comparisons: Sequence[Comparison], block: str) -> Figure:
    seeds, images = ([getattr(each, of) for each in comparisons] for of in ("difference", "over_images"))
    series = [
        Series(what, [(of.mean, of.low, of.high) for of in found], colour)
        for what, found, colour in (("over seeds", seeds, COLOURS[1]), ("over images", images, COLOURS[0]))
    ]
    return forest([short(name) for name in names], series, xlabel=f"accuracy with {block} − plain (points)", scale=100)
