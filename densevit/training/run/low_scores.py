"""Explains an almost empty score, such as an AP below 0.01, after a validation."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np

from densevit import config as configs
from densevit.config import Config, DataSection
from densevit.data.build import build_evaluation_transform
from densevit.errors import counted
from densevit.evaluation.low_classes import LOW, SMALL, object_sides
from densevit.evaluation.low_scores import low_scores
from densevit.inference.file_model import FileModel
from densevit.interfaces import Dataset, Evaluator, Neck
from densevit.model import DenseModel
from densevit.training.loop.budget import Budget
from densevit.training.loop.dense_module import DenseModule
from densevit.training.loop.optim import learning_rate
from densevit.training.run.config_checks import least_steps
from densevit.training.run.metrics_csv import MetricsCsv
from densevit.training.run.plan import Plan
from densevit.training.run.start_hints import box_format, object_size

_RATIO = 4.0  # of object sizes of two splits, and of a learning rate to the recipe's
_HINT = " See the hints at the start of this run."


class LowScores:
    """Explains the scores of a training. Each cause is returned once; a score that is merely early has none.

    folder: the run folder, whose metrics.csv has the losses.
    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.folder = plan, folder
        self._named: set[str] = set()

    def __call__(self, module: DenseModule) -> list[str]:
        """Returns a line for each new cause of a low main metric. module: the module after a validation, in which the
        metrics of all processes are merged.
        """
        plan, section, causes = self.plan, self.plan.config.data, dict[str, str]()
        early = module.trainer.global_step < least_steps(plan.config)
        low = low_scores(module.metrics, plan.evaluators)
        for head, score in low.items():
            splits = {"train": plan.data.train, section.split: plan.data.val}
            of_head = head_causes(head, plan.evaluators[head], score, plan.model, section, splits, early)
            causes |= {f"{head}: {name}": f"{head}: {line}" for name, line in of_head.items()}
        if min(low.values(), default=LOW) < LOW:
            rows = MetricsCsv(self.folder / "metrics.csv").rows()
            losses = [float(row["train/loss"]) for row in rows if row.get("train/loss")]
            causes |= training_causes(plan.config, plan.budget, losses)
        lines = [line for name, line in causes.items() if name not in self._named]
        self._named |= causes.keys()
        return lines


def head_causes(
    head: str,
    evaluator: Evaluator,
    score: float,
    model: DenseModel | FileModel,
    section: DataSection,
    splits: Mapping[str, Dataset],
    early: bool = False,
) -> dict[str, str]:
    """Returns a line for each cause of a low main metric of a head: those of its evaluator, and below 0.01, if it reads
    boxes or masks, those in the annotated objects. Of an exported file, those of the evaluator.

    splits: the data sets by split, the evaluated one last; two in a training. early: whether the score may be low
    because few steps are trained: small objects then count only if they are smaller than a cell of the head's features.
    """
    causes = {name: line for name, line in evaluator.low_score_causes().items() if not (early and name == "scores")}
    if score >= LOW or not {"boxes", "masks"} & set(evaluator.reads) or not isinstance(model, DenseModel):
        return causes
    formats, hint = [box_format(one, split) for split, one in splits.items()], _HINT if len(splits) > 1 else ""
    size_of = build_evaluation_transform(section).size_of
    known = [sides[0] for one in splits.values() if (sides := object_sides(one, size_of)) is not None and len(sides[0])]
    if any(formats) or not known:
        return causes | ({"boxes": " ".join(filter(None, formats)) + hint} if any(formats) else {})
    necks = cast("Mapping[str, Neck]", dict(model.necks.items()))
    medians, cell = [float(np.median(sides)) for sides in known], min(necks.get(head, model.backbone).strides)
    if max(medians) > _RATIO * min(medians):
        causes["splits"] = (
            f"Objects of {' and '.join(splits)} differ in size: their median sides are "
            f"{' and '.join(f'{side:.0f}' for side in medians)} px in the model's input. Fix: validate on images like "
            "those of the training, of the same source and cut in the same way."
        )
    if medians[-1] < (cell if early else max(SMALL, cell)):
        causes["size"] = (
            f"{object_size(section, [*splits.values()][-1], model.backbone.input_size)} "
            f"{(known[-1] < cell).mean():.0%} of the objects are smaller than a cell of the head's finest features, "
            f"{cell} px.{hint}"
        )
    return causes


def training_causes(config: Config, budget: Budget, losses: Sequence[float]) -> dict[str, str]:
    """Returns a line on a learning rate far above the recipe's at this batch size, or on a loss that does not fall.

    losses: those of the logged steps. A recipe of another optimiser is not compared.
    """
    recipe, images, third, of_recipe = configs.recipe_of(config), budget.images_per_step, len(losses) // 3, ""
    lr = expected = learning_rate(config.optim, images)
    if recipe is not None and recipe.optim.name == config.optim.name:
        batch = recipe.data.batch_size * recipe.trainer.accumulate
        expected = learning_rate(recipe.optim, batch) * images / batch
        of_recipe = f"; the recipe has {learning_rate(recipe.optim, batch):g} for {batch}, as {expected:g} here"
    first, last = (math.fsum(part) / max(third, 1) for part in (losses[:third], losses[-third:]))
    risen = third > 2 and not last < first
    if lr < _RATIO * expected and not risen:
        return {}
    loss = f". train/loss is {first:.4g} and {last:.4g} in the first and the last third of the logged steps"
    fix = f"{loss if risen else ''}. Fix: optim.lr={min(expected, lr / _RATIO):.2g}."
    return {"rate": f"The learning rate is {lr:g} for {counted(images, 'image')} per step{of_recipe}{fix}"}
