"""The verbs on a network itself: sites, insert, check, cost, models."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from senet import flags
from senet.block import SESpec
from senet.block.made import MadeBlock, MadeSpec, short_name
from senet.console import display
from senet.console.streams import tell
from senet.cost.tables import blocks_table, comparison_table
from senet.errors import InputError
from senet.files.atomic import check_writable
from senet.report.table import Table
from senet.running import count_parameters, noise
from senet.verbs.place import Place, is_inserted
from senet.words import counted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from senet.evaluation.networks import NetworkSpec

__all__ = ["Network", "check", "cost", "insert", "models", "sites"]

# Sides by number of dimensions, for networks that state none: at 224³ a network of usual width fills the memory.
_UNKNOWN_SIZES = (224, 224, 64)


@dataclasses.dataclass(frozen=True)
class Network:
    """The flags that select a network and its input."""

    model: str
    weights: str | None = None
    num_classes: int | None = None
    in_channels: int | None = None
    size: int | None = None
    data: str | None = None
    data_root: str | None = None
    make: str | None = None

    def spec(self, block: SESpec | None = None) -> NetworkSpec:
        """The network's spec; `block` is the SE in a state dict that does not describe it."""
        from senet.evaluation.networks import NetworkSpec

        return NetworkSpec(self.model, self.weights, block, make=self.make)

    def flags(self) -> list[str]:
        """The words that select the same network and input in another verb, but for --model and --make."""
        names = ("weights", "num_classes", "in_channels", "size", "data", "data_root")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        return [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]

    def open(self, block: SESpec | None = None) -> nn.Module:
        """Open the network; notes go to standard error."""
        from senet.evaluation.networks import heard, network_of

        with heard() as notes:
            network = network_of(self.spec(block), num_classes=self.num_classes, in_channels=self.in_channels)
        for note in notes:
            tell(note)
        if any(map(nn.parameter.is_lazy, network.parameters())):
            raise InputError(f"{self.model} has lazy layers without values: let its function run the network once")
        return network

    def example(self, network: nn.Module) -> Tensor:
        """A fixed random input for the network."""
        channels, *space = _input_shape(network)
        size = self.size
        if size is None and self.data is not None:
            from senet.data.sources import open_data

            source = open_data(self.data, data_root=self.data_root)
            size = source.native_size if source.small else None
        shape = (1, channels, *(side if size is None else size for side in space))
        like = next((p for p in network.parameters() if p.is_floating_point()), torch.empty(0))
        return noise(*shape).to(like)

    def built(self) -> tuple[nn.Module, Tensor]:
        """The network and an input for it."""
        network = self.open()
        return network, self.example(network)


def sites(network: Network, placement: str = "standard", where: list[str] | None = None) -> None:
    """List where SE can go in a network, and why, without changing anything.

    Examples:
      senet sites --model torchvision:resnet50
      senet sites --model timm:regnetx_004 --where 's4*'
    """
    from senet.insertion import sites as find
    from senet.insertion.rules.site import by_part, select

    found = select(find(*network.built(), placement=placement), where)
    title = f"{block_word(network.make)} can go into {network.model} in {counted(len(found), 'place')}"
    parts = [f"{part}: {counted(len(inside), 'place')}" for part, inside in by_part(found).items()]
    rows = [(site.name, str(site.channels), str(site.stage), site.rule, site.reason) for site in found]
    table = Table.of(title, ("site", "channels", "stage", "rule", "why"), rows, numbers=range(1, 3))
    display.show(table, f"By part: {'; '.join(parts)}.")
    narrow = [site.name for site in found if site.one_hidden_unit]
    if narrow and network.make in (None, "se"):
        display.show(f"One hidden unit at the default reduction ratio, as there are few channels: {', '.join(narrow)}.")


def insert(network: Network, spec: SESpec, out: str, where: list[str] | None = None, force: bool = False) -> None:
    """Insert SE into a network, prove that its output is unchanged, and save it.

    If the weights hold SE without a description, as in a state dict, the flags describe it for the file.

    Examples:
      senet insert --model torchvision:resnet50 --weights pretrained --out se_resnet50.safetensors
      senet insert --model nets.py:build --weights mine.pth --where 'layer3*' 'layer4*' --out se.safetensors
      senet insert --model torchvision:resnet50 --weights pretrained --make eca --out eca_resnet50.safetensors
    """
    from senet.evaluation.networks import holds, how_to_load
    from senet.insertion import blocks, describe, largest_difference, run, untouched
    from senet.insertion import insert as put
    from senet.saving import save

    place = Place(out, force=force, ours=is_inserted)
    plain = network.open(spec)
    if holds(plain, network.spec(spec)):
        if where is not None or network.make not in (None, "se"):
            raise InputError(f"{network.weights} holds SE already, which keeps its sites: leave --where and --make out")
        with place.made() as path:
            save(plain, path, metadata={"inserted": list(blocks(plain))})
        display.show(f"Written: {out}; {how_to_load(plain, out)}")
        return
    example = network.example(plain)
    with_se = put(plain, example, spec, where=where, make=network.make)
    outputs = []
    for each in (plain, with_se):
        with untouched(each):
            outputs.append(run(each, example))
    difference = largest_difference(*outputs)
    held = blocks(plain)
    found = {name: block for name, block in blocks(with_se).items() if name not in held}
    with place.made() as path:
        save(with_se, path, metadata={"inserted": list(found)})

    before, after = plain.state_dict(), with_se.state_dict()
    kept = sum(torch.equal(value, after[key]) for key, value in before.items())
    same = "the same as before, bit for bit" if difference == 0 else "not the same as before"
    display.show(
        _inserted_table(found, f"{block_word(network.make)} is in {network.model}, in {counted(len(found), 'place')}"),
        f"Output on {describe(example)}: {same} (largest difference {difference:.3g}).",
        f"Weights: {kept} of {len(before)} tensors are unchanged; {len(after) - len(before)} are new.",
        f"Written: {out} ({display.bytes_of(place.path.stat().st_size)}); {how_to_load(with_se, out)}",
    )


