"""Fetch networks from the Hugging Face Hub by name: `hf:owner/name`, or `hf:owner/name@revision`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from senet.errors import WeightsError
from senet.extras import extra

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["WEIGHTS", "HubName", "fetched", "is_on_hub"]

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""The names of weights files in a repository; the first that exists is used."""

_PREFIX = "hf:"
_NAME = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


class HubName(NamedTuple):
    """A repository on the Hub and its branch, tag or commit; None is the main branch."""

    repository: str
    revision: str | None

    @classmethod
    def parse(cls, name: str) -> HubName:
        """Parse `hf:owner/name` or `hf:owner/name@revision`.

        Raises:
            WeightsError: it is neither.
        """
        found = _NAME.fullmatch(name)
        if found is None:
            raise WeightsError(f"{name!r} is not a name on the Hub, such as hf:owner/name or hf:owner/name@revision")
        return cls(found[1], found[2])


def is_on_hub(name: object) -> bool:
    """Whether a name refers to the Hub."""
    return isinstance(name, str) and name.startswith(_PREFIX)


def fetched(name: str, files: Sequence[str]) -> str:
    """Fetch the first of `files` that the repository has; return its path in the Hub's cache.

    Raises:
        WeightsError: the name is malformed, the repository has none of the files, or it cannot be reached.
        MissingPackageError: huggingface_hub is not installed.
    """
    repository, revision = HubName.parse(name)
    hub = extra("huggingface_hub", "hub")
    for file in files:
        try:
            path: str = hub.hf_hub_download(repository, file, revision=revision)
        except Exception as error:  # no such file or repository, no network, no permission
            # Offline, the error is a subclass of "no such file", and the next name would fail too.
            missing = isinstance(error, hub.errors.EntryNotFoundError)
            if missing and not isinstance(error, hub.errors.LocalEntryNotFoundError):
                continue
            words = " ".join(str(error).split())
            raise WeightsError(f"{name} cannot be fetched: {type(error).__name__}: {words}") from error
        return path
    raise WeightsError(f"{name} has none of {', '.join(files)}")
