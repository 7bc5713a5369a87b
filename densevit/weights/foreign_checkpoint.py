"""Translates the keys of a checkpoint, densevit's or another project's in a known layout, to densevit's keys."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from densevit.channels import COLORS
from densevit.config import LoraSection, values_of_file
from densevit.errors import WeightsError, one_line
from densevit.interfaces import CheckpointLayout, Licences, StateDict
from densevit.model import DenseModel
from densevit.model.lora import merged_state
from densevit.weights.checkpoint_io import Checkpoint
from densevit.weights.key_mapping import (
    canonical,
    complete,
    describe,
    missing_because,
    option_of,
    saved_options,
    translate,
)
from densevit.weights.key_prefixes import fitting
from densevit.weights.layouts import most_specific, recognise
from densevit.weights.licences import from_header, licences_of
from densevit.weights.state_dict_io import check_format

Triple = tuple[float, float, float]


@dataclass
class TranslatedCheckpoint:
    """A checkpoint with densevit's keys.

    layout: the checkpoint's layout; None if densevit wrote the checkpoint. describe: returns the config sections from
    which the checkpoint's model can be built.
    classes: known class names by head, or by task for another project's checkpoint. left_out, zeros, unknown: fields of
    `Translation`.
    mean, std: the normalisation of the training images in RGB, for pixels in 0 ... 1; None if unknown.
    options: options by full key that no tensor determines, see `LayoutOptions.saved`.
    licences: licences by published source; for a densevit model, of the weights that it started from.
    channels: names of the channels that the backbone was trained on. adapted_stem: `BackboneSection.adapted_stem` of
    the model that densevit wrote. notes: the checkpoint's.
    """

    source: str
    tensors: dict[str, Tensor]
    layout: CheckpointLayout | None = None
    describe: Callable[[], dict[str, Any]] = dict
    classes: dict[str, list[str]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    zeros: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    mean: Triple | None = None
    std: Triple | None = None
    options: dict[str, Any] = field(default_factory=dict)
    licences: dict[str, Licences] = field(default_factory=dict)
    channels: tuple[str, ...] = COLORS
    adapted_stem: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def heads(self) -> list[str]:
        """The names of the heads; for another project's checkpoint, their tasks."""
        return sorted({name.split(".")[1] for name in self.tensors if name.startswith("heads.")})

    @property
    def is_backbone(self) -> bool:
        """Whether the checkpoint is another project's backbone without heads."""
        return self.layout is not None and self.layout.is_backbone

    def missing(self, names: Iterable[str], prefix: str = "") -> dict[str, str]:
        """The keys among `names` that checkpoints of this layout never contain, with the reason.

        names: keys of a part of the model. prefix: the part's prefix in the layout.
        """
        if self.layout is None:
            return {}
        reasons = {
            name: missing_because(prefix + name, self.layout) for name in names if prefix + name not in self.tensors
        }
        return {name: why for name, why in reasons.items() if why is not None}


def translated_for(checkpoint: Checkpoint, model: DenseModel) -> TranslatedCheckpoint:
    """Translates the keys of a checkpoint to densevit's, without a prefix if only so they fit.

    model: the model to load into; its state dict defines the keys. Raises WeightsError if no layout is recognised or
    the tensors are inconsistent.
    """
    tensors, names = checkpoint.tensors, _names(model)
    required = [name for name in tensors if not name.endswith("num_batches_tracked")]
    if checkpoint.header.get("format") == "densevit" or names.issuperset(required):
        return _native(checkpoint)
    wrapped = _in_wrapper(tensors, model.backbone)
    if wrapped is not None:
        return _native(replace(checkpoint, tensors=wrapped))
    try:
        layout = recognise(tensors, checkpoint.source, checkpoint.metadata)
    except WeightsError as error:
        if names.isdisjoint(tensors):
            return translated_for(
                fitting(checkpoint, partial(_fits, model=model, metadata=checkpoint.metadata), error), model
            )
        return _native(checkpoint)  # densevit's, of another config: `fit` reports the differences
    return translate_checkpoint(checkpoint.with_container(layout.container), layout)


def translate_checkpoint(checkpoint: Checkpoint, layout: CheckpointLayout) -> TranslatedCheckpoint:
    """Translates another project's checkpoint, with channels in the order red, green, blue. Raises WeightsError for an
    incomplete checkpoint."""
    tensors, metadata = canonical(checkpoint.tensors, layout) or checkpoint.tensors, checkpoint.metadata
    _check_implied(checkpoint, layout)
    with complete(layout, checkpoint.source):
        translation = translate(tensors, layout)
        classes = layout.classes(tensors, metadata) if layout.classes else {}
        licences = licences_of(layout, checkpoint.source, tensors, metadata)
    if translation.errors:
        raise WeightsError(
            f"{checkpoint.source}: not a complete {layout.name} checkpoint: {'; '.join(translation.errors[:3])}."
        )
    mean, std = (_triple(metadata.get(key)) or getattr(layout.publishing, key) for key in ("mean", "std"))
    if is_bgr := metadata.get("channel_order") == "bgr":
        mean, std = mean[::-1], std[::-1]
    return TranslatedCheckpoint(
        checkpoint.source,
        _flipped(translation.tensors, layout) if is_bgr else translation.tensors,
        layout,
        lambda: describe(tensors, layout, metadata, checkpoint.source),
        {task: [c.name for c in task_classes] for task, task_classes in classes.items()},
        translation.left_out,
        translation.zeros,
        translation.unknown,
        mean,
        std,
        saved_options(tensors, layout, metadata, checkpoint.source),
        {checkpoint.source: licences},
        notes=checkpoint.notes,
    )


