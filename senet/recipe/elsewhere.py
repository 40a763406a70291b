"""What people ask of a training that it does not do, and where that is done."""

from __future__ import annotations

import re

__all__ = ["elsewhere"]

_WHAT = {
    r"(class|cls|loss|sample|pos)_?weights?|weighted(_\w+)?|balanced?(_\w+)?|\w*sampl(er|ing)|focal\w*": (
        "every image counts alike"
    ),
    r"loss|loss_(fn|function|type)|criterion|bce\w*": "the loss is cross entropy",
    r"multi_?labels?|labels?|labels_file|targets?|regression|annotations?|csv": (
        "an image has one class, by its folder"
    ),
}


def elsewhere(name: str) -> str:
    """What the user of an unknown option, such as "class_weights", can do instead; "" if we do not know."""
    plain = name.lower().replace("-", "_").strip("_")
    what = next((words for pattern, words in _WHAT.items() if re.fullmatch(pattern, plain)), "")
    return (
        what and f"{what}; a training of your own does it otherwise, and senet judge --code FILE:FUNCTION compares it"
    )
