"""Loads a state dict all-or-nothing; reports adapted, missing and unexpected tensors."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.errors import WeightsError, counted, listed, nearest

WARNING = "Warning: "
LISTED = 10  # names in a message


@runtime_checkable
class SupportsCarriedState(Protocol):
    """A module whose tensors fit a state dict with other keys."""

    def carried_state(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str] | None:
        """Returns a state dict of this module, and how it was changed; None: as it is."""


class Adapted(NamedTuple):
    """A tensor that was adapted to the module's shape, and how."""

    name: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    how: str


@dataclass
class StateDictMatch:
    """The match of a state dict and a module; `write` loads it.

    tensors: the tensors by the module's keys, in its shapes. ignored_keys: keys of the checkpoint that are not loaded,
    with the reason. initialised: keys of the module that keep their initial values, with the reason. zeros: biases that
    the checkpoint lacks, set to zeros, with the reason. missing, unexpected: keys that were allowed to be missing or
    unexpected. notes: further remarks, one sentence each; loading always shows remarks that begin with "Warning:".
    """

    source: str
    module: nn.Module
    tensors: dict[str, Tensor] = field(default_factory=dict)
    adapted: list[Adapted] = field(default_factory=list)
    ignored_keys: dict[str, str] = field(default_factory=dict)
    initialised: dict[str, str] = field(default_factory=dict)
    zeros: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def loaded(self) -> int:
        """The number of tensors loaded unchanged."""
        return len(self.tensors) - len({change.name for change in self.adapted}) - len(self.zeros)

    @property
    def warnings(self) -> list[str]:
        """The notes that begin with "Warning:", without this word."""
        return [note.removeprefix(WARNING) for note in self.notes if note.startswith(WARNING)]

    def write(self) -> None:
        """Loads the tensors into the module. `tensors` become the module's, so that the originals are freed."""
        self.module.load_state_dict(self.tensors, strict=False)
        tensors = self.module.state_dict()
        self.tensors = {name: tensors[name] for name in self.tensors}


