"""Translates state dicts between other projects' checkpoint layouts and densevit's keys."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, lru_cache
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from densevit.errors import WeightsError, one_line
from densevit.interfaces import ZEROS, Change, CheckpointLayout, Line, SpecialTensors, StateDict

T = TypeVar("T")


@dataclass
class Translation:
    """A state dict translated to densevit's keys.

    tensors: the tensors by densevit's key. origins: the source keys of each tensor, by densevit's key. ignored_keys:
    unused source keys, with the reason. zeros: biases that the source lacks, set to zeros, with the reason. unknown:
    source keys that match no line. errors: inconsistencies, one sentence each.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    origins: dict[str, list[str]] = field(default_factory=dict)
    ignored_keys: dict[str, str] = field(default_factory=dict)
    zeros: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def canonical(state: StateDict, layout: CheckpointLayout) -> dict[str, Tensor] | None:
    """The state dict with the keys of the layout's lines: without the layout's prefixes, in one spelling.

    Returns None if signature keys are missing. A layout without signature keys accepts any state dict.
    """
    spellings = _Table(layout.other_keys.spellings)
    for prefix in ("", *layout.other_keys.prefixes):
        bare = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
        if _has_all(bare, layout.signature_keys):
            return bare
        respelt = {_respelt(key, spellings): tensor for key, tensor in bare.items()} if spellings.entries else bare
        if respelt is not bare and _has_all(respelt, layout.signature_keys):
            return respelt
    return None


def _respelt(key: str, spellings: "_Table[str]") -> str:
    matches = spellings.matches(key)
    return _name(matches[0][1]).filled(matches[0][2]) if matches else key


def named_keys(keys: Collection[str], layout: CheckpointLayout) -> set[str]:
    """The keys that the layout's tables name, apart from its `other_keys`; empty if all signature keys are missing."""
    table = _Table(
        (name, None)
        for name in (*(line.foreign_key for line in layout.lines), *layout.special.no_effect, *layout.special.copies)
    )
    is_recognised = any(_has_all(keys, (key,)) for key in layout.signature_keys)
    return {key for key in keys if is_recognised and table.matches(key)}


def translate(state: StateDict, layout: CheckpointLayout) -> Translation:
    """Translates a state dict to densevit's keys. Each source tensor is used exactly once, or listed."""
    state, special = canonical(state, layout) or state, layout.special
    if special.rearrange is not None:
        state = special.rearrange.forward(state)
    lines = _Table((line.foreign_key, line) for line in layout.lines if line.foreign_key != ZEROS)
    copies, no_effect = _Table(special.copies.items()), _Table(special.no_effect.items())
    result, parts = Translation(), _Parts()
    for key, tensor in state.items():
        original = next((_name(original_name).filled(values) for _, original_name, values in copies.matches(key)), key)
        why = next((why for _, why, _ in no_effect.matches(key)), None)
        matches = lines.matches(key)
        if original != key and original in state:
            result.ignored_keys[key] = f"a copy of {original}"
            if tensor.shape != state[original].shape or not torch.equal(tensor, state[original]):
                result.errors.append(f"{key} should be equal to {original} and is not")
        elif why is not None:
            result.ignored_keys[key] = why
        elif not matches:
            result.unknown.append(key)
        else:
            count = matches[0][0].parts
            chosen = {
                pattern.part: (line, values) for pattern, line, values in reversed(matches) if pattern.parts == count
            }
            if len(chosen) < count or (count > 1 and (tensor.ndim == 0 or len(tensor) % count)):
                result.errors.append(f"{key}, {tuple(tensor.shape)}, does not have the {count} parts that lines name")
                continue
            for part, (line, values) in sorted(chosen.items()):
                if line.key == ZEROS:
                    result.ignored_keys[f"{key}[{part}/{count}]"] = "without effect"
                    continue
                piece = tensor.chunk(count)[part] if count > 1 else tensor
                try:
                    parts.add(_name(line.key), values, line.change.forward(piece) if line.change else piece, key)
                except (RuntimeError, ValueError, IndexError) as error:
                    result.errors.append(f"{key}, {tuple(tensor.shape)}, cannot be transformed to {line.key}: {error}")
    parts.join([_name(line.key) for line in layout.lines if line.foreign_key == ZEROS], result)
    for bias, why in special.zero_biases.items():
        weight = result.tensors.get(bias.removesuffix("bias") + "weight")
        if bias not in result.tensors and weight is not None:
            result.tensors[bias], result.zeros[bias] = weight.new_zeros(len(weight)), why
    return result


