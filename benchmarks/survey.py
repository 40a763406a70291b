"""Put SE into every kind of network there is, and write down what happened: docs/survey.md.

    make survey                     # an hour or two on 2 cores; goes on where it was
    python benchmarks/survey.py --only timm:resnet --fresh

Each network is built with random weights, SE is inserted, and everything that insertion promises is checked. One
result a file under runs/survey; a network that fails, hangs or runs out of memory is written down as that.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import copy
import json
import multiprocessing
import os
import platform
import re
import time
import traceback
import warnings
from concurrent.futures.process import BrokenProcessPool
from fnmatch import fnmatch
from pathlib import Path

from networks import ENTRIES, Entry

RESULTS = Path("runs/survey")
PAGE = Path("docs/survey.md")
LIMIT_S = 1200
QUICK = "SENET_SURVEY_QUICK"  # set for the workers: leave export and compile, most of the time, out


def check(entry: Entry) -> dict:
    """Insert into one network and hold the result against everything that is promised."""
    import torch

    import senet
    from senet.fast import straightforward
    from senet.insertion import largest_difference, untouched

    torch.manual_seed(0)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    warnings.simplefilter("ignore")
    plain = entry.build()
    settle(plain, entry)
    example = entry.example()
    held = len(senet.blocks(plain))
    result = {"parameters": sum(p.numel() for p in plain.parameters()), "held_before": held}
    start = time.perf_counter()
    try:
        se = senet.insert(plain, example)
    except senet.InsertionError as error:
        return result | {"error": str(error), "seconds": time.perf_counter() - start}
    result["seconds"] = time.perf_counter() - start
    found = senet.insertion.inserted(se)
    result["sites"] = len(found)
    result["rules"] = sorted({site.rule for site, _ in found.values()})
    expected, given = (forward(model, example, training=False) for model in (plain, se))
    result["difference_eval"] = largest_difference(expected, given)
    old, new = plain.state_dict(), se.state_dict()
    result["keys_kept"] = all(k in new and torch.equal(old[k], new[k]) for k in old)
    with straightforward():
        result |= learn(plain, se, entry)
    result |= joint(plain, se, entry)
    removed = senet.remove(se)
    again = forward(removed, example, training=False)
    result["removed"] = (
        largest_difference(expected, again) == 0
        and list(removed.state_dict()) == list(old)
        and [type(m) for m in removed.modules()] == [type(m) for m in plain.modules()]
    )
    result["deepcopy"] = largest_difference(given, forward(copy.deepcopy(se), example, training=False)) == 0
    for way, attempt in () if QUICK in os.environ else (("export", export), ("compile", compile_)):
        with untouched(plain), untouched(se):
            after = attempt(se, example)
            result[way] = {"se": after, "plain": "not tried" if after == "yes" else attempt(plain, example)}
    return result


def settle(model, entry: Entry) -> None:
    """Weights as after some training, and statistics that fit them, so that equality and learning say something."""
    import torch

    from senet.insertion import as_call

    generator = torch.Generator().manual_seed(0)
    norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if re.search(r"gamma|layer_scale|ls\d", name) or (parameter.dim() == 1 and not parameter.any()):
                parameter.uniform_(0.05, 0.2, generator=generator)  # zero-initialised branches would hide everything
        for module in model.modules():
            if type(module).__name__ in ("StochasticDepth", "DropPath"):  # a dropped branch learns nothing that step
                module.p = module.drop_prob = 0.0
        for module in norms:
            module.momentum = None
        args, kwargs = as_call(entry.training_example())
        model.train()(*args, **kwargs)
        for module in norms:
            module.momentum = 0.1


def forward(model, example, *, training: bool):
    import torch

    from senet.insertion import as_call, untouched

    args, kwargs = as_call(example)
    with untouched(model, training=training), torch.no_grad():
        torch.manual_seed(1)
        return model(*args, **kwargs)


def learn(plain, se, entry: Entry) -> dict:
    """Two steps of SGD from the same seed: the plain parameters move as they would, every SE learns."""
    import torch

    import senet
    from senet.insertion import as_call, largest_difference

    args, kwargs = as_call(entry.training_example())
    a, b = copy.deepcopy(plain).train(), copy.deepcopy(se).train()
    ours = {name: block for name, block in senet.blocks(b).items() if isinstance(block, senet.SEBlock)}
    before = {name: block.fc2.weight.clone() for name, block in ours.items()}
    outputs, result, rate = {}, {}, 0.0
    for step in range(2):
        for name, model in (("plain", a), ("se", b)) if step == 0 else (("se", b),):
            torch.manual_seed(step)
            output = model(*args, **kwargs)
            outputs[name] = output
            loss = loss_of(output)
            model.zero_grad()
            loss.backward()
            if rate == 0:  # by the plain network's gradients, for both
                largest = max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None)
                rate = 1e-5 / max(largest, 1e-12)
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.grad is not None:
                        parameter -= rate * parameter.grad
        if step == 0:
            result["difference_train"] = largest_difference(*(detach(outputs[n]) for n in ("plain", "se")))
            theirs = dict(a.named_parameters())
            moved = {n: p for n, p in b.named_parameters() if n in theirs}
            result["step_difference"] = max(
                (float((p - theirs[n]).abs().max() / theirs[n].abs().max().clamp_min(1e-12)) for n, p in moved.items()),
                default=0.0,
            )
            result["second_layers"] = sum(not torch.equal(m.fc2.weight, before[n]) for n, m in ours.items())
    result["first_layers"] = sum(bool(m.fc1.weight.grad.any()) for m in ours.values())  # whatever the rate
    return result


def joint(plain, se, entry: Entry) -> dict:
    """The output in training where SE runs in its normalisation's pass, in float64, in which rounding does not grow."""
    import torch
    from torch.utils._pytree import tree_map_only

    from senet.fast.switch import of_any_size, watching
    from senet.insertion import as_call, largest_difference

    def double(x):
        return x.double() if x.is_floating_point() else x

    args, kwargs = tree_map_only(torch.Tensor, double, as_call(entry.training_example()))
    blocks, outputs = set(), []
    try:
        for model in (plain, se):
            model = copy.deepcopy(model).double().train()
            torch.manual_seed(0)
            with torch.no_grad(), of_any_size(), watching(lambda block, _: blocks.add(block)):
                outputs.append(model(*args, **kwargs))
    except Exception as error:
        return {"joint_failed": f"{type(error).__name__}: {error}"[:300]}
    return {"joint": len(blocks), "difference_joint": largest_difference(*outputs)}


