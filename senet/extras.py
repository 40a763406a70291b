"""Import packages of an extra when they are needed."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import json
from typing import Any
from urllib.parse import unquote, urlsplit

from senet.errors import MissingPackageError

__all__ = ["EXTRAS", "extra", "how_to_get", "how_to_install"]

EXTRAS = {
    "study": "lightning tensorboard torchvision torchmetrics matplotlib jinja2 PIL pyarrow sklearn scipy",
    "ship": "onnx onnxscript onnxruntime openvino nncf",
    "explore": "starlette uvicorn",
    "wds": "webdataset",
    "timm": "timm",
    "hub": "huggingface_hub",
    "caffe": "google",
}
"""The modules that each extra installs for users, as they are imported."""


def extra(module: str, name: str = "") -> Any:
    """Import a module that the extra `name` installs, or that users install themselves if there is no such extra.

    Raises:
        MissingPackageError: it is not installed; the message has the command that installs it.
    """
    root = module.partition(".")[0]
    try:
        importlib.import_module(root)
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != root:
            raise
        message = f"{error.name} is not installed: {how_to_install(name) if name else f'pip install {root}'}"
        raise MissingPackageError(message, name=error.name) from None


def how_to_get(module: str) -> str:
    """The command that installs a module: by the extra that has it, else by the module's own name."""
    root = module.partition(".")[0]
    name = next((name for name, modules in EXTRAS.items() if root in modules.split()), None)
    return f"pip install {root}" if name is None else how_to_install(name)


def how_to_install(name: str) -> str:
    """The command that adds an extra to this installation of senet, from its checkout, repository, wheel or index."""
    editable, source = _installed_from()
    if editable:
        return f"pip install -e '{source}[{name}]'"
    return f"pip install 'senet[{name}]{f' @ {source}' if source else ''}'"


@functools.cache
def _installed_from() -> tuple[bool, str]:
    """Whether senet is an editable checkout, and its origin (PEP 610); "" for the index or if unknown."""
    try:
        found = json.loads(importlib.metadata.distribution("senet").read_text("direct_url.json") or "{}")
        url = found.get("url", "")
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return False, ""
    if found.get("dir_info", {}).get("editable"):
        return True, unquote(urlsplit(url).path)
    if vcs := found.get("vcs_info"):
        return False, f"{vcs['vcs']}+{url}@{vcs['commit_id']}"
    return False, url
