"""`advise`: find where SE fits into a latency budget, measured in the engine that will run the network."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import shlex
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from senet.bench.advice import Accuracies, Advice, Placed, accuracies_in, patterns
from senet.bench.cases import ENGINES, INFERENCE, Case
from senet.bench.contestants import INSTEAD, PLAIN, folded, optimized
from senet.bench.engines import inference
from senet.bench.measurement import NOT_INSTALLED, machine_of_figures, missing
from senet.bench.rows import Ratio
from senet.bench.timing import FULL, QUICK, in_turn
from senet.block import PLACEMENTS, SESpec
from senet.console.progress import Progress
from senet.errors import InputError, InsertionError, whole_number
from senet.extras import how_to_install
from senet.files.paths import expanded
from senet.files.run_folder import report_folder
from senet.insertion import Site, blocks, insert, remove, sites
from senet.running import copy_of, count_parameters, noise
from senet.words import did_you_mean

if TYPE_CHECKING:
    import os

__all__ = ["advise"]

FORMS = ("optimized", "as inserted")
_TRIES = 6  # proposals to build and measure before reporting that none fits

Sites = Mapping[str, Sequence[Site]]


def advise(
    model: nn.Module,
    example: Tensor,
    *,
    engine: str = "eager",
    budget: float = 1.02,
    batch_size: int = 1,
    placements: str | Iterable[str] = ("standard", "inner"),
    reduction_ratio: int = 16,
    ablation: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    name: str | None = None,
    flags: Sequence[str] = (),
    quick: bool = False,
    progress: bool = True,
) -> Advice:
    """Find where SE fits into a latency budget, measured in the engine that will run the network.

    For each placement, the network runs in turn without SE, with SE at all sites, and with SE at
    one stage's sites. The proposal has the most sites that fit, because in the paper's tables 13
    and 15 a stage without SE loses more accuracy than another placement does. If a stage fits only
    in part, its last sites are used. The proposal is then built and measured as a whole. If it is
    too slow, twice the reduction ratio is tried, and then fewer sites.

    Args:
        model: the network, with or without SE; it is not changed.
        example: one input, (1, C, *space).
        engine: a name of `senet.bench.cases.ENGINES`.
        budget: the largest allowed ratio of the time with SE to the time without: 1.02 is 2 % more.
        batch_size: the batch size.
        placements: a placement, or several to choose from; among those with equally many sites the first is proposed.
        reduction_ratio: the blocks' reduction ratio r.
        ablation: a folder of `senet ablate`, whose accuracies for the same sites are shown beside the costs.
        out: a folder for advice.json and table.txt; None writes nothing.
        name: the network's name in the table and the command; its class by default.
        flags: further words of the command, such as `("--weights", "net.pth")`.
        quick: use fewer rounds, for a first impression only.
        progress: whether to show progress on standard error.

    Raises:
        ValueError: there is no such engine or placement, the engine is not installed, the budget is
            at most 1, the batch size is below 1, the example is not one, SE has no place in the network,
            or the folder holds a training or a study.
    """
    if not isinstance(example, Tensor) or example.dim() < 3 or len(example) != 1:
        raise InputError("advise takes one picture (or signal, or volume) as its example: a tensor (1, C, *space)")
    if engine not in ENGINES:
        raise InputError(f"there is no engine {engine!r}{did_you_mean(engine, ENGINES)}")
    batch_size = whole_number("batch_size", batch_size)
    if why := missing(Case(INFERENCE, engine, batch_size)):
        how = f": {how_to_install(ENGINES[engine].extra)}" if why.startswith(NOT_INSTALLED) else ""
        raise InputError(f"{ENGINES[engine].words}: {why}{how}")
    if not 1 < budget < float("inf"):
        raise InputError(f"the budget is the time with SE over the time without, such as 1.02, not {budget:g}")
    accuracies = {} if ablation is None else accuracies_in(expanded(ablation))
    held = bool(blocks(model))
    example = example.cpu().float() if example.is_floating_point() else example.cpu()
    plain = (remove(model, everything=True) if held else copy_of(model, INSTEAD)).cpu().float().eval()
    found = _sites(plain, example, placements)
    folder = None if out is None else report_folder(out)  # before it measures
    search = _Search(plain, example, engine, batch_size, quick, found, accuracies, Progress(progress))
    whole = search.whole(reduction_ratio)
    stages = search.by_stage(whole)
    tried, measured, fits = search.proposals(budget, whole, stages)
    label = name or type(model).__name__
    proposal = tried[-1] if fits else None
    result = Advice(
        model=label,
        example=(batch_size, *example.shape[1:]),
        engine=engine,
        budget=budget,
        plain=statistics.median(search.plain_seconds),
        measured=(*whole, *stages, *measured),
        tried=tuple(tried),
        proposal=proposal,
        command="" if proposal is None or held else _command(label, flags, proposal, found),
        notes=tuple(_notes(budget, proposal, held)),
        machine=machine_of_figures(),
        quick=quick,
    )
    if folder is not None:
        result.write(folder)
    return result


@dataclasses.dataclass(frozen=True)
class _Plan:
    """A choice of SE to build and measure."""

    what: str
    placement: str
    sites: tuple[str, ...]
    reduction_ratio: int
    form: str


class _Search:
    """Builds networks with SE, and measures them in turn with the network without."""

    def __init__(
        self,
        plain: nn.Module,
        example: Tensor,
        engine: str,
        batch_size: int,
        quick: bool,
        found: Sites,
        accuracies: Accuracies,
        progress: Progress,
    ) -> None:
        self.plain, self.example, self.engine = plain, example, engine
        self.effort = QUICK if quick else FULL
        self.found, self.accuracies, self.progress = found, accuracies, progress
        self.x = noise(batch_size, *example.shape[1:]).to(example.dtype)
        self.stage_of = {placement: {site.name: site.stage for site in among} for placement, among in found.items()}
        self.plain_seconds: list[float] = []

    def whole(self, reduction_ratio: int) -> list[Placed]:
        """SE at all sites of each placement, in the faster of its two forms.

        The faster form depends on the engine: a squeeze before the last convolution saves reads in
        most, but adds layers in some.
        """
        plans = [
            _Plan("all stages", placement, tuple(names), reduction_ratio, form)
            for placement, names in self.stage_of.items()
            for form in FORMS
        ]
        measured = self._measure("SE at all sites", plans)
        return [
            min((each for each in measured if each.placement == placement), key=lambda each: each.ratio.value)
            for placement in self.stage_of
        ]

    def by_stage(self, whole: Sequence[Placed]) -> list[Placed]:
        """SE at one stage's sites, for each stage."""
        plans = []
        for each in whole:
            stage_of = self.stage_of[each.placement]
            stages = {stage: tuple(n for n in each.sites if stage_of[n] == stage) for stage in stage_of.values()}
            if len(stages) > 1:
                plans += [
                    _Plan(f"stage {stage}", each.placement, names, each.reduction_ratio, each.form)
                    for stage, names in sorted(stages.items())
                ]
        return self._measure("SE at one stage's sites", plans)

    def proposals(
        self, budget: float, whole: Sequence[Placed], stages: Sequence[Placed]
    ) -> tuple[list[Placed], list[Placed], bool]:
        """The measured proposals, the single sites measured for them, and whether the last proposal fits."""
        room, tried, singles = budget - 1, list[Placed](), list[Placed]()
        costs = _site_costs(whole, stages)
        partly = _partly_filled(whole, stages, costs, room)
        if partly is not None and partly.tells_sites_apart:
            alone = [dataclasses.replace(_plan_of(partly), what=name, sites=(name,)) for name in partly.sites]
            singles = self._measure(f"single sites of {partly.what}", alone)
            costs[partly.placement].update({each.sites[0]: each.cost for each in singles})
        plan = _most_sites(whole, stages, costs, room)
        wider = False  # whether the reduction ratio was doubled for these sites
        while plan is not None and len(tried) < _TRIES:
            (measured,) = self._measure("the proposal", [plan])
            tried.append(measured)
            if measured.ratio.value <= budget:
                return tried, singles, True
            if not wider:
                plan, wider = dataclasses.replace(plan, reduction_ratio=2 * plan.reduction_ratio), True
            else:
                over = (measured.ratio.value - budget) / (measured.ratio.value - 1)
                narrow = dataclasses.replace(plan, reduction_ratio=plan.reduction_ratio // 2)
                plan, wider = _without_costliest(narrow, over, costs[plan.placement]), False
        return tried, singles, False

    def _measure(self, what: str, plans: Sequence[_Plan]) -> list[Placed]:
        if not plans:
            return []
        self.progress.note(f"measuring {what}")
        runs = {PLAIN: self._plain_run}
        added = []
        for number, plan in enumerate(plans):
            spec = SESpec(plan.reduction_ratio, placement=plan.placement, start="paper")
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                network = insert(self.plain, self.example, spec, where=list(plan.sites)).eval()
            added.append(count_parameters(network) - count_parameters(self.plain))
            form = optimized(network, self.example) if plan.form == FORMS[0] else self._as_it_is(network)
            runs[str(number)] = inference(self.engine, form, self.x)
        seconds = in_turn(runs, self.effort)
        self.plain_seconds += seconds[PLAIN]
        return [
            Placed(
                **vars(plan),
                parameters=parameters,
                ratio=Ratio.of_rounds(
                    [own / plain for own, plain in zip(seconds[str(number)], seconds[PLAIN], strict=True)]
                ),
                accuracy=self._accuracy(plan),
            )
            for number, (plan, parameters) in enumerate(zip(plans, added, strict=True))
        ]

    @functools.cached_property
    def _plain_run(self) -> Callable[[], object]:
        """The runner of the network without SE, converted only once."""
        return inference(self.engine, self._as_it_is(copy.deepcopy(self.plain)), self.x)

    def _as_it_is(self, network: nn.Module) -> nn.Module:
        """The network with folded normalisations, unless the engine's converter folds them itself."""
        return network if ENGINES[self.engine].folds else folded(network, self.example)

    def _accuracy(self, plan: _Plan) -> float | None:
        stage_of = self.stage_of[plan.placement]
        stages = frozenset(stage_of[name] for name in plan.sites)
        if any(stage in stages and name not in plan.sites for name, stage in stage_of.items()):
            return None  # an ablation trains whole stages
        which = None if stages == set(stage_of.values()) else stages
        # an ablation of another network, or at some of the sites alone, has other numbers of blocks
        return self.accuracies.get((plan.placement, plan.reduction_ratio, which, len(plan.sites)))


def _sites(plain: nn.Module, example: Tensor, placements: str | Iterable[str]) -> Sites:
    """The sites of each placement that has any.

    Raises:
        InsertionError: none has any.
    """
    placements = [placements] if isinstance(placements, str) else list(placements)
    if not placements:
        raise InputError(f"name one placement at least, of {', '.join(PLACEMENTS)}")
    found, refused = {}, None
    for placement in placements:
        try:
            found[placement] = sites(plain, example, placement=placement)
        except InsertionError as error:
            refused = refused or error
    if not found and refused is not None:
        raise refused
    return found


def _site_costs(whole: Sequence[Placed], stages: Sequence[Placed]) -> dict[str, dict[str, float]]:
    """The cost of each site, by placement: its share of its stage's cost."""
    costs: dict[str, dict[str, float]] = {}
    for each in (*whole, *stages):
        costs.setdefault(each.placement, {}).update(dict.fromkeys(each.sites, each.site_cost))
    return costs


def _most_sites(
    whole: Sequence[Placed], stages: Sequence[Placed], costs: Mapping[str, Mapping[str, float]], room: float
) -> _Plan | None:
    """The plan with the most sites whose costs sum to at most `room`; among equals the first placement's."""
    plans = []
    for each in whole:
        plan = _plan_of(each)
        if each.cost > room:
            inside = [stage for stage in stages if stage.placement == each.placement] or [each]
            taken = {name for stage in _stages_within(inside, room) for name in stage.sites}
            left = room - sum(costs[each.placement][name] for name in taken)
            # Later sites first: PP-LCNet gains most per time from SE in its last two units.
            for name in reversed(each.sites):
                cost = costs[each.placement][name]
                if name not in taken and cost <= left:
                    taken.add(name)
                    left -= cost
            names = tuple(name for name in each.sites if name in taken)
            plan = dataclasses.replace(plan, what=_in_words(names, inside), sites=names)
        plans.append(plan)
    best = max(plans, key=lambda plan: len(plan.sites))
    return best if best.sites else None


def _stages_within(stages: Sequence[Placed], room: float) -> Sequence[Placed]:
    """The stages with the most sites whose costs sum to at most `room`; among equals the later ones."""
    subsets = (subset for size in range(len(stages) + 1) for subset in itertools.combinations(stages, size))
    fitting = [subset for subset in subsets if sum(stage.cost for stage in subset) <= room]
    return max(fitting, key=lambda subset: (sum(len(stage.sites) for stage in subset), [s.what for s in subset]))


def _partly_filled(
    whole: Sequence[Placed], stages: Sequence[Placed], costs: Mapping[str, Mapping[str, float]], room: float
) -> Placed | None:
    """The stage that the plan uses only in part; None if there is none."""
    plan = _most_sites(whole, stages, costs, room)
    if plan is None:
        return None
    among = [each for each in (*stages, *whole) if each.placement == plan.placement]
    return next((each for each in among if 0 < len(set(each.sites) & set(plan.sites)) < len(each.sites)), None)


def _without_costliest(plan: _Plan, part: float, costs: Mapping[str, float]) -> _Plan | None:
    """The plan without its costliest sites; among equals the earlier ones go."""
    fewer = max(1, round(part * len(plan.sites)))
    dropped = set(sorted(plan.sites, key=lambda name: -costs[name])[:fewer])
    names = tuple(name for name in plan.sites if name not in dropped)
    return dataclasses.replace(plan, what=", ".join(names), sites=names) if names else None


def _plan_of(each: Placed) -> _Plan:
    return _Plan(each.what, each.placement, each.sites, each.reduction_ratio, each.form)


def _in_words(names: Sequence[str], stages: Sequence[Placed]) -> str:
    """The sites in words: whole stages by name, others one by one."""
    words = []
    for stage in stages:
        inside = [name for name in stage.sites if name in names]
        words += [stage.what] if len(inside) == len(stage.sites) else inside
    return ", ".join(words)


def _notes(budget: float, proposal: Placed | None, held: bool) -> Iterator[str]:
    if proposal is None:
        return
    if held:
        yield (
            "The network has SE already, which senet insert leaves there. In Python: senet.insert(senet.remove(model, "
            "everything=True), example, found.spec, where=found.where)."
        )
    if proposal.ratio.high is not None and proposal.ratio.high > budget:
        yield (
            f"The proposal's median keeps within the budget, and its interval reaches to {proposal.ratio.high:.3f}: a "
            f"longer measurement may say otherwise."
        )
    if proposal.accuracy is None:
        yield "Whether SE there is worth its time is for a training to say: senet ablate --grid stages=each,but-each."


def _command(label: str, flags: Sequence[str], proposal: Placed, found: Sites) -> str:
    words = ["senet", "insert", "--model", label, *flags, "--placement", proposal.placement]
    words += ["--reduction-ratio", str(proposal.reduction_ratio)]
    if where := patterns(proposal.sites, [site.name for site in found[proposal.placement]]):
        words += ["--where", *where]
    return shlex.join([*words, "--out", "se.safetensors"])