def detach(tree):
    from torch import Tensor
    from torch.utils._pytree import tree_map_only

    return tree_map_only(Tensor, Tensor.detach, tree)


def loss_of(output):
    """A loss that every output takes part in, each element with another weight."""
    import torch
    from torch.utils._pytree import tree_leaves

    losses = []
    generator = torch.Generator().manual_seed(2)
    for leaf in tree_leaves(output):
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and leaf.requires_grad:
            weight = torch.randn(leaf.shape, generator=generator)
            losses.append((leaf * weight).mean() + leaf.square().mean())
    return sum(losses)


def export(model, example) -> str:
    import torch

    from senet.insertion import as_call

    args, kwargs = as_call(example)
    try:
        torch.export.export(model, args, kwargs)
    except Exception as error:
        return f"{type(error).__name__}"
    return "yes"


def compile_(model, example) -> str:
    import torch

    from senet.insertion import as_call

    args, kwargs = as_call(example)
    try:
        with torch.no_grad():
            torch.compile(model, fullgraph=True, backend="eager")(*args, **kwargs)
    except Exception as error:
        return f"{type(error).__name__}"
    finally:
        torch._dynamo.reset()
    return "yes"


def one(name: str) -> dict:
    """In the worker: a result or, whatever happens, what went wrong."""
    try:
        return check(ENTRIES[name])
    except BaseException as error:
        return {"failed": f"{type(error).__name__}: {error}"[:600], "traceback": traceback.format_exc()[-2000:]}


def run(names: list[str]) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:40}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    pool = None
    with Progress(*columns) as progress:
        task = progress.add_task("", total=len(names))
        for name in names:
            progress.update(task, description=name)
            pool = pool or concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
            try:
                result = pool.submit(one, name).result(LIMIT_S)
            except (BrokenProcessPool, TimeoutError) as error:
                for process in list((pool._processes or {}).values()):
                    process.kill()
                pool.shutdown(wait=False, cancel_futures=True)
                pool = None
                short = f"took over {LIMIT_S} s" if isinstance(error, TimeoutError) else "the process died (memory?)"
                result = {"failed": short}
            path = result_of(name)
            path.write_text(json.dumps({"name": name, **result}, indent=1))
            progress.advance(task)
    if pool is not None:
        pool.shutdown()


def result_of(name: str) -> Path:
    return RESULTS / (re.sub(r"[^\w.-]", "_", name) + ".json")


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


def page() -> str:
    """docs/survey.md, from the results that are there."""
    import torch

    rows = [(entry, json.loads(result_of(n).read_text())) for n, entry in ENTRIES.items() if result_of(n).exists()]
    lines = [
        "# SE into every network: a survey",
        "",
        f"`make survey` made this page: torch {torch.__version__}, Python {platform.python_version()}, "
        f"{os.cpu_count()} CPU cores. Random weights; every network checked for everything that insertion promises.",
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


def done(name: str, *, quick: bool) -> bool:
    """Whether there is a result, and one as full as is wanted."""
    if not result_of(name).exists():
        return False
    result = json.loads(result_of(name).read_text())
    return quick or "sites" not in result or "compile" in result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="*", help="pattern on the names, such as 'timm:*' or '*resnet*'")
    parser.add_argument("--fresh", action="store_true", help="do again what is done")
    parser.add_argument("--quick", action="store_true", help="leave out export and compile, to be done another time")
    parser.add_argument("--page", action="store_true", help="write the page from the results that are there")
    options = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    names = [name for name in ENTRIES if fnmatch(name, f"*{options.only}*")]
    if options.quick:
        os.environ[QUICK] = "1"
    if not options.page:
        run([name for name in names if options.fresh or not done(name, quick=options.quick)])
    PAGE.write_text(page())
    for name in names:
        if result_of(name).exists() and (why := verdict(ENTRIES[name], json.loads(result_of(name).read_text()))):
            print(f"{name}: {why}")
    print(f"{PAGE} written")


if __name__ == "__main__":
    main()