def check(network: Network) -> int:
    """Report which SE blocks a network holds, which of them run, and which were lost after insertion.

    The exit status is 1 if SE was lost.

    Examples:
      senet check --model nets.py:build
      senet check --model runs/digits/se-0
    """
    from senet.insertion import check as found_in

    found = found_in(*network.built())
    display.show(found.table())
    if found.lost:
        display.show("senet.rejoin(model) joins it again; or put SE in after the network has been changed.")
    return 1 if found.lost else 0


def cost(
    network: Network | None = None,
    spec: SESpec | None = None,
    where: list[str] | None = None,
    latency: bool = False,
    table: bool = False,
    out: str | None = None,
) -> None:
    """Show a network's cost without and with SE: parameters, arithmetic, memory and, on request, time.

    If the network already holds SE, that is counted; otherwise SE is inserted into a copy.

    Examples:
      senet cost --model torchvision:resnet50
      senet cost --model torchvision:resnet50 --reduction-ratio 4 --latency
      senet cost --table --out paper.png
    """
    if table:
        if network is not None or spec is not None or where is not None or latency:
            raise flags.UsageError("senet cost --table counts the paper's networks; beside it there is --out alone")
        _paper_tables(out)
        return
    if network is None:
        raise flags.UsageError("senet cost needs --model, or --table for the paper's networks; see senet cost --help")
    if out is not None:
        raise flags.UsageError("senet cost writes a figure with --table alone: leave --out out, or add --table")
    from senet.cost.cost import cost as count
    from senet.insertion import blocks, inserted, remove
    from senet.insertion import insert as put

    with_se, example = network.built()
    if not blocks(with_se):
        random = dataclasses.replace(spec or SESpec(), start="paper")  # every gate has this start, at the same cost
        with_se = put(with_se, example, random, where=where, make=network.make)
    elif spec is not None or where is not None or _unused(network.make, with_se):
        tell(f"{network.model} holds SE already, which is counted as it is: the flags of SE blocks change nothing here")
    se = count(with_se, example, latency=latency)
    plain = count(remove(with_se, everything=True), example)
    title = f"What {network.model} costs, on {se.example}"
    kinds = {block_word(getattr(kind, "name", None)) for _, kind in inserted(with_se).values()}
    display.show(comparison_table(plain, se, title, " and ".join(sorted(kinds)) or "SE"), blocks_table(se))


def block_word(make: str | None) -> str:
    """The inserted block's name in a title."""
    return "SE" if make in (None, "se") else short_name(str(make))


def _unused(make: str | None, network: nn.Module) -> bool:
    """Whether `--make` is given for a network that holds other blocks, none of which it made."""
    from senet.insertion import inserted

    return make not in (None, "se") and not any(isinstance(kind, MadeSpec) for _, kind in inserted(network).values())


def _paper_tables(out: str | None) -> None:
    """Show the paper's recomputed tables, and write their figure on request."""
    from senet.paper import display as paperdisplay
    from senet.paper.tables import paper_tables

    if out is not None:
        paperdisplay.figure_format(Path(out))  # both before any long work
        check_writable(out)
    tables = paper_tables()
    display.show(*paperdisplay.paper_tables(tables))
    if out is not None:
        paperdisplay.write_figure(tables, Path(out))
        display.show("", f"Written: {out}, the accuracy that the paper reports against these costs.")


def models(pattern: str = "*") -> None:
    """List the networks of the zoo. torchvision:NAME, timm:NAME and path/to/file.py:FUNCTION work as well.

    Examples:
      senet models
      senet models 'se_*'
    """
    from senet.zoo import list_models

    names = list_models(pattern)
    if not names:
        raise InputError(f"no network of the zoo is named like {pattern!r}; there are {', '.join(list_models())}")
    display.show(*names)


def _input_shape(network: nn.Module) -> tuple[int, ...]:
    """Channels and spatial size of the network's input, from its library, else from its first convolution."""
    from senet.zoo.names.naming import origin, resolve
    from senet.zoo.names.sources import Built

    name, options = origin(network)
    known = resolve(name)[0].input_shape(Built(network, options)) if name else None
    if known is not None:
        return known
    for module in network.modules():
        for dimensions, kind in enumerate((nn.Conv1d, nn.Conv2d, nn.Conv3d), start=1):
            if isinstance(module, kind):
                return (module.in_channels, *[_UNKNOWN_SIZES[dimensions - 1]] * dimensions)
    return (3, *_UNKNOWN_SIZES[:2])


def _inserted_table(blocks: Mapping[str, nn.Module], title: str) -> Table:
    """A table of the inserted SE blocks, one row per block."""
    rows = []
    for name, block in blocks.items():
        parameters = display.count(count_parameters(block))
        channels = block.channels if isinstance(block, MadeBlock) else block.in_channels
        rows.append((name, str(channels), str(getattr(block, "width", "–")), parameters))
    return Table.of(title, ("block", "channels", "width", "parameters"), rows, numbers=range(1, 4))
