"""A checkpoint brought into our names: one of ours, or another project's in any layout that is known."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from densevit.config import reading as yaml
from densevit.errors import WeightsError, one_line
from densevit.interfaces import IMAGENET_MEAN, IMAGENET_STD
from densevit.model import DenseModel
from densevit.weights.layout import Layout, translate
from densevit.weights.layouts import recognise
from densevit.weights.reading import Checkpoint, read

Triple = tuple[float, float, float]


@dataclass
class Arrival:
    """A checkpoint in our names.

    layout: None where it has them already. describe: the sections of a config that builds its model.
    classes: names of classes by task, where known. left_out, zeros, unknown: as in a `Translation`.
    mean, std: of pixels in 0 ... 1, RGB, that it was trained with; None where it states none.
    options: those that leave no trace in tensors and that came beside them, by their whole names.
    """

    source: str
    tensors: dict[str, Tensor]
    layout: Layout | None = None
    describe: Callable[[], dict[str, Any]] = dict
    classes: dict[str, list[str]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    zeros: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    mean: Triple | None = None
    std: Triple | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def heads(self) -> list[str]:
        """The names of its heads; where another project made it, their tasks."""
        return sorted({name.split(".")[1] for name in self.tensors if name.startswith("heads.")})

    @property
    def is_backbone(self) -> bool:
        """Whether it is another project's and a backbone alone."""
        return self.layout is not None and self.layout.part == "backbone"

    def fresh(self, names: Iterable[str], prefix: str = "") -> dict[str, str]:
        """Those of our names that such a checkpoint never has, and why. prefix: what the layout has before them."""
        if self.layout is None:
            return {}
        reasons = {
            name: self.layout.fresh_because(prefix + name) for name in names if prefix + name not in self.tensors
        }
        return {name: why for name, why in reasons.items() if why is not None}


def arrive(source: str | Path, model: DenseModel) -> Arrival:
    """Reads a checkpoint and brings it into our names.

    model: the one that it is for; it tells what our names are. Raises WeightsError where no layout is recognised, or
    what is there does not fit together.
    """
    checkpoint = read(source)
    tensors, names = checkpoint.tensors, _names(model)
    counted = [name for name in tensors if not name.endswith("num_batches_tracked")]
    if checkpoint.entries.get("format") == "densevit" or names.issuperset(counted):
        return _ours(checkpoint)
    wrapped = _in_wrapper(tensors, model.backbone)
    if wrapped is not None:
        return _ours(replace(checkpoint, tensors=wrapped))
    try:
        layout = recognise(tensors, str(source))
    except WeightsError:
        if names.isdisjoint(tensors):
            raise
        return _ours(checkpoint)  # ours, of another config: `fit` says what does not fit
    arrival = translated(checkpoint, layout)
    if is_bgr(checkpoint):
        turn_channels(arrival, model.backbone)
    return arrival


def translated(checkpoint: Checkpoint, layout: Layout) -> Arrival:
    """Another project's checkpoint in our names. Raises WeightsError where it is not a whole one of that layout."""
    tensors, facts = checkpoint.tensors, checkpoint.facts
    translation = translate(tensors, layout)
    if translation.wrong:
        raise WeightsError(
            f"{checkpoint.source}: as {layout.name} it is not whole: {'; '.join(translation.wrong[:3])}."
        )
    classes = layout.classes(tensors, facts) if layout.classes else {}
    options = {name: value for name, value in facts.get("options", {}).items() if name in layout.untold}
    return Arrival(
        checkpoint.source,
        translation.tensors,
        layout,
        lambda: _with_options(layout.describe(tensors), options),
        {task: [one.name for one in own] for task, own in classes.items()},
        translation.left_out,
        translation.zeros,
        translation.unknown,
        _triple(facts.get("mean")) or layout.mean or IMAGENET_MEAN,
        _triple(facts.get("std")) or layout.std or IMAGENET_STD,
        options,
    )


def is_bgr(checkpoint: Checkpoint) -> bool:
    """Whether it was trained on pictures whose channels are blue, green, red."""
    return checkpoint.facts.get("channel_order") == "bgr"


def _ours(checkpoint: Checkpoint) -> Arrival:
    entries, facts = checkpoint.entries, checkpoint.facts
    arrival = Arrival(
        checkpoint.source, checkpoint.tensors, mean=_triple(facts.get("mean")), std=_triple(facts.get("std"))
    )
    if entries.get("format") == "densevit":
        try:
            classes = json.loads(entries["classes"])
            arrival.classes = {task: [one["name"] for one in own] for task, own in classes.items()}
            backbone = yaml.parse(entries["config"], checkpoint.source)["backbone"]
            arrival.mean, arrival.std = _triple(backbone.get("mean")), _triple(backbone.get("std"))
        except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise WeightsError(
                f"{checkpoint.source}: its header is spoilt ({one_line(error)}). Copy it again."
            ) from error
    return arrival


def _names(model: DenseModel) -> set[str]:
    """The names of the model's tensors, and those within its backbone and each head and neck."""
    names = set(model.state_dict())
    parts = [model.backbone, *model.heads.values(), *model.necks.values()]
    return names.union(*(part.state_dict() for part in parts))


def _in_wrapper(tensors: Mapping[str, Tensor], backbone: nn.Module) -> dict[str, Tensor] | None:
    """The tensors of a model that the backbone wraps, as the one of timm does, with the wrapper's prefix; else None."""
    names = [name for name in backbone.state_dict() if not name.endswith("num_batches_tracked")]
    outer = {name.partition(".")[0] for name in names}
    if len(outer) != 1 or not all(name.partition(".")[2] in tensors for name in names):
        return None
    return {f"{next(iter(outer))}.{name}": tensor for name, tensor in tensors.items()}


def _with_options(sections: dict[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in options.items():
        *path, key = name.split(".")
        section = sections
        for part in path:
            section = section[part]
        section[key] = value
    return sections


def turn_channels(arrival: Arrival, backbone: nn.Module) -> None:
    """What was trained on BGR, as it is for RGB: kernels that see the picture, mean and deviation are turned round."""
    for prefix in ("", "backbone."):
        for name, module in backbone.named_modules():
            key = f"{prefix}{name}.weight"
            if isinstance(module, nn.Conv2d) and key in arrival.tensors and arrival.tensors[key].shape[1] == 3:
                arrival.tensors[key] = arrival.tensors[key].flip(1)
    mean, std = arrival.mean, arrival.std
    arrival.mean = mean and (mean[2], mean[1], mean[0])
    arrival.std = std and (std[2], std[1], std[0])


def _triple(values: Any) -> Triple | None:
    """Three finite numbers; None for anything else."""
    if not isinstance(values, Sequence) or len(values) != 3 or not all(math.isfinite(value) for value in values):
        return None
    return (float(values[0]), float(values[1]), float(values[2]))
