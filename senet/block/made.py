"""Any module as the block: x + α · (f(x) − x), with one learnt α that is 0 at first.

The user's `make` returns f for a number of channels; senet writes none of these modules. This file
makes them, checks them, and mixes them in, so that the network's output is unchanged at first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from senet.block import SESpec
from senet.block.equations import cast_to, compute_dtype, is_jit_tracing
from senet.errors import InputError, InputTypeError, InsertionError, MissingPackageError, ModelError, StudyError
from senet.extras import extra
from senet.files.code_digest import digest_of_code
from senet.files.own_code import function_in, importing_from, raised_at
from senet.files.paths import expanded
from senet.files.run_folder import digest_of
from senet.words import did_you_mean, kind_of, lasting_repr, with_article

__all__ = [
    "MadeBlock",
    "MadeSpec",
    "Make",
    "block_in",
    "block_settings",
    "block_spec",
    "check_maker",
    "check_portable",
    "in_words",
    "known_maker",
    "made_by",
    "short_name",
]

Make = str | Callable[[int], nn.Module]
"""A maker of blocks: a callable from a number of channels to a module, a name of timm's, or "path/net.py:function"."""

_TIMM = (
    "se ese eca ecam ceca ge gc gca cbam lcbam coord scoord ela strip sk splat lambda bottleneck halo nl bat".split()
)
for _name in ("cast_to", "compute_dtype"):  # leaves in a symbolic trace
    torch.fx.wrap(_name)
_BLOCK = tuple(field.name for field in dataclasses.fields(SESpec) if field.name not in ("placement", "start"))


