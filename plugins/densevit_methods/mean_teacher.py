"""Mean teacher: few labels and many images without (Tarvainen and Valpola 2017; Xu et al. 2021, "Soft Teacher")."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from densevit.errors import ConfigError
from densevit.interfaces import (
    IGNORE,
    Batch,
    DenseHead,
    Head,
    LossContext,
    Losses,
    Method,
    Predictions,
    Sample,
    Targets,
)
from densevit_methods.colours import strong_colours
from densevit_methods.moving_average import update_average

_KEYS = ({"boxes", "labels"}, {"semantic"}, {"depth"})  # the targets that can be predicted


class MeanTeacher(Method):
    """Trains the model on labels and, where they are missing, on the predictions of its own average, the teacher.

    The teacher sees an image in weak colours, those of `data.recipe`, and the model, the student, the same crop in
    strong colours, so that predicted boxes and maps follow the geometry. The heads' own losses are computed on the
    predictions as targets; losses on labels are those of `supervised`. The teacher is validated and saved.

    decay: of the teacher's weights, which are the exponential moving average of the student's; at most 1 - 1 / n after
        step n, as in Tarvainen and Valpola's code, so that the first weights have no influence.
    burn_in: the number of optimiser steps that use labels only (Liu et al. 2021, "Unbiased Teacher").
    score_threshold: objects with a smaller score are not used (Soft Teacher: 0.9; Unbiased Teacher: 0.7).
    pixel_threshold: pixels of a class map whose class has a smaller probability are ignored (FixMatch, Sohn et al.
        2020: 0.95). Probabilities are the softmax of the head's `maps`.
    unlabelled_weight: weight of the losses on predictions (Soft Teacher: 4).

    Heads need boxes and labels, `semantic`, or `depth`; depth is used at all pixels.
    """

    needs_heads = True
    needs_labels = True
    views = 2
    updates: Tensor

    def __init__(
        self,
        model: Any,
        decay: float = 0.999,
        burn_in: int = 0,
        score_threshold: float = 0.7,
        pixel_threshold: float = 0.95,
        unlabelled_weight: float = 1.0,
    ) -> None:
        super().__init__(model)
        fractions = {"decay": decay, "score_threshold": score_threshold, "pixel_threshold": pixel_threshold}
        for option, value in fractions.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{option} is {value}; a number from 0 to 1 is expected.")
        if burn_in < 0 or unlabelled_weight < 0:
            raise ValueError(f"burn_in is {burn_in}, unlabelled_weight {unlabelled_weight}; both must be at least 0.")
        for name, head in model.heads.items():
            _check(name, head)
        self.decay, self.burn_in, self.unlabelled_weight = decay, burn_in, unlabelled_weight
        self.score_threshold, self.pixel_threshold = score_threshold, pixel_threshold
        self.teacher = copy.deepcopy(model).requires_grad_(False)
        self.register_buffer("updates", torch.tensor(0))

    def saved_model(self, model: Any) -> Any:
        return self.teacher

    def transform(self, recipe: Any) -> Any:
        """The weak view, by the recipe, and the same crop with strong colours."""

        def views(sample: Sample, generator: np.random.Generator, types: Any) -> list[Sample]:
            weak = recipe(sample, generator, types)
            return [weak, {"image": strong_colours(weak["image"], generator), "targets": weak["targets"]}]

        return views

    def training_step(self, model: Any, batch: Batch, context: LossContext) -> Losses:
        """Returns the losses on labels and, as unlabelled/HEAD/TERM, those on predictions, 0 in the burn-in."""
        missing = [
            [name for name, head in model.heads.items() if not all(key in target for key in head.needs)]
            for target in batch["targets"]
        ]
        labelled = _selected(batch, [i for i, names in enumerate(missing) if len(names) < len(model.heads)])
        losses: Losses = model.loss(model(labelled), labelled["targets"], context)
        if context.step < self.burn_in:
            return losses | {f"unlabelled/{name}": torch.zeros_like(x) for name, x in losses.items() if _is_loss(name)}
        [strong] = batch["other_views"]
        indices = [i for i, names in enumerate(missing) if names]
        student = _selected(strong, indices)
        targets = self.pseudo_targets(_selected(batch, indices), [missing[i] for i in indices] or [[]])
        student["targets"] = targets
        unlabelled = model.loss(model(student), targets, context)
        return losses | {
            f"unlabelled/{name}": self.unlabelled_weight * x for name, x in unlabelled.items() if _is_loss(name)
        }

    @torch.no_grad()
    def pseudo_targets(self, weak: Batch, missing: Sequence[Sequence[str]]) -> list[Targets]:
        """Returns the teacher's predictions as targets on the grid of the view.

        missing: the names of the heads that have no labels, for each image; only these get targets.
        """
        grids = [{**_without_labels(target), "original_size": target["size"]} for target in weak["targets"]]
        outputs = self.teacher({**weak, "targets": grids})
        predictions = self.teacher.predictions(outputs, grids)
        found: list[Targets] = [_without_labels(target) for target in weak["targets"]]
        for name, head in self.teacher.heads.items():
            shares: Sequence[Tensor | None] = [None] * len(found)
            if "semantic" in head.needs:
                shares = head.maps(outputs[name], tuple(weak["images"].shape[2:])).softmax(1).amax(1)  # (B, H, W)
            for target, prediction, names, share in zip(found, predictions[name], missing, shares, strict=True):
                if name in names:
                    target |= self._usable(prediction, target["size"], share)
        return found

    def _usable(self, prediction: Predictions, size: tuple[int, int], probability: Tensor | None) -> Targets:
        """The targets of one image from a prediction on its grid. probability: (H, W) of each pixel's class."""
        height, width = size
        if "boxes" in prediction:
            limits = prediction["boxes"].new_tensor([width, height, width, height])
            boxes = prediction["boxes"].float().clamp(min=0).minimum(limits)
            keep = (prediction["scores"] >= self.score_threshold) & (boxes[:, 2:] > boxes[:, :2]).all(1)
            return {"boxes": boxes[keep], "labels": prediction["labels"][keep]}
        if probability is not None:
            sure = probability[:height, :width] >= self.pixel_threshold
            return {"semantic": prediction["semantic"].masked_fill(~sure, IGNORE)}
        if "depth" in prediction:
            return {"depth": prediction["depth"]}
        inverse = prediction["inverse_depth"]
        return {"depth": torch.where(inverse > 0, 1 / inverse, 0.0)}

    def after_step(self, model: Any) -> None:
        self.updates += 1
        update_average(self.teacher, model, torch.clamp(1 / self.updates, min=1 - self.decay))


