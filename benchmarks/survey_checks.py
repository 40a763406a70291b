"""What the survey asks of one network: SE inserted, and the result held against everything that insertion promises."""

from __future__ import annotations

import copy
import os
import re
import time
import warnings

from networks import Entry

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

    from senet.fused.switch import fuse_any_size, watching
    from senet.insertion import as_call, largest_difference

    def double(x):
        return x.double() if x.is_floating_point() else x

    args, kwargs = tree_map_only(torch.Tensor, double, as_call(entry.training_example()))
    blocks, outputs = set(), []
    try:
        for model in (plain, se):
            model = copy.deepcopy(model).double().train()
            torch.manual_seed(0)
            with torch.no_grad(), fuse_any_size(), watching(lambda block, _: blocks.add(block)):
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
