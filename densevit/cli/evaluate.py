"""Evaluates a run on its validation data, or on other data; with --out, also writes metrics and predictions."""

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from densevit.errors import ConfigError

if TYPE_CHECKING:
    from densevit.config import Config
    from densevit.inference.predictor import Predictor
    from densevit.interfaces import Evaluator


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run folder, or a model file")
    parser.add_argument(
        "overrides", metavar="section.key=value", nargs="*", help="other data, precision, batch size ..."
    )
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help="a new folder for metrics.json, detections.json and predicted maps"
    )


def run(args: Namespace) -> int:
    from pytorch_lightning.utilities import rank_zero_only
    from rich.console import Console

    from densevit.data.build import build_data
    from densevit.evaluation import metrics_file
    from densevit.evaluation.tables_file import write_tables
    from densevit.inference.loading import load
    from densevit.inference.maps import MapFiles
    from densevit.inference.results import check_new_folder
    from densevit.model import check_inference
    from densevit.training.checks import check_classes
    from densevit.training.evaluation import evaluate
    from densevit.visualization.tables import metrics_table

    if args.out:
        check_new_folder(args.out)
    predictor = load(args.run)
    model = predictor.model
    config = config_of(predictor, args.run, args.overrides)
    check_inference(model, config.inference)
    data = build_data(config, model.multiple)
    data.val.check_labels()
    check_classes(data, model)
    maps = MapFiles(args.out, model.classes, model.target_types).add_image if args.out else None
    metrics, evaluators = evaluate(model, data, config, maps)
    if getattr(rank_zero_only, "rank", 0) > 0:  # rank 0 alone reports
        return 0
    Console().print(metrics_table(metrics))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        metrics_file.write(metrics, args.out / "metrics.json")
        write_tables(evaluators, args.out)
        write_detections(evaluators, args.out)
    return 0


def config_of(predictor: "Predictor", run: str, overrides: Sequence[str]) -> "Config":
    """The config of the model with overrides, which may change data and evaluation, but not the model."""
    from densevit.config import check_plugins
    from densevit.config import load as load_config

    for override in overrides:
        section, *keys = override.split("=")[0].split(".")
        if section in ("backbone", "weights", "optim") or (section == "heads" and keys[1:2] != ["evaluation"]):
            raise ConfigError(
                f"{override}: a run is evaluated as it was trained."
                " Allowed overrides are data.*, trainer.*, inference.* and heads.NAME.evaluation.*"
            )
    if not overrides and predictor.config is not None:
        return predictor.config
    file = Path(run).expanduser() / "config.yaml"
    if not file.is_file():
        raise ConfigError(f"{run}: overrides need a run folder with a config.yaml. Give the run's folder.")
    config = load_config(file, overrides)
    check_plugins(config)
    return config


def write_detections(evaluators: "Mapping[str, Evaluator]", folder: Path) -> None:
    """Writes detections.json in COCO's results format; detections-HEAD.json for each of several heads."""
    results = {head: evaluator.results() for head, evaluator in evaluators.items()}
    found = {head: entries for head, entries in results.items() if entries is not None}
    for head, entries in found.items():
        name = "detections.json" if len(found) == 1 else f"detections-{head}.json"
        (folder / name).write_text(json.dumps(entries) + "\n", encoding="utf-8")
