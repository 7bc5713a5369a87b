"""The interfaces of plugins, and the data that they exchange.

This file is the complete contract for plugin authors; `docs/own-backbone.md` and `docs/own-head.md` are tutorials.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypedDict

import numpy as np
from torch import Tensor, nn

from densevit.errors import ConfigError
from densevit.losses.segmentation import IGNORE as IGNORE  # ignore index of `semantic`

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


Color = tuple[int, int, int]


@dataclass(frozen=True)
class Class:
    """One class of a data set. densevit uses class indices 0 ... K-1 in the order of the data set."""

    name: str
    file_id: int  # id in annotation files (COCO: 1 ... 90), used again in prediction files and evaluation
    color: Color  # RGB, 0 ... 255
    thing: bool = True  # countable ("thing"); False for "stuff"


Targets = dict[str, Any]
"""Labels of one image, at the size of that image. A missing key means "not labelled", never "empty".

boxes: (N, 4) float32, absolute xyxy in pixels. labels: (N,) int64. masks: (N, H, W) bool.
semantic: (H, W) uint8, 255 = ignore. depth: (H, W) float32 in metres, 0 = invalid.
area: (N,), as annotated. iscrowd: (N,) bool. Boxes and area may be float64, for evaluation.
image_id: int or str. size: (h, w) without padding. original_size: (h, w) of the file.
truth: in validation, the unmodified targets of the data set, in original pixels.

Each key has a `TargetType`. A key without one may have a value that does not depend on cropping, resizing or flipping:
a string, a single number, None, a list of strings, or a dict of these, which is passed through unchanged. A tensor, an
array or a list of numbers under a key without a type is an error.
"""

Outputs = dict[str, Any]
"""Outputs of a head for a padded batch: `logits`, `boxes`, `masks`, `depth`, and what else its loss needs."""

Losses = dict[str, Tensor]
"""Weighted scalar loss terms; their sum is minimised."""

Predictions = dict[str, Any]
"""Predictions for one image in original pixels: boxes xyxy, scores, labels, semantic, depth, masks."""

Table = Sequence[Sequence[str | int | float]]
"""Rows; the first is the header."""


Size = tuple[int, int]
"""Height and width in pixels."""

Window = tuple[int, int, int, int]
"""Top, left, bottom and right of a crop, in whole pixels."""


class Sample(TypedDict):
    """One image with its targets. image: (3, H, W) uint8, RGB."""

    image: Tensor
    targets: Targets


class Batch(TypedDict):
    """images: (B, 3, H, W) uint8, padded to one size. padding_mask: (B, H, W) bool, True = padding."""

    images: Tensor
    padding_mask: Tensor
    targets: list[Targets]


class Backbone(nn.Module):
    """Computes feature maps from images.

    channels, strides: one per feature, fine to coarse; strides in input pixels.
    mean, std: normalisation of pixels in 0 ... 1, which the model applies before the backbone.
    input_size: (H, W), only if the architecture has a fixed input size.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    input_size: tuple[int, int] | None = None

    def forward(self, images: Tensor) -> list[Tensor]:
        """images: (B, 3, H, W) float, any H and W. Returns features (B, C_i, ceil(H / s_i), ceil(W / s_i))."""
        raise NotImplementedError(f"{type(self).__name__} is a Backbone and must implement forward(images).")

    def parameter_depths(self) -> list[list[nn.Parameter]]:
        """Parameters grouped by depth, input first, for layer-wise learning rates. Default: one group per child."""
        groups = [list(child.parameters()) for child in self.children()]
        own = list(self.parameters(recurse=False))
        return [group for group in (own, *groups) if group]


class Neck(nn.Module):
    """Transforms the feature maps for one head (`heads.NAME.neck`)."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __init__(self, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.channels, self.strides = tuple(channels), tuple(strides)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Returns features with the `channels` and `strides` of this neck."""
        raise NotImplementedError(f"{type(self).__name__} is a Neck and must implement forward(features).")


