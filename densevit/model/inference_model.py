"""What predicts on images, a model or an exported file: its inference options, resizing and thresholds."""

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor

from densevit.channels import Channels
from densevit.config import Config, DataSection, InferenceSection, ModelSections, section
from densevit.errors import head_names
from densevit.interfaces import (
    DEFAULT_THRESHOLD,
    Backbone,
    Batch,
    Class,
    Head,
    Licences,
    Predictions,
    Size,
    TargetType,
    Transforms,
)
from densevit.layers.padding import padded
from densevit.model.head_inference import inference_by_head, inference_of, used_options
from densevit.model.training_record import TrainingRecord
from densevit.model.zoom import create_transforms

if TYPE_CHECKING:
    from densevit.inference.iterating import Predicted

ModelT = TypeVar("ModelT", bound="InferenceModel")
Threshold = float | Mapping[str, float]


class InferenceModel:
    """Predicts on images, which are resized as in the evaluation of its training: a model, or an exported file.

    backbone: its sizes and strides. heads, classes: one entry per head, by its name. channels: the images' channels.
    target_types: target types with options, by head. inference: windows, flips, scales and NMS of each head that
    predicts maps or boxes. sections: the config, or the sections that the model was built from. training_data: the
    section `data` of the training's config, which defines the resizing; None if unknown: images keep their size.
    reference_data: that section of each head's training, in a joined model. training_record: sizes and values of the
    images of the training, as far as they are known. score_thresholds: the minimum score of
    objects with the highest F1 in validation, by head. licences: the licences of the published weights that the model
    started from, by source. resizes: whether it is an exported file that resizes images. recorded_evaluation: the
    `RecordedEvaluation` in an exported file; None without one.

    Models of methods `with_...` share parameters with this one. Several threads may call `predict` on a model in
    evaluation mode, which must not be moved, converted or trained meanwhile.
    """

    backbone: Backbone
    heads: Mapping[str, Head]
    classes: dict[str, tuple[Class, ...]]
    channels: Channels
    target_types: dict[str, Mapping[str, TargetType] | None]
    inference: dict[str, InferenceSection]
    sections: ModelSections
    training_data: DataSection | None
    reference_data: dict[str, DataSection | None]
    training_record: TrainingRecord
    score_thresholds: dict[str, float]
    licences: dict[str, Licences]
    resizes = False
    recorded_evaluation: Any = None
    replaced_resize: Transforms | None = None

    def infer(self, batch: Batch) -> dict[str, list[Predictions]]:
        """Computes each head's predictions on a batch, one per image, in original pixels."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """A short hash of classes and weights, which identifies the model of predictions."""
        raise NotImplementedError

    def predict(
        self,
        images: Any,
        threshold: Threshold | None = None,
        batch_size: int = 8,
        inference: Mapping[str, Any] | None = None,
        image_size: Any = None,
        focal: float | Sequence[float | None] | None = None,
    ) -> Any:
        """Predicts on one or several images.

        images: a path, URL, bytes, file object, PIL image, array or tensor (see `as_sample`), or an iterable of them;
        an array or a tensor with four dimensions is a batch. Also a folder, a pattern ("photos/*.jpg") or a video, as
        in `densevit predict`.
        threshold: the score threshold of objects, for all heads or by head; 0: all objects. None, and heads without a
        threshold: `default_thresholds`.
        inference: options that override those of all heads that predict maps or boxes, such as
        {"window": 512, "flip": True}.
        image_size: the long side of resized images, the (height, width) that they are fitted into, or "source": images
        keep their size. None: as in evaluation; with a window in `inference`, "source".
        focal: the camera's focal length in pixels of the images, for heads of a canonical camera; or a list of one per
        image. None: from the EXIF of each file, content of a file or PIL image.
        Returns a `Result` for a single image; for a folder, a pattern, a video, a generator or another iterator, such
        as a camera's frames, an iterator that reads and predicts some batches at a time; else a list. The result of an
        image does not depend on the other images.
        Raises DataError for an unreadable image, and for one without a focal length that the model needs; ConfigError
        for a size or options that the model cannot use. Warns
        if no image is larger than the window in `inference`.

        Example:
            >>> densevit.load("runs/setr_vit").predict("examples/coffee.jpg").semantic.shape
            torch.Size([480, 720])
        """
        from densevit.inference.predicting import predict

        return predict(self, images, threshold, batch_size, inference, image_size, focal)

    def iterate(
        self,
        images: Iterable[Any],
        threshold: Threshold | None = None,
        batch_size: int = 8,
        inference: Mapping[str, Any] | None = None,
        image_size: Any = None,
        skip: Callable[[Any], bool] | None = None,
        focal: float | Sequence[float | None] | None = None,
    ) -> "Iterator[Predicted]":
        """Predicts a stream of images, some batches at a time: yields each image with its result, or with the error of
        an unreadable image, in order.

        images: single images as in `predict`, and each `ListedImage`. skip: called with each image in a thread;
        images for which it is true are yielded without result. Other arguments: as in `predict`, whose errors this call
        raises.
        """
        from densevit.inference.predicting import iterate

        return iterate(self, images, threshold, batch_size, inference, image_size, skip, focal)

    @property
    def config(self) -> Config | None:
        """The config; None for a model without one."""
        return self.sections if isinstance(self.sections, Config) else None

    @property
    def device(self) -> torch.device:
        """The device of images in `infer`."""
        return torch.device("cpu")

    @property
    def size_divisor(self) -> int:
        """Heights and widths are padded to multiples of this: the backbone's `size_divisor`, or else its coarsest
        stride; 1 with a fixed `input_size`."""
        return 1 if self.backbone.input_size else self.backbone.size_divisor or max(self.backbone.strides)

    @property
    def padding(self) -> int | Size:
        """What batches are padded to (`collate`): the backbone's `input_size`, or else multiples of `size_divisor`."""
        return self.backbone.input_size or self.size_divisor

    def padded_size(self, size: Size) -> Size:
        """The size of an image (h, w) with its padding."""
        return padded(size, self.padding)

    @property
    def default_thresholds(self) -> dict[str, float]:
        """Each head's default minimum score of objects, for `predict`, drawings, tables, exported files and prelabels:
        from validation, or else 0.5."""
        return {name: self.score_thresholds.get(name, DEFAULT_THRESHOLD) for name in self.heads}

    @property
    def resize(self) -> Transforms | None:
        """The transforms whose evaluation resizes images, by default those of `training_data`; None: images keep their
        size."""
        if self.replaced_resize is None and self.training_data is not None:
            return create_transforms(self.training_data)
        return self.replaced_resize

    @property
    def references(self) -> dict[str, Transforms]:
        """The transforms of the evaluation of each head's training, to which zooms are relative, if they are known.
        Without heads of a canonical camera. Empty for a file that resizes images, which undoes zooms itself."""
        heads = self.heads.keys() - self.canonical_focals.keys()
        data = {name: self.reference_data.get(name, self.training_data) for name in heads}
        transforms = {name: self.resize if x is None else create_transforms(x) for name, x in data.items()}
        return {} if self.resizes else {name: x for name, x in transforms.items() if x is not None}

    @property
    def canonical_focals(self) -> dict[str, float]:
        """The focal length in pixels of the canonical camera of each head that has one."""
        focals = {name: getattr(head, "canonical_focal", None) for name, head in self.heads.items()}
        return {name: focal for name, focal in focals.items() if focal is not None}

    def blank_images(self, count: int, size: tuple[int, int]) -> Tensor:
        """Images (count, C, *size) of zeros, with the channels' type, on the CPU."""
        return torch.zeros(count, len(self.channels.names), *size, dtype=getattr(torch, self.channels.dtype))

    def plugin_name(self, head: str) -> str:
        """The plugin name of a head, for messages."""
        [name] = head_names([head], self.heads, "plugin_name: head")
        return self.sections.heads[name].name

    def with_resize(self: ModelT, transforms: Transforms) -> ModelT:
        """A model whose images are resized as in the evaluation of other transforms, also in `densevit.evaluate`."""
        return self._sharing(replaced_resize=transforms)

    def with_inference(self: ModelT, options: Mapping[str, Any], source: str = "inference") -> ModelT:
        """A model with these inference options in all heads that predict maps or boxes, such as {"window": 512, "flip":
        True}. Box heads use only the windows and NMS.

        source: the origin of the options, for messages. Raises ConfigError for an invalid option.
        """

        def changed_options(before: InferenceSection) -> InferenceSection:
            return cast(InferenceSection, section("inference", {**before.model_dump(), **options}, source))

        changed = {name: changed_options(before) for name, before in self.inference.items()}
        inference_by_head(  # raises for options that no head supports
            self, next(iter(changed.values()), None) or changed_options(InferenceSection())
        )
        return self._with_options({name: used_options(self.heads[name], new) for name, new in changed.items()})

    def with_config(self: ModelT, config: ModelSections) -> ModelT:
        """A model with another config of the same parts, for inference options, evaluators and model files. Its section
        `data` defines the resizing only of a model without `training_data`. Raises ConfigError for options that no head
        supports."""
        data = self.training_data or config.data
        return self._sharing(sections=config, inference=inference_of(self, config), training_data=data)

    def with_heads(self: ModelT, names: Collection[str]) -> ModelT:
        """A model with a subset of the heads. Raises ConfigError for a name that is not a head."""
        names = head_names(names, self.heads, "with_heads: names")
        part = self._sharing(
            **{key: type(x)({name: v for name, v in x.items() if name in names}) for key, x in self._by_head().items()}
        )
        heads = {name: section for name, section in self.sections.heads.items() if name in names}
        part.sections = self.sections.model_copy(update={"heads": heads})
        return part._with_options({name: options for name, options in self.inference.items() if name in names})

    def _by_head(self) -> dict[str, Any]:
        """The attributes that have a value for each head."""
        return {
            "heads": self.heads,
            "classes": self.classes,
            "target_types": self.target_types,
            "reference_data": self.reference_data,
            "score_thresholds": self.score_thresholds,
        }

    def _with_options(self: ModelT, inference: dict[str, InferenceSection]) -> ModelT:
        """A model with these inference options, which its sections name for each head."""
        default = InferenceSection()
        heads = {
            name: head.model_copy(
                update={"inference": None if inference.get(name, default) == default else inference[name]}
            )
            for name, head in self.sections.heads.items()
        }
        sections = self.sections.model_copy(update={"heads": heads, "inference": default})
        return self._sharing(inference=inference, sections=sections)

    def _sharing(self: ModelT, **changes: Any) -> ModelT:
        """A shallow copy with other attributes, without a compiled forward."""
        part = copy.copy(self)
        for name, value in changes.items():
            setattr(part, name, value)
        return part
