"""The interface of checkpoint layouts: the tensor names and options of other projects' checkpoints."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from densevit.interfaces.backbones import IMAGENET_MEAN, IMAGENET_STD
from densevit.interfaces.data_types import Class
from densevit.interfaces.licences import NOTHING_STATED, Licences

StateDict = Mapping[str, Tensor]


ZEROS = "0"  # in place of a key; see `Line`


@dataclass(frozen=True)
class Change:
    """A tensor transformation from the project's format to densevit's, and its inverse."""

    forward: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Rearrangement:
    """A transformation of a complete state dict that lines cannot express, such as a sum of two tensors.

    forward: converts the project's tensors to the tensors in the lines. inverse: the reverse. Neither modifies its
    argument.
    """

    forward: Callable[[StateDict], StateDict]
    inverse: Callable[[StateDict], StateDict]


class Line(NamedTuple):
    """A line of a layout's table: the project's key, densevit's key and an optional transformation of the tensor.

    `{i}`, `{b}`, ... match a number, the same on both sides; a final `*` matches any suffix. `[0/3]` after a key is
    the first of three equal parts along the first axis: `q.*` and `qkv.*[0/3]`. `0` in place of a key is a part of
    zeros: `0` and `qkv.bias[1/3]` if the project has no bias for keys, `qkv.bias[1/3]` and `0` if its bias has no
    effect.
    """

    foreign_key: str
    key: str
    change: Change | None = None


Metadata = Mapping[str, Any]  # of the files that accompany a checkpoint


ConfigFiles = Callable[[Mapping[str, Any], StateDict, Sequence[Class]], dict[str, dict[str, Any]]]
Recipe = Callable[[Mapping[str, Any], Mapping[str, Sequence[Class]]], tuple[str, dict[str, Any]]]


@dataclass(frozen=True)
class OtherKeys:
    """Keys of the same tensors in other files of the project: read like the keys in `lines`, never written.

    prefixes: possible prefixes of all keys, such as "vit." in a classifier.
    spellings: other names of keys, each with the name in `lines`, as in a line; without prefix.
    """

    prefixes: tuple[str, ...] = ()
    spellings: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class SpecialTensors:
    """Tensors that the lines of a table do not describe.

    no_effect: the project's keys without effect in densevit's model, with the reason.
    missing: densevit's keys that checkpoints lack, with the reason; they keep their initial values.
    zero_biases: densevit's backbone biases that checkpoints may lack, with the reason; they become zeros. A bias of
        zeros is not exported.
    copies: keys that repeat another tensor, and that tensor's key; both must be equal.
    rearrange: applied to the state dict before the lines.
    """

    no_effect: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    zero_biases: Mapping[str, str] = field(default_factory=dict)
    copies: Mapping[str, str] = field(default_factory=dict)
    rearrange: Rearrangement | None = None


@dataclass(frozen=True)
class LayoutOptions:
    """Options of the model that tensors with effect do not determine.

    unsaved: options by full key, such as "backbone.dilation". `describe` returns the usual value or none.
    saved: returns the options among these that tensors without effect, or the metadata, determine.
    implied: fields of config.json, such as "hidden_act" or "backbone_config.hidden_act", each with the only values
        that the model is built for. Another value is an error.
    runtime: backbone options that change the use of the same tensors, such as "features"; an export uses the model's.
    project_defaults: options that the project's code determines: a backbone's by name, a head's by full key, as
        "heads.detection.blank_padding". `describe` returns values that differ from the plugin's defaults. Differences
        are reported.
    """

    unsaved: tuple[str, ...] = ()
    saved: Callable[[StateDict, Metadata], dict[str, Any]] = lambda state, metadata: {}
    implied: Mapping[str, Collection[Any]] = field(default_factory=dict)
    runtime: tuple[str, ...] = ()
    project_defaults: tuple[str, ...] = ()


@dataclass(frozen=True)
class PublishedModel:
    """What the authors of weights publish about a model, for `densevit.list_models`.

    task: the head's, or "backbone".
    parameters: the number in densevit's model with the data set's classes, a backbone's without classifier; None:
        not counted.
    scores: the authors', as fractions or metres, by metric and data set: {"box AP, COCO": 0.42}; the main score first.
    recipe: the arguments of `densevit train` for this model, a shipped config's name and overrides:
        "coco/detr_r50 backbone.depth=101"; a backbone's are overrides: "backbone.name=resnet backbone.depth=50".
    """

    task: str
    parameters: int | None
    scores: Mapping[str, float]
    recipe: str = ""


@dataclass(frozen=True)
class AsAuthors:
    """How the models of a layout compare with the authors' code, for docs/development/as-the-authors.md.

    Each field is "equal", or what differs and why; "": not compared.

    resize: the resizing of images for evaluation. padding: its place and colour. normalisation: that of pixels.
    predictions: boxes, masks and maps in pixels of the image, from outputs. losses: losses and their gradients.
    sampling: what training draws at random, such as crops and points of masks.
    """

    resize: str = ""
    padding: str = ""
    normalisation: str = ""
    predictions: str = ""
    losses: str = ""
    sampling: str = ""


@dataclass(frozen=True)
class Publishing:
    """Metadata of published models: normalisation, licences, export files, recipe and comparison with the authors.

    mean, std: RGB, of pixels in 0 ... 1, used in training.
    black_padding: whether padding was black before normalisation, also in training; False: the mean colour.
    licences: the licences of files that `files` does not name. A function of the state dict with the project's keys and
        the metadata if models of one layout have different licences.
    files: the licences of published files, by pattern of their names: of complete names, such as "hf:acme/r50-*", or of
        file names, such as "acme_r50_*.pth". The first pattern that matches decides.
    digests: the MD5 that the authors state of published files, by name. A file with another one causes a warning.
    models: the published models, by the name that `weights` takes, or else by the name of the file.
    config_files: returns the files of an export to transformers from the config sections, the tensors with densevit's
        keys and a model's classes: {"config.json": ...}, and the content of "preprocessor_config.json" except the
        normalisation. {} if transformers has no such model.
    recipe: returns, from the config sections and a model's classes by task, a config's name, such as "coco/detr_r50",
        whose data, training and inference settings `convert` writes, and sections that differ. A data section with a
        `name` replaces the data set's options; the name of a data section's file replaces the section. "": no config.
    as_authors: how these models compare with the authors' code.
    """

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    black_padding: bool = False
    licences: Licences | Callable[[StateDict, Metadata], Licences] = NOTHING_STATED
    files: Mapping[str, Licences] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    models: Mapping[str, PublishedModel] = field(default_factory=dict)
    config_files: ConfigFiles = lambda *_: {}
    recipe: Recipe = lambda *_: ("", {})
    as_authors: AsAuthors = AsAuthors()


@dataclass(frozen=True)
class CheckpointLayout:
    """The format of a project's checkpoints of one architecture (entry-point group `densevit.checkpoints`).

    name: the name of the entry point, and the value of `convert --as`: PROJECT-ARCHITECTURE.
    signature_keys: keys, as in a line, that every checkpoint contains. Of the layouts whose keys are all present, the
        layout with the most is chosen; a layout without signature keys is never recognised.
    lines: the table. Each tensor uses the first line that matches its key, or the first line for each part. densevit's
        keys are a backbone's, or a complete model's, which begin with `backbone.` and `heads.TASK.`.
    describe: returns the config sections that build the model, {"backbone": {"name": ...}}, from the tensors with
        densevit's keys. Raises WeightsError for an unknown variant; a KeyError is reported as a missing tensor.
    classes: returns a model's classes by task, from the state dict and the metadata of the checkpoint.

    other_keys, special, options, publishing: other names of keys; tensors that the lines do not describe; options that
        tensors do not determine; metadata of published models.

    variants: layouts of the same project and architecture whose tensors have another meaning. They need no entry point.
    fits: whether a checkpoint with all signature keys has this layout, from its tensors and metadata; None: always.
    container: where files with several state dicts have the published one, such as "model" or "ema.module"; "": the
        average of the weights (EMA), if there is one.

    The metadata of a checkpoint contains config.json as `config`; {} without one.

    Example:
        >>> from densevit.interfaces import Line
        >>> def describe(tensors): return {"backbone": {"name": "resnet", "depth": 50}}
        >>> lines = (Line("stem.conv.*", "conv1.*"), Line("stem.norm.*", "bn1.*"))
        >>> densevit.CheckpointLayout("acme-resnet", ("stem.conv.weight",), lines, describe).is_backbone
        True
    """

    name: str
    signature_keys: tuple[str, ...]
    lines: tuple[Line, ...]
    describe: Callable[[StateDict], dict[str, Any]]
    classes: Callable[[StateDict, Metadata], Mapping[str, Sequence[Class]]] | None = None
    other_keys: OtherKeys = OtherKeys()
    special: SpecialTensors = SpecialTensors()
    options: LayoutOptions = LayoutOptions()
    publishing: Publishing = Publishing()
    variants: tuple["CheckpointLayout", ...] = ()
    fits: Callable[[StateDict, Metadata], bool] | None = None
    container: str = ""

    @property
    def is_backbone(self) -> bool:
        """Whether checkpoints contain only a backbone."""
        return not any(line.key.startswith("heads.") for line in self.lines)
