"""Evaluates predictions in a folder on labelled data.

The predictions that `densevit predict` wrote are compared with the labels of their images: the metrics, tables and
report of `densevit evaluate`, without running the model.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from densevit.cli.evaluate import MODEL_OR_FILE, add_data, add_trust, evaluate

if TYPE_CHECKING:
    from densevit.training.run.evaluation import EvaluationPlan

EXAMPLES = """examples:
  densevit predict runs/mine ~/traffic/images/val --out found
  densevit predictions evaluate found data.root=~/traffic --map person=pedestrian"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("predictions", metavar="DIR", type=Path, help="the folder that densevit predict wrote")
    add_data(parser, "DIR")
    parser.add_argument(
        "--model", metavar="MODEL", help=f"the model of the predictions, if it was moved: {MODEL_OR_FILE}"
    )
    add_trust(parser)


def run(args: argparse.Namespace) -> int:
    from densevit.errors import WeightsError
    from densevit.paths import user_path
    from densevit_batch.prediction_folder import check_model, read_settings

    settings, named, args.runtime = read_settings(args.predictions), args.model, None
    args.model = named or str(settings["model"])
    if named is None and ":" not in args.model and not user_path(args.model).exists():
        raise WeightsError(
            f"{args.model}, the model of the predictions in {args.predictions}, does not exist. If it was moved: "
            "--model MODEL."
        )

    def change(plan: "EvaluationPlan") -> "EvaluationPlan":
        from densevit_batch.folder_prediction import lowest_scores
        from densevit_batch.stored_predictions import StoredModel, StoredPredictions

        model, options = plan.model, settings["inference"]
        check_model(args.predictions, args.model, model.fingerprint())
        stored = StoredModel(model, StoredPredictions(args.predictions, model))
        stored.use(plan)
        by_options = model.with_inference(options) if options else model
        lowest = lowest_scores(settings["min_score"], settings["threshold"], by_options)
        for head in stored.stored.heads_with("score"):
            if lowest[head]:
                args.output.problem(
                    f"warning: {head}: {args.predictions} contains only objects of score {lowest[head]:g} or more: AP "
                    "is lower than with all objects."
                )
        return replace(plan, model=stored)

    return evaluate(args, args.predictions, change)
