"""Layouts of other projects' checkpoints: recognises a layout and maps its keys and tensors to ours and back."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from densevit.interfaces import Class

State = Mapping[str, Tensor]
ZEROS = "0"
T = TypeVar("T")


@dataclass(frozen=True)
class Change:
    """A tensor transformation from their format to ours, and its inverse."""

    forward: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Rearrangement:
    """A transformation of a whole state dict, for what lines cannot express: a tensor that is the sum of two of theirs.

    forward: from their tensors to those that the lines name. inverse: the reverse. Neither modifies its argument.
    """

    forward: Callable[[State], State]
    inverse: Callable[[State], State]


class Line(NamedTuple):
    """A line of a layout's table: their key, our key and an optional transformation of the tensor.

    `{i}`, `{b}`, ... match a number, the same one on both sides; a final `*` matches any suffix. `[0/3]` after a key is
    the first of three equal parts along the first axis: `q.*` and `qkv.*[0/3]`. `0` in place of a key stands for a part
    of zeros: `0` and `qkv.bias[1/3]` where they have no bias for keys, `qkv.bias[1/3]` and `0` where theirs has no
    effect.
    """

    theirs: str
    ours: str
    change: Change | None = None


@dataclass(frozen=True)
class Layout:
    """The format of one project's checkpoints of one architecture.

    name: the value of `convert --as` and `--to`: PROJECT-ARCHITECTURE.
    part: "backbone": our keys in `lines` are the backbone's; "model": they begin with `backbone.` and `heads.NAME.`.
    marks: keys, as in a line, that every such checkpoint has. Among the layouts whose marks are all present, the one
        with the most marks is chosen.
    lines: each tensor uses the first line that matches its key, or the first for each part.
    no_effect: their keys that have no effect in our model, with the reason.
    fresh: our keys that such a checkpoint never has, with the reason; they keep their initial values.
    zero_biases: our backbone biases that such a checkpoint may lack, with the reason; they are set to zeros. A bias
        of zeros is not exported.
    copies: keys that repeat another tensor, and that tensor's key; the two must be equal.
    describe: from a state dict, the config sections that build the model: {"backbone": {"name": ..., ...}}.
    classes: for a model, its classes by task, from the state dict and the metadata of the checkpoint.
    mean, std: RGB, of pixels in 0 ... 1, used in training; None: ImageNet's.
    rearrange: applied to the state dict before the lines.
    unrecorded: options such as `backbone.dilation` that tensors do not determine. `describe` returns the usual value or
        none; the metadata may contain the real one.
    """

    name: str
    part: Literal["backbone", "model"]
    marks: tuple[str, ...]
    lines: tuple[Line, ...]
    describe: Callable[[State], dict[str, Any]]
    no_effect: Mapping[str, str] = field(default_factory=dict)
    fresh: Mapping[str, str] = field(default_factory=dict)
    zero_biases: Mapping[str, str] = field(default_factory=dict)
    copies: Mapping[str, str] = field(default_factory=dict)
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    classes: Callable[[State, Mapping[str, Any]], Mapping[str, Sequence[Class]]] | None = None
    rearrange: Rearrangement | None = None
    unrecorded: tuple[str, ...] = ()

    def fresh_because(self, name: str) -> str | None:
        """Why a checkpoint of this layout never has the tensor we call `name`; None if it should have it."""
        return next((why for own, why in self.fresh.items() if _name(own).match(name) is not None), None)


@dataclass
class Translation:
    """A state dict translated to our keys.

    tensors: by our key. origins: by our key, the source keys of the tensor. left_out: source keys that are not used,
    with the reason. zeros: our biases that the source lacks, set to zeros, with the reason. unknown: source keys that
    match no line. errors: inconsistencies, a sentence each.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    origins: dict[str, list[str]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    zeros: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def translate(state: State, layout: Layout) -> Translation:
    """Translates a state dict to our keys. Each source tensor is used exactly once, or listed."""
    if layout.rearrange is not None:
        state = layout.rearrange.forward(state)
    lines = _Table((line.theirs, line) for line in layout.lines if line.theirs != ZEROS)
    copies, no_effect = _Table(layout.copies.items()), _Table(layout.no_effect.items())
    result, parts = Translation(), _Parts()
    for key, tensor in state.items():
        original = next((_name(of).filled(values) for _, of, values in copies.matches(key)), key)
        why = next((why for _, why, _ in no_effect.matches(key)), None)
        matches = lines.matches(key)
        if original != key and original in state:
            result.left_out[key] = f"a copy of {original}"
            if tensor.shape != state[original].shape or not torch.equal(tensor, state[original]):
                result.errors.append(f"{key} should be equal to {original} and is not")
        elif why is not None:
            result.left_out[key] = why
        elif not matches:
            result.unknown.append(key)
        else:
            count = matches[0][0].parts
            chosen = {
                theirs.part: (line, values) for theirs, line, values in reversed(matches) if theirs.parts == count
            }
            if len(chosen) < count or (count > 1 and (tensor.ndim == 0 or len(tensor) % count)):
                result.errors.append(f"{key}, {tuple(tensor.shape)}, does not have the {count} parts that lines name")
                continue
            for part, (line, values) in sorted(chosen.items()):
                if line.ours == ZEROS:
                    result.left_out[f"{key}[{part}/{count}]"] = "without effect"
                    continue
                piece = tensor.chunk(count)[part] if count > 1 else tensor
                try:
                    parts.add(_name(line.ours), values, line.change.forward(piece) if line.change else piece, key)
                except (RuntimeError, ValueError, IndexError) as error:
                    result.errors.append(f"{key}, {tuple(tensor.shape)}, cannot be transformed to {line.ours}: {error}")
    parts.join([_name(line.ours) for line in layout.lines if line.theirs == ZEROS], result)
    for bias, why in layout.zero_biases.items():
        weight = result.tensors.get(bias.removesuffix("bias") + "weight")
        if bias not in result.tensors and weight is not None:
            result.tensors[bias], result.zeros[bias] = weight.new_zeros(len(weight)), why
    return result


def translate_back(state: State, layout: Layout) -> tuple[dict[str, Tensor], list[str]]:
    """Translates our state dict to their keys; returns it and our keys that match no line.

    Tensors without effect are not written, except zeros beside other parts; nor are `zero_biases` that are zeros.
    Raises ValueError if tensors do not fit the layout.
    """
    lines = tuple(Line(ours, theirs, _inverted(change)) for theirs, ours, change in layout.lines)
    state = {name: x for name, x in state.items() if name not in layout.zero_biases or bool(x.any())}
    inverse = replace(layout, lines=lines, no_effect=layout.fresh, zero_biases={}, copies={}, rearrange=None)
    back = translate(state, inverse)
    if back.errors:
        raise ValueError(f"These tensors do not fit {layout.name}: {'; '.join(back.errors)}.")
    for name, of in layout.copies.items():
        for key, tensor in list(back.tensors.items()):
            values = _name(of).match(key)
            if values is not None:
                with suppress(KeyError):  # a placeholder that only the copy has: its numbers are not known
                    back.tensors[_name(name).filled(values)] = tensor
    return dict(layout.rearrange.inverse(back.tensors) if layout.rearrange else back.tensors), back.unknown


def has_marks(state: State, layout: Layout) -> bool:
    """Whether all marks of a layout are present."""

    def present(mark: str) -> bool:
        name = _name(mark)
        return mark in state or ("{" in name.text and any(name.match(key) is not None for key in state))

    return all(map(present, layout.marks))


class _Parts:
    """Collects the parts of tensors and concatenates them."""

    def __init__(self) -> None:
        self.parts: dict[str, list[tuple[_Name, Tensor, str]]] = {}

    def add(self, ours: "_Name", values: Mapping[str, str], tensor: Tensor, origin: str) -> None:
        self.parts.setdefault(ours.filled(values), []).append((ours, tensor, origin))

    def join(self, zeros: Sequence["_Name"], result: Translation) -> None:
        """Adds each tensor to `result.tensors`, with zeros for the parts named in `zeros`, or to `result.errors`."""
        for name, pieces in self.parts.items():
            result.origins[name] = [origin for _, _, origin in pieces]
            count = pieces[0][0].parts
            own = {ours.part: tensor for ours, tensor, _ in pieces if ours.parts == count}
            if len(own) < len(pieces):
                result.errors.append(f"{name} has too many source tensors: {', '.join(result.origins[name])}")
                continue
            for zero in zeros:
                if zero.parts == count and zero.match(name) is not None:
                    own.setdefault(zero.part, torch.zeros_like(pieces[0][1]))
            lacking = [str(part + 1) for part in range(count) if part not in own]
            if lacking:
                result.errors.append(f"{name} lacks part {' and '.join(lacking)} of {count}")
            else:
                result.tensors[name] = torch.cat([own[part] for part in range(count)]) if count > 1 else own[0]


class _Name(NamedTuple):
    """A parsed key pattern: `blocks.{i}.qkv.*[0/3]`."""

    text: str  # with `{rest}` for the star
    kind: str  # with # for placeholders and numbers, up to a star
    pattern: re.Pattern[str]
    part: int = 0
    parts: int = 1

    def match(self, key: str) -> dict[str, str] | None:
        """The values of the placeholders in a key; None if the key does not match."""
        match = self.pattern.fullmatch(key)
        return None if match is None else match.groupdict()

    def filled(self, values: Mapping[str, str]) -> str:
        return self.text.format_map(values)

    def may_match(self, kind: str) -> bool:
        """Whether keys of this kind can match: cheaper than matching each."""
        return kind.startswith(self.kind) if self.text.endswith("{rest}") else kind == self.kind


class _Table(Generic[T]):
    """Key patterns with a value each."""

    def __init__(self, entries: Iterable[tuple[str, T]]) -> None:
        self.entries = [(_name(name), entry) for name, entry in entries]
        self.of_kind: dict[str, list[tuple[_Name, T]]] = {}

    def matches(self, key: str) -> list[tuple[_Name, T, dict[str, str]]]:
        """The entries whose pattern matches a key, with the values of the placeholders."""
        kind = _kind(key)
        if kind not in self.of_kind:
            self.of_kind[kind] = [(name, entry) for name, entry in self.entries if name.may_match(kind)]
        return [(name, entry, values) for name, entry in self.of_kind[kind] if (values := name.match(key)) is not None]


@lru_cache(maxsize=4096)
def _name(name: str) -> _Name:
    sliced = re.fullmatch(r"(.*)\[(\d+)/(\d+)\]", name)
    text, part, count = (sliced[1], int(sliced[2]), int(sliced[3])) if sliced else (name, 0, 1)
    text = re.sub(r"\*$", "{rest}", text)
    literal, *others = re.split(r"\{(\w+)\}", text)
    pattern, groups = re.escape(literal), set[str]()
    for slot, after in zip(others[::2], others[1::2], strict=True):
        group = f"(?P<{slot}>{'.*' if slot == 'rest' else '[0-9]+'})" if slot not in groups else f"(?P={slot})"
        pattern += group + re.escape(after)
        groups.add(slot)
    return _Name(text, _kind(text.removesuffix("{rest}")), re.compile(pattern), part, count)


def _kind(key: str) -> str:
    """The key with # for each number and slot, the same for all blocks: `blocks.#.norm#.weight`."""
    return re.sub(r"(?:\{\w+\}|[0-9])+", "#", key)


def _inverted(change: Change | None) -> Change | None:
    return None if change is None else Change(change.inverse, change.forward)
