"""The interface of checkpoint layouts: the tensor names and options of other projects' checkpoints."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from torch import Tensor

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

    theirs: str
    ours: str
    change: Change | None = None


@dataclass(frozen=True)
class CheckpointLayout:
    """The format of one project's checkpoints of one architecture (entry-point group `densevit.checkpoints`).

    name: the name of the entry point, and the value of `convert --as` and `--to`: PROJECT-ARCHITECTURE.
    part: "backbone": our keys in `lines` are the backbone's; "model": they begin with `backbone.` and `heads.TASK.`.
    marks: keys, as in a line, that every such checkpoint has. Among the layouts whose marks are all present, the one
        with the most marks is chosen; one without marks is never recognised.
    lines: each tensor uses the first line that matches its key, or the first for each part.
    describe: returns the config sections that build the model, {"backbone": {"name": ...}}, given the tensors with our
        keys. Raises WeightsError for an unknown variant; a KeyError is reported as a missing tensor.

    Keys of the same tensors in other files, which reading takes for those in `lines`; writing uses those in `lines`:

    prefixes: that all keys of such a checkpoint may begin with, as "vit." in a classifier.
    spellings: other names of their keys, each with the name in `lines`, as in a line; without prefix.

    Checkpoints of the same project and architecture whose tensors have another meaning:

    variants: their layouts, each with a name and marks of its own. They need no entry point.
    fits: whether a checkpoint with all marks is of this variant, from its tensors and metadata; None: it is.

    What reading and writing need besides the lines:

    no_effect: their keys that have no effect in our model, with the reason.
    missing: our keys that such a checkpoint never has, with the reason; they keep their initial values.
    zero_biases: our backbone biases that such a checkpoint may lack, with the reason; they are set to zeros. A bias
        of zeros is not exported.
    copies: keys that repeat another tensor, and that tensor's key; the two must be equal.
    rearrange: applied to the state dict before the lines.
    saved_under: the key of the state dict in the project's .pth files; None: the files contain it alone.

    What the tensors do not show. Metadata has the content of config.json as `config`, {} if there is none:

    mean, std: RGB, of pixels in 0 ... 1, used in training; None: ImageNet's.
    classes: returns a model's classes by task, given the state dict and the metadata of the checkpoint.
    unsaved: options such as "backbone.dilation" that tensors do not determine. `describe` returns the usual value or
        none.
    saved_options: those of them by full key that tensors without effect, or the metadata, determine.
    implied: the values that fields of config.json must have, because the model is built for no others: by field, as
        "hidden_act" or "backbone_config.hidden_act". Another value is an error.
    runtime_options: backbone options that change the use of the same tensors, such as "features": an export takes the
        model's.
    project_defaults: the options that the project's code determines, not its tensors: a backbone's by name, a head's by
        full key, as "heads.detection.blank_padding". `describe` returns their values that are not the plugin's
        defaults. Differences are reported.
    licence: the licence of the weights that the project publishes, with its source; "": unknown. A function of the
        state dict with their keys and the metadata, if models of one layout have several.

    config_files: returns the files of an export to transformers, given the config sections, the tensors with our keys
        and a model's classes: {"config.json": ...}, and what "preprocessor_config.json" has besides the normalisation
        of pixels. {} if transformers has no such model.
    recipe: returns, given the config sections and a model's classes by task, a config, as "coco/detr_r50", whose data,
        training and inference settings `convert` writes, and sections that differ. A data section with a `name`
        replaces the data set's own options; the name of a data section's file replaces the section.
    """

    name: str
    part: Literal["backbone", "model"]
    marks: tuple[str, ...]
    lines: tuple[Line, ...]
    describe: Callable[[StateDict], dict[str, Any]]
    prefixes: tuple[str, ...] = ()
    spellings: tuple[tuple[str, str], ...] = ()
    variants: tuple["CheckpointLayout", ...] = ()
    fits: Callable[[StateDict, Mapping[str, Any]], bool] | None = None
    no_effect: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    zero_biases: Mapping[str, str] = field(default_factory=dict)
    copies: Mapping[str, str] = field(default_factory=dict)
    rearrange: Rearrangement | None = None
    saved_under: str | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    classes: Callable[[StateDict, Mapping[str, Any]], Mapping[str, Sequence[Class]]] | None = None
    unsaved: tuple[str, ...] = ()
    saved_options: Callable[[StateDict, Mapping[str, Any]], dict[str, Any]] | None = None
    implied: Mapping[str, Collection[Any]] = field(default_factory=dict)
    runtime_options: tuple[str, ...] = ()
    project_defaults: tuple[str, ...] = ()
    licence: str | Callable[[StateDict, Mapping[str, Any]], str] = ""
    config_files: Callable[[Mapping[str, Any], StateDict, Sequence[Class]], dict[str, dict[str, Any]]] | None = None
    recipe: Callable[[Mapping[str, Any], Mapping[str, Sequence[Class]]], tuple[str, dict[str, Any]]] | None = None
