"""Validation by the loss, for heads with `evaluation: null`."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from densevit.interfaces import Batch, Evaluator, LossContext, Method, Predictions, Targets
from densevit.model import DenseModel


class ValidationLoss(Evaluator):
    """The mean of a head's loss over the labelled images.

    Predictions are {"loss": float} from `image_losses`. The sum is correctly rounded, so the mean does not depend on
    the order of the images or the number of processes.
    """

    main = "loss"
    lower_is_better = ("loss",)

    def record(self, prediction: Predictions, truth: Targets) -> float | None:
        """The loss; None for an unlabelled image, which has none."""
        return prediction.get("loss")

    def compute(self, records: Sequence[float]) -> dict[str, float]:
        """Returns {"loss": the mean}; nan without labelled images."""
        if not records or not all(map(math.isfinite, records)):
            return {"loss": math.nan}
        return {"loss": math.fsum(records) / len(records)}


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
