"""Mean teacher: few labels and many images without (Tarvainen and Valpola 2017; Xu et al. 2021, "Soft Teacher")."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from densevit.errors import ConfigError, counted
from densevit.interfaces import Batch, LossContext, Losses, Method, Sample, Targets
from densevit.losses.distributed import to_device
from densevit_methods.colours import strong_colours
from densevit_methods.moving_average import MovingAverage
from densevit_methods.pseudo_targets import check_head, missing_labels, predicted_targets, without_labels
from densevit_methods.shares import check_shares


class MeanTeacher(Method):
    """Trains the model on labels and, where labels are missing, on the predictions of its moving average, the teacher.

    The teacher sees an image in the weak colours of `data.transforms`, the student (the model) the same crop in strong
    colours, so predicted boxes and maps fit the student's crop. The heads' losses take the predictions as targets;
    losses on labels are as in `supervised`. The run validates and saves the teacher.

    decay: the decay of the exponential moving average (EMA) that gives the teacher's weights; at most 1 - 1 / n after
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
        check_shares(decay=decay, score_threshold=score_threshold, pixel_threshold=pixel_threshold)
        if burn_in < 0 or unlabelled_weight < 0:
            raise ValueError(f"burn_in is {burn_in}, unlabelled_weight {unlabelled_weight}; both must be at least 0.")
        for name, head in model.heads.items():
            check_head(name, head, "mean_teacher")
        self.decay, self.burn_in, self.unlabelled_weight = decay, burn_in, unlabelled_weight
        self.score_threshold, self.pixel_threshold = score_threshold, pixel_threshold
        self.teacher = copy.deepcopy(model).requires_grad_(False)
        self.average = MovingAverage()
        self.register_buffer("updates", torch.tensor(0))

    def eval_model(self, model: Any) -> Any:
        return self.teacher

    def check_steps(self, steps: int) -> None:
        """Raises ConfigError if the burn-in takes the whole run, which would then use labels only."""
        if self.burn_in >= steps:
            raise ConfigError(
                f"method.burn_in is {self.burn_in}, and the training has {counted(steps, 'optimiser step')}: it would "
                "use labels only. Fix: a smaller method.burn_in, a longer training, or method=supervised."
            )

    def transform(self, configured: Any) -> Any:
        return WeakAndStrong(configured)

    def training_step(self, model: Any, batch: Batch, context: LossContext) -> Losses:
        """Returns the losses on labels and, as unlabelled/HEAD/TERM, the losses on predictions, which are 0 in the
        burn-in."""
        missing = [missing_labels(model.heads, target) for target in batch["targets"]]
        labelled = _selected(batch, [i for i, names in enumerate(missing) if len(names) < len(model.heads)])
        losses: Losses = model.losses_of(model(labelled), labelled["targets"], context)
        if context.step < self.burn_in:
            return losses | {f"unlabelled/{name}": torch.zeros_like(x) for name, x in losses.items() if _is_loss(name)}
        [strong] = batch["other_views"]
        indices = [i for i, names in enumerate(missing) if names]
        student = _selected(strong, indices)
        weak = _selected(batch, indices)
        names = [missing[i] for i in indices]
        head_targets = self.pseudo_targets(weak, names + [[]] * (len(weak["targets"]) - len(names)))
        outputs = model(student, head_targets=head_targets)
        unlabelled = model.losses_of(outputs, student["targets"], context, head_targets)
        return losses | {
            f"unlabelled/{name}": self.unlabelled_weight * x for name, x in unlabelled.items() if _is_loss(name)
        }

    def pseudo_targets(self, weak: Batch, missing: Sequence[Sequence[str]]) -> dict[str, list[Targets]]:
        """Returns the predictions of the teacher's heads as the targets of the same heads, on the grid of the view.

        missing: the names of the heads that have no labels, for each image; only these get targets.
        """
        thresholds = dict.fromkeys(self.teacher.heads, self.score_threshold)
        predicted = predicted_targets(self.teacher, weak, thresholds, self.pixel_threshold)
        return {
            name: [
                without_labels(target) | (targets[i] if name in missing[i] else {})
                for i, target in enumerate(weak["targets"])
            ]
            for name, targets in predicted.items()
        }

    def after_step(self, model: Any) -> None:
        self.updates += 1
        self.average.update(self.teacher, model, torch.clamp(1 / self.updates, min=1 - self.decay))


class WeakAndStrong:
    """A transform that returns the weak view, by the configured transform, and the same crop with strong colours."""

    def __init__(self, configured: Any) -> None:
        self.configured = configured

    def __call__(self, sample: Sample, generator: np.random.Generator, types: Any) -> list[Sample]:
        weak = self.configured(sample, generator, types)
        return [weak, {"image": strong_colours(weak["image"], generator), "targets": weak["targets"]}]


def _is_loss(name: str) -> bool:
    """Whether a term is a loss; the term of a learned weight is not, and counts once."""
    return not name.endswith("/log_variance")


def _selected(batch: Batch, indices: list[int]) -> Batch:
    """Selects images of a batch, at least two: the first unselected images fill up, without labels.

    Batch norm over one value per image needs two images.
    """
    unselected = [i for i in range(len(batch["targets"])) if i not in indices]
    added = unselected[: max(0, 2 - len(indices))]
    targets = [batch["targets"][i] for i in indices] + [without_labels(batch["targets"][i]) for i in added]
    rows = to_device(torch.tensor(indices + added), batch["images"].device)
    return {"images": batch["images"][rows], "padding_mask": batch["padding_mask"][rows], "targets": targets}
