"""The survey's page, docs/survey.md, from the results that lie under runs/survey, one file for each network."""

from __future__ import annotations

import json
import os
import platform
import re
from pathlib import Path

from networks import ENTRIES, Entry

RESULTS = Path("runs/survey")
KINDS = {
    "torchvision": "torchvision: classification, segmentation, detection, video, flow",
    "timm": "timm: the smallest network of each convolutional family",
    "hybrid": "timm: hybrids of convolution and attention or state spaces",
    "other": "segmentation-models-pytorch and MONAI",
    "transformer": "Pure transformers, MLPs and state-space networks: the clean error",
}
COLUMNS = "network, rule, sites, identity: eval, train, joint, keys, step, learns, removed, copy, export, compile, s"
HEAD = f"| {COLUMNS.replace(', ', ' | ')} |"
RULE = "|---" * HEAD.count(" | ") + "|---|"


def result_of(name: str) -> Path:
    return RESULTS / (re.sub(r"[^\w.-]", "_", name) + ".json")


def page() -> str:
    """docs/survey.md, from the results that are there."""
    import torch

    rows = [(entry, json.loads(result_of(n).read_text())) for n, entry in ENTRIES.items() if result_of(n).exists()]
    lines = [
        "# SE into every network: a survey",
        "",
        f"`make survey` made this page: torch {torch.__version__}, Python {platform.python_version()}, "
        f"{os.cpu_count()} CPU cores. Random weights; every network checked for everything that "
        "[insertion](insertion.md) promises.",
        "",
        "Columns: *identity*: the output in eval mode, and in training mode with the same seed, against the plain "
        "network's, SE computed as its equations stand. *joint*: blocks that in training run in their normalisation's "
        "pass instead, and what that changes in the output, in float64. *keys*: every old key and value kept. "
        "*step*: largest relative difference of a plain parameter after one step of SGD. *learns*: SE blocks whose "
        "second layer the first step changes and whose first layer the second step moves. *removed*: the plain "
        "network back, bit for bit. *copy, export, compile*: as before insertion (a dash: the plain network does not "
        "either; nothing: not tried). *s*: seconds that `insert` took.",
        "",
    ]
    for kind, title in KINDS.items():
        mine = [(entry, result) for entry, result in rows if entry.kind == kind]
        if not mine:
            continue
        good = [pair for pair in mine if not verdict(*pair)]
        lines += [f"## {title}", "", f"{len(good)} of {len(mine)} as promised."]
        missed = [(entry, verdict(entry, result)) for entry, result in mine if verdict(entry, result)]
        lines += ["", *(f"- **{entry.name}**: {why}" for entry, why in missed)] if missed else []
        lines += ["", HEAD, RULE, *(row(entry, result) for entry, result in mine), ""]
    return "\n".join(lines)


def verdict(entry: Entry, result: dict) -> str:
    """ "" where all is as promised, else what is not."""
    if "failed" in result:
        return result["failed"].splitlines()[0]
    if "error" in result:
        if entry.kind == "transformer" and "has no place" in result["error"]:
            return ""
        if "holds SE already" in result["error"]:
            return ""
        return result["error"].split(":")[0]
    sites = result["sites"]
    wrong = []
    if result["difference_eval"] != 0:
        wrong.append(f"eval output differs by {result['difference_eval']:.2g}")
    if not result["difference_train"] <= 1e-5:
        wrong.append(f"train output differs by {result['difference_train']:.2g}")
    if not result.get("difference_joint", 0) <= 1e-6:
        wrong.append(f"train output of the joint pass differs by {result['difference_joint']:.2g}")
    if not result["keys_kept"]:
        wrong.append("keys or values changed")
    if not result["step_difference"] <= 1e-5:
        wrong.append(f"a plain parameter's step differs by {result['step_difference']:.2g}")
    if result["second_layers"] != sites or result["first_layers"] != sites:
        wrong.append(f"{result['second_layers']} second and {result['first_layers']} first layers of {sites} learn")
    if not result["removed"]:
        wrong.append("not removed exactly")
    if not result["deepcopy"]:
        wrong.append("deepcopy differs")
    wrong += [f"{way} worked before" for way in ("export", "compile") if worse(result.get(way))]
    return "; ".join(wrong)


def worse(ways: dict | None) -> bool:
    return ways is not None and ways["plain"] == "yes" and ways["se"] != "yes"


def row(entry: Entry, result: dict) -> str:
    seconds = f"{result['seconds']:.1f}" if "seconds" in result else ""
    if "failed" in result or "error" in result:
        said = (result.get("failed") or result["error"]).splitlines()[0].replace("|", "/")
        empty = " |" * (HEAD.count(" | ") - 4)
        return f"| {entry.name} | | | {said[:110]}{'...' * (len(said) > 110)} |{empty} {seconds} |"
    equal = {0.0: "exact"}
    cells = [
        entry.name,
        ", ".join(result["rules"]),
        f"{result['sites']}" + (f" (+{result['held_before']} there)" if result["held_before"] else ""),
        equal.get(result["difference_eval"], f"{result['difference_eval']:.1e}"),
        equal.get(result["difference_train"], f"{result['difference_train']:.1e}"),
        joined(result),
        "yes" if result["keys_kept"] else "NO",
        equal.get(result["step_difference"], f"{result['step_difference']:.1e}"),
        f"{min(result['first_layers'], result['second_layers'])}/{result['sites']}",
        "yes" if result["removed"] else "NO",
        "yes" if result["deepcopy"] else "NO",
        *(tried(result.get(way)) for way in ("export", "compile")),
        seconds,
    ]
    return "| " + " | ".join(cells) + " |"


def joined(result: dict) -> str:
    """How many blocks ran in their normalisation's pass, and what that changed."""
    if not result.get("joint"):
        return "not tried" if "joint_failed" in result else "none"
    return f"{result['joint']}: {result['difference_joint']:.0e}"


def tried(ways: dict | None) -> str:
    if ways is None:
        return ""
    return "NO" if worse(ways) else "yes" if ways["se"] == "yes" else "–"