def translate_back(state: StateDict, layout: CheckpointLayout) -> tuple[dict[str, Tensor], list[str]]:
    """Translates a state dict from densevit's keys to the layout's. Returns it and the keys that match no line.

    Tensors without effect are left out, except zeros next to other parts; so are `zero_biases` that are zero. Raises
    ValueError if tensors do not fit the layout.
    """
    special = layout.special
    lines = tuple(
        Line(line.key, line.foreign_key, line.change and Change(line.change.inverse, line.change.forward))
        for line in layout.lines
    )
    state = {name: x for name, x in state.items() if name not in special.zero_biases or bool(x.any())}
    inverse = CheckpointLayout(layout.name, (), lines, layout.describe, special=SpecialTensors(special.missing))
    back = translate(state, inverse)
    if back.errors:
        raise ValueError(f"These tensors do not fit {layout.name}: {'; '.join(back.errors)}.")
    for name, original in special.copies.items():
        for key, tensor in list(back.tensors.items()):
            values = _name(original).match(key)
            if values is not None:
                with suppress(KeyError):  # a placeholder of the copy alone: its numbers are unknown
                    back.tensors[_name(name).filled(values)] = tensor
    return dict(special.rearrange.inverse(back.tensors) if special.rearrange else back.tensors), back.unknown


@contextmanager
def complete(layout: CheckpointLayout, source: str) -> Iterator[None]:
    """Converts the errors of a layout's functions, which expect all tensors, to a WeightsError."""
    try:
        yield
    except (LookupError, AttributeError, TypeError, RuntimeError) as error:
        raise WeightsError(
            f"{source}: not a complete {layout.name} checkpoint: "
            f"{f'no tensor for {error}' if isinstance(error, KeyError) else one_line(error)}."
        ) from error


def describe(
    state: StateDict,
    layout: CheckpointLayout,
    metadata: Mapping[str, Any] = MappingProxyType({}),
    source: str = "the weights",
) -> dict[str, Any]:
    """The config sections that build the model of a state dict in the layout's keys. metadata, source: the parameters
    of `saved_options`.

    Raises WeightsError if tensors are missing or fit no variant.
    """
    with complete(layout, source):
        sections = layout.describe(translate(state, layout).tensors)
    for name, value in saved_options(state, layout, metadata, source).items():
        *path, key = name.split(".")
        section = sections
        for part in path:
            section = section[part]
        section[key] = value
    return sections


def option_of(sections: Mapping[str, Any], name: str, absent: Any = None) -> Any:
    """The value of an option by its full key, such as "backbone.dilation"; `absent` if it is not set."""
    value: Any = sections
    for key in name.split("."):
        value = value.get(key, absent) if isinstance(value, Mapping) else absent
    return value


def saved_options(
    state: StateDict, layout: CheckpointLayout, metadata: Mapping[str, Any], source: str = "the weights"
) -> dict[str, Any]:
    """Options by full key, such as "backbone.dilation", that follow from metadata or tables, not from weights.

    source: the name of the weights, for messages. Raises WeightsError for metadata with unexpected content.
    """
    try:
        options = layout.options.saved(state, metadata)
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
        raise WeightsError(
            f"config.json beside {source} does not describe a {layout.name} checkpoint ({one_line(error)}). "
            "Copy or download it again."
        ) from error
    return {name: value for name, value in options.items() if name in layout.options.unsaved}


def missing_because(name: str, layout: CheckpointLayout) -> str | None:
    """Why checkpoints of this layout lack densevit's tensor `name`; None if they should contain it."""
    missing = layout.special.missing.items()
    return next((why for pattern, why in missing if _name(pattern).match(name) is not None), None)


def _has_all(state: Collection[str], signature_keys: Iterable[str]) -> bool:
    def present(signature_key: str) -> bool:
        name = _name(signature_key)
        return signature_key in state or ("{" in name.text and any(name.match(key) is not None for key in state))

    return all(map(present, signature_keys))


