"""Insert SE into a network, prove that its output is unchanged, and remove SE again."""

from __future__ import annotations

import collections
import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_structure

from senet.block import SEBlock, SESpec
from senet.block.made import MadeBlock, MadeSpec, Make, block_spec
from senet.errors import InsertionError, warn
from senet.insertion.joining.attach import attach, attached, check_detachable, detach, detach_all
from senet.insertion.joining.constant import Passing
from senet.insertion.joining.fold import check_unfoldable, unfold
from senet.insertion.joining.start import squeezed_means, start_on_example
from senet.insertion.joining.trial import check_apart, parts_of, trying
from senet.insertion.reading.dataflow import Dataflow, record
from senet.insertion.recognise import InlineSE, blocks, is_se, squeezed_values
from senet.insertion.rules.choose import find
from senet.insertion.rules.site import Site, Where, select
from senet.insertion.staying.record import records
from senet.running import before_calls, check_module, copy_of, meant, sets_mode, tensors_in, untouched

__all__ = ["insert", "inserted", "remove", "sites"]

_ROUNDING = 1e-4  # a smaller difference of outputs may come from another order of the same arithmetic
Block = TypeVar("Block", bound=nn.Module)


@torch.inference_mode(False)  # within it operations would show whole, and new parameters could never learn
def sites(model: nn.Module, example: Any, *, placement: str = "standard") -> list[Site]:
    """List where SE can go in `model`, and why. The model, its modes, buffers and the random state stay unchanged.

    Args:
        model: any network with residual, aggregated, shuffled, dense or plain convolutional units.
            `Site.rule` says which.
        example: the network's input: a tensor, a tuple of positional arguments or a dict of keyword
            arguments. One sample is enough.
        placement: one of the paper's placements (figure 5): "standard", "pre", "post", "identity"
            or "inner".

    Returns:
        The sites in the order in which the network reaches them.

    Raises:
        InsertionError: there is no site, and the places examined are listed; the network does not
            run on the example; or it is wrapped or compiled.
    """
    SESpec(placement=placement)  # checks the name
    return _analyse(model, example, placement)[0]


@torch.inference_mode(False)
def insert(
    model: nn.Module,
    example: Any,
    spec: SESpec | MadeSpec | None = None,
    *,
    where: Where = None,
    inplace: bool = False,
    make: Make | None = None,
) -> nn.Module:
    """Insert SE into `model` (section 3 of the paper); by default its output stays exactly the same.

    Every old parameter keeps its value and its key; the new ones are `<module>.se.*`. The network
    runs on the example without gradients: before and after in eval mode, and for the identity start
    once more in training mode.

    With `make`, another block replaces SE: a `MadeBlock`, x + α · (f(x) − x), where `make` returns
    f. Each block learns its α, which is 0 at first. If f itself is the identity at first, α = 0
    would stop all gradients, so α is 1 there. With `start="paper"` the block is f alone, as its
    authors define it. Each block is tried on the example in eval and training mode.

    Args:
        model: any network in which `sites` finds a site, pretrained or not, on any device.
        example: what the network takes: a tensor, a tuple of positional arguments or a dict of
            keyword arguments.
        spec: the kind of block and its placement. `start=None` means the identity start: every gate
            is exactly 1 at first. With `make` only placement and start apply, and any other option
            is refused.
        where: the sites to use of those that `sites` lists: an fnmatch pattern on the name, a list
            of names or patterns, or a predicate on a Site. None means all.
        inplace: change `model` itself, not a copy.
        make: a callable from a number of channels to a new `nn.Module`; the name of one of timm's
            attention modules ("eca", "cbam"; "se" is ours); or "path/net.py:function", whose file
            is executed.

    Returns:
        The network with SE: a copy, or `model` itself. Modes are kept, and new parameters are trainable.

    Raises:
        InsertionError: there is no site; `where` matches none; the network already holds SE there,
            does not run on the example, is wrapped or compiled, or fails the proof; or a made block
            cannot be used. `model` is unchanged.
        ValueError: an identity start with a gate that is 0 at 0 (tanh, relu), or an option of SE
            together with `make`.
    """
    spec = block_spec(spec, make)
    start = spec.resolved_start("identity")
    if isinstance(spec, MadeSpec):
        spec = dataclasses.replace(spec, start=start)
        _check_maker_is_one(model, spec)
    found, flow = _analyse(model, example, spec.placement)
    chosen = select(found, where)
    target = model if inplace else copy_of(model)
    network = parts_of(target)
    joined: list[Site] = []
    try:
        with torch.random.fork_rng(devices=[]):
            for site in chosen:
                block = attach(target, site, spec, around=_around(flow, site), dims=_dims(flow, site))
                joined.append(site)
                if start == "identity" and isinstance(block, SEBlock):
                    block.start_as_identity()
        check_apart(_joined(target, chosen, MadeBlock), network | parts_of(model) if target is not model else network)
        _prove(target, example, flow, chosen, start)
    except BaseException:
        if inplace:
            for name in reversed([name for name, _, _ in attached(target) if name in {site.name for site in joined}]):
                detach(target, name)
        raise
    return target