def _check_implied(checkpoint: Checkpoint, layout: CheckpointLayout) -> None:
    """Raises WeightsError if a value in the checkpoint's config.json differs from the value that the layout
    requires."""
    for name, values in layout.options.implied.items():
        saved = option_of(checkpoint.metadata.get("config", {}), name)
        if saved is not None and saved not in values:
            raise WeightsError(
                f"{checkpoint.source}: its config.json has {name}: {json.dumps(saved)}, but a {layout.name} is built "
                f"only with {' or '.join(map(json.dumps, values))} and would compute something else."
            )


def channels_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """The keys of the section `backbone` that describe the image channels of a densevit checkpoint; empty for 8-bit
    RGB."""
    config = checkpoint.header.get("config", "{}") if checkpoint.header.get("format") == "densevit" else "{}"
    backbone: Any = values_of_file(config, checkpoint.source, trust=True).get("backbone")
    has_channels = isinstance(backbone, dict) and backbone.get("channels")
    return {key: backbone.get(key) for key in ("channels", "mean", "std")} if has_channels else {}


def _native(checkpoint: Checkpoint) -> TranslatedCheckpoint:
    header, metadata, notes = checkpoint.header, checkpoint.metadata, checkpoint.with_container().notes
    translated = TranslatedCheckpoint(
        checkpoint.source,
        checkpoint.tensors,
        mean=_triple(metadata.get("mean")),
        std=_triple(metadata.get("std")),
        notes=notes,
    )
    if header.get("format") == "densevit":
        check_format(header.get("format_version"), checkpoint.source)
        try:
            classes = json.loads(header.get("classes", "{}"))
            translated.classes = {
                name: [str(c["name"]) for c in head_classes] for name, head_classes in classes.items()
            }
            values = values_of_file(header["config"], checkpoint.source, trust=True)  # builds no plugin
            backbone, heads = values["backbone"], {**(values.get("heads") or {})}
            translated.describe = lambda: {"heads": heads}
            if lora := backbone.get("lora"):  # only in checkpoints; model files are merged
                translated.tensors = merged_state(checkpoint.tensors, LoraSection(**lora))
            translated.mean, translated.std = _triple(backbone.get("mean")), _triple(backbone.get("std"))
            if channels := backbone.get("channels"):
                translated.channels = tuple(map(str, channels["names"]))
            translated.adapted_stem = tuple(map(str, backbone.get("adapted_stem", ())))
            translated.licences = from_header(header)
        except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise WeightsError(
                f"{checkpoint.source}: its header is corrupt ({one_line(error)}). Copy it again."
            ) from error
    return translated


def _names(model: DenseModel) -> set[str]:
    """The keys of the model's state dict, and of the state dicts of its backbone, heads and necks."""
    names = set(model.state_dict())
    parts = [model.backbone, *model.heads.values(), *model.necks.values()]
    return names.union(*(part.state_dict() for part in parts))


def _fits(tensors: StateDict, model: DenseModel, metadata: Mapping[str, Any]) -> bool:
    """Whether a state dict has all parameters of the model or of its backbone, or the marks of a layout."""
    return (
        any(dict(part.named_parameters()).keys() <= tensors.keys() for part in (model, model.backbone))
        or _in_wrapper(tensors, model.backbone) is not None
        or bool(most_specific(tensors, metadata))
    )


def _in_wrapper(tensors: Mapping[str, Tensor], backbone: nn.Module) -> dict[str, Tensor] | None:
    """The tensors with the key prefix under which a backbone, such as `timm`, holds the model that it wraps; None if it
    wraps no model, or if `tensors` lacks a key of the wrapped model."""
    keys = [name.partition(".") for name in backbone.state_dict() if not name.endswith("num_batches_tracked")]
    inner = [(outer, name) for outer, _, name in keys if outer != "feature_norms"]  # the wrapper adds these norms
    if len({outer for outer, _ in inner}) != 1 or not all(name in tensors for _, name in inner):
        return None
    return {f"{inner[0][0]}.{name}": tensor for name, tensor in tensors.items()}


def _flipped(tensors: Mapping[str, Tensor], layout: CheckpointLayout) -> dict[str, Tensor]:
    """Reverses the channels of the backbone's input convolutions, from BGR to RGB."""
    prefix = "" if layout.is_backbone else "backbone."
    stem = [key for key, x in tensors.items() if key.startswith(prefix) and x.ndim == 4 and x.shape[1] == 3]
    return {**tensors, **{key: tensors[key].flip(1) for key in stem}}


def _triple(values: Any) -> Triple | None:
    """The values as a tuple if they are three finite numbers, else None."""
    if not isinstance(values, Sequence) or len(values) != 3 or not all(math.isfinite(value) for value in values):
        return None
    return (float(values[0]), float(values[1]), float(values[2]))