class _Parts:
    """Collects the parts of tensors that a layout stores under several keys, and concatenates them."""

    def __init__(self) -> None:
        self.parts: dict[str, list[tuple[_Name, Tensor, str]]] = {}

    def add(self, name: "_Name", values: Mapping[str, str], tensor: Tensor, origin: str) -> None:
        self.parts.setdefault(name.filled(values), []).append((name, tensor, origin))

    def join(self, zeros: Sequence["_Name"], result: Translation) -> None:
        """Adds each tensor to `result.tensors`, with zeros for the parts named in `zeros`, or to `result.errors`."""
        for name, pieces in self.parts.items():
            result.origins[name] = [origin for _, _, origin in pieces]
            count = pieces[0][0].parts
            by_part = {pattern.part: tensor for pattern, tensor, _ in pieces if pattern.parts == count}
            if len(by_part) < len(pieces):
                result.errors.append(f"{name} has too many source tensors: {', '.join(result.origins[name])}")
                continue
            for zero in zeros:
                if zero.parts == count and zero.match(name) is not None:
                    by_part.setdefault(zero.part, torch.zeros_like(pieces[0][1]))
            lacking = [str(part + 1) for part in range(count) if part not in by_part]
            if lacking:
                result.errors.append(f"{name} lacks part {' and '.join(lacking)} of {count}")
            else:
                result.tensors[name] = torch.cat([by_part[part] for part in range(count)]) if count > 1 else by_part[0]


class _Name(NamedTuple):
    """A parsed key pattern: `blocks.{i}.qkv.*[0/3]`."""

    text: str  # with `{rest}` for the star
    skeleton: str  # with # for placeholders and numbers, up to a star
    pattern: re.Pattern[str]
    part: int = 0
    parts: int = 1

    def match(self, key: str) -> dict[str, str] | None:
        """The values of the placeholders in a key; None if the key does not match."""
        match = self.pattern.fullmatch(key)
        return None if match is None else match.groupdict()

    def filled(self, values: Mapping[str, str]) -> str:
        return self.text.format_map(values)


class _Table(Generic[T]):
    """A table of key patterns, with one value for each pattern."""

    def __init__(self, entries: Iterable[tuple[str, T]]) -> None:
        self.entries = [(_name(name), entry) for name, entry in entries]
        self.by_skeleton: dict[str, list[tuple[_Name, T]]] = {}
        self.complete: dict[str, list[int]] = {}  # entries without a star, by skeleton
        self.starred: list[int] = []
        for i, (name, _) in enumerate(self.entries):
            (self.starred if name.text.endswith("{rest}") else self.complete.setdefault(name.skeleton, [])).append(i)

    def matches(self, key: str) -> list[tuple[_Name, T, dict[str, str]]]:
        """The entries whose pattern matches a key, with the values of the placeholders."""
        skeleton = _skeleton(key)
        if skeleton not in self.by_skeleton:
            starred = [i for i in self.starred if skeleton.startswith(self.entries[i][0].skeleton)]
            entries = [self.entries[i] for i in sorted([*self.complete.get(skeleton, ()), *starred])]
            self.by_skeleton[skeleton] = entries
        matches = ((name, entry, name.match(key)) for name, entry in self.by_skeleton[skeleton])
        return [(name, entry, values) for name, entry, values in matches if values is not None]


@cache
def _name(name: str) -> _Name:
    sliced = re.fullmatch(r"(.*)\[(\d+)/(\d+)\]", name)
    text, part, count = (sliced[1], int(sliced[2]), int(sliced[3])) if sliced else (name, 0, 1)
    text = re.sub(r"\*$", "{rest}", text)
    literal, *slots_and_literals = re.split(r"\{(\w+)\}", text)
    pattern, groups = re.escape(literal), set[str]()
    for slot, after in zip(slots_and_literals[::2], slots_and_literals[1::2], strict=True):
        group = f"(?P<{slot}>{'.*' if slot == 'rest' else '[0-9]+'})" if slot not in groups else f"(?P={slot})"
        pattern += group + re.escape(after)
        groups.add(slot)
    return _Name(text, _skeleton(text.removesuffix("{rest}")), re.compile(pattern), part, count)


@lru_cache(maxsize=65536)
def _skeleton(key: str) -> str:
    """The key with # for each number and placeholder: `blocks.#.norm#.weight`."""
    return re.sub(r"(?:\{\w+\}|[0-9])+", "#", key)
