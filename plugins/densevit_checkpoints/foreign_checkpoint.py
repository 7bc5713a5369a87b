"""Translates the keys of a checkpoint, densevit's or another project's in a known layout, to densevit's keys."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from densevit.errors import WeightsError
from densevit.interfaces import CheckpointLayout, StateDict
from densevit.model import DenseModel
from densevit.weights.checkpoint import Checkpoint
from densevit.weights.translated_checkpoint import TranslatedCheckpoint, native, triple
from densevit_checkpoints.key_mapping import (
    canonical,
    complete,
    describe,
    missing_because,
    option_of,
    saved_options,
    translate,
)
from densevit_checkpoints.published_licences import licences_of
from densevit_checkpoints.recognition import fitting, most_specific, recognise


@dataclass(kw_only=True)
class ForeignCheckpoint(TranslatedCheckpoint):
    """Another project's checkpoint with densevit's keys, in which heads are named by task. options: options by full key
    that no tensor determines (`LayoutOptions.saved`)."""

    layout: CheckpointLayout
    options: dict[str, Any]

    @property
    def is_backbone(self) -> bool:
        """Whether it has no heads."""
        return self.layout.is_backbone

    def missing(self, names: Iterable[str], prefix: str = "") -> dict[str, str]:
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
    if names.issuperset(required):
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


def _native(checkpoint: Checkpoint) -> TranslatedCheckpoint:
    """The checkpoint, whose keys are densevit's, with the normalisation of its metadata."""
    mean, std = (triple(checkpoint.metadata.get(key)) for key in ("mean", "std"))
    return replace(native(checkpoint), mean=mean, std=std)


def translate_checkpoint(checkpoint: Checkpoint, layout: CheckpointLayout) -> ForeignCheckpoint:
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
    mean, std = (triple(metadata.get(key)) or getattr(layout.publishing, key) for key in ("mean", "std"))
    if is_bgr := metadata.get("channel_order") == "bgr":
        mean, std = mean[::-1], std[::-1]
    return ForeignCheckpoint(
        checkpoint.source,
        _flipped(translation.tensors, layout) if is_bgr else translation.tensors,
        layout.name,
        lambda: describe(tensors, layout, metadata, checkpoint.source),
        classes={task: [c.name for c in task_classes] for task, task_classes in classes.items()},
        ignored_keys=translation.ignored_keys,
        zeros=translation.zeros,
        unknown=translation.unknown,
        mean=mean,
        std=std,
        black_padding=layout.publishing.black_padding,
        licences={checkpoint.source: licences},
        notes=(*checkpoint.notes, *_digest_notes(checkpoint.path, layout)),
        layout=layout,
        options=saved_options(tensors, layout, metadata, checkpoint.source),
    )


def _digest_notes(path: Path | None, layout: CheckpointLayout) -> list[str]:
    """A warning if a file has the name of a published one, but not its digest."""
    published = layout.publishing.digests.get(path.name) if path else None
    if not path or not published or (md5 := hashlib.md5(path.read_bytes()).hexdigest()) == published:
        return []
    return [
        f"Warning: {path}: its MD5 is {md5}, the published file's is {published}. Fix: download it again, or rename it "
        "if it is another model."
    ]


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


def _names(model: DenseModel) -> set[str]:
    """The keys of the model's state dict, and of the state dicts of its backbone, heads and necks."""
    parts = (model.backbone, *model.heads.values(), *model.necks.values())
    return set(model.state_dict()).union(*(part.state_dict() for part in parts))


def _fits(tensors: StateDict, model: DenseModel, metadata: Mapping[str, Any]) -> bool:
    """Whether a state dict has all parameters of the model or of its backbone, or the signature keys of a layout."""
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
    is_stem = {key: key.startswith(prefix) and x.ndim == 4 and x.shape[1] == 3 for key, x in tensors.items()}
    return {key: x.flip(1) if is_stem[key] else x for key, x in tensors.items()}