def load_state(module: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> StateDictMatch:
    """Loads `state` into `module`; see `fit`."""
    match = fit(module, state, source)
    match.write()
    return match


def fit(
    module: nn.Module,
    state: Mapping[str, Tensor],
    source: str | Path,
    allowed: Iterable[str] = (),
    excluded: Mapping[str, str] | None = None,
) -> StateDictMatch:
    """Matches the tensors of `state` and of the module by name; `StateDictMatch.write` then loads them.

    source: the name of the checkpoint, for messages. allowed: patterns (`head.*`) of keys that may be missing,
    unexpected or of a shape that does not fit. excluded: keys of the module that keep their values, with the reason.
    Adapts a tensor of another shape where possible: by the method `carried_over(name, tensor)` of its submodule, which
    returns the tensor and how it was adapted, as for position tables and queries; for a convolution on RGB images, by
    resizing the kernel and by expanding a grey-scale kernel to three channels. `carried_state(state)` of a submodule
    returns its state dict with other tensors, as for groups of queries, and how, or None. Raises WeightsError, naming
    the keys, for other differences; warns of NaN and infinity, and of an adaptation whose text begins with "Warning:".
    """
    tensors, excluded, patterns = module.state_dict(), excluded or {}, list(allowed)
    match = StateDictMatch(str(source), module)
    state = _carried_state(module, state, match)
    misshapen: list[str] = []
    _check_types({name: state[name] for name in tensors if name in state and name not in excluded}, tensors, source)

    def may(name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in patterns)

    for name, value in tensors.items():
        if name in excluded:
            (match.ignored_keys if name in state else match.initialised)[name] = excluded[name]
        elif name not in state:
            if not _counts_batches(name):
                match.missing.append(name)
        elif state[name].shape == value.shape:
            match.tensors[name] = state[name]
        elif (adapted := _adapted(module, name, state[name], value)) is not None:
            match.tensors[name], stated = adapted
            how = stated.removeprefix(WARNING)
            match.adapted.append(Adapted(name, tuple(state[name].shape), tuple(value.shape), how))
            match.notes += [f"{WARNING}{name}: {how}."] if how != stated else []
        elif may(name):
            match.ignored_keys[name] = (
                f"another shape, {shown(state[name].shape)} for {shown(value.shape)}, which is allowed"
            )
        else:
            misshapen.append(name)
    match.unexpected = [name for name in state if name not in tensors and not _counts_batches(name)]

    problems = []
    missing, unexpected = ([name for name in names if not may(name)] for names in (match.missing, match.unexpected))
    if missing:
        problems.append(f"{len(missing)} tensors are missing ({listed(missing, LISTED)})")
    if unexpected:
        problems.append(
            f"{len(unexpected)} are unexpected ({listed(unexpected, LISTED)}){nearest(unexpected[0], missing)}"
        )
    if misshapen:
        name = misshapen[0]
        shapes = f"{name} is {tuple(state[name].shape)}, expected {tuple(tensors[name].shape)}"
        problems.append(f"{len(misshapen)} have another shape ({shapes})")
    if problems:
        section = match.source.partition("weights: ")[0] if "weights: " in match.source else ""
        raise WeightsError(
            f"{source} does not fit: {'; '.join(problems)}. Use the config it was trained with, or other weights; "
            f"allow intended differences by name, {section}allow_mismatch=[PATTERN, ...]."
        )
    broken = [
        name
        for name, x in match.tensors.items()
        if not (x.float().sum().isfinite() or x.float().isfinite().all())  # the sum is fast, and seldom overflows
        and tensors[name].isfinite().all()  # unlike a mask's, which the module fills with -inf
    ]
    if broken:
        warnings.warn(
            f"{source}: {len(broken)} of {counted(len(match.tensors), 'tensor')} have NaN or infinite values "
            f"({listed(broken, LISTED)}): outputs will not be finite. Fix: use a checkpoint without them.",
            stacklevel=2,
        )
    return match


def _check_types(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str | Path) -> None:
    """Raises WeightsError for integer, complex and sparse tensors where the module has floating-point ones."""
    for name, tensor in state.items():
        dtype = tensor.dtype if tensor.layout is torch.strided else tensor.layout
        if expected[name].is_floating_point() and not (tensor.is_floating_point() and dtype is tensor.dtype):
            raise WeightsError(
                f"{source} does not fit: {name} is {dtype}; dense floating point is expected. "
                "Save the weights as float32, for a quantised model before quantisation."
            )


def resize_kernel(kernel: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes a patch projection (O, I, h, w) to another patch size, (O, I, *size).

    The pseudo-inverse resize of FlexiViT (Beyer et al. 2023, section 3.4): if patches grow, a patch resized bilinearly
    without antialiasing gives the same token; if they shrink, the nearest token. Plain interpolation of kernels,
    bicubic in most code, changes the norm of tokens.
    """
    resized = kernel.double()
    for axis, new in zip((2, 3), size, strict=True):
        old = kernel.shape[axis]
        pixels = torch.eye(old, dtype=torch.float64, device=kernel.device)[None]
        enlarging = F.interpolate(pixels, size=new, mode="linear", align_corners=False)[0]  # (old, new)
        resized = (resized.transpose(axis, 3) @ torch.linalg.pinv(enlarging).T).transpose(axis, 3)
    return resized.to(kernel.dtype)


def shown(shape: Iterable[int]) -> str:
    """The shape as text: 14 x 14 x 768."""
    return " x ".join(map(str, shape)) or "a number"


def _carried_state(module: nn.Module, state: Mapping[str, Tensor], match: StateDictMatch) -> Mapping[str, Tensor]:
    """The state with the changes of `carried_state` of submodules, which it notes."""
    for path, owner in module.named_modules():
        if not isinstance(owner, SupportsCarriedState):
            continue
        prefix = path and f"{path}."
        part = {key.removeprefix(prefix): x for key, x in state.items() if key.startswith(prefix)}
        if (carried := owner.carried_state(part)) is not None:
            remaining = {key: x for key, x in state.items() if not key.startswith(prefix)}
            state = remaining | {f"{prefix}{key}": x for key, x in carried[0].items()}
            match.notes.append(f"{carried[1].replace(WARNING, f'{WARNING}{path or type(owner).__name__}: ')}.")
    return state


def _adapted(module: nn.Module, name: str, tensor: Tensor, value: Tensor) -> tuple[Tensor, str] | None:
    """The tensor adapted to the shape of `value`, and how; None if it cannot be adapted."""
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    if tensor.ndim != value.ndim:
        return None
    carry = cast(Callable[[str, Tensor], tuple[Tensor, str] | None] | None, getattr(owner, "carried_over", None))
    if carry is not None:
        carried = carry(leaf, tensor)
        return carried if carried is not None and carried[0].shape == value.shape else None
    if not isinstance(owner, nn.Conv2d) or leaf != "weight" or tensor.shape[0] != value.shape[0]:
        return None
    first = next(layer for layer in module.modules() if isinstance(layer, nn.Conv2d))
    is_patches = owner is first and owner.kernel_size == owner.stride != (1, 1) and tensor.shape[1] == value.shape[1]
    if not is_patches and not (value.shape[1] == 3 and tensor.shape[1] in (1, 3)):
        return None
    how = []
    if tensor.shape[1] < value.shape[1]:  # the same output for a grey-scale image repeated over three channels
        tensor = tensor.expand(-1, 3, -1, -1) / 3
        how.append("grey-scale kernel expanded to RGB")
    if tensor.shape[2:] != value.shape[2:]:
        tensor = resize_kernel(tensor, (value.shape[2], value.shape[3]))
        how.append("patch kernel resized")
    return tensor, ", ".join(how)


def _counts_batches(name: str) -> bool:
    """Whether a key is batch norm's counter, which frozen norms lack and inference ignores."""
    return name.rpartition(".")[2] == "num_batches_tracked"
