"""Insert SE into the networks that ultralytics' trainers build: detection, segmentation, pose, classification.

`YOLO("yolov8n.pt").train(trainer=trainer(SESpec(), where="model.4*"), data="coco8.yaml")`.

The checkpoints are ultralytics' own. `YOLO("best.pt")` only needs senet to be installed.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import logging
from typing import Any

import torch
from torch import Tensor, nn

from senet.block import SESpec
from senet.block.made import MadeSpec, Make
from senet.errors import InputError, InputTypeError, InsertionError
from senet.extras import extra
from senet.insertion import Where, attach, insert, inserted
from senet.insertion.staying.joined import attached
from senet.insertion.staying.rebuilt import network_in, watch
from senet.running import noise
from senet.words import counted

__all__ = ["SETrainer", "trainer"]


class SETrainer:
    """A mixin, placed before any ultralytics trainer, that inserts SE into the trainer's network.

    Attributes:
        spec: the kind of block and its placement; None for the default. `start=None` means the
            identity start on pretrained weights, and the paper's start from scratch.
        where: the sites to use, as in `senet.insert`.
        make: another block instead of SE, as in `senet.insert`.
        cell: a cell of `senet.study.judge`, which decides whether and which SE is inserted; the
            other attributes are then ignored.
    """

    spec: SESpec | None = None
    where: Where = None
    make: Make | None = None
    cell: Any = None

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> Any:
        """Build the network of the YAML file `cfg` with `weights`, and insert SE.

        Inserted SE in the weights is kept, with its sites and its kind of block, so training can resume.

        Raises:
            InsertionError: SE has no place in the network, or none that matches `where`.
        """
        source = network_in(weights)
        kept = {} if source is None else inserted(source)
        if self.cell is not None and kept:
            raise InsertionError("the weights hold SE already: a judgement begins with those of a plain network")
        build: Any = super().get_model  # type: ignore[misc]
        model: Any = build(cfg=cfg, weights=None if kept else weights, verbose=verbose)
        if self.cell is not None:
            return self.cell.put(model, self.se_example(model))
        spec = self.spec or SESpec()
        if kept:
            for name, (site, found) in kept.items():
                attach(model, site, _with_maker(found, source, name))
            model.load(weights)
        else:
            make = _as_written(self, "make")
            start = spec.start or ("paper" if source is None and make is None else "identity")
            spec = dataclasses.replace(spec, start=start)
            insert(model, self.se_example(model), spec, where=_as_written(self, "where"), make=make, inplace=True)
        if verbose:
            names, origin = inserted(model), "kept from the weights" if kept else f"inserted, {spec}"
            logging.getLogger("ultralytics").info(f"SE: {counted(len(names), 'block')}, {origin}: {', '.join(names)}")
        return model

    def se_example(self, model: nn.Module) -> Tensor:
        """The example on which sites are found: noise (1, channels, size, size) from 0 to 1."""
        channels = int(getattr(self, "data", {}).get("channels", 3))
        stride = getattr(model, "stride", None)
        size = max(64, 2 * int(torch.as_tensor(32 if stride is None else stride).max()))
        return noise(1, channels, size, size, draw=torch.rand)


def trainer(
    spec: SESpec | None = None,
    *,
    where: Where = None,
    make: Make | None = None,
    base: type | None = None,
    cell: Any = None,
) -> type[Any]:
    """Make a trainer class for `YOLO.train(trainer=...)` that trains the network with SE.

    Args:
        spec: the kind of block and its placement; None for the default.
        where: the sites to use, as in `senet.insert`.
        make: another block instead of SE, as in `senet.insert`.
        base: the ultralytics trainer to build on; None means `DetectionTrainer`.
        cell: the cell that `senet.study.judge` passes to a training; it decides whether and which SE is inserted.

    Raises:
        MissingPackageError: ultralytics is not installed.
        TypeError: `base` is not a trainer, or `spec` not an SESpec.
    """
    if spec is not None and not isinstance(spec, SESpec):
        raise InputTypeError(f"spec is an SESpec, not {type(spec).__name__}")
    if cell is not None and (spec, where, make) != (None, None, None):
        raise InputError(
            "judge decides which blocks go in: give spec, where and make to it, not to a trainer of its cell"
        )
    engine = extra("ultralytics.engine.trainer")
    if base is None:
        base = extra("ultralytics.models.yolo.detect").DetectionTrainer
    if not (isinstance(base, type) and issubclass(base, engine.BaseTrainer)):
        raise InputTypeError(f"base is a trainer class of ultralytics, such as DetectionTrainer, not {base!r}")
    watch()
    return type(f"SE{base.__name__}", (SETrainer, base), {"spec": spec, "where": where, "make": make, "cell": cell})


def _as_written(trainer: SETrainer, name: str) -> Any:
    """Wrap an attribute that may be a function, which a class would turn into a method."""
    value = inspect.getattr_static(trainer, name)
    return value.__func__ if isinstance(value, staticmethod) else value


def _with_maker(spec: SESpec | MadeSpec, weights: Any, name: str) -> SESpec | MadeSpec:
    """The spec for `attach`; a block from a maker is copied from the network that holds it."""
    if isinstance(spec, SESpec):
        return spec
    block = next(found.child for at, _, found in attached(weights) if at == name)
    return dataclasses.replace(spec, maker=lambda _: copy.deepcopy(weights.get_submodule(f"{name}.{block}.module")))