class Head(nn.Module):
    """Computes outputs, losses and predictions of one task from feature maps.

    task: "detection", "segmentation", "depth" or a custom name; determines the classes and the evaluator.
    needs: target keys required for training; checked against the data at the start.
    quantity: output of a depth head: "depth" in metres, which needs metric ground truth, or relative "inverse_depth",
        which is evaluated after alignment. None: not declared and not checked.
    target_types: the types of keys of its predictions that have options, such as a skeleton; the others have the
        registered type of that name.
    """

    task: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]
    quantity: str | None = None
    target_types: "Mapping[str, TargetType] | None" = None

    def __init__(self, channels: Sequence[int], strides: Sequence[int], classes: Sequence[Class]) -> None:
        super().__init__()
        self.classes = tuple(classes)

    @classmethod
    def classes_from(cls, dataset: "Dataset") -> tuple[Class, ...]:
        """Returns the classes that the head predicts for this data set. Default: those of its task, else none."""
        return tuple(dataset.classes.get(cls.task, ()))

    def check(self, dataset: "Dataset") -> None:
        """Called once before training with the training split. Default: a head for metric depth needs metric data.

        Raises ConfigError if the head cannot be trained on it; the message continues "heads.NAME (PLUGIN) ".
        """
        if self.quantity == "depth" and not dataset.metric:
            raise ConfigError(
                "learns metres, but the depth of the data set has no unit (metric: false). Fix: give the head a "
                "relative output (output: relative); or calibrate the data: set what its values are in metres "
                "(data.scale; for disparity data.baseline and data.focal), and remove metric: false."
            )

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """padding_mask: (B, H, W) bool, True = padding. targets: in training only."""
        raise NotImplementedError(
            f"{type(self).__name__} is a Head and must implement forward(features, padding_mask, targets)."
        )

    def loss(self, outputs: Outputs, targets: list[Targets]) -> Losses:
        """Returns always the same keys. Images that lack a key of `needs` are ignored; images without objects are not.

        If no image is labelled, every term is exactly 0 and still connected to every parameter.
        """
        raise NotImplementedError(f"{type(self).__name__} is a Head and must implement loss(outputs, targets).")

    def predict(self, outputs: Outputs, targets: list[Targets]) -> list[Predictions]:
        """Returns one dict per image, in original pixels. Uses only `size` and `original_size` of the targets."""
        raise NotImplementedError(f"{type(self).__name__} is a Head and must implement predict(outputs, targets).")

    def maps(self, outputs: Outputs, size: tuple[int, int]) -> Tensor:
        """Dense heads: maps (B, C, *size) in float32 that test-time augmentation averages, e.g. logits or depth.

        size: in pixels, of the padded batch or a top-left crop of it. If C is the number of classes,
        `inference.average: probabilities` averages softmax(maps) instead.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement maps().")

    def undo_zoom(self, maps: Tensor, zoom: float) -> Tensor:
        """Dense heads: converts `maps` (B, C, h, w) of an image that was enlarged by `zoom` to zoom 1.

        Called before maps of several scales are averaged (`inference.scales`). By default, maps of a head whose
        `quantity` is "depth" are multiplied by the zoom, because training divides depth by it; others are unchanged.
        Heads whose maps depend on the zoom in another way, e.g. log depth, override this method.
        """
        return maps * zoom if self.quantity == "depth" else maps

    def read_maps(self, maps: Tensor) -> Predictions:
        """Dense heads: predictions from averaged maps (B, C, h, w): `semantic` (B, h, w) or `depth` (B, h, w).

        Called on crops of the maps in original pixels, so the result of a pixel may depend only on its C values, which
        may be probabilities instead of logits (see `maps`). For an image that is not resized it equals `predict`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement read_maps().")


