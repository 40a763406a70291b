"""Redirect the module names of earlier versions, which pickled networks still hold, to the present modules.

A pickle finds a class by its module's name. Importing an old name returns the new module itself, so
each class has one identity under either name.
"""

from __future__ import annotations

import importlib
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_NOW = {
    "fast": {
        "fused": "conditions norm switch units",
        "fused.passes": "native",
        "inference": "agreement algebra folding graph layers",
        "inference.eager": "epilogue",
        "export": "description export formats onnx_squeeze runtimes tracing",
    },
    "insertion": {
        "insertion.joining": "attach constant fold foldgates insert start",
        "insertion.reading": "dataflow layout operations walk",
        "insertion.rules": "concatenating findings placements plain residual site",
    },
    "zoo": {
        "zoo.names": "naming sources",
        "zoo.networks": "bn_inception cifar_resnet entry inception_resnet layers mobilenet preact_resnet resnet "
        "senet154 shake_shake shufflenet vgg wide_resnet",
        "zoo.weights": "caffe caffe_format reading",
    },
}
_MOVED = {
    f"senet.{old}.{name}": f"senet.{new}.{name}"
    for old, rooms in _NOW.items()
    for new, names in rooms.items()
    for name in names.split()
} | {
    "senet.fast.eager": "senet.inference.eager.conditions",
    "senet.fast.errors": "senet.errors",
    "senet.fast.excitation": "senet.inference.rebuild",
    "senet.fast.gates": "senet.inference.find_se",
    "senet.fast.gating": "senet.inference.eager.gate",
    "senet.fast.passes": "senet.fused.passes.protocol",
    "senet.fast.squeeze_through": "senet.inference.optimize",
    "senet.fast.statistics": "senet.fused.normalisations",
    "senet.fast.sync": "senet.insertion.joining.synchronise",
    "senet.insertion.errors": "senet.errors",
    "senet.insertion.foreign": "senet.insertion.recognise",
    "senet.insertion.untouched": "senet.running",
}


class _Moved(MetaPathFinder, Loader):
    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:  # noqa: ARG002
        return ModuleSpec(fullname, self) if fullname in _MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(_MOVED[spec.name])
        spec.loader_state = module.__spec__  # the import system is about to overwrite it with `spec`
        return module

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None and module.__spec__.loader_state is not None:
            module.__spec__ = module.__spec__.loader_state


def redirect() -> None:
    """Make the old names importable. They are looked up last, if no other finder has them."""
    # If a finder imported `senet.insertion.attach`, the import system would bind the module over
    # the function of that name. So modules that are already loaded are entered by hand.
    for old, new in _MOVED.items():
        if new in sys.modules:
            sys.modules.setdefault(old, sys.modules[new])
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.append(_Moved())
