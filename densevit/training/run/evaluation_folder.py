"""The folder of an evaluation: metrics, tables, plots, visualizations and a report."""

import json
from pathlib import Path

from densevit import config as configs
from densevit.data.io.image_names import file_name, image_names
from densevit.evaluation import metrics_file, tables_file
from densevit.reporting.plots import svg_file
from densevit.reporting.run_files import EVALUATION
from densevit.reporting.run_report import write_report
from densevit.training.loop.validation_loop import Validation
from densevit.training.run.drawn_images import draw_images
from densevit.training.run.evaluation import EvaluationPlan

MAPPING = "class-mapping"


def write_evaluation(folder: Path, evaluation: Validation, plan: EvaluationPlan, source: str) -> Path:
    """Writes all files into an existing folder. Returns the report's path. source: the model's name in the report."""
    model, data, mappings = plan.model, plan.data, plan.mappings
    metrics_file.write(evaluation.metrics, folder / "metrics.json")
    names = image_names(data.val, evaluation.indices)
    tables_file.write_tables(evaluation.evaluators, folder, names, model.default_thresholds)
    for head, evaluator in evaluation.evaluators.items():
        for name, plot in evaluator.plots(evaluator.records).items():
            (folder / f"{file_name(name)}-{head}.svg").write_text(svg_file(name, plot), encoding="utf-8")
    for head, mapping in mappings.items():
        rows = [*mapping.pairs, *((name, "") for name in mapping.only_model), *(("", n) for n in mapping.only_data)]
        tables_file.write([["model", "data"], *rows], folder / f"{MAPPING}-{head}.csv")
    if model.config is not None:
        (folder / "config.yaml").write_text(configs.dump(model.config), encoding="utf-8")
    about = {"model": source, "images": len(data.val)}
    (folder / EVALUATION).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    draw_images(model, data, folder, evaluation.indices, mappings)
    return write_report(folder)
