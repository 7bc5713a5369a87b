"""The predictor: a model with its evaluation transform and inference options."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from densevit.channels import Channels
from densevit.config import Config, DataSection, InferenceSection, ModelSections, inference_with
from densevit.data.datasets.depth_maps import file_types
from densevit.data.transforms.fixed import Fixed
from densevit.data.transforms.sample_resizing import EvaluationTransform, build_evaluation_transform
from densevit.errors import DensevitError, did_you_mean
from densevit.inference.image_inputs import as_images, images_of
from densevit.inference.image_sizes import ImageSize, requested_size, transform_to
from densevit.inference.iterating import ImageLoop, Predicted, evaluation_mode, infer
from densevit.inference.result import Result
from densevit.interfaces import Backbone, Class, DenseHead, Head, Predictions, Sample, TargetType, Transforms
from densevit.model import DenseModel, inference_by_head, used_options

Threshold = float | Mapping[str, float]


class Predictor:
    """Predicts on images, resized as in the model's evaluation.

    model: set to evaluation mode during prediction. config: the training config, or the sections of a model without
    one; None: the model's. The config's section `data`, or else the model's `training_data`, defines the resizing;
    without either, images keep their size. inference: sliding windows, flips and scales by head, for heads that predict
    maps or boxes; None: the config's. resize: a transform that replaces the resizing of the section `data`.

    The attributes `config` and `sections`, which model files contain, include the predictor's inference options.

    Several threads may call `predict` concurrently on a model in evaluation mode. During a call, the model must not
    be moved, converted or trained; `predict` temporarily switches a model in training mode to evaluation mode.

    Raises ConfigError for options that the model cannot use.

    Example:
        >>> predictor = densevit.Predictor(densevit.load("runs/setr_vit").model)
        >>> predictor.predict("examples/coffee.jpg").semantic.shape
        torch.Size([480, 720])
    """

    def __init__(
        self,
        model: DenseModel,
        config: ModelSections | None = None,
        inference: Mapping[str, InferenceSection] | None = None,
        resize: EvaluationTransform | None = None,
    ) -> None:
        self.model = model
        self._resize = EvaluationTransform(Fixed(None)) if resize is None and model.resizes else resize
        config = model.sections if config is None else config
        general = InferenceSection() if config is None else config.inference
        default = inference_by_head(model, general, None if config is None else config.inference_by_head)
        self.inference = default if inference is None else inference_by_head(model, InferenceSection(), inference)
        changed = {name: options for name, options in self.inference.items() if options != default[name]}
        self._sections = None if config is None else _with_inference(config, changed)

    def predict(
        self,
        images: Any,
        threshold: Threshold | None = None,
        batch_size: int = 8,
        inference: Mapping[str, Any] | None = None,
        image_size: ImageSize | None = None,
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
        Returns a `Result` for a single image; for a folder, a pattern, a video, a generator or another iterator, such
        as a camera's frames, an iterator that reads and predicts some batches at a time; else a list. The result of an
        image does not depend on the other images.
        Raises DataError for an unreadable image, and ConfigError for a size or options that the model cannot use. Warns
        if no image is larger than the window in `inference`.
        """
        inputs, single = as_images(images_of(images, self.channels) or images)
        results: Any = _results(self.iterate(inputs, threshold, batch_size, inference, image_size))
        results = results if isinstance(inputs, Iterator) else [*results]
        return results[0] if single else results

    @property
    def sections(self) -> ModelSections | None:
        """The config, or the sections of a model without one; None for a model built from modules in Python."""
        return self._sections and self._sections.model_copy(update={"data": self.data})

    @property
    def config(self) -> Config | None:
        """The training config with the inference options of this predictor; None if there is none."""
        return self._sections if isinstance(self._sections, Config) else None

    @property
    def data(self) -> DataSection | None:
        """The section `data` of the training config; None if unknown."""
        return self.model.training_data if self.config is None else self.config.data

    @property
    def resize(self) -> EvaluationTransform | None:
        """The transform that resizes images, by default from the section `data`; None: images keep their size."""
        if self._resize is None and self.data is not None:
            return build_evaluation_transform(self.data)
        return self._resize

    @property
    def references(self) -> dict[str, Transforms]:
        """The transforms of the evaluation of each head's training: the model's, or else those of `resize`."""
        return {
            **({} if self.resize is None or self.model.resizes else dict.fromkeys(self.heads, self.resize.transforms)),
            **self.model.references,
        }

    @property
    def replaced_resize(self) -> EvaluationTransform | None:
        """The transform that replaces the resizing of the section `data`; None without one."""
        return self._resize

    def with_resize(self, transform: EvaluationTransform) -> "Predictor":
        """Returns a predictor of the same model with another resizing transform, which `densevit.evaluate` uses too."""
        return Predictor(self.model, self._sections, self.inference, transform)

    def with_heads(self, names: Collection[str]) -> "Predictor":
        """Returns a predictor of a subset of the heads, which shares the model's parameters."""
        inference = {name: options for name, options in self.inference.items() if name in names}
        model = self.model.with_heads(names)
        sections = self._sections and self._sections.model_copy(
            update={"heads": {name: self._sections.heads[name] for name in names}, "inference": InferenceSection()}
        )
        return Predictor(model, sections, inference, self._resize)

    def __repr__(self) -> str:
        heads = ", ".join(
            f"{name} ({type(head).__name__}{f', {len(head.classes)} classes' if head.classes else ''})"
            for name, head in self.heads.items()
        )
        size = "" if self.data is None or self.data.image_size is None else f", image_size {self.data.image_size}"
        return f"<Predictor: {type(self.backbone).__name__} -> {heads}{size}, on {self.device}>"

    @property
    def backbone(self) -> Backbone:
        """The model's backbone."""
        return self.model.backbone

    @property
    def heads(self) -> Mapping[str, Head]:
        """The model's heads, by name."""
        return self.model.heads

    @property
    def classes(self) -> dict[str, tuple[Class, ...]]:
        """The classes of each head, by its name."""
        return self.model.classes

    @property
    def channels(self) -> Channels:
        """The channels of the model's images."""
        return self.model.channels

    @property
    def target_types(self) -> dict[str, Mapping[str, TargetType] | None]:
        """The target types of predictions that have options, by head; depth has the `scale` of its training data."""
        return {
            name: {**file_types(self.model.reference_data.get(name, self.data)), **(types or {})}
            for name, types in self.model.target_types.items()
        }

    @property
    def score_thresholds(self) -> dict[str, float]:
        """The score threshold with the highest F1 in validation during training, by head. Empty if there is none."""
        return dict(self.model.score_thresholds)

    @property
    def default_thresholds(self) -> dict[str, float]:
        """The default score threshold of each head, for `predict`, visualizations, tables, exported files and
        prelabels: `score_thresholds`, 0.5 for heads without one."""
        return self.model.default_thresholds

    @property
    def fingerprint(self) -> str:
        """A short hash of classes and weights, which identifies the model of predictions."""
        return self.model.fingerprint()

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.model.mean.device

    def parameters(self) -> Iterator[nn.Parameter]:
        """The model's parameters."""
        return self.model.parameters()

    def to(self, *args: Any, **kwargs: Any) -> "Predictor":
        """Moves or converts the model like `nn.Module.to`. Returns itself."""
        self.model.to(*args, **kwargs)
        return self

    def half(self) -> "Predictor":
        """Converts the model to float16. Returns itself."""
        return self.to(torch.float16)

    def eval(self) -> "Predictor":
        """Sets the model to evaluation mode, which `predict` always uses. Returns itself."""
        self.model.eval()
        return self

    def with_inference(self, options: Mapping[str, Any], source: str = "inference") -> "Predictor":
        """Returns a predictor with these inference options in all heads that predict maps or boxes, such as
        {"window": 512, "flip": True}. Box heads use only the windows and NMS.

        source: the origin of the options, for messages. Raises ConfigError for an invalid option.
        """
        inference = {name: inference_with(before, options, source) for name, before in self.inference.items()}
        inference_by_head(  # raises for options that no head supports
            self.model, next(iter(inference.values()), None) or inference_with(InferenceSection(), options, source)
        )
        inference = {name: used_options(self.heads[name], new) for name, new in inference.items()}
        return Predictor(self.model, self._sections, inference, self._resize)

    def iterate(
        self,
        images: Iterable[Any],
        threshold: Threshold | None = None,
        batch_size: int = 8,
        inference: Mapping[str, Any] | None = None,
        image_size: ImageSize | None = None,
        left_out: Callable[[Any], bool] | None = None,
    ) -> Iterator[Predicted]:
        """Predicts a stream of images, some batches at a time: yields each image with its result, or with the error of
        an unreadable image, in order.

        images: single images as in `predict`, and `ImageFile`. left_out: called with each image in a thread; images for
        which it is true are yielded without result. Other arguments: as in `predict`, whose errors this call raises.
        """
        thresholds = self._thresholds(threshold)
        if batch_size < 1:
            raise DensevitError(f"predict: batch_size is {batch_size}; at least 1 is expected.")
        options = inference or {}
        by_head = (self.with_inference(options, "predict") if options else self).inference
        size = requested_size(image_size, options, self.model, by_head)
        resize = transform_to(size, self.resize)
        loop = ImageLoop(self.model, by_head, resize, self.references, thresholds, batch_size, left_out)
        return loop(images, warns=options.get("window") is not None)

    def _thresholds(self, threshold: Threshold | None) -> dict[str, float]:
        """The score threshold of each head. threshold: one for all heads, or some by head; other heads: the model's."""
        scores = {} if threshold is None else threshold
        by_head = {**scores} if isinstance(scores, Mapping) else dict.fromkeys(self.heads, scores)
        for name, score in by_head.items():
            if name not in self.heads:
                raise DensevitError(
                    f"predict: threshold has the key {name!r}, which is not a head.{did_you_mean(name, self.heads)}"
                )
            if not 0 <= score <= 1:
                raise DensevitError(f"predict: threshold is {score}; a score from 0 to 1 is expected.")
        return {**self.default_thresholds, **by_head}

    def merges_windows(self, head: str) -> bool:
        """Whether a head's boxes are merged from windows."""
        has_windows = head in self.inference and self.inference[head].window is not None
        return has_windows and not isinstance(self.heads[head], DenseHead)

    def infer(self, samples: list[Sample]) -> list[dict[str, Predictions]]:
        """The predictions of each head for each image of a batch, on the CPU.

        samples: images as resized for the model, of one padded size.
        """
        with evaluation_mode(self.model):
            return infer(self.model, self.inference, samples, self.references)


def _results(predicted: Iterator[Predicted]) -> Iterator[Result]:
    """Yields the results. Raises the error of an unreadable image."""
    for image in predicted:
        if image.result is None:
            raise image.error or AssertionError
        yield image.result


def dense_model(model: DenseModel | Predictor) -> DenseModel:
    """The model of a predictor, or the model itself."""
    return model.model if isinstance(model, Predictor) else model


def _with_inference(sections: ModelSections, inference: Mapping[str, InferenceSection]) -> ModelSections:
    """A shallow copy of the sections with other `heads.NAME.inference`."""
    if not inference:
        return sections
    changed = {name: sections.heads[name].model_copy(update={"inference": new}) for name, new in inference.items()}
    return sections.model_copy(update={"heads": {**sections.heads, **changed}})