class MadeBlock(nn.Module):
    """A module f as the block: x + α · (f(x) − x), or f(x) alone with `start="paper"`.

    Shapes: (N, C, *space) -> (N, C, *space), in the dtype and on the device of x.

    Args:
        module: f; it returns a map of its input's shape and does not change its input.
        channels: C.
        maker: the maker's name.
        start: "identity": α is learnt and is 0 at first. "paper": the block is f alone, with α fixed at 1.
        device: α's device.
        dtype: α's dtype.

    Attributes:
        module: f.
        alpha: α, (1,): a parameter, or a buffer with `start="paper"`.
        made_with: the maker's name and a digest of its code, from `MadeSpec.content`; "" if unknown.

    Raises:
        ValueError: f returns another shape, or writes into its input.
        TypeError: f returns no floating-point tensor.
    """

    alpha: Tensor
    made_with = ""

    def __init__(
        self,
        module: nn.Module,
        channels: int,
        maker: str = "",
        *,
        start: str = "identity",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels, self.maker, self.mixes = channels, maker, start == "identity"
        self.module = module
        # Shape (1,), because FullyShardedDataParallel refuses scalar parameters.
        alpha = torch.full((1,), 0.0 if self.mixes else 1.0, device=device, dtype=dtype)
        if self.mixes:
            self.alpha = nn.Parameter(alpha)
        else:
            self.register_buffer("alpha", alpha)

    def forward(self, x: Tensor) -> Tensor:
        """`x` + α · (f(`x`) − `x`). Shapes: (N, C, *space) -> (N, C, *space)."""
        watching = isinstance(x, Tensor) and not (torch.compiler.is_compiling() or is_jit_tracing())
        version = x._version if watching and not x.is_inference() else 0
        y: Tensor = self.module(x)
        if watching:
            self._check(x, y, 0 if x.is_inference() else x._version - version)
        if not self.mixes:
            return cast_to(y, x.dtype)
        # In half precision f(x) − x can overflow, and 0 · inf is NaN.
        dtype = compute_dtype(x, self.alpha)
        wide = cast_to(x, dtype)
        return cast_to(wide + cast_to(self.alpha, dtype) * (cast_to(y, dtype) - wide), x.dtype)

    def _check(self, x: Tensor, y: object, writes: int) -> None:
        if not isinstance(y, Tensor) or not y.is_floating_point():
            given = str(y.dtype).removeprefix("torch.") + " tensor" if isinstance(y, Tensor) else type(y).__name__
            raise InputTypeError(
                f"{self.named()} returns {with_article(given)}, and a block returns a floating-point map"
            )
        if y.shape != x.shape:
            raise InputError(
                f"{self.named()} returns {tuple(y.shape)} for a map of {tuple(x.shape)}, and a block returns a map of "
                f"the shape that it is given"
            )
        if y.device != x.device:
            raise InputError(f"{self.named()} returns a map on {y.device} for one on {x.device}")
        if writes:
            raise InputError(
                f"{self.named()} writes into its input, which others read too: use operations that are not in place"
            )

    def named(self) -> str:
        """The block's name in a message: its module and its maker."""
        return f"the {type(self.module).__name__} of make={self.maker}"

    def extra_repr(self) -> str:
        """Channels, maker and α, for `print(model)`."""
        return f"{self.channels}, make={self.maker!r}, alpha={'learnt' if self.mixes else '1'}"


@dataclasses.dataclass(frozen=True)
class MadeSpec:
    """The kind of made block and its placement: the counterpart of `SESpec`.

    Attributes:
        name: the maker's name, from `made_by`.
        placement: one of the paper's placements.
        start: "identity", "paper", or None: identity when inserting, paper when a network is created.
        module: the name of the made module's class, once there is one.
        maker: the maker; None in a network that holds the block, and when read from a file.
    """

    name: str
    placement: str = "standard"
    start: str | None = None
    module: str = ""
    maker: Callable[[int], nn.Module] | None = dataclasses.field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        SESpec(placement=self.placement, start=self.start)  # checks both

    def resolved_start(self, default: str) -> str:
        """`start`, or `default` where none was asked for."""
        return self.start or default

    @property
    def typed(self) -> bool:
        """Whether its name, typed in a command, makes the same block."""
        return isinstance(self.maker, functools.partial) and self.maker.func in (_by_timm, _from_file)

    def flags(self) -> dict[str, Any]:
        """The command's flags for it; a maker that exists only in Python stands in place of the name."""
        start = {} if self.start is None else {"start": self.start}
        placement = {} if self.placement == "standard" else {"placement": self.placement}
        return {"make": self.name if self.typed else self.maker, **placement, **start}

    def to_json(self) -> dict[str, Any]:
        """Its description in a file: only names."""
        fields = {"make": self.name, "placement": self.placement, "start": self.start}
        return {**fields, "module": self.module} if self.module else fields

    def of(self, block: nn.Module) -> MadeSpec:
        """The spec of a block in a network, without its maker, which might not pickle."""
        module = type(block.module).__name__ if isinstance(block, MadeBlock) else ""
        return dataclasses.replace(self, module=module, maker=None)

    def content(self) -> str:
        """The identity of the blocks: the name without folders, and a digest of the maker's code if it is readable."""
        digest = ""
        if known_maker(self.name) is None and self.typed:
            digest = digest_of(self.name) or ""
        elif self.maker is not None and not self.typed:
            with contextlib.suppress(StudyError):
                digest = digest_of_code(self.maker)
        return f"{short_name(self.name)} {digest}".strip()

    def block(
        self, channels: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> MadeBlock:
        """A new block for `channels` channels.

        Raises:
            InsertionError: there is no maker, it fails, or it returns no usable module.
            ModelError: there is no such file or function.
            MissingPackageError: timm is missing.
        """
        if self.maker is None:
            raise InsertionError(f"a block of make={self.name} cannot be made without the maker: give make=")
        of = f"make={self.name}"
        try:
            with torch.device("cpu"):  # the same weights on every device
                module: object = self.maker(channels)
        except (InsertionError, MissingPackageError, ModelError):
            raise
        except Exception as error:
            raise InsertionError(f"{of} raised {in_words(error)} for {channels} channels") from error
        if not isinstance(module, nn.Module):
            given = f"the class {module.__name__}" if isinstance(module, type) else kind_of(module)
            raise InsertionError(f"{of} returned {given} for {channels} channels; it returns a torch.nn.Module")
        if any(nn.parameter.is_lazy(tensor) for tensor in (*module.parameters(), *module.buffers())):
            raise InsertionError(
                f"{of} returned a module with lazy layers, which have no parameters yet: build them for the "
                f"{channels} channels that make is given"
            )
        module = module.to(device=device, dtype=dtype)
        block = MadeBlock(module, channels, self.name, start=self.start or "identity", device=device, dtype=dtype)
        block.made_with = self.content()
        return block


def block_spec(spec: SESpec | MadeSpec | None, make: Make | None) -> SESpec | MadeSpec:
    """The spec of the blocks to insert: SE, or with `make` a made block, placed and started as `spec` says.

    Raises:
        TypeError: `make` is a module, or neither a string nor callable.
        ValueError: `make` names nothing, or the spec sets an option of SE's own layers.
    """
    if spec is not None and not isinstance(spec, SESpec | MadeSpec):
        raise InputTypeError(f"spec is an SESpec, not {type(spec).__name__}")
    spec = SESpec() if spec is None else spec
    if make is None or make == "se":
        return spec
    name, maker = made_by(make), _resolved(make)
    if isinstance(spec, SESpec):
        usual = SESpec()
        given = [f"{knob}={value!r}" for knob in _BLOCK if (value := getattr(spec, knob)) != getattr(usual, knob)]
        if given:
            raise InputError(
                f"{', '.join(given)} is SE's own, and make={name} makes another block: of the options of SE only "
                f"placement and start go with it"
            )
    return MadeSpec(name, spec.placement, spec.start, maker=maker)


def block_settings(spec: SESpec | MadeSpec) -> dict[str, Any]:
    """The kind of block as a setting of a study, with its code, since a maker may change under one name."""
    if isinstance(spec, SESpec):
        return spec.to_json()
    return {**spec.to_json(), "make": {"name": spec.name, "content": spec.content()}}


def block_in(settings: Mapping[str, Any]) -> str:
    """The name of the block in a study's settings: "SE", or its maker's name."""
    make = settings["se"].get("make")
    return "SE" if make is None else short_name(str(make["name"]))


def made_by(make: Make) -> str:
    """The name of a maker: the string given, or the function's name."""
    if isinstance(make, str):
        return make
    if isinstance(make, functools.partial):
        given = [*map(_value, make.args), *(f"{key}={_value(value)}" for key, value in make.keywords.items())]
        return f"{made_by(make.func)}({', '.join(given)})"
    name: str = getattr(make, "__qualname__", type(make).__qualname__)
    return name.rpartition("<locals>.")[2]


def short_name(name: str) -> str:
    """The name of a maker for a heading, without the file's folders."""
    return name.rpartition("/")[2] if ".py:" in name else name


def _value(value: object) -> str:
    """The representation of an argument; a function or class by its name."""
    return getattr(value, "__qualname__", lasting_repr(value))


def check_maker(spec: SESpec | MadeSpec) -> None:
    """Refuse a missing maker before anything is trained.

    Raises:
        ModelError: there is no such file or function.
        MissingPackageError: timm is missing.
    """
    maker = spec.maker if isinstance(spec, MadeSpec) else None
    if isinstance(maker, functools.partial) and maker.func is _by_timm:
        extra("timm.layers", "timm")
    elif isinstance(maker, functools.partial) and maker.func is _from_file:
        path, function = maker.args
        with importing_from(path.resolve().parent):
            function_in(path, function)


def check_portable(make: Make | None) -> None:
    """Refuse a maker that cannot be passed to the processes of a training.

    Raises:
        ValueError: it does not pickle.
    """
    try:
        pickle.dumps(make)
    except Exception as error:
        raise InputError(
            f"make={made_by(make) if make else make} cannot be given to the processes of several devices: use a "
            f"function at the top of a module, or path/net.py:function"
        ) from error


def _resolved(make: Make) -> Callable[[int], nn.Module]:
    """The callable behind a maker; a file is not run before the callable is called."""
    if isinstance(make, nn.Module):
        raise InputTypeError(
            f"make is called for each place and returns a new module: give a function such as lambda channels: "
            f"{type(make).__name__}(...), not one {type(make).__name__}"
        )
    if callable(make):
        return make
    if not isinstance(make, str):
        raise InputTypeError(
            f"make is a callable from channels to a module, a name of timm's or path/net.py:function, not "
            f"{kind_of(make)}"
        )
    path, colon, function = make.rpartition(":")
    if colon and path.endswith(".py"):
        return functools.partial(_from_file, expanded(path), function)
    if make not in _TIMM:
        raise InputError(
            f"make={make!r} is neither a block of timm's nor path/net.py:function{did_you_mean(make, _TIMM)}"
        )
    return functools.partial(_by_timm, make)


def known_maker(name: str) -> Callable[[int], nn.Module] | None:
    """The maker that a file names, if it is one of timm's. A file never makes us run code that it names."""
    return functools.partial(_by_timm, name) if name in _TIMM and name != "se" else None


def _by_timm(name: str, channels: int) -> nn.Module:
    made: nn.Module = extra("timm.layers", "timm").create_attn(name, channels)
    return made


def _from_file(path: Path, function: str, channels: int) -> nn.Module:
    with importing_from(path.resolve().parent):
        made: nn.Module = function_in(path, function)(channels)
    return made


def in_words(error: Exception) -> str:
    """An error of the user's code in words: its type, message and line."""
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text:.300}{raised_at(error)}"
