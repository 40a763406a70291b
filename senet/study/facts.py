"""The settings of a study, for its page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from senet.report.page import Facts, machine_facts, settings_facts

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["facts_of"]


def facts_of(settings: Mapping[str, Any], machine: Mapping[str, Any], name: str = "") -> list[Facts]:
    """The settings of a study and its machine, for its page.

    On a page of several studies each has a `name`, and the command that made it stands here.
    """
    own = (("run", name), ("command", str(machine.get("command", "")))) if name else ()
    return [Facts([*(row for row in own if row[1]), *settings_facts(settings).rows]), machine_facts(machine)]