class Dataset:
    """Images with targets in original pixels. The framework resizes, augments and batches them.

    The constructor takes `split` ("train" or "val"), its own options, and optionally `image_size`.
    classes: by task; things for "detection", things and stuff for "segmentation".
    provides: the target keys that are labelled, see `Targets`; or a mapping from these keys to their types. Keys
        without a type have the registered type of that name.
    metric: whether `depth` is in metres; False if its unit is unknown.
    """

    classes: dict[str, tuple[Class, ...]]
    provides: "tuple[str, ...] | Mapping[str, TargetType | None]"
    metric: bool = True

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} is a Dataset and must implement __len__.")

    def __getitem__(self, index: int) -> Sample:
        """Returns a sample in original pixels, with `image_id`; deterministic, and the same in all processes."""
        raise NotImplementedError(f"{type(self).__name__} is a Dataset and must implement __getitem__.")

    def check_labels(self) -> None:
        """Raises DataError if no image has a label, so that training or evaluation is impossible. Default: no check.

        Called before training, for the training and the evaluation split.
        """

    def sizes(self) -> np.ndarray | None:
        """Heights and widths (N, 2), if known without reading images; evaluation then batches equal sizes."""
        return None

    def epoch_indices(self, epoch: int) -> np.ndarray:
        """Indices of this training epoch, (M,) int64, with the same M in every epoch. Default: each index once.

        Indices may be repeated; each occurrence is augmented differently.
        """
        return np.arange(len(self))


class Frame(NamedTuple):
    """A window on an image, and the size to which it is resized."""

    window: Window
    size: Size


class Recipe:
    """The geometry and colours of augmentation (`data.recipe`). The constructor takes `image_size` and its own options.

    canvas: (h, w) to which training images are padded, or None; evaluation_canvas: the same for evaluation.
    recoloring: random changes of colour: "none", "gentle", "photometric", or image-only transforms of albumentations.
    """

    canvas: Size | None = None
    evaluation_canvas: Size | None = None
    recoloring: Any = "none"

    def evaluation_size(self, height: int, width: int) -> Size:
        """Returns the size to which an image is resized for evaluation, without padding."""
        raise NotImplementedError(f"{type(self).__name__} is a Recipe and must implement evaluation_size().")

    def training_frame(
        self, height: int, width: int, rng: np.random.Generator, semantic: np.ndarray | None = None
    ) -> Frame:
        """Draws the window on a training image and the size to which it is resized.

        The image is flipped before in half of the cases. semantic: its label map (height, width), if it has one.
        """
        raise NotImplementedError(f"{type(self).__name__} is a Recipe and must implement training_frame().")


