"""A checkpoint's layout: how another project's file is recognised, and which of its tensors is which of ours."""

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
    """A transformation on the way in, and the one that undoes it on the way out."""

    into: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Rearrangement:
    """The same for a checkpoint as a whole, where lines cannot say it: for a tensor that is the sum of two of theirs.

    into: from their tensors to those that the lines name. back: the reverse. Both leave alone what they are given.
    """

    into: Callable[[State], State]
    back: Callable[[State], State]


class Line(NamedTuple):
    """A line of a layout's table: their name, our name, and what is done to the tensor besides.

    `{i}`, `{b}`, ... stand for a number, the same one on both sides, and a closing `*` for any rest. `[0/3]` behind a
    name is the first of three parts that lie one behind the other along the first axis: `q.*` and `qkv.*[0/3]`. `0` in
    place of a name stands for zeros beside other parts: `0` and `qkv.bias[1/3]` where they have no bias for keys,
    `qkv.bias[1/3]` and `0` where theirs has no effect.
    """

    theirs: str
    ours: str
    change: Change | None = None


@dataclass(frozen=True)
class Layout:
    """How a project lays out the checkpoints of one architecture.

    name: what `convert --as` and `--to` take: PROJECT-ARCHITECTURE.
    part: what is in it: a "backbone", with `lines` from the backbone's names, or a "model", whose names begin with
        `backbone.` and `heads.NAME.`.
    marks: names, as in a line, each of which such a checkpoint has. Of the layouts whose marks are all there, the one
        with the most wins.
    lines: for each tensor the first that its name fits; where that takes a part of it, the first for each part.
    no_effect: names of tensors that change nothing here, and why.
    fresh: names of ours that such a checkpoint never has, and why: they stay as they begin.
    zero_biases: names of the backbone's biases that such a checkpoint may lack, and why: they are zeros then. A bias
        of zeros is not written either.
    copies: names that repeat another tensor, and that one's name; they have to be equal.
    describe: the sections of a config that builds this model, from shapes: {"backbone": {"name": ..., ...}}.
    classes: of a model, its classes by task, from the checkpoint and from the facts that came beside it.
    mean, std: of pixels in 0 ... 1, RGB, that it was trained with; None: ImageNet's.
    rearrange: what is done to the checkpoint before the lines, whose names are those of the result.
    untold: options, as `backbone.dilation`, that leave no trace in tensors: `describe` has what is usual there, or
        nothing, and what came beside the tensors may say them.
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
    untold: tuple[str, ...] = ()

    def fresh_because(self, name: str) -> str | None:
        """Why a checkpoint of this layout never has what we call so; None where it should have it."""
        return next((why for own, why in self.fresh.items() if _name(own).gaps(name) is not None), None)


@dataclass
class Translation:
    """A checkpoint in our names.

    tensors: by our name. origins: the names in the checkpoint that each was made of. left_out: names in the checkpoint
    and why they are not here. zeros: our biases that it lacks, which are zeros, and why. unknown: names in it that
    the layout does not know. wrong: what does not fit together.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    origins: dict[str, list[str]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    zeros: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def translate(state: State, layout: Layout) -> Translation:
    """The tensors of a checkpoint in our names. Each of theirs is used exactly once, or listed."""
    if layout.rearrange is not None:
        state = layout.rearrange.into(state)
    lines = _Table((line.theirs, line) for line in layout.lines if line.theirs != ZEROS)
    copies, no_effect = _Table(layout.copies.items()), _Table(layout.no_effect.items())
    done, joints = Translation(), _Joints()
    for key, tensor in state.items():
        original = next((_name(of).filled(gaps) for _, of, gaps in copies.fitting(key)), key)
        why = next((why for _, why, _ in no_effect.fitting(key)), None)
        fitting = lines.fitting(key)
        if original != key and original in state:
            done.left_out[key] = f"a copy of {original}"
            if tensor.shape != state[original].shape or not torch.equal(tensor, state[original]):
                done.wrong.append(f"{key} should be equal to {original} and is not")
        elif why is not None:
            done.left_out[key] = why
        elif not fitting:
            done.unknown.append(key)
        else:
            count = fitting[0][0].parts
            chosen = {theirs.part: (line, gaps) for theirs, line, gaps in reversed(fitting) if theirs.parts == count}
            if len(chosen) < count or (count > 1 and (tensor.ndim == 0 or len(tensor) % count)):
                done.wrong.append(f"{key}, {tuple(tensor.shape)}, is not made of the {count} parts that lines name")
                continue
            for part, (line, gaps) in sorted(chosen.items()):
                if line.ours == ZEROS:
                    done.left_out[f"{key}[{part}/{count}]"] = "without effect"
                    continue
                piece = tensor.chunk(count)[part] if count > 1 else tensor
                try:
                    joints.add(_name(line.ours), gaps, line.change.into(piece) if line.change else piece, key)
                except (RuntimeError, ValueError, IndexError) as error:
                    done.wrong.append(f"{key}, {tuple(tensor.shape)}, does not become {line.ours}: {error}")
    joints.join([_name(line.ours) for line in layout.lines if line.theirs == ZEROS], done)
    for bias, why in layout.zero_biases.items():
        weight = done.tensors.get(bias.removesuffix("bias") + "weight")
        if bias not in done.tensors and weight is not None:
            done.tensors[bias], done.zeros[bias] = weight.new_zeros(len(weight)), why
    return done


def translate_back(state: State, layout: Layout) -> tuple[dict[str, Tensor], list[str]]:
    """Our tensors in their names, and our names that the layout has no line for.

    What is without effect is not written, but for zeros beside other parts, nor are `zero_biases` that are zeros.
    Raises ValueError where tensors do not fit.
    """
    turned = tuple(Line(ours, theirs, _turned(change)) for theirs, ours, change in layout.lines)
    state = {name: x for name, x in state.items() if name not in layout.zero_biases or bool(x.any())}
    turned_round = replace(layout, lines=turned, no_effect=layout.fresh, zero_biases={}, copies={}, rearrange=None)
    back = translate(state, turned_round)
    if back.wrong:
        raise ValueError(f"This is no {layout.name}: {'; '.join(back.wrong)}.")
    for name, of in layout.copies.items():
        for key, tensor in list(back.tensors.items()):
            gaps = _name(of).gaps(key)
            if gaps is not None:
                with suppress(KeyError):  # a gap that only the copy has: nothing says how many there were
                    back.tensors[_name(name).filled(gaps)] = tensor
    return dict(layout.rearrange.back(back.tensors) if layout.rearrange else back.tensors), back.unknown


def has_marks(state: State, layout: Layout) -> bool:
    """Whether all that marks a layout is there."""

    def there(mark: str) -> bool:
        name = _name(mark)
        return mark in state or ("{" in name.text and any(name.gaps(key) is not None for key in state))

    return all(map(there, layout.marks))


class _Joints:
    """Tensors that are made of parts, while these come."""

    def __init__(self) -> None:
        self.parts: dict[str, list[tuple[_Name, Tensor, str]]] = {}

    def add(self, ours: "_Name", gaps: Mapping[str, str], tensor: Tensor, origin: str) -> None:
        self.parts.setdefault(ours.filled(gaps), []).append((ours, tensor, origin))

    def join(self, zeros: Sequence["_Name"], done: Translation) -> None:
        """Puts each into `done.tensors`, with zeros for those parts that they are meant for, or into `done.wrong`."""
        for name, pieces in self.parts.items():
            done.origins[name] = [origin for _, _, origin in pieces]
            count = pieces[0][0].parts
            own = {ours.part: tensor for ours, tensor, _ in pieces if ours.parts == count}
            if len(own) < len(pieces):
                done.wrong.append(f"{name} is made of {' and '.join(done.origins[name])}, one too many")
                continue
            for blank in zeros:
                if blank.parts == count and blank.gaps(name) is not None:
                    own.setdefault(blank.part, torch.zeros_like(pieces[0][1]))
            lacking = [str(part + 1) for part in range(count) if part not in own]
            if lacking:
                done.wrong.append(f"{name} lacks part {' and '.join(lacking)} of {count}")
            else:
                done.tensors[name] = torch.cat([own[part] for part in range(count)]) if count > 1 else own[0]


class _Name(NamedTuple):
    """A name of a table, taken apart: `blocks.{i}.qkv.*[0/3]`."""

    text: str  # with `{rest}` for the star
    kind: str  # with # for gaps and numbers, up to a star
    pattern: re.Pattern[str]
    part: int = 0
    parts: int = 1

    def gaps(self, key: str) -> dict[str, str] | None:
        """What stands in the gaps; None where a key does not fit."""
        match = self.pattern.fullmatch(key)
        return None if match is None else match.groupdict()

    def filled(self, gaps: Mapping[str, str]) -> str:
        return self.text.format_map(gaps)

    def may_fit(self, kind: str) -> bool:
        """Whether keys of a kind can fit: cheaper than trying each."""
        return kind.startswith(self.kind) if self.text.endswith("{rest}") else kind == self.kind


class _Table(Generic[T]):
    """Names and what stands beside them."""

    def __init__(self, entries: Iterable[tuple[str, T]]) -> None:
        self.entries = [(_name(name), entry) for name, entry in entries]
        self.of_kind: dict[str, list[tuple[_Name, T]]] = {}

    def fitting(self, key: str) -> list[tuple[_Name, T, dict[str, str]]]:
        """The entries whose name a key fits, with what stands in the gaps."""
        kind = _kind(key)
        if kind not in self.of_kind:
            self.of_kind[kind] = [(name, entry) for name, entry in self.entries if name.may_fit(kind)]
        return [(name, entry, gaps) for name, entry in self.of_kind[kind] if (gaps := name.gaps(key)) is not None]


@lru_cache(maxsize=4096)
def _name(name: str) -> _Name:
    whole = re.fullmatch(r"(.*)\[(\d+)/(\d+)\]", name)
    text, part, count = (whole[1], int(whole[2]), int(whole[3])) if whole else (name, 0, 1)
    text = re.sub(r"\*$", "{rest}", text)
    literal, *others = re.split(r"\{(\w+)\}", text)
    pattern, seen = re.escape(literal), set[str]()
    for gap, after in zip(others[::2], others[1::2], strict=True):
        group = f"(?P<{gap}>{'.*' if gap == 'rest' else '[0-9]+'})" if gap not in seen else f"(?P={gap})"
        pattern += group + re.escape(after)
        seen.add(gap)
    return _Name(text, _kind(text.removesuffix("{rest}")), re.compile(pattern), part, count)


def _kind(key: str) -> str:
    """The key with # for each number and gap, the same for all blocks: `blocks.#.norm#.weight`."""
    return re.sub(r"(?:\{\w+\}|[0-9])+", "#", key)


def _turned(change: Change | None) -> Change | None:
    return None if change is None else Change(change.back, change.into)
