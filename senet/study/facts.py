"""The settings of a study, for its page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from senet.report.page import Facts, machine_facts, settings_facts

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["facts_of"]


def facts_of(settings: Mapping[str, Any], machine: Mapping[str, Any]) -> list[Facts]:
    """The settings of a study and its machine, for its page."""
    return [settings_facts(settings), machine_facts(machine)]