class Method(nn.Module):
    """How a model is trained. The built-in method `supervised` minimises the losses of the heads.

    The constructor takes the model, a `DenseModel`, and its own options. Modules of its own, such as a decoder or a
    teacher, are trained unless frozen, and saved in checkpoints, but not in the model file. The model may have no
    heads; then its backbone is saved. See `docs/own-method.md`.

    needs_heads: whether the model must have heads. needs_labels: whether the training images must have labels.
    views: batches have this number of differently augmented copies of each image: first all first copies.
    """

    needs_heads: bool = False
    needs_labels: bool = False
    views: int = 1

    def __init__(self, model: Any) -> None:
        super().__init__()

    def transform(self, recipe: Any) -> Any:
        """The training transform (sample, generator, types) -> sample. Default: that of `data.recipe`."""
        return recipe

    def training_step(self, model: Any, batch: Batch) -> Losses:
        """Returns the loss terms of a batch. The model is in training mode.

        They depend on the same parameters in each step, also for blank images without labels: with several processes,
        a step on such images finds the parameters that are not used, which are then frozen.
        """
        raise NotImplementedError(f"{type(self).__name__} is a Method and must implement training_step(model, batch).")

    def after_step(self, model: Any) -> None:
        """Called after each optimiser step, without gradients, for example to update a teacher. Default: nothing."""

    def validation_losses(self, model: Any, batch: Batch) -> Tensor:
        """Returns the loss of each image (B,), without gradients. Its mean is the metric `method/loss`, which selects
        the best epoch of a model without heads. Not implemented by default: only the heads are evaluated.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement validation_losses().")


class Canvas(Protocol):
    """An image that a `TargetType` draws on. Coordinates are in pixels of the original image."""

    def overlay(self, colors: np.ndarray, mask: np.ndarray) -> None:
        """Blends colours (H, W, 3) uint8 with the image where mask (H, W) is True."""

    def boxes(self, boxes: np.ndarray, colors: Sequence[Color], texts: Sequence[tuple[str, str]]) -> None:
        """Outlines boxes (N, 4) xyxy, the first on top. texts: (name, suffix); only the name is shortened."""

    def points(self, points: np.ndarray, color: Color) -> None:
        """Discs at points (N, 2)."""

    def lines(self, lines: np.ndarray, color: Color) -> None:
        """Line segments (N, 2, 2), from point to point."""


class Drawing(Protocol):
    """What a `TargetType` draws a result with: the image with the predictions, and with the ground truth if given."""

    @property
    def prediction(self) -> Canvas:
        """The image on which predictions are drawn."""

    @property
    def truth(self) -> Canvas | None:
        """The image on which ground truth is drawn; None without."""

    def legend(self, classes: Sequence[Class]) -> None:
        """Adds the classes to the legend below."""

    def panel(self, caption: str, pixels: np.ndarray) -> None:
        """Adds an image (H, W, 3) uint8 beside the others."""

    def value_maps(
        self, prediction: np.ndarray, truth: np.ndarray | None, unit: str = "m", inverse: bool = False
    ) -> None:
        """Adds maps (H, W) in colours with colour bars, and the relative error. 0 and non-finite values are unknown.

        inverse: the prediction is relative inverse depth, which is aligned to the ground truth by least squares.
        """

    def error_map(self, wrong: np.ndarray, ignored: np.ndarray) -> None:
        """Adds the image in pale grey with wrong pixels (H, W) in red and ignored ones in black."""


class TargetType:
    """The type of a target key: how its values follow their image, and how they are drawn, written and read.

    Values are numpy arrays here, tensors in samples and batches. An object with (N, ...) values per image is "object",
    a map (..., H, W) is "pixel"; any other value is "image". Instances are stateless; options go to the constructor.

    per: what a value belongs to. Values per object are selected together.
    task: the task whose classes the values refer to; None if they refer to none.
    truth_only: used by evaluators only, so transforms drop it.
    fill: what new pixels at the border are, for maps.
    """

    per: ClassVar[Literal["image", "object", "pixel"]] = "image"
    task: str | None = None
    truth_only: bool = False
    fill: float = 0

    def check(self, value: Any, size: Size) -> None:
        """Raises DataError for a wrong shape, type or range. The message continues "image 7: boxes "."""

    def check_prediction(self, value: Any, size: Size, num_classes: int) -> None:
        """The same for a value that a head predicts, finite and in original pixels. Default: `check`."""
        self.check(value, size)

    def usable(self, value: Any, size: Size) -> np.ndarray | None:
        """Per object: which rows, (N,) bool, can be trained on, before any transform. None: all."""
        return None

    def clip(self, value: Any, size: Size) -> Any:
        """The value limited to its image, before and after the transforms."""
        return value

    def hflip(self, value: Any, size: Size) -> Any:
        """The value of the horizontally flipped image. size: of the image."""
        return value

    def rotate(self, value: Any, matrix: np.ndarray, size: Size) -> Any:
        """The value of the rotated image. matrix: (2, 3), maps coordinates of pixel centres from the old to the new."""
        return value

    def crop(self, value: Any, window: Window, size: Size) -> Any:
        """The value of the cropped image."""
        return value

    def resize(self, value: Any, size: Size, new_size: Size, zoom: float = 1.0) -> Any:
        """The value of the resized image. zoom: the scale of its sides relative to evaluation."""
        return value

    def visible(self, value: Any, size: Size) -> np.ndarray | None:
        """Per object: which rows, (N,) bool, are inside the image after the transforms. None: this type cannot tell."""
        return None

    def collate(self, values: Sequence[Any], size: Size, device: Any = None) -> Any:
        """A batch of values, tensors or None where unlabelled, padded to a grid of this size. Default: the sequence.

        For losses of heads. device: of the result; None: that of the values.
        """
        return values

    def draw(
        self,
        drawing: Drawing,
        key: str,
        predictions: Mapping[str, Any],
        truth: Mapping[str, Any] | None,
        classes: Sequence[Class],
    ) -> None:
        """Draws predictions[key], and truth[key] if it is labelled. All values are arrays. Default: nothing."""

    def encode(self, value: np.ndarray, classes: Sequence[Class]) -> Any:
        """A prediction for files. Per object: a dict of JSON values for each object, a part of its entry in COCO's
        results format. Per pixel: by suffix (".png", ".npy", ".json") a PIL image, an array or JSON values. Per image:
        a JSON value. None: nothing is written.
        """
        return None

    def decode(self, encoded: Any, classes: Sequence[Class]) -> Any:
        """Inverse of `encode`: a value from the dicts of all objects, from files by suffix, or from a JSON value."""
        raise NotImplementedError(f"{type(self).__name__} does not implement decode().")

    def random(self, size: Size, objects: int, num_classes: int, rng: np.random.Generator) -> Any:
        """A valid random value, with which `densevit check` tests heads. objects: their number; with 0, maps have no
        labelled pixel.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement random().")