def _check(name: str, head: Head) -> None:
    """Raises ConfigError if the targets of a head cannot be predicted."""
    if not any(keys == set(head.needs) for keys in _KEYS):
        raise ConfigError(
            f"heads.{name} needs {', '.join(head.needs)}; the method mean_teacher predicts boxes and labels, semantic, "
            "or depth. Fix: use another head, or another method."
        )
    if "semantic" in head.needs and not isinstance(head, DenseHead):
        raise ConfigError(
            f"heads.{name}: {type(head).__name__} is no DenseHead, whose maps have the probabilities of the classes. "
            "Fix: use another head, or another method."
        )


def _is_loss(name: str) -> bool:
    """Whether a term is a loss, and not the term of a learned weight, which counts once."""
    return not name.endswith("/log_variance")


def _without_labels(target: Targets) -> Targets:
    return {key: target[key] for key in ("image_id", "size", "original_size")}


def _selected(batch: Batch, indices: list[int]) -> Batch:
    """Some images of a batch; if none, the first one without labels, so that every loss is 0 and every step alike."""
    targets = [batch["targets"][i] for i in indices] or [_without_labels(batch["targets"][0])]
    rows = indices or [0]
    return {"images": batch["images"][rows], "padding_mask": batch["padding_mask"][rows], "targets": targets}
