"""The settings of a study, for its page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from senet.report.page import Facts, machine_facts

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["facts_of"]


def facts_of(settings: Mapping[str, Any], machine: Mapping[str, Any]) -> list[Facts]:
    """The settings of a study and what it ran on, for its page."""
    return [Facts([(name, _words(value)) for name, value in settings.items()]), machine_facts(machine)]


def _words(value: Any) -> str:
    """A setting as people read it; the same for what was just decided and for what a file has of it."""
    if isinstance(value, dict):
        if set(value) == {"name", "content"}:
            return _words(value["name"])
        return ", ".join(f"{key} {_words(each)}" for key, each in value.items() if each is not None)
    if isinstance(value, list | tuple):
        return ", ".join(map(_words, value))
    return str(value)
