"""The settings of studies, for their pages, and several studies on one page."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from senet.console.command import typed
from senet.report.page import Facts, Page, Section, machine_facts, settings_facts
from senet.words import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["facts_of", "page_of_several"]


def facts_of(settings: Mapping[str, Any], machine: Mapping[str, Any], name: str = "") -> list[Facts]:
    """The settings of a study and its machine, for its page.

    On a page of several studies each has a `name`, and the command that made it stands here.
    """
    own = (("run", name), ("command", str(machine.get("command", "")))) if name else ()
    return [Facts([*(row for row in own if row[1]), *settings_facts(settings).rows]), machine_facts(machine)]


def page_of_several(
    noun: str, overview: Section, names: Sequence[str], studies: Sequence[Any], sections: Sequence[Sequence[Section]]
) -> Page:
    """A page of several studies: an overview, the sections of each under its name, and all settings and machines."""
    own = [
        dataclasses.replace(section, title=f"{name}: {section.title}")
        for name, each in zip(names, sections, strict=True)
        for section in each
    ]
    together = zip(names, studies, strict=True)
    facts = [part for name, each in together for part in facts_of(each.settings, each.machine, name)]
    every = [overview, *own, Section("Settings and machines", facts)]
    return Page(f"{noun.capitalize()}s", [f"{counted(len(studies), noun)}."], every, typed())
