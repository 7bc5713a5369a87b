"""A checkpoint with densevit's keys, as it is loaded into a model."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from densevit.channels import COLORS
from densevit.config import LoraSection, ModelSections, values_of_file, yaml_io
from densevit.errors import WeightsError, check_format, one_line
from densevit.interfaces import Licences
from densevit.model.lora import merged_state
from densevit.weights.checkpoint import Checkpoint
from densevit.weights.licences import from_header
from densevit.weights.state_dict_io import FORMAT

Triple = tuple[float, float, float]


@dataclass
class TranslatedCheckpoint:
    """A checkpoint with densevit's keys.

    layout_name: the name of another project's layout; "": densevit's own. describe: returns the config sections
    from which the checkpoint's model can be built. head_names: the checkpoint's head for each head of the model,
    where its name differs. absent: keys of each head that weights of another task never contain, with the reason.
    classes: known class names by the checkpoint's head. ignored_keys: keys that are not loaded, with the reason. zeros:
    biases that the checkpoint lacks, set to zeros, with the reason. unknown: keys that are unexpected in the
    layout. mean, std: the normalisation of the training images in RGB, for pixels in 0 ... 1; None if unknown.
    black_padding: whether the training images' padding was black.
    licences: licences by published source; for a densevit model, of the weights that it started from. channels:
    names of the channels that the backbone was trained on. adapted_stem: `BackboneSection.adapted_stem` of the
    model that densevit wrote. notes: the checkpoint's.
    """

    source: str
    tensors: dict[str, Tensor]
    layout_name: str = ""
    describe: Callable[[], dict[str, Any]] = dict
    head_names: Mapping[str, str] = field(default_factory=dict)
    absent: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    classes: dict[str, list[str]] = field(default_factory=dict)
    ignored_keys: dict[str, str] = field(default_factory=dict)
    zeros: dict[str, str] = field(default_factory=dict)
    unknown: Sequence[str] = ()
    mean: Triple | None = None
    std: Triple | None = None
    black_padding: bool = False
    licences: dict[str, Licences] = field(default_factory=dict)
    channels: tuple[str, ...] = COLORS
    adapted_stem: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def heads(self) -> list[str]:
        """The names of the checkpoint's heads."""
        return sorted({name.split(".")[1] for name in self.tensors if name.startswith("heads.")})

    @property
    def is_backbone(self) -> bool:
        """Whether it is another project's backbone without heads."""
        return False

    def config_text(self) -> str:
        """The end of a message: the config from which the model of another project's checkpoint can be built."""
        sections = yaml_io.write(self.describe()).strip().replace("\n", "\n  ")
        return f"Read as {self.layout_name}, the weights' config is\n  {sections}"

    def missing(self, names: Iterable[str], prefix: str = "") -> dict[str, str]:
        """The keys among `names` that checkpoints of this layout never contain, with the reason.

        names: keys of a part of the model. prefix: the part's prefix in the layout.
        """
        return {}


class ResolvedCheckpoint(NamedTuple):
    """A checkpoint, and the model's sections with the options that its weights imply. notes: pairs of a section's key
    and a sentence on an option."""

    sections: ModelSections
    checkpoint: TranslatedCheckpoint
    notes: Sequence[tuple[str, str]] = ()


def native(checkpoint: Checkpoint) -> TranslatedCheckpoint:
    """A checkpoint that has densevit's keys. Raises WeightsError for a corrupt header."""
    header, notes = checkpoint.header, checkpoint.with_container().notes
    translated = TranslatedCheckpoint(checkpoint.source, checkpoint.tensors, notes=notes)
    if header.get("format") == "densevit":
        check_format(header.get("format_version"), FORMAT, checkpoint.source, WeightsError)
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
            translated.mean, translated.std = triple(backbone.get("mean")), triple(backbone.get("std"))
            translated.black_padding = backbone.get("black_padding") is True
            if channels := backbone.get("channels"):
                translated.channels = tuple(map(str, channels["names"]))
            translated.adapted_stem = tuple(map(str, backbone.get("adapted_stem", ())))
            translated.licences = from_header(header)
        except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise WeightsError(
                f"{checkpoint.source}: its header is corrupt ({one_line(error)}). Copy it again."
            ) from error
    return translated


def channels_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """The keys of the section `backbone` that describe the image channels of a densevit checkpoint; empty for 8-bit
    RGB."""
    config = checkpoint.header.get("config", "{}") if checkpoint.header.get("format") == "densevit" else "{}"
    backbone: Any = values_of_file(config, checkpoint.source, trust=True).get("backbone")
    has_channels = isinstance(backbone, dict) and backbone.get("channels")
    return {key: backbone.get(key) for key in ("channels", "mean", "std")} if has_channels else {}


def triple(values: Any) -> Triple | None:
    """The values as a tuple if they are three finite numbers, else None."""
    if not isinstance(values, Sequence) or len(values) != 3 or not all(math.isfinite(value) for value in values):
        return None
    return (float(values[0]), float(values[1]), float(values[2]))
