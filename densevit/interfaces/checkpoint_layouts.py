"""The interface of checkpoint layouts: the tensor names and options of other projects' checkpoints."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from densevit.interfaces.backbones import IMAGENET_MEAN, IMAGENET_STD
from densevit.interfaces.data_types import Class

StateDict = Mapping[str, Tensor]


ZEROS = "0"  # in place of a key; see `Line`


@dataclass(frozen=True)
class Change:
    """A tensor transformation from their format to ours, and its inverse."""

    forward: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Rearrangement:
    """A transformation of a complete state dict that lines cannot express, such as the sum of two of their tensors.

    forward: converts their tensors to those that the lines name. inverse: the reverse. Neither modifies its argument.
    """

    forward: Callable[[StateDict], StateDict]
    inverse: Callable[[StateDict], StateDict]


class Line(NamedTuple):
    """A line of a layout's table: their key, our key and an optional transformation of the tensor.

    `{i}`, `{b}`, ... match a number, the same on both sides; a final `*` matches any suffix. `[0/3]` after a key is
    the first of three equal parts along the first axis: `q.*` and `qkv.*[0/3]`. `0` in place of a key is a part of
    zeros: `0` and `qkv.bias[1/3]` if they have no bias for keys, `qkv.bias[1/3]` and `0` if their bias has no effect.
    """

    foreign_key: str
    key: str
    change: Change | None = None


Metadata = Mapping[str, Any]  # of the files beside a checkpoint


def _no_options(state: StateDict, metadata: Metadata) -> dict[str, Any]:
    return {}


def _no_files(sections: Mapping[str, Any], state: StateDict, classes: Sequence[Class]) -> dict[str, dict[str, Any]]:
    return {}


def _no_recipe(sections: Mapping[str, Any], classes: Mapping[str, Sequence[Class]]) -> tuple[str, dict[str, Any]]:
    return "", {}


@dataclass(frozen=True)
class OtherKeys:
    """Keys of the same tensors in other files of the project. They are read as the keys in `lines`, which are written.

    prefixes: that all keys of such a checkpoint may begin with, as "vit." in a classifier.
    spellings: other names of their keys, each with the name in `lines`, as in a line; without prefix.
    """

    prefixes: tuple[str, ...] = ()
    spellings: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class SpecialTensors:
    """The tensors that the lines of a table do not describe.

    no_effect: their keys that have no effect in our model, with the reason.
    missing: our keys that such a checkpoint never has, with the reason; they keep their initial values.
    zero_biases: our backbone biases that such a checkpoint may lack, with the reason; they are set to zeros. A bias
        of zeros is not exported.
    copies: keys that repeat another tensor, and that tensor's key; the two must be equal.
    rearrange: applied to the state dict before the lines.
    """

    no_effect: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    zero_biases: Mapping[str, str] = field(default_factory=dict)
    copies: Mapping[str, str] = field(default_factory=dict)
    rearrange: Rearrangement | None = None


@dataclass(frozen=True)
class LayoutOptions:
    """The options of the model that tensors with effect do not determine.

    unsaved: options by full key, such as "backbone.dilation". `describe` returns the usual value or none.
    saved: returns those of them that tensors without effect, or the metadata, determine.
    implied: the values that fields of config.json must have, because the model is built for no others: by field, as
        "hidden_act" or "backbone_config.hidden_act". Another value is an error.
    runtime: backbone options that change the use of the same tensors, such as "features": an export takes the model's.
    project_defaults: the options that the project's code determines: a backbone's by name, a head's by full key, as
        "heads.detection.blank_padding". `describe` returns their values that are not the plugin's defaults.
        Differences are reported.
    """

    unsaved: tuple[str, ...] = ()
    saved: Callable[[StateDict, Metadata], dict[str, Any]] = _no_options
    implied: Mapping[str, Collection[Any]] = field(default_factory=dict)
    runtime: tuple[str, ...] = ()
    project_defaults: tuple[str, ...] = ()


@dataclass(frozen=True)
class Publishing:
    """What surrounds the tensors where the project publishes a model, and where we do.

    mean, std: RGB, of pixels in 0 ... 1, used in training.
    licence: the licence of the weights that the project publishes, with its source; "": unknown. A function of the
        state dict with their keys and the metadata, if models of one layout have several.
    config_files: returns the files of an export to transformers, given the config sections, the tensors with our keys
        and a model's classes: {"config.json": ...}, and what "preprocessor_config.json" has besides the normalisation
        of pixels. {} if transformers has no such model.
    recipe: returns, given the config sections and a model's classes by task, a config, as "coco/detr_r50", whose data,
        training and inference settings `convert` writes, and sections that differ. A data section with a `name`
        replaces the data set's own options; the name of a data section's file replaces the section. "": no config.
    """

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    licence: str | Callable[[StateDict, Metadata], str] = ""
    config_files: Callable[[Mapping[str, Any], StateDict, Sequence[Class]], dict[str, dict[str, Any]]] = _no_files
    recipe: Callable[[Mapping[str, Any], Mapping[str, Sequence[Class]]], tuple[str, dict[str, Any]]] = _no_recipe


@dataclass(frozen=True)
class CheckpointLayout:
    """The format of one project's checkpoints of one architecture (entry-point group `densevit.checkpoints`).

    name: the name of the entry point, and the value of `convert --as`: PROJECT-ARCHITECTURE.
    marks: keys, as in a line, that every such checkpoint has. Among the layouts whose marks are all present, the one
        with the most marks is chosen; one without marks is never recognised.
    lines: the table. Each tensor uses the first line that matches its key, or the first for each part. Our keys are a
        backbone's, or of a complete model: they begin with `backbone.` and `heads.TASK.`.
    describe: returns the config sections that build the model, {"backbone": {"name": ...}}, given the tensors with our
        keys. Raises WeightsError for an unknown variant; a KeyError is reported as a missing tensor.
    classes: returns a model's classes by task, given the state dict and the metadata of the checkpoint.

    other_keys, special, options, publishing: other names of their keys; tensors that the lines do not describe; options
        that tensors do not determine; the files around the tensors.

    variants: layouts of the same project and architecture whose tensors have another meaning. They need no entry point.
    fits: whether a checkpoint with all marks is of this layout, given its tensors and metadata; None: it is.

    The metadata of a checkpoint has the content of config.json as `config`, {} if there is none.
    """

    name: str
    marks: tuple[str, ...]
    lines: tuple[Line, ...]
    describe: Callable[[StateDict], dict[str, Any]]
    classes: Callable[[StateDict, Metadata], Mapping[str, Sequence[Class]]] | None = None
    other_keys: OtherKeys = OtherKeys()
    special: SpecialTensors = SpecialTensors()
    options: LayoutOptions = LayoutOptions()
    publishing: Publishing = Publishing()
    variants: tuple["CheckpointLayout", ...] = ()
    fits: Callable[[StateDict, Metadata], bool] | None = None

    @property
    def is_backbone(self) -> bool:
        """Whether its checkpoints have a backbone alone."""
        return not any(line.key.startswith("heads.") for line in self.lines)