def remove(model: nn.Module, *, inplace: bool = False, everything: bool = False, example: Any = None) -> nn.Module:
    """Remove inserted SE: the result is the plain network, bit for bit, without what the gates learnt.

    Inserted SE leaves no trace, and a factor that `fold_start` put into the weights is taken out,
    unless the network was saved and loaded since: no file has a mark of it. If the network holds no
    inserted SE, or with `everything`, the SE that it was built with is removed too: each such block
    becomes an `nn.Identity`.

    Args:
        model: a network with SE.
        inplace: change `model` itself, not a copy.
        everything: remove both inserted SE and SE that the network was built with.
        example: the network's input. A run on it finds SE written into a module's forward, which
            cannot be removed.

    Raises:
        InsertionError: the class of a module was changed after SE was joined to it, a module was
            exchanged after `fold_start`, or the example shows SE that cannot be removed. `model`
            is unchanged.
    """
    check_module(model)
    joined = [(name, found.site) for name, _, found in attached(model)]
    ours = bool(joined) or next(records(model), None) is not None  # which was lost since
    if example is not None and (everything or not ours):
        for block in blocks(model, example).values():
            if isinstance(block, InlineSE):
                raise InsertionError(block.refusal())
    for name, site in joined:
        check_detachable(model, name, site)
    check_unfoldable(model)
    target = model if inplace else copy_of(model)
    parts = dict(target.named_modules())
    unfold(target)
    detach_all(target)
    if ours and not everything:
        return target
    # `model` is asked, because what a run has shown of its modules is not known of their copies.
    built_in = {parts[name] for name, module in model.named_modules() if is_se(module)}
    for parent in list(target.modules()):
        for child, module in list(parent._modules.items()):
            if module is not None and module in built_in:
                more = len(inspect.signature(module.forward).parameters) > 1
                setattr(parent, child, (Passing() if more else nn.Identity()).train(module.training))
    return target


def inserted(model: nn.Module) -> dict[str, tuple[Site, SESpec | MadeSpec]]:
    """The blocks that `insert` put into `model`: site and kind of block, by the site's name."""
    return {name: (found.site, found.spec) for name, _, found in attached(model)}


def _analyse(model: nn.Module, example: Any, placement: str) -> tuple[list[Site], Dataflow]:
    _check_network(model)
    with untouched(model):
        flow = record(model, example)
    squeezed = squeezed_values(flow)
    try:
        return find(flow, placement, squeezed, type(model).__name__), flow
    except InsertionError as error:
        makers = sorted({f"make={call.module.maker}" for call in flow.calls if isinstance(call.module, MadeBlock)})
        if not makers:
            raise
        raise InsertionError(f"{error}. Blocks of {', '.join(makers)} count as SE here") from None


def _around(flow: Dataflow, site: Site) -> tuple[str, ...]:
    """Enclosing modules that return the same value as the site's module in every run, innermost first."""
    if site.position != "output":
        return ()
    calls = [call for call in flow.calls if call.name == site.name]
    outer: list[list[str]] = []
    for call in calls:
        same = flow.calls_returning.get(call.outputs[0], []) if len(call.outputs) == 1 else []
        outer.append([each.name for each in same if each.first <= call.first and call.end <= each.end])
    names = outer[0] if outer else []
    runs = collections.Counter(call.name for call in flow.calls)
    return tuple(
        name
        for name in names
        if name
        and site.name.startswith(f"{name}.")
        and all(name in each for each in outer)
        and runs[name] == len(calls)
    )


def _dims(flow: Dataflow, site: Site) -> int:
    """The fewest dimensions of the maps that SE at a site is given in the run."""
    calls = [call.inputs if site.position == "input" else call.outputs for call in flow.calls if call.name == site.name]
    return min((len(flow.values[values[0]].shape) for values in calls if values), default=0)


def _check_network(model: nn.Module) -> None:
    check_module(model)
    if not sets_mode(model):
        raise InsertionError(f"the `train` of {type(model).__name__} sets no mode, so it is not one{meant(model)}")
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise InsertionError(
            f"the network is wrapped in {type(model).__name__}: insert into `model.module`, and wrap the result"
        )
    for name, module in model.named_modules():
        at = f"{name} ({type(module).__name__})" if name else type(module).__name__
        if isinstance(getattr(module, "_orig_mod", None), nn.Module) or module._compiled_call_impl is not None:
            raise InsertionError(f"{at} is compiled: insert before torch.compile, and compile what insert returns")
        sharded = any(kind.__module__.startswith("torch.distributed.fsdp") for kind in type(module).__mro__)
        if sharded or isinstance(module, nn.parallel.DistributedDataParallel):
            raise InsertionError(f"{at} would leave SE out when it synchronises its processes: insert before wrapping")
        if isinstance(module, torch.jit.ScriptModule) and not name:
            raise InsertionError(f"{at} is a scripted network, whose modules cannot change: insert before scripting")
        if any(isinstance(p, nn.UninitializedParameter) for p in module._parameters.values()):
            raise InsertionError(f"{at} is lazy and has no parameters yet: run the network once before inserting")
        if any(p is not None and p.is_meta for p in module._parameters.values()):
            raise InsertionError(f"{at} is on the meta device and has no values: materialise the network first")


