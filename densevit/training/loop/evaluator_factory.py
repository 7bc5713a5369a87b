"""The evaluators of a model's heads: built by name, by task, or for `evaluation: null` by the loss."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch

from densevit import registry
from densevit.errors import ConfigError, DataError
from densevit.interfaces import (
    Batch,
    Classes,
    Dataset,
    Evaluator,
    LossContext,
    Method,
    Predictions,
    Targets,
    as_classes,
)
from densevit.model import DenseModel, InferenceModel
from densevit.targets.labelled_classes import by_class
from densevit.training.loop.model_class_mapping import ClassMapping

METHOD = "method"  # the name of the method's loss in the metrics


def create_evaluator(name: str, classes: Classes = (), **options: Any) -> Evaluator:
    """Builds an evaluator by its plugin name. classes: `Class`es or names, or their number.

    Example:
        >>> densevit.create_evaluator("depth").main
        'AbsRel'
    """
    return cast(
        Evaluator,
        registry.create("evaluators", name, as_classes(classes), options=options, where=f"evaluator {name!r}"),
    )


def build_evaluators(
    model: InferenceModel,
    dataset: Dataset,
    method: Method | None = None,
    mappings: Mapping[str, ClassMapping] | None = None,
) -> dict[str, Evaluator]:
    """Builds the evaluator of each head: by the name in its section of the model, or else by its task.

    Heads with `evaluation: null` get a `ValidationLoss`; without heads, so does a method that implements
    `validation_losses`.

    dataset: the validation split. mappings: the mappings of heads whose classes are not the data's. Raises ConfigError
    without an evaluator, or if it cannot evaluate its head on the data.
    """
    evaluators: dict[str, Evaluator] = {}
    for name, head in model.heads.items():
        section = model.sections.heads[name].evaluation
        mapping = (mappings or {}).get(name)
        classes = model.classes[name] if mapping is None else mapping.classes
        if section is None and mapping is not None:
            raise ConfigError(
                f"heads.{name}.evaluation is null: the loss cannot be computed on data with other classes. Fix: name "
                f"an evaluator (heads.{name}.evaluation.name)."
            )
        if section is None:
            evaluators[name] = ValidationLoss(model.classes[name])
            continue
        if section.name is None and str(head.task) not in registry.find("evaluators"):
            raise ConfigError(
                f"heads.{name}.evaluation: there is no evaluator for the task {str(head.task)!r}. Fix: name one "
                f"(heads.{name}.evaluation.name), or set heads.{name}.evaluation: null to validate by the loss."
            )
        evaluators[name] = registry.create(
            "evaluators",
            section.name or str(head.task),
            classes,
            options=section.options,
            where=f"heads.{name}.evaluation",
        )
        try:
            evaluators[name].prepare(head, dataset)
        except ConfigError as error:
            raise ConfigError(f"heads.{name}.evaluation.{error}") from None
    if method is not None and not evaluators and type(method).validation_losses is not Method.validation_losses:
        evaluators[METHOD] = ValidationLoss(())
    return evaluators


def add_indices(indices: dict[int | str, int], new: Iterable[tuple[int | str, int]]) -> None:
    """Adds pairs of an image id and a data set index. Raises DataError for two images with the same id."""
    for image_id, index in new:
        other = indices.setdefault(image_id, index)
        if other != index:
            first, second = sorted([other, index])
            raise DataError(
                f"Samples {first} and {second} of the data set have the same image_id {image_id!r}; evaluators would "
                "count them as one image. Fix: let the data set give each image a unique id."
            )


def flat_metrics(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Flattens {head: {metric: value}} to {"head/metric": value}."""
    return {f"{head}/{name}": value for head, values in metrics.items() for name, value in values.items()}


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
    model: DenseModel, heads: Sequence[str], batch: Batch, context: LossContext
) -> dict[str, list[Predictions]]:
    """Each image's loss by head: {"loss": sum of the head's terms}, or {} without labels.

    Computes one image at a time, so that the loss does not depend on the other images of the batch through its
    normaliser, and without the head's `loss_weight`. context: the optimiser step, for one process.
    """
    backbone_output = model.encode(batch, heads)
    losses: dict[str, list[Predictions]] = {}
    for name in heads:
        head, padding_mask = model.heads[name], batch["padding_mask"]
        blocks = backbone_output.last_blocks.get(head.last_blocks)
        inputs = [] if blocks else model.head_inputs(name, backbone_output.features, padding_mask, batch["images"])
        losses[name] = []
        for i, target in enumerate(by_class(batch["targets"], head.classes)):
            if not all(key in target for key in head.required_targets):
                losses[name].append({})
                continue
            image: Any = blocks.single_image(i) if blocks else [x[i : i + 1] for x in inputs]
            terms = head.loss(head(image, padding_mask[i : i + 1]), [target], context)
            losses[name].append({"loss": math.fsum(float(term) for term in terms.values())})
    return losses


@torch.no_grad()
def method_losses(method: Method, model: DenseModel, batch: Batch) -> list[Predictions]:
    """The method's loss of each image, in the format of `image_losses`."""
    return [{"loss": loss} for loss in method.validation_losses(model, batch).double().tolist()]
