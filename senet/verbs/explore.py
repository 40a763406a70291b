"""The verb `explore`, which opens a page."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import sys
from typing import Unpack

from senet import flags
from senet.console import display
from senet.errors import MissingPackageError
from senet.evaluation.options import SizedPictureOptions
from senet.extras import how_to_install
from senet.words import counted

__all__ = ["explore"]


def explore(
    model: list[str],
    *,
    weights: list[str] | None = None,
    classes: list[str] | None = None,
    class_offset: int = 0,
    data: str | None = None,
    data_root: str | None = None,
    devices: str = "auto",
    port: int | None = None,
    allow_host: list[str] | None = None,
    make: str | None = None,
    **preprocessing: Unpack[SizedPictureOptions],
) -> None:
    """Open a page on this machine: drop a picture, see the gates of every SE block, hold them, see what changes.

    Several networks can be named, each with its weights in the same order (or 'none'), and switched between on
    the page. With --data, "held at the mean" is the mean over those images (at most 200 of them), else over the
    pictures that were dropped. Nothing leaves the machine. Ctrl-C ends it. On another machine forward the port,
    as with ssh -L 7860:127.0.0.1:7860 MACHINE; a proxy with a name of its own needs --allow-host NAME.

    Examples:
      senet explore --model runs/se-0
      senet explore --model torchvision:mobilenet_v3_small timm:seresnet50 --weights pretrained pretrained
    """
    for name in ("starlette", "uvicorn"):
        if importlib.util.find_spec(name) is None:
            raise MissingPackageError(f"{name} is not installed: {how_to_install('explore')}", name=name)
    from senet.explore import listen, open_subject, serve

    each = zip(model, _each("weights", weights, model), _each("classes", classes, model), strict=True)
    with listen(port) as server:  # before the networks are made, which is slow
        subjects = {}
        for name, its_weights, its_classes in each:
            shown = name if model.count(name) == 1 or its_weights is None else f"{name} with {its_weights}"
            if shown in subjects:
                raise flags.UsageError(
                    f"--model names {name} twice with the same weights: give each its own with --weights"
                )
            found = open_subject(
                name,
                its_weights,
                classes=its_classes,
                class_offset=0 if classes and its_classes is None else class_offset,
                data=data,
                data_root=data_root,
                preprocessing=preprocessing,
                devices=devices,
                make=make,
            )
            subjects[shown] = dataclasses.replace(found, name=shown)
        host, at = server.getsockname()

        def ready() -> None:
            display.show(f"The page is at http://{host}:{at} on this machine. Ctrl-C ends it.")
            sys.stdout.flush()

        with contextlib.suppress(KeyboardInterrupt):  # the normal way to leave
            serve(subjects, server, hosts=allow_host or (), ready=ready)


def _each(flag: str, given: list[str] | None, models: list[str]) -> list[str | None]:
    """One value per network: as given, or one given for all; 'none' is None."""
    if given is None:
        return [None] * len(models)
    if len(given) not in (1, len(models)):
        raise flags.UsageError(
            f"--{flag} names {len(given)} for {counted(len(models), 'network')}: give one for each, in their order "
            "('none' for one without), or one for all"
        )
    values = given * len(models) if len(given) == 1 else given
    return [None if value == "none" else value for value in values]
