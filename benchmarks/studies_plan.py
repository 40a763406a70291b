"""The plan of docs/results.md as cells: what is trained, in which order, and what is compared.

A study's plan is fixed before its first run. Studies are added below those that have begun.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from senet import SESpec

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
PLAIN, SE, NONE, BUT_LAST, INNER = "plain", "se", "no-squeeze", "but-last", "inner"

Arm = tuple[str, str]
"""A network of the zoo, and one of the study's arms."""


@dataclasses.dataclass(frozen=True)
class Contrast:
    """A difference of accuracies, taken seed by seed.

    Attributes:
        label: what is compared.
        of: arms whose accuracies are added.
        less: arms whose accuracies are subtracted.
    """

    label: str
    of: tuple[Arm, ...]
    less: tuple[Arm, ...]


@dataclasses.dataclass(frozen=True)
class Study:
    """One question.

    Attributes:
        title: the question in a few words.
        arms: what is trained for each seed, in this order.
        seeds: of every arm.
        main: the one comparison that counts; it is judged alone, at 95 %.
        others: they are corrected for their number by Holm.
        ratio: the reduction ratio of its SE.
        recipe: of every run.
        data: the pictures, one of `studies_data.SOURCES`.
        weights: that every arm starts from; None for its own initialisation.
        size: pixels a side; None for the pictures' own.
        start: of SE, "paper" or "identity".
        where: the sites that an arm's SE is put at; all where not given.
    """

    title: str
    arms: tuple[Arm, ...]
    seeds: range
    main: Contrast
    others: tuple[Contrast, ...]
    ratio: int = 8
    recipe: str = "cifar-short"
    data: str = "tiny100"
    weights: str | None = None
    size: int | None = None
    start: str = "paper"
    where: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    def spec(self, arm: str) -> SESpec | None:
        """The SE of an arm; None for the plain network."""
        if arm == PLAIN:
            return None
        squeeze, placement = "none" if arm == NONE else "avg", "inner" if arm == INNER else "standard"
        return SESpec(self.ratio, squeeze=squeeze, placement=placement, start=self.start)


def _less(network: str, arm: str, other: str) -> Contrast:
    return Contrast(f"{network}: {arm} − {other}", ((network, arm),), ((network, other),))


def _three(*networks: str) -> tuple[Arm, ...]:
    """Plain, SE, and SE without squeeze, in each network."""
    return tuple((network, arm) for network in networks for arm in (PLAIN, SE, NONE))


def _all_but(main: Contrast, *networks: str) -> tuple[Contrast, ...]:
    """Each pair of these three in each network, without the comparison that counts."""
    pairs = ((SE, PLAIN), (NONE, PLAIN), (SE, NONE))
    found = (_less(network, *pair) for network in networks for pair in pairs)
    return tuple(each for each in found if each != main)


_SIGHT = _less("light_11", SE, PLAIN)
_MOBILE = _less("mobilenet_v1_small", SE, PLAIN)
_RESNET = _less("resnet20", SE, PLAIN)
_FEW = _less("torchvision:mobilenet_v2", SE, PLAIN)

STUDIES: Mapping[str, Study] = MappingProxyType(
    {
        "sight": Study(
            "Where sight is short",
            _three("light_11", "light_35", "light_19"),
            range(10, 15),
            _SIGHT,
            (
                *_all_but(_SIGHT, "light_11", "light_19", "light_35"),
                Contrast(
                    "gain of SE in light_11 − gain of SE in light_35",
                    (("light_11", SE), ("light_35", PLAIN)),
                    (("light_11", PLAIN), ("light_35", SE)),
                ),
            ),
        ),
        "mobile": Study(
            "A light network that sees the whole picture",
            _three("mobilenet_v1_small"),
            range(10, 18),
            _MOBILE,
            _all_but(_MOBILE, "mobilenet_v1_small"),
        ),
        "few": Study(
            "Ten photos a class: SE in a pretrained network",
            (("torchvision:mobilenet_v2", PLAIN), ("torchvision:mobilenet_v2", SE)),
            range(10, 15),
            _FEW,
            (),
            ratio=16,
            recipe="fine-tuning",
            data="caltech20-10",
            weights="../shared/weights/mobilenet_v2-b0353104.pth",
            size=128,
            start="identity",
        ),
        "depth": Study(
            "ResNet-20 with SE, without squeeze, with SE elsewhere, and beside a deeper network",
            (*_three("resnet20"), ("resnet32", PLAIN), ("resnet20", BUT_LAST), ("resnet20", INNER)),
            range(10, 15),
            _RESNET,
            (
                *_all_but(_RESNET, "resnet20"),
                Contrast("resnet20 with SE − plain resnet32", (("resnet20", SE),), (("resnet32", PLAIN),)),
                _less("resnet20", BUT_LAST, SE),
                _less("resnet20", INNER, SE),
            ),
            ratio=4,
            where=MappingProxyType({BUT_LAST: ("layer1.*", "layer2.*")}),
        ),
    }
)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training."""

    study: str
    network: str
    arm: str
    seed: int

    @property
    def name(self) -> str:
        """Of its folders."""
        return f"{self.network.rpartition(':')[2]}-{self.arm}-{self.seed}"

    @property
    def folder(self) -> Path:
        """Where its result is committed."""
        return RESULTS / self.study / self.name

    @property
    def plan(self) -> Study:
        """The study that it belongs to."""
        return STUDIES[self.study]

    @property
    def spec(self) -> SESpec | None:
        """The SE of its arm."""
        return self.plan.spec(self.arm)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)


def cells(study: str | None = None) -> list[Cell]:
    """The cells in the order in which they run.

    First the arms of a study's comparison that counts, then its others; each seed by seed, so that what
    is done comes in pairs.
    """
    return [
        Cell(name, network, arm, seed)
        for name, each in STUDIES.items()
        if study in (None, name)
        for arms in _first_and_other(each)
        for seed in each.seeds
        for network, arm in arms
    ]


def _first_and_other(study: Study) -> tuple[list[Arm], list[Arm]]:
    """The arms of the comparison that counts, and all others."""
    counted = (*study.main.of, *study.main.less)
    return [arm for arm in study.arms if arm in counted], [arm for arm in study.arms if arm not in counted]
