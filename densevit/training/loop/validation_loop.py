"""A validation: the evaluators of all heads compute metrics from the saved model's predictions."""

import sys
from collections.abc import Mapping

import pytorch_lightning as lightning

from densevit.errors import DensevitError
from densevit.evaluation.metric_order import SKIPPED_IMAGES
from densevit.interfaces import Batch, Evaluator, LossContext, Method, Predictions, image_id
from densevit.losses.distributed import broadcast_buffers, gather_objects, process_count
from densevit.model import DenseModel
from densevit.targets.types import TargetTypes
from densevit.training.loop.evaluator_factory import (
    METHOD,
    ValidationLoss,
    add_indices,
    build_evaluators,
    flat_metrics,
    image_losses,
    method_losses,
)
from densevit.training.loop.model_class_mapping import ClassMapping
from densevit.training.loop.skipped_images import SkippedImages, may_skip
from densevit.training.loop.validation_images import truths, validation_dataset, validation_loaders


class Validation:
    """Validates a model: `start`, then `add` for each batch, then `finish`.

    evaluators: each head's evaluator; None: built at the first start. metrics: the last validation's, the same in all
    processes. indices: data set index by image id of the last validation; with another loader, the position in it. An
    image of several loaders has the id LOADER/ID.
    """

    def __init__(
        self,
        method: Method,
        evaluators: Mapping[str, Evaluator] | None,
        mappings: Mapping[str, ClassMapping],
    ) -> None:
        self._method, self._mappings, self._configured = method, mappings, evaluators
        self.evaluators: dict[str, Evaluator] = dict(evaluators or {})
        self.metrics: dict[str, float] = {}
        self.indices: dict[int | str, int] = {}
        self._skipped = SkippedImages()

    def start(self, trainer: lightning.Trainer, model: DenseModel) -> None:
        """Begins a validation of the model: resets the evaluators."""
        self._model = model
        if self._configured is None:
            dataset = validation_dataset(trainer, model)
            self._configured = self.evaluators = build_evaluators(model, dataset, self._method)
        for evaluator in self.evaluators.values():
            evaluator.reset()
        broadcast_buffers(model)  # processes have other statistics of batch norms after a step; the first's are saved
        self.indices = {}
        self._seen: dict[int, int] = {}  # number of images by index of the loader
        self._by_loss = [n for n in model.heads if isinstance(self.evaluators.get(n), ValidationLoss)]
        # Heads that are validated by their loss may not implement `predict`.
        self.predicting = model.with_heads(set(model.heads) - set(self._by_loss)) if self._by_loss else model

    def add(self, trainer: lightning.Trainer, batch: Batch, loader_index: int) -> dict[str, list[Predictions]]:
        """Adds a batch to the evaluators, without repeated images. Returns the predictions by head.

        Raises DataError for two images of a loader with the same id.
        """
        self._skipped.add(batch)
        model = self.predicting
        # the evaluation of a run is the reference of its zooms
        outputs = model.infer(batch, {} if trainer.state.fn == "fit" else None) if model.heads else {}
        for name, mapping in self._mappings.items():
            types = TargetTypes(model.target_types.get(name))
            outputs[name] = [mapping.applied(predictions, types) for predictions in outputs[name]]
        results = dict(outputs)
        if self._by_loss:
            # outside of a run as at its end
            context = LossContext(step=trainer.global_step if trainer.state.fn == "fit" else sys.maxsize)
            results |= image_losses(self._model, self._by_loss, batch, context)
        if METHOD in self.evaluators:
            results[METHOD] = method_losses(self._method, self._model, batch)
        seen, loaders = self._seen.get(loader_index, 0), validation_loaders(trainer)
        self._seen[loader_index] = seen + len(batch["targets"])
        counted = []
        for i, labelled in enumerate(truths(batch, loaders[loader_index], seen, bool(model.heads))):
            if labelled is not None:
                index, truth = labelled
                key = f"{loader_index}/{image_id(truth)}" if len(loaders) > 1 else image_id(truth)
                add_indices(self.indices, [(key, index)])
                counted.append((i, {**truth, "image_id": key}))
        for name, evaluator in self.evaluators.items() if counted else ():
            try:
                evaluator.update([results[name][i] for i, _ in counted], [truth for _, truth in counted])
            except DensevitError as error:
                where = f"heads.{name}" if name in self._model.heads else name
                raise type(error)(f"{where}: {error}") from None
        return outputs

    def finish(self, trainer: lightning.Trainer) -> dict[str, float]:
        """Merges the evaluators of all processes and returns the metrics, HEAD/METRIC. In training, sets the model's
        `score_thresholds`."""
        for evaluator in self.evaluators.values():
            if process_count() > 1:
                evaluator.merge(gather_objects(evaluator.state()))
        gathered, self.indices = gather_objects(self.indices), {}
        for indices in gathered:
            add_indices(self.indices, indices.items())
        self.metrics = flat_metrics({name: evaluator.metrics() for name, evaluator in self.evaluators.items()})
        if may_skip(trainer.val_dataloaders):
            skipped = self._skipped.report(f"validation at step {trainer.global_step}", trainer.strategy.root_device)
            self.metrics |= {SKIPPED_IMAGES: float(skipped)} if skipped else {}
        if trainer.state.fn == "fit" and not trainer.sanity_checking:  # an evaluation keeps the model's
            scores = {name: evaluator.score_threshold(evaluator.records) for name, evaluator in self.evaluators.items()}
            self._model.score_thresholds = {name: score for name, score in scores.items() if score is not None}
        return self.metrics
