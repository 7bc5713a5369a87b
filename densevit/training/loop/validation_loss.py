"""Validation by the loss, for heads with `evaluation: null`."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from densevit.interfaces import Batch, Class, Evaluator, LossContext, Method, Predictions, Targets
from densevit.model import DenseModel


class ValidationLoss(Evaluator):
    """The mean of a head's loss over the labelled images.

    `update` takes predictions {"loss": float} from `image_losses`. The sum is correctly rounded, so the mean does
    not depend on the order of the images or the number of processes.
    """

    main = "loss"
    lower_is_better = ("loss",)

    def __init__(self, classes: Sequence[Class]) -> None:
        super().__init__(classes)
        self.reset()

    def reset(self) -> None:
        self._losses: dict[int | str, float] = {}

    def update(self, predictions: Sequence[Predictions], truths: Sequence[Targets]) -> None:
        """Adds images; only the image_id of `truths` is used. Ignores unlabelled images, which have no loss, and images
        added before."""
        for prediction, truth in zip(predictions, truths, strict=True):
            image_id = truth["image_id"]
            if "loss" in prediction:
                self._losses.setdefault(image_id if isinstance(image_id, str) else int(image_id), prediction["loss"])

    def compute(self) -> dict[str, float]:
        """Returns {"loss": the mean}; nan without labelled images."""
        losses = self._losses.values()
        if not losses or not all(map(math.isfinite, losses)):
            return {"loss": math.nan}
        return {"loss": math.fsum(losses) / len(losses)}

    def state(self) -> Any:
        return self._losses

    def merge(self, states: Sequence[Any]) -> None:
        self._losses = {image_id: loss for state in states for image_id, loss in state.items()}


@torch.no_grad()
def image_losses(
    model: DenseModel, heads: Iterable[str], batch: Batch, context: LossContext
) -> dict[str, list[Predictions]]:
    """Each image's loss by head: {"loss": sum of the head's terms}, or {} without labels.

    Computes one image at a time, so that the loss does not depend on the other images of the batch through its
    normaliser, and without the head's `weight`. context: step and progress, for one process.
    """
    heads = list(heads)
    encoding = model.encode(batch, heads)
    losses: dict[str, list[Predictions]] = {}
    for name in heads:
        head, padding_mask = model.heads[name], batch["padding_mask"]
        blocks = encoding.last_blocks.get(head.last_blocks)
        inputs = [] if blocks else model.head_inputs(name, encoding.features, padding_mask)
        losses[name] = []
        for i, target in enumerate(batch["targets"]):
            if not all(key in target for key in head.needs):
                losses[name].append({})
                continue
            image: Any = blocks.single_image(i) if blocks else [x[i : i + 1] for x in inputs]
            outputs = head(image, padding_mask[i : i + 1])
            terms = head.loss(outputs, [target], context)
            losses[name].append({"loss": math.fsum(float(term) for term in terms.values())})
    return losses


@torch.no_grad()
def method_losses(method: Method, model: DenseModel, batch: Batch) -> list[Predictions]:
    """The method's loss of each image, in the format of `image_losses`."""
    return [{"loss": loss} for loss in method.validation_losses(model, batch).double().tolist()]