class Evaluator:
    """Accumulates predictions and computes metrics over the whole data set, not as a mean over batches.

    reads: the keys of predictions that it needs; a tuple of keys means one of them.
    main: the metric of `compute` that determines the best epoch.
    lower_is_better: the metrics of `compute` that are errors; for all others higher is better.
    """

    reads: tuple[str | tuple[str, ...], ...] = ()
    main: str
    lower_is_better: tuple[str, ...] = ()

    def __init__(self, classes: Sequence[Class]) -> None:
        self.classes = tuple(classes)

    def prepare(self, head: Head, data: Dataset) -> None:
        """Called once before evaluation with the head and the data set. Default: accepts all.

        Raises ConfigError if the options do not allow evaluation of this head on this data; the message starts with the
        name of an option: "align is none, but ...".
        """

    def update(self, predictions: Sequence[Predictions], truths: Sequence[Targets]) -> None:
        """Adds one prediction and one ground truth per image, in original pixels. Repeated images count once."""
        raise NotImplementedError(
            f"{type(self).__name__} is an Evaluator and must implement update(predictions, truths)."
        )

    def compute(self) -> dict[str, float]:
        """Returns the metrics over all updates, as fractions 0 ... 1 or metres."""
        raise NotImplementedError(f"{type(self).__name__} is an Evaluator and must implement compute().")

    def tables(self) -> dict[str, Table]:
        """Returns small tables by name, written to NAME-HEAD.csv in the run folder. Default: none.

        The report shows "confusion": a header with the class names after its first cell, then one row per ground truth
        class with its name and the count of each predicted class.
        """
        return {}

    def results(self) -> list[dict[str, Any]] | None:
        """Returns all predictions as entries of a COCO results file, if the task has this format, for `evaluate --out`.

        Predicted maps are written per image, without the evaluator.
        """
        return None

    def reset(self) -> None:
        """Clears all accumulated data."""
        raise NotImplementedError(f"{type(self).__name__} is an Evaluator and must implement reset().")

    def state(self) -> Any:
        """Returns the accumulated data, picklable; processes exchange it before `compute`."""
        raise NotImplementedError(
            f"{type(self).__name__} needs state() and merge(states) to evaluate on several processes."
        )

    def merge(self, states: Sequence[Any]) -> None:
        """Replaces the accumulated data by the states of all processes, including its own."""
        raise NotImplementedError(
            f"{type(self).__name__} needs state() and merge(states) to evaluate on several processes."
        )