def _check_maker_is_one(model: nn.Module, spec: MadeSpec) -> None:
    """Refuse a maker with the name of another whose blocks the network holds: a saved file knows makers by name."""
    content = spec.content()
    for name, module, at in attached(model):
        block = module.get_submodule(at.child)
        if isinstance(block, MadeBlock) and block.maker == spec.name and block.made_with not in ("", content):
            raise InsertionError(
                f"the block at {name} was made by another make={spec.name}, and a saved file tells makers apart by "
                f"name: give this one a name of its own, with def"
            )


def _prove(model: nn.Module, example: Any, plain: Dataflow, chosen: list[Site], start: str) -> None:
    """Run the network with SE, compare it with the plain run, and sign the first layers by what they squeeze.

    Raises:
        InsertionError: an SE block ran more or less often than its module, its result is not used,
            or the identity start's output differs from the plain network's.
    """
    made, ours = _joined(model, chosen, MadeBlock), _joined(model, chosen, SEBlock)
    new = {**ours, **made}
    with squeezed_means(new) as seen, trying(made) as same, _views_given_to(new) as views, untouched(model):
        after = record(model, example)
    calls = {call.name: len(plain.calls_of[call.module]) for call in plain.calls}
    for name, means in seen.items():
        if len(means) != calls[name]:
            raise InsertionError(
                f"the SE joined to {name} ran {len(means)} times where the module ran {calls[name]}: something "
                f"passes it by, or takes it for a layer of its own. Leave it out with `where`"
            )
    idle = _used(plain) - _used(after)
    for site in chosen:
        if site.position != "input" and site.name in idle:
            raise InsertionError(
                f"SE joined to {site.name} would do nothing: the network uses what that module writes in place, not "
                f"what it returns. Leave it out with `where`"
            )
    if start != "identity":
        return
    difference = largest_difference(plain.output, after.output)
    before = [site.name for site in chosen if site.name in views and site.position == "input"]
    if 0 < difference < _ROUNDING and before and len(before) < len(chosen):
        for name in before:
            detach(model, name)
        warn(
            f"no SE goes before {', '.join(before)}: it is given a view of a larger tensor, which it rounds otherwise "
            f"than the whole tensor that SE returns (by {difference:.2g})"
        )
        _prove(model, example, plain, [site for site in chosen if site.name not in before], start)
        return
    if difference != 0:
        raise InsertionError(
            f"with SE at its identity start the network's output differs by {difference:.3g} from the plain network's "
            f"on the example: it does not compute the same twice, or one of {', '.join(list(seen)[:5])} is used in a "
            f"way that SE changes"
        )
    if ours:
        start_on_example(model, example, {site.name: site for site in chosen}, ours, seen)
    for name, block in made.items():
        # If f(x) = x and α = 0, neither gets a gradient, and the block would stay the identity for
        # ever.
        if same[name]:
            nn.init.ones_(block.alpha)


def _used(flow: Dataflow) -> set[str]:
    """The modules that returned a value which another operation took, or the network returned."""
    returned = {value for call in flow.calls if not call.name for value in call.outputs}
    return {call.name for call in flow.calls if any(v in returned or flow.consumers[v] for v in call.outputs)}


def _joined(model: nn.Module, chosen: list[Site], kind: type[Block]) -> dict[str, Block]:
    """The blocks of class `kind` joined at the sites, by the sites' names."""
    names = {site.name for site in chosen}
    found = ((name, module.get_submodule(at.child)) for name, module, at in attached(model) if name in names)
    return {name: block for name, block in found if isinstance(block, kind)}


@contextmanager
def _views_given_to(blocks: Mapping[str, nn.Module]) -> Iterator[set[str]]:
    """A context that yields the names of blocks whose input has gaps between its values in memory."""
    views: set[str] = set()

    def look(name: str, args: tuple[Tensor, ...], _kwargs: Any) -> None:
        if torch.empty_like(args[0]).stride() != args[0].stride():
            views.add(name)

    with before_calls(blocks, look):
        yield views


def largest_difference(expected: Any, given: Any) -> float:
    """The largest absolute difference between the tensors of two outputs: 0 if they are equal bit for bit, NaN for NaN.

    Infinity if their structure, shapes or dtypes differ. Contents that are no tensors are not compared.
    """
    ours, theirs = tensors_in(expected), tensors_in(given)
    if tree_structure(expected) != tree_structure(given) or len(ours) != len(theirs):
        return float("inf")
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return float("inf")
        if torch.equal(a, b) or a.numel() == 0:
            continue
        if not a.is_floating_point():
            return float("inf")
        a, b = a.cpu().double(), b.cpu().double()
        gap = torch.where((a == b) | (a.isnan() & b.isnan()), 0, (a - b).abs())
        worst = max(worst, float(gap.nan_to_num(float("inf")).max()))
    return worst
