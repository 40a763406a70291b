"""Try made blocks once, on the inputs that the network gives them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from senet.block.made import MadeBlock, in_words
from senet.errors import InsertionError, SenetError

__all__ = ["check_apart", "parts_of", "trying"]


@contextmanager
def trying(blocks: Mapping[str, MadeBlock]) -> Iterator[dict[str, bool]]:
    """A context in which each call of a made block is a trial, in eval and training mode, on the block's input.

    The caller restores buffers, modes and random state, as `untouched` does.

    Yields:
        For each block, by the name of its module, whether f was the identity in every trial.

    Raises:
        InsertionError: when the network runs, a block fails or cannot be used.
    """
    same = dict.fromkeys(blocks, True)
    # Copy plain attributes too: a module may store its input or count its calls.
    before = [(part, dict(part.__dict__)) for block in blocks.values() for part in block.modules()]
    for name, block in blocks.items():
        block.__dict__["forward"] = functools.partial(_tried, name, block, same)
    try:
        yield same
    finally:
        for part, attributes in before:
            part.__dict__.clear()
            part.__dict__.update(attributes)


def parts_of(module: nn.Module) -> set[int]:
    """The `id`s of the modules and parameters of `module`."""
    return {id(part) for part in (*module.modules(), *module.parameters())}


def check_apart(blocks: Mapping[str, MadeBlock], network: set[int]) -> None:
    """Refuse blocks that share a module or a parameter with each other, or with the network.

    Args:
        blocks: the blocks, by the name of the module that each is joined to.
        network: the `parts_of` the network without the blocks.

    Raises:
        InsertionError: a part is shared; it is named.
    """
    owner = dict.fromkeys(network, "the network")
    for name, block in blocks.items():
        own = parts_of(block)
        for part in own & owner.keys():
            raise InsertionError(
                f"make={block.maker} returned for {name} a module or parameters that {owner[part]} has already: it "
                f"returns a new module each time"
            )
        owner |= dict.fromkeys(own, name)


def _tried(name: str, block: MadeBlock, same: dict[str, bool], x: Tensor) -> Tensor:
    at = f"{block.named()} for {name}"
    before = _state(block)
    random = _random_state(x)
    result = _run(name, block, x, "")
    built = f"{at} makes layers as it runs: build them for the {block.channels} channels beforehand"
    if _state(block) != before:
        raise InsertionError(built)
    if any(not torch.equal(one, other) for one, other in zip(random, _random_state(x), strict=True)):
        raise InsertionError(f"{at} draws random numbers in eval mode: a dropout, perhaps, without `self.training`")
    y: Tensor = block.module(x)
    if bool(x.isfinite().all()) and not bool(y.isfinite().all()):
        raise InsertionError(f"{at} gives inf or NaN on the example, in {str(x.dtype).removeprefix('torch.')}")
    # One sample more. Batch normalisation of a 1×1 map needs two, and with N = C a convolution can
    # take a batch for one unbatched map.
    batch = torch.cat([x, x[:1]])
    block.train()
    _run(name, block, batch, " in training mode")
    with torch.enable_grad():
        trained: Tensor = block.module(batch)
    block.eval()
    if not trained.requires_grad and any(parameter.requires_grad for parameter in block.module.parameters()):
        raise InsertionError(f"{at} gives its parameters no gradient: it runs under no_grad, or detaches what it made")
    if _state(block) != before:
        raise InsertionError(built)
    same[name] &= torch.equal(y, x) and torch.equal(trained, batch)
    return result


def _run(name: str, block: MadeBlock, x: Tensor, mode: str) -> Tensor:
    shape = f"a map of {tuple(x.shape)}, of {x.dim() - 2} dimension{'' if x.dim() == 3 else 's'} in space"
    try:
        return MadeBlock.forward(block, x)
    except SenetError as error:
        raise InsertionError(f"{name}: {error}") from error
    except Exception as error:  # whatever a person's own module raises
        raise InsertionError(f"{block.named()} for {name} raised, on {shape}{mode}, {in_words(error)}") from error


def _state(block: nn.Module) -> dict[str, int]:
    return {name: id(part) for name, part in (*block.named_parameters(), *block.named_modules())}


def _random_state(x: Tensor) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(x.device)] if x.is_cuda else states
