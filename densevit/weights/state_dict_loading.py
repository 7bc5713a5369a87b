"""Loads a state dict all-or-nothing; reports adapted, missing and unexpected tensors."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.errors import WeightsError, listed, nearest

WARNING = "Warning: "
LISTED = 10  # names in a message


class Adapted(NamedTuple):
    """A tensor that was adapted to the module's shape, and how."""

    name: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    how: str


@dataclass
class Fit:
    """A state dict matched with a module; `write` loads it.

    tensors: the tensors by the module's keys, in its shapes. left_out: keys of the checkpoint that are not loaded, with
    the reason.
    initialised: the keys of the module that keep their initial values, with the reason. zeros: biases that the
    checkpoint lacks and that are set to zeros, with the reason. missing, unexpected: keys that were allowed to be.
    notes: further remarks, a sentence each; those that begin with "Warning:" are shown wherever weights are loaded.
    """

    source: str
    module: nn.Module
    tensors: dict[str, Tensor] = field(default_factory=dict)
    adapted: list[Adapted] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    initialised: dict[str, str] = field(default_factory=dict)
    zeros: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def loaded(self) -> int:
        """The number of tensors that are loaded unchanged."""
        return len(self.tensors) - len({one.name for one in self.adapted}) - len(self.zeros)

    @property
    def warnings(self) -> list[str]:
        """The notes that are warnings, without that word."""
        return [note.removeprefix(WARNING) for note in self.notes if note.startswith(WARNING)]

    def write(self) -> None:
        """Loads the tensors into the module. `tensors` are then the module's own, so that those read are freed."""
        self.module.load_state_dict(self.tensors, strict=False)
        own = self.module.state_dict()
        self.tensors = {name: own[name] for name in self.tensors}


def load_state(module: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> Fit:
    """Loads `state` into `module`; see `fit`."""
    found = fit(module, state, source)
    found.write()
    return found


def fit(
    module: nn.Module,
    state: Mapping[str, Tensor],
    source: str | Path,
    allowed: Iterable[str] = (),
    excluded: Mapping[str, str] | None = None,
) -> Fit:
    """Matches `state` with `module`. Nothing is written.

    allowed: patterns (`head.*`) of keys that may be missing, unexpected or of another shape. excluded: keys of
    the module that keep their values, with the reason.
    A tensor of another shape is adapted where possible: by the method `carried_over(name, tensor)` of its submodule, as
    for position tables; for a convolution on RGB images, by resizing its kernel and by expanding a grey-scale kernel to
    three channels. Raises WeightsError, naming the keys, for other differences.
    """
    own, excluded, patterns = module.state_dict(), excluded or {}, list(allowed)
    found = Fit(str(source), module)
    misshapen: list[str] = []
    _check_types({name: state[name] for name in own if name in state and name not in excluded}, own, source)

    def may(name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in patterns)

    for name, value in own.items():
        if name in excluded:
            (found.left_out if name in state else found.initialised)[name] = excluded[name]
        elif name not in state:
            if not _counts_batches(name):
                found.missing.append(name)
        elif state[name].shape == value.shape:
            found.tensors[name] = state[name]
        elif (adapted := _adapted(module, name, state[name], value)) is not None:
            found.tensors[name], how = adapted
            found.adapted.append(Adapted(name, tuple(state[name].shape), tuple(value.shape), how))
        elif may(name):
            found.left_out[name] = (
                f"another shape, {shown(state[name].shape)} for {shown(value.shape)}, which is allowed"
            )
        else:
            misshapen.append(name)
    found.unexpected = [name for name in state if name not in own and not _counts_batches(name)]

    problems = []
    missing, unexpected = ([name for name in names if not may(name)] for names in (found.missing, found.unexpected))
    if missing:
        problems.append(f"{len(missing)} tensors are missing ({listed(missing, LISTED)})")
    if unexpected:
        problems.append(
            f"{len(unexpected)} are not the model's ({listed(unexpected, LISTED)}){nearest(unexpected[0], missing)}"
        )
    if misshapen:
        name = misshapen[0]
        shapes = f"{name} is {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
        problems.append(f"{len(misshapen)} have another shape ({shapes})")
    if problems:
        key = found.source.partition(": ")[0] if "weights: " in found.source else "weights"
        raise WeightsError(
            f"{source} does not fit: {'; '.join(problems)}. Use the config it was trained with, or other weights; "
            f"allow intended differences by name, {key}_allow=[PATTERN, ...]."
        )
    return found


def _check_types(state: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str | Path) -> None:
    """Raises WeightsError for integer, complex and sparse tensors where the module has floating-point ones."""
    for name, tensor in state.items():
        kind = tensor.dtype if tensor.layout is torch.strided else tensor.layout
        if own[name].is_floating_point() and not (tensor.is_floating_point() and kind is tensor.dtype):
            raise WeightsError(
                f"{source} does not fit: {name} is {kind}; dense floating point is expected. "
                "Save the weights as float32, for a quantised model before quantisation."
            )


def resize_kernel(kernel: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes a patch projection (O, I, h, w) to another patch size, (O, I, *size).

    The pseudo-inverse resize of FlexiViT (Beyer et al. 2023, section 3.4): a patch resized bilinearly without
    antialiasing gives the same token as before if patches grow, and the nearest token if they shrink. Plain
    interpolation of kernels, bicubic in most code, changes the norm of tokens.
    """
    resized = kernel.double()
    for axis, new in zip((2, 3), size, strict=True):
        old = kernel.shape[axis]
        pixels = torch.eye(old, dtype=torch.float64, device=kernel.device)[None]
        enlarging = F.interpolate(pixels, size=new, mode="linear", align_corners=False)[0]  # (old, new)
        resized = (resized.transpose(axis, 3) @ torch.linalg.pinv(enlarging).T).transpose(axis, 3)
    return resized.to(kernel.dtype)


def shown(shape: Iterable[int]) -> str:
    """A shape as text: 14 x 14 x 768."""
    return " x ".join(map(str, shape)) or "a number"


def _adapted(module: nn.Module, name: str, tensor: Tensor, own: Tensor) -> tuple[Tensor, str] | None:
    """The tensor adapted to the shape of `own`, and how; None if that is not possible."""
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    if tensor.ndim != own.ndim:
        return None
    carry = cast(Callable[[str, Tensor], Tensor | None] | None, getattr(owner, "carried_over", None))
    if carry is not None:
        carried = carry(leaf, tensor)
        return (carried, "interpolated") if carried is not None and carried.shape == own.shape else None
    if not isinstance(owner, nn.Conv2d) or leaf != "weight" or tensor.shape[0] != own.shape[0]:
        return None
    first = next(one for one in module.modules() if isinstance(one, nn.Conv2d))
    is_patches = owner is first and owner.kernel_size == owner.stride != (1, 1) and tensor.shape[1] == own.shape[1]
    if not is_patches and not (own.shape[1] == 3 and tensor.shape[1] in (1, 3)):
        return None
    how = []
    if tensor.shape[1] < own.shape[1]:  # the same output for a grey-scale image repeated over three channels
        tensor = tensor.expand(-1, 3, -1, -1) / 3
        how.append("grey-scale kernel expanded to RGB")
    if tensor.shape[2:] != own.shape[2:]:
        tensor = resize_kernel(tensor, (own.shape[2], own.shape[3]))
        how.append("patch kernel resized")
    return tensor, ", ".join(how)


def _counts_batches(name: str) -> bool:
    """Whether a key is batch norm's counter, which frozen norms lack and inference does not use."""
    return name.rpartition(".")[2] == "num_batches_tracked"
