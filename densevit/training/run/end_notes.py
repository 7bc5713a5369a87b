"""Lines that a run prints at its end: why it ended, the next commands, and notes on its metrics."""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from densevit import registry
from densevit.config import Config
from densevit.errors import counted
from densevit.evaluation.error_analysis import ERRORS
from densevit.evaluation.metric_order import error_metrics, sign
from densevit.model.head_inference import predicts_boxes
from densevit.training.callbacks.best_epoch import BestEpoch
from densevit.training.run.plan import Plan

_ALMOST_EMPTY = 0.01  # of a main metric
_LARGE_ERROR = 0.05  # lost AP50


def all_trained(plan: Plan, folder: Path) -> str:
    steps = f"{plan.budget.steps:,} steps{', without ' * bool(plan.changed)}{', '.join(plan.changed)}"
    return (
        f"{folder} has trained all of its {steps}. To train longer: densevit train --resume {folder} "
        "trainer.max_images=N, with a larger N."
    )


def ended_early(best: BestEpoch, step: int, plan: Plan) -> str:
    """One line on a run that `trainer.patience` or a callback has ended."""
    cause = "A callback"
    if best.exhausts(plan.config.trainer.patience):
        monitored = " and ".join(best.monitored)
        cause = f"{counted(best.stale, 'validation')} without a better {monitored} (trainer.patience)"
    return f"{cause} ended training at step {step:,} of {plan.budget.steps:,}."


def next_commands(config: Config, folder: Path) -> Iterator[str]:
    run = shlex.quote(str(folder))
    yield "Next:"
    if config.heads:
        commands = {"evaluate": run, "predict": f"{run} IMAGE", "export": run}
        yield from (f"  densevit {name} {x}" for name, x in commands.items() if name in registry.find("commands"))
    else:
        yield f"  densevit train CONFIG backbone.weights={run}"
    for key in ("max_epochs", "max_images", "max_steps"):
        if (number := getattr(config.trainer, key)) is not None:
            yield f"  densevit train --resume {run} trainer.{key}={2 * number}"
    if config.heads and "root" in config.data.options:  # on more data: a trained model needs a lower rate
        [(key, lr)] = config.optim.model_dump(include={"lr", "lr_per_256"}, exclude_none=True).items()
        yield (
            f"  densevit train {run} weights={run} data.root=FOLDER "
            f"optim.{key}={lr / 2 if config.weights is None else lr:g}"
        )


def largest_errors(plan: Plan) -> Iterator[str]:
    """Yields the type of error that costs each head most, and what more passes over the images are for, if a head
    without NMS predicts several boxes per object."""
    for name, head in plan.model.heads.items():
        tables = plan.evaluators[name].tables(plan.evaluators[name].records)
        errors = [row for row in tables.get("errors", tables.get("mask-errors", ())) if row[0] in (*ERRORS, "missed")]
        lost, error = max(((float(row[1]), row[0]) for row in errors if float(row[1]) > 0), default=(0.0, ""))
        if lost > _LARGE_ERROR:
            fix = "see docs/evaluate.md#detection-and-instance-masks."
            if error == "duplicate" and predicts_boxes(head) and head.nms is None:
                fix = (
                    "a head without NMS learns late to predict one box per object: give it more passes over the "
                    f"images, or predict with --nms 0.6 (inference.nms); {fix}"
                )
            yield f"{name}: the largest error of the last validation, {error}, costs {lost:.3f} AP50: {fix}"


def low_scores(plan: Plan, folder: Path, metrics: Mapping[str, float]) -> Iterator[str]:
    """Yields a line if main metrics are almost 0."""
    mains, errors = [f"{n}/{e.main}" for n, e in plan.evaluators.items()], error_metrics(plan.evaluators)
    scores = {name: metrics.get(name, 1.0) for name in mains if sign(name, errors) > 0}
    if low := [f"{name} is {score:.2g}" for name, score in scores.items() if score < _ALMOST_EMPTY]:
        yield f"{', '.join(low)}: `densevit doctor {shlex.quote(str(folder))}` names likely causes."
