"""The model: normalisation, one backbone, and a head with its neck for each task."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from densevit.config import Config, InferenceSection, inference_with
from densevit.data.io.image_inputs import as_sample
from densevit.data.loading.batch_sampler import collate
from densevit.data.transforms.resizing import build_evaluation_transform
from densevit.errors import DataError, PluginError
from densevit.interfaces import Backbone, Batch, Class, Head, Losses, Neck, Outputs, Predictions, Sample, Targets
from densevit.losses.distributed import mean_over_processes
from densevit.model import test_time_augmentation
from densevit.model.freezing import frozen_modules

HeadWeight = float | Literal["learned"]


class DenseModel(nn.Module):
    """A backbone that feeds one or more named heads.

    weights: what each head's losses are multiplied by, 1 where it is not said; "learned" by the head's uncertainty
    (Kendall et al. 2018, section 3): the sum L of its losses becomes L / sigma^2 + log sigma, the paper's term for
    classification, as exp(-s) L + s / 2 with a parameter s = log(sigma^2) a head. The paper halves L for regression.
    classes: the classes that each head predicts. config: the one it was built from, where it was built from one.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        heads: Mapping[str, Head],
        necks: Mapping[str, Neck] | None = None,
        weights: Mapping[str, HeadWeight] | None = None,
        config: Config | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleDict(heads)
        self.necks = nn.ModuleDict(necks or {})
        self.classes: dict[str, tuple[Class, ...]] = {name: head.classes for name, head in heads.items()}
        self.weights = {name: (weights or {}).get(name, 1.0) for name in heads}
        learned = [name for name, weight in self.weights.items() if weight == "learned"]
        self.log_variances = nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in learned})
        self.config = config
        self.register_buffer("mean", 255 * torch.tensor(backbone.mean)[:, None, None], persistent=False)
        self.register_buffer("std", 255 * torch.tensor(backbone.std)[:, None, None], persistent=False)

    @property
    def multiple(self) -> int:
        """What heights and widths are padded to: the coarsest stride; 1 where the backbone brings all to one size."""
        return 1 if self.backbone.input_size else max(self.backbone.strides)

    def forward(self, batch: Batch) -> dict[str, Outputs]:
        """Each head's outputs. Training targets reach the heads only in training mode."""
        features = self.backbone(self.normalise(batch["images"], batch["padding_mask"]))
        _check_features(self.backbone, features)
        targets = batch["targets"] if self.training else None
        outputs = {}
        for name, head in self.heads.items():
            own = self.necks[name](features) if name in self.necks else features
            outputs[name] = head(own, batch["padding_mask"], targets)
        return outputs

    def normalise(self, images: Tensor, padding_mask: Tensor) -> Tensor:
        """uint8 pixels (B, 3, H, W) to the backbone's mean and deviation; padding (B, H, W) becomes exactly 0."""
        pixels = (images.to(self.mean.dtype) - self.mean) / self.std
        return pixels.masked_fill_(padding_mask[:, None], 0.0)

    def loss(self, outputs: Mapping[str, Outputs], targets: list[Targets]) -> Losses:
        """Every head's losses, times its weight, named HEAD/TERM. Their sum is minimised.

        A learned weight adds HEAD/log_variance, which is 0 where no process has anything to learn for the head, so that
        the weight stands still: no labelled image, or losses that are 0, as of depth without a known pixel.
        """
        losses: Losses = {}
        for name, head in self.heads.items():
            terms = head.loss(outputs[name], targets)  # type: ignore[operator]  # a Head
            weight = self.weights[name]
            if weight == "learned":
                s = self.log_variances[name]
                labelled = [all(key in target for key in head.needs) for target in targets]  # type: ignore[union-attr]
                learns = torch.stack([value.detach() != 0 for value in terms.values()]).any() & any(labelled)
                share = mean_over_processes(learns.float())
                terms = {term: torch.exp(-s) * value for term, value in terms.items()}
                terms["log_variance"] = s / 2 * (share > 0)
            else:
                terms = {term: weight * value for term, value in terms.items()}
            losses |= {f"{name}/{term}": value for term, value in terms.items()}
        return losses

    def predictions(self, outputs: Mapping[str, Outputs], targets: list[Targets]) -> dict[str, list[Predictions]]:
        """Every head's predictions, one an image, in original pixels."""
        return {
            name: head.predict(outputs[name], targets)  # type: ignore[operator]  # a Head
            for name, head in self.heads.items()
        }

    @torch.no_grad()
    def infer(self, batch: Batch, inference: InferenceSection | None = None) -> dict[str, list[Predictions]]:
        """Every head's predictions on a batch, one an image, in original pixels: the one way of validation, evaluation
        and `predict`.

        inference: how to look at a picture (window, flip, scales); None: as the model's config says. By default once,
        which is `predictions(self(batch), targets)`; `check_inference` says whether the heads can do more.
        """
        section = self.inference if inference is None else inference
        if section.once:
            return self.predictions(self(batch), batch["targets"])
        return test_time_augmentation.predictions(self, batch, section)

    @property
    def inference(self) -> InferenceSection:
        """How the model's config looks at pictures; once and whole where there is no config."""
        return InferenceSection() if self.config is None else self.config.inference

    def predict(
        self,
        pictures: Sequence[Any],
        batch_size: int = 8,
        inference: InferenceSection | Mapping[str, Any] | None = None,
    ) -> list[Any]:
        """What the model sees in pictures: paths, PIL pictures or arrays ((H, W, 3) or (H, W), uint8, RGB).

        inference: keys of the config's section `inference`, such as {"window": 512, "flip": True}, in place of the
        model's own; or a whole section. Returns, a picture, its predictions in its own pixels; a dict of them by head
        where the model has several. A result does not depend on the other pictures. The model is left in the mode it
        was in.
        """
        if isinstance(pictures, (str, Path, Image.Image, np.ndarray)):
            raise DataError("predict takes a list of pictures, not one: write predict([picture]).")
        if isinstance(inference, Mapping):
            inference = inference_with(self.inference, inference, "predict")
        section = self.inference if inference is None else inference
        test_time_augmentation.check_inference(self, section)
        resize = build_evaluation_transform(self.config.data) if self.config is not None else None
        was_training = self.training
        self.eval()
        results: list[Any] = [None] * len(pictures)
        waiting: dict[tuple[int, int], list[tuple[int, Sample]]] = {}  # pictures of one padded size run together
        try:
            for index, picture in enumerate(pictures):
                sample = as_sample(picture, index)
                sample = resize(sample) if resize is not None else sample
                height, width = sample["image"].shape[1:]
                size = (-(-height // self.multiple), -(-width // self.multiple))
                group = waiting.setdefault(size, [])
                group.append((index, sample))
                if len(group) == batch_size:
                    self._predict(waiting.pop(size), results, section)
            for group in waiting.values():
                self._predict(group, results, section)
        finally:
            self.train(was_training)
        return results

    @torch.inference_mode()
    def _predict(self, group: list[tuple[int, Sample]], results: list[Any], inference: InferenceSection) -> None:
        batch = collate([sample for _, sample in group], self.multiple)
        for key in ("images", "padding_mask"):
            batch[key] = batch[key].to(self.mean.device)
        by_head = self.infer(batch, inference)
        for place, (index, _) in enumerate(group):
            own = {name: {k: _on_cpu(v) for k, v in found[place].items()} for name, found in by_head.items()}
            results[index] = own if len(own) > 1 else next(iter(own.values()))

    def train(self, mode: bool = True) -> "DenseModel":
        """As of any module, but frozen modules stay in evaluation mode: their norms and dropout stand still."""
        super().train(mode)
        for part in (self.backbone, *self.heads.values(), *self.necks.values()):
            for module in frozen_modules(part):
                module.eval()
        return self


def _check_features(backbone: Backbone, features: Any) -> None:
    """Raises PluginError where features are not (B, C, h, w), one of each of the channels that the backbone states."""
    if isinstance(features, Sequence):
        shapes = [tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in features]
        if [shape[1] if len(shape) == 4 else None for shape in shapes] == [*backbone.channels]:
            return
    found = f"features of shapes {shapes}" if isinstance(features, Sequence) else f"a {type(features).__name__}"
    raise PluginError(
        f"backbone {type(backbone).__name__}: its forward returned {found}; it states channels "
        f"{[*backbone.channels]}, so a list of {len(backbone.channels)} maps (B, C, h, w) is expected."
    )


def _on_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else value