# ---- checkpoints of other projects ----

StateDict = Mapping[str, Tensor]
ZEROS = "0"  # in place of a key; see `Line`


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

    forward: Callable[[StateDict], StateDict]
    inverse: Callable[[StateDict], StateDict]


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
class CheckpointLayout:
    """The format of one project's checkpoints of one architecture (entry-point group `densevit.checkpoints`).

    name: that of the entry point, and the value of `convert --as` and `--to`: PROJECT-ARCHITECTURE.
    part: "backbone": our keys in `lines` are the backbone's; "model": they begin with `backbone.` and `heads.TASK.`.
    marks: keys, as in a line, that every such checkpoint has. Among the layouts whose marks are all present, the one
        with the most marks is chosen; one without marks is never recognised.
    lines: each tensor uses the first line that matches its key, or the first for each part.
    describe: from the tensors, with our keys, the config sections that build the model: {"backbone": {"name": ...}}.
        Raises WeightsError if they are of no known variant; a KeyError is reported as a missing tensor.
    no_effect: their keys that have no effect in our model, with the reason.
    fresh: our keys that such a checkpoint never has, with the reason; they keep their initial values.
    zero_biases: our backbone biases that such a checkpoint may lack, with the reason; they are set to zeros. A bias
        of zeros is not exported.
    copies: keys that repeat another tensor, and that tensor's key; the two must be equal.
    mean, std: RGB, of pixels in 0 ... 1, used in training; None: ImageNet's.
    classes: for a model, its classes by task, from the state dict and the metadata of the checkpoint.
    rearrange: applied to the state dict before the lines.
    unrecorded: options such as "backbone.dilation" that tensors do not determine. `describe` returns the usual value or
        none.
    saved_options: those of them by full key that tensors without effect, or the metadata, determine. Metadata has the
        content of config.json as `config`, {} if there is none.
    usage_options: backbone options that change the use of the same tensors, such as "features": an export takes the
        model's.
    conventions: backbone options that the project's code determines, not its tensors. `describe` returns their values
        that are not the plugin's defaults. Differences are reported.
    saved_under: the key of the state dict in the project's .pth files; None: the files contain it alone.
    config_files: for an export to transformers, from the config sections, the tensors with our keys and a model's
        classes: {"config.json": ...}, and what "preprocessor_config.json" has besides the normalisation of pixels.
        {} if transformers has no such model.
    recipe: for a model, from the config sections and the classes by task, a config, as "coco/detr_r50", whose data,
        training and inference settings `convert` writes, and sections that differ. A data section with a `name`
        replaces the data set's own options.
    """

    name: str
    part: Literal["backbone", "model"]
    marks: tuple[str, ...]
    lines: tuple[Line, ...]
    describe: Callable[[StateDict], dict[str, Any]]
    no_effect: Mapping[str, str] = field(default_factory=dict)
    fresh: Mapping[str, str] = field(default_factory=dict)
    zero_biases: Mapping[str, str] = field(default_factory=dict)
    copies: Mapping[str, str] = field(default_factory=dict)
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    classes: Callable[[StateDict, Mapping[str, Any]], Mapping[str, Sequence[Class]]] | None = None
    rearrange: Rearrangement | None = None
    unrecorded: tuple[str, ...] = ()
    saved_options: Callable[[StateDict, Mapping[str, Any]], dict[str, Any]] | None = None
    usage_options: tuple[str, ...] = ()
    conventions: tuple[str, ...] = ()
    saved_under: str | None = None
    config_files: Callable[[Mapping[str, Any], StateDict, Sequence[Class]], dict[str, dict[str, Any]]] | None = None
    recipe: Callable[[Mapping[str, Any], Mapping[str, Sequence[Class]]], tuple[str, dict[str, Any]]] | None = None
